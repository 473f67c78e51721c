// SPDX-License-Identifier: Apache-2.0
/*
 * Which endpoint holds which prefix blocks: see prefix.h.
 *
 * How it works
 *
 * A block, found by its hash, knows the set of endpoints that hold it: a few indexes in place, a bitmap beyond that. A
 * pair, found by block and endpoint, hangs in the endpoint's list in the order of last use. A match walks the prompt's
 * blocks while any endpoint is left that has held all so far, intersecting bitmaps, so it costs the same whether one
 * endpoint or a thousand hold the head.
 *
 * Ageing follows vLLM (vllm/v1/core/block_pool.py, single_type_kv_cache_manager.py): the blocks of a finished request are
 * freed in reverse order, so of one prompt the tail is evicted before the head. Hence blocks are used here from the last
 * to the first, and what is over the endpoint's capacity goes from the longest unused.
 *
 * The tables are far larger than the processor's caches: what will be needed is prefetched for a whole prompt at a time.
 */
#include "agent/prefix.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { NONE = UINT32_MAX, INLINE_HOLDERS = 6, WORD_BITS = 64, WORDS = ENDPOINT_MAX / WORD_BITS, BATCH = 64 };

struct bitmap {
	uint64_t word[WORDS];
};

struct block {
	uint64_t hash;
	uint32_t chain;
	uint16_t n_holders;
	uint16_t holder[INLINE_HOLDERS]; /* while n_holders <= INLINE_HOLDERS and no bitmap */
	struct bitmap *bitmap;
};

struct pair {
	uint32_t block, endpoint, chain, older, newer;
};

struct lru {
	uint32_t oldest, newest, n, capacity;
};

struct prefix_index {
	uint64_t max, n_pairs, n_blocks, n_bitmaps, evicted;
	uint32_t mask;
	uint32_t free_block, fresh_block, free_pair, fresh_pair;
	uint32_t *block_buckets, *pair_buckets; /* index + 1; 0: empty */
	struct block *blocks;
	struct pair *pairs;
	struct lru lru[ENDPOINT_MAX];
};

static void *reserve(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
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
	if (index->block_buckets && index->pair_buckets && index->blocks && index->pairs)
		return index;
	prefix_index_free(index);
	return NULL;
}

void prefix_index_free(struct prefix_index *index)
{
	if (!index)
		return;
	for (uint32_t i = 0; index->blocks && i < index->fresh_block; i++)
		free(index->blocks[i].bitmap);
	release(index->block_buckets, buckets_size(index));
	release(index->pair_buckets, buckets_size(index));
	release(index->blocks, index->max * sizeof(*index->blocks));
	release(index->pairs, index->max * sizeof(*index->pairs));
	free(index);
}

/* ---- the set of holders of a block ---- */

/* The first @words of the set; no holder is beyond them. */
static void holders_to_bitmap(const struct block *block, unsigned words, struct bitmap *out)
{
	if (block->bitmap) {
		memcpy(out, block->bitmap, words * sizeof(out->word[0]));
		return;
	}
	memset(out, 0, words * sizeof(out->word[0]));
	for (unsigned i = 0; i < block->n_holders; i++)
		if (block->holder[i] / WORD_BITS < words)
			out->word[block->holder[i] / WORD_BITS] |= 1ull << block->holder[i] % WORD_BITS;
}

static bool holders_add(struct prefix_index *index, struct block *block, uint32_t endpoint)
{
	if (!block->bitmap && block->n_holders < INLINE_HOLDERS) {
		block->holder[block->n_holders++] = (uint16_t)endpoint;
		return true;
	}
	if (!block->bitmap) {
		struct bitmap *bitmap = malloc(sizeof(*bitmap));

		if (!bitmap)
			return false;
		holders_to_bitmap(block, WORDS, bitmap);
		block->bitmap = bitmap;
		index->n_bitmaps++;
	}
	block->bitmap->word[endpoint / WORD_BITS] |= 1ull << endpoint % WORD_BITS;
	block->n_holders++;
	return true;
}

/* Back in place only well below the limit, so that a set at its edge does not go to and fro. */
static void bitmap_to_inline(struct prefix_index *index, struct block *block)
{
	unsigned n = 0;

	for (unsigned w = 0; w < WORDS; w++)
		for (uint64_t word = block->bitmap->word[w]; word; word &= word - 1)
			block->holder[n++] = (uint16_t)(w * WORD_BITS + (unsigned)__builtin_ctzll(word));
	free(block->bitmap);
	block->bitmap = NULL;
	index->n_bitmaps--;
}

static void holders_remove(struct prefix_index *index, struct block *block, uint32_t endpoint)
{
	block->n_holders--;
	if (block->bitmap) {
		block->bitmap->word[endpoint / WORD_BITS] &= ~(1ull << endpoint % WORD_BITS);
		if (block->n_holders <= INLINE_HOLDERS / 2)
			bitmap_to_inline(index, block);
		return;
	}
	for (unsigned i = 0; i < block->n_holders; i++)
		if (block->holder[i] == endpoint)
			block->holder[i] = block->holder[block->n_holders];
}

/* ---- the two hash tables ---- */

static uint32_t *block_bucket(const struct prefix_index *index, uint64_t hash)
{
	return &index->block_buckets[hash & index->mask];
}

static uint32_t *pair_bucket(const struct prefix_index *index, uint32_t block, uint32_t endpoint)
{
	uint64_t key = ((uint64_t)block << 10 | endpoint) * 0x9e3779b97f4a7c15ull; /* Fibonacci hashing, Knuth 6.4 */

	return &index->pair_buckets[(key >> 32) & index->mask];
}

static uint32_t block_find(const struct prefix_index *index, uint64_t hash)
{
	uint32_t i = *block_bucket(index, hash) - 1;

	while (i != NONE && index->blocks[i].hash != hash)
		i = index->blocks[i].chain;
	return i;
}

static uint32_t pair_find(const struct prefix_index *index, uint32_t block, uint32_t endpoint)
{
	uint32_t i = *pair_bucket(index, block, endpoint) - 1;

	while (i != NONE && (index->pairs[i].block != block || index->pairs[i].endpoint != endpoint))
		i = index->pairs[i].chain;
	return i;
}

static uint32_t block_add(struct prefix_index *index, uint64_t hash)
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

static void block_drop(struct prefix_index *index, uint32_t i)
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
	if (index->blocks[i].bitmap)
		index->n_bitmaps--;
	free(index->blocks[i].bitmap);
	index->blocks[i].bitmap = NULL;
	index->blocks[i].chain = index->free_block;
	index->free_block = i;
	index->n_blocks--;
}

static void lru_remove(struct prefix_index *index, uint32_t i)
{
	struct pair *pair = &index->pairs[i];
	struct lru *lru = &index->lru[pair->endpoint];

	*(pair->older == NONE ? &lru->oldest : &index->pairs[pair->older].newer) = pair->newer;
	*(pair->newer == NONE ? &lru->newest : &index->pairs[pair->newer].older) = pair->older;
}

static void lru_append(struct prefix_index *index, uint32_t i)
{
	struct pair *pair = &index->pairs[i];
	struct lru *lru = &index->lru[pair->endpoint];

	pair->older = lru->newest;
	pair->newer = NONE;
	*(lru->newest == NONE ? &lru->oldest : &index->pairs[lru->newest].newer) = i;
	lru->newest = i;
}

static void pair_drop(struct prefix_index *index, uint32_t i)
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
	holders_remove(index, block, pair->endpoint);
	if (!block->n_holders)
		block_drop(index, pair->block);
	pair->chain = index->free_pair;
	index->free_pair = i;
	index->n_pairs--;
}

/* The next victim's lines are on their way while this one goes. */
static void evict_oldest(struct prefix_index *index, uint32_t endpoint)
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

static void pair_add(struct prefix_index *index, uint32_t block, uint32_t endpoint)
{
	uint32_t *bucket = pair_bucket(index, block, endpoint);
	uint32_t i = index->free_pair;

	if (i == NONE)
		i = index->fresh_pair++;
	else
		index->free_pair = index->pairs[i].chain;
	index->pairs[i] = (struct pair){ .block = block, .endpoint = endpoint, .chain = *bucket - 1 };
	*bucket = i + 1;
	lru_append(index, i);
	index->lru[endpoint].n++;
	index->n_pairs++;
}

/* ---- what others call ---- */

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

static void note_depth(const struct bitmap *lost, unsigned words, uint16_t reached, uint16_t *depth)
{
	for (unsigned w = 0; w < words; w++)
		for (uint64_t word = lost->word[w]; word; word &= word - 1)
			depth[w * WORD_BITS + (unsigned)__builtin_ctzll(word)] = reached;
}

uint32_t prefix_match(const struct prefix_index *index, const uint64_t *blocks, uint32_t n, uint32_t n_endpoints,
	uint16_t *depth)
{
	unsigned words = (n_endpoints + WORD_BITS - 1) / WORD_BITS;
	struct bitmap alive, lost, holders;
	uint32_t reached;

	memset(depth, 0, n_endpoints * sizeof(*depth));
	for (reached = 0; reached < n; reached++) {
		uint64_t any = 0, any_lost = 0;
		uint32_t i;

		if (reached % BATCH == 0)
			prefetch_blocks(index, blocks + reached, n - reached < BATCH ? n - reached : BATCH);
		i = block_find(index, blocks[reached]);
		if (i == NONE)
			break;
		holders_to_bitmap(&index->blocks[i], words, &holders);
		if (!reached)
			alive = holders;
		for (unsigned w = 0; w < words; w++) {
			lost.word[w] = alive.word[w] & ~holders.word[w];
			alive.word[w] &= holders.word[w];
			any |= alive.word[w];
			any_lost |= lost.word[w];
		}
		if (any_lost)
			note_depth(&lost, words, (uint16_t)reached, depth);
		if (!any)
			break;
	}
	if (reached)
		note_depth(&alive, words, (uint16_t)reached, depth);
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

static void insert_one(struct prefix_index *index, uint32_t endpoint, uint64_t hash)
{
	uint32_t block = block_find(index, hash);
	uint32_t pair = block == NONE ? NONE : pair_find(index, block, endpoint);

	if (pair != NONE) {
		lru_remove(index, pair);
		lru_append(index, pair);
		return;
	}
	make_room(index, endpoint);
	block = block_find(index, hash); /* may have gone with its last holder */
	if (block == NONE)
		block = block_add(index, hash);
	if (holders_add(index, &index->blocks[block], endpoint))
		pair_add(index, block, endpoint);
	else if (!index->blocks[block].n_holders)
		block_drop(index, block);
}

static void prefetch_pairs(const struct prefix_index *index, uint32_t endpoint, const uint64_t *blocks, uint32_t n)
{
	uint32_t found[BATCH];

	prefetch_blocks(index, blocks, n);
	for (uint32_t i = 0; i < n; i++) {
		found[i] = block_find(index, blocks[i]);
		if (found[i] != NONE)
			__builtin_prefetch(pair_bucket(index, found[i], endpoint));
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t pair = found[i] == NONE ? NONE : *pair_bucket(index, found[i], endpoint) - 1;

		if (pair != NONE)
			__builtin_prefetch(&index->pairs[pair], 1);
	}
}

void prefix_insert(struct prefix_index *index, uint32_t endpoint, const uint64_t *blocks, uint32_t n)
{
	uint32_t capacity = index->lru[endpoint].capacity;

	if (n > capacity)
		n = capacity;
	while (n) {
		uint32_t batch = n % BATCH ? n % BATCH : BATCH;

		n -= batch;
		prefetch_pairs(index, endpoint, blocks + n, batch);
		for (uint32_t i = batch; i-- > 0;)
			insert_one(index, endpoint, blocks[n + i]);
	}
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
			 index->fresh_pair * sizeof(struct pair) + index->n_bitmaps * sizeof(struct bitmap),
	};
}
