// SPDX-License-Identifier: Apache-2.0
/* What is shown of each pod beside its requests: see metrics_endpoint.h. */
#include "agent/metrics_endpoint.h"

#include "agent/decide.h"
#include "agent/endpoint.h"
#include "agent/engine.h"
#include "agent/health.h"
#include "agent/metrics_print.h"

static void pod_inflight_requests(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	(void)i;
	sample_pod(scrape, endpoint, NULL, NULL, endpoint->inflight_requests);
}

static void print_inflight_requests(struct scrape *scrape)
{
	each_pod(scrape, pod_inflight_requests);
}

static void pod_inflight_tokens(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	(void)i;
	sample_pod(scrape, endpoint, NULL, NULL, endpoint->inflight_tokens);
}

static void print_inflight_tokens(struct scrape *scrape)
{
	each_pod(scrape, pod_inflight_tokens);
}

static void pod_blocks(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	if (scrape->gauges.decider)
		sample_pod(scrape, endpoint, NULL, NULL, decider_endpoint_blocks(scrape->gauges.decider, i));
}

static void print_pod_blocks(struct scrape *scrape)
{
	each_pod(scrape, pod_blocks);
}

static void pod_state(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	(void)i;
	for (enum endpoint_state state = ENDPOINT_FREE + 1; state < ENDPOINT_STATE_N; state++)
		sample_pod(scrape, endpoint, "state", endpoint_state_name(state), endpoint->state == state);
}

static void print_pod_state(struct scrape *scrape)
{
	each_pod(scrape, pod_state);
}

static void pod_capacity(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	if (scrape->gauges.decider)
		sample_pod(scrape, endpoint, NULL, NULL, decider_capacity(scrape->gauges.decider, i));
}

static void print_pod_capacity(struct scrape *scrape)
{
	each_pod(scrape, pod_capacity);
}

static void pod_drift(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	if (scrape->gauges.decider)
		sample_pod_double(scrape, endpoint, decider_drift(scrape->gauges.decider, i));
}

static void print_pod_drift(struct scrape *scrape)
{
	each_pod(scrape, pod_drift);
}

static void pod_slowness(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	(void)i;
	sample_pod_double(scrape, endpoint, pace_slowness(pace_mean_rate(&scrape->endpoints->pace_sum), endpoint->token_us));
}

static void print_pod_slowness(struct scrape *scrape)
{
	each_pod(scrape, pod_slowness);
}

static const struct engine_state *state_of(const struct scrape *scrape, uint32_t i)
{
	const struct metrics_gauges *gauges = &scrape->gauges;

	return gauges->engine_state ? gauges->engine_state(gauges->engines, i) : NULL;
}

/* What is not told, or too old, has no sample. */
static void engine_number(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint, enum engine_number number)
{
	const struct engine_state *state = state_of(scrape, i);

	if (state && state->is_fresh && state->sample.n[number])
		sample_pod_double(scrape, endpoint, state->sample.number[number]);
}

static void pod_running(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	engine_number(scrape, i, endpoint, ENGINE_RUNNING);
}

static void print_running(struct scrape *scrape)
{
	each_pod(scrape, pod_running);
}

static void pod_waiting(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	engine_number(scrape, i, endpoint, ENGINE_WAITING);
}

static void print_waiting(struct scrape *scrape)
{
	each_pod(scrape, pod_waiting);
}

static void pod_usage(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	const struct engine_state *state = state_of(scrape, i);

	if (state && state->is_fresh && state->sample.n[ENGINE_KV_USAGE])
		sample_pod_double(scrape, endpoint, state->sample.number[ENGINE_KV_USAGE] / state->sample.n[ENGINE_KV_USAGE]);
}

static void print_usage(struct scrape *scrape)
{
	each_pod(scrape, pod_usage);
}

static void print_engines(struct scrape *scrape)
{
	uint64_t samples = 0, failures = 0, restarts = 0;

	for (uint32_t i = 0; i < scrape->endpoints->n; i++) {
		const struct engine_state *state = state_of(scrape, i);

		if (!state)
			continue;
		samples += state->samples;
		failures += state->failures;
		restarts += state->restarts;
	}
	sample_label(scrape, "event", "scraped", samples);
	sample_label(scrape, "event", "failed", failures);
	sample_label(scrape, "event", "restarted", restarts);
}

static void print_health(struct scrape *scrape)
{
	static const char *const names[HEALTH_EVENT_N] = { "check_ok", "check_failed", "request_failed", "ejected", "spared" };

	for (int i = 0; scrape->gauges.health && i < HEALTH_EVENT_N; i++)
		sample_label(scrape, "event", names[i], scrape->gauges.health[i]);
}

static void print_transitions(struct scrape *scrape)
{
	char labels[SCRAPE_LABELS_MAX];

	for (enum endpoint_state from = 0; from < ENDPOINT_STATE_N; from++) {
		for (enum endpoint_state to = 0; to < ENDPOINT_STATE_N; to++) {
			if (!scrape->endpoints->transitions[from][to])
				continue;
			snprintf(labels, sizeof(labels), "from=\"%s\",to=\"%s\"", endpoint_state_name(from), endpoint_state_name(to));
			sample(scrape, "", labels, scrape->endpoints->transitions[from][to]);
		}
	}
}

/* clang-format off */
static const struct family families[] = {
	{ "llmd_inflight_requests", "gauge", "pod", "Requests chosen for a pod and not ended.",
	  "max(llmd_inflight_requests) / avg(llmd_inflight_requests)", print_inflight_requests },
	{ "llmd_inflight_tokens", "gauge", "pod", "Uncached prompt tokens chosen for a pod and not yet answered.",
	  "sum(llmd_inflight_tokens)", print_inflight_tokens },
	{ "llmd_endpoint_state", "gauge", "pod, state", "1 for the state that a pod is in.",
	  "sum by (state) (llmd_endpoint_state)", print_pod_state },
	{ "llmd_endpoint_prefix_blocks", "gauge", "pod", "Prefix blocks that a pod is believed to hold.",
	  "llmd_endpoint_prefix_blocks", print_pod_blocks },
	{ "llmd_endpoint_prefix_blocks_capacity", "gauge", "pod", "Prefix blocks that a pod can hold: configured, told by its engine, or learnt.",
	  "llmd_endpoint_prefix_blocks / llmd_endpoint_prefix_blocks_capacity", print_pod_capacity },
	{ "llmd_endpoint_hit_drift", "gauge", "pod", "Hit rate that the engine counts less the one that was expected, over the last prompts.",
	  "llmd_endpoint_hit_drift < -0.1", print_pod_drift },
	{ "llmd_endpoint_slowness", "gauge", "pod", "Time that a prompt token takes there, beside the mean pod.",
	  "llmd_endpoint_slowness > 1.5", print_pod_slowness },
	{ "llmd_endpoint_engine_running", "gauge", "pod", "Requests that the engine computes, as it says itself.",
	  "llmd_endpoint_engine_running", print_running },
	{ "llmd_endpoint_engine_waiting", "gauge", "pod", "Requests that wait in the engine's queue, as it says itself.",
	  "llmd_endpoint_engine_waiting > 0", print_waiting },
	{ "llmd_endpoint_kv_usage", "gauge", "pod", "Share of the KV cache that running requests hold, as the engine says.",
	  "llmd_endpoint_kv_usage > 0.9", print_usage },
	{ "llmd_endpoint_transitions_total", "counter", "from, to", "Changes of state over all pods.",
	  "rate(llmd_endpoint_transitions_total{to=\"ejected\"}[5m])", print_transitions },
	{ "llmd_health_events_total", "counter", "event", "Checks passed and failed, requests that failed at a pod, pods ejected, and spared because half were out.",
	  "rate(llmd_health_events_total{event=\"spared\"}[5m]) > 0", print_health },
	{ "llmd_engine_events_total", "counter", "event", "Reads of pods' /metrics, those that failed, and restarts of engines that they showed.",
	  "rate(llmd_engine_events_total{event=\"restarted\"}[5m])", print_engines },
};
/* clang-format on */

enum { N_FAMILIES = sizeof(families) / sizeof(families[0]) };

void metrics_endpoint_print(struct scrape *scrape)
{
	print_families(scrape, families, N_FAMILIES);
}

void metrics_endpoint_print_markdown(FILE *out)
{
	print_families_markdown(out, families, N_FAMILIES);
}
