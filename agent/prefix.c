// SPDX-License-Identifier: Apache-2.0
/*
 * Which endpoint holds which prefix blocks: see prefix.h.
 *
 * How it works
 *
 * A block, found by its hash, knows the set of endpoints that hold it (prefix_block.h). A pair, found by block and
 * endpoint, hangs in the endpoint's list in the order of last use. A match walks the prompt's blocks while any endpoint is
 * left that has held all so far, intersecting bitmaps, so it costs the same whether one endpoint or a thousand hold the
 * head.
 *
 * Ageing follows vLLM (vllm/v1/core/block_pool.py, single_type_kv_cache_manager.py): the blocks of a finished request are
 * freed in reverse order, so of one prompt the tail is evicted before the head. Hence blocks are used here from the last
 * to the first, and what is over the endpoint's capacity goes from the longest unused.
 *
 * The tables are far larger than the processor's caches, and a prompt has a hundred blocks, each of them somewhere else in a
 * hash table. But its blocks were mostly added one after another: they lie side by side, and so do their pairs in the list of
 * last uses. So the neighbour is looked at first, and what is not there is prefetched, more each time (struct walk).
 */
#include "agent/prefix.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "agent/prefix_block.h"
#include "agent/prefix_match.h"
#include "agent/prefix_table.h"

enum { WINDOW_MAX = 64 };

/* Accesses are all over the place: with small pages much of a decision would be the translation of addresses. */
static void *reserve(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	madvise(memory, size, MADV_HUGEPAGE);
	return memory;
}

static void release(void *memory, size_t size)
{
	if (memory)
		munmap(memory, size);
}

static size_t buckets_size(const struct prefix_index *index)
{
	return ((size_t)index->mask + 1) * sizeof(uint32_t);
}

struct prefix_index *prefix_index_new(uint64_t max)
{
	struct prefix_index *index = calloc(1, sizeof(*index));
	uint32_t n = 1;

	if (!index || max >= NONE / 2) {
		free(index);
		return NULL;
	}
	while (n < max)
		n *= 2;
	index->max = max;
	index->mask = n - 1;
	index->free_block = index->free_pair = NONE;
	for (uint32_t i = 0; i < ENDPOINT_MAX; i++)
		index->lru[i] = (struct lru){ NONE, NONE, 0, (uint32_t)max };
	index->block_buckets = reserve(buckets_size(index));
	index->pair_buckets = reserve(buckets_size(index));
	index->blocks = reserve(max * sizeof(*index->blocks));
	index->pairs = reserve(max * sizeof(*index->pairs));
	if (!index->block_buckets || !index->pair_buckets || !index->blocks || !index->pairs) {
		prefix_index_free(index);
		return NULL;
	}
	/* The first few prompts would touch all of these: better the start takes the time than a request. */
	memset(index->block_buckets, 0, buckets_size(index));
	memset(index->pair_buckets, 0, buckets_size(index));
	return index;
}

void prefix_index_free(struct prefix_index *index)
{
	if (!index)
		return;
	for (uint32_t i = 0; index->blocks && i < index->fresh_block; i++)
		free(index->blocks[i].many);
	release(index->block_buckets, buckets_size(index));
	release(index->pair_buckets, buckets_size(index));
	release(index->blocks, index->max * sizeof(*index->blocks));
	release(index->pairs, index->max * sizeof(*index->pairs));
	free(index);
}

/* ---- along a prompt ---- */

/**
 * struct walk - over the blocks of a prompt, in either direction.
 * @block: where the last one is. @newer: the pair used next after the last one's, if that was there; both NONE at the start.
 * @window: blocks to prefetch when one is not where it is guessed. @ready: of those prefetched, how many are to come.
 */
struct walk {
	uint32_t block, newer, window, ready;
};

static const struct walk walk_start = { NONE, NONE, 1, 0 };

static uint32_t block_beside(const struct prefix_index *index, const struct walk *walk, uint64_t hash)
{
	const uint32_t beside[] = { walk->block - 1, walk->block + 1 };

	for (int i = 0; i < 2; i++)
		if (beside[i] < index->fresh_block && index->blocks[beside[i]].hash == hash && index->blocks[beside[i]].n_holders)
			return beside[i];
	return NONE;
}

/* A guess went wrong. Return: of the @left blocks from here on, how many to prefetch now. */
static uint32_t walk_window(struct walk *walk, uint32_t left)
{
	uint32_t n = walk->window < left ? walk->window : left;

	if (walk->ready)
		return 0;
	walk->ready = n;
	if (walk->window < WINDOW_MAX)
		walk->window *= 2;
	return n;
}

static void walk_on(struct walk *walk, uint32_t block)
{
	walk->block = block;
	if (walk->ready)
		walk->ready--;
}

static void prefetch_blocks(const struct prefix_index *index, const uint64_t *blocks, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		__builtin_prefetch(block_bucket(index, blocks[i]));
	for (uint32_t i = 0; i < n; i++) {
		uint32_t first = *block_bucket(index, blocks[i]) - 1;

		if (first != NONE)
			__builtin_prefetch(&index->blocks[first]);
	}
}

/* ---- what others call ---- */

uint32_t prefix_match(const struct prefix_index *index, const uint64_t *blocks, uint32_t n, uint32_t n_endpoints,
	uint16_t *depth)
{
	struct match match = { .depth = depth, .words = (n_endpoints + 63) / 64 };
	struct walk walk = walk_start;
	uint32_t reached;

	memset(depth, 0, n_endpoints * sizeof(*depth));
	for (reached = 0; reached < n; reached++) {
		uint32_t i = block_beside(index, &walk, blocks[reached]);

		if (i == NONE) {
			prefetch_blocks(index, blocks + reached, walk_window(&walk, n - reached));
			i = block_find(index, blocks[reached]);
		}
		if (i == NONE)
			break;
		walk_on(&walk, i);
		if (!reached)
			holders_to_set(&index->blocks[i], &match.set);
		if (!match_block(&match, &index->blocks[i], (uint16_t)reached))
			return reached;
	}
	if (reached && !match.is_few)
		note_depth(&match, &match.set, (uint16_t)reached);
	for (unsigned i = 0; i < match.n_few; i++)
		depth[match.few[i]] = (uint16_t)reached;
	return reached;
}

/* Room for one more pair: of the endpoint's own share first; the bound of all is shared by whoever inserts. */
static void make_room(struct prefix_index *index, uint32_t endpoint)
{
	struct lru *lru = &index->lru[endpoint];

	while (lru->n && (lru->n >= lru->capacity || index->n_pairs >= index->max))
		evict_oldest(index, endpoint);
	for (uint32_t i = 0; index->n_pairs >= index->max && i < ENDPOINT_MAX; i++)
		if (index->lru[i].n)
			evict_oldest(index, i);
}

static void note_use(struct prefix_index *index, uint32_t block, uint32_t endpoint, uint32_t depth)
{
	struct block *used = &index->blocks[block];

	holders_use(used, (uint16_t)endpoint);
	used->depth = depth < UINT16_MAX ? (uint16_t)depth : UINT16_MAX;
	used->used_ms = (uint32_t)index->now_ms;
}

static void use_pair(struct prefix_index *index, uint32_t pair, uint32_t depth, bool is_own)
{
	index->pairs[pair].is_own = is_own;
	lru_remove(index, pair);
	lru_append(index, pair);
	note_use(index, index->pairs[pair].block, index->pairs[pair].endpoint, depth);
}

/* @hash: of the last of the @left blocks that remain. */
static uint32_t block_on_walk(const struct prefix_index *index, struct walk *walk, const uint64_t *hash, uint32_t left)
{
	uint32_t block = block_beside(index, walk, *hash), n;

	if (block != NONE)
		return block;
	n = walk_window(walk, left);
	prefetch_blocks(index, hash + 1 - n, n);
	return block_find(index, *hash);
}

static uint32_t pair_on_walk(const struct prefix_index *index, const struct walk *walk, uint32_t block, uint32_t endpoint)
{
	uint32_t guess = walk->newer;

	if (guess != NONE && index->pairs[guess].block == block && index->pairs[guess].endpoint == endpoint)
		return guess;
	return pair_find(index, block, endpoint);
}

/* @hash: of the last of the @left blocks that remain; it is number @depth of its prompt. */
static void insert_one(struct prefix_index *index, struct walk *walk, uint32_t endpoint, const uint64_t *hash, uint32_t left,
	uint32_t depth, bool is_own)
{
	uint32_t block = block_on_walk(index, walk, hash, left);
	uint32_t pair = block == NONE ? NONE : pair_on_walk(index, walk, block, endpoint);

	walk->newer = NONE;
	if (pair != NONE) {
		walk->newer = index->pairs[pair].newer;
		walk_on(walk, block);
		use_pair(index, pair, depth, is_own);
		return;
	}
	make_room(index, endpoint);
	block = block_find(index, *hash); /* may have gone with its last holder */
	if (block == NONE)
		block = block_add(index, *hash);
	walk_on(walk, block);
	if (!holders_add(&index->blocks[block], (uint16_t)endpoint, &index->n_many))
		return; /* no memory; it has others, or there would have been room in place */
	pair_add(index, block, endpoint, is_own);
	note_use(index, block, endpoint, depth);
}

static void move_clock(struct prefix_index *index, uint64_t now_ms)
{
	if (now_ms > index->now_ms)
		index->now_ms = now_ms;
}

/* From the last to the first; @first: how many of the prompt's blocks come before. */
static void insert_all(struct prefix_index *index, uint32_t endpoint, uint32_t first, const uint64_t *blocks, uint32_t n, bool is_own)
{
	uint32_t capacity = index->lru[endpoint].capacity;
	struct walk walk = walk_start;

	if (n > capacity)
		n = capacity;
	if (index->changed && n)
		index->changed(index->ctx, blocks, n);
	for (; n; n--)
		insert_one(index, &walk, endpoint, blocks + n - 1, n, first + n, is_own);
}

void prefix_insert(struct prefix_index *index, uint32_t endpoint, const uint64_t *blocks, uint32_t n, uint64_t now_ms)
{
	move_clock(index, now_ms);
	insert_all(index, endpoint, 0, blocks, n, true);
}

void prefix_learn(struct prefix_index *index, uint32_t endpoint, uint32_t first, const uint64_t *blocks, uint32_t n, uint64_t now_ms,
	bool is_own)
{
	move_clock(index, now_ms);
	insert_all(index, endpoint, first < UINT16_MAX ? first : UINT16_MAX, blocks, n, is_own);
}

int prefix_remove(struct prefix_index *index, uint32_t endpoint, uint64_t hash)
{
	uint32_t block = block_find(index, hash), pair = block == NONE ? NONE : pair_find(index, block, endpoint);

	if (pair == NONE)
		return -ENOENT;
	pair_drop(index, pair);
	return 0;
}

uint32_t prefix_own(const struct prefix_index *index, uint32_t endpoint, struct prefix_use *out, uint32_t max)
{
	uint32_t n = 0;

	for (uint32_t i = index->lru[endpoint].oldest; i != NONE && n < max; i = index->pairs[i].newer) {
		const struct block *block = &index->blocks[index->pairs[i].block];

		if (index->pairs[i].is_own)
			out[n++] = (struct prefix_use){ block->hash, block->depth };
	}
	return n;
}

void prefix_restore(struct prefix_index *index, uint32_t endpoint, uint64_t hash, uint32_t depth, uint64_t used_ms)
{
	struct walk walk = walk_start;

	move_clock(index, used_ms);
	if (index->lru[endpoint].capacity)
		insert_one(index, &walk, endpoint, &hash, 1, depth, true);
}

void prefix_observe(struct prefix_index *index, void (*changed)(void *ctx, const uint64_t *hashes, uint32_t n), void *ctx)
{
	index->changed = changed;
	index->ctx = ctx;
}

int prefix_block_get(const struct prefix_index *index, uint64_t hash, struct prefix_block *out)
{
	uint32_t i = block_find(index, hash);
	const struct block *block;
	const uint16_t *recent;

	if (i == NONE)
		return -ENOENT;
	block = &index->blocks[i];
	recent = block->many ? block->many->recent : block->holder;
	*out = (struct prefix_block){
		.n_holders = block->many ? block->many->n_recent : block->n_holders,
		.depth = block->depth,
		.used_ms = index->now_ms - ((uint32_t)index->now_ms - block->used_ms),
	};
	memcpy(out->holder, recent, out->n_holders * sizeof(*recent));
	return 0;
}

void prefix_set_capacity(struct prefix_index *index, uint32_t endpoint, uint32_t blocks)
{
	index->lru[endpoint].capacity = blocks < index->max ? blocks : (uint32_t)index->max;
	while (index->lru[endpoint].n > index->lru[endpoint].capacity)
		evict_oldest(index, endpoint);
}

void prefix_clear(struct prefix_index *index, uint32_t endpoint)
{
	while (index->lru[endpoint].n)
		pair_drop(index, index->lru[endpoint].oldest);
}

uint32_t prefix_count(const struct prefix_index *index, uint32_t endpoint)
{
	return index->lru[endpoint].n;
}

void prefix_get_stats(const struct prefix_index *index, struct prefix_stats *out)
{
	*out = (struct prefix_stats){
		.blocks = index->n_blocks,
		.pairs = index->n_pairs,
		.max = index->max,
		.evicted = index->evicted,
		.bytes = 2 * buckets_size(index) + index->fresh_block * sizeof(struct block) +
			 index->fresh_pair * sizeof(struct pair) + index->n_many * sizeof(struct many_holders),
	};
}
