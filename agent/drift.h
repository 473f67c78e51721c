/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hits that were expected of a pod beside those that its engine has counted, and what follows from the difference.
 *
 * Both are compared as rates over the same stretch of time, since the agent only guesses tokens from bytes. Fewer hits than
 * expected: the cache is smaller than believed; more: it is larger, or others' requests share prefixes. The belief moves in
 * steps of an eighth, so that it settles within a step of the truth. Until it has, expected hits are discounted.
 */
#ifndef LLMD_AGENT_DRIFT_H
#define LLMD_AGENT_DRIFT_H

#include <stdbool.h>
#include <stdint.h>

/** struct drift - tokens of the present stretch, and the rates of the last ones (older ones count less). */
struct drift {
	double expected_queried, expected_hit, queried, hit;
	double expected_rate, rate;
	bool is_known;
};

void drift_reset(struct drift *drift);

/** drift_expect() - a request was sent there. */
void drift_expect(struct drift *drift, double queried, double hit);

/** drift_learn() - the engine's counters have grown by that. Return: whether a stretch is complete, and the rates are new. */
bool drift_learn(struct drift *drift, double queried, double hit);

/** drift_value() - the engine's hit rate less the expected one; 0 while not known. */
double drift_value(const struct drift *drift);

/** drift_trust() - share of the expected hits that come true, at most 1. */
float drift_trust(const struct drift *drift);

/** drift_capacity() - what to believe from now on. @held: blocks that it is believed to hold. @most: never more. */
uint32_t drift_capacity(const struct drift *drift, uint32_t held, uint32_t capacity, uint32_t most);

#endif
