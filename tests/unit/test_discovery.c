// SPDX-License-Identifier: Apache-2.0
/* The registry of discovery: what sources list against the endpoint table, step by step. */
#include "tests/unit/test.h"

#include "agent/agent.h"
#include "agent/decide.h"
#include "agent/discovery.h"
#include "tests/unit/without_main.h"

enum { MANY = 5000 };

struct world {
	struct agent agent;
	struct discovery *discovery;
	struct discovery_source *source[3]; /* file, DNS, Kubernetes */
	unsigned freed;
};

static void note_freed(void *ctx)
{
	((struct world *)ctx)->freed++;
}

static int set_up(void **state)
{
	static const enum discovery_kind kinds[] = { DISCOVERY_FILE, DISCOVERY_DNS, DISCOVERY_K8S };
	const struct decide_config config = { .sessions_max = 1024, .prefix_blocks_max = 4096, .default_capacity_blocks = 1024,
		.session_ttl_ms = 1000000, .bytes_per_token = 4, .prefix_block_bytes = 512, .affinity_threshold = 0.6, .weight_cache = 1 };
	struct world *world = calloc(1, sizeof(*world));

	world->agent.base = event_base_new();
	world->agent.endpoints = calloc(1, sizeof(*world->agent.endpoints));
	world->agent.decider = decider_new(&config, world->agent.endpoints);
	world->agent.config.endpoints_file = "";
	world->agent.config.endpoint_blocks = 1024;
	world->agent.config.drain_timeout_ms = 60;
	assert_int_equal(discovery_new(&world->agent, &world->discovery), 0);
	for (unsigned i = 0; i < COUNT(kinds); i++) {
		const struct discovery_ops ops = { .kind = kinds[i], .lingers = kinds[i] != DISCOVERY_K8S, .free = note_freed };

		world->source[i] = discovery_register(world->discovery, &ops, world);
		assert_non_null(world->source[i]);
	}
	*state = world;
	return 0;
}

static int tear_down(void **state)
{
	struct world *world = *state;

	discovery_free(world->discovery);
	assert_int_equal(world->freed, 3);
	decider_free(world->agent.decider);
	event_base_free(world->agent.base);
	free(world->agent.endpoints);
	free(world);
	return 0;
}

/*
 * "1 2! 3=7 4:m": endpoints 10.0.0.1 to .4, of which the second drains, the third has the identity 7, the fourth the model m.
 */
static uint32_t read_items(struct discovered *items, const char *text)
{
	uint32_t n = 0;

	while (*text) {
		char *end;
		unsigned long number = strtoul(text, &end, 10);
		char address[32];

		snprintf(address, sizeof(address), "10.0.%lu.%lu:80", number / 250, number % 250 + 1);
		items[n] = (struct discovered){ .config.role = ENDPOINT_ROLE_BOTH };
		assert_int_equal(address_parse(&items[n].config.address, address), 0);
		if (*end == '!')
			items[n].condition = DISCOVERY_DRAINING, items[n].why = "test", end++;
		if (*end == '=')
			items[n].identity = strtoul(end + 1, &end, 10);
		if (*end == ':')
			items[n].config.model[0] = end[1], end += 2;
		text = end + strspn(end, " ");
		n++;
	}
	return n;
}

/* What the table has, in the order of the index: "0:1 1:2!" for index 0 with 10.0.0.1, and index 1 draining. */
static const char *table_text(const struct world *world, char *text, size_t size)
{
	size_t n = 0;

	*text = '\0';
	for (uint32_t i = 0; i < world->agent.endpoints->n; i++) {
		const struct endpoint *endpoint = &world->agent.endpoints->at[i];

		if (endpoint->state == ENDPOINT_FREE)
			continue;
		n += (size_t)snprintf(text + n, size - n, "%s%u:%u%s%s", n ? " " : "", i,
			endpoint->config.address.ip[14] * 250u + endpoint->config.address.ip[15] - 1,
			endpoint->state == ENDPOINT_DRAINING ? "!" : "", endpoint->config.model);
	}
	return text;
}

static void publish(struct world *world, unsigned source, const char *text)
{
	struct discovered items[64];

	discovery_publish(world->source[source], items, read_items(items, text));
}

struct step {
	unsigned source;
	const char *listed, *table;
};

static void test_sets_become_the_table(void **state)
{
	static const struct step steps[] = {
		{ 2, "1 2 3", "0:1 1:2 2:3" },
		{ 2, "3 1 2 1", "0:1 1:2 2:3" }, /* neither order nor repetition matters */
		{ 2, "1 3 4", "0:1 1:4 2:3" },	  /* the others stay where they are */
		{ 2, "1! 3 4:m", "0:1! 1:4m 2:3" },
		{ 2, "1 3 4", "0:1 1:4 2:3" },
		{ 0, "3! 5", "0:1 1:4 2:3! 3:5" }, /* any source may drain */
		{ 0, "3:x 5", "0:1 1:4 2:3x 3:5" }, /* the first kind says what it is */
		{ 1, "1:y", "0:1y 1:4 2:3x 3:5" },
		{ 2, "", "0:1y 2:3x 3:5" }, /* listed by others still */
		{ 0, "", "0:1y" },
		{ 1, "", "" },
		{ 2, "9=5", "0:9" },
		{ 2, "9=5 8!", "0:9 1:8!" },
		{ 2, "9! 9", "0:9" }, /* of two at one address the ready one counts */
	};
	struct world *world = *state;
	char text[256];

	for (unsigned i = 0; i < COUNT(steps); i++) {
		publish(world, steps[i].source, steps[i].listed);
		assert_string_equal(table_text(world, text, sizeof(text)), steps[i].table);
	}
}

static void test_identity_makes_a_generation(void **state)
{
	struct world *world = *state;
	struct endpoint_table *endpoints = world->agent.endpoints;
	uint32_t generation;

	publish(world, 2, "1=7 2=8");
	generation = endpoints->at[0].generation;
	publish(world, 2, "1=7 2=8");
	publish(world, 2, "1 2=8"); /* not known for a while */
	publish(world, 2, "1=7 2=8");
	assert_int_equal(endpoints->at[0].generation, generation);
	publish(world, 2, "1=9 2=8");
	assert_int_not_equal(endpoints->at[0].generation, generation);
	assert_int_equal(endpoints->at[1].generation, 1);
	generation = endpoints->at[0].generation;
	publish(world, 2, "2=8");
	publish(world, 2, "1=9 2=8"); /* gone in between */
	assert_int_not_equal(endpoints->at[0].generation, generation);
}

static void test_the_operator_drains_beside_the_sources(void **state)
{
	struct world *world = *state;
	char text[256];

	publish(world, 2, "1 2");
	discovery_drain(world->discovery, 0, true);
	assert_string_equal(table_text(world, text, sizeof(text)), "0:1! 1:2");
	publish(world, 2, "1! 2");
	discovery_drain(world->discovery, 0, false);
	assert_string_equal(table_text(world, text, sizeof(text)), "0:1! 1:2");
	assert_string_equal(discovery_view(world->discovery, 0).condition, "draining");
	publish(world, 2, "1 2");
	assert_string_equal(table_text(world, text, sizeof(text)), "0:1 1:2");
	discovery_drain(world->discovery, 0, true);
	publish(world, 2, "2");
	publish(world, 2, "1 2"); /* another pod: what was said of the old one is over */
	assert_string_equal(table_text(world, text, sizeof(text)), "0:1 1:2");
}

static void run_for_a_while(struct world *world)
{
	const struct timeval a_while = { .tv_usec = 450000 };

	event_base_loopexit(world->agent.base, &a_while);
	event_base_dispatch(world->agent.base);
}

static void test_what_is_in_flight_holds_up_the_removal(void **state)
{
	struct world *world = *state;
	struct endpoint_table *endpoints = world->agent.endpoints;
	struct endpoint_claim claim;
	char text[256];

	publish(world, 0, "1 2");
	endpoint_claim_take(endpoints, 0, 5, &claim);
	publish(world, 0, "2");
	assert_string_equal(table_text(world, text, sizeof(text)), "0:1! 1:2");
	assert_string_equal(discovery_view(world->discovery, 0).condition, "gone");
	publish(world, 0, "1 2"); /* comes back */
	assert_string_equal(table_text(world, text, sizeof(text)), "0:1 1:2");
	publish(world, 0, "2");
	endpoint_claim_release(endpoints, &claim);
	publish(world, 0, "2");
	run_for_a_while(world);
	assert_string_equal(table_text(world, text, sizeof(text)), "1:2");
	endpoint_claim_take(endpoints, 1, 5, &claim);
	publish(world, 0, "");
	run_for_a_while(world); /* more than the drain timeout */
	assert_string_equal(table_text(world, text, sizeof(text)), "");
	endpoint_claim_release(endpoints, &claim);
	publish(world, 0, "3 4");
	assert_int_equal(endpoints->at[1].inflight_requests, 0); /* the old claim took nothing from the new pod */
}

static void test_more_than_fit(void **state)
{
	struct world *world = *state;
	struct discovered *items = calloc(MANY, sizeof(items[0]));
	struct discovery_stats stats;

	for (uint32_t i = 0; i < MANY; i++) {
		items[i].config.role = ENDPOINT_ROLE_BOTH;
		items[i].config.address = (struct address){ .ip = { [10] = 0xff, 0xff, 10, 0, (uint8_t)(i >> 8), (uint8_t)i }, .port_be = 80 };
	}
	discovery_publish(world->source[2], items + 100, 1024);
	discovery_publish(world->source[2], items, MANY);
	discovery_get_stats(world->discovery, &stats);
	assert_int_equal(stats.listed[DISCOVERY_K8S], MANY);
	assert_int_equal(stats.left_out, MANY - ENDPOINT_MAX);
	for (uint32_t i = 0; i < ENDPOINT_MAX; i++) /* those that were there stay */
		assert_true(address_equal(&world->agent.endpoints->at[i].config.address, &items[100 + i].config.address));
	discovery_publish(world->source[2], items, 1000);
	discovery_get_stats(world->discovery, &stats);
	assert_int_equal(stats.left_out, 0);
	assert_int_equal(stats.updates[DISCOVERY_K8S], 3);
	free(items);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_sets_become_the_table, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_identity_makes_a_generation, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_the_operator_drains_beside_the_sources, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_what_is_in_flight_holds_up_the_removal, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_more_than_fit, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
