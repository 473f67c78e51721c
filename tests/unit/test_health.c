// SPDX-License-Identifier: Apache-2.0
/* What checks, requests and engines tell of pods, and what becomes of it: states and their times, load, forgetting. */
#include "tests/unit/decide_pods.h"

#include <event2/event.h>

#include "agent/agent.h"
#include "agent/engine.h"
#include "agent/health.h"
#include "tests/unit/without_main.h"

enum { EJECT_MS = 1000, WELL_MS = 150000 };

static const struct decide_config config = { .policy = POLICY_PREFIX_CACHE_AWARE, .weight_cache = 0.7, .weight_load = 0.3,
	.affinity_threshold = 0.6, .session_ttl_ms = 1000000, .sessions_max = 1000, .prefix_blocks_max = 1000,
	.prefix_block_bytes = 512, .bytes_per_token = 4, .default_capacity_blocks = 100, .seed = 1 };
static struct agent agent;
static uint64_t now_ms;

/* In place of agent/clock.c. */
uint64_t agent_now_ms(void)
{
	return now_ms;
}

uint64_t agent_now_us(void)
{
	return now_ms * 1000;
}

static int begin(void **state)
{
	(void)state;
	now_ms = 1000000;
	if (decide_pods_new(&config, "model=m"))
		return -1;
	agent = (struct agent){ .endpoints = pods, .decider = decider, .base = event_base_new() };
	agent.config = (struct config){ .eject_time_ms = EJECT_MS, .eject_after = 3, .health_fall = 2, .health_rise = 2,
		.bytes_per_token = 4, .prefix_block = 512 };
	agent.health = health_new(&agent);
	agent.engines = engines_new(&agent);
	for (uint32_t i = 0; agent.health && i < PODS; i++)
		health_check_ok(agent.health, i);
	return agent.health && agent.engines ? 0 : -1;
}

static int end(void **state)
{
	health_free(agent.health);
	engines_free(agent.engines);
	event_base_free(agent.base);
	return teardown(state);
}

static void eject(void)
{
	health_check_failed(agent.health, 0, "test");
	health_check_failed(agent.health, 0, "test");
	assert_int_equal(pods->at[0].state, ENDPOINT_EJECTED);
}

/* Well again at once by its checks: how long it stays out all the same. */
static uint64_t time_out(void)
{
	uint64_t from_ms = now_ms;

	for (; pods->at[0].state == ENDPOINT_EJECTED; now_ms += EJECT_MS / 2)
		health_check_ok(agent.health, 0);
	now_ms -= EJECT_MS / 2;
	assert_int_equal(pods->at[0].state, ENDPOINT_READY);
	return now_ms - from_ms;
}

static void ejections_take_longer_each_time(void **state)
{
	(void)state;
	for (uint64_t expected = EJECT_MS, i = 0; i < 9; i++) {
		eject();
		assert_int_equal(time_out(), expected);
		expected *= i < 6 ? 2 : 1;
	}
	now_ms += WELL_MS + 1;
	eject();
	assert_int_equal(time_out(), EJECT_MS);
}

static void several_good_checks_bring_it_back(void **state)
{
	(void)state;
	eject();
	now_ms += EJECT_MS;
	health_check_ok(agent.health, 0);
	assert_int_equal(pods->at[0].state, ENDPOINT_EJECTED);
	health_check_failed(agent.health, 0, "test");
	health_check_ok(agent.health, 0);
	assert_int_equal(pods->at[0].state, ENDPOINT_EJECTED);
	health_check_ok(agent.health, 0);
	assert_int_equal(pods->at[0].state, ENDPOINT_READY);
}

static void failures_of_servers_in_a_row_count(void **state)
{
	static const unsigned not_its_fault[] = { 200, 404, 429, 501, 505 };

	(void)state;
	for (int i = 0; i < 20; i++)
		health_answered(agent.health, 0, not_its_fault[(unsigned)i % COUNT(not_its_fault)]);
	for (size_t i = 0; i < COUNT(not_its_fault); i++) {
		health_answered(agent.health, 0, 500);
		health_answered(agent.health, 0, 504);
		health_answered(agent.health, 0, not_its_fault[i]);
	}
	assert_int_equal(pods->at[0].state, ENDPOINT_READY);
	health_answered(agent.health, 0, 500);
	health_answered(agent.health, 0, 502);
	assert_int_equal(pods->at[0].state, ENDPOINT_READY);
	health_answered(agent.health, 0, 503);
	assert_int_equal(pods->at[0].state, ENDPOINT_EJECTED);
}

static struct engine_sample sample_of(double waiting, double kv_usage, double prompt_tokens)
{
	struct engine_sample sample = { 0 };

	sample.number[ENGINE_WAITING] = waiting;
	sample.number[ENGINE_KV_USAGE] = kv_usage;
	sample.number[ENGINE_PROMPT] = prompt_tokens;
	sample.n[ENGINE_WAITING] = sample.n[ENGINE_KV_USAGE] = sample.n[ENGINE_PROMPT] = 1;
	return sample;
}

static uint32_t queued(double waiting, double kv_usage)
{
	const struct engine_sample sample = sample_of(waiting, kv_usage, 1);

	engine_sampled(agent.engines, 1, &sample, now_ms);
	return pods->at[1].queued_tokens;
}

static void what_engines_tell_is_load_while_it_is_fresh(void **state)
{
	struct engine_sample sample = sample_of(5, 0.5, 1);
	uint64_t m = endpoint_model_hash("m");

	(void)state;
	pods->mean_tokens = 1000;
	assert_int_equal(queued(5, 0.5), 5000);
	pods->at[1].waiting_requests = 2; /* these are in flight: counted already */
	assert_int_equal(queued(5, 0.5), 3000);
	assert_int_equal(queued(1, 0.9), 0);
	assert_in_range(queued(2, 0.95), 32767, 32769);
	assert_int_equal(queued(3, 1), 1000 + 65536);
	sample.adapter[0] = m;
	sample.n_adapters = 1;
	engine_sampled(agent.engines, 1, &sample, now_ms);
	assert_true(pods->at[1].loaded && pods->loaded);
	engine_age(agent.engines, 1, now_ms + ENGINE_STALE_MS - 1);
	assert_true(pods->at[1].queued_tokens && pods->at[1].loaded && engine_state(agent.engines, 1)->is_fresh);
	engine_age(agent.engines, 1, now_ms + ENGINE_STALE_MS);
	assert_false(pods->at[1].queued_tokens || pods->at[1].loaded || pods->loaded || engine_state(agent.engines, 1)->is_fresh);
}

static int newcomer(void)
{
	static uint64_t session = 1;
	const struct decide_request request = { .model = "m", .has_session = true, .session = session++, .prompt_bytes = 4 };
	struct endpoint_claim claim;
	struct decision decision;

	assert_int_equal(decide(decider, &request, now_ms, &decision, &claim), 0);
	endpoint_claim_release(pods, &claim);
	return decision.endpoint;
}

/* What was placed there is computed nowhere any more: it does not keep newcomers away. */
static void a_restart_makes_room(void **state)
{
	struct engine_sample sample = sample_of(0, 0, 100);

	(void)state;
	engine_sampled(agent.engines, 0, &sample, now_ms);
	for (uint32_t i = 0; i < PODS; i++)
		decider_note_placed(decider, i, i ? 100000 : 200000, now_ms);
	assert_int_not_equal(newcomer(), 0);
	sample = sample_of(0, 0, 50);
	engine_sampled(agent.engines, 0, &sample, now_ms);
	assert_int_equal(engine_state(agent.engines, 0)->restarts, 1);
	assert_int_equal(newcomer(), 0);
}

#define WITH_AGENT(test) cmocka_unit_test_setup_teardown(test, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_AGENT(ejections_take_longer_each_time),
		WITH_AGENT(several_good_checks_bring_it_back),
		WITH_AGENT(failures_of_servers_in_a_row_count),
		WITH_AGENT(what_engines_tell_is_load_while_it_is_fresh),
		WITH_AGENT(a_restart_makes_room),
	};

	return cmocka_run_group_tests_name("health", tests, NULL, NULL);
}
