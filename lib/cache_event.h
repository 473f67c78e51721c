/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An entry of the stream llmd:events: what an agent, an engine or an operator says of sessions, prefix blocks, pods and load.
 * docs/redis.md describes it field by field.
 */
#ifndef LLMD_LIB_CACHE_EVENT_H
#define LLMD_LIB_CACHE_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/address.h"
#include "lib/session_hash.h"

enum {
	CACHE_EVENT_VERSION = 1,
	CACHE_EVENT_HASHES_MAX = 512,
	CACHE_EVENT_LOADS_MAX = 1024,
	CACHE_EVENT_FIELDS_MAX = 16,
	CACHE_EVENT_TEXT_MAX = 98304, /* a load event of all pods */
	CACHE_EVENT_SCAN_COUNT = 1000, CACHE_EVENT_SCANS_MAX = 16384, /* keys of the database that are gone over: a SCAN, and how many */
};

enum cache_event_kind {
	CACHE_EVENT_BIND,    /* a session is at a pod */
	CACHE_EVENT_UNBIND,  /* a session is nowhere */
	CACHE_EVENT_STORED,  /* a pod holds prefix blocks */
	CACHE_EVENT_REMOVED, /* it no longer does */
	CACHE_EVENT_CLEARED, /* it holds nothing: it was restarted, or its cache was reset */
	CACHE_EVENT_LOAD,    /* all that one agent has in flight */
	CACHE_EVENT_DRAIN,   /* a pod takes no new sessions, or does again */
	CACHE_EVENT_HELLO,   /* an agent has connected; says nothing else */
	CACHE_EVENT_KIND_N
};

/* Why an entry is not understood; a metrics label. */
enum cache_event_fault {
	CACHE_EVENT_OK,
	CACHE_EVENT_BAD_VERSION,
	CACHE_EVENT_BAD_KIND,
	CACHE_EVENT_BAD_FIELD,	 /* not what that field may be */
	CACHE_EVENT_BAD_MISSING, /* a field that the kind needs is not there */
	CACHE_EVENT_BAD_SHAPE,	 /* not an entry at all */
	CACHE_EVENT_FAULT_N
};

struct cache_event_load {
	struct address pod;
	uint64_t tokens;
	uint32_t requests;
};

/**
 * struct cache_event - @has: a bit a field (1u << enum cache_event_field). @key: fingerprint of the session secret.
 * @block: bytes of a prefix block. @depth: blocks before @hash[0]. @tokens: that had to be computed for it.
 */
struct cache_event {
	enum cache_event_kind kind;
	uint32_t has;
	uint64_t agent, key, session;
	uint32_t seq;
	struct address pod;
	uint32_t block, depth, tokens, every_ms;
	bool on;
	uint32_t n_hashes, n_loads;
	uint64_t hash[CACHE_EVENT_HASHES_MAX];
	struct cache_event_load load[CACHE_EVENT_LOADS_MAX];
	enum cache_event_fault fault; /* of the fields read so far */
	unsigned field; /* whose value comes next, while it is read; FIELD_N: none that is known */
};

enum cache_event_field {
	CACHE_EVENT_FIELD_VERSION, CACHE_EVENT_FIELD_KIND, CACHE_EVENT_FIELD_AGENT, CACHE_EVENT_FIELD_SEQ, CACHE_EVENT_FIELD_KEY,
	CACHE_EVENT_FIELD_SESSION, CACHE_EVENT_FIELD_POD, CACHE_EVENT_FIELD_HASHES, CACHE_EVENT_FIELD_DEPTH,
	CACHE_EVENT_FIELD_TOKENS, CACHE_EVENT_FIELD_BLOCK, CACHE_EVENT_FIELD_ON, CACHE_EVENT_FIELD_LOAD, CACHE_EVENT_FIELD_EVERY,
	CACHE_EVENT_FIELD_N
};

static inline bool cache_event_has(const struct cache_event *event, enum cache_event_field field)
{
	return event->has >> field & 1;
}

/* Reading: begin, then name and value of each field in turn, then finish. Fields that are not known are passed over. */
void cache_event_begin(struct cache_event *event);
void cache_event_name(struct cache_event *event, const char *text, size_t len);
void cache_event_value(struct cache_event *event, const char *text, size_t len);
enum cache_event_fault cache_event_finish(struct cache_event *event);

/** struct cache_event_args - names and values in turn, for XADD; the texts lie in @text and in the event. */
struct cache_event_args {
	int n;
	size_t used;
	const char *at[2 * CACHE_EVENT_FIELDS_MAX];
	size_t len[2 * CACHE_EVENT_FIELDS_MAX];
	uint8_t packed[8 * CACHE_EVENT_HASHES_MAX];
	char text[CACHE_EVENT_TEXT_MAX];
};

/** cache_event_encode() - the fields in @event->has, version and kind. */
void cache_event_encode(const struct cache_event *event, struct cache_event_args *out);

const char *cache_event_kind_name(enum cache_event_kind kind);
const char *cache_event_fault_name(enum cache_event_fault fault);

/** cache_event_kind_find() - Return: the kind, or -EINVAL. */
int cache_event_kind_find(const char *text, size_t len);

/** cache_event_fingerprint() - tells secrets apart without giving them away. */
uint64_t cache_event_fingerprint(const uint8_t secret[SESSION_SECRET_BYTES]);

/** cache_event_parse_hex() - exactly 16 hex digits. Return: 0 or -EINVAL. */
int cache_event_parse_hex(uint64_t *out, const char *text, size_t len);

/** cache_event_parse_bound() - the value of a key llmd:session:*: "ADDR:PORT FINGERPRINT". Return: 0 or -EINVAL. */
int cache_event_parse_bound(const char *text, size_t len, struct address *pod, uint64_t *key);

/** struct stream_id - of an entry: milliseconds of Redis' clock, and a number within them. */
struct stream_id {
	uint64_t ms, n;
};

enum { STREAM_ID_TEXT_MAX = 48 };

/** stream_id_parse() - "MS-N". Return: 0 or -EINVAL. */
int stream_id_parse(struct stream_id *out, const char *text, size_t len);
const char *stream_id_format(const struct stream_id *id, char text[STREAM_ID_TEXT_MAX]);

static inline bool stream_id_less(const struct stream_id *a, const struct stream_id *b)
{
	return a->ms != b->ms ? a->ms < b->ms : a->n < b->n;
}

#endif
