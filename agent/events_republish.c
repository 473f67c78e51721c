// SPDX-License-Identifier: Apache-2.0
/*
 * All that is own is told once more: see events.c. Redis has lost it, or events that never reached it made room. In slices,
 * each when the queue has room, so that it neither holds up what happens now nor pushes it out.
 *
 * What is told again stands later in the stream than what others have said since. So first all is read that is there: of a
 * session that another agent has bound since, this one's knowledge is then no longer its own, and is not told.
 */
#include <errno.h>
#include <stdlib.h>

#include "agent/discovery.h"
#include "agent/events_private.h"
#include "agent/prefix.h"
#include "agent/session.h"
#include "lib/log.h"

enum { SESSIONS_SLICE = 1024, BLOCKS_MAX = 65536 };

/* Pods first, then sessions. @endpoint, @cursor: where to go on. */
struct events_republish {
	bool runs;
	uint32_t endpoint, cursor;
	struct session session[SESSIONS_SLICE];
	struct prefix_use use[BLOCKS_MAX];
};

int events_republish_init(struct events *events)
{
	events->writer.republish = calloc(1, sizeof(*events->writer.republish));
	return events->writer.republish ? 0 : -ENOMEM;
}

void events_republish_fini(struct events *events)
{
	free(events->writer.republish);
}

void events_republish_begin(struct events *events)
{
	struct events_republish *republish = events->writer.republish;

	republish->runs = true;
	republish->endpoint = republish->cursor = 0;
	log_paced(&events->writer.told_again, EVENTS_LOG_LINES, EVENTS_LOG_MS, LOG_LEVEL_INFO, "telling Redis again what this agent knows",
		"agent=%s", events->id_text);
	events_republish_step(events);
}

/* A run of blocks used one after the other, each the one before its predecessor in a prompt; told from the head on. */
static void tell_run(struct events *events, uint32_t endpoint, const struct prefix_use *use, uint32_t n)
{
	uint64_t hashes[CACHE_EVENT_HASHES_MAX];

	for (uint32_t i = 0; i < n; i++)
		hashes[i] = use[n - 1 - i].hash;
	events_tell_stored(events, endpoint, use[n - 1].depth ? use[n - 1].depth - 1 : 0, hashes, n, 0);
}

static void tell_blocks(struct events *events, uint32_t endpoint)
{
	struct prefix_use *use = events->writer.republish->use;
	uint32_t n = prefix_own(decider_prefixes(events->agent->decider), endpoint, use, BLOCKS_MAX);

	for (uint32_t i = 0, run = 1; i < n; i += run) {
		for (run = 1; i + run < n && run < CACHE_EVENT_HASHES_MAX && use[i + run].depth + 1 == use[i + run - 1].depth; run++)
			;
		tell_run(events, endpoint, use + i, run);
	}
	events->stats.republished += n;
}

static void tell_pod(struct events *events, uint32_t endpoint)
{
	if (events->writer.drain_said[endpoint] == events->agent->endpoints->at[endpoint].generation)
		events_publish_drain(events, endpoint, discovery_view(events->agent->discovery, endpoint).drained);
	tell_blocks(events, endpoint);
}

static void tell_sessions(struct events *events, uint32_t n)
{
	const struct endpoint_table *endpoints = events->agent->endpoints;

	for (uint32_t i = 0; i < n; i++) {
		const struct session *session = &events->writer.republish->session[i];

		if (endpoints->at[session->endpoint].generation == session->generation)
			events_tell_session(events, session->hash, session->endpoint);
	}
	events->stats.republished += n;
}

/* One pod's blocks, or a slice of sessions. */
static void tell_next(struct events *events)
{
	struct events_republish *republish = events->writer.republish;
	const struct endpoint_table *endpoints = events->agent->endpoints;
	uint32_t n;

	if (republish->endpoint < endpoints->n) {
		if (endpoints->at[republish->endpoint].state != ENDPOINT_FREE)
			tell_pod(events, republish->endpoint);
		republish->endpoint++;
		return;
	}
	n = session_own(decider_sessions(events->agent->decider), &republish->cursor, republish->session, SESSIONS_SLICE);
	tell_sessions(events, n);
	republish->runs = n;
}

static bool may_tell(const struct events *events)
{
	return events->writer.republish->runs && events->reader.is_current && events_queue_words(&events->queue) < EVENTS_QUEUE_WORDS / 4;
}

/* Until something is in the queue: when that is sent, it goes on. */
void events_republish_step(struct events *events)
{
	uint64_t tail = events->queue.tail;

	while (events->queue.tail == tail && may_tell(events))
		tell_next(events);
	if (events->queue.tail != tail)
		events_kick(events);
}
