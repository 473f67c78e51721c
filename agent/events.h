/* SPDX-License-Identifier: Apache-2.0 */
/* What several agents know, shared through a Redis. How: events.c; what goes to Redis: docs/redis.md. */
#ifndef LLMD_AGENT_EVENTS_H
#define LLMD_AGENT_EVENTS_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/agent.h"
#include "lib/cache_event.h"

struct events;

/** events_new() - connects and follows, listening to the agent's decider. Return: 0 or -errno. */
int events_new(struct agent *agent, struct events **out);
void events_free(struct events *events);

/** events_publish_drain(), events_publish_cleared() - what an operator or a pod's restart changed here, for the other agents. */
void events_publish_drain(struct events *events, uint32_t endpoint, bool on);
void events_publish_cleared(struct events *events, uint32_t endpoint);

enum events_state {
	EVENTS_CONNECTING,
	EVENTS_LOADING, /* the snapshot, then what the stream holds */
	EVENTS_LIVE,
	EVENTS_STATE_N
};

/* Why an entry that was understood changed nothing; a metrics label. */
enum events_ignored {
	EVENTS_IGNORED_POD,    /* is none of ours */
	EVENTS_IGNORED_SECRET, /* the session hash is of another secret */
	EVENTS_IGNORED_BLOCK,  /* prefix blocks of another size */
	EVENTS_IGNORED_OLD,    /* past the session's TTL, or a load that no longer counts */
	EVENTS_IGNORED_LATER,  /* our own later word is on its way */
	EVENTS_IGNORED_N
};

enum events_resync { EVENTS_RESYNC_START, EVENTS_RESYNC_GAP, EVENTS_RESYNC_ENDPOINTS, EVENTS_RESYNC_N };

/* Why Redis does not take what is written; a metrics label. */
enum events_fault {
	EVENTS_FAULT_NONE,
	EVENTS_FAULT_OOM,
	EVENTS_FAULT_READONLY,
	EVENTS_FAULT_TYPE, /* a key of ours is of another type */
	EVENTS_FAULT_PERMISSION,
	EVENTS_FAULT_OTHER,
	EVENTS_FAULT_N
};

/** struct events_stats - all but the gauges (@state to @agents) count ever. @lag_s: age of the last entry when it was applied. */
struct events_stats {
	enum events_state state;
	enum events_fault fault;
	bool reader_ready, writer_ready, secret_differs;
	uint64_t queued_bytes, queue_max_bytes, agents;
	double lag_s;
	uint64_t published[CACHE_EVENT_KIND_N], applied[CACHE_EVENT_KIND_N];
	uint64_t ignored[EVENTS_IGNORED_N], malformed[CACHE_EVENT_FAULT_N];
	uint64_t resyncs[EVENTS_RESYNC_N], faults[EVENTS_FAULT_N];
	uint64_t dropped, lost_connections, republished, snapshot_keys, snapshot_errors;
};

/** events_get_stats() - zeroes without --redis. */
void events_get_stats(const struct events *events, struct events_stats *out);

/** events_json() - for /readyz. */
struct json_object *events_json(const struct events *events);

const char *events_state_name(enum events_state state);
const char *events_ignored_name(enum events_ignored why);
const char *events_resync_name(enum events_resync why);
const char *events_fault_name(enum events_fault fault);

#endif
