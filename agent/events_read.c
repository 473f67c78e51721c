// SPDX-License-Identifier: Apache-2.0
/*
 * What the others tell: see events.c.
 *
 * How it works
 *
 * A connection of its own, since a blocking XREAD keeps it busy. Each read is followed, in the same packet, by the question
 * whether the entry it went on from is still there: if it is, nothing between it and the answer can have been trimmed; if
 * not, the stream was trimmed past this agent, or emptied, or is another one, and all is read anew. If it is gone and an older
 * one is there, then Redis has gone back to what it once was (a replica that lagged, an old dump): what this agent had told
 * it may be lost, so that is told again.
 *
 * All is: the end of the stream is noted, the snapshot's keys are read, then the stream from its first entry, with the
 * noted end as what must not be missing. What the snapshot holds and the stream tells again ends as the stream says. After a
 * gap only what follows the noted end is read: who could not keep up would be trimmed past again at the stream's other end.
 *
 * That is much to read: from the ninth time without calm between them on it is done once a second, whatever Redis says.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/events_private.h"
#include "lib/log.h"

#define READ_BLOCK_MS "1000" /* well below the time after which an answer is overdue */

enum { READ_ENTRIES = 512, HASTY_MS = 250, RESYNCS_AT_ONCE = 8, RESYNC_PAUSE_MS = 1000, RESYNC_CALM_MS = 10000 };

static void set_state(struct events *events, enum events_state state)
{
	if (events->reader.state == state)
		return;
	log_paced(&events->reader.states, EVENTS_LOG_LINES, EVENTS_LOG_MS, LOG_LEVEL_INFO, "cache events",
		"from=%s to=%s", events_state_name(events->reader.state), events_state_name(state));
	events->reader.state = state;
}

static void fail_on_error(struct events *events, const struct redis_item *item)
{
	char why[160];

	if (item->type != REDIS_ERROR)
		return;
	snprintf(why, sizeof(why), "cannot read: %.*s", (int)(item->len < 120 ? item->len : 120), item->text);
	redis_conn_fail(events->reader.conn, why);
}

/* ---- entries ---- */

void events_entry_end(struct events *events, struct events_entry *entry, void (*done)(struct events *, struct events_entry *))
{
	enum cache_event_fault fault;

	if (!entry->is_open)
		return;
	entry->is_open = false;
	fault = cache_event_finish(&entry->event);
	if (fault != CACHE_EVENT_OK)
		events->stats.malformed[fault]++;
	done(events, entry);
}

/* Below the list: entries; in each its id and the list of its fields; in that names and values in turn. */
void events_entry_item(struct events *events, struct events_entry *entry, const struct redis_item *item,
	void (*done)(struct events *, struct events_entry *))
{
	unsigned depth = item->depth - entry->base;

	if (item->depth < entry->base + 2 || item->type != REDIS_STRING)
		return;
	if (depth == 2 && item->index[item->depth - 1] == 0) {
		events_entry_end(events, entry, done);
		if (stream_id_parse(&entry->id, item->text, item->len))
			return;
		entry->is_open = true;
		cache_event_begin(&entry->event);
	}
	if (depth != 3 || !entry->is_open)
		return;
	if (item->index[item->depth - 1] % 2)
		cache_event_value(&entry->event, item->text, item->len);
	else
		cache_event_name(&entry->event, item->text, item->len);
}

/* ---- the stream ---- */

static void on_entry(struct events *events, struct events_entry *entry)
{
	if (!stream_id_less(&events->reader.last, &entry->id)) /* no stream says that */
		return;
	events->reader.last = entry->id;
	events->reader.n_read++;
	events->stats.lag_s = (double)events_age_ms(events, &entry->id) / 1000;
	events_pass(events, &entry->id);
	if (entry->event.fault == CACHE_EVENT_OK)
		events_apply(events, &entry->event, &entry->id);
}

static void on_read_item(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;

	fail_on_error(events, item);
	events_entry_item(events, &events->reader.entry, item, on_entry);
}

static void on_read_end(void *ctx)
{
	struct events *events = ctx;

	events_entry_end(events, &events->reader.entry, on_entry);
	if (events->reader.state == EVENTS_LOADING && !stream_id_less(&events->reader.last, &events->reader.live_from))
		set_state(events, EVENTS_LIVE);
}

/* The newest entry up to the one that must be there. */
static void on_check_item(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;
	const struct stream_id *check = &events->reader.check;
	struct stream_id found;

	fail_on_error(events, item);
	if (item->depth == 0 && item->type == REDIS_ARRAY && item->number == 0)
		events_want_resync(events, EVENTS_RESYNC_GAP);
	if (item->depth != 2 || item->index[1] != 0 || stream_id_parse(&found, item->text, item->len) || !stream_id_less(&found, check))
		return;
	events->reader.went_back = true;
	events_want_resync(events, EVENTS_RESYNC_GAP);
}

/* Of a stream that was empty nothing can be missing, unless it has since grown to where it is trimmed. */
static void on_length_item(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;

	fail_on_error(events, item);
	if (item->type == REDIS_INTEGER && (uint64_t)item->number >= events->agent->config.redis_stream_max)
		events_want_resync(events, EVENTS_RESYNC_GAP);
}

static void resync(struct events *events);

static void read_on(struct events *events)
{
	events->reader.rests = false;
	if (events->reader.wants_resync) {
		resync(events);
		return;
	}
	events_read_stream(events);
	events_republish_step(events);
}

static bool resyncs_too_often(const struct events *events)
{
	return events->reader.wants_resync && events->reader.n_resyncs >= RESYNCS_AT_ONCE &&
	       agent_now_ms() - events->reader.resynced_ms < RESYNC_PAUSE_MS;
}

/* Redis waits before it says that there is nothing. Who does not (a proxy, say) would be asked all the time. */
static bool answered_hastily(const struct events *events)
{
	return !events->reader.n_read && agent_now_ms() - events->reader.asked_ms < HASTY_MS;
}

static void on_checked(void *ctx)
{
	struct events *events = ctx;

	events->reader.check = events->reader.last;
	events->reader.is_current = !events->reader.wants_resync && events->reader.n_read < READ_ENTRIES;
	events->reader.rests = events->reader.wants_resync ? resyncs_too_often(events) : answered_hastily(events);
	if (!events->reader.rests)
		read_on(events);
	else if (events->reader.wants_resync)
		set_state(events, EVENTS_LOADING);
}

void events_reader_tick(struct events *events)
{
	if (events->reader.rests && !resyncs_too_often(events))
		read_on(events);
}

static void send_read(struct events *events)
{
	const struct redis_handler handler = { on_read_item, on_read_end, events };
	char last[STREAM_ID_TEXT_MAX], entries[12];
	const char *const argument[] = { "XREAD", "COUNT", entries, "BLOCK", READ_BLOCK_MS, "STREAMS", EVENTS_STREAM, last };

	stream_id_format(&events->reader.last, last);
	snprintf(entries, sizeof(entries), "%d", READ_ENTRIES);
	events->reader.n_read = 0;
	events->reader.asked_ms = agent_now_ms();
	redis_send(events->reader.conn, &handler, 8, argument, NULL);
}

/*
 * An entry that was added right after Redis was emptied may have the number of the one that must be there. The epoch has not; it is not
 * asked about again before the writer knows the new one.
 */
static void on_epoch_item(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;
	char *seen = events->writer.seen_epoch;

	if (!*seen || (item->type != REDIS_NIL && item->type != REDIS_STRING))
		return;
	if (item->type == REDIS_STRING && item->len == strlen(seen) && !memcmp(item->text, seen, item->len))
		return;
	*seen = '\0';
	events->reader.went_back = true;
	events_want_resync(events, EVENTS_RESYNC_GAP);
}

static void send_check(struct events *events)
{
	const struct redis_handler handler = { on_check_item, on_checked, events }, empty = { on_length_item, on_checked, events };
	const struct redis_handler epoch = { on_epoch_item, NULL, events };
	static const char *const get[] = { "GET", EVENTS_EPOCH };
	char id[STREAM_ID_TEXT_MAX];
	const char *const check[] = { "XREVRANGE", EVENTS_STREAM, id, "-", "COUNT", "1" }, *const length[] = { "XLEN", EVENTS_STREAM };

	redis_send(events->reader.conn, &epoch, 2, get, NULL);
	stream_id_format(&events->reader.check, id);
	if (events->reader.check.ms || events->reader.check.n)
		redis_send(events->reader.conn, &handler, 6, check, NULL);
	else
		redis_send(events->reader.conn, &empty, 2, length, NULL);
}

void events_read_stream(struct events *events)
{
	events->reader.entry.base = 2;
	send_read(events);
	send_check(events);
}

/* ---- all anew ---- */

void events_want_resync(struct events *events, enum events_resync why)
{
	if (events->reader.wants_resync)
		return;
	events->reader.wants_resync = true;
	events->reader.is_current = false;
	events->reader.why = why;
}

static void on_newest(struct events *events, struct events_entry *entry)
{
	events->reader.live_from = entry->id;
}

static void on_newest_item(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;

	fail_on_error(events, item);
	events_entry_item(events, &events->reader.entry, item, on_newest);
}

static void on_newest_end(void *ctx)
{
	struct events *events = ctx;

	if (events->reader.entry.is_open)
		on_newest(events, &events->reader.entry);
	events->reader.entry.is_open = false;
	events->reader.check = events->reader.live_from;
	events->reader.last = events->reader.why == EVENTS_RESYNC_GAP ? events->reader.live_from : (struct stream_id){ 0 };
	events->reader.knows_last = true;
	events->reader.passed_seq = events->writer.seq;
	if (!events->reader.live_from.ms) /* so that something is there of which to notice that it is gone */
		events_send_hello(events);
	if (events->reader.went_back)
		events_republish_begin(events);
	events->reader.went_back = false;
	events_snapshot_begin(events);
}

static void resync(struct events *events)
{
	const struct redis_handler handler = { on_newest_item, on_newest_end, events };
	static const char *const newest[] = { "XREVRANGE", EVENTS_STREAM, "+", "-", "COUNT", "1" };

	events->stats.resyncs[events->reader.why]++;
	if (events->reader.why == EVENTS_RESYNC_GAP)
		log_paced(&events->reader.gaps, EVENTS_LOG_LINES, EVENTS_LOG_MS, LOG_LEVEL_WARN, "events were missed: all is read anew",
			"after=%lu", (unsigned long)events->reader.last.ms);
	events->reader.wants_resync = false;
	events->reader.n_resyncs = agent_now_ms() - events->reader.resynced_ms < RESYNC_CALM_MS ? events->reader.n_resyncs + 1 : 0;
	events->reader.resynced_ms = agent_now_ms();
	events->reader.endpoint_changes = events->agent->endpoints->changes;
	events->reader.live_from = (struct stream_id){ 0 };
	events->reader.entry.base = 0;
	set_state(events, EVENTS_LOADING);
	if (redis_conn_is_ready(events->writer.conn))
		events_check_epoch(events);
	redis_send(events->reader.conn, &handler, 6, newest, NULL);
}

/* ---- the connection ---- */

static void on_time_item(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;
	char text[24];

	if (item->type != REDIS_STRING || item->len >= sizeof(text))
		return;
	memcpy(text, item->text, item->len);
	text[item->len] = '\0';
	if (item->index[0] == 0)
		events->reader.time_part = strtoull(text, NULL, 10) * 1000;
	else
		events->reader.clock_ms = events->reader.time_part + strtoull(text, NULL, 10) / 1000 - agent_now_ms();
}

static void on_ready(void *ctx)
{
	struct events *events = ctx;
	const struct redis_handler handler = { on_time_item, NULL, events };
	static const char *const time[] = { "TIME" };

	log_info("connected to Redis", NULL);
	events->reader.reported[0] = '\0';
	events->reader.entry.is_open = false;
	redis_send(events->reader.conn, &handler, 1, time, NULL);
	if (!events->reader.knows_last || events->reader.wants_resync) {
		events_want_resync(events, EVENTS_RESYNC_START);
		resync(events);
		return;
	}
	set_state(events, stream_id_less(&events->reader.last, &events->reader.live_from) ? EVENTS_LOADING : EVENTS_LIVE);
	events_read_stream(events);
}

static void on_lost(void *ctx, const char *why)
{
	struct events *events = ctx;
	char quoted[256];

	events->stats.lost_connections++;
	if (events->reader.state == EVENTS_LOADING) /* a snapshot that was read in part is begun again */
		events->reader.knows_last = false;
	set_state(events, EVENTS_CONNECTING);
	events->reader.is_current = events->reader.rests = false;
	if (!strncmp(events->reader.reported, why, sizeof(events->reader.reported) - 1))
		return;
	snprintf(events->reader.reported, sizeof(events->reader.reported), "%s", why);
	log_warn("no connection to Redis: this agent goes on with what it knows", "why=%s", log_quote(why, quoted, sizeof(quoted)));
}

int events_reader_init(struct events *events)
{
	const struct redis_callbacks callbacks = { on_ready, on_lost, events };
	int err = events_snapshot_init(events);

	return err ? err : redis_conn_new(events->agent->base, &events->agent->config.redis, "llmd-agent-reader", &callbacks,
				   &events->reader.conn);
}

void events_reader_fini(struct events *events)
{
	redis_conn_free(events->reader.conn);
	events_snapshot_fini(events);
}
