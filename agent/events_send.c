// SPDX-License-Identifier: Apache-2.0
/* The commands that an agent sends to Redis: entries of the stream and the snapshot's keys. When they are sent: events_write.c. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/discovery.h"
#include "agent/events_private.h"
#include "lib/log.h"

enum { POD_ENTRIES_MAX = 4096, NUMBER_TEXT = 24 };

/* ---- faults ---- */

static enum events_fault fault_of(const struct redis_item *item)
{
	static const struct {
		const char *begin;
		enum events_fault fault;
	} known[] = { { "OOM", EVENTS_FAULT_OOM }, { "READONLY", EVENTS_FAULT_READONLY }, { "WRONGTYPE", EVENTS_FAULT_TYPE },
		{ "NOPERM", EVENTS_FAULT_PERMISSION }, { "NOAUTH", EVENTS_FAULT_PERMISSION } };

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (item->len >= strlen(known[i].begin) && !memcmp(item->text, known[i].begin, strlen(known[i].begin)))
			return known[i].fault;
	return EVENTS_FAULT_OTHER;
}

static void log_refusal(struct log_pace *pace, unsigned lines, const char *what, const struct redis_item *item)
{
	char text[128], quoted[256];

	snprintf(text, sizeof(text), "%.*s", (int)(item->len < 120 ? item->len : 120), item->text);
	log_paced(pace, lines, EVENTS_LOG_MS, LOG_LEVEL_WARN, what,
		"why=%s error=%s", events_fault_name(fault_of(item)), log_quote(text, quoted, sizeof(quoted)));
}

void events_note_fault(struct events *events, const struct redis_item *item)
{
	enum events_fault fault = fault_of(item);

	if (item->len >= 9 && !memcmp(item->text, "EXECABORT", 9)) /* says no more than what one of its commands said */
		return;
	events->stats.faults[fault]++;
	events_retry_later(events);
	if (events->writer.fault == fault)
		return;
	events->writer.fault = fault;
	log_refusal(&events->writer.refused, EVENTS_LOG_LINES, "Redis does not take what this agent knows", item);
}

/* It may have been emptied while it took nothing, not even a new epoch. */
void events_no_fault(struct events *events)
{
	if (events->writer.fault == EVENTS_FAULT_NONE)
		return;
	log_paced(&events->writer.taken, EVENTS_LOG_LINES, EVENTS_LOG_MS, LOG_LEVEL_INFO, "Redis takes what this agent knows again",
		"dropped=%lu", (unsigned long)events->stats.dropped);
	events->writer.fault = EVENTS_FAULT_NONE;
	events_check_epoch(events);
}

/* A key of the snapshot, and not the stream: only agents that start later miss what was to be there. */
void events_note_key_fault(struct events *events, const struct redis_item *item)
{
	events->stats.faults[fault_of(item)]++;
	log_refusal(&events->writer.key_refused, 1, "Redis does not take a key of the snapshot", item);
}

/* ---- commands ---- */

struct command {
	int n;
	const char *at[REDIS_ARGS_MAX];
	size_t len[REDIS_ARGS_MAX];
};

static void put(struct command *command, const char *text, size_t len)
{
	command->at[command->n] = text;
	command->len[command->n++] = len;
}

static void put_texts(struct command *command, const char *const *text)
{
	for (; *text; text++)
		put(command, *text, strlen(*text));
}

static void put_event(struct command *command, const struct cache_event_args *args)
{
	for (int i = 0; i < args->n; i++)
		put(command, args->at[i], args->len[i]);
}

void events_on_queued(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;

	if (item->type == REDIS_STRING) /* an entry that was not part of a batch is in the stream */
		events_no_fault(events);
	if (item->type != REDIS_ERROR)
		return;
	events_note_fault(events, item);
	events->writer.failed = true;
}

static void send_command(struct events *events, const struct command *command, void (*item)(void *, const struct redis_item *), void (*end)(void *))
{
	const struct redis_handler handler = { item, end, events };

	redis_send(events->writer.conn, &handler, command->n, command->at, command->len);
}

void events_send_texts(struct events *events, const char *const *text, void (*item)(void *, const struct redis_item *), void (*end)(void *))
{
	struct command command = { 0 };

	put_texts(&command, text);
	send_command(events, &command, item, end);
}

void events_add_entry(struct events *events, const char *key, uint64_t max)
{
	char number[NUMBER_TEXT];
	const char *const begin[] = { "XADD", key, "MAXLEN", "~", number, "*", NULL };
	struct command command = { 0 };

	snprintf(number, sizeof(number), "%" PRIu64, max);
	put_texts(&command, begin);
	put_event(&command, &events->writer.args);
	send_command(events, &command, events_on_queued, NULL);
}

/* ---- events ---- */

struct cache_event *events_begin_event(struct events *events, enum cache_event_kind kind)
{
	struct cache_event *event = &events->writer.event;

	cache_event_begin(event);
	event->kind = kind;
	event->agent = events->id;
	events_has(event, CACHE_EVENT_FIELD_AGENT);
	return event;
}

static void describe_session(struct events *events, const struct events_record *record, struct cache_event *event)
{
	event->session = record->session;
	event->seq = record->seq;
	event->key = events_key(events);
	events_has(event, CACHE_EVENT_FIELD_SESSION);
	events_has(event, CACHE_EVENT_FIELD_SEQ);
	events_has(event, CACHE_EVENT_FIELD_KEY);
}

static void describe_blocks(struct events *events, const struct events_record *record, struct cache_event *event)
{
	event->n_hashes = record->n_hashes;
	event->depth = record->depth;
	event->tokens = record->tokens;
	event->block = (uint32_t)events->agent->config.prefix_block;
	memcpy(event->hash, record->hash, record->n_hashes * sizeof(*record->hash));
	events_has(event, CACHE_EVENT_FIELD_HASHES);
	events_has(event, CACHE_EVENT_FIELD_BLOCK);
	if (record->depth)
		events_has(event, CACHE_EVENT_FIELD_DEPTH);
	if (record->tokens)
		events_has(event, CACHE_EVENT_FIELD_TOKENS);
}

/* What an agent tells by records: bind, stored, cleared, drain. */
void events_describe(struct events *events, const struct events_record *record)
{
	struct cache_event *event = events_begin_event(events, record->kind);

	event->pod = events->agent->endpoints->at[record->endpoint].config.address;
	events_has(event, CACHE_EVENT_FIELD_POD);
	if (record->kind == CACHE_EVENT_BIND)
		describe_session(events, record, event);
	if (record->kind == CACHE_EVENT_STORED)
		describe_blocks(events, record, event);
	if (record->kind == CACHE_EVENT_DRAIN) {
		event->on = record->on;
		events_has(event, CACHE_EVENT_FIELD_ON);
	}
	cache_event_encode(event, &events->writer.args);
}

/* ---- the snapshot's keys ---- */

static void keep_session(struct events *events, const struct events_record *record, const char *pod, const char *ttl)
{
	char key[64], value[ADDRESS_TEXT_MAX + 24];
	const char *const set[] = { "SET", key, value, "EX", ttl, NULL };

	snprintf(key, sizeof(key), EVENTS_SESSION_KEY "%016" PRIx64, record->session);
	snprintf(value, sizeof(value), "%s %016" PRIx64, pod, events_key(events));
	events_send_texts(events, set, events_on_queued, NULL);
}

/* What was stored there, or that nothing is. */
static void keep_blocks(struct events *events, const struct events_record *record, const char *pod, const char *ttl)
{
	char key[ADDRESS_TEXT_MAX + 16];
	const char *const expire[] = { "EXPIRE", key, ttl, NULL };

	snprintf(key, sizeof(key), EVENTS_POD_KEY "%s", pod);
	events_describe(events, record);
	events_add_entry(events, key, POD_ENTRIES_MAX);
	events_send_texts(events, expire, events_on_queued, NULL);
}

/* Also that it is drained no longer: who was away meanwhile has to hear of it. */
static void keep_drain(struct events *events, bool on, const char *pod, const char *ttl)
{
	char key[ADDRESS_TEXT_MAX + 16];
	const char *const set[] = { "SET", key, on ? "1" : "0", "EX", ttl, NULL };

	snprintf(key, sizeof(key), EVENTS_DRAIN_KEY "%s", pod);
	events_send_texts(events, set, events_on_queued, NULL);
}

static void forget_blocks(struct events *events, const char *pod)
{
	char key[ADDRESS_TEXT_MAX + 16];
	const char *const del[] = { "DEL", key, NULL };

	snprintf(key, sizeof(key), EVENTS_POD_KEY "%s", pod);
	events_send_texts(events, del, events_on_queued, NULL);
}

static void format_ttl(const struct events *events, char ttl[NUMBER_TEXT])
{
	snprintf(ttl, NUMBER_TEXT, "%" PRIu64, events->agent->config.session_ttl_ms / 1000 + 1);
}

static void on_kept(void *ctx, const struct redis_item *item)
{
	if (item->type == REDIS_ERROR)
		events_note_key_fault(ctx, item);
}

static void keep_drained(struct events *events, const char *pod)
{
	char key[ADDRESS_TEXT_MAX + 16], ttl[NUMBER_TEXT];
	const char *const set[] = { "SET", key, "1", "EX", ttl, "NX", NULL }, *const expire[] = { "EXPIRE", key, ttl, NULL };

	format_ttl(events, ttl);
	snprintf(key, sizeof(key), EVENTS_DRAIN_KEY "%s", pod);
	events_send_texts(events, set, on_kept, NULL);
	events_send_texts(events, expire, on_kept, NULL);
}

/* Where another agent has said something since, that stands. */
void events_keep_drains(struct events *events)
{
	const struct endpoint_table *endpoints = events->agent->endpoints;

	events->writer.drains_kept_ms = agent_now_ms();
	for (uint32_t i = 0; i < endpoints->n && redis_conn_is_ready(events->writer.conn); i++)
		if (endpoints->at[i].state != ENDPOINT_FREE && discovery_view(events->agent->discovery, i).drained)
			keep_drained(events, endpoints->at[i].name);
}

void events_keep(struct events *events, const struct events_record *record)
{
	const char *pod = events->agent->endpoints->at[record->endpoint].name;
	char ttl[NUMBER_TEXT];

	format_ttl(events, ttl);
	if (record->kind == CACHE_EVENT_BIND) {
		keep_session(events, record, pod, ttl);
	} else if (record->kind == CACHE_EVENT_STORED) {
		keep_blocks(events, record, pod, ttl);
	} else if (record->kind == CACHE_EVENT_DRAIN) {
		keep_drain(events, record->on, pod, ttl);
	} else if (record->kind == CACHE_EVENT_CLEARED) {
		forget_blocks(events, pod);
		keep_blocks(events, record, pod, ttl);
	}
}
