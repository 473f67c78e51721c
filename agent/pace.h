/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast a pod computes prompts, learnt from when answers begin.
 *
 * While requests wait at a pod for their first content, it is busy: tokens whose answers began, by the time it was busy, is
 * its pace, however long the queue was. A period in which a request ended otherwise tells nothing. Fixed delays count as
 * computing, so short periods are left out.
 */
#ifndef LLMD_AGENT_PACE_H
#define LLMD_AGENT_PACE_H

#include <stdbool.h>
#include <stdint.h>

/** struct pace - of one pod. @tokens, @us: sums over the last periods. */
struct pace {
	uint64_t since_us; /* of the present period; 0: none that counts */
	uint64_t computed;
	double tokens, us;
};

/** struct pace_sum - over all pods whose pace is known: of their tokens per microsecond. */
struct pace_sum {
	double rates;
	uint32_t n;
};

/** pace_begin() - the first request waits there. */
void pace_begin(struct pace *pace, uint64_t now_us);

/** pace_computed() - an answer began that took @tokens. @is_last: nobody waits any more. Return: whether the pace is new. */
bool pace_computed(struct pace *pace, uint32_t tokens, uint64_t now_us, bool is_last);

/** pace_disturbed() - a request ended without an answer: the present period begins anew. */
void pace_disturbed(struct pace *pace, uint64_t now_us);

/** pace_token_us() - time of a token; 0 while too little is known. */
float pace_token_us(const struct pace *pace);

/** pace_sum_change() - one pod's time of a token is @now instead of @before; 0: not known. */
void pace_sum_change(struct pace_sum *sum, float before, float now);

/** pace_mean_rate() - tokens per microsecond; 0 while fewer than two pods are known. */
static inline float pace_mean_rate(const struct pace_sum *sum)
{
	return sum->n < 2 ? 0 : (float)(sum->rates / sum->n);
}

/** pace_slowness() - how many times slower than the mean; 1 if that cannot be told, or hardly differs. */
static inline float pace_slowness(float mean_rate, float token_us)
{
	const float slack = 1.05f; /* chance makes no difference */
	float slowness = token_us * mean_rate;

	if (slowness <= 0)
		return 1;
	return slowness > slack ? slowness / slack : slowness < 1 / slack ? slowness * slack : 1;
}

#endif
