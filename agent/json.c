// SPDX-License-Identifier: Apache-2.0
/*
 * An incremental JSON tokenizer: see json.h.
 *
 * Why not a library: request bodies are read on the way to the first token, up to 64 MiB of them, while they arrive. The
 * push parsers that Debian has either build a tree of the whole body (json-c, yyjson) or look at strings byte by byte and
 * are no longer maintained (yajl). Here plain runs within strings, which is nearly all of a prompt, are found 16 bytes
 * at a time and reported in place. tests/fuzz/fuzz_json.c holds it against json-c.
 *
 * One state machine over bytes; a container's kind is a bit in a word, so depth is bounded by its width.
 */
#include "agent/json.h"

#include <errno.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum state {
	VALUE,	     /* a value must follow */
	FIRST_VALUE, /* a value or ']' */
	FIRST_KEY,   /* a key or '}' */
	NEXT_KEY,    /* a key */
	COLON,
	AFTER_VALUE, /* ',' or the container's end */
	STRING,
	ESCAPE,
	UNICODE,
	NUMBER,
	LITERAL,
	COMPLETE,
};

static int fail(struct json *json, int error)
{
	json->error = error;
	return error;
}

static void emit(struct json *json, enum json_event event, const char *data, size_t len)
{
	json->on(json->ctx, event, data, len);
}

static bool in_object(const struct json *json)
{
	return json->depth && json->objects >> (json->depth - 1) & 1;
}

static void value_done(struct json *json)
{
	json->state = json->depth ? AFTER_VALUE : COMPLETE;
}

static int open_container(struct json *json, bool object)
{
	if (json->depth == JSON_DEPTH_MAX)
		return fail(json, -E2BIG);
	json->objects = (json->objects & ~(1ull << json->depth)) | (uint64_t)object << json->depth;
	json->depth++;
	json->state = object ? FIRST_KEY : FIRST_VALUE;
	emit(json, object ? JSON_OBJECT_BEGIN : JSON_ARRAY_BEGIN, NULL, 0);
	return 0;
}

static int close_container(struct json *json, bool object)
{
	if (!json->depth || in_object(json) != object)
		return fail(json, -EBADMSG);
	json->depth--;
	emit(json, object ? JSON_OBJECT_END : JSON_ARRAY_END, NULL, 0);
	value_done(json);
	return 0;
}

/* ---- strings ---- */

/* Length of the run of bytes that stand for themselves within a string. */
static size_t plain_run(const char *data, size_t len)
{
	size_t n = 0;

#ifdef __SSE2__
	const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), low = _mm_set1_epi8(0x1f);

	for (; n + 16 <= len; n += 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)(data + n));
		__m128i stop = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, backslash)),
			_mm_cmpeq_epi8(_mm_min_epu8(v, low), v));
		int mask = _mm_movemask_epi8(stop);

		if (mask)
			return n + (size_t)__builtin_ctz((unsigned)mask);
	}
#endif
	while (n < len && data[n] != '"' && data[n] != '\\' && (unsigned char)data[n] >= 0x20)
		n++;
	return n;
}

static void string_bytes(struct json *json, const char *data, size_t len)
{
	size_t room = (size_t)(JSON_TOKEN_MAX - json->token_len);

	if (!json->is_key) {
		emit(json, JSON_STRING_PART, data, len);
		return;
	}
	if (len > room)
		len = room;
	memcpy(json->token + json->token_len, data, len);
	json->token_len = (uint8_t)(json->token_len + len);
}

static void code_point(struct json *json, uint32_t c)
{
	char out[4];
	size_t n = 0;

	if (c < 0x80) {
		out[n++] = (char)c;
	} else if (c < 0x800) {
		out[n++] = (char)(0xc0 | c >> 6);
	} else if (c < 0x10000) {
		out[n++] = (char)(0xe0 | c >> 12);
		out[n++] = (char)(0x80 | (c >> 6 & 0x3f));
	} else {
		out[n++] = (char)(0xf0 | c >> 18);
		out[n++] = (char)(0x80 | (c >> 12 & 0x3f));
		out[n++] = (char)(0x80 | (c >> 6 & 0x3f));
	}
	if (c >= 0x80)
		out[n++] = (char)(0x80 | (c & 0x3f));
	string_bytes(json, out, n);
}

/* A surrogate without its other half stands for U+FFFD. */
static void flush_surrogate(struct json *json)
{
	if (json->high_surrogate)
		code_point(json, 0xfffd);
	json->high_surrogate = 0;
}

static void code_unit(struct json *json, uint16_t unit)
{
	if (unit >= 0xdc00 && unit < 0xe000 && json->high_surrogate) {
		code_point(json, 0x10000 + ((uint32_t)(json->high_surrogate - 0xd800) << 10) + (unit - 0xdc00u));
		json->high_surrogate = 0;
		return;
	}
	flush_surrogate(json);
	if (unit >= 0xd800 && unit < 0xdc00)
		json->high_surrogate = unit;
	else
		code_point(json, unit >= 0xdc00 && unit < 0xe000 ? 0xfffd : unit);
}

static void begin_string(struct json *json, bool is_key)
{
	json->state = STRING;
	json->is_key = is_key;
	json->token_len = 0;
	if (!is_key)
		emit(json, JSON_STRING_BEGIN, NULL, 0);
}

static void end_string(struct json *json)
{
	flush_surrogate(json);
	if (json->is_key) {
		emit(json, JSON_KEY, json->token, json->token_len);
		json->state = COLON;
	} else {
		emit(json, JSON_STRING_END, NULL, 0);
		value_done(json);
	}
}

/* Return: bytes used. */
static size_t take_string(struct json *json, const char *data, size_t len)
{
	size_t n = plain_run(data, len);

	if (n) {
		flush_surrogate(json);
		string_bytes(json, data, n);
	}
	if (n == len)
		return n;
	if (data[n] == '"')
		end_string(json);
	else if (data[n] == '\\')
		json->state = ESCAPE;
	else
		fail(json, -EBADMSG);
	return n + 1;
}

static int take_escape(struct json *json, char c)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *found = c ? strchr(from, c) : NULL;

	if (c == 'u') {
		json->state = UNICODE;
		json->escape_digits = 0;
		json->code_unit = 0;
		return 0;
	}
	if (!found)
		return fail(json, -EBADMSG);
	json->state = STRING;
	flush_surrogate(json);
	string_bytes(json, &to[found - from], 1);
	return 0;
}

static int take_unicode(struct json *json, char c)
{
	unsigned digit;

	if (c >= '0' && c <= '9')
		digit = (unsigned)(c - '0');
	else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
		digit = (unsigned)((c | 0x20) - 'a' + 10);
	else
		return fail(json, -EBADMSG);
	json->code_unit = (uint16_t)(json->code_unit << 4 | digit);
	if (++json->escape_digits == 4) {
		json->state = STRING;
		code_unit(json, json->code_unit);
	}
	return 0;
}

/* ---- numbers and literals: collected, then checked ---- */

static const char *skip_digits(const char *p)
{
	while (*p >= '0' && *p <= '9')
		p++;
	return p;
}

static bool is_number(const char *p)
{
	const char *start = p += *p == '-';

	p = skip_digits(p);
	if (p == start || (*start == '0' && p > start + 1))
		return false;
	if (*p == '.') {
		start = ++p;
		p = skip_digits(p);
		if (p == start)
			return false;
	}
	if (*p == 'e' || *p == 'E') {
		p++;
		p += *p == '+' || *p == '-';
		start = p;
		p = skip_digits(p);
		if (p == start)
			return false;
	}
	return !*p;
}

static int end_token(struct json *json)
{
	static const struct {
		const char *text;
		enum json_event event;
	} literals[] = { { "true", JSON_TRUE }, { "false", JSON_FALSE }, { "null", JSON_NULL } };

	json->token[json->token_len] = '\0';
	if (json->state == NUMBER) {
		if (!is_number(json->token))
			return fail(json, -EBADMSG);
		emit(json, JSON_NUMBER, json->token, json->token_len);
		value_done(json);
		return 0;
	}
	for (size_t i = 0; i < 3; i++) {
		if (!strcmp(json->token, literals[i].text)) {
			emit(json, literals[i].event, NULL, 0);
			value_done(json);
			return 0;
		}
	}
	return fail(json, -EBADMSG);
}

static bool belongs_to_token(const struct json *json, char c)
{
	if (json->state == LITERAL)
		return c >= 'a' && c <= 'z';
	return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

/* Return: bytes used; none when the token has ended before @c. */
static size_t take_token(struct json *json, char c)
{
	if (!belongs_to_token(json, c)) {
		end_token(json);
		return 0;
	}
	if (json->token_len == JSON_TOKEN_MAX)
		fail(json, -EBADMSG);
	else
		json->token[json->token_len++] = c;
	return 1;
}

/* ---- structure ---- */

static int begin_value(struct json *json, char c)
{
	if (c == '"') {
		begin_string(json, false);
		return 0;
	}
	if (c == '{' || c == '[')
		return open_container(json, c == '{');
	if (c == '-' || (c >= '0' && c <= '9'))
		json->state = NUMBER;
	else if (c == 't' || c == 'f' || c == 'n')
		json->state = LITERAL;
	else
		return fail(json, -EBADMSG);
	json->token[0] = c;
	json->token_len = 1;
	return 0;
}

static int begin_key(struct json *json, char c)
{
	if (c != '"')
		return fail(json, -EBADMSG);
	begin_string(json, true);
	return 0;
}

static int after_value(struct json *json, char c)
{
	if (c == ',') {
		json->state = in_object(json) ? NEXT_KEY : VALUE;
		return 0;
	}
	if (c == '}' || c == ']')
		return close_container(json, c == '}');
	return fail(json, -EBADMSG);
}

static int take_structure(struct json *json, char c)
{
	if (c == ' ' || c == '\n' || c == '\r' || c == '\t')
		return 0;
	switch ((enum state)json->state) {
	case FIRST_VALUE:
		return c == ']' ? close_container(json, false) : begin_value(json, c);
	case VALUE:
		return begin_value(json, c);
	case FIRST_KEY:
		return c == '}' ? close_container(json, true) : begin_key(json, c);
	case NEXT_KEY:
		return begin_key(json, c);
	case COLON:
		json->state = VALUE;
		return c == ':' ? 0 : fail(json, -EBADMSG);
	case AFTER_VALUE:
		return after_value(json, c);
	case STRING:
	case ESCAPE:
	case UNICODE:
	case NUMBER:
	case LITERAL:
	case COMPLETE:
		break;
	}
	return fail(json, -EBADMSG);
}

int json_feed(struct json *json, const char *data, size_t len)
{
	size_t at = 0;

	while (at < len && !json->error) {
		if (json->state == STRING)
			at += take_string(json, data + at, len - at);
		else if (json->state == NUMBER || json->state == LITERAL)
			at += take_token(json, data[at]);
		else if (json->state == ESCAPE)
			take_escape(json, data[at++]);
		else if (json->state == UNICODE)
			take_unicode(json, data[at++]);
		else
			take_structure(json, data[at++]);
	}
	return json->error;
}

bool json_is_complete(const struct json *json)
{
	return !json->error && json->state == COMPLETE;
}

int json_finish(struct json *json)
{
	if (!json->error && (json->state == NUMBER || json->state == LITERAL))
		end_token(json);
	if (!json->error && json->state != COMPLETE)
		fail(json, -EBADMSG);
	return json->error;
}
