// SPDX-License-Identifier: Apache-2.0
/* What the other agents have in flight: see events_load.h. */
#include "agent/events_load.h"

#include <errno.h>
#include <stdlib.h>

static void count(struct endpoint_table *endpoints, const struct events_agent_load *load, int sign)
{
	for (uint32_t i = 0; i < load->n; i++) {
		const struct events_load_part *part = &load->part[i];
		struct endpoint *endpoint = &endpoints->at[part->endpoint];

		if (endpoint->generation != part->generation || endpoint->state == ENDPOINT_FREE)
			continue;
		endpoint->remote_tokens += sign > 0 ? part->tokens : -part->tokens;
		endpoint->remote_requests += sign > 0 ? part->requests : -part->requests;
	}
}

static void forget(struct events_loads *loads, struct endpoint_table *endpoints, uint32_t i)
{
	count(endpoints, &loads->at[i], -1);
	free(loads->at[i].part);
	loads->at[i] = loads->at[--loads->n];
}

int events_load_set(struct events_loads *loads, struct endpoint_table *endpoints, uint64_t agent, struct events_load_part *part,
	uint32_t n, uint64_t until_ms)
{
	uint32_t i = 0;

	while (i < loads->n && loads->at[i].agent != agent)
		i++;
	if (i < loads->n)
		forget(loads, endpoints, i);
	if (!n) {
		free(part);
		return 0;
	}
	if (loads->n == EVENTS_AGENTS_MAX)
		return -ENOSPC;
	loads->at[loads->n] = (struct events_agent_load){ agent, until_ms, n, part };
	count(endpoints, &loads->at[loads->n++], 1);
	return 0;
}

void events_load_expire(struct events_loads *loads, struct endpoint_table *endpoints, uint64_t now_ms)
{
	for (uint32_t i = loads->n; i-- > 0;)
		if (loads->at[i].until_ms <= now_ms)
			forget(loads, endpoints, i);
}

uint64_t events_load_next(const struct events_loads *loads)
{
	uint64_t next = UINT64_MAX;

	for (uint32_t i = 0; i < loads->n; i++)
		if (loads->at[i].until_ms < next)
			next = loads->at[i].until_ms;
	return next;
}

void events_load_fini(struct events_loads *loads, struct endpoint_table *endpoints)
{
	while (loads->n)
		forget(loads, endpoints, loads->n - 1);
}
