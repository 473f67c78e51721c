// SPDX-License-Identifier: Apache-2.0
/* llmd-maps where something is missing, of another kind, or not allowed: a clear line and an exit code, never a guess. */
#include "tests/maps/fixture.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static int setup(void **state)
{
	*state = fixture_new();
	return 0;
}

static int teardown(void **state)
{
	fixture_free(*state);
	return 0;
}

/* One line that has @wanted in it, nothing on standard output. */
static void refused(const struct fixture *fixture, const char *arguments, int status, const char *wanted)
{
	struct output output = run_maps(fixture, arguments);

	if (output.status != status || !strstr(output.err, wanted) || *output.out)
		fail_msg("%s: exit %d, not %d; no \"%s\" in\n%s%s", arguments, output.status, status, wanted, output.err, output.out);
	if (strchr(output.err, '\n') != output.err + strlen(output.err) - 1)
		fail_msg("%s: not one line: %s", arguments, output.err);
	output_free(&output);
}

static void command_lines(void **state)
{
	static const struct {
		const char *arguments, *wanted;
	} cases[] = {
		{ "", "a word is missing: must be endpoint, session, prefix, flow, affinity, counter or summary" },
		{ "sessions", "\"sessions\" is not valid: must be endpoint, " },
		{ "session", "session: a word is missing: must be list, get, delete or watch" },
		{ "session show", "session: \"show\" is not valid: must be list, get, delete or watch" },
		{ "endpoint delete 10.1.0.4:8000", "endpoint: \"delete\" is not valid: must be list, get, watch, drain or undrain" },
		{ "session get", "session get: KEY is missing: must be a session key" },
		{ "session get a b", "\"b\" is one word too many" },
		{ "session list a", "\"a\" is one word too many" },
		{ "session get --hash user-42", "\"user-42\" is not valid: must be a session key" },
		{ "prefix get 123", "prefix get: \"123\" is not valid: must be the hash of a prefix block, 16 hex digits" },
		{ "prefix delete 0123456789abcdeg", "is not valid" },
		{ "endpoint get 10.1.0.4", "\"10.1.0.4\" is not valid: must be an IP address and port" },
		{ "endpoint drain pod-1", "\"pod-1\" is not valid: must be an IP address and port" },
		{ "flow get ''", "flow get: \"\" is not valid" },
		{ "affinity get host", "\"host\" is not valid: must be a client's IP address" },
		{ "affinity get 198.51.100.9 192.0.2.2", "\"192.0.2.2\" is not valid" },
		{ "counter get vlans", "\"vlans\" is not valid: must be a counter's name" },
		{ "session watch --interval 1", "--interval: \"1\" is not valid: must be a duration from 100ms to 1h" },
		{ "session watch --interval 10ms", "must be a duration from 100ms to 1h" },
		{ "session list --limit x", "--limit: \"x\" is not valid: must be a number" },
		{ "--no-such session list", "no-such" },
	};

	for (size_t i = 0; i < COUNT(cases); i++)
		refused(*state, cases[i].arguments, 2, cases[i].wanted);
}

static void what_is_not_there(void **state)
{
	refused(*state, "session get nobody", 1, "session get: \"nobody\" is not there");
	refused(*state, "endpoint get 10.1.0.5:8000", 1, "is not there");
	refused(*state, "flow get 17", 1, "is not there");
	refused(*state, "flow delete 192.0.2.77:1", 1, "is not there");
	refused(*state, "affinity delete 192.0.2.77", 1, "is not there");
}

static void what_is_not_one(void **state)
{
	struct output output = run_maps(*state, "affinity delete 198.51.100.9");

	assert_int_equal(output.status, 1);
	assert_non_null(strstr(output.err, "\"198.51.100.9\" is not one but 2:\n"));
	assert_non_null(strstr(output.err, "192.0.2.2:8080"));
	assert_string_equal(output.out, "");
	output_free(&output);
}

static void no_directory(void **state)
{
	struct fixture *fixture = *state;
	char arguments[256];

	snprintf(arguments, sizeof(arguments), "session list --pin-dir %s/none", fixture->root);
	refused(fixture, arguments, 1, "/none: no such directory: no agent that hands over to the kernel has run here");
	snprintf(arguments, sizeof(arguments), "session list --pin-dir %s", fixture->root);
	refused(fixture, arguments, 1, "/control is not pinned: no agent that hands over to the kernel has run here");
}

static void unpin(struct fixture *fixture, struct bpf_map *map)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", fixture->dir, bpf_map__name(map));
	assert_int_equal(bpf_map__unpin(map, path), 0);
}

/* Another map by the name of @map. */
static void pin_other(struct fixture *fixture, struct bpf_map *map, uint32_t value_size)
{
	int fd = bpf_map_create(bpf_map__type(map), "other", bpf_map__key_size(map), value_size, 16, NULL);
	char path[256];

	assert_true(fd >= 0);
	unpin(fixture, map);
	snprintf(path, sizeof(path), "%s/%s", fixture->dir, bpf_map__name(map));
	assert_int_equal(bpf_obj_pin(fd, path), 0);
	close(fd);
}

static void no_map(void **state)
{
	struct fixture *fixture = *state;
	struct output output;

	unpin(fixture, fixture->maps->maps.sessions);
	refused(fixture, "session list", 1, "/sessions is not pinned");
	output = run_maps(fixture, "summary");
	assert_int_equal(output.status, 0);
	assert_non_null(strstr(output.out, "\nsessions is not pinned: no agent"));
	assert_non_null(strstr(output.out, "10.1.0.4:8000"));
	output_free(&output);
}

static void a_map_of_another_shape(void **state)
{
	struct fixture *fixture = *state;
	struct output output;

	pin_other(fixture, fixture->maps->maps.prefixes, sizeof(struct prefix_entry) + 8);
	refused(fixture, "prefix list", 1, "/prefixes has another schema: type 9 with keys of 8 and values of 56 bytes, where schema 1 has");
	pin_other(fixture, fixture->maps->maps.counters, 16);
	refused(fixture, "counter list", 1, "/counters has another schema");
	output = run_maps(fixture, "summary -j");
	assert_int_equal(output.status, 1);
	assert_non_null(strstr(output.out, "\"counters\":null"));
	assert_non_null(strstr(output.err, "/counters has another schema"));
	output_free(&output);
	pin_other(fixture, fixture->maps->maps.endpoints, 16);
	refused(fixture, "session list", 1, "/endpoints has another schema");
}

static void another_schema(void **state)
{
	struct fixture *fixture = *state;
	struct control control = { .schema = LLMD_SCHEMA + 1 };
	uint32_t zero = 0;

	assert_int_equal(bpf_map_update_elem(bpf_map__fd(fixture->maps->maps.control), &zero, &control, BPF_ANY), 0);
	refused(fixture, "session list", 1, "/control says schema 2, but this llmd-maps knows schema 1 only");
}

/* As another user, for whom the files are made readable: all but deleting works. */
static void reading_is_enough(void **state)
{
	struct fixture *fixture = *state;
	char command[1024];

	snprintf(command, sizeof(command), "cd %s && chmod 755 . bpf %s && chmod 444 %s/*", fixture->root, fixture->dir, fixture->dir);
	assert_int_equal(system(command), 0);
	fixture_as_nobody(fixture);
	for (size_t i = 0; i < 7; i++) {
		static const char *const right[] = { "session list", "session get user-42", "prefix list", "flow list", "flow get req-7",
			"endpoint list", "summary" };
		struct output output = run_maps(fixture, right[i]);

		if (output.status)
			fail_msg("%s: %s", right[i], output.err);
		output_free(&output);
	}
	refused(fixture, "session delete user-42", 1, "/sessions permission denied: run as root");
	snprintf(command, sizeof(command), "chmod 000 %s/sessions", fixture->dir);
	assert_int_equal(system(command), 0);
	refused(fixture, "session list", 1, "/sessions permission denied: run as root");
}

static void nobody_listens(void **state)
{
	refused(*state, "endpoint drain 10.1.0.4:8000 --admin 127.0.0.1:1", 1, "is the agent running, and --admin its address?");
}

#define WITH_MAPS(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_MAPS(command_lines),
		WITH_MAPS(what_is_not_there),
		WITH_MAPS(what_is_not_one),
		WITH_MAPS(no_directory),
		WITH_MAPS(no_map),
		WITH_MAPS(a_map_of_another_shape),
		WITH_MAPS(another_schema),
		WITH_MAPS(reading_is_enough),
		WITH_MAPS(nobody_listens),
	};

	return fixture_run_tests("maps_errors", tests, COUNT(tests));
}
