// SPDX-License-Identifier: Apache-2.0
/*
 * Prompt facts of any bytes: bounded, the same for any cut, and the same for the same JSON written otherwise (keys in
 * reverse order, white space, escapes). The first byte chooses the API.
 */
#include <assert.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "agent/json.h"
#include "agent/prompt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct prompt_scanner *whole, *cut;

static void expect_same(const struct prompt_facts *a, const struct prompt_facts *b)
{
	assert(a->state == b->state && a->n_blocks == b->n_blocks && a->prompt_bytes == b->prompt_bytes && a->stream == b->stream);
	assert(!memcmp(a->blocks, b->blocks, a->n_blocks * sizeof(*a->blocks)));
	assert(!strcmp(a->model, b->model) && !strcmp(a->session_key, b->session_key));
	assert(a->n_blocks <= PROMPT_BLOCKS_MAX);
}

/* ---- the same value, written otherwise ---- */

struct other_way {
	char text[1 << 17];
	size_t len;
	bool inexact; /* something that json-c does not keep as it was, or no API has */
	size_t keys;
};

static void put(struct other_way *out, const char *data, size_t len)
{
	if (len > sizeof(out->text) - out->len) {
		out->inexact = true;
		return;
	}
	memcpy(out->text + out->len, data, len);
	out->len += len;
}

static void put_string(struct other_way *out, const char *data, size_t len)
{
	put(out, "\"", 1);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)data[i];
		char escaped[8];

		if (c < 0x20 || c == '"' || c == '\\' || (c < 0x7f && i % 3 == 0))
			put(out, escaped, (size_t)snprintf(escaped, sizeof(escaped), "\\u%04X", c));
		else
			put(out, data + i, 1);
	}
	put(out, "\"", 1);
}

static void put_value(struct other_way *out, struct json_object *value);

/* Members of which no API takes two in one object: the text of a part, the prompt of a request. Their order shows. */
static const char *const texts[] = { "content", "text", "output", NULL };
static const char *const prompts[] = { "messages", "prompt", "input", NULL };

static bool has_two(struct json_object *object, const char *const *names)
{
	int n = 0;

	for (; *names; names++)
		n += json_object_object_get_ex(object, *names, NULL);
	return n > 1;
}

static void put_object(struct other_way *out, struct json_object *object)
{
	const char *key[64];
	size_t n = 0;

	out->inexact |= json_object_object_length(object) > 64 || has_two(object, texts) || has_two(object, prompts);
	if (out->inexact)
		return;
	json_object_object_foreach (object, name, value) {
		(void)value;
		key[n++] = name;
	}
	out->keys += n;
	put(out, "{\n", 2);
	while (n-- > 0) {
		struct json_object *member;

		json_object_object_get_ex(object, key[n], &member);
		put_string(out, key[n], strlen(key[n]));
		put(out, "\t: ", 3);
		put_value(out, member);
		put(out, n ? " ,\r\n" : "", n ? 4 : 0);
	}
	put(out, "}", 1);
}

static void put_array(struct other_way *out, struct json_object *array)
{
	size_t n = json_object_array_length(array);

	put(out, "[ ", 2);
	for (size_t i = 0; i < n; i++) {
		put(out, ", ", i ? 2 : 0);
		put_value(out, json_object_array_get_idx(array, i));
	}
	put(out, "]", 1);
}

static void put_value(struct other_way *out, struct json_object *value)
{
	switch (json_object_get_type(value)) {
	case json_type_object:
		put_object(out, value);
		break;
	case json_type_array:
		put_array(out, value);
		break;
	case json_type_string:
		put_string(out, json_object_get_string(value), (size_t)json_object_get_string_len(value));
		break;
	case json_type_boolean:
		put(out, json_object_get_boolean(value) ? "true" : "false", json_object_get_boolean(value) ? 4 : 5);
		break;
	case json_type_null:
		put(out, "null", 4);
		break;
	case json_type_int:
	case json_type_double:
		out->inexact = true; /* numbers count by their text */
		break;
	}
}

static void count_keys(void *ctx, enum json_event event, const char *data, size_t len)
{
	struct other_way *out = ctx;

	out->inexact |= event == JSON_KEY && (len == JSON_TOKEN_MAX || memchr(data, 0, len));
	out->keys -= event == JSON_KEY; /* a key that is there twice leaves the sum below 0 */
}

static bool write_other_way(struct other_way *out, const char *data, size_t size)
{
	struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH_MAX + 1);
	struct json_object *root = json_tokener_parse_ex(tokener, data, (int)size);
	struct json json = { .on = count_keys, .ctx = out };

	out->len = out->keys = out->inexact = 0;
	if (root)
		put_value(out, root);
	json_object_put(root);
	json_tokener_free(tokener);
	json_feed(&json, data, size);
	return root && !out->inexact && !out->keys;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct other_way other;
	const struct prompt_facts *a;
	const char *text = (const char *)data + 1;
	enum api api;

	if (!size)
		return 0;
	if (!whole) {
		whole = prompt_scanner_new(16);
		cut = prompt_scanner_new(16);
	}
	api = API_OTHER + 1 + data[0] % (API_N - 1);
	prompt_scanner_reset(whole, api);
	prompt_scanner_reset(cut, api);
	prompt_scanner_feed(whole, text, size - 1);
	for (size_t i = 1; i < size; i++)
		prompt_scanner_feed(cut, text + i - 1, 1);
	a = prompt_scanner_finish(whole);
	expect_same(a, prompt_scanner_finish(cut));
	if (a->state != PROMPT_COMPLETE || memchr(text, 0, size - 1) || !write_other_way(&other, text, size - 1))
		return 0;
	prompt_scanner_reset(cut, api);
	prompt_scanner_feed(cut, other.text, other.len);
	expect_same(a, prompt_scanner_finish(cut));
	return 0;
}
