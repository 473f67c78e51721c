// SPDX-License-Identifier: Apache-2.0
/* The pods: see endpoint.h. */
#include "agent/endpoint.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/log.h"

enum { MEAN_OF = 64 /* requests that mean_tokens looks back on */, STATE_LOG_LINES = 10, STATE_LOG_MS = 10000 };

static const char *const state_names[] = { "gone", "starting", "ready", "degraded", "ejected", "draining" };
static_assert(sizeof(state_names) / sizeof(state_names[0]) == ENDPOINT_STATE_N, "a name for each state");

static const char *const engine_names[] = { "unknown", "vllm", "sglang" };
static_assert(sizeof(engine_names) / sizeof(engine_names[0]) == ENDPOINT_ENGINE_N, "a name for each engine");

static const bool legal[ENDPOINT_STATE_N][ENDPOINT_STATE_N] = {
	[ENDPOINT_FREE] = { [ENDPOINT_STARTING] = true },
	[ENDPOINT_STARTING] = { [ENDPOINT_READY] = true, [ENDPOINT_DEGRADED] = true, [ENDPOINT_EJECTED] = true,
		[ENDPOINT_DRAINING] = true, [ENDPOINT_FREE] = true },
	[ENDPOINT_READY] = { [ENDPOINT_DEGRADED] = true, [ENDPOINT_EJECTED] = true, [ENDPOINT_DRAINING] = true,
		[ENDPOINT_FREE] = true },
	[ENDPOINT_DEGRADED] = { [ENDPOINT_READY] = true, [ENDPOINT_EJECTED] = true, [ENDPOINT_DRAINING] = true,
		[ENDPOINT_FREE] = true },
	[ENDPOINT_EJECTED] = { [ENDPOINT_READY] = true, [ENDPOINT_DRAINING] = true, [ENDPOINT_FREE] = true },
	[ENDPOINT_DRAINING] = { [ENDPOINT_STARTING] = true, [ENDPOINT_FREE] = true },
};

const char *endpoint_state_name(enum endpoint_state state)
{
	return state_names[state];
}

const char *endpoint_role_name(enum endpoint_role role)
{
	switch (role) {
	case ENDPOINT_ROLE_DECODE:
		return "decode";
	case ENDPOINT_ROLE_PREFILL:
		return "prefill";
	case ENDPOINT_ROLE_BOTH:
		return "both";
	}
	return "unknown";
}

const char *endpoint_engine_name(enum endpoint_engine engine)
{
	return engine_names[engine];
}

uint64_t endpoint_model_hash(const char *model)
{
	return *model ? XXH3_64bits(model, strlen(model)) | 1 : 0;
}

static int parse_role(enum endpoint_role *out, const char *value)
{
	static const enum endpoint_role roles[] = { ENDPOINT_ROLE_DECODE, ENDPOINT_ROLE_PREFILL, ENDPOINT_ROLE_BOTH };

	for (size_t i = 0; i < 3; i++) {
		if (!strcmp(value, endpoint_role_name(roles[i]))) {
			*out = roles[i];
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_blocks(uint32_t *out, const char *value)
{
	char *end;
	unsigned long blocks = strtoul(value, &end, 10);

	if (*value < '0' || *value > '9' || *end || !blocks || blocks > 1u << 28)
		return -EINVAL;
	*out = (uint32_t)blocks;
	return 0;
}

static int parse_engine(enum endpoint_engine *out, const char *value)
{
	for (enum endpoint_engine engine = 0; engine < ENDPOINT_ENGINE_N; engine++) {
		if (!strcmp(value, engine_names[engine])) {
			*out = engine;
			return 0;
		}
	}
	return -EINVAL;
}

int endpoint_config_set(struct endpoint_config *out, const char *name, const char *value)
{
	if (!strcmp(name, "model")) {
		if (!*value || strlen(value) >= sizeof(out->model))
			return -EINVAL;
		strcpy(out->model, value);
		return 0;
	}
	if (!strcmp(name, "role"))
		return parse_role(&out->role, value);
	if (!strcmp(name, "engine"))
		return parse_engine(&out->engine, value);
	return strcmp(name, "blocks") ? -ENOENT : parse_blocks(&out->blocks, value);
}

static int parse_attribute(struct endpoint_config *out, char *text)
{
	char *value = strchr(text, '=');

	if (!value)
		return -EINVAL;
	*value++ = '\0';
	return endpoint_config_set(out, text, value) ? -EINVAL : 0;
}

int endpoint_config_parse(struct endpoint_config *out, const char *text)
{
	struct endpoint_config parsed = { .role = ENDPOINT_ROLE_BOTH };
	char *copy = strdup(text), *save = NULL;
	char *part = copy ? strtok_r(copy, ",", &save) : NULL;
	int err = part ? address_parse(&parsed.address, part) : -EINVAL;

	if (!err && !parsed.address.port_be)
		err = -EINVAL;
	while (!err && (part = strtok_r(NULL, ",", &save)))
		err = parse_attribute(&parsed, part);
	free(copy);
	if (!err)
		*out = parsed;
	return err;
}

int endpoint_find(const struct endpoint_table *table, const struct address *address)
{
	for (uint32_t i = 0; i < table->n; i++)
		if (table->at[i].state != ENDPOINT_FREE && address_equal(&table->at[i].config.address, address))
			return (int)i;
	return -ENOENT;
}

static uint64_t now_us(const struct endpoint_table *table)
{
	return table->now_us ? table->now_us() : 0;
}

void endpoint_forget_pace(struct endpoint_table *table, uint32_t index)
{
	struct endpoint *endpoint = &table->at[index];

	pace_sum_change(&table->pace_sum, endpoint->token_us, 0);
	endpoint->token_us = 0;
	endpoint->pace = (struct pace){ 0 };
}

static int place(struct endpoint_table *table, uint32_t index, uint32_t generation, const struct endpoint_config *config,
	const char *why)
{
	struct endpoint *endpoint = &table->at[index];

	endpoint_forget_pace(table, index);
	*endpoint = (struct endpoint){ .generation = generation, .config = *config, .role = config->role, .trust = 1,
		.state_pace = endpoint->state_pace, .failure_pace = endpoint->failure_pace };
	endpoint->model_hash = endpoint_model_hash(config->model);
	address_format(&config->address, endpoint->name);
	if (index >= table->n)
		table->n = index + 1;
	table->changes++;
	endpoint_set_state(table, index, ENDPOINT_STARTING, why);
	return (int)index;
}

int endpoint_add(struct endpoint_table *table, const struct endpoint_config *config)
{
	uint32_t i = 0;

	if (endpoint_find(table, &config->address) >= 0)
		return -EEXIST;
	while (i < table->n && table->at[i].state != ENDPOINT_FREE)
		i++;
	if (i == ENDPOINT_MAX)
		return -ENOSPC;
	return place(table, i, table->at[i].generation + 1, config, "added");
}

int endpoint_restore(struct endpoint_table *table, uint32_t index, uint32_t generation, const struct endpoint_config *config)
{
	if (table->at[index].state != ENDPOINT_FREE)
		return -EEXIST;
	return place(table, index, generation, config, "known from before");
}

void endpoint_reconfigure(struct endpoint_table *table, uint32_t index, const struct endpoint_config *config)
{
	struct endpoint *endpoint = &table->at[index];

	endpoint->config = *config;
	endpoint->role = config->role;
	endpoint->model_hash = endpoint_model_hash(config->model);
}

void endpoint_remove(struct endpoint_table *table, uint32_t index)
{
	endpoint_set_state(table, index, ENDPOINT_FREE, "removed");
	table->at[index].generation++;
	table->inflight_requests -= table->at[index].inflight_requests; /* their claims release nothing any more */
	table->at[index].inflight_requests = 0;
	endpoint_set_serves(table, index, 0);
	endpoint_set_loaded(table, index, 0);
	endpoint_forget_pace(table, index);
	table->changes++;
	while (table->n && table->at[table->n - 1].state == ENDPOINT_FREE)
		table->n--;
}

void endpoint_set_state(struct endpoint_table *table, uint32_t index, enum endpoint_state state, const char *why)
{
	struct endpoint *endpoint = &table->at[index];
	char quoted[128];

	assert(legal[endpoint->state][state]);
	log_paced(&endpoint->state_pace, STATE_LOG_LINES, STATE_LOG_MS, LOG_LEVEL_INFO, "endpoint state changed",
		"endpoint=%s from=%s to=%s why=%s", endpoint->name, state_names[endpoint->state],
		state_names[state], log_quote(why, quoted, sizeof(quoted)));
	table->transitions[endpoint->state][state]++;
	endpoint->state = state;
	endpoint->since_ms = now_us(table) / 1000;
	snprintf(endpoint->why, sizeof(endpoint->why), "%s", why);
	if (table->on_change)
		table->on_change(table->on_change_ctx, index);
}

/* ---- names of models and adapters ---- */

uint64_t endpoint_name_bit(const struct endpoint_table *table, uint64_t hash)
{
	for (unsigned i = 0; hash && i < ENDPOINT_NAMES_MAX && table->name_hash[i]; i++)
		if (table->name_hash[i] == hash)
			return 1ull << i;
	return 0;
}

/* Where the name is or may be: one that no endpoint has any more makes room. */
static unsigned name_place(const struct endpoint_table *table, uint64_t hash, uint64_t taken)
{
	unsigned i = 0;

	while (i < ENDPOINT_NAMES_MAX && table->name_hash[i] && table->name_hash[i] != hash)
		i++;
	for (unsigned k = 0; k < ENDPOINT_NAMES_MAX && i == ENDPOINT_NAMES_MAX; k++)
		i = taken >> k & 1 ? i : k;
	return i;
}

uint64_t endpoint_learn_names(struct endpoint_table *table, const uint64_t *hashes, unsigned n)
{
	uint64_t bits = 0;

	for (unsigned i = 0; i < n; i++) {
		unsigned place = hashes[i] ? name_place(table, hashes[i], table->served | table->loaded | bits) : ENDPOINT_NAMES_MAX;

		if (place == ENDPOINT_NAMES_MAX)
			continue; /* requests for it go to any endpoint, as if nobody had told */
		table->name_hash[place] = hashes[i];
		bits |= 1ull << place;
	}
	return bits;
}

void endpoint_set_serves(struct endpoint_table *table, uint32_t index, uint64_t serves)
{
	table->at[index].serves = serves;
	table->served = 0;
	for (uint32_t i = 0; i < table->n; i++)
		table->served |= table->at[i].serves;
}

void endpoint_set_loaded(struct endpoint_table *table, uint32_t index, uint64_t loaded)
{
	if (table->at[index].loaded == loaded)
		return;
	table->at[index].loaded = loaded;
	table->loaded = 0;
	for (uint32_t i = 0; i < table->n; i++)
		table->loaded |= table->at[i].loaded;
}

/* ---- claims ---- */

static void learn_pace(struct endpoint_table *table, struct endpoint *endpoint)
{
	float token_us = pace_token_us(&endpoint->pace);

	pace_sum_change(&table->pace_sum, endpoint->token_us, token_us);
	endpoint->token_us = token_us;
}

void endpoint_claim_restore(struct endpoint_table *table, uint32_t index, uint32_t tokens)
{
	table->at[index].inflight_requests++;
	table->at[index].waiting_requests += tokens != 0;
	table->at[index].inflight_tokens += tokens;
	table->inflight_requests++;
}

void endpoint_claim_take(struct endpoint_table *table, uint32_t index, uint32_t tokens, struct endpoint_claim *claim)
{
	struct endpoint *endpoint = &table->at[index];

	*claim = (struct endpoint_claim){ index, endpoint->generation, tokens, true, tokens != 0 };
	if (table->now_us && tokens && !endpoint->waiting_requests)
		pace_begin(&endpoint->pace, table->now_us());
	table->mean_tokens += (tokens - table->mean_tokens) / MEAN_OF;
	table->inflight_requests++;
	endpoint->inflight_requests++;
	endpoint->waiting_requests += tokens != 0;
	endpoint->inflight_tokens += tokens;
	endpoint->requests++;
}

/* A claim on an earlier pod at this index has nothing to give back: its counts went with it. */
static struct endpoint *claimed(struct endpoint_table *table, const struct endpoint_claim *claim)
{
	struct endpoint *endpoint = &table->at[claim->index];

	return endpoint->generation == claim->generation ? endpoint : NULL;
}

static void release_tokens(struct endpoint *endpoint, struct endpoint_claim *claim)
{
	if (claim->holds_tokens && endpoint) {
		endpoint->inflight_tokens -= claim->tokens;
		endpoint->waiting_requests--;
	}
	claim->holds_tokens = false;
}

void endpoint_claim_release_tokens(struct endpoint_table *table, struct endpoint_claim *claim)
{
	struct endpoint *endpoint = claimed(table, claim);
	bool computed = claim->holds_tokens && endpoint;

	release_tokens(endpoint, claim);
	if (computed && table->now_us && pace_computed(&endpoint->pace, claim->tokens, table->now_us(), !endpoint->waiting_requests))
		learn_pace(table, endpoint);
}

void endpoint_claim_release(struct endpoint_table *table, struct endpoint_claim *claim)
{
	struct endpoint *endpoint = claimed(table, claim);

	if (claim->holds_tokens && endpoint && table->now_us)
		pace_disturbed(&endpoint->pace, table->now_us());
	release_tokens(endpoint, claim);
	if (claim->holds_request && endpoint) {
		endpoint->inflight_requests--;
		table->inflight_requests--;
	}
	claim->holds_request = false;
}
