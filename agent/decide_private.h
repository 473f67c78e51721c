/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the decision share: decide.c decides, decide_state.c keeps what is known between decisions. */
#ifndef LLMD_AGENT_DECIDE_PRIVATE_H
#define LLMD_AGENT_DECIDE_PRIVATE_H

#include "agent/decide.h"
#include "agent/drift.h"

struct decider {
	struct decide_config config;
	struct endpoint_table *endpoints;
	struct session_table *sessions;
	struct prefix_index *prefixes;
	uint64_t random, round, epoch_ms;
	uint64_t queried_blocks, hit_blocks;
	struct drift drift[ENDPOINT_MAX];
	uint32_t capacity[ENDPOINT_MAX]; /* of its prefix cache, in blocks */
	double placed[ENDPOINT_MAX]; /* tokens, in the worth of the epoch */
	struct decider_listener listener;
	uint32_t seen_changes, n_distrusted;
	uint32_t generation[ENDPOINT_MAX]; /* that the prefixes and @placed belong to */
	uint16_t depth[ENDPOINT_MAX];
	/* Of the present request's candidates, side by side: a decision goes over them several times. */
	uint16_t candidate[ENDPOINT_MAX];
	float slowness[ENDPOINT_MAX]; /* by endpoint */
	double ahead[ENDPOINT_MAX], load[ENDPOINT_MAX];	   /* by endpoint, in the mean endpoint's tokens */
	double score[ENDPOINT_MAX];
};

#endif
