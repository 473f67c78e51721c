// SPDX-License-Identifier: Apache-2.0
/*
 * The snapshot's keys: see events.c. A SCAN over llmd:*, a step at a time: the values of the sessions and drains that it
 * brought, then the blocks of each pod among them, then the next step. What is not as it should be is counted and skipped.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/discovery.h"
#include "agent/events_private.h"
#include "lib/log.h"

enum { POD_PAGES_MAX = 256, KEYS_MAX = 65536, VALUES_MAX = 1000, FIRST_ROOM = 1024, CURSOR_MAX = 24 };
#define POD_ENTRIES "128"

enum kind { SESSION, DRAIN, POD };

struct key {
	enum kind kind;
	uint64_t session;
	struct address pod;
};

/**
 * struct events_snapshot - @n keys of this step of the scan; @next: to be asked for; @answering: the first one of the
 * present answer. @after, @read, @pages: of a pod's blocks, the entry that was read last, how many of a page, and of pages.
 */
struct events_snapshot {
	char cursor[CURSOR_MAX];
	struct key *key;
	uint32_t n, room, next, answering, steps, read, pages;
	struct stream_id after;
	struct events_entry entry;
};

int events_snapshot_init(struct events *events)
{
	events->reader.snapshot = calloc(1, sizeof(*events->reader.snapshot));
	return events->reader.snapshot ? 0 : -ENOMEM;
}

void events_snapshot_fini(struct events *events)
{
	if (events->reader.snapshot)
		free(events->reader.snapshot->key);
	free(events->reader.snapshot);
}

static void bad_key(struct events *events)
{
	events->stats.snapshot_errors++;
}

/* ---- the scan ---- */

static struct key *add_key(struct events_snapshot *snapshot)
{
	if (snapshot->n == snapshot->room) {
		uint32_t room = snapshot->room ? snapshot->room * 2 : FIRST_ROOM;
		struct key *key = room > KEYS_MAX ? NULL : realloc(snapshot->key, room * sizeof(*key));

		if (!key)
			return NULL;
		snapshot->key = key;
		snapshot->room = room;
	}
	return &snapshot->key[snapshot->n++];
}

static bool has_prefix(const struct redis_item *item, const char *prefix)
{
	return item->len > strlen(prefix) && !memcmp(item->text, prefix, strlen(prefix));
}

static int parse_pod(struct address *out, const struct redis_item *item, const char *prefix)
{
	char text[ADDRESS_TEXT_MAX];
	size_t len = item->len - strlen(prefix);

	if (len >= sizeof(text))
		return -EINVAL;
	memcpy(text, item->text + strlen(prefix), len);
	text[len] = '\0';
	return address_parse(out, text);
}

/* Keys that are none of the three are not the snapshot's. */
static void take_key(struct events *events, const struct redis_item *item)
{
	struct key key = { .kind = SESSION }, *to;
	int err;

	if (has_prefix(item, EVENTS_SESSION_KEY)) {
		err = cache_event_parse_hex(&key.session, item->text + strlen(EVENTS_SESSION_KEY), item->len - strlen(EVENTS_SESSION_KEY));
	} else if (has_prefix(item, EVENTS_DRAIN_KEY)) {
		key.kind = DRAIN;
		err = parse_pod(&key.pod, item, EVENTS_DRAIN_KEY);
	} else if (has_prefix(item, EVENTS_POD_KEY)) {
		key.kind = POD;
		err = parse_pod(&key.pod, item, EVENTS_POD_KEY);
	} else {
		return;
	}
	to = err ? NULL : add_key(events->reader.snapshot);
	if (to)
		*to = key;
	else
		bad_key(events);
}

static void on_scan_item(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;
	struct events_snapshot *snapshot = events->reader.snapshot;

	if (item->type == REDIS_ERROR)
		redis_conn_fail(events->reader.conn, "cannot scan");
	if (item->type != REDIS_STRING)
		return;
	if (item->depth == 1 && item->len < CURSOR_MAX) {
		memcpy(snapshot->cursor, item->text, item->len);
		snapshot->cursor[item->len] = '\0';
	} else if (item->depth == 2) {
		take_key(events, item);
	}
}

/* ---- values: sessions and drains ---- */

static void take_value(struct events *events, const struct key *key, const struct redis_item *item)
{
	struct address pod;
	uint64_t fingerprint;
	int found;

	if (key->kind == DRAIN) {
		found = events_find_endpoint(events, &key->pod);
		if (found >= 0)
			discovery_drain(events->agent->discovery, (uint32_t)found, item->len != 1 || *item->text != '0');
		return;
	}
	if (item->len == 1 && *item->text == '-') {
		events_apply_unbound(events, key->session);
		return;
	}
	if (cache_event_parse_bound(item->text, item->len, &pod, &fingerprint)) {
		bad_key(events);
		return;
	}
	events->stats.snapshot_keys++;
	events_apply_bound(events, key->session, &pod, fingerprint);
}

static void on_value(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;
	const struct events_snapshot *snapshot = events->reader.snapshot;
	uint32_t i = snapshot->answering + (item->depth ? item->index[0] : 0);

	if (item->type == REDIS_ERROR)
		redis_conn_fail(events->reader.conn, "cannot read the snapshot");
	if (item->depth != 1 || item->type != REDIS_STRING) /* nil: gone since, or of another type */
		return;
	if (i < snapshot->n)
		take_value(events, &snapshot->key[i], item);
}

static void go_on(void *ctx);

static const char *key_text(const struct key *key, char *out, size_t size)
{
	char pod[ADDRESS_TEXT_MAX];

	if (key->kind == SESSION)
		snprintf(out, size, EVENTS_SESSION_KEY "%016lx", (unsigned long)key->session);
	else
		snprintf(out, size, "%s%s", key->kind == DRAIN ? EVENTS_DRAIN_KEY : EVENTS_POD_KEY, address_format(&key->pod, pod));
	return out;
}

static void ask_values(struct events *events)
{
	struct events_snapshot *snapshot = events->reader.snapshot;
	const struct redis_handler handler = { on_value, go_on, events };
	static char text[VALUES_MAX][ADDRESS_TEXT_MAX + 16];
	const char *argument[VALUES_MAX + 1] = { "MGET" };
	int n = 1;

	snapshot->answering = snapshot->next;
	for (; n <= VALUES_MAX && snapshot->next < snapshot->n && snapshot->key[snapshot->next].kind != POD; snapshot->next++, n++)
		argument[n] = key_text(&snapshot->key[snapshot->next], text[n - 1], sizeof(text[0]));
	redis_send(events->reader.conn, &handler, n, argument, NULL);
}

/* ---- blocks of a pod, a page at a time ---- */

static void on_block_entry(struct events *events, struct events_entry *entry)
{
	struct events_snapshot *snapshot = events->reader.snapshot;

	if (!stream_id_less(&snapshot->after, &entry->id)) /* no stream says that */
		return;
	snapshot->read++;
	snapshot->after = entry->id;
	if (entry->event.fault != CACHE_EVENT_OK)
		return;
	events->stats.snapshot_keys++;
	if (entry->event.kind == CACHE_EVENT_STORED || entry->event.kind == CACHE_EVENT_REMOVED || entry->event.kind == CACHE_EVENT_CLEARED)
		events_apply(events, &entry->event, &entry->id);
}

static void on_block_item(void *ctx, const struct redis_item *item)
{
	struct events *events = ctx;

	if (item->type == REDIS_ERROR && item->depth == 0)
		bad_key(events);
	events_entry_item(events, &events->reader.snapshot->entry, item, on_block_entry);
}

static void on_block_end(void *ctx)
{
	struct events *events = ctx;
	struct events_snapshot *snapshot = events->reader.snapshot;

	events_entry_end(events, &snapshot->entry, on_block_entry);
	if (snapshot->read < (uint32_t)atoi(POD_ENTRIES) || ++snapshot->pages == POD_PAGES_MAX) {
		snapshot->next++;
		snapshot->pages = 0;
		snapshot->after = (struct stream_id){ 0 };
	}
	go_on(ctx);
}

static void ask_blocks(struct events *events)
{
	struct events_snapshot *snapshot = events->reader.snapshot;
	const struct redis_handler handler = { on_block_item, on_block_end, events };
	char key[ADDRESS_TEXT_MAX + 16], from[STREAM_ID_TEXT_MAX];
	const char *const argument[] = { "XRANGE", key, from, "+", "COUNT", POD_ENTRIES };
	struct stream_id next = snapshot->after;

	next.ms += !++next.n; /* the largest number does occur: who adds an entry may choose its id */
	snapshot->read = 0;
	snapshot->entry = (struct events_entry){ .base = 0 };
	key_text(&snapshot->key[snapshot->next], key, sizeof(key));
	stream_id_format(&next, from);
	redis_send(events->reader.conn, &handler, 6, argument, NULL);
}

/* ---- one thing after the other ---- */

static void scan(struct events *events)
{
	struct events_snapshot *snapshot = events->reader.snapshot;
	const struct redis_handler handler = { on_scan_item, go_on, events };
	char cursor[CURSOR_MAX], count[12];
	const char *const argument[] = { "SCAN", cursor, "MATCH", EVENTS_KEYS, "COUNT", count };

	snprintf(count, sizeof(count), "%d", CACHE_EVENT_SCAN_COUNT);
	strcpy(cursor, snapshot->cursor);
	snapshot->n = snapshot->next = 0;
	snapshot->steps++;
	redis_send(events->reader.conn, &handler, 6, argument, NULL);
}

/* What was found must do: an agent that only scans would never hear what is told now. */
static void end_scan(struct events *events)
{
	if (strcmp(events->reader.snapshot->cursor, "0")) {
		bad_key(events);
		log_paced(&events->reader.endless, 1, EVENTS_LOG_MS, LOG_LEVEL_WARN, "too many keys in Redis: not all were looked at",
			"steps=%u hint=\"give llmd a database of its own\"", events->reader.snapshot->steps);
	}
	events_read_stream(events);
}

static void go_on(void *ctx)
{
	struct events *events = ctx;
	struct events_snapshot *snapshot = events->reader.snapshot;

	if (snapshot->next < snapshot->n && snapshot->key[snapshot->next].kind != POD)
		ask_values(events);
	else if (snapshot->next < snapshot->n)
		ask_blocks(events);
	else if (strcmp(snapshot->cursor, "0") && snapshot->steps < CACHE_EVENT_SCANS_MAX)
		scan(events);
	else
		end_scan(events);
}

void events_snapshot_begin(struct events *events)
{
	struct events_snapshot *snapshot = events->reader.snapshot;

	strcpy(snapshot->cursor, "0");
	snapshot->after = (struct stream_id){ 0 };
	snapshot->steps = snapshot->pages = 0;
	scan(events);
}
