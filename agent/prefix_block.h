/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A prefix block and the endpoints that hold it: a few indexes in place, a bitmap beyond that. Both know who used the block
 * last: the indexes in place stand in that order, beside the bitmap stand the PREFIX_HOLDERS_MAX most recent ones.
 */
#ifndef LLMD_AGENT_PREFIX_BLOCK_H
#define LLMD_AGENT_PREFIX_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/prefix.h"

enum { PREFIX_INLINE_HOLDERS = 6, PREFIX_WORDS = ENDPOINT_MAX / 64 };

struct endpoint_set {
	uint64_t word[PREFIX_WORDS];
};

/** struct many_holders - @recent: of @set, the most recent first. */
struct many_holders {
	struct endpoint_set set;
	uint16_t n_recent, recent[PREFIX_HOLDERS_MAX];
};

/**
 * struct block - @holder: while there is no @many, the most recent first.
 * @used_ms: low bits of the time of its last use.
 */
struct block {
	uint64_t hash;
	uint32_t chain;
	uint32_t used_ms;
	uint16_t depth;
	uint16_t n_holders;
	uint16_t holder[PREFIX_INLINE_HOLDERS];
	struct many_holders *many;
};

static inline void recent_remove(uint16_t *list, uint16_t *n, uint16_t endpoint)
{
	uint16_t i = 0;

	while (i < *n && list[i] != endpoint)
		i++;
	if (i == *n)
		return;
	--*n;
	memmove(list + i, list + i + 1, (*n - i) * sizeof(*list));
}

/* To the front; the last one goes if there is no room. */
static inline void recent_use(uint16_t *list, uint16_t *n, uint16_t max, uint16_t endpoint)
{
	uint16_t i = 0;

	while (i < *n && list[i] != endpoint)
		i++;
	if (i == *n && *n < max)
		++*n;
	else if (i == *n)
		i--;
	for (; i; i--) /* a few at most: less than a call of memmove() */
		list[i] = list[i - 1];
	list[0] = endpoint;
}

static inline void holders_to_set(const struct block *block, struct endpoint_set *out)
{
	if (block->many) {
		*out = block->many->set;
		return;
	}
	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < block->n_holders; i++)
		out->word[block->holder[i] / 64] |= 1ull << block->holder[i] % 64;
}

static inline bool holders_have(const struct block *block, uint16_t endpoint)
{
	if (block->many)
		return block->many->set.word[endpoint / 64] >> endpoint % 64 & 1;
	for (unsigned i = 0; i < block->n_holders; i++)
		if (block->holder[i] == endpoint)
			return true;
	return false;
}

/** holders_use() - one of them has used the block. */
static inline void holders_use(struct block *block, uint16_t endpoint)
{
	if (block->many)
		recent_use(block->many->recent, &block->many->n_recent, PREFIX_HOLDERS_MAX, endpoint);
	else
		recent_use(block->holder, &block->n_holders, PREFIX_INLINE_HOLDERS, endpoint);
}

static inline struct many_holders *holders_to_many(const struct block *block)
{
	struct many_holders *many = malloc(sizeof(*many));

	if (!many)
		return NULL;
	holders_to_set(block, &many->set);
	many->n_recent = block->n_holders;
	memcpy(many->recent, block->holder, block->n_holders * sizeof(*block->holder));
	return many;
}

/** holders_add() - one that is not among them. @n_many: counts the blocks with a bitmap. */
static inline bool holders_add(struct block *block, uint16_t endpoint, uint64_t *n_many)
{
	if (!block->many && block->n_holders < PREFIX_INLINE_HOLDERS) {
		holders_use(block, endpoint);
		return true;
	}
	if (!block->many) {
		block->many = holders_to_many(block);
		if (!block->many)
			return false;
		++*n_many;
	}
	block->many->set.word[endpoint / 64] |= 1ull << endpoint % 64;
	block->n_holders++;
	holders_use(block, endpoint);
	return true;
}

static inline void holders_to_inline(struct block *block, uint64_t *n_many)
{
	struct endpoint_set *rest = &block->many->set;
	uint16_t n = block->many->n_recent;

	memcpy(block->holder, block->many->recent, n * sizeof(*block->holder));
	for (unsigned i = 0; i < n; i++)
		rest->word[block->holder[i] / 64] &= ~(1ull << block->holder[i] % 64);
	for (unsigned w = 0; w < PREFIX_WORDS; w++)
		for (uint64_t word = rest->word[w]; word; word &= word - 1)
			block->holder[n++] = (uint16_t)(w * 64 + (unsigned)__builtin_ctzll(word));
	free(block->many);
	block->many = NULL;
	--*n_many;
}

/** holders_remove() - back in place only well below the limit, so that a set at its edge does not go to and fro. */
static inline void holders_remove(struct block *block, uint16_t endpoint, uint64_t *n_many)
{
	if (!block->many) {
		recent_remove(block->holder, &block->n_holders, endpoint);
		return;
	}
	block->n_holders--;
	block->many->set.word[endpoint / 64] &= ~(1ull << endpoint % 64);
	recent_remove(block->many->recent, &block->many->n_recent, endpoint);
	if (block->n_holders <= PREFIX_INLINE_HOLDERS / 2)
		holders_to_inline(block, n_many);
}

#endif
