// SPDX-License-Identifier: Apache-2.0
/* Entries of the stream, taken from a reply and shown with their fields decoded. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tools/events/events.h"

void entry_end(struct tool *tool, struct entry *entry, void (*done)(struct tool *, struct entry *))
{
	if (!entry->is_open)
		return;
	entry->is_open = false;
	cache_event_finish(&entry->event);
	done(tool, entry);
}

void entry_item(struct tool *tool, struct entry *entry, const struct redis_item *item, void (*done)(struct tool *, struct entry *))
{
	if (item->type != REDIS_STRING || item->depth < entry->base + 2)
		return;
	if (item->depth == entry->base + 2 && item->index[item->depth - 1] == 0) {
		entry_end(tool, entry, done);
		entry->is_open = !stream_id_parse(&entry->id, item->text, item->len);
		cache_event_begin(&entry->event);
	} else if (item->depth == entry->base + 3 && item->index[item->depth - 1] % 2) {
		cache_event_value(&entry->event, item->text, item->len);
	} else if (item->depth == entry->base + 3) {
		cache_event_name(&entry->event, item->text, item->len);
	}
}

static void add_hex(struct json_object *json, const char *name, uint64_t value)
{
	char text[20];

	snprintf(text, sizeof(text), "%016" PRIx64, value);
	json_object_object_add(json, name, json_object_new_string(text));
}

static void add_pod(struct json_object *json, const struct address *pod)
{
	char text[ADDRESS_TEXT_MAX];

	json_object_object_add(json, "pod", json_object_new_string(address_format(pod, text)));
}

static void add_loads(struct json_object *json, const struct cache_event *event)
{
	struct json_object *list = json_object_new_array();

	for (uint32_t i = 0; i < event->n_loads; i++) {
		struct json_object *load = json_object_new_object();

		add_pod(load, &event->load[i].pod);
		json_object_object_add(load, "tokens", json_object_new_uint64(event->load[i].tokens));
		json_object_object_add(load, "requests", json_object_new_uint64(event->load[i].requests));
		json_object_array_add(list, load);
	}
	json_object_object_add(json, "load", list);
}

static void add_hashes(struct json_object *json, const struct cache_event *event)
{
	struct json_object *list = json_object_new_array();

	for (uint32_t i = 0; i < event->n_hashes; i++) {
		char text[20];

		snprintf(text, sizeof(text), "%016" PRIx64, event->hash[i]);
		json_object_array_add(list, json_object_new_string(text));
	}
	json_object_object_add(json, "hashes", list);
}

static void add_field(struct json_object *json, const struct cache_event *event, enum cache_event_field field)
{
	switch (field) {
	case CACHE_EVENT_FIELD_AGENT:
		add_hex(json, "agent", event->agent);
		break;
	case CACHE_EVENT_FIELD_SEQ:
		json_object_object_add(json, "number", json_object_new_int64(event->seq));
		break;
	case CACHE_EVENT_FIELD_KEY:
		add_hex(json, "secret", event->key);
		break;
	case CACHE_EVENT_FIELD_SESSION:
		add_hex(json, "session_hash", event->session);
		break;
	case CACHE_EVENT_FIELD_POD:
		add_pod(json, &event->pod);
		break;
	case CACHE_EVENT_FIELD_HASHES:
		add_hashes(json, event);
		break;
	case CACHE_EVENT_FIELD_DEPTH:
		json_object_object_add(json, "depth", json_object_new_int64(event->depth));
		break;
	case CACHE_EVENT_FIELD_TOKENS:
		json_object_object_add(json, "tokens", json_object_new_int64(event->tokens));
		break;
	case CACHE_EVENT_FIELD_BLOCK:
		json_object_object_add(json, "block", json_object_new_int64(event->block));
		break;
	case CACHE_EVENT_FIELD_ON:
		json_object_object_add(json, "on", json_object_new_boolean(event->on));
		break;
	case CACHE_EVENT_FIELD_LOAD:
		add_loads(json, event);
		break;
	case CACHE_EVENT_FIELD_EVERY:
		json_object_object_add(json, "every_ms", json_object_new_int64(event->every_ms));
		break;
	case CACHE_EVENT_FIELD_VERSION:
	case CACHE_EVENT_FIELD_KIND:
	case CACHE_EVENT_FIELD_N:
		break;
	}
}

static struct json_object *json_of(const struct entry *entry)
{
	struct json_object *json = json_object_new_object();
	char id[STREAM_ID_TEXT_MAX];

	json_object_object_add(json, "id", json_object_new_string(stream_id_format(&entry->id, id)));
	if (entry->event.fault != CACHE_EVENT_OK) {
		json_object_object_add(json, "malformed", json_object_new_string(cache_event_fault_name(entry->event.fault)));
		return json;
	}
	json_object_object_add(json, "kind", json_object_new_string(cache_event_kind_name(entry->event.kind)));
	for (unsigned field = 0; field < CACHE_EVENT_FIELD_N; field++)
		if (cache_event_has(&entry->event, field))
			add_field(json, &entry->event, field);
	return json;
}

/* "name=value" for each that is no list; of a list how long it is, and its first. */
static void print_fields(struct json_object *json)
{
	json_object_object_foreach(json, name, value)
	{
		if (json_object_is_type(value, json_type_array)) {
			size_t n = json_object_array_length(value);
			struct json_object *first = n ? json_object_array_get_idx(value, 0) : NULL;

			printf(" %s=%zu%s%s", name, n, n ? ":" : "",
				!n ? "" : json_object_is_type(first, json_type_string) ? json_object_get_string(first) : json_object_to_json_string_ext(first, JSON_C_TO_STRING_PLAIN));
		} else {
			printf(" %s=%s", name, json_object_get_string(value));
		}
	}
}

static void print_line(const struct entry *entry, struct json_object *json)
{
	time_t seconds = (time_t)(entry->id.ms / 1000);
	char text[16];
	struct tm when;

	gmtime_r(&seconds, &when);
	strftime(text, sizeof(text), "%H:%M:%S", &when);
	printf("%s.%03u", text, (unsigned)(entry->id.ms % 1000));
	print_fields(json);
	putchar('\n');
}

const char *show_plain(char out[SHOW_TEXT_MAX], const char *text, size_t len)
{
	size_t n = 0;

	for (; n < len && n < SHOW_TEXT_MAX - 1; n++)
		out[n] = text[n] >= ' ' && text[n] <= '~' ? text[n] : '?';
	out[n] = '\0';
	return out;
}

void show_entry(struct tool *tool, const struct entry *entry)
{
	struct json_object *json = json_of(entry);

	if (tool->config->json)
		printf("%s\n", json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN));
	else
		print_line(entry, json);
	json_object_put(json);
	if (fflush(stdout))
		tool_end(tool, EXIT_FAILURE); /* nobody reads any more */
}
