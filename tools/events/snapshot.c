// SPDX-License-Identifier: Apache-2.0
/* llmd-events snapshot: what an agent that starts now would read. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/events/events.h"

enum { KEYS_MAX = 1 << 20, CURSOR_MAX = 24 };

enum kind { SESSION, DRAIN, POD, KIND_N };
static const struct {
	const char *prefix, *name;
} kinds[KIND_N] = { { SESSION_KEY, "sessions" }, { DRAIN_KEY, "drains" }, { POD_KEY, "pods" } };

static struct json_object *out, *lists[KIND_N];
static char **keys;
static size_t n_keys, next_key;
static unsigned n_scans;
static bool has_cursor, are_too_many;
static char cursor[CURSOR_MAX] = "0";

static int prepare(struct tool *tool)
{
	if (!tool->n_words)
		return 0;
	fprintf(stderr, "llmd-events: snapshot: \"%.200s\" is one word too many\n", tool->words[0]);
	return -EINVAL;
}

/* ---- at the end ---- */

static void print_text(void)
{
	json_object_object_foreach(out, name, value)
	{
		if (!json_object_is_type(value, json_type_array)) {
			printf("%-8s %s\n", name, json_object_get_string(value));
			continue;
		}
		printf("\n%s: %zu\n", name, json_object_array_length(value));
		for (size_t i = 0; i < json_object_array_length(value); i++) {
			struct json_object *row = json_object_array_get_idx(value, i);

			json_object_object_foreach(row, column, cell)
				printf("  %s=%s", column, json_object_get_string(cell));
			putchar('\n');
		}
	}
}

static void print_all(struct tool *tool)
{
	if (are_too_many)
		fprintf(stderr, "llmd-events: snapshot: too many keys: not all are shown\n");
	for (int kind = 0; kind < KIND_N; kind++)
		json_object_object_add(out, kinds[kind].name, lists[kind]);
	if (tool->config->json)
		printf("%s\n", json_object_to_json_string_ext(out, JSON_C_TO_STRING_PLAIN));
	else
		print_text();
	json_object_put(out);
	free(keys);
	tool_end(tool, are_too_many ? EXIT_FAILURE : EXIT_SUCCESS);
}

/* ---- the keys, one after the other ---- */

static enum kind kind_of(const char *key)
{
	enum kind kind = SESSION;

	while (kind < POD && strncmp(key, kinds[kind].prefix, strlen(kinds[kind].prefix)))
		kind++;
	return kind;
}

static struct json_object *add_row(const char *key, const char *name)
{
	enum kind kind = kind_of(key);
	const char *rest = key + strlen(kinds[kind].prefix);
	struct json_object *row = json_object_new_object();
	char text[SHOW_TEXT_MAX];

	json_object_object_add(row, name, json_object_new_string(show_plain(text, rest, strlen(rest))));
	json_object_array_add(lists[kind], row);
	return row;
}

static void on_value(void *ctx, const struct redis_item *item)
{
	const char *key = keys[next_key];
	struct address pod;
	uint64_t secret;
	char text[ADDRESS_TEXT_MAX];
	struct json_object *row;

	(void)ctx;
	if (item->type == REDIS_NIL || item->depth) /* gone since; a part of what is no answer */
		return;
	row = add_row(key, kind_of(key) == SESSION ? "session_hash" : "pod");
	if (kind_of(key) == POD && item->type == REDIS_INTEGER) {
		json_object_object_add(row, "entries", json_object_new_int64(item->number));
	} else if (kind_of(key) == DRAIN && item->type == REDIS_STRING) {
		json_object_object_add(row, "on", json_object_new_boolean(item->len != 1 || *item->text != '0'));
	} else if (kind_of(key) == SESSION && item->type == REDIS_STRING && item->len == 1 && *item->text == '-') {
		json_object_object_add(row, "pod", NULL);
	} else if (kind_of(key) == SESSION && item->type == REDIS_STRING && !cache_event_parse_bound(item->text, item->len, &pod, &secret)) {
		json_object_object_add(row, "pod", json_object_new_string(address_format(&pod, text)));
		snprintf(text, sizeof(text), "%016lx", (unsigned long)secret);
		json_object_object_add(row, "secret", json_object_new_string(text));
	} else {
		json_object_object_add(row, "malformed", json_object_new_boolean(true));
	}
}

static void go_on(struct tool *tool);

static void on_value_end(void *ctx)
{
	free(keys[next_key++]);
	go_on(ctx);
}

static void ask(struct tool *tool)
{
	const struct redis_handler handler = { on_value, on_value_end, tool };
	const char *const get[] = { "GET", keys[next_key] }, *const length[] = { "XLEN", keys[next_key] };

	tool_send(tool, &handler, 2, kind_of(keys[next_key]) == POD ? length : get, NULL);
}

/* ---- the scan ---- */

static void take_key(const struct redis_item *item)
{
	static size_t room;
	char *key = strndup(item->text, item->len);
	bool is_ours = false;

	for (int kind = 0; key && kind < KIND_N; kind++)
		is_ours = is_ours || !strncmp(key, kinds[kind].prefix, strlen(kinds[kind].prefix));
	are_too_many |= is_ours && n_keys == KEYS_MAX;
	if (is_ours && n_keys == room && n_keys < KEYS_MAX) {
		room = room ? 2 * room : 1024;
		keys = realloc(keys, room * sizeof(*keys));
	}
	if (is_ours && keys && n_keys < room)
		keys[n_keys++] = key;
	else
		free(key);
}

static void on_scan(void *ctx, const struct redis_item *item)
{
	tool_expect(ctx, item, REDIS_ARRAY, REDIS_ARRAY);
	if (item->type == REDIS_STRING && item->depth == 1 && item->len < sizeof(cursor)) {
		memcpy(cursor, item->text, item->len);
		cursor[item->len] = '\0';
		has_cursor = true;
	} else if (item->type == REDIS_STRING && item->depth == 2) {
		take_key(item);
	}
}

static void scan(struct tool *tool);

/* As many as an agent would look at. */
static void on_scanned(void *ctx)
{
	struct tool *tool = ctx;

	if (!has_cursor && !tool->status) {
		fprintf(stderr, "llmd-events: snapshot: not an answer to what was asked\n");
		tool_end(tool, EXIT_FAILURE);
	}
	are_too_many |= n_scans == CACHE_EVENT_SCANS_MAX;
	if (strcmp(cursor, "0") && !are_too_many)
		scan(tool);
	else
		go_on(tool);
}

static void scan(struct tool *tool)
{
	const struct redis_handler handler = { on_scan, on_scanned, tool };
	char from[CURSOR_MAX], count[12];
	const char *const argument[] = { "SCAN", from, "MATCH", "llmd:*", "COUNT", count };

	has_cursor = false;
	n_scans++;
	snprintf(count, sizeof(count), "%d", CACHE_EVENT_SCAN_COUNT);
	strcpy(from, cursor);
	tool_send(tool, &handler, 6, argument, NULL);
}

static void go_on(struct tool *tool)
{
	if (tool->status)
		return;
	if (next_key < n_keys)
		ask(tool);
	else
		print_all(tool);
}

/* ---- what there is one of ---- */

static void on_epoch(void *ctx, const struct redis_item *item)
{
	char text[SHOW_TEXT_MAX];

	tool_expect(ctx, item, REDIS_STRING, REDIS_NIL);
	json_object_object_add(out, "epoch", item->type == REDIS_STRING ? json_object_new_string(show_plain(text, item->text, item->len)) : NULL);
}

static void on_length(void *ctx, const struct redis_item *item)
{
	tool_expect(ctx, item, REDIS_INTEGER, REDIS_INTEGER);
	if (item->type == REDIS_INTEGER)
		json_object_object_add(out, "entries", json_object_new_int64(item->number));
}

static void on_length_end(void *ctx)
{
	scan(ctx);
}

static void start(struct tool *tool)
{
	const struct redis_handler epoch = { on_epoch, NULL, tool }, length = { on_length, on_length_end, tool };
	static const char *const get[] = { "GET", EPOCH_KEY }, *const count[] = { "XLEN", STREAM };

	out = json_object_new_object();
	for (int kind = 0; kind < KIND_N; kind++)
		lists[kind] = json_object_new_array();
	tool_send(tool, &epoch, 2, get, NULL);
	tool_send(tool, &length, 2, count, NULL);
}

const struct command command_snapshot = { "snapshot", "", "Show the keys from which an agent starts: sessions, pods, drains.", prepare, start };
