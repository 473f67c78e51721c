// SPDX-License-Identifier: Apache-2.0
/* The pods: see endpoint.h. */
#include "agent/endpoint.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/log.h"

static const char *const state_names[] = { "free", "starting", "ready", "down", "draining" };
static_assert(sizeof(state_names) / sizeof(state_names[0]) == ENDPOINT_STATE_N, "a name for each state");

static const bool legal[ENDPOINT_STATE_N][ENDPOINT_STATE_N] = {
	[ENDPOINT_FREE] = { [ENDPOINT_STARTING] = true },
	[ENDPOINT_STARTING] = { [ENDPOINT_READY] = true, [ENDPOINT_DOWN] = true, [ENDPOINT_DRAINING] = true,
		[ENDPOINT_FREE] = true },
	[ENDPOINT_READY] = { [ENDPOINT_DOWN] = true, [ENDPOINT_DRAINING] = true, [ENDPOINT_FREE] = true },
	[ENDPOINT_DOWN] = { [ENDPOINT_READY] = true, [ENDPOINT_DRAINING] = true, [ENDPOINT_FREE] = true },
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

static int parse_attribute(struct endpoint_config *out, char *text)
{
	char *value = strchr(text, '=');

	if (!value || !value[1])
		return -EINVAL;
	*value++ = '\0';
	if (!strcmp(text, "model")) {
		if (strlen(value) >= sizeof(out->model))
			return -EINVAL;
		strcpy(out->model, value);
		return 0;
	}
	if (!strcmp(text, "role"))
		return parse_role(&out->role, value);
	return strcmp(text, "blocks") ? -EINVAL : parse_blocks(&out->blocks, value);
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

static int place(struct endpoint_table *table, uint32_t index, uint32_t generation, const struct endpoint_config *config,
	const char *why)
{
	struct endpoint *endpoint = &table->at[index];

	*endpoint = (struct endpoint){ .generation = generation, .config = *config, .role = config->role };
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

void endpoint_remove(struct endpoint_table *table, uint32_t index)
{
	endpoint_set_state(table, index, ENDPOINT_FREE, "removed");
	table->at[index].generation++;
	table->changes++;
	while (table->n && table->at[table->n - 1].state == ENDPOINT_FREE)
		table->n--;
}

void endpoint_set_state(struct endpoint_table *table, uint32_t index, enum endpoint_state state, const char *why)
{
	struct endpoint *endpoint = &table->at[index];
	char quoted[128];

	assert(legal[endpoint->state][state]);
	log_info("endpoint state changed", "endpoint=%s from=%s to=%s why=%s", endpoint->name, state_names[endpoint->state],
		state_names[state], log_quote(why, quoted, sizeof(quoted)));
	endpoint->state = state;
	if (table->on_change)
		table->on_change(table->on_change_ctx, index);
}

void endpoint_drain(struct endpoint_table *table, uint32_t index, bool on, const char *why)
{
	if ((table->at[index].state == ENDPOINT_DRAINING) != on)
		endpoint_set_state(table, index, on ? ENDPOINT_DRAINING : ENDPOINT_STARTING, why);
}

void endpoint_claim_restore(struct endpoint_table *table, uint32_t index, uint32_t tokens)
{
	table->at[index].inflight_requests++;
	table->at[index].inflight_tokens += tokens;
}

void endpoint_claim_take(struct endpoint_table *table, uint32_t index, uint32_t tokens, struct endpoint_claim *claim)
{
	struct endpoint *endpoint = &table->at[index];

	*claim = (struct endpoint_claim){ index, endpoint->generation, tokens, true, true };
	endpoint->inflight_requests++;
	endpoint->inflight_tokens += tokens;
	endpoint->requests++;
}

/* A claim on an earlier pod at this index has nothing to give back: its counts went with it. */
static struct endpoint *claimed(struct endpoint_table *table, const struct endpoint_claim *claim)
{
	struct endpoint *endpoint = &table->at[claim->index];

	return endpoint->generation == claim->generation ? endpoint : NULL;
}

void endpoint_claim_release_tokens(struct endpoint_table *table, struct endpoint_claim *claim)
{
	struct endpoint *endpoint = claimed(table, claim);

	if (claim->holds_tokens && endpoint)
		endpoint->inflight_tokens -= claim->tokens;
	claim->holds_tokens = false;
}

void endpoint_claim_release(struct endpoint_table *table, struct endpoint_claim *claim)
{
	struct endpoint *endpoint = claimed(table, claim);

	endpoint_claim_release_tokens(table, claim);
	if (claim->holds_request && endpoint)
		endpoint->inflight_requests--;
	claim->holds_request = false;
}
