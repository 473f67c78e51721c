// SPDX-License-Identifier: Apache-2.0
/* HTTP heads: what is taken, what is refused and by which rule, whatever way the bytes are cut. */
#include "tests/unit/test.h"

#include <errno.h>

#include "agent/http_head.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n"

static const struct {
	const char *name, *head;
	enum http_rule rule; /* NONE: accepted */
} requests[] = {
	{ "plain", GET "\r\n", HTTP_RULE_NONE },
	{ "http/1.0 without host", "GET / HTTP/1.0\r\n\r\n", HTTP_RULE_NONE },
	{ "absolute form", "GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_NONE },
	{ "absolute form without a path", "GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_NONE },
	{ "asterisk form", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_NONE },
	{ "empty value", GET "X:\r\n\r\n", HTTP_RULE_NONE },
	{ "tab and obs-text in a value", GET "X: a\tb\xff\r\n\r\n", HTTP_RULE_NONE },
	{ "length", GET "Content-Length: 5\r\n\r\n", HTTP_RULE_NONE },
	{ "chunked", GET "Transfer-Encoding: Chunked\r\n\r\n", HTTP_RULE_NONE },
	{ "expectation", GET "Expect: 100-Continue\r\n\r\n", HTTP_RULE_NONE },
	{ "length and coding", GET "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_RULE_LENGTH_AND_CODING },
	{ "coding and length", GET "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", HTTP_RULE_LENGTH_AND_CODING },
	{ "equal lengths twice", GET "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", HTTP_RULE_CONTENT_LENGTH },
	{ "list of lengths", GET "Content-Length: 5, 5\r\n\r\n", HTTP_RULE_CONTENT_LENGTH },
	{ "plus sign", GET "Content-Length: +5\r\n\r\n", HTTP_RULE_CONTENT_LENGTH },
	{ "minus sign", GET "Content-Length: -5\r\n\r\n", HTTP_RULE_CONTENT_LENGTH },
	{ "space within a length", GET "Content-Length: 1 1\r\n\r\n", HTTP_RULE_CONTENT_LENGTH },
	{ "hexadecimal length", GET "Content-Length: 0x10\r\n\r\n", HTTP_RULE_CONTENT_LENGTH },
	{ "empty length", GET "Content-Length:\r\n\r\n", HTTP_RULE_CONTENT_LENGTH },
	{ "overflowing length", GET "Content-Length: 99999999999999999999\r\n\r\n", HTTP_RULE_CONTENT_LENGTH },
	{ "coding twice", GET "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_RULE_TRANSFER_CODING },
	{ "coding list", GET "Transfer-Encoding: chunked, chunked\r\n\r\n", HTTP_RULE_TRANSFER_CODING },
	{ "gzip before chunked", GET "Transfer-Encoding: gzip, chunked\r\n\r\n", HTTP_RULE_TRANSFER_CODING },
	{ "unknown coding", GET "Transfer-Encoding: xchunked\r\n\r\n", HTTP_RULE_TRANSFER_CODING },
	{ "coding with a parameter", GET "Transfer-Encoding: chunked;q=1\r\n\r\n", HTTP_RULE_TRANSFER_CODING },
	{ "coding behind a vertical tab", GET "Transfer-Encoding: \vchunked\r\n\r\n", HTTP_RULE_FIELD },
	{ "coding on 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_RULE_TRANSFER_CODING },
	{ "obs-fold", GET "X: a\r\n b\r\n\r\n", HTTP_RULE_OBS_FOLD },
	{ "fold of the first line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", HTTP_RULE_OBS_FOLD },
	{ "bare LF", "GET / HTTP/1.1\nHost: a\r\n\r\n", HTTP_RULE_LINE_END },
	{ "bare LF in fields", GET "X: a\nY: b\r\n\r\n", HTTP_RULE_LINE_END },
	{ "bare LF at the end", GET "X: a\r\n\n", HTTP_RULE_LINE_END },
	{ "bare CR in a value", GET "X: a\rb\r\n\r\n", HTTP_RULE_LINE_END },
	{ "space before the colon", GET "X : a\r\n\r\n", HTTP_RULE_FIELD },
	{ "no colon", GET "X\r\n\r\n", HTTP_RULE_FIELD },
	{ "empty name", GET ": a\r\n\r\n", HTTP_RULE_FIELD },
	{ "brackets in a name", GET "X[1]: a\r\n\r\n", HTTP_RULE_FIELD },
	{ "control in a value", GET "X: a\x01\r\n\r\n", HTTP_RULE_FIELD },
	{ "no host", "GET / HTTP/1.1\r\n\r\n", HTTP_RULE_HOST },
	{ "two hosts", GET "Host: a\r\n\r\n", HTTP_RULE_HOST },
	{ "a list of hosts", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", HTTP_RULE_HOST },
	{ "host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", HTTP_RULE_HOST },
	{ "host with user information", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", HTTP_RULE_HOST },
	{ "host that is no ASCII", "GET / HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n", HTTP_RULE_HOST },
	{ "host is an IPv6 address", "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]:80\r\n\r\n", HTTP_RULE_NONE },
	{ "host is empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n", HTTP_RULE_NONE },
	{ "absolute form with a bad host", "GET http://a|b/ HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_REQUEST_LINE },
	{ "HTTP/0.9", "GET /\r\n\r\n", HTTP_RULE_REQUEST_LINE },
	{ "HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", HTTP_RULE_VERSION },
	{ "HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP_RULE_VERSION },
	{ "two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_REQUEST_LINE },
	{ "space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_REQUEST_LINE },
	{ "relative target", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_REQUEST_LINE },
	{ "fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_REQUEST_LINE },
	{ "fragment in absolute form", "GET http://a/b#c HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_REQUEST_LINE },
	{ "absolute form without a host", "GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_REQUEST_LINE },
	{ "user information", "GET http://u@a/b HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_REQUEST_LINE },
	{ "unknown scheme", "GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_REQUEST_LINE },
	{ "asterisk with GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_REQUEST_LINE },
	{ "CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_RULE_UPGRADE },
	{ "upgrade", GET "Upgrade: websocket\r\n\r\n", HTTP_RULE_UPGRADE },
	{ "one upgrade of two", GET "Upgrade: h2c\r\nUpgrade: websocket\r\n\r\n", HTTP_RULE_UPGRADE },
	{ "upgrade to HTTP/2", GET "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: H2C\r\nHTTP2-Settings: AAM\r\n\r\n", HTTP_RULE_NONE },
	{ "unknown expectation", GET "Expect: tea\r\n\r\n", HTTP_RULE_EXPECT },
};

/* Exactly-sized copies, so that the sanitizers see a read past the end. */
static int parse(const char *data, size_t len, struct http_head *head, enum http_rule *rule, struct http_head_scan *scan)
{
	char *copy = malloc(len ? len : 1);
	int err;

	memcpy(copy, data, len);
	err = http_request_head_parse(head, copy, len, scan, rule);
	free(copy);
	return err;
}

static void takes_or_refuses(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(requests); i++) {
		struct http_head_scan scan = { 0 };
		enum http_rule rule = HTTP_RULE_NONE;
		struct http_head head;
		int err = parse(requests[i].head, strlen(requests[i].head), &head, &rule, &scan);

		if (err != (requests[i].rule == HTTP_RULE_NONE ? 0 : -EBADMSG) || rule != requests[i].rule)
			fail_msg("%s: error %d, rule %s", requests[i].name, err, http_rule_name(rule));
	}
}

static void says_the_same_byte_by_byte(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(requests); i++) {
		struct http_head_scan scan = { 0 };
		enum http_rule rule = HTTP_RULE_NONE;
		struct http_head head;
		int err = -EAGAIN;

		for (size_t n = 0; err == -EAGAIN && n <= strlen(requests[i].head); n++)
			err = parse(requests[i].head, n, &head, &rule, &scan);
		if (err != (requests[i].rule == HTTP_RULE_NONE ? 0 : -EBADMSG) || rule != requests[i].rule)
			fail_msg("%s: error %d, rule %s", requests[i].name, err, http_rule_name(rule));
	}
}

static void refuses_what_is_no_http_at_once(void **state)
{
	struct http_head_scan scan = { 0 };
	enum http_rule rule = HTTP_RULE_NONE;
	struct http_head head;

	(void)state;
	assert_int_equal(http_request_head_parse(&head, "\x16\x03\x01", 3, &scan, &rule), -EBADMSG); /* TLS */
	assert_int_equal(rule, HTTP_RULE_REQUEST_LINE);
	assert_int_equal(http_request_head_parse(&head, "\r", 1, &scan, &rule), -EAGAIN);
}

static void bounds_head_and_fields(void **state)
{
	static char big[HTTP_HEAD_MAX + 100];
	struct http_head_scan scan = { 0 };
	enum http_rule rule;
	struct http_head head;
	size_t n;

	(void)state;
	memset(big, 'a', sizeof(big));
	memcpy(big, "GET /", 5);
	assert_int_equal(http_request_head_parse(&head, big, HTTP_HEAD_MAX - 1, &scan, &rule), -EAGAIN);
	assert_int_equal(http_request_head_parse(&head, big, sizeof(big), &scan, &rule), -EBADMSG);
	assert_int_equal(rule, HTTP_RULE_HEAD_TOO_LARGE);
	n = (size_t)sprintf(big, GET);
	for (int i = 0; i < HTTP_FIELDS_MAX; i++)
		n += (size_t)sprintf(big + n, "X: a\r\n");
	n += (size_t)sprintf(big + n, "\r\n");
	scan = (struct http_head_scan){ 0 };
	assert_int_equal(http_request_head_parse(&head, big, n, &scan, &rule), -EBADMSG);
	assert_int_equal(rule, HTTP_RULE_HEAD_TOO_LARGE);
	assert_int_equal(http_rule_status(rule), 431);
}

static void reads_what_it_says(void **state)
{
	const char *text = "POST /v1/x?y HTTP/1.1\r\nhost: a\r\nConnection: Close\r\nContent-Length: 12\r\nX-A:  b c \r\n\r\nrest";
	struct http_head_scan scan = { 0 };
	enum http_rule rule;
	struct http_head head;

	(void)state;
	assert_int_equal(http_request_head_parse(&head, text, strlen(text), &scan, &rule), 0);
	assert_int_equal(head.length, strlen(text) - 4);
	assert_int_equal(head.method, HTTP_POST);
	assert_true(http_text_equal(head.target, "/v1/x?y"));
	assert_true(head.has_length && head.content_length == 12 && !head.keep_alive);
	assert_true(http_text_equal(http_field_find(&head, "x-a")->value, "b c"));
}

static void rewrites_a_request(void **state)
{
	const char *text = "POST http://h/x HTTP/1.0\r\nHost: a\r\nConnection: X-Drop, Content-Length\r\nX-Drop: 1\r\nx_forwarded_for: 6.6.6.6\r\n"
			   "X-Forwarded-Client-Cert: x\r\nx-forwarded-: x\r\nforwarded: for=x\r\nX_Real_IP: x\r\nX-Forward: 2\r\n"
			   "X-Prefiller-Host-Port: e\r\nContent_Length: 7\r\ntransfer_encoding: chunked\r\nKeep-Alive: 5\r\nTE: gzip\r\nExpect: 100-continue\r\nContent-Length: 3\r\nX-Keep: 1\r\n\r\n";
	struct http_head_scan scan = { 0 };
	enum http_rule rule;
	struct http_head head;
	char out[512];
	long n;

	(void)state;
	assert_int_equal(http_request_head_parse(&head, text, strlen(text), &scan, &rule), 0);
	n = http_request_rewrite(&head, "1.2.3.4", "x-request-id: r\r\n", true, out, sizeof(out) - 1);
	assert_true(n > 0);
	out[n] = '\0';
	assert_string_equal(out, "POST /x HTTP/1.1\r\nHost: h\r\nX-Forward: 2\r\nContent-Length: 3\r\nX-Keep: 1\r\nX-Forwarded-For: 1.2.3.4\r\nx-request-id: r\r\n"
				 "Connection: close\r\n\r\n");
	assert_int_equal(http_request_rewrite(&head, "1.2.3.4", "", false, out, 40), -ENOBUFS);
}

static void rewrites_targets(void **state)
{
	static const struct {
		const char *target, *line, *host;
		bool http10;
	} cases[] = {
		{ "/a/b?c=http://x/y", "GET /a/b?c=http://x/y HTTP/1.1\r\n", "Host: own\r\n" },
		{ "http://h:80/a?b", "GET /a?b HTTP/1.1\r\n", "Host: h:80\r\n" },
		{ "HTTPS://h", "GET / HTTP/1.1\r\n", "Host: h\r\n" },
		{ "http://h?b/c", "GET /?b/c HTTP/1.1\r\n", "Host: h\r\n" },
		{ "/old", "GET /old HTTP/1.1\r\n", "\r\nHost: \r\n", true },
		{ "http://h/old", "GET /old HTTP/1.1\r\n", "\r\nHost: h\r\n", true },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct http_head_scan scan = { 0 };
		enum http_rule rule;
		struct http_head head;
		char text[256], out[512];
		const char *rest = cases[i].http10 ? "HTTP/1.0\r\n\r\n" : "HTTP/1.1\r\nHost: own\r\n\r\n";
		size_t len = (size_t)snprintf(text, sizeof(text), "GET %s %s", cases[i].target, rest);
		long n;

		assert_int_equal(http_request_head_parse(&head, text, len, &scan, &rule), 0);
		n = http_request_rewrite(&head, "1.2.3.4", "", false, out, sizeof(out) - 1);
		assert_true(n > 0);
		out[n] = '\0';
		if (strncmp(out, cases[i].line, strlen(cases[i].line)) || !strstr(out, cases[i].host))
			fail_msg("%s: %s", cases[i].target, out);
	}
}

static void rewrites_a_response(void **state)
{
	static const struct {
		const char *text, *out;
	} cases[] = {
		{ "HTTP/1.0 200 Very OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n",
			"HTTP/1.1 200 Very OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n" },
		{ "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n", "HTTP/1.1 204 No\r\nA: b\r\nConnection: keep-alive\r\n\r\n" },
		{ "HTTP/1.1 103 \r\ncontent-length: 3\r\nLink: x\r\n\r\n", "HTTP/1.1 103 \r\nLink: x\r\nConnection: keep-alive\r\n\r\n" },
		{ "HTTP/1.1 304 Same\r\nContent-Length: 3\r\n\r\n",
			"HTTP/1.1 304 Same\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n" },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct http_head_scan scan = { 0 };
		enum http_rule rule;
		struct http_head head;
		char out[256];
		long n;

		assert_int_equal(http_response_head_parse(&head, cases[i].text, strlen(cases[i].text), &scan, &rule), 0);
		assert_true(head.keep_alive);
		n = http_response_rewrite(&head, false, true, "", out, sizeof(out) - 1);
		out[n] = '\0';
		assert_string_equal(out, cases[i].out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_or_refuses),
		cmocka_unit_test(says_the_same_byte_by_byte),
		cmocka_unit_test(refuses_what_is_no_http_at_once),
		cmocka_unit_test(bounds_head_and_fields),
		cmocka_unit_test(reads_what_it_says),
		cmocka_unit_test(rewrites_a_request),
		cmocka_unit_test(rewrites_targets),
		cmocka_unit_test(rewrites_a_response),
	};

	return cmocka_run_group_tests_name("http_head", tests, NULL, NULL);
}
