// SPDX-License-Identifier: Apache-2.0
/* What a decision costs, by number of pods and sessions: a Markdown table. All pods hold the head of every prompt. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "agent/decide.h"
#include "lib/log.h"

enum { BLOCKS = 128, SHARED = 16, DECISIONS = 20000 };

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now); /* whoever else the machine works for */
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void prompt_of(uint64_t session, uint64_t *blocks)
{
	for (uint64_t i = 0; i < BLOCKS; i++)
		blocks[i] = ((i < SHARED ? i : session * 1000 + i) + 1) * 0x9e3779b97f4a7c15ull;
}

static void ask(struct decider *decider, struct endpoint_table *pods, uint64_t session, uint64_t *blocks, uint64_t at_ms)
{
	const struct decide_request request = { .model = "", .has_session = true, .session = (session + 1) * 0x9e3779b97f4a7c15ull,
		.blocks = blocks, .n_blocks = BLOCKS, .prompt_bytes = BLOCKS * 512 };
	struct endpoint_claim claim;
	struct decision decision;

	if (decide(decider, &request, at_ms, &decision, &claim))
		abort();
	endpoint_claim_release(pods, &claim);
}

static void fill(struct decider *decider, struct endpoint_table *pods, uint64_t sessions, uint64_t *blocks)
{
	const struct decide_request bind = { .model = "", .has_session = true };
	uint64_t prompts = sessions < 20000 ? sessions : 20000;

	for (uint64_t s = 0; s < sessions; s++) {
		struct decide_request request = bind;
		struct endpoint_claim claim;
		struct decision decision;

		request.session = (s + 1) * 0x9e3779b97f4a7c15ull;
		if (s < prompts) {
			prompt_of(s, blocks);
			ask(decider, pods, s, blocks, 1);
		} else if (!decide(decider, &request, 1, &decision, &claim)) {
			endpoint_claim_release(pods, &claim);
		}
	}
}

static void measure(uint32_t n_pods, uint64_t sessions)
{
	const struct decide_config config = { .policy = POLICY_PREFIX_CACHE_AWARE, .weight_cache = 0.7, .weight_load = 0.3,
		.affinity_threshold = 0.6, .session_ttl_ms = 7200000, .sessions_max = 1 << 20, .prefix_blocks_max = 4 << 20,
		.prefix_block_bytes = 512, .bytes_per_token = 4, .default_capacity_blocks = 65536, .seed = 1 };
	struct endpoint_table *pods = calloc(1, sizeof(*pods));
	struct decider *decider;
	struct decider_stats stats;
	uint64_t blocks[BLOCKS];
	double begin;

	for (uint32_t i = 0; i < n_pods; i++) {
		struct endpoint_config pod = { .role = ENDPOINT_ROLE_BOTH };
		char text[64];

		snprintf(text, sizeof(text), "10.0.%u.%u:80", i / 250, i % 250 + 1);
		address_parse(&pod.address, text);
		endpoint_add(pods, &pod);
	}
	decider = decider_new(&config, pods);
	fill(decider, pods, sessions, blocks);
	srand(1);
	begin = now_s();
	for (uint64_t i = 0; i < DECISIONS; i++) {
		uint64_t session = (uint64_t)rand() % (sessions < 20000 ? sessions : 20000);

		prompt_of(session, blocks);
		ask(decider, pods, session, blocks, 2);
	}
	begin = (now_s() - begin) / DECISIONS;
	decider_get_stats(decider, &stats);
	printf("| %u | %lu | %.2f | %.0f | %lu | %.1f |\n", n_pods, (unsigned long)sessions, begin * 1e6, 1 / begin,
		(unsigned long)stats.prefix_blocks, (double)stats.bytes / 1048576);
	decider_free(decider);
	free(pods);
}

int main(void)
{
	static const uint32_t pods[] = { 8, 64, 1000 };
	static const uint64_t sessions[] = { 1000, 1000000 };

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
	printf("| pods | sessions | us per decision | decisions/s | (pod, block) pairs | MiB of tables |\n|---|---|---|---|---|---|\n");
	for (size_t s = 0; s < 2; s++)
		for (size_t p = 0; p < 3; p++)
			measure(pods[p], sessions[s]);
	return 0;
}
