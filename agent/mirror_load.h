/* SPDX-License-Identifier: Apache-2.0 */
/* The pinned sessions and prefixes back into the decider: part of mirror.c. */
#ifndef LLMD_AGENT_MIRROR_LOAD_H
#define LLMD_AGENT_MIRROR_LOAD_H

#include "agent/mirror.h"

/**
 * struct mirror_load - one load.
 * @stale: called for each hash whose entry is not, or not wholly, what the decider knows now; may delete it from the map.
 * @step: called between entries.
 */
struct mirror_load {
	const struct mirror_parts *parts;
	uint64_t now_ms;
	void (*stale_session)(void *ctx, uint64_t hash);
	void (*stale_prefix)(void *ctx, uint64_t hash);
	void (*step)(void *ctx);
	void *ctx;
	uint64_t loaded, rejected;
};

/** mirror_load_sessions(), mirror_load_prefixes() - Return: 0 or -errno. */
int mirror_load_sessions(struct mirror_load *load);
int mirror_load_prefixes(struct mirror_load *load);

#endif
