// SPDX-License-Identifier: Apache-2.0
/* Body framing: where bodies end, what is refused, the same for every cut. */
#include "tests/unit/test.h"

#include <errno.h>

#include "agent/http_body.h"

static const struct {
	const char *name, *raw, *content; /* content NULL: refused */
	size_t surplus;
} bodies[] = {
	{ "one chunk", "5\r\nhello\r\n0\r\n\r\n", "hello", 0 },
	{ "two chunks and the next message", "1\r\na\r\n2\r\nbc\r\n0\r\n\r\nGET", "abc", 3 },
	{ "extension and trailer", "3;a=\"b\"\r\nabc\r\n0\r\nX: y\r\n\r\n", "abc", 0 },
	{ "leading zeros, capitals", "00A\r\n0123456789\r\n0\r\n\r\n", "0123456789", 0 },
	{ "no digits", "\r\n", NULL, 0 },
	{ "sign", "+5\r\nhello\r\n0\r\n\r\n", NULL, 0 },
	{ "0x", "0x5\r\nhello\r\n0\r\n\r\n", NULL, 0 },
	{ "space after the size", "5 \r\nhello\r\n0\r\n\r\n", NULL, 0 },
	{ "bare LF", "5\nhello\r\n0\r\n\r\n", NULL, 0 },
	{ "size too small", "4\r\nhello\r\n0\r\n\r\n", NULL, 0 },
	{ "overflow", "fffffffffffffffff\r\n", NULL, 0 },
	{ "overflow, back to what fits", "10000000000000003\r\nabc\r\n0\r\n\r\n", NULL, 0 },
	{ "over the maximum", "ffff\r\n", NULL, 0 },
	{ "control in the extension", "5;\x01\r\nhello\r\n0\r\n\r\n", NULL, 0 },
	{ "two trailers, one empty", "0\r\nX-A: y\r\nB:\r\n\r\n", "", 0 },
	{ "trailer without a colon", "0\r\nX\r\n\r\n", NULL, 0 },
	{ "trailer without a name", "0\r\n: y\r\n\r\n", NULL, 0 },
	{ "space before a trailer's colon", "0\r\nX : y\r\n\r\n", NULL, 0 },
	{ "bare LF in a trailer", "0\r\nX: y\n\r\n", NULL, 0 },
	{ "bare CR in a trailer", "0\r\nX: y\rz\r\n\r\n", NULL, 0 },
	{ "length in a trailer", "0\r\nX: y\r\ncontent-Length: 5\r\n\r\n", NULL, 0 },
	{ "coding in a trailer, disguised", "0\r\nTransfer_Encoding: chunked\r\n\r\n", NULL, 0 },
	{ "host in a trailer", "0\r\nHost: b\r\n\r\n", NULL, 0 },
	{ "hop-by-hop field in a trailer", "0\r\nConnection: close\r\n\r\n", NULL, 0 },
	{ "the agent's own name in a trailer", "0\r\nx-prefiller-host-port: e:1\r\n\r\n", NULL, 0 },
	{ "client's address in a trailer", "0\r\nX_Forwarded-A-Name-That-Is-Longer-Than-What-Is-Kept: e\r\n\r\n", NULL, 0 },
	{ "trailers with other names", "0\r\nX-Forwarded: y\r\nHosts: z\r\nx-prefiller-host-port2: 1\r\n\r\n", "", 0 },
	{ "folded trailer", "0\r\nX: y\r\n z\r\n\r\n", NULL, 0 },
};

struct collected {
	char text[64];
	size_t len;
};

static void collect(void *ctx, const char *data, size_t len)
{
	struct collected *collected = ctx;

	memcpy(collected->text + collected->len, data, len);
	collected->len += len;
}

/* Feeds @step bytes at a time. */
static void follow(size_t i, size_t step)
{
	struct http_head head = { .chunked = true };
	struct collected got = { .len = 0 };
	struct http_body body;
	enum http_rule rule;
	size_t at = 0, used, len = strlen(bodies[i].raw);
	int err = 0;

	assert_int_equal(http_body_begin_request(&body, &head, 1000), 0);
	while (at < len && !body.done && !err) {
		err = http_body_feed(&body, bodies[i].raw + at, len - at < step ? len - at : step, &used, collect, &got, &rule);
		at += used;
	}
	if (!bodies[i].content) {
		if (err != -EBADMSG)
			fail_msg("%s was taken", bodies[i].name);
		return;
	}
	if (err || !body.done || len - at != bodies[i].surplus)
		fail_msg("%s, %zu at a time: error %d, %zu left", bodies[i].name, step, err, len - at);
	assert_int_equal(got.len, strlen(bodies[i].content));
	assert_memory_equal(got.text, bodies[i].content, got.len);
}

static void chunked_whole_and_cut(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(bodies); i++)
		for (size_t step = 1; step < 40; step += 3)
			follow(i, step);
}

static void sized(void **state)
{
	struct http_head head = { .has_length = true, .content_length = 10 };
	struct http_body body;
	enum http_rule rule;
	size_t used;

	(void)state;
	assert_int_equal(http_body_begin_request(&body, &head, 5), -EMSGSIZE);
	assert_int_equal(http_body_begin_request(&body, &head, 10), 0);
	assert_int_equal(http_body_skippable(&body), 10);
	http_body_skip(&body, 4);
	assert_int_equal(http_body_feed(&body, "abcdefgh", 8, &used, NULL, NULL, &rule), 0);
	assert_int_equal(used, 6);
	assert_true(body.done);
}

static void responses(void **state)
{
	struct http_head head = { .status = 200 };
	struct http_body body;

	(void)state;
	http_body_begin_response(&body, &head, false);
	assert_int_equal(body.kind, HTTP_BODY_UNTIL_CLOSE);
	http_body_begin_response(&body, &head, true);
	assert_true(body.done);
	head.no_body = true;
	http_body_begin_response(&body, &head, false);
	assert_true(body.done);
}

/* What a pod says of its own is its own. */
static void trailers_of_responses(void **state)
{
	static const char raw[] = "0\r\nX-Forwarded-For: a\r\n\r\n";
	struct http_head head = { .status = 200, .chunked = true };
	struct http_body body;
	enum http_rule rule;
	size_t used;

	(void)state;
	http_body_begin_response(&body, &head, false);
	assert_int_equal(http_body_feed(&body, raw, sizeof(raw) - 1, &used, NULL, NULL, &rule), 0);
	assert_true(body.done);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(chunked_whole_and_cut),
		cmocka_unit_test(sized),
		cmocka_unit_test(responses),
		cmocka_unit_test(trailers_of_responses),
	};

	return cmocka_run_group_tests_name("http_body", tests, NULL, NULL);
}
