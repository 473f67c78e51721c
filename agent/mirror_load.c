// SPDX-License-Identifier: Apache-2.0
/*
 * The pinned sessions and prefixes back into the decider: see mirror_load.h.
 *
 * The tables keep their entries in the order of use, so the longest unused must come first: a map is read whole, sorted,
 * then restored. Of a prompt's blocks, used at one time, the tail counts as the longest unused (prefix.c). A prefix entry
 * has one time for all of its holders: a block that an endpoint has not used for long, but another one has, comes back
 * as used by both.
 *
 * Maps are input: whoever may write to them can put anything there. All that is taken from them is checked.
 */
#include "agent/mirror_load.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "agent/map_batch.h"
#include "agent/prefix.h"
#include "agent/session.h"

enum { NS_PER_MS = 1000000, FIRST_ROOM = 4096 };

struct stored_session {
	uint64_t hash;
	struct session_entry entry;
};

struct stored_prefix {
	uint64_t hash;
	struct prefix_entry entry;
};

/** struct stored - the entries of a map; @size: of one with its hash. */
struct stored {
	char *at;
	size_t size, n, room;
};

static int keep(void *ctx, const void *key, const void *value)
{
	struct stored *stored = ctx;
	char *to;

	if (stored->n == stored->room) {
		size_t room = stored->room ? stored->room * 2 : FIRST_ROOM;
		char *at = realloc(stored->at, room * stored->size);

		if (!at)
			return -ENOMEM;
		stored->at = at;
		stored->room = room;
	}
	to = stored->at + stored->n++ * stored->size;
	memcpy(to, key, sizeof(uint64_t));
	memcpy(to + sizeof(uint64_t), value, stored->size - sizeof(uint64_t));
	return 0;
}

static uint64_t time_of(const struct mirror_load *load, uint64_t ns)
{
	return ns / NS_PER_MS < load->now_ms ? ns / NS_PER_MS : load->now_ms;
}

static bool is_known(const struct mirror_load *load, uint32_t endpoint, uint32_t generation, uint32_t mask)
{
	const struct endpoint_table *endpoints = load->parts->endpoints;

	return endpoint < endpoints->n && endpoints->at[endpoint].state != ENDPOINT_FREE &&
	       (endpoints->at[endpoint].generation & mask) == generation;
}

/* ---- sessions ---- */

static int by_last_use(const void *a, const void *b)
{
	uint64_t used_a = ((const struct stored_session *)a)->entry.last_used_ns;
	uint64_t used_b = ((const struct stored_session *)b)->entry.last_used_ns;

	return used_a < used_b ? -1 : used_a > used_b;
}

static void restore_session(struct mirror_load *load, const struct stored_session *stored)
{
	const struct session_entry *entry = &stored->entry;
	const struct session session = {
		.hash = stored->hash,
		.last_used_ms = time_of(load, entry->last_used_ns),
		.endpoint = entry->endpoint,
		.generation = entry->generation,
		.uses = entry->uses,
	};

	if (is_known(load, entry->endpoint, entry->generation, UINT32_MAX) &&
		!session_restore(decider_sessions(load->parts->decider), &session, load->now_ms)) {
		load->loaded++;
		return;
	}
	load->rejected++;
	load->stale_session(load->ctx, stored->hash);
}

int mirror_load_sessions(struct mirror_load *load)
{
	struct stored stored = { .size = sizeof(struct stored_session) };
	const struct map_shape map = { load->parts->sessions_fd, sizeof(uint64_t), sizeof(struct session_entry) };
	int err = map_batch_walk(&map, keep, &stored);

	if (stored.n)
		qsort(stored.at, stored.n, stored.size, by_last_use);
	for (size_t i = 0; i < stored.n; i++) {
		restore_session(load, &((const struct stored_session *)stored.at)[i]);
		load->step(load->ctx);
	}
	free(stored.at);
	return err;
}

/* ---- prefixes ---- */

static int by_last_use_and_depth(const void *a, const void *b)
{
	const struct prefix_entry *entry_a = &((const struct stored_prefix *)a)->entry;
	const struct prefix_entry *entry_b = &((const struct stored_prefix *)b)->entry;

	if (entry_a->last_used_ns != entry_b->last_used_ns)
		return entry_a->last_used_ns < entry_b->last_used_ns ? -1 : 1;
	return entry_a->depth > entry_b->depth ? -1 : entry_a->depth < entry_b->depth;
}

static void restore_prefix(struct mirror_load *load, const struct stored_prefix *stored)
{
	const struct prefix_entry *entry = &stored->entry;
	struct prefix_index *index = decider_prefixes(load->parts->decider);
	uint64_t used_ms = time_of(load, entry->last_used_ns);
	bool stale = entry->n > LLMD_HOLDERS_MAX || !entry->n;
	uint32_t n = entry->n > LLMD_HOLDERS_MAX ? 0 : entry->n;

	while (n--) {
		const struct prefix_holder *holder = &entry->holder[n];

		if (is_known(load, holder->endpoint, holder->generation, UINT16_MAX))
			prefix_restore(index, holder->endpoint, stored->hash, entry->depth, used_ms);
		else
			stale = true;
	}
	if (!stale) {
		load->loaded++;
		return;
	}
	load->rejected++;
	load->stale_prefix(load->ctx, stored->hash);
}

int mirror_load_prefixes(struct mirror_load *load)
{
	struct stored stored = { .size = sizeof(struct stored_prefix) };
	const struct map_shape map = { load->parts->prefixes_fd, sizeof(uint64_t), sizeof(struct prefix_entry) };
	int err = map_batch_walk(&map, keep, &stored);

	if (stored.n)
		qsort(stored.at, stored.n, stored.size, by_last_use_and_depth);
	for (size_t i = 0; i < stored.n; i++) {
		restore_prefix(load, &((const struct stored_prefix *)stored.at)[i]);
		load->step(load->ctx);
	}
	free(stored.at);
	return err;
}
