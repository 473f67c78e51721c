/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions: which endpoint each is bound to. A hint: losing one costs a cache miss. */
#ifndef LLMD_AGENT_SESSION_H
#define LLMD_AGENT_SESSION_H

#include <stdbool.h>
#include <stdint.h>

struct session_table;

/**
 * struct session - a binding; @generation is that of the endpoint when it was bound. @told_s: when the other agents last
 * heard of it, monotonic; 0: never. @is_own: this agent said or would say so, and not another one.
 */
struct session {
	uint64_t hash;
	uint64_t last_used_ms;
	uint32_t endpoint, generation;
	uint32_t uses;
	uint32_t told_s : 31, is_own : 1;
};

/** session_table_new() - memory for @max sessions is reserved at once, touched as it fills. NULL without memory. */
struct session_table *session_table_new(uint64_t max, uint64_t ttl_ms);
void session_table_free(struct session_table *table);

/** session_find() - Return: the binding, valid until the next change, or NULL; one past its TTL is not found. */
const struct session *session_find(const struct session_table *table, uint64_t hash, uint64_t now_ms);

/** session_bind() - binds or moves, counts the use; the longest unused goes when the table is full. Return: whether it was not there. */
bool session_bind(struct session_table *table, uint64_t hash, uint32_t endpoint, uint32_t generation, uint64_t now_ms);

void session_unbind(struct session_table *table, uint64_t hash);

/** session_adopt() - as an event says: endpoint, generation, last use and owner of @said. */
void session_adopt(struct session_table *table, const struct session *said, uint32_t now_s);

/**
 * session_tell() - is being told to others under the number @seq, which it owes until session_settle(). A later number
 * takes the place of an earlier one.
 */
void session_tell(struct session_table *table, uint64_t hash, uint32_t seq, uint32_t now_s);

/** session_owed() - Return: the number that it owes, 0 for none. */
uint32_t session_owed(const struct session_table *table, uint64_t hash);

/** session_settle() - what was told under @seq is known to have arrived, or was lost. */
void session_settle(struct session_table *table, uint64_t hash, uint32_t seq);

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

/** session_own() - sessions that are own, from entry @cursor on, which moves (0 at first). Return: how many of at most @max; 0: no more. */
uint32_t session_own(const struct session_table *table, uint32_t *cursor, struct session *out, uint32_t max);

struct session_stats {
	uint64_t n, max, evicted, expired, bytes;
};
void session_get_stats(const struct session_table *table, struct session_stats *out);

#endif
