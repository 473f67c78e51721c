// SPDX-License-Identifier: Apache-2.0
/*
 * The metrics of the kernel path: see metrics_kernel.h. A scrape reads each map once, by one batch: the counters of all
 * CPUs, and the statistics of the endpoints that there are. How full the maps are that only programs write to is judged by
 * a few of their entries: a walk over a million is nothing to do at every scrape.
 */
#include "agent/metrics_kernel.h"

#include <assert.h>
#include <bpf/libbpf.h>
#include <stdlib.h>
#include <string.h>

#include "agent/map_batch.h"
#include "agent/metrics_print.h"
#include "lib/log.h"

enum { FINITE = LLMD_HISTOGRAM_N - 1 }; /* the last bucket has no upper bound */

/** struct kernel_sums - over all CPUs. */
struct kernel_sums {
	uint64_t reason[REASON_N];
	struct endpoint_stats pod[LLMD_ENDPOINT_MAX];
};

static const char *const map_names[] = { "flows", "slots", "sessions", "prefixes", "affinity", "handshakes" };
static_assert(sizeof(map_names) / sizeof(map_names[0]) == METRICS_MAP_N, "a name for each map");

static const struct map_shape uncounted_shapes[METRICS_MAP_N] = {
	[METRICS_MAP_FLOWS] = { .key_size = sizeof(struct flow_key), .value_size = sizeof(struct flow) },
	[METRICS_MAP_AFFINITY] = { .key_size = sizeof(struct affinity_key), .value_size = sizeof(struct affinity_entry) },
	[METRICS_MAP_HANDSHAKES] = { .key_size = sizeof(struct flow_key), .value_size = sizeof(struct handshake) },
};

/* ---- reading ---- */

/* The first @n values of a per-CPU array, each of @words numbers, summed up into @out. */
static int read_sums(int fd, uint32_t n, uint32_t words, uint64_t *out)
{
	int cpus = libbpf_num_possible_cpus();
	const struct map_shape map = { fd, sizeof(uint32_t), (uint32_t)(cpus > 0 ? cpus : 1) * words * (uint32_t)sizeof(*out) };
	uint64_t *values = malloc((size_t)map.value_size * (n ? n : 1));
	const uint64_t *at = values;
	int err = values ? map_batch_read(&map, n, values) : -ENOMEM;

	for (uint32_t i = 0; !err && i < n; i++, out += words)
		for (int cpu = 0; cpu < cpus; cpu++, at += words)
			for (uint32_t w = 0; w < words; w++)
				out[w] += at[w];
	free(values);
	return err;
}

static struct kernel_sums *read_kernel(const struct metrics_kernel *kernel, uint32_t n_pods)
{
	struct kernel_sums *sums = calloc(1, sizeof(*sums));
	int err = sums ? read_sums(kernel->counters_fd, REASON_N, 1, sums->reason) : -ENOMEM;

	static_assert(sizeof(struct endpoint_stats) % sizeof(uint64_t) == 0, "numbers only");
	if (!err)
		err = read_sums(kernel->endpoint_stats_fd, n_pods, sizeof(struct endpoint_stats) / sizeof(uint64_t),
			(uint64_t *)sums->pod);
	if (!err)
		return sums;
	log_warn("cannot read the kernel's counters", "error=\"%s\"", strerror(-err));
	free(sums);
	return NULL;
}

/* ---- printing ---- */

static void print_packets(struct scrape *scrape)
{
#define REASON_TEXT(name, text, meaning) text,
	static const char *const reasons[REASON_N] = { LLMD_REASONS(REASON_TEXT) };
#undef REASON_TEXT

	for (int i = REASON_NOT_OURS + 1; scrape->kernel && i < REASON_N; i++)
		sample_label(scrape, "reason", reasons[i], scrape->kernel->reason[i]);
}

/* One number of each pod. */
#define PRINT_PODS(function, field) \
	static void pod_##function(struct scrape *scrape, uint32_t i, const struct endpoint *pod) \
	{ \
		sample_pod(scrape, pod, NULL, NULL, scrape->kernel->pod[i].field); \
	} \
	static void print_##function(struct scrape *scrape) \
	{ \
		if (scrape->kernel) \
			each_pod(scrape, pod_##function); \
	}
PRINT_PODS(flows, flows)
PRINT_PODS(resets, resets)
PRINT_PODS(connects, connects)
PRINT_PODS(retransmits, retransmits)

/* Two, by direction. */
#define PRINT_BOTH_WAYS(function, field) \
	static void pod_##function(struct scrape *scrape, uint32_t i, const struct endpoint *pod) \
	{ \
		sample_pod(scrape, pod, "direction", "to_pod", scrape->kernel->pod[i].field##_up); \
		sample_pod(scrape, pod, "direction", "to_client", scrape->kernel->pod[i].field##_down); \
	} \
	static void print_##function(struct scrape *scrape) \
	{ \
		if (scrape->kernel) \
			each_pod(scrape, pod_##function); \
	}
PRINT_BOTH_WAYS(pod_packets, packets)
PRINT_BOTH_WAYS(pod_bytes, bytes)

static void print_log2(struct scrape *scrape, const struct endpoint *pod, const __u64 *count, uint64_t sum_ns)
{
#define LE(i) (double)(2ull << (i)) / 1e6
	static const double bounds[] = { LE(0), LE(1), LE(2), LE(3), LE(4), LE(5), LE(6), LE(7), LE(8), LE(9), LE(10), LE(11), LE(12),
		LE(13), LE(14), LE(15), LE(16), LE(17), LE(18), LE(19), LE(20), LE(21), LE(22), LE(23), LE(24) };
#undef LE
	uint64_t copy[LLMD_HISTOGRAM_N];
	const struct buckets buckets = { bounds, FINITE, copy, (double)sum_ns / 1e9 };

	static_assert(sizeof(bounds) / sizeof(bounds[0]) == FINITE, "a bound for each bucket but the last");
	memcpy(copy, count, sizeof(copy));
	print_buckets(scrape, &buckets, pod);
}

static void pod_ttft(struct scrape *scrape, uint32_t i, const struct endpoint *pod)
{
	print_log2(scrape, pod, scrape->kernel->pod[i].ttft, scrape->kernel->pod[i].ttft_sum_ns);
}

static void print_ttft(struct scrape *scrape)
{
	if (scrape->kernel)
		each_pod(scrape, pod_ttft);
}

static void pod_itl(struct scrape *scrape, uint32_t i, const struct endpoint *pod)
{
	print_log2(scrape, pod, scrape->kernel->pod[i].itl, scrape->kernel->pod[i].itl_sum_ns);
}

static void print_itl(struct scrape *scrape)
{
	if (scrape->kernel)
		each_pod(scrape, pod_itl);
}

static void pod_rtt(struct scrape *scrape, uint32_t i, const struct endpoint *pod)
{
	char labels[SCRAPE_LABELS_MAX];

	snprintf(labels, sizeof(labels), "pod=\"%s\"", pod->name);
	sample_double(scrape, "_sum", labels, (double)scrape->kernel->pod[i].rtt_sum_us / 1e6);
	sample(scrape, "_count", labels, scrape->kernel->pod[i].rtt_samples);
}

static void print_rtt(struct scrape *scrape)
{
	if (scrape->kernel)
		each_pod(scrape, pod_rtt);
}

static void print_entries(struct scrape *scrape)
{
	const struct metrics_kernel *kernel = &scrape->gauges.kernel;

	for (int i = 0; kernel->is_there && i < METRICS_MAP_N; i++) {
		uint64_t n = kernel->map[i].n;
		struct map_shape map = uncounted_shapes[i];

		map.fd = kernel->map[i].fd;
		if (map.fd < 0 || !map_batch_estimate(&map, (uint32_t)kernel->map[i].max, &n))
			sample_label(scrape, "map", map_names[i], n);
	}
}

static void print_entries_max(struct scrape *scrape)
{
	for (int i = 0; scrape->gauges.kernel.is_there && i < METRICS_MAP_N; i++)
		sample_label(scrape, "map", map_names[i], scrape->gauges.kernel.map[i].max);
}

static void print_handoffs(struct scrape *scrape)
{
#define RESULT_TEXT(name, text, meaning) text,
	static const char *const results[HANDOFF_RESULT_N] = { HANDOFF_RESULTS(RESULT_TEXT) };
#undef RESULT_TEXT
	const struct handoff_stats *handoffs = scrape->gauges.kernel.handoffs;

	for (int i = 0; handoffs && i < HANDOFF_RESULT_N; i++)
		sample_label(scrape, "result", results[i], handoffs->result[i]);
}

static void print_handoff_duration(struct scrape *scrape)
{
	if (scrape->gauges.kernel.handoffs)
		print_histogram(scrape, &scrape->gauges.kernel.handoffs->duration, NULL);
}

static void print_long_answers(struct scrape *scrape)
{
	if (scrape->gauges.kernel.handoffs)
		sample_u64(scrape, scrape->gauges.kernel.handoffs->long_answers);
}

static void print_flow_events(struct scrape *scrape)
{
	const struct flow_counts *flows = &scrape->gauges.kernel.flows;

	if (!scrape->gauges.kernel.is_there)
		return;
	sample_label(scrape, "event", "handed", flows->handed);
	sample_label(scrape, "event", "adopted", flows->adopted);
	sample_label(scrape, "event", "reset", flows->reset);
	sample_label(scrape, "event", "idle", flows->idle);
	sample_label(scrape, "event", "end_swept", flows->events_lost);
}

static void print_mirror_queued(struct scrape *scrape)
{
	if (scrape->gauges.kernel.is_there)
		sample_u64(scrape, scrape->gauges.kernel.mirror.queued);
}

static void print_mirror_events(struct scrape *scrape)
{
	const struct mirror_stats *mirror = &scrape->gauges.kernel.mirror;

	if (!scrape->gauges.kernel.is_there)
		return;
	sample_label(scrape, "event", "written", mirror->written);
	sample_label(scrape, "event", "deleted", mirror->deleted);
	sample_label(scrape, "event", "dropped", mirror->dropped);
	sample_label(scrape, "event", "failed", mirror->failed);
	sample_label(scrape, "event", "loaded", mirror->loaded);
	sample_label(scrape, "event", "rejected", mirror->rejected);
}

/* clang-format off */
static const struct family families[] = {
	{ "llmd_packets_total", "counter", "reason", "Packets that a BPF program did not simply pass, by reason (include/llmd/abi.h).",
	  "sum by (reason) (rate(llmd_packets_total[5m]))", print_packets },
	{ "llmd_kernel_packets_total", "counter", "pod, direction", "Packets of handed-over connections.",
	  "sum by (pod) (rate(llmd_kernel_packets_total[5m]))", print_pod_packets },
	{ "llmd_kernel_bytes_total", "counter", "pod, direction", "TCP payload of handed-over connections.",
	  "sum by (pod, direction) (rate(llmd_kernel_bytes_total[5m]))", print_pod_bytes },
	{ "llmd_kernel_flows_total", "counter", "pod", "Connections that the kernel has carried.",
	  "sum by (pod) (rate(llmd_kernel_flows_total[5m]))", print_flows },
	{ "llmd_kernel_resets_total", "counter", "pod", "Of those, connections that ended with a reset.",
	  "rate(llmd_kernel_resets_total[5m]) / rate(llmd_kernel_flows_total[5m])", print_resets },
	{ "llmd_kernel_ttft_seconds", "histogram", "pod", "From the request's head to the first content, as the packet passed.",
	  "histogram_quantile(0.95, sum by (le) (rate(llmd_kernel_ttft_seconds_bucket[5m])))", print_ttft },
	{ "llmd_kernel_itl_seconds", "histogram", "pod", "Between two packets of content from a pod.",
	  "histogram_quantile(0.99, sum by (le) (rate(llmd_kernel_itl_seconds_bucket[5m])))", print_itl },
	{ "llmd_pod_rtt_seconds", "summary", "pod", "Smoothed round-trip times of the agent's connections to a pod.",
	  "rate(llmd_pod_rtt_seconds_sum[5m]) / rate(llmd_pod_rtt_seconds_count[5m])", print_rtt },
	{ "llmd_pod_connects_total", "counter", "pod", "Connections that the agent has opened to a pod.",
	  "sum by (pod) (rate(llmd_pod_connects_total[5m]))", print_connects },
	{ "llmd_pod_retransmits_total", "counter", "pod", "Segments that the agent's connections to a pod have sent again.",
	  "rate(llmd_pod_retransmits_total[5m]) > 0", print_retransmits },
	{ "llmd_handoffs_total", "counter", "result", "Requests by what became of their hand-off, or why they were relayed; counted again at each pod that one was tried at.",
	  "sum by (result) (rate(llmd_handoffs_total[5m]))", print_handoffs },
	{ "llmd_handoff_duration_seconds", "histogram", "", "From a connected pod connection to both entries in the map.",
	  "histogram_quantile(0.5, rate(llmd_handoff_duration_seconds_bucket[5m]))", print_handoff_duration },
	{ "llmd_long_answers_total", "counter", "", "Answers of more than 64 KiB that were relayed.",
	  "rate(llmd_long_answers_total[5m])", print_long_answers },
	{ "llmd_flow_events_total", "counter", "event",
	  "Handed-over connections: handed, adopted from an earlier agent, reset with their pod, idle too long; ends that were not told but found.",
	  "rate(llmd_flow_events_total{event=\"reset\"}[5m])", print_flow_events },
	{ "llmd_map_entries", "gauge", "map", "Entries of a pinned map; of flows, affinity and handshakes judged by a sample.",
	  "llmd_map_entries / llmd_map_entries_max", print_entries },
	{ "llmd_map_entries_max", "gauge", "map", "Bound of a pinned map.", "llmd_map_entries / llmd_map_entries_max", print_entries_max },
	{ "llmd_mirror_queued", "gauge", "", "Sessions and prefix blocks that changed and are not yet in the pinned maps.",
	  "llmd_mirror_queued", print_mirror_queued },
	{ "llmd_mirror_entries_total", "counter", "event", "Entries of the pinned sessions and prefixes, by what was done with them.",
	  "rate(llmd_mirror_entries_total{event=\"dropped\"}[5m]) > 0", print_mirror_events },
};
/* clang-format on */
enum { N_FAMILIES = sizeof(families) / sizeof(families[0]) };

void metrics_kernel_print(struct scrape *scrape)
{
	struct kernel_sums *sums = NULL;

	if (scrape->gauges.kernel.is_there)
		sums = read_kernel(&scrape->gauges.kernel, scrape->endpoints->n);
	scrape->kernel = sums;
	print_families(scrape, families, N_FAMILIES);
	scrape->kernel = NULL;
	free(sums);
}

void metrics_kernel_print_markdown(FILE *out)
{
	print_families_markdown(out, families, N_FAMILIES);
}
