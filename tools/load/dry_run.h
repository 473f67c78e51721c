/* SPDX-License-Identifier: Apache-2.0 */
/* A trace straight through the agent's decision code, against caches and service times that are computed here. */
#ifndef LLMD_TOOLS_LOAD_DRY_RUN_H
#define LLMD_TOOLS_LOAD_DRY_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/decide.h"
#include "tools/load/trace.h"

/**
 * struct dry_run_config - @decide: the policy and its weights, as the agent would have them.
 * @blocks: capacity of each endpoint's cache in trace blocks; 0: without bound. @untold: the policy is not told of it, but of
 * the caches' hits, as an engine's counters would. @slow: endpoints that compute at half the rate.
 * @prefill_rate: tokens per second. @itl_ms: per output token.
 */
struct dry_run_config {
	struct decide_config decide;
	uint32_t endpoints, blocks, slow;
	bool sessions, untold;
	double time_scale, prefill_rate, itl_ms;
};

/**
 * struct dry_run_result - @hit_rate: of all prompt blocks, in the simulated caches.
 * @hot_spot: the largest endpoint's uncached tokens over the mean. @sticky: later turns that stayed where the turn before
 * was. @ttft_p50_s, @ttft_p95_s: of the simulated service. @decide_s: CPU time of all decisions.
 */
struct dry_run_result {
	uint64_t requests, blocks, hits, later_turns, sticky;
	double hit_rate, hot_spot, ttft_p50_s, ttft_p95_s, decide_s;
	uint64_t reasons[DECISION_REASON_N];
};

/** dry_run() - Return: 0 or -errno. */
int dry_run(const struct dry_run_config *config, const struct trace *trace, struct dry_run_result *out);

#endif
