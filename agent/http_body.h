/* SPDX-License-Identifier: Apache-2.0 */
/* Where a message body ends: follows sized, chunked and until-close bodies byte by byte as they pass (RFC 9112 6, 7). */
#ifndef LLMD_AGENT_HTTP_BODY_H
#define LLMD_AGENT_HTTP_BODY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/http_head.h"

enum http_body_kind { HTTP_BODY_NONE, HTTP_BODY_SIZED, HTTP_BODY_CHUNKED, HTTP_BODY_UNTIL_CLOSE };

/** struct http_body - the position within one body. The fields are http_body.c's but for those read by predicates. */
struct http_body {
	enum http_body_kind kind;
	uint64_t remaining; /* sized: bytes to come; chunked: data bytes of the present chunk to come */
	uint64_t data;	    /* content bytes seen so far, without the chunked framing */
	uint64_t max;	    /* content bytes allowed */
	unsigned state;	    /* of the chunked grammar */
	unsigned line;	    /* bytes of the present chunk-size line or trailer section */
	bool done, is_request;
	uint8_t name_len;   /* of the present trailer field's name, as far as it is kept */
	char name[24];
};

/** http_body_begin_request() - @max: --max-body. Return: 0, or -EMSGSIZE if the head already says too much. */
int http_body_begin_request(struct http_body *body, const struct http_head *head, uint64_t max);

/** http_body_begin_response() - @to_head: the request was HEAD. */
void http_body_begin_response(struct http_body *body, const struct http_head *head, bool to_head);


/**
 * http_body_feed() - follows the next @len raw bytes.
 * @used:    how many of them belong to this body (framing included); the rest is the next message's.
 * @content: called for each run of content (framing removed), may be NULL.
 * @rule:    on -EBADMSG: HTTP_RULE_CHUNK or HTTP_RULE_BODY_TOO_LARGE.
 * Return: 0 or -EBADMSG. body->done tells whether it ended.
 */
int http_body_feed(struct http_body *body, const char *data, size_t len, size_t *used,
	void (*content)(void *ctx, const char *data, size_t len), void *ctx, enum http_rule *rule);

/**
 * http_body_skippable() - bytes from here that need not be looked at: they are content, or until-close.
 * For splice(2): that many may be moved without http_body_feed(), then http_body_skip() told of it.
 * UINT64_MAX for until-close, 0 where framing comes next.
 */
uint64_t http_body_skippable(const struct http_body *body);
void http_body_skip(struct http_body *body, uint64_t len);

#endif
