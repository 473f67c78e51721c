// SPDX-License-Identifier: Apache-2.0
/*
 * The TC programs, by BPF_PROG_TEST_RUN: every fixture of the tables is a test, and every reason must occur in one.
 */
#include "tests/bpf/options.h"
#include "tests/bpf/run.h"
#include "tests/bpf/sockets.h"
#include "tests/bpf/world.h"
#include "tests/unit/test.h"

static const struct fixtures *const tables[] = { &fixtures_parse, &fixtures_translate, &fixtures_close, &fixtures_agent,
	&fixtures_syn, &fixtures_straight, &fixtures_observe, &fixtures_too_big };

/* Reasons that no packet brings about here, and why. */
static const struct {
	enum reason reason;
	const char *why;
} exempt[] = {
	{ REASON_NONE, "never counted" },
	{ REASON_NOT_OURS, "never counted" },
	{ REASON_REWRITE_FAILED, "all that is written lies within headers whose length was checked: only a failed allocation, "
		"of a copy of a shared head, is left" },
};

static bool is_allowed;

static void run(void **state)
{
	if (!is_allowed)
		skip();
	fixture_run(*state);
}

static bool is_exempt(enum reason why)
{
	for (size_t i = 0; i < COUNT(exempt); i++)
		if (exempt[i].reason == why)
			return true;
	return false;
}

static void every_reason_has_occurred(void **state)
{
	(void)state;
	if (!is_allowed)
		skip();
	for (uint32_t why = 0; why < REASON_N; why++)
		if (fixture_has_met(why) == is_exempt(why))
			fail_msg("reason %u: %s", why, is_exempt(why) ? "is exempt, but occurs" : "occurs in no fixture");
}

#define GENERATED(name) \
	static void name(void **state) \
	{ \
		if (!is_allowed) \
			skip(); \
		options_##name(state); \
	}
GENERATED(of_syn_everywhere)
GENERATED(of_synack_everywhere)
GENERATED(sack_everywhere)
GENERATED(sack_blanked_everywhere)

static const struct CMUnitTest others[] = {
	cmocka_unit_test(of_syn_everywhere),
	cmocka_unit_test(of_synack_everywhere),
	cmocka_unit_test(sack_everywhere),
	cmocka_unit_test(sack_blanked_everywhere),
	cmocka_unit_test(every_reason_has_occurred), /* the last */
};

int main(void)
{
	struct CMUnitTest tests[1024];
	size_t n = 0;
	int err;

	is_allowed = world_is_allowed();
	err = is_allowed ? world_open() : 0;
	if (err) {
		fprintf(stderr, "The programs do not load: %s\n", strerror(-err));
		return 1;
	}
	err = is_allowed ? sockets_open() : 0;
	if (err) {
		fprintf(stderr, "No network namespace: %s\n", strerror(-err));
		return 1;
	}
	for (size_t i = 0; i < COUNT(tables); i++)
		for (size_t j = 0; j < tables[i]->n; j++)
			tests[n++] = (struct CMUnitTest){ .name = tables[i]->at[j].name, .test_func = run,
				.initial_state = (void *)(uintptr_t)&tables[i]->at[j] };
	memcpy(tests + n, others, sizeof(others));
	err = _cmocka_run_group_tests("tc", tests, n + COUNT(others), NULL, NULL);
	sockets_close();
	if (is_allowed)
		world_close();
	return err;
}
