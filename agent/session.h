/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions: which endpoint each is bound to. A hint: losing one costs a cache miss. */
#ifndef LLMD_AGENT_SESSION_H
#define LLMD_AGENT_SESSION_H

#include <stdint.h>

struct session_table;

/** struct session - a binding; @generation is that of the endpoint when it was bound. */
struct session {
	uint64_t hash;
	uint64_t last_used_ms;
	uint32_t endpoint, generation;
	uint32_t uses;
};

/** session_table_new() - memory for @max sessions is reserved at once, touched as it fills. NULL without memory. */
struct session_table *session_table_new(uint64_t max, uint64_t ttl_ms);
void session_table_free(struct session_table *table);

/** session_find() - Return: the binding, valid until the next change, or NULL; one past its TTL is not found. */
const struct session *session_find(const struct session_table *table, uint64_t hash, uint64_t now_ms);

/** session_bind() - binds or moves, counts the use; the longest unused goes when the table is full. */
void session_bind(struct session_table *table, uint64_t hash, uint32_t endpoint, uint32_t generation, uint64_t now_ms);

void session_unbind(struct session_table *table, uint64_t hash);

/** session_expire() - forgets at most @max_steps sessions past their TTL. Return: how many. */
uint64_t session_expire(struct session_table *table, uint64_t now_ms, unsigned max_steps);

/** session_observe() - @changed: called for each session that is bound, used or dropped; on a request's path: must be cheap. */
void session_observe(struct session_table *table, void (*changed)(void *ctx, uint64_t hash), void *ctx);

/** session_get() - as session_find(), but also one past its TTL. */
const struct session *session_get(const struct session_table *table, uint64_t hash);

/**
 * session_restore() - as it was in the past; the caller begins with the longest unused. @changed is not called for it.
 * Return: 0, -ETIME (past its TTL), -EEXIST.
 */
int session_restore(struct session_table *table, const struct session *session, uint64_t now_ms);

/** session_walk() - calls @visit for each, the longest unused first, until it returns non-zero. Return: that, or 0. */
int session_walk(const struct session_table *table, int (*visit)(void *ctx, const struct session *session), void *ctx);

struct session_stats {
	uint64_t n, max, evicted, expired, bytes;
};
void session_get_stats(const struct session_table *table, struct session_stats *out);

#endif
