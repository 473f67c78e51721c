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

static void rewrite(const struct http_head *head)
{
	static char out[2 * HTTP_HEAD_MAX];
	struct http_head again;
	struct http_head_scan scan = { 0 };
	enum http_rule rule = HTTP_RULE_NONE;
	long n = http_request_rewrite(head, "192.0.2.1", "", true, out, sizeof(out));

	assert(n > 0);
	/* What goes to the pod is itself a head that would be taken, unless HTTP/1.0 had no Host. */
	assert(n > HTTP_HEAD_MAX || !http_request_head_parse(&again, out, (size_t)n, &scan, &rule) || rule == HTTP_RULE_HOST ||
		rule == HTTP_RULE_HEAD_TOO_LARGE);
}

static void body(const struct http_head *head, const char *data, size_t len)
{
	struct http_body whole, cut;
	enum http_rule rule;
	size_t used, first = 0, second = 0;
	int err, cut_err = 0;

	if (http_body_begin_request(&whole, head, 1 << 20))
		return;
	cut = whole;
	err = http_body_feed(&whole, data, len, &used, NULL, NULL, &rule);
	cut_err = http_body_feed(&cut, data, len / 2, &first, NULL, NULL, &rule);
	if (!cut_err && !cut.done)
		cut_err = http_body_feed(&cut, data + len / 2, len - len / 2, &second, NULL, NULL, &rule);
	assert(err == cut_err && (err || (used == first + second && whole.done == cut.done)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = { "x-session-id" };
	struct http_head_scan scan = { 0 };
	enum http_rule rule = HTTP_RULE_NONE;
	struct http_head head;
	struct http_text key;
	const char *source;
	char *copy = malloc(size + 1);

	memcpy(copy, data, size);
	if (!http_request_head_parse(&head, copy, size, &scan, &rule)) {
		rewrite(&head);
		session_key_from_head(&head, names, 1, &key, &source);
		body(&head, copy + head.length, size - head.length);
	}
	scan = (struct http_head_scan){ 0 };
	if (!http_response_head_parse(&head, copy, size, &scan, &rule)) {
		char out[2 * HTTP_HEAD_MAX];

		http_response_rewrite(&head, true, false, "", out, sizeof(out));
	}
	free(copy);
	return 0;
}
