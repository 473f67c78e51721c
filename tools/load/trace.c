// SPDX-License-Identifier: Apache-2.0
/* Request traces: see trace.h. */
#include "tools/load/trace.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRACE_MAX = 10 * 1000 * 1000, LENGTH_MAX = 16 << 20 };

static int complain(char *error, size_t size, size_t line, const char *what)
{
	snprintf(error, size, "line %zu: %s", line, what);
	return -EINVAL;
}

static bool get_number(struct json_object *object, const char *name, uint64_t max, uint64_t *out)
{
	struct json_object *value;

	if (!json_object_object_get_ex(object, name, &value) || !json_object_is_type(value, json_type_int) ||
		json_object_get_int64(value) < 0 || (uint64_t)json_object_get_int64(value) > max)
		return false;
	*out = (uint64_t)json_object_get_int64(value);
	return true;
}

static const char *parse_ids(struct json_object *object, struct trace_request *out)
{
	struct json_object *ids;
	uint32_t *copy;

	if (!json_object_object_get_ex(object, "hash_ids", &ids) || !json_object_is_type(ids, json_type_array) ||
		json_object_array_length(ids) > TRACE_IDS_MAX)
		return "hash_ids must be an array of at most 4096 numbers";
	copy = calloc(json_object_array_length(ids) + 1, sizeof(*copy));
	if (!copy)
		return "out of memory";
	out->ids = copy;
	for (size_t i = 0; i < json_object_array_length(ids); i++) {
		struct json_object *id = json_object_array_get_idx(ids, i);

		if (!json_object_is_type(id, json_type_int) || json_object_get_int64(id) < 0 ||
			json_object_get_int64(id) > UINT32_MAX)
			return "hash_ids must be numbers from 0 to 4294967295";
		copy[out->n_ids++] = (uint32_t)json_object_get_int64(id);
	}
	return NULL;
}

/* Return: what is wrong, or NULL. */
static const char *parse_request(struct json_object *object, struct trace_request *out, bool *has_session)
{
	uint64_t input, output, session = 0;

	if (!json_object_is_type(object, json_type_object))
		return "not a JSON object";
	if (!get_number(object, "timestamp", INT64_MAX, &out->at_ms))
		return "timestamp must be a number of milliseconds";
	if (!get_number(object, "input_length", LENGTH_MAX, &input) || !get_number(object, "output_length", LENGTH_MAX, &output))
		return "input_length and output_length must be numbers of tokens";
	*has_session = get_number(object, "session_id", UINT32_MAX - 1, &session);
	out->input_tokens = (uint32_t)input;
	out->output_tokens = (uint32_t)output;
	out->session = (uint32_t)session;
	return parse_ids(object, out);
}

static int add_line(struct trace *trace, const char *line, size_t number, char *error, size_t error_size)
{
	struct trace_request request = { 0 };
	bool has_session = false;
	struct json_object *object = json_tokener_parse(line);
	const char *wrong = parse_request(object, &request, &has_session);

	json_object_put(object);
	if (!wrong && trace->n == TRACE_MAX)
		wrong = "too many requests";
	if (!wrong && trace->n && request.at_ms < trace->at[trace->n - 1].at_ms)
		wrong = "timestamps must not decrease";
	if (!wrong && trace->n == trace->cap) {
		size_t cap = trace->cap ? trace->cap * 2 : 1024;
		struct trace_request *at = realloc(trace->at, cap * sizeof(*at));

		if (!at)
			wrong = "out of memory";
		else
			trace->at = at;
		trace->cap = at ? cap : trace->cap;
	}
	if (wrong) {
		free((void *)request.ids);
		return complain(error, error_size, number, wrong);
	}
	if (has_session && request.session >= trace->n_sessions)
		trace->n_sessions = request.session + 1;
	trace->at[trace->n++] = request;
	return 0;
}

int trace_read(struct trace **out, const char *path, size_t limit, char *error, size_t error_size)
{
	struct trace *trace = calloc(1, sizeof(*trace));
	FILE *file = trace ? fopen(path, "re") : NULL;
	char *line = NULL;
	size_t size = 0, number = 0;
	int err = file ? 0 : -errno;

	*out = NULL;
	if (!file)
		snprintf(error, error_size, "%s", strerror(errno));
	while (!err && (!limit || trace->n < limit) && getline(&line, &size, file) > 0) {
		number++;
		if (strspn(line, " \t\r\n") != strlen(line))
			err = add_line(trace, line, number, error, error_size);
	}
	if (!err && !trace->n)
		err = complain(error, error_size, number, "no request in it");
	free(line);
	if (file)
		fclose(file);
	if (err)
		trace_free(trace);
	else
		*out = trace;
	return err;
}

void trace_free(struct trace *trace)
{
	if (!trace)
		return;
	for (size_t i = 0; i < trace->n; i++)
		free((void *)trace->at[i].ids);
	free(trace->at);
	free(trace);
}

/* ---- sessions ---- */

/* Block id -> session that first brought it, plus 1; ids may be sparse. */
struct id_map {
	size_t mask;
	uint32_t *id, *session;
};

static uint32_t *id_map_at(struct id_map *map, uint32_t id)
{
	size_t i = (id * 0x9e3779b1u) & map->mask; /* Fibonacci hashing */

	while (map->session[i] && map->id[i] != id)
		i = (i + 1) & map->mask;
	map->id[i] = id;
	return &map->session[i];
}

static int id_map_init(struct id_map *map, const struct trace *trace)
{
	size_t ids = 1, n = 16;

	for (size_t i = 0; i < trace->n; i++)
		ids += trace->at[i].n_ids;
	while (n < 2 * ids)
		n *= 2;
	map->mask = n - 1;
	map->id = calloc(n, sizeof(*map->id));
	map->session = calloc(n, sizeof(*map->session));
	return map->id && map->session ? 0 : -ENOMEM;
}

static void infer_one(struct trace *trace, struct trace_request *request, struct id_map *map)
{
	uint32_t found = 0;

	for (uint32_t k = request->n_ids; k-- > 1 && !found;)
		found = *id_map_at(map, request->ids[k]);
	request->session = found ? found - 1 : trace->n_sessions++;
	for (uint32_t k = 1; k < request->n_ids; k++) {
		uint32_t *session = id_map_at(map, request->ids[k]);

		if (!*session)
			*session = request->session + 1;
	}
}

int trace_infer_sessions(struct trace *trace)
{
	struct id_map map;
	int err = id_map_init(&map, trace);

	trace->n_sessions = 0;
	for (size_t i = 0; !err && i < trace->n; i++)
		infer_one(trace, &trace->at[i], &map);
	free(map.id);
	free(map.session);
	return err;
}
