// SPDX-License-Identifier: Apache-2.0
/* What a run has shown: a table for people, JSON for programs. Times in seconds, shares from 0 to 1. */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/load/load.h"

static const char *const failure_names[FAILURE_N] = { "connect", "timeout", "reset", "cut", "status", "malformed", "content" };

static const struct {
	const char *name, *label;
	size_t offset;
} quantiles[] = {
	{ "head_s", "head of the answer", offsetof(struct stats, head) },
	{ "ttft_s", "time to first token", offsetof(struct stats, ttft) },
	{ "itl_s", "inter-token latency", offsetof(struct stats, itl) },
	{ "e2e_s", "end to end", offsetof(struct stats, e2e) },
	{ "connect_s", "connecting", offsetof(struct stats, connect) },
	{ "delay_s", "delay of a chunk", offsetof(struct stats, delay) },
};
enum { N_QUANTILES = sizeof(quantiles) / sizeof(quantiles[0]) };

static const struct quantile *quantile_of(const struct stats *stats, size_t i)
{
	return (const struct quantile *)((const char *)stats + quantiles[i].offset);
}

static uint64_t failures(const struct stats *stats)
{
	uint64_t n = 0;

	for (int i = 0; i < FAILURE_N; i++)
		n += stats->failures[i];
	return n;
}

static double elapsed_s(const struct stats *stats)
{
	return stats->last_ns > stats->first_ns ? (double)(stats->last_ns - stats->first_ns) / 1e9 : 0;
}

/* Of the pods' own counters. Return: whether they were read. */
static bool cache_result(const struct load *load, double *hit_rate, double *hot_spot)
{
	const struct stats *stats = &load->stats;
	double queries = 0, hits = 0, most = 0;
	size_t n = load->config->pod_metrics.n;

	for (size_t i = 0; i < n; i++) {
		double q = stats->after.queries[i] - stats->before.queries[i], h = stats->after.hits[i] - stats->before.hits[i];

		queries += q;
		hits += h;
		most = q - h > most ? q - h : most;
	}
	*hit_rate = queries > 0 ? hits / queries : 0;
	*hot_spot = queries > hits ? most / ((queries - hits) / (double)n) : 0;
	return n;
}

void report_progress(const struct load *load)
{
	const struct stats *stats = &load->stats;

	if (load->config->progress || isatty(STDERR_FILENO))
		fprintf(stderr, "%5.0f s  %lu done, %lu running, %lu failed, TTFT p50 %.3f s p95 %.3f s\n",
			(double)(load_now_ns() - load->begun_ns) / 1e9, (unsigned long)stats->finished, (unsigned long)load->inflight,
			(unsigned long)failures(stats), quantile_at(&stats->ttft, 0.5), quantile_at(&stats->ttft, 0.95));
}

static void print_table(const struct load *load)
{
	const struct stats *stats = &load->stats;
	double seconds = elapsed_s(stats), hit_rate, hot_spot;

	printf("requests    %lu in %.2f s: %.1f/s, %.0f tokens/s\n", (unsigned long)stats->finished, seconds,
		seconds > 0 ? (double)stats->finished / seconds : 0, seconds > 0 ? (double)stats->tokens / seconds : 0);
	printf("failures    %lu", (unsigned long)failures(stats));
	for (int i = 0; i < FAILURE_N; i++)
		if (stats->failures[i])
			printf("  %s %lu", failure_names[i], (unsigned long)stats->failures[i]);
	printf("\n%-22s %10s %10s %10s %10s %10s\n", "", "p50", "p95", "p99", "max", "samples");
	for (size_t i = 0; i < N_QUANTILES; i++) {
		const struct quantile *q = quantile_of(stats, i);

		if (q->n)
			printf("%-22s %8.3fms %8.3fms %8.3fms %8.3fms %10lu\n", quantiles[i].label, quantile_at(q, 0.5) * 1e3,
				quantile_at(q, 0.95) * 1e3, quantile_at(q, 0.99) * 1e3, (double)q->max_ns / 1e6, (unsigned long)q->n);
	}
	if (stats->later_turns)
		printf("stickiness  %.2f %% of %lu later turns\n", 100.0 * (double)stats->sticky / (double)stats->later_turns,
			(unsigned long)stats->later_turns);
	if (cache_result(load, &hit_rate, &hot_spot))
		printf("cache       %.2f %% of prompt tokens hit, hot spot %.3f\n", 100 * hit_rate, hot_spot);
}

static struct json_object *quantile_json(const struct quantile *q)
{
	static const struct {
		const char *name;
		double share;
	} points[] = { { "p50", 0.5 }, { "p90", 0.9 }, { "p95", 0.95 }, { "p99", 0.99 }, { "p999", 0.999 } };
	struct json_object *json = json_object_new_object();

	for (size_t i = 0; i < 5; i++)
		json_object_object_add(json, points[i].name, json_object_new_double(quantile_at(q, points[i].share)));
	json_object_object_add(json, "max", json_object_new_double((double)q->max_ns / 1e9));
	json_object_object_add(json, "mean", json_object_new_double(q->n ? q->sum_ns / (double)q->n / 1e9 : 0));
	json_object_object_add(json, "samples", json_object_new_uint64(q->n));
	return json;
}

static struct json_object *status_json(const struct stats *stats)
{
	struct json_object *json = json_object_new_object();
	char name[16];

	for (int i = 0; i < 600; i++) {
		snprintf(name, sizeof(name), "%d", i);
		if (stats->status[i])
			json_object_object_add(json, name, json_object_new_uint64(stats->status[i]));
	}
	return json;
}

static struct json_object *result_json(const struct load *load)
{
	const struct stats *stats = &load->stats;
	struct json_object *json = json_object_new_object(), *kinds = json_object_new_object();
	double seconds = elapsed_s(stats), hit_rate, hot_spot;

	json_object_object_add(json, "requests", json_object_new_uint64(stats->finished));
	json_object_object_add(json, "seconds", json_object_new_double(seconds));
	json_object_object_add(json, "requests_per_s", json_object_new_double(seconds > 0 ? (double)stats->finished / seconds : 0));
	json_object_object_add(json, "tokens_per_s", json_object_new_double(seconds > 0 ? (double)stats->tokens / seconds : 0));
	json_object_object_add(json, "bytes", json_object_new_uint64(stats->bytes));
	json_object_object_add(json, "failed", json_object_new_uint64(failures(stats)));
	for (int i = 0; i < FAILURE_N; i++)
		json_object_object_add(kinds, failure_names[i], json_object_new_uint64(stats->failures[i]));
	json_object_object_add(json, "failures", kinds);
	json_object_object_add(json, "status", status_json(stats));
	for (size_t i = 0; i < N_QUANTILES; i++)
		json_object_object_add(json, quantiles[i].name, quantile_json(quantile_of(stats, i)));
	json_object_object_add(json, "later_turns", json_object_new_uint64(stats->later_turns));
	json_object_object_add(json, "sticky_turns", json_object_new_uint64(stats->sticky));
	if (cache_result(load, &hit_rate, &hot_spot)) {
		json_object_object_add(json, "hit_rate", json_object_new_double(hit_rate));
		json_object_object_add(json, "hot_spot", json_object_new_double(hot_spot));
	}
	return json;
}

int report_print(const struct load *load)
{
	const char *path = load->config->json;
	struct json_object *json;
	int err = 0;

	if (strcmp(path, "-"))
		print_table(load);
	if (*path) {
		json_c_set_serialization_double_format("%.15g", JSON_C_OPTION_GLOBAL); /* what was meant, not how a double has it */
		json = result_json(load);
		err = strcmp(path, "-") ? json_object_to_file_ext(path, json, JSON_C_TO_STRING_PRETTY)
					: printf("%s\n", json_object_to_json_string_ext(json, JSON_C_TO_STRING_PRETTY)) < 0;
		json_object_put(json);
	}
	return err || (failures(&load->stats) && !load->config->allow_failures) ? 1 : 0;
}
