// SPDX-License-Identifier: Apache-2.0
/* What the decision knows between requests: see decide.h, decide_private.h. */
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

#include "agent/decide_private.h"
#include "agent/prefix.h"
#include "agent/session.h"

struct decider *decider_new(const struct decide_config *config, struct endpoint_table *endpoints)
{
	struct decider *decider = calloc(1, sizeof(*decider));

	if (!decider)
		return NULL;
	decider->config = *config;
	decider->endpoints = endpoints;
	decider->random = config->seed;
	if (!config->seed)
		randombytes_buf(&decider->random, sizeof(decider->random));
	decider->random |= 1; /* xorshift stays at 0 */
	decider->sessions = session_table_new(config->sessions_max, config->session_ttl_ms);
	decider->prefixes = prefix_index_new(config->prefix_blocks_max);
	if (decider->sessions && decider->prefixes)
		return decider;
	decider_free(decider);
	return NULL;
}

void decider_free(struct decider *decider)
{
	if (!decider)
		return;
	session_table_free(decider->sessions);
	prefix_index_free(decider->prefixes);
	free(decider);
}

void decider_listen(struct decider *decider, const struct decider_listener *listener)
{
	decider->listener = *listener;
}

/* ---- what is learnt of the endpoints ---- */

static void set_trust(struct decider *decider, struct endpoint *endpoint, float trust)
{
	decider->n_distrusted = 0;
	endpoint->trust = trust;
	for (uint32_t i = 0; i < decider->endpoints->n; i++)
		decider->n_distrusted += decider->endpoints->at[i].trust < 1;
}

void decider_set_capacity(struct decider *decider, uint32_t index, uint32_t blocks)
{
	decider->capacity[index] = blocks;
	prefix_set_capacity(decider->prefixes, index, blocks);
}

uint32_t decider_capacity(const struct decider *decider, uint32_t index)
{
	return decider->capacity[index];
}

bool decider_learn_hits(struct decider *decider, uint32_t index, double queried, double hit, bool told)
{
	struct drift *drift = &decider->drift[index];
	struct endpoint *endpoint = &decider->endpoints->at[index];

	if (!drift_learn(drift, queried, hit))
		return false;
	set_trust(decider, endpoint, drift_trust(drift));
	if (!told)
		decider_set_capacity(decider, index, drift_capacity(drift, prefix_count(decider->prefixes, index), decider->capacity[index],
			decider->config.default_capacity_blocks));
	return true;
}

double decider_drift(const struct decider *decider, uint32_t index)
{
	return drift_value(&decider->drift[index]);
}

void decider_follow_endpoints(struct decider *decider)
{
	if (decider->seen_changes == decider->endpoints->changes)
		return;
	decider->seen_changes = decider->endpoints->changes;
	for (uint32_t i = 0; i < ENDPOINT_MAX; i++) { /* those that are gone, too: their blocks take room */
		const struct endpoint *endpoint = &decider->endpoints->at[i];

		if (decider->generation[i] == endpoint->generation)
			continue;
		decider->generation[i] = endpoint->generation;
		decider_forget_endpoint(decider, i);
		decider_set_capacity(decider, i,
			endpoint->config.blocks ? endpoint->config.blocks : decider->config.default_capacity_blocks);
	}
}

void decider_forget_endpoint(struct decider *decider, uint32_t index)
{
	prefix_clear(decider->prefixes, index);
	decider->placed[index] = 0;
	drift_reset(&decider->drift[index]);
	set_trust(decider, &decider->endpoints->at[index], 1);
}

struct session_table *decider_sessions(const struct decider *decider)
{
	return decider->sessions;
}

struct prefix_index *decider_prefixes(const struct decider *decider)
{
	return decider->prefixes;
}

int decider_session_get(const struct decider *decider, uint64_t session, uint64_t now_ms, uint32_t *index, uint64_t *uses,
	uint64_t *idle_ms)
{
	const struct session *found = session_find(decider->sessions, session, now_ms);

	if (!found || decider->endpoints->at[found->endpoint].generation != found->generation)
		return -ENOENT;
	*index = found->endpoint;
	*uses = found->uses;
	*idle_ms = now_ms > found->last_used_ms ? now_ms - found->last_used_ms : 0;
	return 0;
}

void decider_get_stats(const struct decider *decider, struct decider_stats *out)
{
	struct session_stats sessions;
	struct prefix_stats prefixes;

	session_get_stats(decider->sessions, &sessions);
	prefix_get_stats(decider->prefixes, &prefixes);
	*out = (struct decider_stats){
		.sessions = sessions.n,
		.sessions_max = sessions.max,
		.sessions_evicted = sessions.evicted,
		.sessions_expired = sessions.expired,
		.prefix_blocks = prefixes.pairs,
		.prefix_blocks_distinct = prefixes.blocks,
		.prefix_blocks_max = prefixes.max,
		.prefix_evicted = prefixes.evicted,
		.queried_blocks = decider->queried_blocks,
		.hit_blocks = decider->hit_blocks,
		.bytes = sessions.bytes + prefixes.bytes,
	};
}

uint64_t decider_endpoint_blocks(const struct decider *decider, uint32_t index)
{
	return prefix_count(decider->prefixes, index);
}
