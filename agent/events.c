// SPDX-License-Identifier: Apache-2.0
/*
 * What several agents know, shared through a Redis: see events.h; docs/redis.md has every key and field.
 *
 * How it works
 *
 * Everything that an agent learns by its own decisions is appended to one stream, and every agent reads that stream and
 * applies it to the same tables that its own decisions change: so what others know is scored, mirrored into the pinned maps
 * and shown like what this agent has seen itself. The order of the stream decides between contradicting events, so all agents
 * come to the same end. Beside the stream, keys with a time to live hold the present state for agents that start, or that
 * have missed a part of the stream.
 *
 *   events_write.c      decision -> queue -> transactions        events_read.c      stream -> entries, gaps
 *   events_queue.c      the bounded queue                        events_snapshot.c  keys -> entries
 *   events_send.c       what is sent for each event
 *   events_republish.c  all that is own, once more               events_apply.c     entries -> tables
 *                                                                events_load.c      load of the others
 *
 * Redis is never waited for: a request's path puts records into the queue, all else happens in the loop's own time. Without
 * Redis an agent goes on with what it knows; the queue keeps what it can.
 */
#include "agent/events.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/events_private.h"

static const char *const state_names[] = { "connecting", "loading", "live" };
static_assert(sizeof(state_names) / sizeof(state_names[0]) == EVENTS_STATE_N, "a name for each state");
static const char *const ignored_names[] = { "unknown_pod", "other_secret", "other_block_size", "too_old", "own_is_later" };
static_assert(sizeof(ignored_names) / sizeof(ignored_names[0]) == EVENTS_IGNORED_N, "a name for each reason");
static const char *const resync_names[] = { "start", "gap", "endpoints" };
static_assert(sizeof(resync_names) / sizeof(resync_names[0]) == EVENTS_RESYNC_N, "a name for each reason");
static const char *const fault_names[] = { "none", "oom", "readonly", "wrong_type", "permission", "other" };
static_assert(sizeof(fault_names) / sizeof(fault_names[0]) == EVENTS_FAULT_N, "a name for each fault");

const char *events_state_name(enum events_state state)
{
	return state_names[state];
}

const char *events_ignored_name(enum events_ignored why)
{
	return ignored_names[why];
}

const char *events_resync_name(enum events_resync why)
{
	return resync_names[why];
}

const char *events_fault_name(enum events_fault fault)
{
	return fault_names[fault];
}

/* What was said of a pod before this agent knew it was passed over. */
static void follow_endpoints(struct events *events)
{
	if (events->reader.state != EVENTS_LIVE || events->reader.endpoint_changes == events->agent->endpoints->changes)
		return;
	events_want_resync(events, EVENTS_RESYNC_ENDPOINTS);
}

/* A timer of its own: the tick would find it up to an interval late. */
void events_expect_silence(struct events *events)
{
	uint64_t next = events_load_next(&events->loads), now_ms = agent_now_ms();
	uint64_t delay_ms = next > now_ms ? next - now_ms : 1;
	const struct timeval delay = { .tv_sec = (time_t)(delay_ms / 1000), .tv_usec = (suseconds_t)(delay_ms % 1000) * 1000 };

	if (next == UINT64_MAX || (evtimer_pending(events->expiry, NULL) && events->expiry_ms <= next))
		return;
	events->expiry_ms = next;
	event_add(events->expiry, &delay);
}

static void on_expiry(evutil_socket_t fd, short what, void *arg)
{
	struct events *events = arg;

	(void)fd, (void)what;
	events_load_expire(&events->loads, events->agent->endpoints, agent_now_ms());
	events_expect_silence(events);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct events *events = arg;

	(void)fd, (void)what;
	events_reader_tick(events);
	events_send_load(events);
	if (agent_now_ms() - events->writer.drains_kept_ms >= 1000 * events_refresh_s(events))
		events_keep_drains(events);
	follow_endpoints(events);
}

int events_new(struct agent *agent, struct events **out)
{
	const struct timeval interval = { .tv_usec = EVENTS_LOAD_MS * 1000 };
	struct events *events = calloc(1, sizeof(*events));
	int err;

	*out = NULL;
	if (!events)
		return -ENOMEM;
	events->agent = agent;
	randombytes_buf(&events->id, sizeof(events->id));
	snprintf(events->id_text, sizeof(events->id_text), "%016" PRIx64, events->id);
	events->tick = event_new(agent->base, -1, EV_PERSIST, on_tick, events);
	events->expiry = evtimer_new(agent->base, on_expiry, events);
	err = events->tick && events->expiry ? events_writer_init(events) : -ENOMEM;
	if (!err)
		err = events_reader_init(events);
	if (err) {
		events_free(events);
		return err;
	}
	event_add(events->tick, &interval);
	*out = events;
	return 0;
}

void events_free(struct events *events)
{
	if (!events)
		return;
	events_reader_fini(events);
	events_writer_fini(events);
	events_load_fini(&events->loads, events->agent->endpoints);
	if (events->tick)
		event_free(events->tick);
	if (events->expiry)
		event_free(events->expiry);
	free(events);
}

void events_get_stats(const struct events *events, struct events_stats *out)
{
	memset(out, 0, sizeof(*out));
	if (!events)
		return;
	*out = events->stats;
	out->state = events->reader.state;
	out->fault = events->writer.fault;
	out->reader_ready = redis_conn_is_ready(events->reader.conn);
	out->writer_ready = redis_conn_is_ready(events->writer.conn);
	out->queued_bytes = 8 * events_queue_words(&events->queue);
	out->queue_max_bytes = 8ull * EVENTS_QUEUE_WORDS;
	out->agents = events->loads.n;
}

struct json_object *events_json(const struct events *events)
{
	struct json_object *json = json_object_new_object();
	struct events_stats stats;

	events_get_stats(events, &stats);
	json_object_object_add(json, "state", json_object_new_string(state_names[stats.state]));
	json_object_object_add(json, "agent", json_object_new_string(events->id_text));
	json_object_object_add(json, "reads", json_object_new_boolean(stats.reader_ready));
	json_object_object_add(json, "writes", json_object_new_boolean(stats.writer_ready && stats.fault == EVENTS_FAULT_NONE));
	json_object_object_add(json, "fault", json_object_new_string(fault_names[stats.fault]));
	json_object_object_add(json, "other_secret", json_object_new_boolean(stats.secret_differs));
	json_object_object_add(json, "queued_bytes", json_object_new_uint64(stats.queued_bytes));
	json_object_object_add(json, "dropped", json_object_new_uint64(stats.dropped));
	json_object_object_add(json, "lag_seconds", json_object_new_double(stats.lag_s));
	return json;
}
