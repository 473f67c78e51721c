// SPDX-License-Identifier: Apache-2.0
/*
 * An engine's metrics: see engine_text.h.
 *
 * A thousand pods tell some hundred lines each a second, nearly all of them buckets of histograms: a line is looked at in
 * place, its name compared with the few that matter, and only what follows one of those is parsed. Numbers outside what
 * they can mean (negative, not finite, usage above 1) are left out.
 */
#include "agent/engine_text.h"

#include <errno.h>
#include <json-c/json.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "agent/endpoint.h"

enum { NUMBER_MAX = 64, MODELS_MAX = 1 << 20, MODELS_DEPTH = 8 };

/* Names that say the same: a higher rank counts instead of a lower one. vLLM's (vllm/v1/metrics/loggers.py), older ones
 * of it, and SGLang's (docs/references/production_metrics). */
#define NAME(text, number, rank) { text, sizeof(text) - 1, number, rank }
static const struct name {
	const char *text;
	size_t len;
	enum engine_number number;
	uint8_t rank;
} names[] = {
	NAME("vllm:num_requests_running", ENGINE_RUNNING, 2),
	NAME("vllm:num_requests_waiting", ENGINE_WAITING, 2),
	NAME("vllm:kv_cache_usage_perc", ENGINE_KV_USAGE, 2),
	NAME("vllm:gpu_cache_usage_perc", ENGINE_KV_USAGE, 1),
	NAME("vllm:prefix_cache_queries_total", ENGINE_QUERIED, 2),
	NAME("vllm:prefix_cache_hits_total", ENGINE_HIT, 2),
	NAME("vllm:gpu_prefix_cache_queries_total", ENGINE_QUERIED, 1),
	NAME("vllm:gpu_prefix_cache_hits_total", ENGINE_HIT, 1),
	NAME("vllm:prompt_tokens_total", ENGINE_PROMPT, 2),
	NAME("vllm:cache_config_info", ENGINE_CAPACITY, 2),
	NAME("vllm:lora_requests_info", ENGINE_ADAPTERS, 2),
	NAME("sglang:num_running_reqs", ENGINE_RUNNING, 2),
	NAME("sglang:num_queue_reqs", ENGINE_WAITING, 2),
	NAME("sglang:token_usage", ENGINE_KV_USAGE, 2),
	NAME("sglang:prompt_tokens_total", ENGINE_QUERIED, 2),
	NAME("sglang:cached_tokens_total", ENGINE_HIT, 2),
	NAME("sglang:max_total_num_tokens", ENGINE_CAPACITY, 2),
	NAME("process_start_time_seconds", ENGINE_STARTED, 2),
};

/* A letter behind "vllm:" or "sglang:" that no bucket of their histograms has there, which most lines are. */
static bool is_of_interest(const char *line, size_t len)
{
	size_t at = *line == 'v' ? sizeof("vllm:") - 1 : sizeof("sglang:") - 1;

	if (len <= at)
		return false;
	switch (*line) {
	case 'v':
		return strchr("cgklnp", line[at]);
	case 's':
		return strchr("cmnpt", line[at]);
	case 'p':
		return true;
	}
	return false;
}

static bool ends_name(char c)
{
	return c == '{' || c == ' ' || c == '\t';
}

/* Where a name would end comes first: nearly no line has its own end there. */
static const struct name *find_name(const char *line, size_t len)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].len < len && ends_name(line[names[i].len]) && !memcmp(line, names[i].text, names[i].len))
			return &names[i];
	return NULL;
}

/* ---- labels ---- */

struct text {
	const char *at, *end;
};

/* name="value", as it stands there: with its escapes. Return: whether there is one more. */
static bool next_label(struct text *labels, struct text *name, struct text *value)
{
	const char *at = labels->at;

	while (at < labels->end && (*at == ',' || *at == ' '))
		at++;
	name->at = at;
	while (at < labels->end && *at != '=')
		at++;
	name->end = at;
	if (labels->end - at < 2 || at[1] != '"')
		return false;
	value->at = at += 2;
	while (at < labels->end && *at != '"')
		at += *at == '\\' && labels->end - at > 1 ? 2 : 1;
	value->end = at;
	labels->at = at + 1;
	return at < labels->end;
}

/* The end of the labels that begin behind '{', or NULL. */
static const char *labels_end(const char *at, const char *end)
{
	bool quoted = false;

	for (; at < end && (quoted || *at != '}'); at++) {
		if (*at == '\\' && quoted && at + 1 < end)
			at++;
		else if (*at == '"')
			quoted = !quoted;
	}
	return at < end ? at : NULL;
}

static bool text_is(struct text text, const char *other)
{
	size_t len = strlen(other);

	return (size_t)(text.end - text.at) == len && !memcmp(text.at, other, len);
}

/* Return: whether the whole text is a number that can be meant. */
static bool parse_number(struct text text, double *out)
{
	char copy[NUMBER_MAX], *end;
	size_t len = (size_t)(text.end - text.at);

	if (!len || len >= sizeof(copy))
		return false;
	memcpy(copy, text.at, len);
	copy[len] = '\0';
	*out = strtod(copy, &end);
	return end == copy + len && isfinite(*out) && *out >= 0 && *out < 1e18;
}

/* ---- what a line says ---- */

static void add_number(struct engine_sample *sample, const struct name *name, double number)
{
	if (name->number == ENGINE_KV_USAGE && number > 1)
		return;
	if (sample->rank[name->number] > name->rank || sample->n[name->number] == UINT16_MAX)
		return;
	if (sample->rank[name->number] < name->rank) {
		sample->number[name->number] = 0;
		sample->n[name->number] = 0;
		sample->rank[name->number] = name->rank;
	}
	sample->number[name->number] += number;
	sample->n[name->number]++;
}

/* vLLM: the labels of an information that is always 1. */
static void add_cache(struct engine_sample *sample, const struct name *name, struct text labels)
{
	struct text label, value;
	double size = 0, blocks = 0;

	while (next_label(&labels, &label, &value)) {
		if (text_is(label, "block_size"))
			parse_number(value, &size);
		else if (text_is(label, "num_gpu_blocks") && !parse_number(value, &blocks))
			blocks = 0;
	}
	if (size >= 1 && blocks >= 1 && size * blocks < 1e15)
		add_number(sample, name, size * blocks);
}

static void add_adapters(struct engine_sample *sample, struct text list)
{
	while (list.at < list.end && sample->n_adapters < ENGINE_NAMES_MAX) {
		const char *comma = memchr(list.at, ',', (size_t)(list.end - list.at));
		char name[ENDPOINT_MODEL_MAX];
		size_t len;

		while (list.at < list.end && *list.at == ' ')
			list.at++;
		len = (size_t)((comma ? comma : list.end) - list.at);
		if (comma && comma < list.at)
			len = 0;
		if (len && len < sizeof(name) && !memchr(list.at, '\0', len)) {
			memcpy(name, list.at, len);
			name[len] = '\0';
			sample->adapter[sample->n_adapters++] = endpoint_model_hash(name);
		}
		list.at = comma && comma >= list.at ? comma + 1 : list.end;
	}
}

/* vLLM leaves the series of earlier moments there: the latest counts, which its value tells. */
static void note_adapters(struct engine_sample *sample, struct text labels, double told)
{
	struct text label, value;

	if (sample->n[ENGINE_ADAPTERS] && told < sample->number[ENGINE_ADAPTERS])
		return;
	if (told > sample->number[ENGINE_ADAPTERS] || !sample->n[ENGINE_ADAPTERS])
		sample->n_adapters = 0;
	sample->number[ENGINE_ADAPTERS] = told;
	sample->n[ENGINE_ADAPTERS] = 1;
	while (next_label(&labels, &label, &value))
		if (text_is(label, "running_lora_adapters") || text_is(label, "waiting_lora_adapters"))
			add_adapters(sample, value);
}

static struct text word(const char **at, const char *end)
{
	struct text text;

	while (*at < end && (**at == ' ' || **at == '\t'))
		++*at;
	text.at = *at;
	while (*at < end && **at != ' ' && **at != '\t' && **at != '\r')
		++*at;
	text.end = *at;
	return text;
}

static void parse_line(struct engine_sample *sample, const char *line, size_t len)
{
	const struct name *name;
	const char *at, *end = line + len;
	struct text labels = { line, line };
	double number;

	name = len && is_of_interest(line, len) ? find_name(line, len) : NULL;
	if (!name)
		return;
	at = line + name->len;
	if (*at == '{') {
		labels.at = ++at;
		labels.end = labels_end(at, end);
		if (!labels.end)
			return;
		at = labels.end + 1;
	}
	if (!parse_number(word(&at, end), &number))
		return;
	if (name->number == ENGINE_ADAPTERS)
		note_adapters(sample, labels, number);
	else if (name->number == ENGINE_CAPACITY && *line == 'v')
		add_cache(sample, name, labels);
	else
		add_number(sample, name, number);
}

/* ---- pieces ---- */

static void keep_part(struct engine_text *text, const char *data, size_t len)
{
	if (text->len + len > sizeof(text->line)) {
		text->skips = true;
		text->len = 0;
	}
	if (text->skips)
		return;
	memcpy(text->line + text->len, data, len);
	text->len += len;
}

void engine_text_end(struct engine_text *text)
{
	if (!text->skips)
		parse_line(&text->sample, text->line, text->len);
	text->len = 0;
	text->skips = false;
}

void engine_text_feed(struct engine_text *text, const char *data, size_t len)
{
	while (len) {
		const char *newline = memchr(data, '\n', len);
		size_t n = newline ? (size_t)(newline - data) : len;

		if (!newline || text->len || text->skips)
			keep_part(text, data, n);
		else if (n <= sizeof(text->line))
			parse_line(&text->sample, data, n);
		if (!newline)
			return;
		if (text->len || text->skips)
			engine_text_end(text);
		data += n + 1;
		len -= n + 1;
	}
}

/* ---- models ---- */

static int collect_ids(struct json_object *list, uint64_t *out)
{
	int n = 0;

	for (size_t i = 0; i < json_object_array_length(list) && n < ENGINE_NAMES_MAX; i++) {
		struct json_object *id;

		if (!json_object_object_get_ex(json_object_array_get_idx(list, i), "id", &id) || !json_object_is_type(id, json_type_string))
			continue;
		if (*json_object_get_string(id) && json_object_get_string_len(id) < ENDPOINT_MODEL_MAX)
			out[n++] = endpoint_model_hash(json_object_get_string(id));
	}
	return n;
}

int engine_models_parse(const char *json, size_t len, uint64_t out[ENGINE_NAMES_MAX])
{
	struct json_tokener *tokener = len && len <= MODELS_MAX ? json_tokener_new_ex(MODELS_DEPTH) : NULL;
	struct json_object *root = tokener ? json_tokener_parse_ex(tokener, json, (int)len) : NULL, *list;
	int n = -EINVAL;

	if (json_object_is_type(root, json_type_object) && json_object_object_get_ex(root, "data", &list) &&
		json_object_is_type(list, json_type_array))
		n = collect_ids(list, out);
	json_object_put(root);
	if (tokener)
		json_tokener_free(tokener);
	return n;
}
