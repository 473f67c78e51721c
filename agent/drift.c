// SPDX-License-Identifier: Apache-2.0
/* Expected and counted hits: see drift.h. */
#include "agent/drift.h"

/*
 * STRETCH: tokens before rates are compared: some dozen prompts. STEP: of the capacity, as a divisor. CAPACITY_MIN: blocks,
 * so that one long prompt still fits.
 */
enum { STRETCH = 256 * 1024, STEP = 8, CAPACITY_MIN = 256 };
/* Rates that differ by less, of each other, are the same: requests in flight are counted on one side only. */
static const double slack = 0.03, memory = 0.5, trust_min = 0.25;

void drift_reset(struct drift *drift)
{
	*drift = (struct drift){ 0 };
}

void drift_expect(struct drift *drift, double queried, double hit)
{
	drift->expected_queried += queried;
	drift->expected_hit += hit;
}

/* Others' requests say nothing about what this agent believes, but that the cache is shared. */
static bool is_mostly_own(const struct drift *drift)
{
	return drift->queried < 1.5 * drift->expected_queried && drift->expected_queried < 1.5 * drift->queried;
}

static void blend(double *rate, double hit, double queried, bool is_known)
{
	*rate = is_known ? memory * *rate + (1 - memory) * hit / queried : hit / queried;
}

bool drift_learn(struct drift *drift, double queried, double hit)
{
	bool own;

	drift->queried += queried;
	drift->hit += hit;
	if (drift->queried < STRETCH || drift->expected_queried <= 0)
		return false;
	own = is_mostly_own(drift);
	if (own) {
		blend(&drift->expected_rate, drift->expected_hit, drift->expected_queried, drift->is_known);
		blend(&drift->rate, drift->hit, drift->queried, drift->is_known);
		drift->is_known = true;
	}
	drift->expected_queried = drift->expected_hit = drift->queried = drift->hit = 0;
	return own;
}

double drift_value(const struct drift *drift)
{
	return drift->is_known ? drift->rate - drift->expected_rate : 0;
}

float drift_trust(const struct drift *drift)
{
	double trust = drift->expected_rate > 0 ? drift->rate / drift->expected_rate : 1;

	return (float)(trust > 1 - slack ? 1 : trust < trust_min ? trust_min : trust);
}

uint32_t drift_capacity(const struct drift *drift, uint32_t held, uint32_t capacity, uint32_t most)
{
	uint32_t now = capacity < held || !held ? capacity : held;

	if (drift->rate < drift->expected_rate * (1 - slack))
		capacity = now - now / STEP;
	else if (drift->rate > drift->expected_rate * (1 + slack) && held + held / STEP >= capacity)
		capacity += capacity / STEP;
	if (capacity < CAPACITY_MIN)
		capacity = CAPACITY_MIN;
	return capacity < most ? capacity : most;
}
