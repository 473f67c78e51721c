// SPDX-License-Identifier: Apache-2.0
/*
 * The prefix cache of a simulated pod, after vLLM's block pool (vllm/v1/core/block_pool.py): a fixed number of blocks;
 * full prompt blocks are found by the hash of their content and all before it; blocks of running requests are counted
 * references; free ones stay cached in a queue and are evicted from its head. A request gives its blocks back from the
 * last to the first, so tails go before heads.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/sim/sim.h"

enum { NONE = UINT32_MAX };

struct kv_block {
	uint64_t hash; /* 0: not cached */
	uint32_t references, chain, older, newer;
};

struct kv_cache {
	uint32_t n, n_free, mask, oldest, newest;
	uint32_t *buckets; /* index + 1 */
	struct kv_block *block;
};

static void queue_add(struct kv_cache *cache, uint32_t i)
{
	cache->block[i].older = cache->newest;
	cache->block[i].newer = NONE;
	*(cache->newest == NONE ? &cache->oldest : &cache->block[cache->newest].newer) = i;
	cache->newest = i;
	cache->n_free++;
}

static void queue_remove(struct kv_cache *cache, uint32_t i)
{
	struct kv_block *block = &cache->block[i];

	*(block->older == NONE ? &cache->oldest : &cache->block[block->older].newer) = block->newer;
	*(block->newer == NONE ? &cache->newest : &cache->block[block->newer].older) = block->older;
	cache->n_free--;
}

void kv_cache_reset(struct kv_cache *cache)
{
	memset(cache->buckets, 0, ((size_t)cache->mask + 1) * sizeof(*cache->buckets));
	for (uint32_t i = 0; i < cache->n; i++)
		cache->block[i].hash = 0;
}

struct kv_cache *kv_cache_new(uint32_t n_blocks)
{
	struct kv_cache *cache = calloc(1, sizeof(*cache));
	uint32_t n = 16;

	if (!cache)
		return NULL;
	while (n < n_blocks)
		n *= 2;
	cache->n = n_blocks;
	cache->mask = n - 1;
	cache->oldest = cache->newest = NONE;
	cache->buckets = calloc(n, sizeof(*cache->buckets));
	cache->block = calloc(n_blocks, sizeof(*cache->block));
	if (!cache->buckets || !cache->block) {
		kv_cache_free(cache);
		return NULL;
	}
	for (uint32_t i = 0; i < n_blocks; i++)
		queue_add(cache, i);
	return cache;
}

void kv_cache_free(struct kv_cache *cache)
{
	if (!cache)
		return;
	free(cache->buckets);
	free(cache->block);
	free(cache);
}

static uint32_t find(const struct kv_cache *cache, uint64_t hash)
{
	uint32_t i = cache->buckets[hash & cache->mask] - 1;

	while (i != NONE && cache->block[i].hash != hash)
		i = cache->block[i].chain;
	return i;
}

static void forget(struct kv_cache *cache, uint32_t i)
{
	uint32_t *bucket = &cache->buckets[cache->block[i].hash & cache->mask];
	uint32_t at = *bucket - 1;

	if (!cache->block[i].hash)
		return;
	if (at == i) {
		*bucket = cache->block[i].chain + 1;
	} else {
		while (cache->block[at].chain != i)
			at = cache->block[at].chain;
		cache->block[at].chain = cache->block[i].chain;
	}
	cache->block[i].hash = 0;
}

static void remember(struct kv_cache *cache, uint32_t i, uint64_t hash)
{
	uint32_t *bucket = &cache->buckets[hash & cache->mask];

	cache->block[i].hash = hash;
	cache->block[i].chain = *bucket - 1;
	*bucket = i + 1;
}

uint32_t kv_cache_match(const struct kv_cache *cache, const uint64_t *hashes, uint32_t n)
{
	uint32_t i = 0;

	while (i < n && find(cache, hashes[i]) != NONE)
		i++;
	return i;
}

static uint32_t take_one(struct kv_cache *cache, uint64_t hash)
{
	uint32_t i = hash ? find(cache, hash) : NONE;

	if (i == NONE) {
		i = cache->oldest;
		queue_remove(cache, i);
		forget(cache, i);
		if (hash)
			remember(cache, i, hash);
	} else if (!cache->block[i].references) {
		queue_remove(cache, i);
	}
	cache->block[i].references++;
	return i;
}

int kv_cache_take(struct kv_cache *cache, const uint64_t *hashes, uint32_t n_hashes, uint32_t n, uint32_t *blocks)
{
	uint32_t cached = kv_cache_match(cache, hashes, n_hashes), needed = n - cached;

	for (uint32_t i = 0; i < cached; i++)
		needed += !cache->block[find(cache, hashes[i])].references;
	if (needed > cache->n_free)
		return -ENOSPC;
	for (uint32_t i = 0; i < n; i++)
		blocks[i] = take_one(cache, i < n_hashes ? hashes[i] : 0);
	return 0;
}

void kv_cache_give(struct kv_cache *cache, const uint32_t *blocks, uint32_t n)
{
	while (n-- > 0)
		if (!--cache->block[blocks[n]].references)
			queue_add(cache, blocks[n]);
}

uint32_t kv_cache_in_use(const struct kv_cache *cache)
{
	return cache->n - cache->n_free;
}
