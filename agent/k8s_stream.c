// SPDX-License-Identifier: Apache-2.0
/*
 * Cuts the JSON of a Kubernetes list or watch into objects: see k8s_stream.h.
 *
 * How it works
 *
 * A list of thousands of pods is tens of megabytes as a tree. So brackets and strings are followed here, byte by byte, only
 * to find where an object begins and ends, and json-c parses one object at a time, incrementally. What is around the items
 * of a list (its kind, resourceVersion, the token for the next page) is small, collected, and parsed when it is whole.
 */
#include "agent/k8s_stream.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { OBJECT_BYTES_MAX = 4 << 20, AROUND_BYTES_MAX = 65536, DEPTH_MAX = 64, KEY_MAX = 8 };

/* @level: depth at which objects begin. @key: the last string at depth 1, if it is short. */
struct k8s_stream {
	enum k8s_stream_kind kind;
	int (*object)(void *ctx, struct json_object *json);
	void *ctx;
	struct json_tokener *tokener;
	unsigned depth, level, key_len;
	bool in_string, escaped, in_items, in_object;
	char key[KEY_MAX];
	size_t object_bytes, around_len;
	char around[AROUND_BYTES_MAX];
};

struct k8s_stream *k8s_stream_new(enum k8s_stream_kind kind, int (*object)(void *ctx, struct json_object *json), void *ctx)
{
	struct k8s_stream *stream = malloc(sizeof(*stream));

	if (!stream)
		return NULL;
	memset(stream, 0, offsetof(struct k8s_stream, around));
	stream->kind = kind;
	stream->object = object;
	stream->ctx = ctx;
	stream->level = kind == K8S_LIST ? 2 : 0;
	stream->in_items = kind == K8S_WATCH;
	stream->tokener = json_tokener_new_ex(DEPTH_MAX);
	if (!stream->tokener) {
		free(stream);
		return NULL;
	}
	json_tokener_set_flags(stream->tokener, JSON_TOKENER_STRICT);
	return stream;
}

void k8s_stream_free(struct k8s_stream *stream)
{
	if (!stream)
		return;
	json_tokener_free(stream->tokener);
	free(stream);
}

/* ---- one object ---- */

/* @whole: these are its last bytes. */
static int parse(struct k8s_stream *stream, const char *data, size_t len, bool whole)
{
	struct json_object *json;
	int err;

	stream->object_bytes += len;
	if (stream->object_bytes > OBJECT_BYTES_MAX)
		return -EFBIG;
	json = json_tokener_parse_ex(stream->tokener, data, (int)len);
	if (!whole) {
		bool goes_on = !json && json_tokener_get_error(stream->tokener) == json_tokener_continue;

		json_object_put(json);
		return goes_on ? 0 : -EPROTO;
	}
	if (!json)
		return -EPROTO;
	json_tokener_reset(stream->tokener);
	stream->object_bytes = 0;
	err = stream->object(stream->ctx, json);
	json_object_put(json);
	return err;
}

/* ---- where objects begin and end ---- */

static void follow_string(struct k8s_stream *stream, char c)
{
	if (stream->escaped)
		stream->escaped = false;
	else if (c == '\\')
		stream->escaped = true;
	else if (c == '"')
		stream->in_string = false;
	if (stream->in_string && stream->depth == 1 && stream->key_len < KEY_MAX)
		stream->key[stream->key_len++] = c;
}

static int follow(struct k8s_stream *stream, char c)
{
	if (stream->in_string) {
		follow_string(stream, c);
		return 0;
	}
	switch (c) {
	case '"':
		stream->in_string = true;
		if (stream->depth == 1)
			stream->key_len = 0;
		return 0;
	case '{':
	case '[':
		if (stream->kind == K8S_LIST && c == '[' && stream->depth == 1 && stream->key_len == 5 && !memcmp(stream->key, "items", 5))
			stream->in_items = true;
		return ++stream->depth > DEPTH_MAX ? -EPROTO : 0;
	case '}':
	case ']':
		if (!stream->depth)
			return -EPROTO;
		stream->depth--;
		if (stream->kind == K8S_LIST && stream->depth == 1)
			stream->in_items = false;
		return 0;
	default:
		return 0;
	}
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* A byte that belongs to no object. */
static int take_around(struct k8s_stream *stream, char c)
{
	bool between = stream->in_items && stream->depth == stream->level && (c != ']' || stream->kind == K8S_WATCH);
	int err;

	if (between)
		return is_blank(c) || (c == ',' && stream->kind == K8S_LIST) ? 0 : -EPROTO;
	if (!stream->depth && stream->around_len && !is_blank(c))
		return -EPROTO; /* something follows the list */
	if (stream->around_len == AROUND_BYTES_MAX)
		return -EFBIG;
	err = follow(stream, c);
	if (stream->around_len || !is_blank(c))
		stream->around[stream->around_len++] = c;
	return err;
}

/* Return: how many bytes were used, or -errno. An object that goes on takes all there is. */
static ssize_t take_object(struct k8s_stream *stream, const char *data, size_t len)
{
	size_t used = 0;
	int err = 0;

	while (!err && used < len && stream->in_object) {
		err = follow(stream, data[used++]);
		stream->in_object = stream->depth > stream->level;
	}
	err = err ? err : parse(stream, data, used, !stream->in_object);
	return err ? err : (ssize_t)used;
}

int k8s_stream_feed(struct k8s_stream *stream, const char *data, size_t len)
{
	for (size_t i = 0; i < len;) {
		ssize_t used = 1;

		if (!stream->in_object && stream->in_items && stream->depth == stream->level && data[i] == '{')
			stream->in_object = true;
		if (stream->in_object)
			used = take_object(stream, data + i, len - i);
		else
			used = take_around(stream, data[i]) ?: 1;
		if (used < 0)
			return (int)used;
		i += (size_t)used;
	}
	return 0;
}

struct json_object *k8s_stream_end(struct k8s_stream *stream)
{
	struct json_object *json;

	if (stream->kind != K8S_LIST || stream->depth || stream->in_object || !stream->around_len)
		return NULL;
	json_tokener_reset(stream->tokener);
	json = json_tokener_parse_ex(stream->tokener, stream->around, (int)stream->around_len);
	if (json && json_object_is_type(json, json_type_object))
		return json;
	json_object_put(json);
	return NULL;
}
