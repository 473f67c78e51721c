// SPDX-License-Identifier: Apache-2.0
/* Request and response heads, bodies in two cuts, rewriting: no crash, and the same result however the bytes come. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/http_body.h"
#include "agent/http_head.h"
#include "agent/session_key.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef int parse_fn(struct http_head *, const char *, size_t, struct http_head_scan *, enum http_rule *);

static char rewritten[2 * HTTP_HEAD_MAX];

/* Parses @data as it would come in reads of 1, 2, 4 ... bytes. */
static int parse_in_cuts(parse_fn *parse, struct http_head *head, const char *data, size_t size, enum http_rule *rule)
{
	struct http_head_scan scan = { 0 };
	int err = -EAGAIN;

	for (size_t len = 1; err == -EAGAIN && len < size; len *= 2)
		err = parse(head, data, len, &scan, rule);
	return err == -EAGAIN ? parse(head, data, size, &scan, rule) : err;
}

static int parse_both_ways(parse_fn *parse, struct http_head *head, const char *data, size_t size)
{
	struct http_head_scan scan = { 0 };
	enum http_rule rule = HTTP_RULE_NONE, cut_rule = HTTP_RULE_NONE;
	struct http_head cut;
	int err = parse(head, data, size, &scan, &rule);

	assert(parse_in_cuts(parse, &cut, data, size, &cut_rule) == err && cut_rule == rule);
	assert(err || (cut.length == head->length && cut.n_fields == head->n_fields && cut.chunked == head->chunked &&
			      cut.content_length == head->content_length));
	assert(err == 0 || err == -EAGAIN || (err == -EBADMSG && rule != HTTP_RULE_NONE));
	return err;
}

/* What is passed on is itself a head that would be taken, with the same framing, but for answers that have none. */
static void check_rewritten(parse_fn *parse, const struct http_head *before, long n)
{
	struct http_head_scan scan = { 0 };
	enum http_rule rule = HTTP_RULE_NONE;
	bool framed = !before->no_body || before->status == 304;
	struct http_head after;

	assert(n > 0);
	if (n > HTTP_HEAD_MAX)
		return;
	if (parse(&after, rewritten, (size_t)n, &scan, &rule)) {
		assert(rule == HTTP_RULE_HEAD_TOO_LARGE);
		return;
	}
	assert(after.length == (size_t)n && after.status == before->status);
	assert(after.chunked == (framed && before->chunked) && after.has_length == (framed && before->has_length) &&
	       after.content_length == (framed ? before->content_length : 0));
}

struct content {
	size_t len;
	uint64_t sum;
};

static void add_content(void *ctx, const char *data, size_t len)
{
	struct content *content = ctx;

	for (size_t i = 0; i < len; i++)
		content->sum = content->sum * 31 + (uint8_t)data[i];
	content->len += len;
}

static void follow_body(const struct http_body *begin, const char *data, size_t len)
{
	struct http_body whole = *begin, cut = *begin;
	struct content a = { 0 }, b = { 0 };
	enum http_rule rule;
	size_t used, first = 0, second = 0;
	int err = http_body_feed(&whole, data, len, &used, add_content, &a, &rule);
	int cut_err = http_body_feed(&cut, data, len / 2, &first, add_content, &b, &rule);

	if (!cut_err && !cut.done)
		cut_err = http_body_feed(&cut, data + len / 2, len - len / 2, &second, add_content, &b, &rule);
	assert(err == cut_err);
	assert(err || (used == first + second && used <= len && whole.done == cut.done && a.len == b.len && a.sum == b.sum));
	assert(err || (whole.data == a.len && whole.data <= whole.max));
}

static void request(const char *data, size_t size)
{
	static const char *const names[] = { "x-session-id" };
	struct http_head head;
	struct http_body body;
	struct http_text key;
	const char *source;

	if (parse_both_ways(http_request_head_parse, &head, data, size))
		return;
	check_rewritten(http_request_head_parse, &head,
		http_request_rewrite(&head, "192.0.2.1", "", true, rewritten, sizeof(rewritten)));
	session_key_from_head(&head, names, 1, &key, &source);
	if (!http_body_begin_request(&body, &head, 1 << 20))
		follow_body(&body, data + head.length, size - head.length);
}

static void response(const char *data, size_t size)
{
	struct http_head head;
	struct http_body body;

	if (parse_both_ways(http_response_head_parse, &head, data, size))
		return;
	check_rewritten(http_response_head_parse, &head,
		http_response_rewrite(&head, true, false, "", rewritten, sizeof(rewritten)));
	http_body_begin_response(&body, &head, false);
	follow_body(&body, data + head.length, size - head.length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *copy = malloc(size + !size); /* of that size: a read past its end shows */

	memcpy(copy, data, size);
	request(copy, size);
	response(copy, size);
	free(copy);
	return 0;
}
