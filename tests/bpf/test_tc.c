// SPDX-License-Identifier: Apache-2.0
/*
 * The TC programs, by BPF_PROG_TEST_RUN: every fixture of the tables is a test, and every reason must occur in one.
 */
#include "tests/bpf/run.h"
#include "tests/bpf/world.h"
#include "tests/unit/test.h"

static const struct fixtures *const tables[] = { &fixtures_parse, &fixtures_translate, &fixtures_close, &fixtures_agent, &fixtures_syn };

static bool is_allowed;

static void run(void **state)
{
	if (!is_allowed)
		skip();
	fixture_run(*state);
}

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
	for (size_t i = 0; i < COUNT(tables); i++)
		for (size_t j = 0; j < tables[i]->n; j++)
			tests[n++] = (struct CMUnitTest){ .name = tables[i]->at[j].name, .test_func = run,
				.initial_state = (void *)(uintptr_t)&tables[i]->at[j] };
	err = _cmocka_run_group_tests("tc", tests, n, NULL, NULL);
	if (is_allowed)
		world_close();
	return err;
}
