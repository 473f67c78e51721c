/* SPDX-License-Identifier: Apache-2.0 */
/* Which endpoints have held all of a prompt's blocks so far, block by block: a part of prefix.c. */
#ifndef LLMD_AGENT_PREFIX_MATCH_H
#define LLMD_AGENT_PREFIX_MATCH_H

#include "agent/prefix_block.h"

/**
 * struct match - who has held all blocks so far: @set, or @few once they are so few that a block names them in place.
 * @words: of a set that endpoints are in: a handful of pods fills one.
 */
struct match {
	uint16_t *depth;
	unsigned words;
	struct endpoint_set set;
	uint16_t few[PREFIX_INLINE_HOLDERS];
	unsigned n_few;
	bool is_few;
};

static inline void note_depth(const struct match *match, const struct endpoint_set *lost, uint16_t reached)
{
	for (unsigned w = 0; w < match->words; w++) {
		uint16_t *depth = match->depth + w * 64;

		if (lost->word[w] == UINT64_MAX)
			for (unsigned i = 0; i < 64; i++)
				depth[i] = reached;
		else
			for (uint64_t word = lost->word[w]; word; word &= word - 1)
				depth[__builtin_ctzll(word)] = reached;
	}
}

static inline bool match_sets(struct match *match, const struct block *block, uint16_t reached)
{
	struct endpoint_set lost;
	uint64_t any = 0, any_lost = 0;

	for (unsigned w = 0; w < match->words; w++) {
		lost.word[w] = match->set.word[w] & ~block->many->set.word[w];
		match->set.word[w] &= block->many->set.word[w];
		any |= match->set.word[w];
		any_lost |= lost.word[w];
	}
	if (any_lost)
		note_depth(match, &lost, reached);
	return any;
}

static inline bool match_becomes_few(struct match *match, const struct block *block, uint16_t reached)
{
	match->is_few = true;
	for (unsigned i = 0; i < block->n_holders; i++) {
		uint16_t holder = block->holder[i];
		uint64_t bit = 1ull << holder % 64;

		if (match->set.word[holder / 64] & bit)
			match->few[match->n_few++] = holder;
		match->set.word[holder / 64] &= ~bit;
	}
	note_depth(match, &match->set, reached);
	return match->n_few;
}

static inline bool match_few(struct match *match, const struct block *block, uint16_t reached)
{
	unsigned left = 0;

	for (unsigned i = 0; i < match->n_few; i++) {
		if (holders_have(block, match->few[i]))
			match->few[left++] = match->few[i];
		else
			match->depth[match->few[i]] = reached;
	}
	match->n_few = left;
	return left;
}

/** match_block() - the next block, which is number @reached from 0. Return: whether any endpoint is left. */
static inline bool match_block(struct match *match, const struct block *block, uint16_t reached)
{
	if (match->is_few)
		return match_few(match, block, reached);
	if (!block->many)
		return match_becomes_few(match, block, reached);
	return match_sets(match, block, reached);
}

#endif
