// SPDX-License-Identifier: Apache-2.0
/*
 * Where a message body ends: see http_body.h.
 *
 * Chunked framing is read as strictly as heads are: hexadecimal digits, an optional extension without control
 * characters, CR LF; then exactly that many bytes and CR LF; after the chunk of size 0 trailer fields and an empty line.
 * Size lines and trailers are bounded, or a body could consist of nothing else. Some servers add trailers to the fields of
 * the head (uvicorn with httptools does): a client's must not bring back what was refused or removed there.
 */
#include "agent/http_body.h"

#include <errno.h>

enum { LINE_MAX_BYTES = 1024, TRAILERS_MAX_BYTES = 8192 };

enum chunk_state {
	CHUNK_SIZE_FIRST, /* at least one digit */
	CHUNK_SIZE,
	CHUNK_EXTENSION,
	CHUNK_SIZE_LF,
	CHUNK_DATA,
	CHUNK_DATA_CR,
	CHUNK_DATA_LF,
	TRAILER_BEGIN, /* of a line */
	TRAILER_NAME,
	TRAILER_VALUE,
	TRAILER_LF,
	TRAILER_LAST_LF,
};

int http_body_begin_request(struct http_body *body, const struct http_head *head, uint64_t max)
{
	*body = (struct http_body){ .max = max, .is_request = true };
	if (head->chunked)
		body->kind = HTTP_BODY_CHUNKED;
	else if (head->content_length)
		body->kind = HTTP_BODY_SIZED;
	body->remaining = head->content_length;
	body->done = body->kind == HTTP_BODY_NONE;
	return head->content_length > max ? -EMSGSIZE : 0;
}

void http_body_begin_response(struct http_body *body, const struct http_head *head, bool to_head)
{
	*body = (struct http_body){ .max = UINT64_MAX };
	if (to_head || head->no_body || (head->has_length && !head->content_length))
		body->done = true;
	else if (head->chunked)
		body->kind = HTTP_BODY_CHUNKED;
	else
		body->kind = head->has_length ? HTTP_BODY_SIZED : HTTP_BODY_UNTIL_CLOSE;
	body->remaining = body->done ? 0 : head->content_length;
}

uint64_t http_body_skippable(const struct http_body *body)
{
	if (body->done)
		return 0;
	if (body->kind == HTTP_BODY_UNTIL_CLOSE)
		return UINT64_MAX;
	if (body->kind == HTTP_BODY_CHUNKED && body->state != CHUNK_DATA)
		return 0;
	return body->remaining;
}

void http_body_skip(struct http_body *body, uint64_t len)
{
	body->data += len;
	if (body->kind == HTTP_BODY_UNTIL_CLOSE)
		return;
	body->remaining -= len;
	if (body->remaining)
		return;
	if (body->kind == HTTP_BODY_SIZED)
		body->done = true;
	else
		body->state = CHUNK_DATA_CR;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool is_line_char(char c)
{
	unsigned char u = (unsigned char)c;

	return u == '\t' || (u >= ' ' && u != 0x7f);
}

static int size_digit(struct http_body *body, char c)
{
	int digit = hex_value(c);

	if (digit >= 0) {
		if (body->remaining >> 58)
			return -EBADMSG;
		body->remaining = body->remaining << 4 | (unsigned)digit;
		body->state = CHUNK_SIZE;
		return 0;
	}
	if (body->state == CHUNK_SIZE_FIRST || (c != ';' && c != '\r'))
		return -EBADMSG;
	body->state = c == ';' ? CHUNK_EXTENSION : CHUNK_SIZE_LF;
	return 0;
}

static int expect(struct http_body *body, char c, char wanted, enum chunk_state next)
{
	if (c != wanted)
		return -EBADMSG;
	body->state = next;
	if (next == CHUNK_SIZE_FIRST)
		body->line = 0;
	return 0;
}

static int line_char(struct http_body *body, char c, enum chunk_state at_end)
{
	if (c == '\r')
		body->state = at_end;
	else if (!is_line_char(c))
		return -EBADMSG;
	return 0;
}

static int name_end(struct http_body *body)
{
	if (body->is_request && http_may_not_trail((struct http_text){ body->name, body->name_len }))
		return -EBADMSG;
	body->state = TRAILER_VALUE;
	return 0;
}

/* Of a trailer field; what follows the colon is as in a head. */
static int name_char(struct http_body *body, char c)
{
	if (body->state == TRAILER_NAME && c == ':')
		return name_end(body);
	if (!http_is_token_char(c))
		return -EBADMSG;
	if (body->state == TRAILER_BEGIN)
		body->name_len = 0;
	if (body->name_len < sizeof(body->name)) /* longer than any that is looked for */
		body->name[body->name_len++] = c;
	body->state = TRAILER_NAME;
	return 0;
}

/* One byte of framing. */
static int chunk_byte(struct http_body *body, char c)
{
	body->line++;
	switch ((enum chunk_state)body->state) {
	case CHUNK_SIZE_FIRST:
	case CHUNK_SIZE:
		return body->line > LINE_MAX_BYTES ? -EBADMSG : size_digit(body, c);
	case CHUNK_EXTENSION:
		return body->line > LINE_MAX_BYTES ? -EBADMSG : line_char(body, c, CHUNK_SIZE_LF);
	case CHUNK_SIZE_LF:
		return expect(body, c, '\n', body->remaining ? CHUNK_DATA : TRAILER_BEGIN);
	case CHUNK_DATA_CR:
		return expect(body, c, '\r', CHUNK_DATA_LF);
	case CHUNK_DATA_LF:
		return expect(body, c, '\n', CHUNK_SIZE_FIRST);
	case TRAILER_BEGIN:
		if (c == '\r')
			return expect(body, c, '\r', TRAILER_LAST_LF);
		return name_char(body, c);
	case TRAILER_NAME:
		return body->line > TRAILERS_MAX_BYTES ? -EBADMSG : name_char(body, c);
	case TRAILER_VALUE:
		return body->line > TRAILERS_MAX_BYTES ? -EBADMSG : line_char(body, c, TRAILER_LF);
	case TRAILER_LF:
		return expect(body, c, '\n', TRAILER_BEGIN);
	case TRAILER_LAST_LF:
		body->done = c == '\n';
		return body->done ? 0 : -EBADMSG;
	case CHUNK_DATA:
		break;
	}
	return -EBADMSG;
}

/* Content from @at on: reports and skips what is there of it. Return: bytes. */
static size_t take_content(struct http_body *body, const char *data, size_t len,
	void (*content)(void *ctx, const char *data, size_t len), void *ctx)
{
	uint64_t run = http_body_skippable(body);
	size_t n = run < len ? (size_t)run : len;

	if (n && content)
		content(ctx, data, n);
	http_body_skip(body, n);
	return n;
}

int http_body_feed(struct http_body *body, const char *data, size_t len, size_t *used,
	void (*content)(void *ctx, const char *data, size_t len), void *ctx, enum http_rule *rule)
{
	size_t at = 0;

	while (at < len && !body->done) {
		if (http_body_skippable(body)) {
			at += take_content(body, data + at, len - at, content, ctx);
		} else if (chunk_byte(body, data[at++])) {
			*rule = HTTP_RULE_CHUNK;
			return -EBADMSG;
		}
		if (body->data > body->max ||
			(body->kind == HTTP_BODY_CHUNKED && body->state == CHUNK_DATA && body->remaining > body->max - body->data)) {
			*rule = HTTP_RULE_BODY_TOO_LARGE;
			return -EBADMSG;
		}
	}
	*used = at;
	return 0;
}
