// SPDX-License-Identifier: Apache-2.0
/* Endpoints: the pods, with what the programs measured of each. See maps.h. */
#include "tools/maps/maps.h"

#include <errno.h>
#include <net/if.h>
#include <string.h>

static const char *const state_names[] = {
	[ENDPOINT_MAP_FREE] = "free",
	[ENDPOINT_MAP_READY] = "ready",
	[ENDPOINT_MAP_EJECTED] = "ejected",
	[ENDPOINT_MAP_DRAINING] = "draining",
	[ENDPOINT_MAP_DEGRADED] = "degraded",
};

static void count_flows(const struct maps *maps, uint64_t *flows, uint32_t n)
{
	for (uint32_t i = 0; i < maps->max[MAP_SLOTS]; i++) {
		const struct slot *slot = &maps->slots[i];
		uint32_t endpoint = *(const volatile uint32_t *)&slot->endpoint;

		if (*(const volatile uint32_t *)&slot->state != SLOT_FREE && endpoint < n)
			flows[endpoint]++;
	}
}

static int collect_one(struct maps *maps, uint32_t index, uint64_t flows, struct records *out)
{
	struct endpoint_record record = { .index = index, .flows_now = flows, .entry = maps->endpoints[index] };
	int err = percpu_read(maps, MAP_ENDPOINT_STATS, index, (__u64 *)&record.stats, sizeof(record.stats) / sizeof(__u64));

	if (err)
		return maps_fail(maps, MAP_ENDPOINT_STATS, "cannot be read", err);
	return records_add(out, &record) ? maps_fail(maps, MAP_ENDPOINT_STATS, "cannot be kept", -ENOMEM) : 0;
}

int endpoint_collect(struct maps *maps, struct records *out)
{
	uint64_t flows[LLMD_ENDPOINT_MAX] = { 0 };
	int err = 0;

	if (maps_open(maps, MAP_ENDPOINT_STATS, false) || maps_open(maps, MAP_SLOTS, false))
		return -EIO;
	count_flows(maps, flows, maps->n_endpoints);
	for (uint32_t i = 0; !err && i < maps->n_endpoints && i < maps->max[MAP_ENDPOINT_STATS]; i++)
		if (maps->endpoints[i].state != ENDPOINT_MAP_FREE)
			err = collect_one(maps, i, flows[i], out);
	return err;
}

static int endpoint_find(struct maps *maps, const struct request *request, struct records *out)
{
	struct records all = { .size = sizeof(struct endpoint_record) };
	struct address wanted;
	int err;

	if (address_parse(&wanted, request->key[0]))
		return key_invalid(request, request->key[0]);
	err = endpoint_collect(maps, &all);
	for (size_t i = 0; !err && i < all.n; i++) {
		const struct endpoint_record *record = records_get(&all, i);
		struct address address = address_from_map(record->entry.addr, record->entry.port);

		if (address_equal(&address, &wanted))
			err = records_add(out, record);
	}
	records_free(&all);
	return err;
}

/* ---- rows ---- */

static void add_device(struct json_object *row, uint32_t ifindex)
{
	char name[IF_NAMESIZE];

	row_add_number(row, "ifindex", ifindex);
	row_add_text(row, "device", ifindex ? if_indextoname(ifindex, name) : NULL);
}

static double mean_seconds(uint64_t sum_ns, uint64_t n)
{
	return n ? (double)sum_ns * 1e-9 / (double)n : -1;
}

static void add_latency(struct json_object *row, const struct endpoint_stats *stats)
{
	uint64_t ttft = histogram_count(stats->ttft), itl = histogram_count(stats->itl);

	row_add_number(row, "ttft_count", ttft);
	row_add_seconds(row, "ttft_mean_seconds", mean_seconds(stats->ttft_sum_ns, ttft));
	row_add_seconds(row, "ttft_p50_seconds", histogram_quantile(stats->ttft, 0.5));
	row_add_seconds(row, "ttft_p95_seconds", histogram_quantile(stats->ttft, 0.95));
	row_add_number(row, "itl_count", itl);
	row_add_seconds(row, "itl_mean_seconds", mean_seconds(stats->itl_sum_ns, itl));
	row_add_seconds(row, "itl_p50_seconds", histogram_quantile(stats->itl, 0.5));
	row_add_seconds(row, "itl_p95_seconds", histogram_quantile(stats->itl, 0.95));
	row_add_seconds(row, "rtt_mean_seconds",
		stats->rtt_samples ? (double)stats->rtt_sum_us * 1e-6 / (double)stats->rtt_samples : -1);
}

static void add_traffic(struct json_object *row, const struct endpoint_record *record)
{
	const struct endpoint_stats *stats = &record->stats;

	row_add_number(row, "flows_now", record->flows_now);
	row_add_number(row, "flows", stats->flows);
	row_add_number(row, "resets", stats->resets);
	row_add_number(row, "bytes_up", stats->bytes_up);
	row_add_number(row, "bytes_down", stats->bytes_down);
	row_add_number(row, "packets_up", stats->packets_up);
	row_add_number(row, "packets_down", stats->packets_down);
	row_add_number(row, "connects", stats->connects);
	row_add_number(row, "retransmits", stats->retransmits);
}

static struct json_object *endpoint_describe(const struct maps *maps, const void *at)
{
	const struct endpoint_record *record = at;
	const struct endpoint_entry *entry = &record->entry;
	struct json_object *row = json_object_new_object();

	(void)maps;
	if (!row)
		return NULL;
	row_add_address(row, "endpoint", entry->addr, entry->port);
	row_add_number(row, "index", record->index);
	row_add_number(row, "generation", entry->generation);
	row_add_name(row, "state", state_names, COUNT(state_names), entry->state);
	row_add_ip(row, "local", entry->local);
	add_device(row, entry->ifindex);
	row_add_number(row, "mss", entry->mss);
	add_traffic(row, record);
	add_latency(row, &record->stats);
	return row;
}

static const struct column columns[] = {
	{ "endpoint", "ENDPOINT", FORMAT_TEXT },
	{ "state", "STATE", FORMAT_TEXT },
	{ "flows_now", "FLOWS", FORMAT_NUMBER },
	{ "flows_per_second", "/S", FORMAT_RATE, "flows" },
	{ "ttft_p50_seconds", "TTFT p50", FORMAT_SECONDS },
	{ "ttft_p95_seconds", "p95", FORMAT_SECONDS },
	{ "itl_p50_seconds", "ITL p50", FORMAT_SECONDS },
	{ "itl_p95_seconds", "p95", FORMAT_SECONDS },
	{ "bytes_down", "DOWN", FORMAT_BYTES },
	{ "bytes_down_per_second", "DOWN/S", FORMAT_BYTES, "bytes_down" },
	{ "bytes_up", "UP", FORMAT_BYTES },
	{ "bytes_up_per_second", "UP/S", FORMAT_BYTES, "bytes_up" },
	{ "flows", "FLOWS EVER", FORMAT_NUMBER },
	{ "resets", "RESETS", FORMAT_NUMBER },
	{ "rtt_mean_seconds", "RTT", FORMAT_SECONDS },
	{ "device", "DEVICE", FORMAT_TEXT },
	{ "ttft_mean_seconds", NULL, FORMAT_SECONDS },
	{ "itl_mean_seconds", NULL, FORMAT_SECONDS },
};

static const struct verb *const verbs[] = { &verb_list, &verb_get, &verb_watch, &verb_drain, &verb_undrain, NULL };

const struct noun noun_endpoint = {
	.name = "endpoint",
	.help = "The pods: state, flows, bytes, latencies as the kernel measured them.",
	.key = "ADDR:PORT",
	.key_help = "an IP address and port",
	.keys_max = 1,
	.verbs = verbs,
	.record_size = sizeof(struct endpoint_record),
	.collect = endpoint_collect,
	.find = endpoint_find,
	.describe = endpoint_describe,
	.columns = columns,
	.n_columns = COUNT(columns),
};
