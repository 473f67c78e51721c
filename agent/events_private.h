/* SPDX-License-Identifier: Apache-2.0 */
/* What the files events*.c share. */
#ifndef LLMD_AGENT_EVENTS_PRIVATE_H
#define LLMD_AGENT_EVENTS_PRIVATE_H

#include "agent/decide.h"
#include "agent/events.h"
#include "agent/events_load.h"
#include "agent/events_queue.h"
#include "lib/log.h"
#include "lib/redis_conn.h"

#define EVENTS_STREAM	   "llmd:events"
#define EVENTS_EPOCH	   "llmd:epoch"
#define EVENTS_KEYS	   "llmd:*"
#define EVENTS_SESSION_KEY "llmd:session:"
#define EVENTS_POD_KEY	   "llmd:pod:"
#define EVENTS_DRAIN_KEY   "llmd:drain:"

enum { EVENTS_LOG_LINES = 10, EVENTS_LOG_MS = 60000, EVENTS_LOAD_MS = 500, EVENTS_ADDRESS_CACHE = 1024, EVENTS_ID_TEXT = 17 };

/** struct events_entry - one being read. @base: depth at which the list of entries lies in the reply. */
struct events_entry {
	unsigned base;
	bool is_open;
	struct stream_id id;
	struct cache_event event;
};

struct events_snapshot;
struct events_republish;

/** struct events_told - own words up to @seq lie in the stream, none of them later than @last. */
struct events_told {
	bool is_set;
	uint32_t seq;
	struct stream_id last;
};

/**
 * struct events_reader - @last: entry that was read last. @check: that must still be in the stream after a read, or
 * something was missed. @live_from: entries up to it are in the snapshot, too. @passed_seq: own words up to it may lie before
 * what is read. @went_back: Redis has lost what it had taken.
 * @rests: nothing is asked before the next tick. @n_read: entries of the present answer. @is_current: the answer
 * before it was the whole rest of the stream. @clock_ms: what Redis' clock is ahead of ours, modulo 2^64.
 */
struct events_reader {
	struct redis_conn *conn;
	enum events_state state;
	bool knows_last, wants_resync, went_back, is_current, rests;
	uint32_t n_read, n_resyncs; /* of the latter, without calm between them */
	enum events_resync why;
	struct stream_id last, check, live_from;
	uint32_t passed_seq;
	uint64_t clock_ms;
	uint64_t time_part;
	uint64_t asked_ms, resynced_ms;
	uint32_t endpoint_changes;
	char reported[64]; /* the reason last logged */
	struct log_pace states, gaps, endless;
	struct events_entry entry;
	struct events_snapshot *snapshot;
};

/**
 * struct events_writer - @sent_to: in the queue, end of the batch whose answer is awaited; 0: none is. @n_sent: its events.
 * @sent: what it will be when it was executed. @told: the oldest and the newest batch that are not yet known to have been read past.
 */
struct events_writer {
	struct redis_conn *conn;
	struct event *kick, *retry;
	uint64_t sent_to;
	uint32_t n_sent;
	struct events_told sent, told[2];
	uint64_t sent_kinds[CACHE_EVENT_KIND_N];
	bool failed, had_load;
	uint64_t drains_kept_ms;
	struct log_pace refused, taken, key_refused, told_again;
	uint32_t drain_said[ENDPOINT_MAX]; /* generation of the endpoint of which the last word was this agent's */
	enum events_fault fault;
	uint32_t seq;
	char epoch[EVENTS_ID_TEXT], seen_epoch[EVENTS_ID_TEXT];
	bool made_epoch, lost_own;
	struct cache_event event;
	struct cache_event_args args;
	struct events_republish *republish;
};

struct events {
	struct agent *agent;
	uint64_t id;
	char id_text[EVENTS_ID_TEXT];
	struct event *tick, *expiry;
	struct events_reader reader;
	struct events_writer writer;
	struct events_queue queue;
	struct events_loads loads;
	uint64_t expiry_ms; /* when @expiry is due */
	struct events_stats stats;
	struct log_pace other_secret;
	uint16_t address_cache[EVENTS_ADDRESS_CACHE];
};

static inline uint64_t events_key(const struct events *events)
{
	return cache_event_fingerprint(events->agent->session_secret);
}

/** events_age_ms() - of an entry; 0 for one of the future, as far as that may lie: who adds an entry may choose its id. */
static inline uint64_t events_age_ms(const struct events *events, const struct stream_id *id)
{
	uint64_t now_ms = agent_now_ms() + events->reader.clock_ms;

	return now_ms > id->ms ? now_ms - id->ms : 0;
}

/** events_refresh_s() - how often what holds on is told again, so that it does not expire elsewhere. */
static inline uint64_t events_refresh_s(const struct events *events)
{
	uint64_t s = events->agent->config.session_ttl_ms / 8000;

	return s < 60 ? s : 60;
}

void events_expect_silence(struct events *events); /* events.c: a load was set */

/* events_write.c */
int events_writer_init(struct events *events);
void events_writer_fini(struct events *events);
void events_kick(struct events *events); /* something is in the queue */
void events_retry_later(struct events *events); /* Redis has refused something */
void events_send_load(struct events *events);
void events_send_hello(struct events *events);
void events_check_epoch(struct events *events); /* was Redis emptied? */
void events_pass(struct events *events, const struct stream_id *id); /* all before it was read */
void events_tell_session(struct events *events, uint64_t session, uint32_t endpoint);
void events_tell_stored(struct events *events, uint32_t endpoint, uint32_t depth, const uint64_t *hashes, uint32_t n, uint32_t tokens);

/* events_send.c: commands; a refused one is noted, and the batch that it belongs to has failed. */
void events_note_fault(struct events *events, const struct redis_item *item);
void events_no_fault(struct events *events);
void events_note_key_fault(struct events *events, const struct redis_item *item);
void events_on_queued(void *ctx, const struct redis_item *item);
void events_send_texts(struct events *events, const char *const *text, void (*item)(void *, const struct redis_item *), void (*end)(void *));
void events_add_entry(struct events *events, const char *key, uint64_t max); /* of what was encoded last */
struct cache_event *events_begin_event(struct events *events, enum cache_event_kind kind);
void events_describe(struct events *events, const struct events_record *record);
void events_keep(struct events *events, const struct events_record *record); /* in the snapshot's keys */
void events_keep_drains(struct events *events); /* of all pods that are drained, so that they do not expire */

static inline void events_has(struct cache_event *event, enum cache_event_field field)
{
	event->has |= 1u << field;
}

/* events_republish.c: what is own, once more. */
int events_republish_init(struct events *events);
void events_republish_fini(struct events *events);
void events_republish_begin(struct events *events);
void events_republish_step(struct events *events);

/* events_read.c */
int events_reader_init(struct events *events);
void events_reader_fini(struct events *events);
void events_want_resync(struct events *events, enum events_resync why);
void events_read_stream(struct events *events); /* the snapshot is in */
void events_reader_tick(struct events *events);
void events_entry_item(struct events *events, struct events_entry *entry, const struct redis_item *item,
	void (*done)(struct events *events, struct events_entry *entry));
void events_entry_end(struct events *events, struct events_entry *entry, void (*done)(struct events *events, struct events_entry *entry));

/* events_snapshot.c */
int events_snapshot_init(struct events *events);
void events_snapshot_fini(struct events *events);
void events_snapshot_begin(struct events *events);

/* events_apply.c */
void events_apply(struct events *events, const struct cache_event *event, const struct stream_id *id);
void events_apply_bound(struct events *events, uint64_t session, const struct address *pod, uint64_t key);
void events_apply_unbound(struct events *events, uint64_t session);
int events_find_endpoint(struct events *events, const struct address *address);
void events_secret_differs(struct events *events);

#endif
