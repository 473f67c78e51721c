// SPDX-License-Identifier: Apache-2.0
/* The JSON tokenizer: what is JSON, what its strings mean, the same for every cut. */
#include "tests/unit/test.h"

#include "agent/json.h"

static const struct {
	const char *text;
	const char *events; /* NULL: refused. {}[] structure, k: key, "..." string, n: number, t f 0 literals */
} cases[] = {
	{ "{}", "{}" },
	{ " [1, -2.5e+3 ,0]\n", "[n1 n-2.5e+3 n0 ]" },
	{ "{\"a\":\"b\",\"c\":[true,false,null]}", "{ka \"b\"kc [tf0]}" },
	{ "\"\\u0041\\/\\n\"", "\"A/\n\"" },
	{ "\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\"" },
	{ "\"\\ud83dx\"", "\"\xef\xbf\xbdx\"" },
	{ "\"\\ude00\"", "\"\xef\xbf\xbd\"" },
	{ "\"\xc3\xa4\"", "\"\xc3\xa4\"" },
	{ "7", "n7 " },
	{ "", NULL },
	{ "{", NULL },
	{ "[1,]", NULL },
	{ "{\"a\":1,}", NULL },
	{ "{\"a\" 1}", NULL },
	{ "{a:1}", NULL },
	{ "[1 2]", NULL },
	{ "[}", NULL },
	{ "01", NULL },
	{ "1.", NULL },
	{ "-", NULL },
	{ "NaN", NULL },
	{ "tru", NULL },
	{ "\"a\nb\"", NULL },
	{ "\"\\x\"", NULL },
	{ "\"\\u12g4\"", NULL },
	{ "{} {}", NULL },
};

struct trace {
	char text[256];
	size_t len;
};

static void add(struct trace *trace, const char *data, size_t len)
{
	assert_true(trace->len + len < sizeof(trace->text));
	memcpy(trace->text + trace->len, data, len);
	trace->len += len;
}

static void on_event(void *ctx, enum json_event event, const char *data, size_t len)
{
	static const char marks[] = "{}[]k\"\0\"ntf0";
	struct trace *trace = ctx;

	if (event != JSON_STRING_PART)
		add(trace, &marks[event], 1);
	add(trace, data ? data : "", data ? len : 0);
	if (event == JSON_KEY || event == JSON_NUMBER)
		add(trace, " ", 1);
}

static void run(const char *text, const char *events, size_t step)
{
	struct trace trace = { .len = 0 };
	struct json json = { .on = on_event, .ctx = &trace };
	size_t len = strlen(text);

	for (size_t at = 0; at < len; at += step)
		json_feed(&json, text + at, len - at < step ? len - at : step);
	if ((json_finish(&json) == 0) != (events != NULL))
		fail_msg("%s: error %d", text, json.error);
	if (events && (trace.len != strlen(events) || memcmp(trace.text, events, trace.len)))
		fail_msg("%s, %zu at a time: %.*s", text, step, (int)trace.len, trace.text);
}

static void whole_and_cut(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++)
		for (size_t step = 1; step < 50; step++)
			run(cases[i].text, cases[i].events, step);
}

static void ignore(void *ctx, enum json_event event, const char *data, size_t len)
{
	(void)ctx, (void)event, (void)data, (void)len;
}

static void bounds_depth(void **state)
{
	char deep[2 * JSON_DEPTH_MAX + 2];
	struct json json = { .on = ignore };

	(void)state;
	memset(deep, '[', JSON_DEPTH_MAX);
	memset(deep + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
	json_feed(&json, deep, 2 * JSON_DEPTH_MAX);
	assert_int_equal(json_finish(&json), 0);
	json = (struct json){ .on = ignore };
	memset(deep, '[', JSON_DEPTH_MAX + 1);
	assert_true(json_feed(&json, deep, JSON_DEPTH_MAX + 1) != 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(whole_and_cut), cmocka_unit_test(bounds_depth) };

	return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
