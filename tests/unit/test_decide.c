// SPDX-License-Identifier: Apache-2.0
/* Endpoints, sessions, the prefix index and the decision. */
#include "tests/unit/decide_pods.h"

#include <errno.h>

#include "agent/prefix.h"
#include "agent/session.h"

static uint64_t now_ms;

static const struct decide_config config = { .policy = POLICY_PREFIX_CACHE_AWARE, .weight_cache = 0.7, .weight_load = 0.3,
	.affinity_threshold = 0.6, .session_ttl_ms = 1000000, .sessions_max = 1024, .prefix_blocks_max = 4096,
	.prefix_block_bytes = 512, .bytes_per_token = 4, .default_capacity_blocks = 1024, .seed = 7 };

static int setup(void **state)
{
	(void)state;
	now_ms = 1;
	return decide_pods_new(&config, "model=m");
}

static struct decision ask(uint64_t session, const uint64_t *blocks, struct endpoint_claim *claim)
{
	const struct decide_request request = { .model = "m", .has_session = session, .session = session * 0x9e3779b97f4a7c15ull,
		.blocks = blocks, .n_blocks = PROMPT, .prompt_bytes = PROMPT * 512 };
	struct decision decision;

	assert_int_equal(decide(decider, &request, now_ms, &decision, claim), 0);
	return decision;
}

static struct decision ask_and_end(uint64_t session, const uint64_t *blocks)
{
	struct endpoint_claim claim;
	struct decision decision = ask(session, blocks, &claim);

	endpoint_claim_release(pods, &claim);
	endpoint_claim_release(pods, &claim);
	return decision;
}

static void sessions_stay(void **state)
{
	uint64_t blocks[PROMPT];
	struct decision first;

	(void)state;
	blocks_of(1, 10, 0, blocks);
	first = ask_and_end(42, blocks);
	assert_int_equal(first.reason, DECISION_SCORE);
	for (int i = 0; i < 100; i++) {
		struct decision next = ask_and_end(42, blocks);

		assert_int_equal(next.endpoint, first.endpoint);
		assert_int_equal(next.reason, DECISION_SESSION);
		assert_int_equal(next.cached_blocks, PROMPT);
	}
	for (int i = 0; i < PODS; i++)
		assert_int_equal(pods->at[i].inflight_tokens + pods->at[i].inflight_requests, 0);
}

static void prefixes_attract_and_short_heads_spread(void **state)
{
	uint64_t blocks[PROMPT];
	int used[PODS] = { 0 };
	struct decision first;

	(void)state;
	blocks_of(1, 8, 1, blocks);
	first = ask_and_end(0, blocks);
	blocks_of(1, 8, 2, blocks);
	assert_int_equal(ask_and_end(0, blocks).endpoint, first.endpoint);
	for (uint64_t i = 0; i < 40; i++) {
		blocks_of(2, 1, 100 + i, blocks);
		used[ask_and_end(0, blocks).endpoint]++;
	}
	for (int i = 0; i < PODS; i++)
		assert_in_range(used[i], 5, 15);
}

static void leaves_a_saturated_endpoint(void **state)
{
	uint64_t blocks[PROMPT];
	struct endpoint_claim busy;
	struct decision first, next;

	(void)state;
	blocks_of(1, 10, 0, blocks);
	first = ask_and_end(42, blocks);
	endpoint_claim_take(pods, (uint32_t)first.endpoint, 60000, &busy);
	assert_int_equal(ask_and_end(42, blocks).endpoint, first.endpoint); /* a queue of seconds: stay */
	endpoint_claim_release(pods, &busy);
	endpoint_claim_take(pods, (uint32_t)first.endpoint, 1000000, &busy);
	next = ask_and_end(42, blocks);
	assert_int_not_equal(next.endpoint, first.endpoint);
	assert_int_equal(next.reason, DECISION_SESSION_SATURATED);
}

static void spreads_the_sessions_of_a_lost_endpoint(void **state)
{
	uint64_t blocks[PROMPT];
	int lost = -1, used[PODS] = { 0 };
	int where[40];

	(void)state;
	for (uint64_t s = 1; s < 40; s++) {
		blocks_of(s, 10, 0, blocks);
		where[s] = ask_and_end(s, blocks).endpoint;
		lost = where[s];
	}
	endpoint_set_state(pods, (uint32_t)lost, ENDPOINT_EJECTED, "test");
	for (uint64_t s = 1; s < 40; s++) {
		struct decision next;

		blocks_of(s, 10, 0, blocks);
		next = ask_and_end(s, blocks);
		assert_int_not_equal(next.endpoint, lost);
		assert_int_equal(next.reason, where[s] == lost ? DECISION_SESSION_LOST : DECISION_SESSION);
		if (where[s] == lost)
			used[next.endpoint]++;
		else
			assert_int_equal(next.endpoint, where[s]);
	}
	for (int i = 0; i < PODS; i++)
		assert_true(i == lost || used[i] > 0);
}

static void honours_exclusion_model_and_role(void **state)
{
	uint8_t excluded[ENDPOINT_MAX / 8] = { 0x07 };
	struct decide_request request = { .model = "m", .excluded = excluded };
	struct endpoint_claim claim;
	struct decision decision;

	(void)state;
	assert_int_equal(decide(decider, &request, now_ms, &decision, &claim), 0);
	assert_int_equal(decision.endpoint, 3);
	request.model = "other";
	assert_int_equal(decide(decider, &request, now_ms, &decision, &claim), -ENOENT);
	request.model = "";
	pods->at[3].role = ENDPOINT_ROLE_PREFILL;
	assert_int_equal(decide(decider, &request, now_ms, &decision, &claim), -ENOENT);
}

static void degraded_pods_get_no_newcomers(void **state)
{
	uint64_t blocks[PROMPT];

	(void)state;
	for (int i = 1; i < PODS; i++)
		endpoint_set_state(pods, (uint32_t)i, ENDPOINT_DEGRADED, "test");
	for (uint64_t i = 0; i < 20; i++) {
		blocks_of(i, 10, 0, blocks);
		assert_int_equal(ask_and_end(100 + i, blocks).endpoint, 0);
	}
	endpoint_set_state(pods, 0, ENDPOINT_EJECTED, "test");
	assert_int_not_equal(ask_and_end(100, blocks).endpoint, 0);
}

static void models_and_adapters_that_engines_tell(void **state)
{
	const uint64_t names[] = { endpoint_model_hash("m"), endpoint_model_hash("x") };
	uint64_t m = endpoint_learn_names(pods, names, 1), other = endpoint_learn_names(pods, names + 1, 1);
	uint64_t blocks[PROMPT];

	(void)state;
	endpoint_set_serves(pods, 0, other);
	endpoint_set_serves(pods, 1, other | m);
	endpoint_set_serves(pods, 2, m);
	endpoint_set_serves(pods, 3, m);
	endpoint_set_loaded(pods, 2, m);
	for (uint64_t i = 0; i < 20; i++) {
		blocks_of(i, 10, 0, blocks);
		assert_int_equal(ask_and_end(i, blocks).endpoint, 2); /* it has the adapter in memory */
	}
	endpoint_set_state(pods, 2, ENDPOINT_EJECTED, "test");
	for (uint64_t i = 0; i < 20; i++) {
		blocks_of(i, 10, 0, blocks);
		assert_in_set(ask_and_end(i, blocks).endpoint, ((const LargestIntegralType[]){ 1, 3 }), 2); /* 0 does not serve it */
	}
}

/* Adapters come and go as long as the agent lives: only those that some pod has now take a bit. */
static void names_that_no_pod_has_make_room(void **state)
{
	const uint64_t mine = endpoint_model_hash("m");
	uint64_t m = endpoint_learn_names(pods, &mine, 1), names[ENDPOINT_NAMES_MAX];
	unsigned missing = 0;

	(void)state;
	endpoint_set_serves(pods, 0, m);
	for (uint64_t round = 0; round < 3; round++) {
		for (uint64_t i = 0; i < ENDPOINT_NAMES_MAX; i++)
			names[i] = 2 * (round * ENDPOINT_NAMES_MAX + i) + 1;
		endpoint_set_loaded(pods, 1, endpoint_learn_names(pods, names, ENDPOINT_NAMES_MAX));
		endpoint_set_loaded(pods, 1, endpoint_learn_names(pods, names, ENDPOINT_NAMES_MAX)); /* now those before are gone */
		assert_true(endpoint_name_bit(pods, mine) == m);
		assert_true(pods->loaded == ~m);
	}
	for (unsigned i = 0; i < ENDPOINT_NAMES_MAX; i++)
		missing += !endpoint_name_bit(pods, names[i]);
	assert_int_equal(missing, 1);
	endpoint_remove(pods, 1);
	assert_true(endpoint_learn_names(pods, names, ENDPOINT_NAMES_MAX) == ~m);
}

static void what_waits_at_the_engine_counts(void **state)
{
	uint64_t blocks[PROMPT];

	(void)state;
	for (int i = 0; i < PODS; i++)
		pods->at[i].queued_tokens = i == 3 ? 0 : 100000;
	for (uint64_t i = 0; i < 20; i++) {
		blocks_of(i, 10, 0, blocks);
		assert_int_equal(ask_and_end(i, blocks).endpoint, 3);
	}
}

static void full_pods_get_nothing_more(void **state)
{
	struct decide_config bounded = config;
	const struct decide_request request = { .model = "m" };
	struct endpoint_claim claims[PODS + 1];
	struct decision decision;

	(void)state;
	decider_free(decider);
	bounded.max_inflight = 1;
	decider = decider_new(&bounded, pods);
	for (int i = 0; i < PODS; i++)
		assert_int_equal(decide(decider, &request, now_ms, &decision, &claims[i]), 0);
	assert_int_equal(pods->inflight_requests, PODS);
	assert_int_equal(decide(decider, &request, now_ms, &decision, &claims[PODS]), -EBUSY);
	endpoint_claim_release(pods, &claims[2]);
	assert_int_equal(decide(decider, &request, now_ms, &decision, &claims[PODS]), 0);
	assert_int_equal(decision.endpoint, claims[2].index);
}

static uint64_t clock_us;

static uint64_t test_clock(void)
{
	return clock_us;
}

/* One of four pods takes twice as long: it gets half of what the others get. */
static void pods_get_load_by_their_pace(void **state)
{
	uint64_t blocks[PROMPT], tokens[PODS] = { 0 };

	(void)state;
	pods->now_us = test_clock;
	clock_us = 1;
	for (uint64_t i = 0; i < 4000; i++) {
		struct endpoint_claim claim;
		struct decision decision;

		blocks_of(i, 0, i, blocks);
		decision = ask(0, blocks, &claim);
		clock_us += decision.uncached_tokens * (decision.endpoint ? 100 : 200);
		now_ms = clock_us / 1000;
		endpoint_claim_release_tokens(pods, &claim);
		endpoint_claim_release(pods, &claim);
		if (i >= 1000)
			tokens[decision.endpoint] += decision.uncached_tokens;
	}
	assert_in_range(tokens[0] * 1000 / tokens[1], 450, 620);
	assert_in_range(tokens[2] * 1000 / tokens[1], 900, 1100);
}

static void a_new_pod_at_an_old_address_has_nothing(void **state)
{
	struct endpoint_config endpoint = pods->at[0].config;
	uint64_t blocks[PROMPT];
	struct endpoint_claim old;

	(void)state;
	blocks_of(1, 10, 0, blocks);
	for (int i = 1; i < PODS; i++)
		endpoint_set_state(pods, (uint32_t)i, ENDPOINT_EJECTED, "test");
	assert_int_equal(ask(42, blocks, &old).endpoint, 0);
	endpoint_remove(pods, 0);
	assert_int_equal(endpoint_add(pods, &endpoint), 0);
	endpoint_claim_release(pods, &old);
	assert_int_equal(pods->at[0].inflight_requests, 0);
	assert_int_equal(ask_and_end(42, blocks).cached_blocks, 0);
}

static void session_table_forgets_in_order(void **state)
{
	struct session_table *table = session_table_new(4, 100);
	struct session_stats stats;

	(void)state;
	for (uint64_t i = 1; i <= 5; i++)
		session_bind(table, i, (uint32_t)i, 1, i);
	assert_null(session_find(table, 1, 5));
	assert_int_equal(session_find(table, 5, 5)->endpoint, 5);
	assert_null(session_find(table, 2, 102));
	assert_int_equal(session_expire(table, 104, 10), 3);
	session_get_stats(table, &stats);
	assert_true(stats.n == 1 && stats.evicted == 1 && stats.expired == 3);
	session_table_free(table);
}

/* The index against one that is obviously right: a list per endpoint, the most recently used first. */
struct model {
	uint64_t list[PODS][64];
	uint32_t n[PODS], capacity;
};

static void model_use(struct model *model, int pod, uint64_t hash)
{
	uint64_t *list = model->list[pod];
	uint32_t i = 0;

	while (i < model->n[pod] && list[i] != hash)
		i++;
	if (i == model->n[pod] && model->n[pod] < model->capacity)
		model->n[pod]++;
	else if (i == model->n[pod])
		i--;
	memmove(list + 1, list, i * sizeof(*list));
	list[0] = hash;
}

static bool model_has(const struct model *model, int pod, uint64_t hash)
{
	for (uint32_t i = 0; i < model->n[pod]; i++)
		if (model->list[pod][i] == hash)
			return true;
	return false;
}

static void prefix_index_matches_a_model(void **state)
{
	struct prefix_index *index = prefix_index_new(1024);
	struct model model = { .capacity = 24 };
	uint16_t depth[ENDPOINT_MAX];

	(void)state;
	srand(1);
	for (uint32_t i = 0; i < PODS; i++)
		prefix_set_capacity(index, i, model.capacity);
	for (int round = 0; round < 20000; round++) {
		uint64_t blocks[12];
		uint32_t n = 1 + (uint32_t)rand() % 12;
		int pod = rand() % PODS;

		for (uint32_t k = 0; k < n; k++)
			blocks[k] = ((uint64_t)(rand() % 3 ? 1 : rand() % 6) * 100 + k) * 0x9e3779b97f4a7c15ull;
		prefix_match(index, blocks, n, PODS, depth);
		for (int p = 0; p < PODS; p++) {
			uint32_t expected = 0;

			while (expected < n && model_has(&model, p, blocks[expected]))
				expected++;
			assert_int_equal(depth[p], expected);
		}
		if (round % 97 == 0) {
			prefix_clear(index, (uint32_t)pod);
			model.n[pod] = 0;
		}
		prefix_insert(index, (uint32_t)pod, blocks, n, (uint64_t)round);
		for (uint32_t k = n; k-- > 0;)
			model_use(&model, pod, blocks[k]);
		assert_int_equal(prefix_count(index, (uint32_t)pod), model.n[pod]);
	}
	prefix_index_free(index);
}

static void endpoints_parse(void **state)
{
	static const char *const wrong[] = { "", "1.2.3.4", "1.2.3.4:0", "1.2.3.4:99999", "a:80", "1.2.3.4:80,", "1.2.3.4:80,x=1",
		"1.2.3.4:80,role=cook", "1.2.3.4:80,blocks=0", "1.2.3.4:80,blocks=-1", "1.2.3.4:80,model=" };
	struct endpoint_config endpoint;

	(void)state;
	assert_int_equal(endpoint_config_parse(&endpoint, "[::1]:80,model=a/b,role=decode,blocks=5"), 0);
	assert_string_equal(endpoint.model, "a/b");
	assert_true(endpoint.role == ENDPOINT_ROLE_DECODE && endpoint.blocks == 5);
	for (size_t i = 0; i < COUNT(wrong); i++)
		if (endpoint_config_parse(&endpoint, wrong[i]) != -EINVAL && strcmp(wrong[i], "1.2.3.4:80,"))
			fail_msg("taken: %s", wrong[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(sessions_stay, setup, teardown),
		cmocka_unit_test_setup_teardown(prefixes_attract_and_short_heads_spread, setup, teardown),
		cmocka_unit_test_setup_teardown(leaves_a_saturated_endpoint, setup, teardown),
		cmocka_unit_test_setup_teardown(spreads_the_sessions_of_a_lost_endpoint, setup, teardown),
		cmocka_unit_test_setup_teardown(honours_exclusion_model_and_role, setup, teardown),
		cmocka_unit_test_setup_teardown(degraded_pods_get_no_newcomers, setup, teardown),
		cmocka_unit_test_setup_teardown(models_and_adapters_that_engines_tell, setup, teardown),
		cmocka_unit_test_setup_teardown(names_that_no_pod_has_make_room, setup, teardown),
		cmocka_unit_test_setup_teardown(what_waits_at_the_engine_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(full_pods_get_nothing_more, setup, teardown),
		cmocka_unit_test_setup_teardown(pods_get_load_by_their_pace, setup, teardown),
		cmocka_unit_test_setup_teardown(a_new_pod_at_an_old_address_has_nothing, setup, teardown),
		cmocka_unit_test(session_table_forgets_in_order),
		cmocka_unit_test(prefix_index_matches_a_model),
		cmocka_unit_test(endpoints_parse),
	};

	return cmocka_run_group_tests_name("decide", tests, NULL, NULL);
}
