// SPDX-License-Identifier: Apache-2.0
/*
 * HTTP/1.x message heads: see http_head.h.
 *
 * Strict by choice: a router that reads a head other than the pod behind it does lets one client speak in another's name
 * (request smuggling). So whatever RFC 9112 calls invalid, and whatever it lets a recipient repair, is refused: bare CR
 * or LF, obs-fold, white space before the colon, Content-Length beside Transfer-Encoding, repeated lengths even if
 * equal, and any transfer coding but one "chunked". Bytes are classified by one table; each is looked at once.
 */
#include "agent/http_head.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

enum { CHAR_TOKEN = 1, CHAR_TARGET = 2, CHAR_VALUE = 4 };

#define T (CHAR_TOKEN | CHAR_TARGET | CHAR_VALUE)
#define U (CHAR_TARGET | CHAR_VALUE)
#define V CHAR_VALUE
/* RFC 9110 5.6.2 token, 5.5 field-value (with obs-text); targets: visible ASCII. */
/* clang-format off */
static const uint8_t char_class[256] = {
	['\t'] = V, [' '] = V,
	['!'] = T, ['"'] = U, ['#'] = T, ['$'] = T, ['%'] = T, ['&'] = T, ['\''] = T, ['('] = U, [')'] = U, ['*'] = T,
	['+'] = T, [','] = U, ['-'] = T, ['.'] = T, ['/'] = U, ['0' ... '9'] = T, [':'] = U, [';'] = U, ['<'] = U,
	['='] = U, ['>'] = U, ['?'] = U, ['@'] = U, ['A' ... 'Z'] = T, ['['] = U, ['\\'] = U, [']'] = U, ['^'] = T,
	['_'] = T, ['`'] = T, ['a' ... 'z'] = T, ['{'] = U, ['|'] = T, ['}'] = U, ['~'] = T,
	[0x80 ... 0xff] = V,
};
/* clang-format on */
#undef T
#undef U
#undef V

static const struct {
	const char *name, *text;
	unsigned status;
} rules[HTTP_RULE_N] = {
	[HTTP_RULE_NONE] = { "none", "nothing is wrong", 200 },
	[HTTP_RULE_REQUEST_LINE] = { "request_line", "malformed request line", 400 },
	[HTTP_RULE_VERSION] = { "version", "only HTTP/1.0 and HTTP/1.1 are spoken here", 505 },
	[HTTP_RULE_FIELD] = { "field", "malformed header field", 400 },
	[HTTP_RULE_OBS_FOLD] = { "obs_fold", "header field folded over lines", 400 },
	[HTTP_RULE_LINE_END] = { "line_end", "line not ended by CR LF", 400 },
	[HTTP_RULE_HEAD_TOO_LARGE] = { "head_too_large", "request head over 16 KiB or 100 fields", 431 },
	[HTTP_RULE_HOST] = { "host", "exactly one valid Host field is needed", 400 },
	[HTTP_RULE_CONTENT_LENGTH] = { "content_length", "malformed or repeated Content-Length", 400 },
	[HTTP_RULE_LENGTH_AND_CODING] = { "length_and_coding", "Content-Length and Transfer-Encoding together", 400 },
	[HTTP_RULE_TRANSFER_CODING] = { "transfer_coding", "unknown or repeated transfer coding", 400 },
	[HTTP_RULE_UPGRADE] = { "upgrade", "CONNECT and protocol upgrades are not supported", 501 },
	[HTTP_RULE_EXPECT] = { "expect", "only the expectation 100-continue is known", 417 },
	[HTTP_RULE_CHUNK] = { "chunk", "malformed chunked body", 400 },
	[HTTP_RULE_BODY_TOO_LARGE] = { "body_too_large", "request body too large", 413 },
	[HTTP_RULE_HEAD_TIMEOUT] = { "head_timeout", "the request head took too long", 408 },
	[HTTP_RULE_BODY_TIMEOUT] = { "body_timeout", "the request body took too long", 408 },
	[HTTP_RULE_LOOP] = { "loop", "the request has come back: what is listed as a pod leads here", 508 },
};

bool http_is_token_char(char c)
{
	return char_class[(uint8_t)c] & CHAR_TOKEN;
}

unsigned http_rule_status(enum http_rule rule)
{
	return rules[rule].status;
}

const char *http_rule_name(enum http_rule rule)
{
	return rules[rule].name;
}

const char *http_rule_text(enum http_rule rule)
{
	return rules[rule].text;
}

const struct http_field *http_field_find(const struct http_head *head, const char *name)
{
	size_t len = strlen(name);

	for (unsigned i = 0; i < head->n_fields; i++)
		if (head->field[i].name.len == len && !strncasecmp(head->field[i].name.at, name, len))
			return &head->field[i];
	return NULL;
}

static struct http_text trim(struct http_text text)
{
	while (text.len && (*text.at == ' ' || *text.at == '\t')) {
		text.at++;
		text.len--;
	}
	while (text.len && (text.at[text.len - 1] == ' ' || text.at[text.len - 1] == '\t'))
		text.len--;
	return text;
}

bool http_list_has(struct http_text value, const char *token)
{
	while (value.len) {
		const char *comma = memchr(value.at, ',', value.len);
		size_t len = comma ? (size_t)(comma - value.at) : value.len;

		if (http_text_equal_nocase(trim((struct http_text){ value.at, len }), token))
			return true;
		len += comma != NULL;
		value.at += len;
		value.len -= len;
	}
	return false;
}

size_t http_skip_empty_lines(const char *data, size_t len)
{
	size_t n = 0;

	while (n < 8 && n + 2 <= len && data[n] == '\r' && data[n + 1] == '\n')
		n += 2;
	return n;
}

/* ---- one line at a time ---- */

struct cursor {
	const char *at, *end;
	enum http_rule rule;
};

static int refuse(struct cursor *cursor, enum http_rule rule)
{
	cursor->rule = rule;
	return -EBADMSG;
}

static size_t run_of(const struct cursor *cursor, uint8_t class)
{
	const char *p = cursor->at;

	while (p < cursor->end && char_class[(uint8_t)*p] & class)
		p++;
	return (size_t)(p - cursor->at);
}

static int take_line_end(struct cursor *cursor, enum http_rule otherwise)
{
	size_t left = (size_t)(cursor->end - cursor->at);

	if (left >= 2 && cursor->at[0] == '\r' && cursor->at[1] == '\n') {
		cursor->at += 2;
		return 0;
	}
	return refuse(cursor, left && (*cursor->at == '\r' || *cursor->at == '\n') ? HTTP_RULE_LINE_END : otherwise);
}

static int take_text(struct cursor *cursor, uint8_t class, struct http_text *out)
{
	out->at = cursor->at;
	out->len = run_of(cursor, class);
	cursor->at += out->len;
	return out->len ? 0 : refuse(cursor, HTTP_RULE_REQUEST_LINE);
}

static int take_char(struct cursor *cursor, char c, enum http_rule rule)
{
	if (cursor->at == cursor->end || *cursor->at != c)
		return refuse(cursor, rule);
	cursor->at++;
	return 0;
}

/* "HTTP/1.x"; of 1.2 and above nothing is known. */
static int take_version(struct cursor *cursor, struct http_head *head)
{
	static const char http[] = "HTTP/";
	size_t left = (size_t)(cursor->end - cursor->at);

	if (left < 8 || memcmp(cursor->at, http, 5))
		return refuse(cursor, HTTP_RULE_REQUEST_LINE);
	if (cursor->at[5] != '1' || cursor->at[6] != '.' || (cursor->at[7] != '0' && cursor->at[7] != '1'))
		return refuse(cursor, HTTP_RULE_VERSION);
	head->minor = (unsigned)(cursor->at[7] - '0');
	cursor->at += 8;
	return 0;
}

static enum http_method method_of(struct http_text text)
{
	if (http_text_equal(text, "POST"))
		return HTTP_POST;
	if (http_text_equal(text, "GET"))
		return HTTP_GET;
	return http_text_equal(text, "HEAD") ? HTTP_HEAD : HTTP_OTHER;
}

/* Where the authority of absolute-form begins; NULL for other forms. */
static const char *authority_of(struct http_text target)
{
	if (target.len > 7 && !strncasecmp(target.at, "http://", 7))
		return target.at + 7;
	return target.len > 8 && !strncasecmp(target.at, "https://", 8) ? target.at + 8 : NULL;
}

struct http_text http_target_authority(struct http_text target)
{
	const char *at = authority_of(target), *end = target.at + target.len;
	size_t n = 0;

	while (at && at + n < end && at[n] != '/' && at[n] != '?')
		n++;
	return (struct http_text){ at ? at : target.at, n };
}

struct http_text http_target_path(struct http_text target)
{
	struct http_text authority = http_target_authority(target);
	const char *path = authority.at + authority.len;

	return (struct http_text){ path, target.len - (size_t)(path - target.at) };
}

/* Whatever a host name, an address in brackets or a port may hold (RFC 3986 3.2.2, 3.2.3); nothing at all is valid, too. */
static bool host_is_valid(struct http_text host)
{
	static const char marks[] = "-._~%!$&'()*+,;=:[]";

	for (size_t i = 0; i < host.len; i++) {
		char c = host.at[i], lower = (char)(c | 0x20);

		if (!(c >= '0' && c <= '9') && !(lower >= 'a' && lower <= 'z') && !memchr(marks, c, sizeof(marks) - 1))
			return false;
	}
	return true;
}

/* origin-form, absolute-form of http, or "*" for OPTIONS (RFC 9112 3.2); a fragment is never sent, nor user information. */
static bool target_is_valid(const struct http_head *head)
{
	struct http_text target = head->target, authority = http_target_authority(target);

	if (memchr(target.at, '#', target.len))
		return false;
	if (http_text_equal(target, "*"))
		return http_text_equal(head->method_text, "OPTIONS");
	return target.at[0] == '/' || (authority.len && host_is_valid(authority));
}

static int take_request_line(struct cursor *cursor, struct http_head *head)
{
	if (take_text(cursor, CHAR_TOKEN, &head->method_text) || take_char(cursor, ' ', HTTP_RULE_REQUEST_LINE))
		return -EBADMSG;
	if (http_text_equal(head->method_text, "CONNECT") ||
		(http_text_equal(head->method_text, "PRI") && cursor->end - cursor->at > 1 && *cursor->at == '*'))
		return refuse(cursor, *cursor->at == '*' ? HTTP_RULE_VERSION : HTTP_RULE_UPGRADE);
	if (take_text(cursor, CHAR_TARGET, &head->target))
		return -EBADMSG;
	/* "GET /path CRLF" of HTTP/0.9 ends here, too. */
	if (take_char(cursor, ' ', HTTP_RULE_REQUEST_LINE) || take_version(cursor, head))
		return -EBADMSG;
	head->method = method_of(head->method_text);
	if (!target_is_valid(head))
		return refuse(cursor, HTTP_RULE_REQUEST_LINE);
	return take_line_end(cursor, HTTP_RULE_REQUEST_LINE);
}

static int take_status_line(struct cursor *cursor, struct http_head *head)
{
	unsigned status = 0;

	if (take_version(cursor, head) || take_char(cursor, ' ', HTTP_RULE_REQUEST_LINE))
		return -EBADMSG;
	for (int i = 0; i < 3; i++, cursor->at++) {
		if (cursor->at == cursor->end || *cursor->at < '0' || *cursor->at > '9')
			return refuse(cursor, HTTP_RULE_REQUEST_LINE);
		status = status * 10 + (unsigned)(*cursor->at - '0');
	}
	if (status < 100 || status > 599)
		return refuse(cursor, HTTP_RULE_REQUEST_LINE);
	head->status = status;
	/* Servers leave out the space before an empty reason. */
	if (cursor->at < cursor->end && *cursor->at == ' ')
		cursor->at++;
	head->reason = (struct http_text){ cursor->at, run_of(cursor, CHAR_VALUE) };
	cursor->at += head->reason.len;
	return take_line_end(cursor, HTTP_RULE_REQUEST_LINE);
}

static int take_field(struct cursor *cursor, struct http_field *field)
{
	if (*cursor->at == ' ' || *cursor->at == '\t')
		return refuse(cursor, HTTP_RULE_OBS_FOLD);
	field->name.at = cursor->at;
	field->name.len = run_of(cursor, CHAR_TOKEN);
	cursor->at += field->name.len;
	if (!field->name.len) {
		cursor->rule = *cursor->at == '\r' || *cursor->at == '\n' ? HTTP_RULE_LINE_END : HTTP_RULE_FIELD;
		return -EBADMSG;
	}
	if (take_char(cursor, ':', HTTP_RULE_FIELD))
		return -EBADMSG;
	field->value.at = cursor->at;
	field->value.len = run_of(cursor, CHAR_VALUE);
	cursor->at += field->value.len;
	field->value = trim(field->value);
	return take_line_end(cursor, HTTP_RULE_FIELD);
}

/* ---- what the fields mean for the framing ---- */

static int parse_length(struct http_text value, uint64_t *out)
{
	uint64_t n = 0;

	if (!value.len || value.len > 19)
		return -EBADMSG;
	for (size_t i = 0; i < value.len; i++) {
		if (value.at[i] < '0' || value.at[i] > '9')
			return -EBADMSG;
		n = n * 10 + (uint64_t)(value.at[i] - '0');
	}
	*out = n;
	return 0;
}

/* What the whole head says about its message; a bit each for what must not be there twice. */
struct meaning {
	bool host, close, keep_alive, upgrade, bad_expect;
};

static int note_field(struct cursor *cursor, struct http_head *head, const struct http_field *field, struct meaning *meaning)
{
	if (http_text_equal_nocase(field->name, "Content-Length")) {
		if (head->has_length || parse_length(field->value, &head->content_length))
			return refuse(cursor, HTTP_RULE_CONTENT_LENGTH);
		head->has_length = true;
	} else if (http_text_equal_nocase(field->name, "Transfer-Encoding")) {
		if (head->chunked || !http_text_equal_nocase(field->value, "chunked"))
			return refuse(cursor, HTTP_RULE_TRANSFER_CODING);
		head->chunked = true;
	} else if (http_text_equal_nocase(field->name, "Connection")) {
		meaning->close |= http_list_has(field->value, "close");
		meaning->keep_alive |= http_list_has(field->value, "keep-alive");
	} else if (http_text_equal_nocase(field->name, "Host")) {
		if (meaning->host || !host_is_valid(field->value))
			return refuse(cursor, HTTP_RULE_HOST);
		meaning->host = true;
	} else if (http_text_equal_nocase(field->name, "Upgrade")) {
		/* To HTTP/2 is an offer that some clients (of the JDK, curl --http2) make with every request: it is declined by silence. */
		meaning->upgrade |= !http_text_equal_nocase(field->value, "h2c");
	} else if (http_text_equal_nocase(field->name, "Expect")) {
		head->expect_continue = http_text_equal_nocase(field->value, "100-continue");
		meaning->bad_expect |= !head->expect_continue;
	}
	return 0;
}

static int take_fields(struct cursor *cursor, struct http_head *head, struct meaning *meaning)
{
	while (cursor->end - cursor->at < 2 || memcmp(cursor->at, "\r\n", 2)) {
		struct http_field *field = &head->field[head->n_fields];

		if (head->n_fields == HTTP_FIELDS_MAX)
			return refuse(cursor, HTTP_RULE_HEAD_TOO_LARGE);
		if (take_field(cursor, field) || note_field(cursor, head, field, meaning))
			return -EBADMSG;
		head->n_fields++;
	}
	cursor->at += 2;
	if (head->has_length && head->chunked)
		return refuse(cursor, HTTP_RULE_LENGTH_AND_CODING);
	if (head->chunked && head->minor == 0)
		return refuse(cursor, HTTP_RULE_TRANSFER_CODING);
	head->keep_alive = !meaning->close && (head->minor == 1 || meaning->keep_alive);
	return 0;
}

/**
 * find_end() - looks for the empty line. Any LF LF or LF CR LF ends the search: what is wrong about it the parser finds.
 * Return: bytes of the head, 0 if it is not complete.
 */
static size_t find_end(const char *data, size_t len, struct http_head_scan *scan)
{
	size_t from = scan->looked_at;
	const char *lf;

	while (from < len && (lf = memchr(data + from, '\n', len - from))) {
		size_t next = (size_t)(lf - data) + 1;

		if (next < len && data[next] == '\n')
			return next + 1;
		if (next + 1 < len && data[next] == '\r' && data[next + 1] == '\n')
			return next + 2;
		if (next + 1 >= len) { /* what follows is not here yet */
			scan->looked_at = next - 1;
			return 0;
		}
		from = next;
	}
	scan->looked_at = len;
	return 0;
}

static int head_parse(struct http_head *head, const char *data, size_t len, struct http_head_scan *scan, enum http_rule *rule,
	int (*take_first)(struct cursor *, struct http_head *), struct meaning *meaning)
{
	size_t end = find_end(data, len, scan);
	struct cursor cursor = { data, data + end, HTTP_RULE_NONE };
	int err;

	if (end > HTTP_HEAD_MAX || (!end && len >= HTTP_HEAD_MAX)) {
		*rule = HTTP_RULE_HEAD_TOO_LARGE;
		return -EBADMSG;
	}
	if (!end)
		return -EAGAIN;
	memset(head, 0, offsetof(struct http_head, field));
	head->length = end;
	err = take_first(&cursor, head);
	if (!err)
		err = take_fields(&cursor, head, meaning);
	*rule = cursor.rule;
	return err;
}

int http_request_head_parse(struct http_head *head, const char *data, size_t len, struct http_head_scan *scan,
	enum http_rule *rule)
{
	struct meaning meaning = { 0 };
	int err;

	/* A TLS client hello has no line end to wait for. */
	if (len && *data != '\r' && *data != '\n' && !(char_class[(uint8_t)*data] & CHAR_TOKEN)) {
		*rule = HTTP_RULE_REQUEST_LINE;
		return -EBADMSG;
	}
	err = head_parse(head, data, len, scan, rule, take_request_line, &meaning);
	if (err)
		return err;
	if (meaning.upgrade)
		*rule = HTTP_RULE_UPGRADE;
	else if (meaning.bad_expect)
		*rule = HTTP_RULE_EXPECT;
	else if (head->minor == 1 && !meaning.host)
		*rule = HTTP_RULE_HOST;
	return *rule == HTTP_RULE_NONE ? 0 : -EBADMSG;
}

int http_response_head_parse(struct http_head *head, const char *data, size_t len, struct http_head_scan *scan,
	enum http_rule *rule)
{
	struct meaning meaning = { 0 };
	int err = head_parse(head, data, len, scan, rule, take_status_line, &meaning);

	if (!err)
		head->no_body = head->status < 200 || head->status == 204 || head->status == 304;
	return err;
}
