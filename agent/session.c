// SPDX-License-Identifier: Apache-2.0
/*
 * Sessions: see session.h. A chained hash table over a pool of fixed size; all sessions hang in one list in the order of
 * their last use, so that expiry and eviction look at its head alone. The session hash is already a keyed hash of 64
 * uniform bits: its low bits choose the chain.
 */
#include "agent/session.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { NONE = UINT32_MAX };

struct entry {
	struct session session;
	uint32_t chain, older, newer;
	uint32_t owed; /* see session_tell() */
};

struct session_table {
	uint64_t ttl_ms, max, n, evicted, expired;
	uint32_t mask, oldest, newest, free, fresh; /* @fresh: entries from here on were never used */
	uint32_t *buckets;
	struct entry *entries;
	void (*changed)(void *ctx, uint64_t hash);
	void *ctx;
};

/* Pages are not touched before they are needed. */
static void *reserve(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static size_t buckets_size(const struct session_table *table)
{
	return ((size_t)table->mask + 1) * sizeof(*table->buckets);
}

struct session_table *session_table_new(uint64_t max, uint64_t ttl_ms)
{
	struct session_table *table = calloc(1, sizeof(*table));
	uint32_t n = 1;

	if (!table || max >= NONE / 2)
		goto fail;
	while (n < max)
		n *= 2;
	*table = (struct session_table){
		.max = max, .ttl_ms = ttl_ms, .mask = n - 1, .oldest = NONE, .newest = NONE, .free = NONE };
	table->buckets = reserve(buckets_size(table));
	table->entries = reserve(max * sizeof(*table->entries));
	if (table->buckets && table->entries)
		return table;
fail:
	session_table_free(table);
	return NULL;
}

void session_table_free(struct session_table *table)
{
	if (!table)
		return;
	if (table->buckets)
		munmap(table->buckets, buckets_size(table));
	if (table->entries)
		munmap(table->entries, table->max * sizeof(*table->entries));
	free(table);
}

/* Buckets hold index + 1, so that untouched memory reads as empty. */
static uint32_t *bucket_of(const struct session_table *table, uint64_t hash)
{
	return &table->buckets[hash & table->mask];
}

static uint32_t lookup(const struct session_table *table, uint64_t hash)
{
	uint32_t i = *bucket_of(table, hash) - 1;

	while (i != NONE && table->entries[i].session.hash != hash)
		i = table->entries[i].chain;
	return i;
}

static void list_remove(struct session_table *table, uint32_t i)
{
	struct entry *entry = &table->entries[i];

	*(entry->older == NONE ? &table->oldest : &table->entries[entry->older].newer) = entry->newer;
	*(entry->newer == NONE ? &table->newest : &table->entries[entry->newer].older) = entry->older;
}

static void list_append(struct session_table *table, uint32_t i)
{
	struct entry *entry = &table->entries[i];

	entry->older = table->newest;
	entry->newer = NONE;
	*(table->newest == NONE ? &table->oldest : &table->entries[table->newest].newer) = i;
	table->newest = i;
}

static void chain_remove(struct session_table *table, uint32_t i)
{
	uint32_t *bucket = bucket_of(table, table->entries[i].session.hash);
	uint32_t *at = NULL, next = *bucket - 1;

	while (next != i) {
		at = &table->entries[next].chain;
		next = *at;
	}
	if (at)
		*at = table->entries[i].chain;
	else
		*bucket = table->entries[i].chain + 1;
}

static void tell(const struct session_table *table, uint64_t hash)
{
	if (table->changed)
		table->changed(table->ctx, hash);
}

static void drop(struct session_table *table, uint32_t i)
{
	tell(table, table->entries[i].session.hash);
	list_remove(table, i);
	chain_remove(table, i);
	table->entries[i].session.uses = 0; /* not in use, for session_own() */
	table->entries[i].chain = table->free;
	table->free = i;
	table->n--;
}

static uint32_t take_entry(struct session_table *table)
{
	uint32_t i = table->free;

	if (i == NONE && table->n == table->max) {
		drop(table, table->oldest);
		table->evicted++;
		i = table->free;
	}
	if (i == NONE)
		return table->fresh++;
	table->free = table->entries[i].chain;
	return i;
}

static bool is_expired(const struct session_table *table, const struct session *session, uint64_t now_ms)
{
	return now_ms > session->last_used_ms && now_ms - session->last_used_ms >= table->ttl_ms;
}

const struct session *session_find(const struct session_table *table, uint64_t hash, uint64_t now_ms)
{
	uint32_t i = lookup(table, hash);

	return i == NONE || is_expired(table, &table->entries[i].session, now_ms) ? NULL : &table->entries[i].session;
}

static uint32_t insert(struct session_table *table, uint64_t hash)
{
	uint32_t *bucket = bucket_of(table, hash);
	uint32_t i = take_entry(table);

	table->entries[i] = (struct entry){ .session.hash = hash, .chain = *bucket - 1 };
	*bucket = i + 1;
	table->n++;
	list_append(table, i);
	return i;
}

/* The entry, as the one that was used last. */
static uint32_t use(struct session_table *table, uint64_t hash)
{
	uint32_t i = lookup(table, hash);

	if (i == NONE)
		return insert(table, hash);
	list_remove(table, i);
	list_append(table, i);
	return i;
}

bool session_bind(struct session_table *table, uint64_t hash, uint32_t endpoint, uint32_t generation, uint64_t now_ms)
{
	struct session *session = &table->entries[use(table, hash)].session;
	bool is_new = !session->uses || session->endpoint != endpoint || session->generation != generation;

	session->endpoint = endpoint;
	session->generation = generation;
	session->last_used_ms = now_ms;
	session->uses++;
	tell(table, hash);
	return is_new;
}

void session_adopt(struct session_table *table, const struct session *said, uint32_t now_s)
{
	struct session *session = &table->entries[use(table, said->hash)].session;

	session->endpoint = said->endpoint;
	session->generation = said->generation;
	if (said->last_used_ms > session->last_used_ms)
		session->last_used_ms = said->last_used_ms;
	if (!session->uses)
		session->uses = 1;
	session->told_s = now_s;
	session->is_own = said->is_own;
	tell(table, said->hash);
}

void session_tell(struct session_table *table, uint64_t hash, uint32_t seq, uint32_t now_s)
{
	uint32_t i = lookup(table, hash);

	if (i == NONE)
		return;
	table->entries[i].owed = seq;
	table->entries[i].session.told_s = now_s;
	table->entries[i].session.is_own = true;
}

uint32_t session_owed(const struct session_table *table, uint64_t hash)
{
	uint32_t i = lookup(table, hash);

	return i == NONE ? 0 : table->entries[i].owed;
}

void session_settle(struct session_table *table, uint64_t hash, uint32_t seq)
{
	uint32_t i = lookup(table, hash);

	if (i != NONE && table->entries[i].owed == seq)
		table->entries[i].owed = 0;
}

void session_observe(struct session_table *table, void (*changed)(void *ctx, uint64_t hash), void *ctx)
{
	table->changed = changed;
	table->ctx = ctx;
}

const struct session *session_get(const struct session_table *table, uint64_t hash)
{
	uint32_t i = lookup(table, hash);

	return i == NONE ? NULL : &table->entries[i].session;
}

int session_restore(struct session_table *table, const struct session *session, uint64_t now_ms)
{
	struct session *restored;

	if (is_expired(table, session, now_ms))
		return -ETIME;
	if (lookup(table, session->hash) != NONE)
		return -EEXIST;
	restored = &table->entries[insert(table, session->hash)].session;
	*restored = *session;
	restored->is_own = true;
	return 0;
}

void session_unbind(struct session_table *table, uint64_t hash)
{
	uint32_t i = lookup(table, hash);

	if (i != NONE)
		drop(table, i);
}

uint64_t session_expire(struct session_table *table, uint64_t now_ms, unsigned max_steps)
{
	uint64_t n = 0;

	while (n < max_steps && table->oldest != NONE &&
		is_expired(table, &table->entries[table->oldest].session, now_ms)) {
		drop(table, table->oldest);
		n++;
	}
	table->expired += n;
	return n;
}

int session_walk(const struct session_table *table, int (*visit)(void *ctx, const struct session *session), void *ctx)
{
	int stop = 0;

	for (uint32_t i = table->oldest; i != NONE && !stop; i = table->entries[i].newer)
		stop = visit(ctx, &table->entries[i].session);
	return stop;
}

uint32_t session_own(const struct session_table *table, uint32_t *cursor, struct session *out, uint32_t max)
{
	uint32_t n = 0;

	for (; *cursor < table->fresh && n < max; ++*cursor) {
		const struct session *session = &table->entries[*cursor].session;

		if (session->uses && session->is_own)
			out[n++] = *session;
	}
	return n;
}

void session_get_stats(const struct session_table *table, struct session_stats *out)
{
	*out = (struct session_stats){
		.n = table->n,
		.max = table->max,
		.evicted = table->evicted,
		.expired = table->expired,
		.bytes = buckets_size(table) + table->fresh * sizeof(*table->entries),
	};
}
