// SPDX-License-Identifier: Apache-2.0
/*
 * What the engines tell of themselves: see engine.h.
 *
 * Of an engine's waiting queue that part is added to the tokens in flight which this agent has not sent. A KV cache that is
 * nearly full of running requests preempts them: the last tenth counts like a queue. All of it ends when the engine is
 * silent for ENGINE_STALE_MS: then the agent's own counts are all there is.
 *
 * A process that started later, or counters that went back, are another engine at the same address: nothing is cached there.
 */
#include "agent/engine.h"

#include <math.h>
#include <stdlib.h>

#include "agent/agent.h"
#include "agent/decide.h"
#include "agent/endpoint.h"
#include "agent/events.h"
#include "lib/log.h"

enum { FULL_CACHE_TOKENS = 65536, START_SLACK_S = 1, LOG_LINES = 5, LOG_MS = 60000 };
static const double full_cache_from = 0.9;

struct engines {
	struct agent *agent;
	struct engine_state at[ENDPOINT_MAX];
};

struct engines *engines_new(struct agent *agent)
{
	struct engines *engines = calloc(1, sizeof(*engines));

	if (engines)
		engines->agent = agent;
	return engines;
}

void engines_free(struct engines *engines)
{
	free(engines);
}

const struct engine_state *engine_state(const struct engines *engines, uint32_t index)
{
	static const struct engine_state nothing;
	const struct engine_state *state = &engines->at[index];

	return state->generation == engines->agent->endpoints->at[index].generation ? state : &nothing;
}

static struct engine_state *state_of(struct engines *engines, uint32_t index)
{
	struct engine_state *state = &engines->at[index];
	uint32_t generation = engines->agent->endpoints->at[index].generation;

	if (state->generation != generation)
		*state = (struct engine_state){ .generation = generation };
	return state;
}

static bool went_back(const struct engine_sample *before, const struct engine_sample *now, enum engine_number number)
{
	return before->n[number] && now->n[number] && now->number[number] < before->number[number];
}

static const char *restart_sign(const struct engine_sample *before, const struct engine_sample *now)
{
	if (before->n[ENGINE_STARTED] && now->n[ENGINE_STARTED] &&
		fabs(now->number[ENGINE_STARTED] - before->number[ENGINE_STARTED]) > START_SLACK_S)
		return "its process has another start time";
	if (went_back(before, now, ENGINE_PROMPT) || went_back(before, now, ENGINE_QUERIED) || went_back(before, now, ENGINE_HIT))
		return "its counters went back";
	return NULL;
}

static void restarted(struct engines *engines, uint32_t index, const char *sign)
{
	struct agent *agent = engines->agent;

	log_paced(&engines->at[index].restarted_pace, LOG_LINES, LOG_MS, LOG_LEVEL_WARN, "engine restarted",
		"endpoint=%s why=\"%s\" prefix_blocks=%lu", agent->endpoints->at[index].name, sign,
		(unsigned long)decider_endpoint_blocks(agent->decider, index));
	engines->at[index].restarts++;
	engines->at[index].is_known = false;
	decider_forget_endpoint(agent->decider, index);
	if (agent->events)
		events_publish_cleared(agent->events, index);
	endpoint_forget_pace(agent->endpoints, index);
}

/* The engine's blocks hold tokens, the agent's hold bytes. What the configuration says goes before. */
static void take_capacity(struct engines *engines, uint32_t index, const struct engine_sample *sample)
{
	struct agent *agent = engines->agent;
	double bytes = sample->number[ENGINE_CAPACITY] * agent->config.bytes_per_token, blocks = bytes / (double)agent->config.prefix_block;
	uint32_t capacity = blocks < 1 ? 1 : blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX;

	if (agent->endpoints->at[index].config.blocks || !sample->n[ENGINE_CAPACITY])
		return;
	engines->at[index].told_capacity = true;
	if (capacity == decider_capacity(agent->decider, index))
		return;
	log_paced(&engines->at[index].capacity_pace, LOG_LINES, LOG_MS, LOG_LEVEL_INFO, "capacity told",
		"endpoint=%s tokens=%.0f prefix_blocks=%u", agent->endpoints->at[index].name,
		sample->number[ENGINE_CAPACITY], capacity);
	decider_set_capacity(agent->decider, index, capacity);
}

static uint32_t queued_tokens(const struct endpoint_table *table, const struct endpoint *endpoint, const struct engine_sample *sample)
{
	double others = sample->number[ENGINE_WAITING] - endpoint->waiting_requests;
	double usage = sample->n[ENGINE_KV_USAGE] ? sample->number[ENGINE_KV_USAGE] / sample->n[ENGINE_KV_USAGE] : 0;
	double tokens = others > 0 ? others * table->mean_tokens : 0;

	if (usage > full_cache_from)
		tokens += FULL_CACHE_TOKENS * (usage - full_cache_from) / (1 - full_cache_from);
	return tokens < UINT32_MAX ? (uint32_t)tokens : UINT32_MAX;
}

static void learn_hits(struct engines *engines, uint32_t index, const struct engine_sample *sample)
{
	const struct engine_state *state = &engines->at[index];
	struct agent *agent = engines->agent;
	uint32_t before = decider_capacity(agent->decider, index);
	bool told = state->told_capacity || agent->endpoints->at[index].config.blocks;

	if (!state->is_known || !sample->n[ENGINE_QUERIED] || !sample->n[ENGINE_HIT])
		return;
	if (decider_learn_hits(agent->decider, index, sample->number[ENGINE_QUERIED] - state->sample.number[ENGINE_QUERIED],
		    sample->number[ENGINE_HIT] - state->sample.number[ENGINE_HIT], told) &&
		before != decider_capacity(agent->decider, index))
		log_debug("capacity learnt", "endpoint=%s prefix_blocks=%u", agent->endpoints->at[index].name,
			decider_capacity(agent->decider, index));
}

static void take_adapters(struct endpoint_table *table, uint32_t index, const struct engine_sample *sample)
{
	endpoint_set_loaded(table, index, endpoint_learn_names(table, sample->adapter, sample->n_adapters));
}

void engine_sampled(struct engines *engines, uint32_t index, const struct engine_sample *sample, uint64_t now_ms)
{
	struct endpoint_table *table = engines->agent->endpoints;
	struct endpoint *endpoint = &table->at[index];
	struct engine_state *state = state_of(engines, index);
	const char *sign = state->is_known ? restart_sign(&state->sample, sample) : NULL;

	decider_follow_endpoints(engines->agent->decider); /* or what is set here would be taken for an earlier pod's */
	if (sign)
		restarted(engines, index, sign);
	take_capacity(engines, index, sample);
	learn_hits(engines, index, sample);
	endpoint->queued_tokens = queued_tokens(table, endpoint, sample);
	take_adapters(table, index, sample);
	state->sample = *sample;
	state->samples++;
	state->at_ms = now_ms;
	state->is_fresh = state->is_known = true;
}

void engine_not_sampled(struct engines *engines, uint32_t index)
{
	state_of(engines, index)->failures++;
}

void engine_serves(struct engines *engines, uint32_t index, const uint64_t *models, unsigned n)
{
	struct endpoint_table *table = engines->agent->endpoints;
	uint64_t serves = endpoint_learn_names(table, models, n);

	if (serves != table->at[index].serves)
		endpoint_set_serves(table, index, serves);
}

void engine_age(struct engines *engines, uint32_t index, uint64_t now_ms)
{
	struct endpoint *endpoint = &engines->agent->endpoints->at[index];
	struct engine_state *state = &engines->at[index];

	if (!state->is_fresh || now_ms < state->at_ms + ENGINE_STALE_MS)
		return;
	state->is_fresh = false;
	endpoint->queued_tokens = 0;
	endpoint_set_loaded(engines->agent->endpoints, index, 0);
}
