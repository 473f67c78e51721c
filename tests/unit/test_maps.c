// SPDX-License-Identifier: Apache-2.0
/* llmd-maps without maps: formats, tables, quantiles, what a record's bits become. tests/maps has the rest. */
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>

#include "tools/maps/maps.h"

#define SECOND 1000000000ull

static void formats_bytes(void **state)
{
	static const struct {
		double bytes;
		const char *text;
	} cases[] = { { 0, "0 B" }, { 1023, "1023 B" }, { 1024, "1.0 KiB" }, { 1536, "1.5 KiB" }, { 1048575, "1.0 MiB" },
		{ 5368709120.0, "5.0 GiB" }, { 18446744073709551615.0, "16.0 EiB" } };
	char text[32];

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		format_bytes(cases[i].bytes, text, sizeof(text));
		assert_string_equal(text, cases[i].text);
	}
}

static void formats_seconds(void **state)
{
	static const struct {
		double seconds;
		const char *text;
	} cases[] = { { 0, "0 s" }, { 0.000250, "250 us" }, { 0.0012, "1.2 ms" }, { 0.0999, "100 ms" }, { 0.25, "250 ms" },
		{ 0.9996, "1.0 s" }, { 59.94, "59.9 s" }, { 60, "1m00s" }, { 3599, "59m59s" }, { 7260, "2h01m" }, { 90000, "1d01h" },
		{ 18446744073.7, "213503d23h" } };
	char text[32];

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		format_seconds(cases[i].seconds, text, sizeof(text));
		assert_string_equal(text, cases[i].text);
	}
}

static void parses_hashes(void **state)
{
	static const char *const wrong[] = { "", "0", "0123456789abcdef0", "0123456789abcdeg", " 123456789abcdef", "0x23456789abcdef",
		"-123456789abcdef" };
	uint64_t hash = 7;

	(void)state;
	for (size_t i = 0; i < COUNT(wrong); i++)
		if (hash_parse(wrong[i], &hash) != -EINVAL || hash != 7)
			fail_msg("%s was taken", wrong[i]);
	assert_int_equal(hash_parse("fedcBA9876543210", &hash), 0);
	assert_true(hash == 0xfedcba9876543210);
}

/* ---- histograms ---- */

static void quantiles(void **state)
{
	static const struct {
		__u64 buckets[LLMD_HISTOGRAM_N];
		double q, seconds;
	} cases[] = {
		{ { 0 }, 0.5, -1 },
		{ { 4 }, 0.5, 1.41421e-6 },
		{ { 4 }, 1, 2e-6 },
		{ { [10] = 1 }, 0.5, 1.44815e-3 },
		{ { [10] = 50, [20] = 50 }, 0.5, 2.048e-3 },
		{ { [10] = 50, [20] = 50 }, 0.51, 1.06318 },
		{ { [10] = 50, [20] = 50 }, 0, 1.024e-3 },
		{ { [LLMD_HISTOGRAM_N - 1] = 3 }, 0.95, 33.554432 },
		{ { [3] = UINT64_MAX, [4] = UINT64_MAX }, 0.5, 16e-6 },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		double seconds = histogram_quantile(cases[i].buckets, cases[i].q);

		if (fabs(seconds - cases[i].seconds) > 1e-4 * fabs(cases[i].seconds))
			fail_msg("case %zu: %g, not %g", i, seconds, cases[i].seconds);
	}
}

static void sums_cpus(void **state)
{
	static const __u64 values[] = { 1, 2, 3, 10, 20, 30, UINT64_MAX, 0, 0 };
	__u64 sum[3];

	(void)state;
	percpu_sum(values, 3, 3, sum);
	assert_true(sum[0] == 10 && sum[1] == 22 && sum[2] == 33); /* a sum past 2^64 wraps, as its parts do */
}

/* ---- rows ---- */

static struct maps *some_maps(void)
{
	static struct maps maps;
	static const uint8_t ip[16] = { [10] = 0xff, 0xff, 10, 1, 0, 4 };

	memset(&maps, 0, sizeof(maps));
	maps.now_ns = 100 * SECOND;
	maps.n_endpoints = 2;
	maps.endpoints[0] = (struct endpoint_entry){ .port = htons(8000), .state = ENDPOINT_MAP_READY, .generation = 0x10001 };
	memcpy(maps.endpoints[0].addr, ip, sizeof(ip));
	return &maps;
}

static const char *row_text(struct json_object *row, const char *field)
{
	return json_object_get_string(json_object_object_get(row, field));
}

static void endpoints_by_index_and_generation(void **state)
{
	static const struct {
		uint32_t index, generation;
		const char *endpoint;
	} cases[] = { { 0, 0x10001, "10.1.0.4:8000" }, { 0, 1, NULL }, { 1, 0, NULL }, { 2, 0, NULL }, { UINT32_MAX, 0x10001, NULL } };
	const struct maps *maps = some_maps();

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct json_object *row = json_object_new_object();
		char index[16];

		row_add_endpoint(row, maps, cases[i].index, cases[i].generation);
		if (cases[i].endpoint)
			assert_string_equal(row_text(row, "endpoint"), cases[i].endpoint);
		else
			assert_null(row_text(row, "endpoint"));
		assert_int_equal(json_object_get_boolean(json_object_object_get(row, "endpoint_gone")), !cases[i].endpoint);
		sprintf(index, "%u", cases[i].index);
		assert_string_equal(row_text(row, "endpoint_index"), index);
		json_object_put(row);
	}
}

static void prefix_holders_by_low_bits(void **state)
{
	struct {
		uint64_t hash;
		struct prefix_entry entry;
	} record = { 5, { .holder = { { 0, 1 }, { 0, 2 }, { 1, 0 }, { 9, 1 } }, .n = 4, .depth = 3, .last_used_ns = 99 * SECOND } };
	struct json_object *row = noun_prefix.describe(some_maps(), &record);

	(void)state;
	assert_string_equal(json_object_to_json_string_ext(row, JSON_C_TO_STRING_PLAIN),
		"{\"prefix_hash\":\"0000000000000005\",\"depth\":3,\"idle_seconds\":1.000000,\"endpoints\":[\"10.1.0.4:8000\"],"
		"\"endpoints_gone\":3}");
	json_object_put(row);
}

static void times_of_any_kind(void **state)
{
	static const struct {
		uint64_t then_ns;
		const char *seconds;
	} cases[] = { { 0, NULL }, { 1, "99.999999999" }, { 100 * SECOND, "0" }, { 101 * SECOND, "0" }, { UINT64_MAX, "0" } };

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct json_object *row = json_object_new_object(), *value;

		row_add_since(row, some_maps(), "t", cases[i].then_ns);
		value = json_object_object_get(row, "t");
		assert_int_equal(!value, !cases[i].seconds);
		assert_true(!value || fabs(json_object_get_double(value) - atof(cases[i].seconds)) < 1e-6);
		json_object_put(row);
	}
}

static void text_of_any_bytes(void **state)
{
	static const char raw[8] = { 'a', '\033', '\n', (char)0xc3, (char)0xa9, '\t', '"', 'z' };
	struct json_object *row = json_object_new_object();

	(void)state;
	row_add_raw_text(row, "t", raw, sizeof(raw));
	assert_string_equal(row_text(row, "t"), "a?????" "\"z");
	row_add_raw_text(row, "u", "ab\0cd", 5);
	assert_string_equal(row_text(row, "u"), "ab");
	row_add_raw_text(row, "v", "", 1);
	assert_null(row_text(row, "v"));
	json_object_put(row);
}

/* ---- flows ---- */

static void phases_of_flows(void **state)
{
	static const struct {
		uint32_t state, flags;
		const char *phase;
	} cases[] = {
		{ SLOT_SENDING, 0, "sending" },
		{ SLOT_HANDED, SLOT_ACKED | SLOT_HEAD, "open" },
		{ SLOT_HANDED, SLOT_CLIENT_FIN, "client-closed" },
		{ SLOT_HANDED, SLOT_POD_FIN | SLOT_POD_FIN_ACKED, "pod-closed" },
		{ SLOT_HANDED, SLOT_POD_FIN | SLOT_CLIENT_FIN | SLOT_POD_FIN_ACKED, "closing" },
		{ SLOT_HANDED, SLOT_POD_FIN | SLOT_CLIENT_FIN | SLOT_POD_FIN_ACKED | SLOT_CLIENT_FIN_ACKED, "closed" },
		{ SLOT_SENDING, SLOT_RESET | SLOT_POD_FIN, "reset" },
		{ SLOT_HANDED, SLOT_ORPHAN, "orphan" },
		{ 77, 0, "open" },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct flow_record record = { .slot = { .state = cases[i].state, .flags = cases[i].flags } };
		struct json_object *row = noun_flow.describe(some_maps(), &record);

		if (strcmp(row_text(row, "phase"), cases[i].phase))
			fail_msg("case %zu: %s", i, row_text(row, "phase"));
		json_object_put(row);
	}
}

static void slots_of_one_connection(void **state)
{
	struct slot slot = { .state = SLOT_FREE, .gen = 4, .status = 200 }, copy = { 0 };

	(void)state;
	assert_false(slot_read(&slot, &copy));
	slot.state = SLOT_HANDED;
	assert_true(slot_read(&slot, &copy));
	assert_memory_equal(&slot, &copy, sizeof(slot));
}

/* ---- output ---- */

static struct json_object *numbered_row(void *ctx, size_t i)
{
	struct json_object *row = json_object_new_object();

	(void)ctx;
	row_add_text(row, "name", i ? "long name" : "a");
	row_add_number(row, "count", i ? 1 : 12345);
	row_add_text(row, "note", i ? "x" : NULL);
	row_add_text(row, "hidden", "h");
	return row;
}

static const struct column columns[] = {
	{ "name", "NAME", FORMAT_TEXT },
	{ "count", "N", FORMAT_NUMBER },
	{ "growth", "/S", FORMAT_RATE, "count" },
	{ "hidden", NULL, FORMAT_TEXT },
	{ "note", "NOTE", FORMAT_INDENTED },
};

static void prints(int (*print)(FILE *out, const struct row_source *rows), const char *wanted)
{
	const struct row_source rows = { 2, numbered_row, NULL };
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	assert_int_equal(print(out, &rows), 0);
	fclose(out);
	assert_string_equal(text, wanted);
	free(text);
}

static int print_table(FILE *out, const struct row_source *rows)
{
	return table_print(out, columns, COUNT(columns), rows, false);
}

static int print_with_rates(FILE *out, const struct row_source *rows)
{
	return table_print(out, columns, COUNT(columns), rows, true);
}

static int print_lines(FILE *out, const struct row_source *rows)
{
	return json_print_rows(out, rows, true);
}

static int print_none(FILE *out, const struct row_source *rows)
{
	const struct row_source none = { 0, rows->at, NULL };

	return json_print_rows(out, &none, true);
}

static void tables_and_arrays(void **state)
{
	(void)state;
	prints(print_table, "NAME           N  NOTE\na          12345  -\nlong name      1     x\n");
	prints(print_with_rates, "NAME           N  /S  NOTE\na          12345   -  -\nlong name      1   -     x\n");
	prints(print_lines, "[\n{\"name\":\"a\",\"count\":12345,\"note\":null,\"hidden\":\"h\"},\n"
			    "{\"name\":\"long name\",\"count\":1,\"note\":\"x\",\"hidden\":\"h\"}\n]\n");
	prints(print_none, "[]\n");
}

static void rates(void **state)
{
	struct watch watch = { .before = json_tokener_parse("{\"a\":{\"count\":12000},\"long name\":{\"count\":2}}"), .seconds = 2 };
	struct json_object *grown = numbered_row(NULL, 0), *shrunk = numbered_row(NULL, 1), *fresh = numbered_row(NULL, 0);

	(void)state;
	watch_add_rates(&watch, columns, COUNT(columns), grown);
	assert_true(json_object_get_double(json_object_object_get(grown, "growth")) == 172.5);
	watch_add_rates(&watch, columns, COUNT(columns), shrunk);
	assert_null(json_object_object_get(shrunk, "growth"));
	json_object_object_add(fresh, "name", json_object_new_string("new"));
	watch_add_rates(&watch, columns, COUNT(columns), fresh);
	assert_null(json_object_object_get(fresh, "growth"));
	json_object_put(grown);
	json_object_put(shrunk);
	json_object_put(fresh);
	json_object_put(watch.before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(formats_bytes),
		cmocka_unit_test(formats_seconds),
		cmocka_unit_test(parses_hashes),
		cmocka_unit_test(quantiles),
		cmocka_unit_test(sums_cpus),
		cmocka_unit_test(endpoints_by_index_and_generation),
		cmocka_unit_test(prefix_holders_by_low_bits),
		cmocka_unit_test(times_of_any_kind),
		cmocka_unit_test(text_of_any_bytes),
		cmocka_unit_test(phases_of_flows),
		cmocka_unit_test(slots_of_one_connection),
		cmocka_unit_test(tables_and_arrays),
		cmocka_unit_test(rates),
	};

	return cmocka_run_group_tests_name("maps", tests, NULL, NULL);
}
