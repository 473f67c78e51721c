// SPDX-License-Identifier: Apache-2.0
/* The decision's thresholds: what is chosen just below and just above each. */
#include "tests/unit/decide_pods.h"

/*
 * SLACK: what may be ahead of a request before it is moved; RECOMPUTE: how much a token that must be computed again outweighs
 * one ahead.
 */
enum { BLOCK = 512, PROMPT_TOKENS = PROMPT * BLOCK / 4, SLACK = 65536, RECOMPUTE = 4, NEWCOMER = 4 };

static const struct decide_config config = { .policy = POLICY_PREFIX_CACHE_AWARE, .weight_cache = 0.7, .weight_load = 0.3,
	.affinity_threshold = 0.55, .session_ttl_ms = 1000000, .sessions_max = 1024, .prefix_blocks_max = 65536,
	.prefix_block_bytes = BLOCK, .bytes_per_token = 4, .default_capacity_blocks = 1024, .seed = 7 };

static int setup(void **state)
{
	(void)state;
	return decide_pods_new(&config, "blocks=1024");
}

/* A prompt that begins with @shared blocks which all prompts of @family begin with. */
static struct decision ask(uint64_t session, uint64_t family, uint32_t shared, uint64_t own)
{
	struct endpoint_claim claim;
	struct decision decision;
	uint64_t blocks[PROMPT];
	const struct decide_request request = { .model = "m", .has_session = session, .session = session, .blocks = blocks,
		.n_blocks = PROMPT, .prompt_bytes = PROMPT * BLOCK };

	blocks_of(family, shared, own, blocks);
	assert_int_equal(decide(decider, &request, 1, &decision, &claim), 0);
	endpoint_claim_release(pods, &claim);
	return decision;
}

static void ties_are_broken_at_random(void **state)
{
	const struct decide_request request = { .model = "m" };
	int used[PODS] = { 0 };

	(void)state;
	for (int i = 0; i < 400; i++) {
		struct endpoint_claim claim;
		struct decision decision;

		assert_int_equal(decide(decider, &request, 1, &decision, &claim), 0);
		endpoint_claim_release(pods, &claim);
		used[decision.endpoint]++;
	}
	for (int i = 0; i < PODS; i++)
		assert_in_range(used[i], 60, 140);
}

/* Of ten blocks 5.5 are asked for. */
static void a_share_of_the_prefix_is_rounded_up(void **state)
{
	struct decision first;

	(void)state;
	ask(0, 1, PROMPT, 0);
	assert_int_equal(ask(0, 1, 5, 1).reason, DECISION_SCORE);
	first = ask(0, 2, PROMPT, 0);
	assert_int_equal(ask(0, 2, 6, 2).reason, DECISION_PREFIX);
	assert_int_equal(ask(0, 2, 6, 3).endpoint, first.endpoint);
}

static int endpoint_with_ahead(uint64_t session, int bound, uint64_t tokens)
{
	struct endpoint_claim busy;
	int endpoint;

	endpoint_claim_take(pods, (uint32_t)bound, (uint32_t)tokens, &busy);
	endpoint = ask(session, 1, PROMPT, 0).endpoint;
	endpoint_claim_release(pods, &busy);
	return endpoint;
}

/* Elsewhere the whole prompt would be computed again. */
static void a_session_waits_as_long_as_a_move_costs(void **state)
{
	const uint64_t most = SLACK + RECOMPUTE * PROMPT_TOKENS;
	int bound = ask(42, 1, PROMPT, 0).endpoint;

	(void)state;
	assert_int_equal(endpoint_with_ahead(42, bound, SLACK + 1), bound);
	assert_int_equal(endpoint_with_ahead(42, bound, most - 1), bound);
	assert_int_not_equal(endpoint_with_ahead(42, bound, most + 1), bound);
}

/* It has nothing there yet, so half a prefix is not worth the wait that a session's is. */
static void a_newcomer_waits_less(void **state)
{
	const uint32_t most = SLACK / NEWCOMER + RECOMPUTE * PROMPT_TOKENS / 2;
	struct endpoint_claim busy;
	struct decision holder;

	(void)state;
	holder = ask(0, 1, PROMPT, 0);
	endpoint_claim_take(pods, (uint32_t)holder.endpoint, most - 100, &busy);
	assert_int_equal(ask(0, 1, 5, 1).endpoint, holder.endpoint);
	endpoint_claim_release(pods, &busy);
	holder = ask(0, 2, PROMPT, 0);
	endpoint_claim_take(pods, (uint32_t)holder.endpoint, most + 100, &busy);
	assert_int_not_equal(ask(0, 2, 5, 2).endpoint, holder.endpoint);
	endpoint_claim_release(pods, &busy);
}

/* What is expected is noted before it is discounted: else the discount would be taken back as soon as it is right. */
static void trust_settles(void **state)
{
	struct decision decision = ask(42, 1, PROMPT, 0);
	const struct endpoint *endpoint = &pods->at[decision.endpoint];

	(void)state;
	for (int i = 0; i < 20000; i++) {
		assert_int_equal(ask(42, 1, PROMPT, 0).endpoint, decision.endpoint);
		decider_learn_hits(decider, (uint32_t)decision.endpoint, PROMPT_TOKENS, PROMPT_TOKENS / 2, true);
		if (i > 10000 && (endpoint->trust < 0.4f || endpoint->trust > 0.6f))
			fail_msg("trust is %f", (double)endpoint->trust);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(ties_are_broken_at_random, setup, teardown),
		cmocka_unit_test_setup_teardown(a_share_of_the_prefix_is_rounded_up, setup, teardown),
		cmocka_unit_test_setup_teardown(a_session_waits_as_long_as_a_move_costs, setup, teardown),
		cmocka_unit_test_setup_teardown(a_newcomer_waits_less, setup, teardown),
		cmocka_unit_test_setup_teardown(trust_settles, setup, teardown),
	};

	return cmocka_run_group_tests_name("decide_rules", tests, NULL, NULL);
}
