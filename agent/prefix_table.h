/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index's tables: blocks by their hash, pairs by block and endpoint, and the pairs of an endpoint in a list in the order of
 * last use. A part of prefix.c.
 */
#ifndef LLMD_AGENT_PREFIX_TABLE_H
#define LLMD_AGENT_PREFIX_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "agent/prefix_block.h"

enum { NONE = UINT32_MAX };

/* @is_own: by this agent's decisions, not by another one's word. */
struct pair {
	uint32_t block, endpoint : 31, is_own : 1, chain, older, newer;
};

struct lru {
	uint32_t oldest, newest, n, capacity;
};

struct prefix_index {
	uint64_t max, n_pairs, n_blocks, n_many, evicted;
	uint64_t now_ms; /* of the latest use: the blocks keep low bits of theirs */
	uint32_t mask;
	uint32_t free_block, fresh_block, free_pair, fresh_pair;
	uint32_t *block_buckets, *pair_buckets; /* index + 1; 0: empty */
	struct block *blocks;
	struct pair *pairs;
	void (*changed)(void *ctx, const uint64_t *hashes, uint32_t n);
	void *ctx;
	struct lru lru[ENDPOINT_MAX];
};

/* Fibonacci hashing (Knuth 6.4): keys that come from elsewhere need not be as even as our own hashes. */
static inline uint32_t spread(uint64_t key)
{
	return (uint32_t)(key * 0x9e3779b97f4a7c15ull >> 32);
}

static inline uint32_t *block_bucket(const struct prefix_index *index, uint64_t hash)
{
	return &index->block_buckets[spread(hash) & index->mask];
}

/* Of neighbours they are neighbours. */
static inline uint32_t *pair_bucket(const struct prefix_index *index, uint32_t block, uint32_t endpoint)
{
	return &index->pair_buckets[(block + spread(endpoint)) & index->mask];
}

static inline uint32_t block_find(const struct prefix_index *index, uint64_t hash)
{
	uint32_t i = *block_bucket(index, hash) - 1;

	while (i != NONE && index->blocks[i].hash != hash)
		i = index->blocks[i].chain;
	return i;
}

static inline uint32_t pair_find(const struct prefix_index *index, uint32_t block, uint32_t endpoint)
{
	uint32_t i = *pair_bucket(index, block, endpoint) - 1;

	while (i != NONE && (index->pairs[i].block != block || index->pairs[i].endpoint != endpoint))
		i = index->pairs[i].chain;
	return i;
}

static inline uint32_t block_add(struct prefix_index *index, uint64_t hash)
{
	uint32_t *bucket = block_bucket(index, hash);
	uint32_t i = index->free_block;

	if (i == NONE)
		i = index->fresh_block++;
	else
		index->free_block = index->blocks[i].chain;
	index->blocks[i] = (struct block){ .hash = hash, .chain = *bucket - 1 };
	*bucket = i + 1;
	index->n_blocks++;
	return i;
}

static inline void block_drop(struct prefix_index *index, uint32_t i)
{
	uint32_t *bucket = block_bucket(index, index->blocks[i].hash);
	uint32_t at = *bucket - 1;

	if (at == i) {
		*bucket = index->blocks[i].chain + 1;
	} else {
		while (index->blocks[at].chain != i)
			at = index->blocks[at].chain;
		index->blocks[at].chain = index->blocks[i].chain;
	}
	if (index->blocks[i].many)
		index->n_many--;
	free(index->blocks[i].many);
	index->blocks[i].many = NULL;
	index->blocks[i].chain = index->free_block;
	index->free_block = i;
	index->n_blocks--;
}

static inline void lru_remove(struct prefix_index *index, uint32_t i)
{
	struct pair *pair = &index->pairs[i];
	struct lru *lru = &index->lru[pair->endpoint];

	*(pair->older == NONE ? &lru->oldest : &index->pairs[pair->older].newer) = pair->newer;
	*(pair->newer == NONE ? &lru->newest : &index->pairs[pair->newer].older) = pair->older;
}

static inline void lru_append(struct prefix_index *index, uint32_t i)
{
	struct pair *pair = &index->pairs[i];
	struct lru *lru = &index->lru[pair->endpoint];

	pair->older = lru->newest;
	pair->newer = NONE;
	*(lru->newest == NONE ? &lru->oldest : &index->pairs[lru->newest].newer) = i;
	lru->newest = i;
}

static inline void pair_drop(struct prefix_index *index, uint32_t i)
{
	struct pair *pair = &index->pairs[i];
	struct block *block = &index->blocks[pair->block];
	uint32_t *bucket = pair_bucket(index, pair->block, pair->endpoint);
	uint32_t at = *bucket - 1;

	if (at == i) {
		*bucket = pair->chain + 1;
	} else {
		while (index->pairs[at].chain != i)
			at = index->pairs[at].chain;
		index->pairs[at].chain = pair->chain;
	}
	lru_remove(index, i);
	index->lru[pair->endpoint].n--;
	if (index->changed)
		index->changed(index->ctx, &block->hash, 1);
	holders_remove(block, (uint16_t)pair->endpoint, &index->n_many);
	if (!block->n_holders)
		block_drop(index, pair->block);
	pair->chain = index->free_pair;
	index->free_pair = i;
	index->n_pairs--;
}

/* The next victim's lines are on their way while this one goes. */
static inline void evict_oldest(struct prefix_index *index, uint32_t endpoint)
{
	uint32_t i = index->lru[endpoint].oldest;
	uint32_t next = index->pairs[i].newer;

	if (next != NONE) {
		const struct pair *pair = &index->pairs[next];

		__builtin_prefetch(pair_bucket(index, pair->block, endpoint));
		__builtin_prefetch(&index->blocks[pair->block]);
		if (pair->newer != NONE)
			__builtin_prefetch(&index->pairs[pair->newer]);
	}
	pair_drop(index, i);
	index->evicted++;
}

static inline void pair_add(struct prefix_index *index, uint32_t block, uint32_t endpoint, bool is_own)
{
	uint32_t *bucket = pair_bucket(index, block, endpoint);
	uint32_t i = index->free_pair;

	if (i == NONE)
		i = index->fresh_pair++;
	else
		index->free_pair = index->pairs[i].chain;
	index->pairs[i] = (struct pair){ .block = block, .endpoint = endpoint, .is_own = is_own, .chain = *bucket - 1 };
	*bucket = i + 1;
	lru_append(index, i);
	index->lru[endpoint].n++;
	index->n_pairs++;
}

#endif
