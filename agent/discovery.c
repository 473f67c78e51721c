// SPDX-License-Identifier: Apache-2.0
/*
 * The registry of sources: see discovery.h.
 *
 * How it works
 *
 * Each source's last set is kept, sorted by address. When one changes, all sets are merged to one list of distinct addresses,
 * which is then held against the endpoint table. What is in the table stays at its index as long as anybody lists it and it
 * is the same pod, so a full table does not change its mind about who is in it, and no session moves that need not.
 *
 * A pod that another has replaced at the same address is removed and the new one added: index and generation are an
 * endpoint's identity for sessions, prefixes, flows and the pinned maps, so nothing of the old one reaches the new one.
 *
 * At start, endpoints get back the index and generation that they have in the pinned maps. Sources that have to ask the
 * network have nothing to say yet; until all have spoken, what is pinned is taken for granted (DISCOVERY_PINNED), or the
 * streams that an earlier agent has left in the kernel would be reset as those of unknown pods.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/datapath.h"
#include "agent/discovery_private.h"
#include "agent/discovery_sources.h"
#include "lib/log.h"

static const char *const kind_names[] = { "static", "file", "dns", "kubernetes", "pinned" };
_Static_assert(sizeof(kind_names) / sizeof(kind_names[0]) == DISCOVERY_KIND_N, "a name for each kind");

const char *discovery_kind_name(enum discovery_kind kind)
{
	return kind_names[kind];
}

/* ---- a source's set ---- */

/* Of equal addresses the ready one first: the old pod may still be listed as terminating. */
static int compare_discovered(const void *one, const void *other)
{
	const struct discovered *a = one, *b = other;
	int order = discovery_compare_address(&a->config.address, &b->config.address);

	return order ? order : (int)a->condition - (int)b->condition;
}

static uint32_t sort_and_unite(struct discovered *at, uint32_t n)
{
	uint32_t kept = 0;

	qsort(at, n, sizeof(at[0]), compare_discovered);
	for (uint32_t i = 0; i < n; i++)
		if (!kept || !address_equal(&at[kept - 1].config.address, &at[i].config.address))
			at[kept++] = at[i];
	return kept;
}

static int keep_set(struct discovery_source *source, const struct discovered *items, uint32_t n)
{
	struct discovered *at = malloc((n ? n : 1) * sizeof(at[0]));

	if (!at)
		return -ENOMEM;
	if (n)
		memcpy(at, items, n * sizeof(at[0]));
	free(source->at);
	source->at = at;
	source->n = sort_and_unite(at, n);
	return 0;
}

/* ---- sources ---- */

struct discovery_source *discovery_register(struct discovery *discovery, const struct discovery_ops *ops, void *ctx)
{
	struct discovery_source *source = &discovery->source[discovery->n_sources];

	if (discovery->n_sources == DISCOVERY_SOURCES_MAX)
		return NULL;
	discovery->n_sources++;
	*source = (struct discovery_source){ .discovery = discovery, .ops = *ops, .ctx = ctx };
	return source;
}

static bool all_synced(const struct discovery *discovery)
{
	for (uint32_t s = 0; s < discovery->n_sources; s++)
		if (!discovery->source[s].synced && discovery->source[s].ops.kind != DISCOVERY_PINNED)
			return false;
	return true;
}

void discovery_publish(struct discovery_source *source, const struct discovered *items, uint32_t n)
{
	struct discovery *discovery = source->discovery;

	if (n > DISCOVERY_ITEMS_MAX) {
		log_paced(&source->too_many, 1, DISCOVERY_LOG_MS, LOG_LEVEL_WARN, "source lists too much",
			"source=%s listed=%u max=%u",
			kind_names[source->ops.kind], n, (unsigned)DISCOVERY_ITEMS_MAX);
		n = DISCOVERY_ITEMS_MAX;
	}
	if (keep_set(source, items, n)) {
		discovery_failed(source);
		return;
	}
	source->updates++;
	source->synced = true;
	for (uint32_t s = 0; s < discovery->n_sources && all_synced(discovery) && !discovery->pinned; s++)
		if (discovery->source[s].ops.kind == DISCOVERY_PINNED)
			discovery->source[s].n = 0;
	if (!discovery->pinned)
		discovery_apply(discovery);
}

void discovery_failed(struct discovery_source *source)
{
	source->failures++;
}

void discovery_reload(struct discovery *discovery)
{
	for (uint32_t s = 0; s < discovery->n_sources; s++)
		if (discovery->source[s].ops.reload)
			discovery->source[s].ops.reload(discovery->source[s].ctx);
}

void discovery_drain(struct discovery *discovery, uint32_t index, bool on)
{
	discovery->known[index].drained = on;
	discovery_set_drained(discovery, index);
}

struct discovery_view discovery_view(const struct discovery *discovery, uint32_t index)
{
	const struct discovery_known *known = &discovery->known[index];

	return (struct discovery_view){ .source = kind_names[known->kind],
		.condition = known->gone_ms ? "gone" : known->drains ? "draining" : "ready", .drained = known->drained };
}

void discovery_get_stats(const struct discovery *discovery, struct discovery_stats *out)
{
	*out = (struct discovery_stats){ .left_out = discovery->left_out };
	for (uint32_t s = 0; s < discovery->n_sources; s++) {
		const struct discovery_source *source = &discovery->source[s];

		out->used[source->ops.kind] = true;
		out->listed[source->ops.kind] += source->n;
		out->updates[source->ops.kind] += source->updates;
		out->failures[source->ops.kind] += source->failures;
	}
}

/* ---- start and end ---- */

static int publish_static(struct discovery *discovery)
{
	const struct discovery_ops ops = { .kind = DISCOVERY_STATIC };
	const struct config_endpoints *endpoints = &discovery->agent->config.endpoints;
	struct discovery_source *source = endpoints->n ? discovery_register(discovery, &ops, NULL) : NULL;
	struct discovered *items = source ? calloc(endpoints->n, sizeof(items[0])) : NULL;

	if (!endpoints->n)
		return 0;
	if (!items)
		return -ENOMEM;
	for (uint32_t i = 0; i < endpoints->n; i++)
		items[i].config = endpoints->at[i];
	discovery_publish(source, items, endpoints->n);
	free(items);
	return 0;
}

static int publish_pinned(struct discovery *discovery)
{
	const struct discovery_ops ops = { .kind = DISCOVERY_PINNED };
	struct discovery_source *source = discovery_register(discovery, &ops, NULL);
	struct discovered *items = calloc(ENDPOINT_MAX, sizeof(items[0]));
	uint32_t n = 0;

	for (uint32_t i = 0; items && i < ENDPOINT_MAX; i++) {
		const struct endpoint_entry *entry = &discovery->pinned[i];

		if (entry->state == ENDPOINT_MAP_FREE)
			continue;
		items[n].config.role = ENDPOINT_ROLE_BOTH;
		items[n].config.address.port_be = entry->port;
		memcpy(items[n++].config.address.ip, entry->addr, sizeof(entry->addr));
	}
	if (source && items)
		discovery_publish(source, items, n);
	free(items);
	return source && items ? 0 : -ENOMEM;
}

static int read_pinned(struct discovery *discovery)
{
	struct agent *agent = discovery->agent;

	discovery->pinned = calloc(ENDPOINT_MAX, sizeof(discovery->pinned[0]));
	if (!discovery->pinned)
		return -ENOMEM;
	if (agent->datapath)
		datapath_read_endpoints(agent->datapath, discovery->pinned);
	for (uint32_t i = 0; i < ENDPOINT_MAX; i++)
		agent->endpoints->at[i].generation = discovery->pinned[i].generation;
	return 0;
}

int discovery_new(struct agent *agent, struct discovery **out)
{
	struct discovery *discovery = calloc(1, sizeof(*discovery));
	int err;

	*out = discovery;
	if (!discovery)
		return -ENOMEM;
	discovery->agent = agent;
	discovery->linger = evtimer_new(agent->base, discovery_on_linger, discovery);
	if (!discovery->linger)
		return -ENOMEM;
	err = read_pinned(discovery);
	err = err ? err : publish_static(discovery);
	err = err ? err : discovery_start_sources(discovery, agent);
	if (!err && agent->datapath && !all_synced(discovery))
		err = publish_pinned(discovery);
	if (err)
		return err;
	discovery_apply(discovery);
	free(discovery->pinned);
	discovery->pinned = NULL;
	return 0;
}

void discovery_free(struct discovery *discovery)
{
	if (!discovery)
		return;
	for (uint32_t s = 0; s < discovery->n_sources; s++) {
		if (discovery->source[s].ops.free)
			discovery->source[s].ops.free(discovery->source[s].ctx);
		free(discovery->source[s].at);
	}
	if (discovery->linger)
		event_free(discovery->linger);
	free(discovery->merged);
	free(discovery->pinned);
	free(discovery);
}
