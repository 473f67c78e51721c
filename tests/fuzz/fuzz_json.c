// SPDX-License-Identifier: Apache-2.0
/*
 * What the tokenizer takes json-c takes in its strict mode, too, with the same values; and it makes no difference where
 * the bytes are cut. The other direction does not hold: json-c 0.16 is laxer than RFC 8259 with numbers, control
 * characters and bytes behind the value.
 */
#include <assert.h>
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "agent/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A value built from events, as json-c would build it. */
struct builder {
	struct json_object *open[JSON_DEPTH_MAX + 1], *root;
	char key[JSON_DEPTH_MAX + 1][JSON_TOKEN_MAX + 1];
	unsigned depth;
	char text[1 << 16];
	size_t len;
	bool inexact; /* a cut key, a text with a NUL or too long: not to be compared */
};

static void place(struct builder *builder, struct json_object *value)
{
	struct json_object *into = builder->depth ? builder->open[builder->depth] : NULL;

	if (!into)
		builder->root = value;
	else if (json_object_is_type(into, json_type_array))
		json_object_array_add(into, value);
	else
		json_object_object_add(into, builder->key[builder->depth], value);
}

static void open_container(struct builder *builder, struct json_object *value)
{
	place(builder, value);
	builder->open[++builder->depth] = value;
}

static void add_text(struct builder *builder, const char *data, size_t len)
{
	if (len > sizeof(builder->text) - builder->len) {
		builder->inexact = true;
		return;
	}
	memcpy(builder->text + builder->len, data, len);
	builder->len += len;
}

static void take_key(struct builder *builder, const char *data, size_t len)
{
	builder->inexact |= len == JSON_TOKEN_MAX || memchr(data, 0, len);
	memcpy(builder->key[builder->depth], data, len);
	builder->key[builder->depth][len] = '\0';
}

static void build(void *ctx, enum json_event event, const char *data, size_t len)
{
	struct builder *builder = ctx;

	switch (event) {
	case JSON_OBJECT_BEGIN:
		open_container(builder, json_object_new_object());
		break;
	case JSON_ARRAY_BEGIN:
		open_container(builder, json_object_new_array());
		break;
	case JSON_OBJECT_END:
	case JSON_ARRAY_END:
		builder->depth--;
		break;
	case JSON_KEY:
		take_key(builder, data, len);
		break;
	case JSON_STRING_BEGIN:
		builder->len = 0;
		break;
	case JSON_STRING_PART:
		add_text(builder, data, len);
		break;
	case JSON_STRING_END:
		place(builder, json_object_new_string_len(builder->text, (int)builder->len));
		break;
	case JSON_NUMBER:
		place(builder, json_tokener_parse(data));
		break;
	case JSON_TRUE:
	case JSON_FALSE:
		place(builder, json_object_new_boolean(event == JSON_TRUE));
		break;
	case JSON_NULL:
		place(builder, NULL);
		break;
	}
}

static bool reference(const char *data, size_t size, struct json_object **out)
{
	struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH_MAX + 1);
	bool taken;

	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
	*out = json_tokener_parse_ex(tokener, data, (int)size);
	if (json_tokener_get_error(tokener) == json_tokener_continue)
		*out = json_tokener_parse_ex(tokener, "", 1);
	taken = json_tokener_get_error(tokener) == json_tokener_success;
	json_tokener_free(tokener);
	return taken;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct builder a, b;
	struct json whole = { .on = build, .ctx = &a }, cut = { .on = build, .ctx = &b };
	struct json_object *expected = NULL;
	int err;

	a.root = b.root = NULL;
	a.depth = b.depth = 0;
	a.inexact = b.inexact = false;
	json_feed(&whole, (const char *)data, size);
	err = json_finish(&whole);
	for (size_t i = 0; i < size; i++)
		json_feed(&cut, (const char *)data + i, 1);
	assert(json_finish(&cut) == err);
	assert(json_object_equal(a.root, b.root));
	if (!err && !memchr(data, 0, size)) {
		assert(reference((const char *)data, size, &expected));
		assert(a.inexact || json_object_equal(a.root, expected));
		json_object_put(expected);
	}
	json_object_put(a.root);
	json_object_put(b.root);
	return 0;
}
