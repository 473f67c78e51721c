/* SPDX-License-Identifier: Apache-2.0 */
/* Which endpoint holds which prefix blocks, as far as the agent can tell from what it has sent there. */
#ifndef LLMD_AGENT_PREFIX_H
#define LLMD_AGENT_PREFIX_H

#include <stdint.h>

#include "agent/endpoint.h"

enum { PREFIX_HOLDERS_MAX = 8 };

struct prefix_index;

/** prefix_index_new() - for at most @max (endpoint, block) pairs in all; memory is touched as it fills. */
struct prefix_index *prefix_index_new(uint64_t max);
void prefix_index_free(struct prefix_index *index);

/** prefix_set_capacity() - of one endpoint's cache, in blocks; what is over goes, the longest unused first. */
void prefix_set_capacity(struct prefix_index *index, uint32_t endpoint, uint32_t blocks);

/**
 * prefix_match() - how many of the leading blocks each endpoint holds.
 * @depth: ENDPOINT_MAX entries; those of endpoints from @n_endpoints on are left undefined.
 * Return: the largest depth.
 */
uint32_t prefix_match(const struct prefix_index *index, const uint64_t *blocks, uint32_t n, uint32_t n_endpoints,
	uint16_t *depth);

/** prefix_insert() - @endpoint now holds these blocks, the first ones of a prompt, and has just used them. */
void prefix_insert(struct prefix_index *index, uint32_t endpoint, const uint64_t *blocks, uint32_t n, uint64_t now_ms);

/** prefix_learn() - as prefix_insert(), by what an event says, of a prompt's blocks from @first on, counted from 0. @is_own: our own event. */
void prefix_learn(struct prefix_index *index, uint32_t endpoint, uint32_t first, const uint64_t *blocks, uint32_t n, uint64_t now_ms,
	bool is_own);

/** prefix_remove() - @endpoint no longer holds this block. Return: 0 or -ENOENT. */
int prefix_remove(struct prefix_index *index, uint32_t endpoint, uint64_t hash);

/** struct prefix_use - a block that an endpoint holds; @depth: blocks up to it, from 1. */
struct prefix_use {
	uint64_t hash;
	uint32_t depth;
};

/**
 * prefix_own() - what @endpoint holds by prefix_insert() or prefix_restore() and nobody else has said since, the longest
 * unused first. Return: how many of at most @max.
 */
uint32_t prefix_own(const struct prefix_index *index, uint32_t endpoint, struct prefix_use *out, uint32_t max);

/** prefix_clear() - @endpoint holds nothing. */
void prefix_clear(struct prefix_index *index, uint32_t endpoint);

/**
 * prefix_observe() - @changed: called with the hashes of blocks that are used, or that an endpoint no longer holds, before
 * that is done; it may not call back. On a request's path: must be cheap.
 */
void prefix_observe(struct prefix_index *index, void (*changed)(void *ctx, const uint64_t *hashes, uint32_t n), void *ctx);

/** struct prefix_block - @holder: the endpoints that used it last, the latest first. @depth: blocks up to it, from 1. */
struct prefix_block {
	uint64_t used_ms;
	uint32_t depth, n_holders;
	uint16_t holder[PREFIX_HOLDERS_MAX];
};

/** prefix_block_get() - Return: 0 or -ENOENT. */
int prefix_block_get(const struct prefix_index *index, uint64_t hash, struct prefix_block *out);

/** prefix_restore() - as after a use in the past, later than all that the index knows of. @changed is not called for it. */
void prefix_restore(struct prefix_index *index, uint32_t endpoint, uint64_t hash, uint32_t depth, uint64_t used_ms);

uint32_t prefix_count(const struct prefix_index *index, uint32_t endpoint);

/** struct prefix_stats - @blocks: distinct; @pairs: (endpoint, block); @bytes: memory in use. */
struct prefix_stats {
	uint64_t blocks, pairs, max, evicted, bytes;
};
void prefix_get_stats(const struct prefix_index *index, struct prefix_stats *out);

#endif
