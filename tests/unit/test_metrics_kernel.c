// SPDX-License-Identifier: Apache-2.0
/* What the kernel counts, from maps to the text that Prometheus reads. Needs the right to make maps. */
#include "tests/unit/test.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <unistd.h>

#include "agent/map_batch.h"
#include "agent/metrics.h"
#include "lib/log.h"
#include "tests/unit/without_batches.h"
#include "tests/unit/without_main.h"

enum { PODS = 3, FLOWS_MAX = 65536 };

static struct endpoint_table *pods;
static struct decider *decider;
static struct metrics *metrics;
static struct metrics_kernel kernel;
static struct handoff_stats handoffs;

static void gauges(void *ctx, struct metrics_gauges *out)
{
	(void)ctx;
	out->kernel = kernel;
}

static int make_map(enum bpf_map_type type, uint32_t key, uint32_t value, uint32_t n)
{
	return bpf_map_create(type, "test", key, value, n, NULL);
}

static int setup(void **state)
{
	const struct decide_config config = { .session_ttl_ms = 1000, .sessions_max = 16, .prefix_blocks_max = 16, .bytes_per_token = 4,
		.default_capacity_blocks = 16, .seed = 1 };

	(void)state;
	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
	without_batches = false;
	pods = calloc(1, sizeof(*pods));
	for (int i = 0; i < PODS; i++) {
		struct endpoint_config endpoint;
		char text[64];

		sprintf(text, "10.0.0.%d:80", i + 1);
		assert_int_equal(endpoint_config_parse(&endpoint, text), 0);
		assert_int_equal(endpoint_add(pods, &endpoint), i);
	}
	decider = decider_new(&config, pods);
	metrics = metrics_new(pods, decider, gauges, NULL);
	histogram_init(&handoffs.duration, histogram_bounds_ttft, histogram_n_bounds_ttft);
	kernel = (struct metrics_kernel){ .is_there = true, .handoffs = &handoffs };
	kernel.counters_fd = make_map(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, REASON_N);
	kernel.endpoint_stats_fd = make_map(BPF_MAP_TYPE_PERCPU_ARRAY, 4, sizeof(struct endpoint_stats), LLMD_ENDPOINT_MAX);
	for (int i = 0; i < METRICS_MAP_N; i++)
		kernel.map[i] = (struct metrics_fill){ -1, (uint64_t)i + 1, 100 };
	kernel.map[METRICS_MAP_FLOWS].fd = make_map(BPF_MAP_TYPE_HASH, sizeof(struct flow_key), sizeof(struct flow), FLOWS_MAX);
	kernel.map[METRICS_MAP_FLOWS].max = FLOWS_MAX;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	close(kernel.counters_fd);
	close(kernel.endpoint_stats_fd);
	close(kernel.map[METRICS_MAP_FLOWS].fd);
	metrics_free(metrics);
	decider_free(decider);
	free(pods);
	return 0;
}

static void need_maps(void)
{
	if (kernel.counters_fd >= 0)
		return;
	print_message("SKIPPED: cannot make BPF maps (%s): needs root or CAP_BPF\n", strerror(-kernel.counters_fd));
	skip();
}

/* Each CPU has counted its number more than the one before it. */
static uint64_t put_counter(uint32_t index, uint64_t first)
{
	uint64_t cpu[512], sum = 0;

	for (int i = 0; i < libbpf_num_possible_cpus(); i++)
		sum += cpu[i] = first + (uint64_t)i;
	assert_int_equal(bpf_map_update_elem(kernel.counters_fd, &index, cpu, BPF_ANY), 0);
	return sum;
}

static void put_stats(uint32_t index, const struct endpoint_stats *stats)
{
	const int cpus = libbpf_num_possible_cpus();
	struct endpoint_stats *cpu = calloc((size_t)cpus, sizeof(*cpu));

	cpu[0] = *stats;
	cpu[cpus - 1].packets_up += 1000; /* the sum is of all CPUs */
	assert_int_equal(bpf_map_update_elem(kernel.endpoint_stats_fd, &index, cpu, BPF_ANY), 0);
	free(cpu);
}

static char *scrape(void)
{
	struct evbuffer *out = evbuffer_new();
	char *text;
	size_t n;

	metrics_print(metrics, out);
	n = evbuffer_get_length(out);
	text = malloc(n + 1);
	evbuffer_remove(out, text, n);
	text[n] = '\0';
	evbuffer_free(out);
	return text;
}

static void assert_line(const char *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void assert_line(const char *text, const char *format, ...)
{
	char line[256] = "\n";
	va_list args;

	va_start(args, format);
	vsnprintf(line + 1, sizeof(line) - 2, format, args);
	va_end(args);
	strcat(line, "\n");
	if (!strstr(text, line))
		fail_msg("no line: %s", line + 1);
}

static const struct endpoint_stats measured = { .packets_up = 5, .packets_down = 6, .bytes_up = 7, .bytes_down = 8, .flows = 9,
	.resets = 1, .ttft = { [0] = 1, [10] = 2, [25] = 4 }, .ttft_sum_ns = 1500000000, .itl = { [24] = 3 }, .itl_sum_ns = 7000,
	.connects = 11, .retransmits = 12, .rtt_samples = 13, .rtt_sum_us = 14 };

static void check_pod(const char *text)
{
	const char *pod = "pod=\"10.0.0.2:80\"";

	assert_line(text, "llmd_kernel_packets_total{%s,direction=\"to_pod\"} 1005", pod);
	assert_line(text, "llmd_kernel_packets_total{%s,direction=\"to_client\"} 6", pod);
	assert_line(text, "llmd_kernel_bytes_total{%s,direction=\"to_pod\"} 7", pod);
	assert_line(text, "llmd_kernel_bytes_total{%s,direction=\"to_client\"} 8", pod);
	assert_line(text, "llmd_kernel_flows_total{%s} 9", pod);
	assert_line(text, "llmd_kernel_resets_total{%s} 1", pod);
	assert_line(text, "llmd_kernel_ttft_seconds_bucket{%s,le=\"2e-06\"} 1", pod);
	assert_line(text, "llmd_kernel_ttft_seconds_bucket{%s,le=\"0.001024\"} 1", pod);
	assert_line(text, "llmd_kernel_ttft_seconds_bucket{%s,le=\"0.002048\"} 3", pod);
	assert_line(text, "llmd_kernel_ttft_seconds_bucket{%s,le=\"33.554432\"} 3", pod);
	assert_line(text, "llmd_kernel_ttft_seconds_bucket{%s,le=\"+Inf\"} 7", pod);
	assert_line(text, "llmd_kernel_ttft_seconds_sum{%s} 1.500000", pod);
	assert_line(text, "llmd_kernel_ttft_seconds_count{%s} 7", pod);
	assert_line(text, "llmd_kernel_itl_seconds_bucket{%s,le=\"16.777216\"} 0", pod);
	assert_line(text, "llmd_kernel_itl_seconds_bucket{%s,le=\"33.554432\"} 3", pod);
	assert_line(text, "llmd_kernel_itl_seconds_sum{%s} 0.000007", pod);
	assert_line(text, "llmd_pod_rtt_seconds_sum{%s} 0.000014", pod);
	assert_line(text, "llmd_pod_rtt_seconds_count{%s} 13", pod);
	assert_line(text, "llmd_pod_connects_total{%s} 11", pod);
	assert_line(text, "llmd_pod_retransmits_total{%s} 12", pod);
}

static void check_all(void)
{
	uint64_t vlan, last;
	char *text;

	need_maps();
	vlan = put_counter(REASON_VLAN, 3);
	last = put_counter(REASON_N - 1, 70);
	put_stats(1, &measured);
	handoffs.result[HANDOFF_LOOPBACK] = 21;
	kernel.mirror.dropped = 22;
	kernel.flows.adopted = 23;
	text = scrape();
	assert_line(text, "llmd_packets_total{reason=\"vlan\"} %lu", vlan);
	assert_line(text, "llmd_packets_total{reason=\"affinity_taken\"} %lu", last);
	assert_null(strstr(text, "reason=\"not_ours\""));
	check_pod(text);
	assert_line(text, "llmd_kernel_flows_total{pod=\"10.0.0.1:80\"} 0");
	assert_line(text, "llmd_handoffs_total{result=\"loopback\"} 21");
	assert_line(text, "llmd_handoff_duration_seconds_bucket{le=\"+Inf\"} 0");
	assert_line(text, "llmd_flow_events_total{event=\"adopted\"} 23");
	assert_line(text, "llmd_mirror_entries_total{event=\"dropped\"} 22");
	assert_line(text, "llmd_map_entries{map=\"sessions\"} %d", METRICS_MAP_SESSIONS + 1);
	assert_line(text, "llmd_map_entries_max{map=\"flows\"} %d", FLOWS_MAX);
	free(text);
}

static void sums_over_cpus(void **state)
{
	char *text;

	(void)state;
	check_all();
	text = scrape();
	assert_line(text, "llmd_map_entries{map=\"flows\"} 0");
	free(text);
}

static void works_without_batches(void **state)
{
	char *text;

	(void)state;
	need_maps();
	without_batches = true;
	check_all();
	text = scrape();
	assert_null(strstr(text, "llmd_map_entries{map=\"flows\"}")); /* not known is not said */
	free(text);
}

static void says_nothing_without_a_data_path(void **state)
{
	static const char *const silent[] = { "llmd_packets_total", "llmd_kernel_ttft_seconds", "llmd_pod_rtt_seconds",
		"llmd_map_entries", "llmd_mirror_queued", "llmd_flow_events_total" };
	struct metrics_kernel was = kernel;
	char *text;

	(void)state;
	kernel = (struct metrics_kernel){ .handoffs = &handoffs };
	text = scrape();
	kernel = was;
	for (size_t i = 0; i < COUNT(silent); i++) {
		char line[64] = "\n";

		strcat(line, silent[i]);
		assert_null(strstr(text, line)); /* only HELP and TYPE */
		assert_non_null(strstr(text, silent[i]));
	}
	assert_line(text, "llmd_handoffs_total{result=\"off\"} 0");
	free(text);
}

static void estimates_how_full_a_map_is(void **state)
{
	static const uint64_t fills[] = { 3, 500, 5000, 20000, 60000 };
	const struct map_shape map = { kernel.map[METRICS_MAP_FLOWS].fd, sizeof(struct flow_key), sizeof(struct flow) };
	uint64_t at = 0, n;

	(void)state;
	need_maps();
	for (size_t i = 0; i < COUNT(fills); i++) {
		for (; at < fills[i]; at++) {
			const struct flow_key key = { .sport = (uint16_t)at };
			const struct flow flow = { .slot = 1 };

			assert_int_equal(bpf_map_update_elem(map.fd, &key, &flow, BPF_ANY), 0);
		}
		assert_int_equal(map_batch_estimate(&map, FLOWS_MAX, &n), 0);
		if (fills[i] <= 500)
			assert_int_equal(n, fills[i]);
		else
			assert_in_range(n, fills[i] * 7 / 10, fills[i] * 13 / 10); /* six deviations of a sample of 512 */
	}
}

int main(void)
{
#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(sums_over_cpus),
		CASE(works_without_batches),
		CASE(says_nothing_without_a_data_path),
		CASE(estimates_how_full_a_map_is),
	};

	return cmocka_run_group_tests_name("metrics_kernel", tests, NULL, NULL);
}
