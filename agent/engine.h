/* SPDX-License-Identifier: Apache-2.0 */
/* What the engines tell of themselves (/metrics, /v1/models), and what the decision makes of it. */
#ifndef LLMD_AGENT_ENGINE_H
#define LLMD_AGENT_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/engine_text.h"
#include "lib/log.h"

struct agent;
struct engines;

enum { ENGINE_STALE_MS = 5000 };

/** struct engine_state - of one pod, for those who show it. @sample: the last; @is_fresh: younger than ENGINE_STALE_MS. */
struct engine_state {
	uint32_t generation;
	bool is_fresh, is_known, told_capacity;
	uint64_t at_ms, samples, failures, restarts;
	struct engine_sample sample;
	struct log_pace restarted_pace, capacity_pace;
};

struct engines *engines_new(struct agent *agent);
void engines_free(struct engines *engines);

/** engine_sampled() - a scrape has succeeded. */
void engine_sampled(struct engines *engines, uint32_t index, const struct engine_sample *sample, uint64_t now_ms);

/** engine_not_sampled() - a scrape has failed. */
void engine_not_sampled(struct engines *engines, uint32_t index);

/** engine_serves() - it lists these models. */
void engine_serves(struct engines *engines, uint32_t index, const uint64_t *models, unsigned n);

/** engine_age() - called now and then: what was told too long ago counts no more. */
void engine_age(struct engines *engines, uint32_t index, uint64_t now_ms);

const struct engine_state *engine_state(const struct engines *engines, uint32_t index);

#endif
