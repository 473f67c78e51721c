// SPDX-License-Identifier: Apache-2.0
/* The last decisions: see decision_log.h. A ring; names of endpoints are copied, for they may be gone when it is read. */
#include "agent/decision_log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ID_MAX = 65, MODEL_SHOWN = 64 };

struct entry {
	uint64_t number;
	struct timespec at;
	char request_id[ID_MAX], model[MODEL_SHOWN];
	enum api api;
	const char *session_source;
	uint64_t session;
	struct decision decision;
	char name[DECISION_CANDIDATES_MAX][ADDRESS_TEXT_MAX];
	unsigned status, retries;
	double ttft_s, duration_s; /* negative: not yet */
};

struct decision_log {
	const struct endpoint_table *endpoints;
	uint32_t size;
	uint64_t next; /* number of the next entry; from 1 */
	struct entry entry[];
};

struct decision_log *decision_log_new(const struct endpoint_table *endpoints, uint32_t size)
{
	struct decision_log *log = calloc(1, sizeof(*log) + size * sizeof(log->entry[0]));

	if (!log)
		return NULL;
	log->endpoints = endpoints;
	log->size = size;
	log->next = 1;
	return log;
}

void decision_log_free(struct decision_log *log)
{
	free(log);
}

static void copy_text(char *out, size_t size, const char *text)
{
	size_t len = strnlen(text, size - 1);

	memcpy(out, text, len);
	out[len] = '\0';
}

/* Names that clients give are cut to a length and need not be UTF-8, which JSON must be. */
static void copy_name(char *out, size_t size, const char *name)
{
	copy_text(out, size, name);
	for (; *out; out++)
		if ((unsigned char)*out < ' ' || (unsigned char)*out > '~')
			*out = '?';
}

struct decision_ref decision_log_add(struct decision_log *log, const struct decision_record *record)
{
	struct entry *entry = &log->entry[log->next % log->size];

	entry->number = log->next++;
	clock_gettime(CLOCK_REALTIME, &entry->at);
	copy_text(entry->request_id, sizeof(entry->request_id), record->request_id);
	copy_name(entry->model, sizeof(entry->model), record->model);
	entry->api = record->api;
	entry->session_source = record->session_source;
	entry->session = record->session;
	entry->decision = *record->decision;
	entry->status = entry->retries = 0;
	entry->ttft_s = entry->duration_s = -1;
	for (uint32_t i = 0; i < entry->decision.n_candidates; i++)
		memcpy(entry->name[i], log->endpoints->at[entry->decision.candidate[i].index].name, ADDRESS_TEXT_MAX);
	return (struct decision_ref){ entry->number };
}

static struct entry *find(struct decision_log *log, struct decision_ref ref)
{
	struct entry *entry = &log->entry[ref.number % log->size];

	return ref.number && entry->number == ref.number ? entry : NULL;
}

void decision_log_first_byte(struct decision_log *log, struct decision_ref ref, double ttft_s)
{
	struct entry *entry = find(log, ref);

	if (entry)
		entry->ttft_s = ttft_s;
}

void decision_log_end(struct decision_log *log, struct decision_ref ref, unsigned status, unsigned retries, double duration_s)
{
	struct entry *entry = find(log, ref);

	if (!entry)
		return;
	entry->status = status;
	entry->retries = retries;
	entry->duration_s = duration_s;
}

static void add_number(struct json_object *object, const char *name, double value)
{
	json_object_object_add(object, name, value < 0 ? NULL : json_object_new_double(value));
}

static void add_count(struct json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static void add_text(struct json_object *object, const char *name, const char *value)
{
	json_object_object_add(object, name, json_object_new_string(value));
}

static struct json_object *candidates_json(const struct entry *entry)
{
	struct json_object *array = json_object_new_array();

	for (uint32_t i = 0; i < entry->decision.n_candidates; i++) {
		const struct decision_candidate *candidate = &entry->decision.candidate[i];
		struct json_object *object = json_object_new_object();

		add_text(object, "endpoint", entry->name[i]);
		json_object_object_add(object, "score", json_object_new_double(candidate->score));
		add_count(object, "cached_blocks", candidate->cached_blocks);
		add_count(object, "inflight_tokens", candidate->inflight_tokens);
		json_object_array_add(array, object);
	}
	return array;
}

static struct json_object *entry_json(const struct entry *entry)
{
	struct json_object *object = json_object_new_object();
	char text[64];
	struct tm tm;
	size_t n;

	gmtime_r(&entry->at.tv_sec, &tm);
	n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + n, sizeof(text) - n, ".%03ldZ", entry->at.tv_nsec / 1000000);
	add_text(object, "time", text);
	add_text(object, "request_id", entry->request_id);
	add_text(object, "path", prompt_api_name(entry->api));
	add_text(object, "model", entry->model);
	add_text(object, "session_source", entry->session_source);
	snprintf(text, sizeof(text), "%016" PRIx64, entry->session);
	add_text(object, "session_hash", strcmp(entry->session_source, "none") ? text : "");
	add_text(object, "endpoint", entry->name[0]);
	add_text(object, "reason", decision_reason_name(entry->decision.reason));
	add_count(object, "prompt_blocks", entry->decision.n_blocks);
	add_count(object, "cached_blocks", entry->decision.cached_blocks);
	add_count(object, "prompt_tokens", entry->decision.prompt_tokens);
	add_count(object, "uncached_tokens", entry->decision.uncached_tokens);
	add_count(object, "usable_endpoints", entry->decision.n_usable);
	json_object_object_add(object, "candidates", candidates_json(entry));
	add_count(object, "retries", entry->retries);
	json_object_object_add(object, "status", entry->status ? json_object_new_int((int)entry->status) : NULL);
	add_number(object, "ttft_seconds", entry->ttft_s);
	add_number(object, "duration_seconds", entry->duration_s);
	return object;
}

struct json_object *decision_log_json(const struct decision_log *log, uint32_t n)
{
	struct json_object *array = json_object_new_array();

	for (uint64_t number = log->next - 1; array && number && n && number + log->size >= log->next; number--, n--)
		json_object_array_add(array, entry_json(&log->entry[number % log->size]));
	return array;
}
