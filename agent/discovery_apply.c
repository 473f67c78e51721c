// SPDX-License-Identifier: Apache-2.0
/* From what the sources list to the endpoint table: how it works stands in discovery.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/datapath.h"
#include "agent/decide.h"
#include "agent/discovery_private.h"
#include "agent/prefix.h"
#include "agent/upstream.h"
#include "lib/log.h"

enum { LINGER_TICK_MS = 100 };

/* ---- all sets as one ---- */

static int compare_merged(const void *one, const void *other)
{
	const struct discovery_merged *a = one, *b = other;
	int order = discovery_compare_address(&a->item->config.address, &b->item->config.address);

	return order ? order : (int)a->source->ops.kind - (int)b->source->ops.kind;
}

static void unite(struct discovery *discovery)
{
	struct discovery_merged *merged = discovery->merged;
	uint32_t kept = 0;

	for (uint32_t i = 0; i < discovery->n_merged; i++) {
		if (!kept || discovery_compare_address(&merged[kept - 1].item->config.address, &merged[i].item->config.address))
			merged[kept++] = merged[i];
		else if (!merged[kept - 1].why)
			merged[kept - 1].why = merged[i].why;
	}
	discovery->n_merged = kept;
}

static int merge(struct discovery *discovery)
{
	uint32_t total = 0, n = 0;
	struct discovery_merged *merged;

	for (uint32_t s = 0; s < discovery->n_sources; s++)
		total += discovery->source[s].n;
	merged = calloc(total ? total : 1, sizeof(merged[0]));
	if (!merged)
		return -ENOMEM;
	for (uint32_t s = 0; s < discovery->n_sources; s++) {
		const struct discovery_source *source = &discovery->source[s];

		for (uint32_t i = 0; i < source->n; i++)
			merged[n++] = (struct discovery_merged){ .item = &source->at[i], .source = source,
				.why = source->at[i].condition == DISCOVERY_DRAINING ? source->at[i].why : NULL };
	}
	qsort(merged, n, sizeof(merged[0]), compare_merged);
	free(discovery->merged);
	discovery->merged = merged;
	discovery->n_merged = n;
	unite(discovery);
	return 0;
}

static struct discovery_merged *find_merged(struct discovery *discovery, const struct address *address)
{
	uint32_t low = 0, high = discovery->n_merged;

	while (low < high) {
		uint32_t middle = (low + high) / 2;
		int order = discovery_compare_address(&discovery->merged[middle].item->config.address, address);

		if (!order)
			return &discovery->merged[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* ---- the endpoint table ---- */

/* A stream that is being relayed ends now, as one in the kernel does; drained first, so that its request goes elsewhere. */
static void remove_endpoint(struct discovery *discovery, uint32_t index)
{
	struct agent *agent = discovery->agent;

	if (agent->endpoints->at[index].state != ENDPOINT_DRAINING)
		endpoint_set_state(agent->endpoints, index, ENDPOINT_DRAINING, "no longer listed");
	if (agent->upstreams)
		upstream_pool_cut(agent->upstreams, index);
	endpoint_remove(agent->endpoints, index);
	discovery->known[index] = (struct discovery_known){ 0 };
}

static void arm_linger(struct discovery *discovery)
{
	const struct timeval tick = { .tv_usec = LINGER_TICK_MS * 1000 };

	if (!event_pending(discovery->linger, EV_TIMEOUT, NULL))
		event_add(discovery->linger, &tick);
}

void discovery_set_drained(struct discovery *discovery, uint32_t index)
{
	struct endpoint_table *endpoints = discovery->agent->endpoints;
	const struct discovery_known *known = &discovery->known[index];
	bool drains = known->drains || known->drained || known->gone_ms, is_drained = endpoints->at[index].state == ENDPOINT_DRAINING;

	if (drains && !is_drained)
		endpoint_set_state(endpoints, index, ENDPOINT_DRAINING,
			known->drained ? "drained by the operator" : known->gone_ms ? "no longer listed" : known->why);
	else if (!drains && is_drained)
		endpoint_set_state(endpoints, index, ENDPOINT_STARTING, "no longer drained");
}

static uint64_t patience_ms(const struct discovery *discovery, uint32_t index)
{
	const struct discovery_known *known = &discovery->known[index];

	if (known->lingers && discovery->agent->endpoints->at[index].inflight_requests)
		return discovery->agent->config.drain_timeout_ms;
	return known->grace_ms;
}

static void depart(struct discovery *discovery, uint32_t index)
{
	struct discovery_known *known = &discovery->known[index];
	uint64_t patience = known->gone_ms ? 0 : patience_ms(discovery, index);

	if (!known->gone_ms && !patience) {
		remove_endpoint(discovery, index);
		return;
	}
	if (!known->gone_ms)
		known->gone_ms = agent_now_ms() + patience;
	discovery_set_drained(discovery, index);
	arm_linger(discovery);
}

static bool same_config(const struct endpoint_config *a, const struct endpoint_config *b)
{
	return !strcmp(a->model, b->model) && a->role == b->role && a->engine == b->engine && a->blocks == b->blocks;
}

static void describe(struct discovery *discovery, uint32_t index, const struct discovery_merged *merged)
{
	struct agent *agent = discovery->agent;
	struct endpoint *endpoint = &agent->endpoints->at[index];
	struct discovery_known *known = &discovery->known[index];
	const struct endpoint_config *config = &merged->item->config;
	uint32_t blocks = config->blocks ? config->blocks : (uint32_t)agent->config.endpoint_blocks;

	known->kind = merged->source->ops.kind;
	known->lingers = merged->source->ops.lingers;
	known->grace_ms = merged->source->ops.grace_ms;
	known->identity = merged->item->identity ? merged->item->identity : known->identity;
	known->drains = merged->why;
	known->why = merged->why;
	known->gone_ms = 0;
	if (endpoint->config.blocks != config->blocks)
		decider_set_capacity(agent->decider, index, blocks);
	if (!same_config(&endpoint->config, config)) {
		endpoint_reconfigure(agent->endpoints, index, config);
		log_paced(&discovery->changes, ENDPOINT_MAX, DISCOVERY_LOG_MS, LOG_LEVEL_INFO, "endpoint changed",
			"endpoint=%s role=%s engine=%s blocks=%u",
			endpoint->name, endpoint_role_name(config->role), endpoint_engine_name(config->engine), config->blocks);
	}
	discovery_set_drained(discovery, index);
}

static bool is_replaced(const struct discovery_known *known, const struct discovered *item)
{
	return known->identity && item->identity && known->identity != item->identity;
}

static void follow_known(struct discovery *discovery)
{
	struct endpoint_table *endpoints = discovery->agent->endpoints;

	for (uint32_t i = 0; i < endpoints->n; i++) {
		struct discovery_merged *merged;

		if (endpoints->at[i].state == ENDPOINT_FREE)
			continue;
		merged = find_merged(discovery, &endpoints->at[i].config.address);
		if (!merged) {
			depart(discovery, i);
		} else if (is_replaced(&discovery->known[i], merged->item)) {
			remove_endpoint(discovery, i);
		} else {
			describe(discovery, i, merged);
			merged->placed = true;
		}
	}
}

/* Those that an earlier agent knew keep their identity, which the pinned maps refer to; the others take what is left. */
static void restore_pinned(struct discovery *discovery)
{
	for (uint32_t i = 0; discovery->pinned && i < ENDPOINT_MAX; i++) {
		const struct endpoint_entry *entry = &discovery->pinned[i];
		struct address address = { .port_be = entry->port };
		struct discovery_merged *merged;

		if (entry->state == ENDPOINT_MAP_FREE)
			continue;
		memcpy(address.ip, entry->addr, sizeof(address.ip));
		merged = find_merged(discovery, &address);
		if (!merged || merged->placed ||
			endpoint_restore(discovery->agent->endpoints, i, entry->generation, &merged->item->config) < 0)
			continue;
		describe(discovery, i, merged);
		merged->placed = true;
	}
}

static void add_new(struct discovery *discovery)
{
	uint32_t left_out = 0;

	for (uint32_t i = 0; i < discovery->n_merged; i++) {
		struct discovery_merged *merged = &discovery->merged[i];
		int index = merged->placed ? -EEXIST : left_out ? -ENOSPC : endpoint_add(discovery->agent->endpoints, &merged->item->config);

		left_out += index == -ENOSPC;
		if (index >= 0)
			describe(discovery, (uint32_t)index, merged);
	}
	if (left_out && left_out != discovery->left_out)
		log_paced(&discovery->no_room, DISCOVERY_LOG_LINES, DISCOVERY_LOG_MS, LOG_LEVEL_WARN, "endpoints do not fit",
			"listed=%u left_out=%u max=%u", discovery->n_merged, left_out, (unsigned)ENDPOINT_MAX);
	discovery->left_out = left_out;
}

void discovery_apply(struct discovery *discovery)
{
	uint32_t changes = discovery->agent->endpoints->changes;

	if (merge(discovery)) {
		log_error("endpoints not updated", "error=\"no memory\"");
		return;
	}
	follow_known(discovery);
	restore_pinned(discovery);
	add_new(discovery);
	decider_follow_endpoints(discovery->agent->decider);
	if (discovery->agent->endpoints->changes != changes && !discovery->pinned)
		log_paced(&discovery->updates, DISCOVERY_LOG_LINES, DISCOVERY_LOG_MS, LOG_LEVEL_INFO, "endpoints updated",
			"listed=%u", discovery->n_merged);
}

void discovery_on_linger(evutil_socket_t fd, short what, void *arg)
{
	struct discovery *discovery = arg;
	struct endpoint_table *endpoints = discovery->agent->endpoints;
	uint64_t now_ms = agent_now_ms();
	uint32_t changes = endpoints->changes;

	(void)fd, (void)what;
	for (uint32_t i = 0; i < endpoints->n; i++) {
		if (endpoints->at[i].state == ENDPOINT_FREE || !discovery->known[i].gone_ms)
			continue;
		if ((discovery->known[i].lingers && !endpoints->at[i].inflight_requests) || discovery->known[i].gone_ms <= now_ms)
			remove_endpoint(discovery, i);
		else
			arm_linger(discovery);
	}
	if (endpoints->changes != changes)
		discovery_apply(discovery); /* others may have waited for the room */
}
