// SPDX-License-Identifier: Apache-2.0
/*
 * What this agent tells the others: see events.c.
 *
 * How it works
 *
 * A decision puts records into the queue, no more; at the end of the loop's turn they are sent, all together, as one
 * transaction: the entries of the stream and the snapshot's keys, which so never say different things, whoever else writes.
 * While the answer to one batch is awaited the next one gathers: the slower Redis is, the larger the batches.
 *
 * A batch stays in the queue until Redis has executed it. After a lost connection it is sent again: an event told twice
 * changes nothing. When Redis refuses (out of memory, a read-only replica) the queue keeps what it can and it is tried
 * again every RETRY_MS, with a greeting if there is nothing else to tell;
 * what made room was lost (@lost_own), so all that is own is told again afterwards. Of the keys alone
 * (another type under one of them) nothing is tried again.
 */
#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/events_private.h"
#include "agent/session.h"
#include "lib/log.h"

enum { BATCH_EVENTS = 256, BATCH_WORDS = 16384, RETRY_MS = 1000 };

/* ---- batches ---- */

static bool is_current(const struct events *events, const struct events_record *record)
{
	const struct endpoint *endpoint = &events->agent->endpoints->at[record->endpoint];

	return endpoint->state != ENDPOINT_FREE && endpoint->generation == record->generation;
}

/* Nothing is told of a pod that is gone, so nothing of it will be read. */
static void pass_over(struct events *events, const struct events_record *record)
{
	if (record->kind == CACHE_EVENT_BIND)
		session_settle(decider_sessions(events->agent->decider), record->session, record->seq);
}

/* Calls @each for the records of a batch that begins at the queue's head. Return: the place of its end. */
static uint64_t each_of_batch(struct events *events, void (*each)(struct events *events, const struct events_record *record))
{
	uint64_t hashes[CACHE_EVENT_HASHES_MAX], at = events->queue.head, begin = at;
	struct events_record record;

	for (unsigned n = 0; n < BATCH_EVENTS && at < events->queue.tail && at - begin < BATCH_WORDS; n++) {
		at = events_queue_read(&events->queue, at, &record, hashes);
		if (is_current(events, &record))
			each(events, &record);
		else
			pass_over(events, &record);
	}
	return at;
}

static void send_entry(struct events *events, const struct events_record *record)
{
	events_describe(events, record);
	events_add_entry(events, EVENTS_STREAM, events->agent->config.redis_stream_max);
	events->writer.n_sent++;
	if (record->kind == CACHE_EVENT_BIND) {
		events->writer.sent.seq = record->seq;
		events->writer.sent.is_set = true;
	}
	events->writer.sent_kinds[record->kind]++;
}

void events_retry_later(struct events *events)
{
	const struct timeval delay = { .tv_sec = RETRY_MS / 1000, .tv_usec = RETRY_MS % 1000 * 1000 };

	event_add(events->writer.retry, &delay);
}

/* The entries come first in the transaction: of those a wrong answer counts, a key of the snapshot alone holds nothing up. */
static void on_exec_item(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;

	if (item->type == REDIS_STRING && item->depth == 1 && item->index[0] < events->writer.n_sent)
		stream_id_parse(&events->writer.sent.last, item->text, item->len);
	if (item->type != REDIS_ERROR)
		return;
	if (item->depth && item->index[0] >= events->writer.n_sent) {
		events_note_key_fault(events, item);
		return;
	}
	events_note_fault(events, item);
	events->writer.failed = true;
}

/* The oldest stays until it was read past, or under a steady flow none ever would. */
static void note_told(struct events_writer *writer)
{
	if (writer->sent.is_set)
		writer->told[writer->told[0].is_set] = writer->sent;
}

void events_pass(struct events *events, const struct stream_id *id)
{
	struct events_told *told = events->writer.told;

	if (!told->is_set || !stream_id_less(&told->last, id))
		return;
	if ((int32_t)(told->seq - events->reader.passed_seq) > 0)
		events->reader.passed_seq = told->seq;
	told[0] = told[1];
	told[1].is_set = false;
}

static void on_exec(void *ctx)
{
	struct events *events = ctx;
	struct events_writer *writer = &events->writer;
	uint64_t end = writer->sent_to;

	writer->sent_to = 0;
	if (writer->failed) {
		events_retry_later(events);
		return;
	}
	events_no_fault(events);
	note_told(writer);
	events_queue_release(&events->queue, end);
	for (int i = 0; i < CACHE_EVENT_KIND_N; i++)
		events->stats.published[i] += writer->sent_kinds[i];
	if (writer->lost_own) {
		writer->lost_own = false;
		events_republish_begin(events);
	}
	events_republish_step(events);
	events_kick(events);
}

static void send_batch(struct events *events)
{
	static const char *const multi[] = { "MULTI", NULL }, *const exec[] = { "EXEC", NULL };
	struct events_writer *writer = &events->writer;

	writer->failed = false;
	writer->n_sent = 0;
	writer->sent.is_set = false;
	memset(writer->sent_kinds, 0, sizeof(writer->sent_kinds));
	events_send_texts(events, multi, events_on_queued, NULL);
	writer->sent_to = each_of_batch(events, send_entry);
	each_of_batch(events, events_keep);
	events_send_texts(events, exec, on_exec_item, on_exec);
}

static void on_kick(evutil_socket_t fd, short what, void *arg)
{
	struct events *events = arg;

	(void)fd, (void)what;
	if (redis_conn_is_ready(events->writer.conn) && !events->writer.sent_to && !evtimer_pending(events->writer.retry, NULL) &&
		events_queue_words(&events->queue))
		send_batch(events);
}

void events_kick(struct events *events)
{
	if (redis_conn_is_ready(events->writer.conn) && !events->writer.sent_to)
		event_active(events->writer.kick, EV_TIMEOUT, 0);
}

/* ---- what is told ---- */

void events_tell_session(struct events *events, uint64_t session, uint32_t endpoint)
{
	struct events_record record = { .kind = CACHE_EVENT_BIND, .endpoint = endpoint, .session = session };

	if (!++events->writer.seq)
		++events->writer.seq;
	record.seq = events->writer.seq;
	record.generation = events->agent->endpoints->at[endpoint].generation;
	session_tell(decider_sessions(events->agent->decider), session, record.seq, (uint32_t)(agent_now_ms() / 1000));
	events_queue_push(&events->queue, &record);
}

void events_tell_stored(struct events *events, uint32_t endpoint, uint32_t depth, const uint64_t *hashes, uint32_t n, uint32_t tokens)
{
	struct events_record record = { .kind = CACHE_EVENT_STORED, .endpoint = endpoint, .tokens = tokens };

	record.generation = events->agent->endpoints->at[endpoint].generation;
	while (n) { /* the tail first, as the index uses them */
		record.n_hashes = n % CACHE_EVENT_HASHES_MAX ? n % CACHE_EVENT_HASHES_MAX : CACHE_EVENT_HASHES_MAX;
		n -= record.n_hashes;
		record.depth = depth + n;
		record.hash = hashes + n;
		events_queue_push(&events->queue, &record);
		record.tokens = 0;
	}
}

/* A use that changes nothing is told once a while, so that the session does not expire elsewhere. */
static void on_bound(void *ctx, uint64_t session, uint32_t endpoint, bool is_new)
{
	struct events *events = ctx;
	const struct session *bound = session_get(decider_sessions(events->agent->decider), session);
	uint64_t now_s = agent_now_ms() / 1000;

	if (!is_new && bound && bound->told_s && now_s - bound->told_s < events_refresh_s(events))
		return;
	events_tell_session(events, session, endpoint);
	events_kick(events);
}

static void on_stored(void *ctx, uint32_t endpoint, const uint64_t *blocks, uint32_t n, uint32_t tokens)
{
	events_tell_stored(ctx, endpoint, 0, blocks, n, tokens);
	events_kick(ctx);
}

static void tell_pod(struct events *events, enum cache_event_kind kind, uint32_t endpoint, bool on)
{
	struct events_record record = { .kind = kind, .endpoint = endpoint, .on = on };

	record.generation = events->agent->endpoints->at[endpoint].generation;
	events_queue_push(&events->queue, &record);
	events_kick(events);
}

void events_publish_drain(struct events *events, uint32_t endpoint, bool on)
{
	events->writer.drain_said[endpoint] = events->agent->endpoints->at[endpoint].generation;
	tell_pod(events, CACHE_EVENT_DRAIN, endpoint, on);
}

void events_publish_cleared(struct events *events, uint32_t endpoint)
{
	tell_pod(events, CACHE_EVENT_CLEARED, endpoint, false);
}

static void on_dropped(void *ctx, const struct events_record *record)
{
	struct events *events = ctx;

	events->stats.dropped++;
	events->writer.lost_own = true;
	pass_over(events, record);
}

/* ---- outside of batches: what is of no use later ---- */

void events_send_load(struct events *events)
{
	const struct endpoint_table *endpoints = events->agent->endpoints;
	struct cache_event *event;

	if (!redis_conn_is_ready(events->writer.conn) || events->writer.fault != EVENTS_FAULT_NONE)
		return;
	event = events_begin_event(events, CACHE_EVENT_LOAD);
	for (uint32_t i = 0; i < endpoints->n; i++) {
		const struct endpoint *endpoint = &endpoints->at[i];

		if (endpoint->state != ENDPOINT_FREE && (endpoint->inflight_tokens || endpoint->inflight_requests))
			event->load[event->n_loads++] = (struct cache_event_load){ endpoint->config.address, endpoint->inflight_tokens,
				endpoint->inflight_requests };
	}
	if (!event->n_loads && !events->writer.had_load)
		return;
	events->writer.had_load = event->n_loads;
	event->every_ms = EVENTS_LOAD_MS;
	events_has(event, CACHE_EVENT_FIELD_LOAD);
	events_has(event, CACHE_EVENT_FIELD_EVERY);
	cache_event_encode(event, &events->writer.args);
	events_add_entry(events, EVENTS_STREAM, events->agent->config.redis_stream_max);
	events->stats.published[CACHE_EVENT_LOAD]++;
}

void events_send_hello(struct events *events)
{
	struct cache_event *event = events_begin_event(events, CACHE_EVENT_HELLO);

	if (!redis_conn_is_ready(events->writer.conn))
		return;
	event->key = events_key(events);
	events_has(event, CACHE_EVENT_FIELD_KEY);
	cache_event_encode(event, &events->writer.args);
	events_add_entry(events, EVENTS_STREAM, events->agent->config.redis_stream_max);
	events->stats.published[CACHE_EVENT_HELLO]++;
}

/* ---- the epoch: a key that is there as long as Redis keeps what it was told ---- */

static void on_epoch_set(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;

	if (item->type == REDIS_ERROR)
		events_note_fault(events, item);
	events->writer.made_epoch = item->type == REDIS_STATUS;
}

static void on_epoch(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;
	struct events_writer *writer = &events->writer;
	char epoch[EVENTS_ID_TEXT];
	bool was_known = *writer->seen_epoch;

	if (item->type != REDIS_STRING || item->len >= sizeof(epoch))
		return;
	memcpy(epoch, item->text, item->len);
	epoch[item->len] = '\0';
	if (!strcmp(epoch, writer->seen_epoch))
		return;
	strcpy(writer->seen_epoch, epoch);
	events_keep_drains(events);
	if (!was_known && !writer->made_epoch)
		return;
	if (was_known && events->reader.state != EVENTS_LOADING)
		events_want_resync(events, EVENTS_RESYNC_GAP);
	events_republish_begin(events);
}

void events_check_epoch(struct events *events)
{
	const char *const set[] = { "SET", EVENTS_EPOCH, events->writer.epoch, "NX", NULL }, *const get[] = { "GET", EVENTS_EPOCH, NULL };
	uint64_t random;

	randombytes_buf(&random, sizeof(random));
	snprintf(events->writer.epoch, sizeof(events->writer.epoch), "%016" PRIx64, random);
	events_send_texts(events, set, on_epoch_set, NULL);
	events_send_texts(events, get, on_epoch, NULL);
}

/* ---- start and end ---- */

static void on_ready(void *ctx)
{
	struct events *events = ctx;

	events->writer.sent_to = 0;
	events_check_epoch(events);
	events_send_hello(events);
	events_keep_drains(events);
	events_kick(events);
}

static void on_lost(void *ctx, const char *why)
{
	struct events *events = ctx;

	(void)why; /* the reader's connection tells */
	events->writer.sent_to = 0;
}

/* Who has nothing to tell would not notice that Redis takes it again. */
static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct events *events = arg;

	(void)fd, (void)what;
	if (events->writer.fault != EVENTS_FAULT_NONE && !events_queue_words(&events->queue))
		events_send_hello(events);
	else
		events_kick(events);
}

int events_writer_init(struct events *events)
{
	const struct redis_callbacks callbacks = { on_ready, on_lost, events };
	const struct decider_listener listener = { on_bound, on_stored, events };
	struct agent *agent = events->agent;
	int err = events_queue_init(&events->queue, on_dropped, events);

	events->writer.kick = event_new(agent->base, -1, 0, on_kick, events);
	events->writer.retry = evtimer_new(agent->base, on_retry, events);
	if (err || !events->writer.kick || !events->writer.retry)
		return -ENOMEM;
	err = events_republish_init(events);
	if (!err)
		err = redis_conn_new(agent->base, &agent->config.redis, "llmd-agent-writer", &callbacks, &events->writer.conn);
	if (!err)
		decider_listen(agent->decider, &listener);
	return err;
}

void events_writer_fini(struct events *events)
{
	const struct decider_listener nobody = { 0 };

	decider_listen(events->agent->decider, &nobody);
	redis_conn_free(events->writer.conn);
	if (events->writer.kick)
		event_free(events->writer.kick);
	if (events->writer.retry)
		event_free(events->writer.retry);
	events_republish_fini(events);
	events_queue_fini(&events->queue);
}
