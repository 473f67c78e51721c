// SPDX-License-Identifier: Apache-2.0
/* llmd-maps on pinned maps with known contents: what list, get, delete and summary show, as tables and as JSON. */
#include "tests/maps/fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sys/file.h>
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

static void is_about(struct json_object *row, const char *name, double wanted)
{
	double value = json_object_get_double(member(row, name));

	if (fabs(value - wanted) > 0.02 * wanted + 3) /* ages grow while the tests run */
		fail_msg("%s is %g, not %g", name, value, wanted);
}

static void is_number(struct json_object *row, const char *name, uint64_t wanted)
{
	struct json_object *value = member(row, name);

	assert_true(json_object_is_type(value, json_type_int));
	if (json_object_get_uint64(value) != wanted)
		fail_msg("%s is %s, not %lu", name, json_object_get_string(value), (unsigned long)wanted);
}

static void is_text(struct json_object *row, const char *name, const char *wanted)
{
	const char *text = member_text(row, name);

	if (!text != !wanted || (text && strcmp(text, wanted)))
		fail_msg("%s is %s, not %s", name, text ? text : "null", wanted ? wanted : "null");
}

/* ---- list ---- */

static void lists_endpoints(void **state)
{
	struct json_object *rows = run_json(*state, "endpoint list"), *row;

	assert_int_equal(json_object_array_length(rows), 4);
	row = row_where(rows, "endpoint", "10.1.0.4:8000");
	is_text(row, "state", "ready");
	is_text(row, "local", "192.0.2.1");
	is_text(row, "device", "lo");
	is_number(row, "generation", 1);
	is_number(row, "flows", 100);
	is_number(row, "flows_now", 1);
	is_number(row, "bytes_down", 5 << 20);
	is_number(row, "ttft_count", 100);
	/* The median lies 50/90 into [131, 262) ms on a logarithmic scale, the 95th percentile half-way into [524, 1049). */
	assert_true(fabs(json_object_get_double(member(row, "ttft_p50_seconds")) - 0.131072 * exp2(50.0 / 90)) < 1e-5);
	assert_true(fabs(json_object_get_double(member(row, "ttft_p95_seconds")) - 0.524288 * exp2(0.5)) < 1e-5);
	assert_true(fabs(json_object_get_double(member(row, "ttft_mean_seconds")) - 0.2) < 1e-9);
	assert_true(fabs(json_object_get_double(member(row, "rtt_mean_seconds")) - 0.00025) < 1e-9);
	row = row_where(rows, "endpoint", "[2001:db8::5]:8000");
	is_text(row, "state", "draining");
	is_text(row, "ttft_p50_seconds", NULL);
	is_number(row, "flows_now", 1);
	is_text(row_where(rows, "endpoint", "10.1.0.9:8000"), "state", "9?");
	json_object_put(rows);
}

static void lists_sessions(void **state)
{
	struct json_object *rows = run_json(*state, "session list"), *row;

	assert_int_equal(json_object_array_length(rows), 3);
	row = json_object_array_get_idx(rows, 0); /* the last used one */
	is_text(row, "endpoint", "10.1.0.4:8000");
	is_number(row, "uses", 3);
	is_about(row, "idle_seconds", 10);
	row = row_where(rows, "endpoint_index", "1");
	is_text(row, "endpoint", NULL);
	is_text(row, "endpoint_gone", "true");
	is_text(row_where(rows, "endpoint_index", "4000000000"), "endpoint", NULL);
	json_object_put(rows);
	rows = run_json(*state, "session list --limit 1");
	assert_int_equal(json_object_array_length(rows), 1);
	json_object_put(rows);
}

static void lists_prefixes(void **state)
{
	struct json_object *rows = run_json(*state, "prefix list"), *row;

	row = row_where(rows, "prefix_hash", "0123456789abcdef");
	is_number(row, "depth", 12);
	is_number(row, "endpoints_gone", 1);
	is_text(row, "endpoints", "[ \"10.1.0.4:8000\", \"[2001:db8::5]:8000\" ]");
	row = row_where(rows, "prefix_hash", "0000000000000001");
	is_number(row, "endpoints_gone", LLMD_HOLDERS_MAX);
	json_object_put(rows);
}

static void lists_flows(void **state)
{
	struct json_object *rows = run_json(*state, "flow list"), *row;

	assert_int_equal(json_object_array_length(rows), 3);
	row = row_where(rows, "slot", "1");
	is_text(row, "client", "198.51.100.9:40001");
	is_text(row, "front", "192.0.2.1:8080");
	is_text(row, "local", "192.0.2.1:15001");
	is_text(row, "pod", "10.1.0.4:8000");
	is_text(row, "state", "handed");
	is_text(row, "phase", "open");
	is_text(row, "request_id", "req-7");
	is_text(row, "flags", "[ \"acked\", \"head\", \"content\" ]");
	is_number(row, "status", 200);
	is_number(row, "bytes_down", 3 << 20);
	is_about(row, "age_seconds", 90);
	is_about(row, "idle_seconds", 1);
	row = row_where(rows, "slot", "2");
	is_text(row, "client", "[2001:db8::99]:40002");
	is_text(row, "phase", "sending");
	is_text(row, "status", NULL);
	is_text(row, "request_id", NULL);
	row = row_where(rows, "slot", "3");
	is_text(row, "state", "4294967295?");
	is_text(row, "phase", "reset");
	is_text(row, "endpoint", NULL);
	assert_non_null(strstr(member_text(row, "flags"), "\"0xfff00000?\""));
	is_text(row, "request_id", "????????????????????????????????????????????????????????????????");
	json_object_put(rows);
}

static void lists_affinity_and_counters(void **state)
{
	struct json_object *rows = run_json(*state, "affinity list"), *row;

	assert_int_equal(json_object_array_length(rows), 3);
	row = row_where(rows, "front", "192.0.2.1:8080");
	is_text(row, "client", "198.51.100.9");
	is_about(row, "expires_in_seconds", 3600);
	is_text(row_where(rows, "client", "2001:db8::99"), "expired", "true");
	json_object_put(rows);
	rows = run_json(*state, "counter list");
	assert_int_equal(json_object_array_length(rows), REASON_N);
	is_number(row_where(rows, "counter", "forwarded_up"), "count", 1234);
	is_number(row_where(rows, "counter", "malformed"), "count", 0);
	json_object_put(rows);
}

/* ---- tables ---- */

/* The column that begins where @title does in the first line. */
static void table_says(const char *table, const char *line_with, const char *title, const char *wanted)
{
	const char *head = strstr(table, title), *line = strstr(table, line_with), *cell;

	if (!head || !line)
		fail_msg("no %s or %s in\n%s", title, line_with, table);
	while (line > table && line[-1] != '\n')
		line--;
	cell = line + (head - table);
	if (strncmp(cell, wanted, strlen(wanted)))
		fail_msg("%s of %s is not %s in\n%s", title, line_with, wanted, table);
}

static void tables_are_aligned(void **state)
{
	struct output output = run_maps(*state, "flow list");

	assert_int_equal(output.status, 0);
	assert_null(strchr(output.out, '\033'));
	table_says(output.out, "req-7", "CLIENT", "198.51.100.9:40001  ");
	table_says(output.out, "req-7", "=> LOCAL", "192.0.2.1:15001  ");
	table_says(output.out, "req-7", "-> POD", "10.1.0.4:8000  ");
	table_says(output.out, "req-7", "STATE", "open ");
	table_says(output.out, "req-7", "REQUEST", "req-7\n");
	assert_non_null(strstr(output.out, " 3.0 MiB "));
	output_free(&output);
	output = run_maps(*state, "session list --limit 2");
	table_says(output.out, "gone (1)", "ENDPOINT", "gone (1) ");
	assert_non_null(strstr(output.out, "\n... and 1 more\n"));
	output_free(&output);
}

/* ---- get ---- */

static void gets_by_name(void **state)
{
	static const struct {
		const char *arguments, *member, *wanted;
	} cases[] = {
		{ "session get user-42", "endpoint", "10.1.0.4:8000" },
		{ "session get moved", "endpoint_gone", "true" },
		{ "prefix get 0123456789ABCDEF", "depth", "12" },
		{ "endpoint get '[2001:db8::5]:8000'", "state", "draining" },
		{ "flow get 198.51.100.9:40001", "slot", "1" },
		{ "flow get req-7", "client", "198.51.100.9:40001" },
		{ "flow get 2", "client", "[2001:db8::99]:40002" },
		{ "affinity get 198.51.100.9 192.0.2.2:8080", "front", "192.0.2.2:8080" },
		{ "affinity get 2001:db8::99", "uses", "5" },
		{ "counter get vlan", "count", "1234" },
	};

	for (size_t i = 0; i < COUNT(cases); i++) {
		struct json_object *row = run_json(*state, cases[i].arguments);

		assert_true(json_object_is_type(row, json_type_object));
		is_text(row, cases[i].member, cases[i].wanted);
		json_object_put(row);
	}
}

static void gets_a_session_by_its_hash(void **state)
{
	struct json_object *by_key = run_json(*state, "session get user-42"), *by_hash;
	char arguments[64];

	/* SipHash-2-4 of "user-42" under the key 00 01 ... 0f. */
	is_text(by_key, "session_hash", "6638085dbda7adc7");
	snprintf(arguments, sizeof(arguments), "session get --hash %s", member_text(by_key, "session_hash"));
	by_hash = run_json(*state, arguments);
	is_text(by_hash, "session_hash", member_text(by_key, "session_hash"));
	json_object_put(by_hash);
	json_object_put(by_key);
}

static void gets_a_flow_with_its_entries(void **state)
{
	struct json_object *row = run_json(*state, "flow get 1");

	is_number(member(row, "entry_up"), "seq_add", 11);
	is_number(member(row, "entry_down"), "ack_sub", 22);
	json_object_put(row);
	row = run_json(*state, "flow get 2"); /* none was made for it */
	is_text(row, "entry_up", NULL);
	json_object_put(row);
}

static void get_shows_all_to_people(void **state)
{
	struct output output = run_maps(*state, "flow get req-7");

	assert_int_equal(output.status, 0);
	assert_non_null(strstr(output.out, "\nflags                     acked,head,content\n"));
	assert_non_null(strstr(output.out, "\nbytes_down                3.0 MiB\n"));
	assert_non_null(strstr(output.out, "\nhanded_after_seconds      1.0 s\n"));
	output_free(&output);
}

/* ---- delete ---- */

static void deleted_is_gone(struct fixture *fixture, const char *noun, const char *key)
{
	char arguments[128];
	struct json_object *row;
	struct output output;

	snprintf(arguments, sizeof(arguments), "%s delete %s", noun, key);
	row = run_json(fixture, arguments);
	assert_true(json_object_is_type(row, json_type_object));
	json_object_put(row);
	output = run_maps(fixture, arguments);
	assert_int_equal(output.status, 1);
	assert_non_null(strstr(output.err, "is not there"));
	assert_string_equal(output.out, "");
	output_free(&output);
}

static void deletes(void **state)
{
	deleted_is_gone(*state, "session", "user-42");
	deleted_is_gone(*state, "prefix", "0123456789abcdef");
	deleted_is_gone(*state, "affinity", "'198.51.100.9' 192.0.2.2:8080");
}

static void deletes_both_entries_of_a_flow(void **state)
{
	struct fixture *fixture = *state;
	struct output output = run_maps(fixture, "flow delete req-7");
	struct flow_key key;

	assert_int_equal(output.status, 0);
	assert_non_null(strstr(output.err, "flow 1 is cut"));
	assert_int_equal(bpf_map_get_next_key(bpf_map__fd(fixture->maps->maps.flows), NULL, &key), -ENOENT);
	output_free(&output);
	output = run_maps(fixture, "flow delete req-7");
	assert_int_equal(output.status, 1);
	assert_non_null(strstr(output.err, "has no entries"));
	output_free(&output);
}

/* Entries of the same addresses that belong to another connection by now stay. */
static void leaves_entries_of_others(void **state)
{
	struct fixture *fixture = *state;
	int flows = bpf_map__fd(fixture->maps->maps.flows);
	struct flow_key keys[2];
	struct output output;
	struct flow flow;

	/* All keys first: a changed entry may come to another place, and be met again. */
	assert_int_equal(bpf_map_get_next_key(flows, NULL, &keys[0]), 0);
	assert_int_equal(bpf_map_get_next_key(flows, &keys[0], &keys[1]), 0);
	for (size_t i = 0; i < COUNT(keys); i++) {
		assert_int_equal(bpf_map_lookup_elem(flows, &keys[i], &flow), 0);
		flow.gen_head = flow.gen_tail = 99;
		assert_int_equal(bpf_map_update_elem(flows, &keys[i], &flow, BPF_EXIST), 0);
	}
	output = run_maps(fixture, "flow delete 1");
	assert_int_equal(output.status, 1);
	for (size_t i = 0; i < COUNT(keys); i++)
		assert_int_equal(bpf_map_lookup_elem(flows, &keys[i], &flow), 0);
	output_free(&output);
}

static void clears_a_counter(void **state)
{
	struct json_object *row = run_json(*state, "counter delete vlan");

	is_number(row, "count", 1234);
	json_object_put(row);
	row = run_json(*state, "counter get vlan");
	is_number(row, "count", 0);
	json_object_put(row);
	row = run_json(*state, "counter get forwarded_up");
	is_number(row, "count", 1234);
	json_object_put(row);
}

/* ---- summary ---- */

static void sums_up(void **state)
{
	struct json_object *summary = run_json(*state, "summary"), *rows = member(summary, "maps"), *row;

	is_text(summary, "agent_runs", "false");
	is_number(summary, "schema", LLMD_SCHEMA);
	is_text(summary, "fronts", "[ \"192.0.2.1:8080\" ]");
	is_number(row_where(rows, "map", "endpoints"), "used", 4);
	is_number(row_where(rows, "map", "sessions"), "used", 3);
	is_number(row_where(rows, "map", "slots"), "used", 3);
	row = row_where(rows, "map", "flows");
	is_number(row, "used", 2);
	is_number(row, "max", FLOW_ENTRIES);
	assert_true(fabs(json_object_get_double(member(row, "fill")) - 2.0 / FLOW_ENTRIES) < 1e-9);
	is_text(row_where(rows, "map", "affinity_slots"), "used", NULL);
	is_number(row_where(rows, "map", "events"), "used", 0);
	assert_int_equal(json_object_array_length(member(summary, "endpoints")), 4);
	assert_int_equal(json_object_array_length(member(summary, "counters")), 2);
	json_object_put(summary);
}

static void sees_a_running_agent(void **state)
{
	struct fixture *fixture = *state;
	int fd = open(fixture->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct output output;

	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	output = run_maps(fixture, "summary show");
	assert_int_equal(output.status, 0);
	assert_non_null(strstr(output.out, ": agent running, schema 1, ports to pods 15000-29999\nfronts 192.0.2.1:8080, affinity 2h00m\n"));
	assert_non_null(strstr(output.out, "   sessions "));
	output_free(&output);
	close(fd);
}

/* More entries than one batch of the kernel's brings. */
static void counts_a_full_map(void **state)
{
	struct fixture *fixture = *state;
	struct session_entry entry = { .endpoint = 0, .generation = 1 };
	struct json_object *summary, *rows;
	uint64_t n = 0, key, next;

	for (uint64_t i = 0; i < 2 * SESSION_ENTRIES; i++)
		assert_int_equal(bpf_map_update_elem(bpf_map__fd(fixture->maps->maps.sessions), &i, &entry, BPF_ANY), 0);
	for (int err = bpf_map_get_next_key(bpf_map__fd(fixture->maps->maps.sessions), NULL, &key); !err; n++) {
		err = bpf_map_get_next_key(bpf_map__fd(fixture->maps->maps.sessions), &key, &next);
		key = next;
	}
	summary = run_json(fixture, "summary");
	is_number(row_where(member(summary, "maps"), "map", "sessions"), "used", n);
	rows = run_json(fixture, "session list");
	assert_int_equal(json_object_array_length(rows), n);
	json_object_put(rows);
	json_object_put(summary);
}

#define WITH_MAPS(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_MAPS(lists_endpoints),
		WITH_MAPS(lists_sessions),
		WITH_MAPS(lists_prefixes),
		WITH_MAPS(lists_flows),
		WITH_MAPS(lists_affinity_and_counters),
		WITH_MAPS(tables_are_aligned),
		WITH_MAPS(gets_by_name),
		WITH_MAPS(gets_a_session_by_its_hash),
		WITH_MAPS(gets_a_flow_with_its_entries),
		WITH_MAPS(get_shows_all_to_people),
		WITH_MAPS(deletes),
		WITH_MAPS(deletes_both_entries_of_a_flow),
		WITH_MAPS(leaves_entries_of_others),
		WITH_MAPS(clears_a_counter),
		WITH_MAPS(sums_up),
		WITH_MAPS(sees_a_running_agent),
		WITH_MAPS(counts_a_full_map),
	};

	return fixture_run_tests("maps_contents", tests, COUNT(tests));
}
