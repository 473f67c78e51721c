// SPDX-License-Identifier: Apache-2.0
/*
 * A copy of the decider's sessions and prefixes in the pinned maps: see mirror.h.
 *
 * How it works
 *
 * The decider's tables are what counts; the maps hold what the next agent is to know. A change notes the hash, no more
 * (dirty_queue.h); at the end of the loop's turn, or up to 50 ms later, the busier the later, what the table then says of it
 * is written, or the entry deleted if it says nothing. So a session or block that is used often is written once a tick, and
 * the request that changes it waits for no system call.
 *
 * A tick writes in slices, and lets the event loop look after its sockets between them. What comes faster than it can be
 * written for long overflows the queue, where the oldest is dropped and counted: a hint is lost, or one stays in the map
 * that is no longer true.
 */
#include "agent/mirror.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "agent/dirty_queue.h"
#include "agent/map_batch.h"
#include "agent/mirror_load.h"
#include "agent/prefix.h"
#include "agent/session.h"
#include "lib/log.h"

enum {
	NS_PER_MS = 1000000,
	TICK_MS = 50,
	CALM_ENTRIES = 16, /* written by a tick, for each millisecond until the next */
	TICK_MAX = 4096, /* entries */
	SLICE = 128, /* some 100 us */
	SESSIONS_DIRTY_MAX = 1 << 16,
	PREFIXES_DIRTY_MAX = 1 << 18, /* a pod's default share of the prefix index goes at once when it is cleared */
};

static_assert((int)PREFIX_HOLDERS_MAX == LLMD_HOLDERS_MAX, "a block's holders fit into its entry");

struct mirror {
	struct mirror_parts parts;
	struct event *timer;
	bool is_armed;
	uint32_t budget; /* of the present tick */
	uint32_t written; /* by the present tick, then by the last one */
	struct map_shape session_map, prefix_map;
	struct mirror_stats stats;
	struct dirty_queue sessions, prefixes;
	/* One slice: what is written, and what is deleted. */
	uint64_t keys[SLICE], gone[SLICE];
	struct session_entry session[SLICE];
	struct prefix_entry prefix[SLICE];
};

/* ---- on the request's path ---- */

static void arm(struct mirror *mirror, unsigned ms)
{
	const struct timeval delay = { .tv_usec = (suseconds_t)ms * 1000 };

	mirror->is_armed = mirror->timer && !event_add(mirror->timer, &delay);
}

/* What changes now and then is there at once; what changes all the time is written once for many changes. */
static unsigned until_tick(const struct mirror *mirror)
{
	uint32_t ms = mirror->written / CALM_ENTRIES;

	return ms < TICK_MS ? ms : TICK_MS;
}

static void session_changed(void *ctx, uint64_t hash)
{
	struct mirror *mirror = ctx;

	dirty_queue_add(&mirror->sessions, hash);
	if (!mirror->is_armed)
		arm(mirror, until_tick(mirror));
}

/* The tail first, as the index uses them: of what overflows, the heads are kept, which more prompts share. */
static void prefixes_changed(void *ctx, const uint64_t *hashes, uint32_t n)
{
	struct mirror *mirror = ctx;

	while (n)
		dirty_queue_add(&mirror->prefixes, hashes[--n]);
	if (!mirror->is_armed)
		arm(mirror, until_tick(mirror));
}

/* ---- writing ---- */

static int session_entry_of(const struct mirror *mirror, uint64_t hash, struct session_entry *out)
{
	const struct session *session = session_get(decider_sessions(mirror->parts.decider), hash);

	if (!session)
		return -ENOENT;
	*out = (struct session_entry){
		.endpoint = session->endpoint,
		.generation = session->generation,
		.last_used_ns = session->last_used_ms * NS_PER_MS,
		.uses = session->uses,
	};
	return 0;
}

static int prefix_entry_of(const struct mirror *mirror, uint64_t hash, struct prefix_entry *out)
{
	struct prefix_block block;
	int err = prefix_block_get(decider_prefixes(mirror->parts.decider), hash, &block);

	if (err)
		return err;
	*out = (struct prefix_entry){ .n = block.n_holders, .depth = block.depth, .last_used_ns = block.used_ms * NS_PER_MS };
	for (uint32_t i = 0; i < block.n_holders; i++) {
		out->holder[i].endpoint = block.holder[i];
		out->holder[i].generation = (uint16_t)mirror->parts.endpoints->at[block.holder[i]].generation;
	}
	return 0;
}

static void write_slice(struct mirror *mirror, const struct map_shape *map, const void *values, uint32_t n, uint32_t n_gone)
{
	uint32_t written = map_batch_update(map, mirror->keys, values, n);

	mirror->stats.written += written;
	mirror->stats.failed += n - written;
	mirror->stats.deleted += map_batch_delete(map, mirror->gone, n_gone);
}

static uint32_t flush_sessions(struct mirror *mirror)
{
	uint32_t n = 0, n_gone = 0;

	while (dirty_queue_n(&mirror->sessions) && n + n_gone < SLICE) {
		uint64_t hash = dirty_queue_take(&mirror->sessions);

		if (session_entry_of(mirror, hash, &mirror->session[n]))
			mirror->gone[n_gone++] = hash;
		else
			mirror->keys[n++] = hash;
	}
	write_slice(mirror, &mirror->session_map, mirror->session, n, n_gone);
	return n + n_gone;
}

static uint32_t flush_prefixes(struct mirror *mirror)
{
	uint32_t n = 0, n_gone = 0;

	while (dirty_queue_n(&mirror->prefixes) && n + n_gone < SLICE) {
		uint64_t hash = dirty_queue_take(&mirror->prefixes);

		if (prefix_entry_of(mirror, hash, &mirror->prefix[n]))
			mirror->gone[n_gone++] = hash;
		else
			mirror->keys[n++] = hash;
	}
	write_slice(mirror, &mirror->prefix_map, mirror->prefix, n, n_gone);
	return n + n_gone;
}

/* Sessions first, each of which is worth a whole prompt. Return: how many hashes were taken; 0: none was left. */
static uint32_t flush_slice(struct mirror *mirror)
{
	uint32_t n;

	/* A pod that came to an index since the last decision must not be said to hold what an earlier one held. */
	decider_follow_endpoints(mirror->parts.decider);
	n = flush_sessions(mirror);
	return n < SLICE ? n + flush_prefixes(mirror) : n;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct mirror *mirror = arg;
	uint32_t n = flush_slice(mirror);

	(void)fd, (void)what;
	mirror->is_armed = false;
	mirror->written = mirror->budget == TICK_MAX ? n : mirror->written + n;
	if (!dirty_queue_n(&mirror->sessions) && !dirty_queue_n(&mirror->prefixes)) {
		mirror->budget = TICK_MAX;
		return;
	}
	mirror->budget = n < mirror->budget ? mirror->budget - n : 0;
	arm(mirror, mirror->budget ? 0 : TICK_MS);
	if (!mirror->budget)
		mirror->budget = TICK_MAX;
}

void mirror_flush(struct mirror *mirror)
{
	while (flush_slice(mirror))
		;
}

/* ---- start and end ---- */

static void stale_session(void *ctx, uint64_t hash)
{
	dirty_queue_add(&((struct mirror *)ctx)->sessions, hash);
}

static void stale_prefix(void *ctx, uint64_t hash)
{
	dirty_queue_add(&((struct mirror *)ctx)->prefixes, hash);
}

/* Nothing may overflow here: what is no longer true would stay in the map. */
static void flush_if_full(void *ctx)
{
	struct mirror *mirror = ctx;

	if (dirty_queue_n(&mirror->sessions) > SESSIONS_DIRTY_MAX / 2 || dirty_queue_n(&mirror->prefixes) > PREFIXES_DIRTY_MAX / 2)
		mirror_flush(mirror);
}

int mirror_load(struct mirror *mirror, uint64_t now_ms)
{
	struct mirror_load load = {
		.parts = &mirror->parts,
		.now_ms = now_ms,
		.stale_session = stale_session,
		.stale_prefix = stale_prefix,
		.step = flush_if_full,
		.ctx = mirror,
	};
	int err;

	decider_follow_endpoints(mirror->parts.decider);
	err = mirror_load_sessions(&load);
	if (!err)
		err = mirror_load_prefixes(&load);
	mirror_flush(mirror);
	mirror->stats.loaded += load.loaded;
	mirror->stats.rejected += load.rejected;
	if (err)
		log_error("cannot read pinned sessions and prefixes", "error=\"%s\"", strerror(-err));
	else
		log_info("pinned sessions and prefixes read", "loaded=%lu rejected=%lu", (unsigned long)load.loaded,
			(unsigned long)load.rejected);
	return err;
}

int mirror_open(const struct mirror_parts *parts, struct mirror **out)
{
	struct mirror *mirror = calloc(1, sizeof(*mirror));

	if (!mirror)
		return -ENOMEM;
	mirror->parts = *parts;
	mirror->budget = TICK_MAX;
	mirror->session_map = (struct map_shape){ parts->sessions_fd, sizeof(uint64_t), sizeof(struct session_entry) };
	mirror->prefix_map = (struct map_shape){ parts->prefixes_fd, sizeof(uint64_t), sizeof(struct prefix_entry) };
	if (parts->base)
		mirror->timer = evtimer_new(parts->base, on_tick, mirror);
	if ((parts->base && !mirror->timer) || dirty_queue_init(&mirror->sessions, SESSIONS_DIRTY_MAX) ||
		dirty_queue_init(&mirror->prefixes, PREFIXES_DIRTY_MAX)) {
		mirror_free(mirror);
		return -ENOMEM;
	}
	session_observe(decider_sessions(parts->decider), session_changed, mirror);
	prefix_observe(decider_prefixes(parts->decider), prefixes_changed, mirror);
	*out = mirror;
	return 0;
}

void mirror_free(struct mirror *mirror)
{
	if (!mirror)
		return;
	session_observe(decider_sessions(mirror->parts.decider), NULL, NULL);
	prefix_observe(decider_prefixes(mirror->parts.decider), NULL, NULL);
	if (mirror->timer)
		event_free(mirror->timer);
	dirty_queue_fini(&mirror->sessions);
	dirty_queue_fini(&mirror->prefixes);
	free(mirror);
}

void mirror_get_stats(const struct mirror *mirror, struct mirror_stats *out)
{
	struct session_stats sessions;
	struct prefix_stats prefixes;

	session_get_stats(decider_sessions(mirror->parts.decider), &sessions);
	prefix_get_stats(decider_prefixes(mirror->parts.decider), &prefixes);
	*out = mirror->stats;
	out->queued = dirty_queue_n(&mirror->sessions) + dirty_queue_n(&mirror->prefixes);
	out->dropped = mirror->sessions.dropped + mirror->prefixes.dropped;
	out->sessions = sessions.n < mirror->parts.sessions_max ? sessions.n : mirror->parts.sessions_max;
	out->prefixes = prefixes.blocks < mirror->parts.prefixes_max ? prefixes.blocks : mirror->parts.prefixes_max;
}
