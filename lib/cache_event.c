// SPDX-License-Identifier: Apache-2.0
/* Entries of the stream llmd:events: see cache_event.h. A table says which field has which name and which kinds need it. */
#include "lib/cache_event.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const kind_names[] = { "bind", "unbind", "stored", "removed", "cleared", "load", "drain", "hello" };
static_assert(sizeof(kind_names) / sizeof(kind_names[0]) == CACHE_EVENT_KIND_N, "a name for each kind");

static const char *const fault_names[] = { "none", "version", "kind", "field", "missing", "shape" };
static_assert(sizeof(fault_names) / sizeof(fault_names[0]) == CACHE_EVENT_FAULT_N, "a name for each fault");

const char *cache_event_kind_name(enum cache_event_kind kind)
{
	return kind_names[kind];
}

const char *cache_event_fault_name(enum cache_event_fault fault)
{
	return fault_names[fault];
}

int cache_event_kind_find(const char *text, size_t len)
{
	for (int i = 0; i < CACHE_EVENT_KIND_N; i++)
		if (strlen(kind_names[i]) == len && !memcmp(kind_names[i], text, len))
			return i;
	return -EINVAL;
}

uint64_t cache_event_fingerprint(const uint8_t secret[SESSION_SECRET_BYTES])
{
	static const char label[] = "llmd session secret fingerprint";

	return session_key_hash(secret, label, sizeof(label) - 1);
}

/* ---- values ---- */

int cache_event_parse_hex(uint64_t *out, const char *text, size_t len)
{
	uint64_t value = 0;

	if (len != 16)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		char c = (char)(text[i] | 0x20);

		if (text[i] >= '0' && text[i] <= '9')
			value = value << 4 | (uint64_t)(text[i] - '0');
		else if (c >= 'a' && c <= 'f')
			value = value << 4 | (uint64_t)(c - 'a' + 10);
		else
			return -EINVAL;
	}
	*out = value;
	return 0;
}

static int parse_number(uint64_t *out, const char *text, size_t len, uint64_t max)
{
	uint64_t value = 0;

	if (!len || len > 20)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		uint64_t digit = (uint64_t)(text[i] - '0');

		if (text[i] < '0' || text[i] > '9' || value > (max - digit) / 10)
			return -EINVAL;
		value = value * 10 + digit;
	}
	*out = value;
	return value <= max ? 0 : -EINVAL;
}

static int parse_u32(uint32_t *out, const char *text, size_t len)
{
	uint64_t value;
	int err = parse_number(&value, text, len, UINT32_MAX);

	*out = err ? 0 : (uint32_t)value;
	return err;
}

static int parse_pod(struct address *out, const char *text, size_t len)
{
	char copy[ADDRESS_TEXT_MAX];

	if (len >= sizeof(copy) || memchr(text, '\0', len))
		return -EINVAL;
	memcpy(copy, text, len);
	copy[len] = '\0';
	return address_parse(out, copy) || !out->port_be ? -EINVAL : 0;
}

static int parse_hashes(struct cache_event *event, const char *text, size_t len)
{
	if (!len || len % 8 || len / 8 > CACHE_EVENT_HASHES_MAX)
		return -EINVAL;
	event->n_hashes = (uint32_t)(len / 8);
	for (uint32_t i = 0; i < event->n_hashes; i++) {
		uint64_t hash = 0;

		for (unsigned k = 0; k < 8; k++)
			hash = hash << 8 | (uint8_t)text[8 * i + k];
		event->hash[i] = hash;
	}
	return 0;
}

static const char *word_end(const char *at, const char *end, char stop)
{
	const char *found = memchr(at, stop, (size_t)(end - at));

	return found ? found : end;
}

/* "ADDR:PORT TOKENS REQUESTS" */
static int parse_load(struct cache_event_load *load, const char *at, const char *end)
{
	const char *pod = word_end(at, end, ' '), *tokens;

	if (pod == end || parse_pod(&load->pod, at, (size_t)(pod - at)))
		return -EINVAL;
	tokens = word_end(pod + 1, end, ' ');
	if (tokens == end || parse_number(&load->tokens, pod + 1, (size_t)(tokens - pod - 1), 1ull << 40))
		return -EINVAL;
	return parse_u32(&load->requests, tokens + 1, (size_t)(end - tokens - 1));
}

/* Separated by commas; an empty one says that nothing is in flight. */
static int parse_loads(struct cache_event *event, const char *text, size_t len)
{
	const char *end = text + len;

	event->n_loads = 0;
	while (text < end) {
		const char *comma = word_end(text, end, ',');

		if (event->n_loads == CACHE_EVENT_LOADS_MAX || parse_load(&event->load[event->n_loads], text, comma))
			return -EINVAL;
		event->n_loads++;
		text = comma + 1;
	}
	return 0;
}

static int parse_kind(struct cache_event *event, const char *text, size_t len)
{
	int kind = cache_event_kind_find(text, len);

	if (kind < 0)
		event->fault = CACHE_EVENT_BAD_KIND;
	else
		event->kind = (enum cache_event_kind)kind;
	return 0;
}

static int parse_version(struct cache_event *event, const char *text, size_t len)
{
	uint32_t version;

	if (parse_u32(&version, text, len) || version != CACHE_EVENT_VERSION)
		event->fault = CACHE_EVENT_BAD_VERSION;
	return 0;
}

static int parse_on(struct cache_event *event, const char *text, size_t len)
{
	event->on = len == 1 && *text == '1';
	return event->on || (len == 1 && *text == '0') ? 0 : -EINVAL;
}

/* ---- fields ---- */

enum { BIND = 1 << CACHE_EVENT_BIND, UNBIND = 1 << CACHE_EVENT_UNBIND, STORED = 1 << CACHE_EVENT_STORED,
	REMOVED = 1 << CACHE_EVENT_REMOVED, CLEARED = 1 << CACHE_EVENT_CLEARED, LOAD = 1 << CACHE_EVENT_LOAD,
	DRAIN = 1 << CACHE_EVENT_DRAIN, EVERY_KIND = ~0 };

/* @needed: kinds that are nothing without it. */
static const struct {
	const char *name;
	int needed;
} fields[] = {
	[CACHE_EVENT_FIELD_VERSION] = { "v", EVERY_KIND },
	[CACHE_EVENT_FIELD_KIND] = { "t", EVERY_KIND },
	[CACHE_EVENT_FIELD_AGENT] = { "a", LOAD },
	[CACHE_EVENT_FIELD_SEQ] = { "n", 0 },
	[CACHE_EVENT_FIELD_KEY] = { "k", 0 },
	[CACHE_EVENT_FIELD_SESSION] = { "s", BIND | UNBIND },
	[CACHE_EVENT_FIELD_POD] = { "pod", BIND | STORED | REMOVED | CLEARED | DRAIN },
	[CACHE_EVENT_FIELD_HASHES] = { "h", STORED | REMOVED },
	[CACHE_EVENT_FIELD_DEPTH] = { "d", 0 },
	[CACHE_EVENT_FIELD_TOKENS] = { "w", 0 },
	[CACHE_EVENT_FIELD_BLOCK] = { "block", STORED | REMOVED },
	[CACHE_EVENT_FIELD_ON] = { "on", DRAIN },
	[CACHE_EVENT_FIELD_LOAD] = { "load", LOAD },
	[CACHE_EVENT_FIELD_EVERY] = { "every", LOAD },
};
static_assert(sizeof(fields) / sizeof(fields[0]) == CACHE_EVENT_FIELD_N, "a row for each field");

void cache_event_begin(struct cache_event *event)
{
	memset(event, 0, offsetof(struct cache_event, hash));
	event->fault = CACHE_EVENT_OK;
	event->field = CACHE_EVENT_FIELD_N;
}

void cache_event_name(struct cache_event *event, const char *text, size_t len)
{
	event->field = 0;
	while (event->field < CACHE_EVENT_FIELD_N && (strlen(fields[event->field].name) != len || memcmp(fields[event->field].name, text, len)))
		event->field++;
}

static int parse_value(struct cache_event *event, enum cache_event_field field, const char *text, size_t len)
{
	switch (field) {
	case CACHE_EVENT_FIELD_VERSION:
		return parse_version(event, text, len);
	case CACHE_EVENT_FIELD_KIND:
		return parse_kind(event, text, len);
	case CACHE_EVENT_FIELD_AGENT:
		return cache_event_parse_hex(&event->agent, text, len);
	case CACHE_EVENT_FIELD_SEQ:
		return parse_u32(&event->seq, text, len);
	case CACHE_EVENT_FIELD_KEY:
		return cache_event_parse_hex(&event->key, text, len);
	case CACHE_EVENT_FIELD_SESSION:
		return cache_event_parse_hex(&event->session, text, len);
	case CACHE_EVENT_FIELD_POD:
		return parse_pod(&event->pod, text, len);
	case CACHE_EVENT_FIELD_HASHES:
		return parse_hashes(event, text, len);
	case CACHE_EVENT_FIELD_DEPTH:
		return parse_u32(&event->depth, text, len);
	case CACHE_EVENT_FIELD_TOKENS:
		return parse_u32(&event->tokens, text, len);
	case CACHE_EVENT_FIELD_BLOCK:
		return parse_u32(&event->block, text, len);
	case CACHE_EVENT_FIELD_ON:
		return parse_on(event, text, len);
	case CACHE_EVENT_FIELD_LOAD:
		return parse_loads(event, text, len);
	case CACHE_EVENT_FIELD_EVERY:
		return parse_u32(&event->every_ms, text, len);
	case CACHE_EVENT_FIELD_N:
		break;
	}
	return 0;
}

void cache_event_value(struct cache_event *event, const char *text, size_t len)
{
	unsigned field = event->field;

	event->field = CACHE_EVENT_FIELD_N;
	if (field >= CACHE_EVENT_FIELD_N)
		return;
	if ((cache_event_has(event, field) || parse_value(event, field, text, len)) && event->fault == CACHE_EVENT_OK)
		event->fault = CACHE_EVENT_BAD_FIELD;
	event->has |= 1u << field;
}

enum cache_event_fault cache_event_finish(struct cache_event *event)
{
	if (event->fault != CACHE_EVENT_OK)
		return event->fault;
	if (!cache_event_has(event, CACHE_EVENT_FIELD_VERSION) || !cache_event_has(event, CACHE_EVENT_FIELD_KIND))
		return event->fault = CACHE_EVENT_BAD_MISSING;
	for (unsigned i = 0; i < CACHE_EVENT_FIELD_N; i++)
		if (fields[i].needed >> event->kind & 1 && !cache_event_has(event, i))
			return event->fault = CACHE_EVENT_BAD_MISSING;
	return CACHE_EVENT_OK;
}

/* ---- writing ---- */

static void add(struct cache_event_args *args, const char *text, size_t len)
{
	args->at[args->n] = text;
	args->len[args->n++] = len;
}

static void add_text(struct cache_event_args *args, size_t len)
{
	add(args, args->text + args->used, len);
	args->used += len;
}

static size_t format_loads(const struct cache_event *event, char *out, size_t size)
{
	size_t used = 0;

	for (uint32_t i = 0; i < event->n_loads; i++) {
		const struct cache_event_load *load = &event->load[i];
		char pod[ADDRESS_TEXT_MAX];

		used += (size_t)snprintf(out + used, size - used, "%s%s %" PRIu64 " %u", i ? "," : "", address_format(&load->pod, pod),
			load->tokens, load->requests);
	}
	return used;
}

static void add_hashes(const struct cache_event *event, struct cache_event_args *args)
{
	for (uint32_t i = 0; i < event->n_hashes; i++)
		for (unsigned k = 0; k < 8; k++)
			args->packed[8 * i + k] = (uint8_t)(event->hash[i] >> (56 - 8 * k));
	add(args, (const char *)args->packed, 8 * (size_t)event->n_hashes);
}

static uint64_t number_of(const struct cache_event *event, enum cache_event_field field)
{
	return field == CACHE_EVENT_FIELD_VERSION ? CACHE_EVENT_VERSION :
		field == CACHE_EVENT_FIELD_SEQ	  ? event->seq :
		field == CACHE_EVENT_FIELD_DEPTH  ? event->depth :
		field == CACHE_EVENT_FIELD_TOKENS ? event->tokens :
		field == CACHE_EVENT_FIELD_BLOCK  ? event->block :
		field == CACHE_EVENT_FIELD_EVERY  ? event->every_ms :
						    event->on;
}

static void add_value(const struct cache_event *event, enum cache_event_field field, struct cache_event_args *args)
{
	char *text = args->text + args->used;
	size_t room = sizeof(args->text) - args->used;

	switch (field) {
	case CACHE_EVENT_FIELD_KIND:
		add(args, kind_names[event->kind], strlen(kind_names[event->kind]));
		break;
	case CACHE_EVENT_FIELD_AGENT:
	case CACHE_EVENT_FIELD_KEY:
	case CACHE_EVENT_FIELD_SESSION:
		add_text(args, (size_t)snprintf(text, room, "%016" PRIx64, field == CACHE_EVENT_FIELD_AGENT ? event->agent :
			field == CACHE_EVENT_FIELD_KEY ? event->key : event->session));
		break;
	case CACHE_EVENT_FIELD_POD:
		add_text(args, strlen(address_format(&event->pod, text)));
		break;
	case CACHE_EVENT_FIELD_HASHES:
		add_hashes(event, args);
		break;
	case CACHE_EVENT_FIELD_LOAD:
		add_text(args, format_loads(event, text, room));
		break;
	default:
		add_text(args, (size_t)snprintf(text, room, "%" PRIu64, number_of(event, field)));
	}
}

void cache_event_encode(const struct cache_event *event, struct cache_event_args *out)
{
	uint32_t has = event->has | 1u << CACHE_EVENT_FIELD_VERSION | 1u << CACHE_EVENT_FIELD_KIND;

	out->n = 0;
	out->used = 0;
	for (unsigned i = 0; i < CACHE_EVENT_FIELD_N; i++) {
		if (!(has >> i & 1))
			continue;
		add(out, fields[i].name, strlen(fields[i].name));
		add_value(event, i, out);
	}
}

/* ---- what lies beside the stream ---- */

int cache_event_parse_bound(const char *text, size_t len, struct address *pod, uint64_t *key)
{
	const char *end = text + len, *space = word_end(text, end, ' ');

	if (space == end || parse_pod(pod, text, (size_t)(space - text)))
		return -EINVAL;
	return cache_event_parse_hex(key, space + 1, (size_t)(end - space - 1));
}

int stream_id_parse(struct stream_id *out, const char *text, size_t len)
{
	const char *end = text + len, *dash = word_end(text, end, '-');
	struct stream_id id;

	if (dash == end || parse_number(&id.ms, text, (size_t)(dash - text), UINT64_MAX) ||
		parse_number(&id.n, dash + 1, (size_t)(end - dash - 1), UINT64_MAX))
		return -EINVAL;
	*out = id;
	return 0;
}

const char *stream_id_format(const struct stream_id *id, char text[STREAM_ID_TEXT_MAX])
{
	snprintf(text, STREAM_ID_TEXT_MAX, "%" PRIu64 "-%" PRIu64, id->ms, id->n);
	return text;
}
