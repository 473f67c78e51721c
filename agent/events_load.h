/* SPDX-License-Identifier: Apache-2.0 */
/* What the other agents have in flight at each pod, summed into struct endpoint. Who falls silent stops counting. */
#ifndef LLMD_AGENT_EVENTS_LOAD_H
#define LLMD_AGENT_EVENTS_LOAD_H

#include <stdint.h>

#include "agent/endpoint.h"

enum { EVENTS_AGENTS_MAX = 1024, EVENTS_LOAD_INTERVALS = 3, EVENTS_LOAD_EVERY_MAX_MS = 60000 };

/** struct events_load_part - at one endpoint; of an earlier pod at that index it no longer counts. */
struct events_load_part {
	uint32_t endpoint, generation, requests;
	uint64_t tokens;
};

struct events_agent_load {
	uint64_t agent, until_ms;
	uint32_t n;
	struct events_load_part *part;
};

struct events_loads {
	uint32_t n;
	struct events_agent_load at[EVENTS_AGENTS_MAX];
};

/**
 * events_load_set() - what @agent has in flight, all of it; counts until @until_ms, monotonic. @part: taken over when it
 * returns 0, from malloc(); NULL for none. Return: 0 or -ENOSPC.
 */
int events_load_set(struct events_loads *loads, struct endpoint_table *endpoints, uint64_t agent, struct events_load_part *part,
	uint32_t n, uint64_t until_ms);

/** events_load_expire() - forgets who has been silent for too long. */
void events_load_expire(struct events_loads *loads, struct endpoint_table *endpoints, uint64_t now_ms);

/** events_load_next() - when the first of them will have been silent for too long; UINT64_MAX: nobody counts. */
uint64_t events_load_next(const struct events_loads *loads);

void events_load_fini(struct events_loads *loads, struct endpoint_table *endpoints);

#endif
