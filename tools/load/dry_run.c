// SPDX-License-Identifier: Apache-2.0
/*
 * A trace straight through the decision code: see dry_run.h.
 *
 * The decision sees only what an agent would see. What really hits is measured in caches of its own (the same as
 * llmd-sim's), so a wrong estimate costs hits. Each endpoint computes prompts one after another at --prefill-rate: tokens
 * in flight are released when the prompt is done, the request when its last token is out: answers and prompts do not delay
 * each other. A slow one takes twice as long for both.
 */
#include "tools/load/dry_run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "tools/sim/sim.h"

struct running {
	struct endpoint_claim claim;
	double first_ms, end_ms;
};

struct dry {
	const struct dry_run_config *config;
	struct endpoint_table endpoints;
	struct decider *decider;
	struct kv_cache *cache[ENDPOINT_MAX];
	double busy_until_ms[ENDPOINT_MAX], uncached[ENDPOINT_MAX];
	struct running *running;
	size_t n_running, cap_running;
	double *ttft_s; /* of each request */
	int32_t *last; /* endpoint of each session's last turn; -1 */
	uint64_t hashes[TRACE_IDS_MAX];
	uint32_t blocks[TRACE_IDS_MAX];
};

/* The clock by which the paces of the endpoints are learnt: one run at a time. */
static double clock_ms;

static uint64_t simulated_us(void)
{
	return (uint64_t)(clock_ms * 1000) + 1;
}

static size_t count_ids(const struct trace *trace)
{
	size_t n = TRACE_IDS_MAX;

	for (size_t i = 0; i < trace->n; i++)
		n += trace->at[i].n_ids;
	return n;
}

static int add_endpoints(struct dry *dry, const struct trace *trace)
{
	const struct dry_run_config *config = dry->config;
	size_t blocks = config->blocks ? config->blocks : count_ids(trace);

	for (uint32_t i = 0; i < config->endpoints; i++) {
		struct endpoint_config endpoint = { .role = ENDPOINT_ROLE_BOTH, .blocks = config->untold ? 0 : (uint32_t)blocks };
		char text[ADDRESS_TEXT_MAX];

		snprintf(text, sizeof(text), "10.0.%u.%u:8000", i / 250, i % 250 + 1);
		if (address_parse(&endpoint.address, text) || endpoint_add(&dry->endpoints, &endpoint) < 0)
			return -EINVAL;
		dry->cache[i] = kv_cache_new((uint32_t)blocks);
		if (!dry->cache[i])
			return -ENOMEM;
	}
	return 0;
}

static int start(struct dry *dry, const struct trace *trace)
{
	int err = add_endpoints(dry, trace);

	if (err)
		return err;
	if (dry->config->slow)
		dry->endpoints.now_us = simulated_us;
	dry->decider = decider_new(&dry->config->decide, &dry->endpoints);
	dry->last = malloc((trace->n_sessions + 1) * sizeof(*dry->last));
	dry->ttft_s = calloc(trace->n, sizeof(*dry->ttft_s));
	if (!dry->decider || !dry->last || !dry->ttft_s)
		return -ENOMEM;
	memset(dry->last, 0xff, (trace->n_sessions + 1) * sizeof(*dry->last));
	return 0;
}

/* In the order in which answers begin, each at its time. */
static void release_until(struct dry *dry, double now_ms)
{
	for (;;) {
		struct running *next = NULL;

		for (size_t i = 0; i < dry->n_running; i++)
			if (dry->running[i].claim.holds_tokens && dry->running[i].first_ms <= now_ms &&
				(!next || dry->running[i].first_ms < next->first_ms))
				next = &dry->running[i];
		if (!next)
			break;
		clock_ms = next->first_ms;
		endpoint_claim_release_tokens(&dry->endpoints, &next->claim);
	}
	clock_ms = now_ms;
	for (size_t i = 0; i < dry->n_running;) {
		struct running *running = &dry->running[i];

		if (running->end_ms <= now_ms) {
			endpoint_claim_release(&dry->endpoints, &running->claim);
			*running = dry->running[--dry->n_running];
		} else {
			i++;
		}
	}
}

static int note_running(struct dry *dry, const struct running *running)
{
	if (dry->n_running == dry->cap_running) {
		size_t cap = dry->cap_running ? 2 * dry->cap_running : 256;
		struct running *grown = realloc(dry->running, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		dry->running = grown;
		dry->cap_running = cap;
	}
	dry->running[dry->n_running++] = *running;
	return 0;
}

static double cpu_now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* What the endpoint's own cache makes of the prompt. Return: blocks that were there. */
static uint32_t compute(struct dry *dry, uint32_t endpoint, uint32_t n)
{
	struct kv_cache *cache = dry->cache[endpoint];
	uint32_t hits = kv_cache_match(cache, dry->hashes, n);

	if (!kv_cache_take(cache, dry->hashes, n, n, dry->blocks))
		kv_cache_give(cache, dry->blocks, n);
	return hits;
}

static void note_session(struct dry *dry, uint32_t session, int endpoint, struct dry_run_result *out)
{
	if (dry->last[session] >= 0) {
		out->later_turns++;
		out->sticky += dry->last[session] == endpoint;
	}
	dry->last[session] = endpoint;
}

static int one(struct dry *dry, const struct trace_request *from, struct dry_run_result *out)
{
	const struct dry_run_config *config = dry->config;
	double now_ms = (double)from->at_ms / config->time_scale, done_ms, begin = cpu_now_s(), times;
	struct running running = { 0 };
	struct decision decision;
	struct decide_request request = {
		.model = "",
		.has_session = config->sessions,
		.session = XXH3_64bits(&from->session, sizeof(from->session)),
		.blocks = dry->hashes,
		.n_blocks = from->n_ids,
		.prompt_bytes = (uint64_t)((double)from->input_tokens * config->decide.bytes_per_token),
	};
	uint32_t hits;
	int i;

	release_until(dry, now_ms);
	for (uint32_t k = 0; k < from->n_ids; k++)
		dry->hashes[k] = XXH3_64bits(&from->ids[k], sizeof(from->ids[k])) | 1;
	if (decide(dry->decider, &request, (uint64_t)now_ms + 1, &decision, &running.claim))
		return -ENOENT;
	out->decide_s += cpu_now_s() - begin;
	i = decision.endpoint;
	hits = compute(dry, (uint32_t)i, from->n_ids);
	done_ms = (double)from->input_tokens - (double)hits * TRACE_BLOCK_TOKENS;
	done_ms = done_ms > 1 ? done_ms : 1;
	dry->uncached[i] += done_ms;
	if (config->untold)
		decider_learn_hits(dry->decider, (uint32_t)i, from->input_tokens, from->input_tokens - done_ms, false);
	times = (uint32_t)i < config->slow ? 2 : 1; /* as long as the others */
	done_ms = times * done_ms * 1000 / config->prefill_rate +
		  (dry->busy_until_ms[i] > now_ms ? dry->busy_until_ms[i] : now_ms);
	dry->busy_until_ms[i] = running.first_ms = done_ms;
	dry->ttft_s[out->requests] = (done_ms - now_ms) / 1000;
	running.end_ms = done_ms + times * from->output_tokens * config->itl_ms;
	out->requests++;
	out->blocks += from->n_ids;
	out->hits += hits;
	out->reasons[decision.reason]++;
	note_session(dry, from->session, i, out);
	return note_running(dry, &running);
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void sum_up(const struct dry *dry, struct dry_run_result *out)
{
	double sum = 0, most = 0;

	for (uint32_t i = 0; i < dry->config->endpoints; i++) {
		sum += dry->uncached[i];
		most = dry->uncached[i] > most ? dry->uncached[i] : most;
	}
	qsort(dry->ttft_s, out->requests, sizeof(*dry->ttft_s), compare_doubles);
	out->ttft_p50_s = dry->ttft_s[out->requests / 2];
	out->ttft_p95_s = dry->ttft_s[out->requests * 95 / 100];
	out->hit_rate = out->blocks ? (double)out->hits / (double)out->blocks : 0;
	out->hot_spot = sum > 0 ? most / (sum / dry->config->endpoints) : 0;
}

int dry_run(const struct dry_run_config *config, const struct trace *trace, struct dry_run_result *out)
{
	struct dry *dry = calloc(1, sizeof(*dry));
	int err = dry ? 0 : -ENOMEM;

	memset(out, 0, sizeof(*out));
	if (err)
		return err;
	dry->config = config;
	err = start(dry, trace);
	for (size_t i = 0; !err && i < trace->n; i++)
		err = one(dry, &trace->at[i], out);
	if (!err)
		sum_up(dry, out);
	for (uint32_t i = 0; i < config->endpoints; i++)
		kv_cache_free(dry->cache[i]);
	decider_free(dry->decider);
	free(dry->last);
	free(dry->ttft_s);
	free(dry->running);
	free(dry);
	return err;
}
