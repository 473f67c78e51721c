// SPDX-License-Identifier: Apache-2.0
/* What engines tell, and what is learnt of pods: their metrics, pace and drift; the budget of retries. */
#include "tests/unit/test.h"

#include <errno.h>

#include "agent/drift.h"
#include "agent/endpoint.h"
#include "agent/engine_text.h"
#include "agent/pace.h"
#include "agent/retry_budget.h"
#include "lib/log.h"

static struct engine_sample parse(const char *text)
{
	static struct engine_text parser;

	parser = (struct engine_text){ 0 };
	engine_text_feed(&parser, text, strlen(text));
	engine_text_end(&parser);
	return parser.sample;
}

static const struct {
	const char *name, *text;
	enum engine_number number;
	unsigned n;
	double value;
} numbers[] = {
	{ "a gauge", "vllm:num_requests_running{engine=\"0\"} 3.0\n", ENGINE_RUNNING, 1, 3 },
	{ "engines add up", "vllm:num_requests_waiting{engine=\"0\"} 3\nvllm:num_requests_waiting{engine=\"1\"} 4\n", ENGINE_WAITING, 2, 7 },
	{ "without labels, with a time", "vllm:num_requests_waiting 5 1700000000000\r\n", ENGINE_WAITING, 1, 5 },
	{ "the last line without its end", "# TYPE x gauge\nprocess_start_time_seconds 1.5e3", ENGINE_STARTED, 1, 1500 },
	{ "an older name", "vllm:gpu_cache_usage_perc 0.5\n", ENGINE_KV_USAGE, 1, 0.5 },
	{ "the newer name counts, whatever the order", "vllm:kv_cache_usage_perc 0.25\nvllm:gpu_cache_usage_perc 0.5\n", ENGINE_KV_USAGE, 1, 0.25 },
	{ "and the other order", "vllm:gpu_prefix_cache_hits_total 9\nvllm:prefix_cache_hits_total 4\n", ENGINE_HIT, 1, 4 },
	{ "capacity from labels", "vllm:cache_config_info{block_size=\"16\",x=\"a\\\"},b\",num_gpu_blocks=\"4000\"} 1.0\n", ENGINE_CAPACITY, 1, 64000 },
	{ "num_gpu_blocks not known yet", "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1.0\n", ENGINE_CAPACITY, 0, 0 },
	{ "SGLang", "sglang:num_queue_reqs{model_name=\"m\"} 5.0\n", ENGINE_WAITING, 1, 5 },
	{ "SGLang's hits by source", "sglang:cached_tokens_total{cache_source=\"host\"} 1e3\nsglang:cached_tokens_total{cache_source=\"device\"} 2e3\n", ENGINE_HIT, 2, 3000 },
	{ "SGLang's capacity", "sglang:max_total_num_tokens 452516.0\n", ENGINE_CAPACITY, 1, 452516 },
	{ "a longer name is another one", "vllm:num_requests_waiting_by_reason 5\n", ENGINE_WAITING, 0, 0 },
	{ "not a number", "vllm:num_requests_waiting NaN\nvllm:num_requests_waiting x\nvllm:num_requests_waiting \n", ENGINE_WAITING, 0, 0 },
	{ "not a count", "vllm:num_requests_waiting -1\nvllm:num_requests_waiting +Inf\n", ENGINE_WAITING, 0, 0 },
	{ "more than all", "vllm:kv_cache_usage_perc 1.5\n", ENGINE_KV_USAGE, 0, 0 },
	{ "labels that do not end", "vllm:num_requests_waiting{a=\"} 1\n", ENGINE_WAITING, 0, 0 },
};

static void numbers_are_read(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(numbers); i++) {
		struct engine_sample sample = parse(numbers[i].text);

		if (sample.n[numbers[i].number] != numbers[i].n || sample.number[numbers[i].number] != numbers[i].value)
			fail_msg("%s: %u, %g", numbers[i].name, sample.n[numbers[i].number], sample.number[numbers[i].number]);
	}
}

static void a_line_without_end_is_left_out(void **state)
{
	static struct engine_text parser;
	char text[ENGINE_LINE_MAX / 2];

	(void)state;
	memset(text, 'v', sizeof(text));
	parser = (struct engine_text){ 0 };
	for (int i = 0; i < 5; i++)
		engine_text_feed(&parser, text, sizeof(text));
	engine_text_feed(&parser, "\nvllm:num_requests_waiting 2\n", 29);
	engine_text_end(&parser);
	assert_true(parser.sample.number[ENGINE_WAITING] == 2);
}

static void the_latest_adapters_count(void **state)
{
	struct engine_sample sample = parse(
		"vllm:lora_requests_info{running_lora_adapters=\"sql, chat\",waiting_lora_adapters=\"math\"} 1.7000001e9\n"
		"vllm:lora_requests_info{running_lora_adapters=\"old\",waiting_lora_adapters=\"\"} 1.7e9\n");

	(void)state;
	assert_int_equal(sample.n_adapters, 3);
	assert_true(sample.adapter[0] == endpoint_model_hash("sql") && sample.adapter[1] == endpoint_model_hash("chat") &&
		    sample.adapter[2] == endpoint_model_hash("math"));
}

static void models_are_listed(void **state)
{
	static const char text[] = "{\"object\":\"list\",\"data\":[{\"id\":\"base\"},{\"id\":\"sql\"},{\"id\":7},{}]}";
	uint64_t hashes[ENGINE_NAMES_MAX];

	(void)state;
	assert_int_equal(engine_models_parse(text, strlen(text), hashes), 2);
	assert_true(hashes[1] == endpoint_model_hash("sql"));
	assert_int_equal(engine_models_parse(text, strlen(text) - 1, hashes), -EINVAL);
	assert_int_equal(engine_models_parse("", 0, hashes), -EINVAL);
	assert_int_equal(engine_models_parse("{\"data\":7}", 10, hashes), -EINVAL);
}

/* ---- what is learnt ---- */

static void pace_is_of_busy_time(void **state)
{
	struct pace_sum sum = { 0 };
	struct pace fast = { 0 }, slow = { 0 };

	(void)state;
	for (uint64_t t = 1; t < 20 * 1000000ull; t += 1000000) { /* 1000 tokens, in 10 ms and 20 ms; idle in between */
		pace_begin(&fast, t);
		pace_computed(&fast, 1000, t + 10000, true);
		pace_begin(&slow, t);
		pace_computed(&slow, 500, t + 10000, false);
		pace_computed(&slow, 500, t + 20000, true);
	}
	assert_true(pace_token_us(&fast) > 9.9 && pace_token_us(&fast) < 10.1);
	assert_true(pace_token_us(&slow) > 19.9 && pace_token_us(&slow) < 20.1);
	assert_true(pace_slowness(pace_mean_rate(&sum), pace_token_us(&slow)) == 1); /* nobody to compare with */
	pace_sum_change(&sum, 0, pace_token_us(&fast));
	pace_sum_change(&sum, 0, pace_token_us(&slow));
	assert_true(pace_slowness(pace_mean_rate(&sum), pace_token_us(&slow)) > 1.4);
	assert_true(pace_slowness(pace_mean_rate(&sum), pace_token_us(&fast)) < 0.8);
	pace_sum_change(&sum, pace_token_us(&slow), 0);
	assert_int_equal(sum.n, 1);
}

static void short_and_disturbed_periods_tell_nothing(void **state)
{
	struct pace pace = { 0 };

	(void)state;
	for (int i = 0; i < 1000; i++) {
		pace_begin(&pace, 1);
		pace_computed(&pace, 10, 100000, true);
	}
	assert_true(pace_token_us(&pace) == 0);
	pace_begin(&pace, 1);
	pace_disturbed(&pace, 1000001);
	pace_computed(&pace, 8192, 1000001 + 8192 * 10, true);
	assert_true(pace_token_us(&pace) > 9.9 && pace_token_us(&pace) < 10.1);
}

/* A cache of @truth blocks whose hits grow with what is believed up to that. */
static uint32_t settle(struct drift *drift, uint32_t capacity, double truth)
{
	for (int i = 0; i < 60; i++) {
		double believed = 0.5 * (capacity < 10000 ? capacity / 10000.0 : 1), real = 0.5 * truth / 10000;

		drift_expect(drift, 300000, 300000 * believed);
		if (drift_learn(drift, 300000, 300000 * real))
			capacity = drift_capacity(drift, capacity, capacity, 1 << 20);
	}
	return capacity;
}

static void capacity_is_learnt_from_both_sides(void **state)
{
	struct drift drift = { 0 };

	(void)state;
	assert_in_range(settle(&drift, 65536, 4000), 3200, 4800);
	drift_reset(&drift);
	assert_in_range(settle(&drift, 1000, 4000), 3200, 4800);
	assert_true(drift_value(&drift) > -0.05 && drift_value(&drift) < 0.05);
}

static void hits_of_others_teach_nothing(void **state)
{
	struct drift drift = { 0 };

	(void)state;
	drift_expect(&drift, 100000, 90000);
	assert_false(drift_learn(&drift, 1000000, 100000));
	assert_true(drift_value(&drift) == 0 && drift_trust(&drift) == 1);
	drift_expect(&drift, 1000000, 900000);
	assert_true(drift_learn(&drift, 1000000, 450000));
	assert_true(drift_trust(&drift) > 0.49 && drift_trust(&drift) < 0.51 && drift_value(&drift) < -0.4);
}

static void retries_are_a_share_of_requests(void **state)
{
	struct retry_budget budget;
	int taken = 0;

	(void)state;
	retry_budget_init(&budget, 0.2);
	while (retry_budget_take(&budget, 1000))
		taken++;
	assert_int_equal(taken, 10);
	taken = 0;
	for (int i = 0; i < 1000; i++) {
		retry_budget_request(&budget);
		taken += retry_budget_take(&budget, 1000);
	}
	assert_in_range(taken, 199, 201);
	assert_false(retry_budget_take(&budget, 1000));
	assert_true(retry_budget_take(&budget, 10000)); /* time helps one with little to do */
	retry_budget_init(&budget, 0);
	assert_false(retry_budget_take(&budget, 1));
	assert_false(retry_budget_take(&budget, 1000000));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_read),
		cmocka_unit_test(a_line_without_end_is_left_out),
		cmocka_unit_test(the_latest_adapters_count),
		cmocka_unit_test(models_are_listed),
		cmocka_unit_test(pace_is_of_busy_time),
		cmocka_unit_test(short_and_disturbed_periods_tell_nothing),
		cmocka_unit_test(capacity_is_learnt_from_both_sides),
		cmocka_unit_test(hits_of_others_teach_nothing),
		cmocka_unit_test(retries_are_a_share_of_requests),
	};

	return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
