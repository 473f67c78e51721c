/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/1.x message heads: strict, incremental, without copies (RFC 9112; what is refused and why: http_head.c). */
#ifndef LLMD_AGENT_HTTP_HEAD_H
#define LLMD_AGENT_HTTP_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

enum { HTTP_HEAD_MAX = 16384, HTTP_FIELDS_MAX = 100 };

/* Why a message was refused; also a metrics label. Each has a status code: http_rule_status(). */
enum http_rule {
	HTTP_RULE_NONE,
	HTTP_RULE_REQUEST_LINE,	    /* 400 malformed request line, or target */
	HTTP_RULE_VERSION,	    /* 505 not HTTP/1.0 or 1.1 */
	HTTP_RULE_FIELD,	    /* 400 name is no token, space before the colon, NUL, bare CR or LF in a value */
	HTTP_RULE_OBS_FOLD,	    /* 400 */
	HTTP_RULE_LINE_END,	    /* 400 LF without CR, or CR without LF */
	HTTP_RULE_HEAD_TOO_LARGE,   /* 431 over HTTP_HEAD_MAX bytes or HTTP_FIELDS_MAX fields */
	HTTP_RULE_HOST,		    /* 400 HTTP/1.1 without Host, or more than one */
	HTTP_RULE_CONTENT_LENGTH,   /* 400 malformed, repeated or overflowing */
	HTTP_RULE_LENGTH_AND_CODING, /* 400 both Content-Length and Transfer-Encoding */
	HTTP_RULE_TRANSFER_CODING,  /* 400 repeated or anything but "chunked", or on HTTP/1.0 */
	HTTP_RULE_UPGRADE,	    /* 501 CONNECT, Upgrade to other than h2c, which is ignored */
	HTTP_RULE_EXPECT,	    /* 417 anything but 100-continue */
	HTTP_RULE_CHUNK,	    /* 400 malformed chunk size or extension; trailer that is malformed or belongs into the head */
	HTTP_RULE_BODY_TOO_LARGE,   /* 413 */
	HTTP_RULE_HEAD_TIMEOUT,	    /* 408 */
	HTTP_RULE_BODY_TIMEOUT,	    /* 408 */
	HTTP_RULE_LOOP,		    /* 508 has been here before */
	HTTP_RULE_N
};

struct http_text {
	const char *at; /* into the caller's buffer, not NUL-terminated */
	size_t len;
};

struct http_field {
	struct http_text name, value; /* value without surrounding white space */
};

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_OTHER };

/**
 * struct http_head - a complete, valid head. All texts point into the buffer that was parsed.
 * @length:         bytes of the head, the empty line included.
 * @content_length: of the body; 0 with @chunked or without a body.
 * @has_length:     a Content-Length was there.
 * @keep_alive:     what version and Connection say.
 * @no_body:        responses: 1xx, 204, 304 (the caller knows about HEAD).
 */
struct http_head {
	size_t length;
	enum http_method method;
	struct http_text method_text, target; /* requests */
	unsigned status;		      /* responses */
	struct http_text reason;	      /* responses */
	unsigned minor;			      /* HTTP/1.minor */
	uint64_t content_length;
	bool has_length, chunked, keep_alive, expect_continue, no_body;
	unsigned n_fields;
	struct http_field field[HTTP_FIELDS_MAX];
};

/** struct http_head_scan - progress of the search for the head's end over several reads; zeroed by the caller. */
struct http_head_scan {
	size_t looked_at;
};

/**
 * http_request_head_parse() - parses a request head at @data.
 * @scan: kept by the caller between calls with more of the same bytes, so that the cost stays linear.
 * @rule: what was violated, when the return value is -EBADMSG.
 *
 * Leading empty lines are not skipped here: http_skip_empty_lines() does. Return: 0 and @head filled; -EAGAIN: more
 * bytes needed; -EBADMSG.
 */
int http_request_head_parse(struct http_head *head, const char *data, size_t len, struct http_head_scan *scan,
	enum http_rule *rule);

/** http_response_head_parse() - the same for a response. */
int http_response_head_parse(struct http_head *head, const char *data, size_t len, struct http_head_scan *scan,
	enum http_rule *rule);

/** http_skip_empty_lines() - number of bytes of empty lines at @data that precede a request (RFC 9112 2.2), at most 4. */
size_t http_skip_empty_lines(const char *data, size_t len);

bool http_is_token_char(char c);

/** http_field_find() - first field of that name, ASCII case ignored; NULL if there is none. */
const struct http_field *http_field_find(const struct http_head *head, const char *name);

/**
 * http_target_authority(), http_target_path() - the parts of a valid request target: "http://a:1/x?y" has "a:1" and
 * "/x?y", "/x?y" has "" and itself, "http://a" has an empty path, "http://a?y" has the path "?y".
 */
struct http_text http_target_authority(struct http_text target);
struct http_text http_target_path(struct http_text target);

/* Inline: the length of a literal is known to the compiler, and nearly all names differ in that already. */
static inline bool http_text_equal(struct http_text text, const char *other) /* exact */
{
	return text.len == strlen(other) && !memcmp(text.at, other, text.len);
}

static inline bool http_text_equal_nocase(struct http_text text, const char *other) /* ASCII */
{
	return text.len == strlen(other) && !strncasecmp(text.at, other, text.len);
}

/** http_list_has() - whether the comma separated list @value has @token, ASCII case ignored. */
bool http_list_has(struct http_text value, const char *token);

unsigned http_rule_status(enum http_rule rule);
const char *http_rule_name(enum http_rule rule); /* for metrics: "length_and_coding" */
const char *http_rule_text(enum http_rule rule); /* for people: "Content-Length and Transfer-Encoding together" */

/**
 * http_request_rewrite() - writes the head that goes to the pod.
 * @forwarded_for: address of the client, textual; becomes X-Forwarded-For.
 * @extra:         complete extra field lines, or ""; one of x-request-id, which comes first then, replaces the client's.
 * @close:         say "Connection: close", else nothing about the connection (HTTP/1.1 keeps alive).
 *
 * The request line (as HTTP/1.1) and the fields go over, but for hop-by-hop ones (Connection and what it names,
 * Keep-Alive, Proxy-*, TE, Upgrade), the agent's own names (x-prefiller-host-port, X-Forwarded-*, Forwarded), Expect,
 * and framing under names such as Content_Length. Return: bytes written, or -ENOBUFS.
 */
long http_request_rewrite(const struct http_head *head, const char *forwarded_for, const char *extra, bool close, char *out,
	size_t size);

/** http_may_not_trail() - whether a pod could take a trailer field of that name for one of the head that was checked, or removed. */
bool http_may_not_trail(struct http_text name);

/**
 * http_response_rewrite() - writes the head that goes to the client: version 1.1, hop-by-hop fields removed (and what
 * would frame a body of 1xx or 204), else Transfer-Encoding kept, "Connection: close" or (for an HTTP/1.0 client that asked) "keep-alive" added.
 * Return: bytes written, or -ENOBUFS.
 */
long http_response_rewrite(const struct http_head *head, bool close, bool say_keep_alive, const char *extra, char *out,
	size_t size);

#endif
