/* SPDX-License-Identifier: Apache-2.0 */
/* The decision: which endpoint gets a request. How and why: decide.c. */
#ifndef LLMD_AGENT_DECIDE_H
#define LLMD_AGENT_DECIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/endpoint.h"

enum policy { POLICY_PREFIX_CACHE_AWARE, POLICY_SESSION, POLICY_LEAST_LOAD, POLICY_ROUND_ROBIN };

/* Why this endpoint; a metrics label. */
enum decision_reason {
	DECISION_SESSION,	    /* bound there, and fit */
	DECISION_SESSION_SATURATED, /* bound elsewhere, waiting there would cost more than recomputing; moved */
	DECISION_SESSION_LOST,	    /* bound to an endpoint that is gone, down or draining; moved */
	DECISION_PREFIX,	    /* holds enough of the prefix */
	DECISION_PREFIX_SATURATED,  /* a holder of the prefix exists, but is too busy */
	DECISION_SCORE,		    /* best of cache and load */
	DECISION_LOAD,		    /* least loaded: no prompt that was understood */
	DECISION_ROUND_ROBIN,
	DECISION_NONE, /* no usable endpoint */
	DECISION_REASON_N
};

struct decide_config {
	enum policy policy;
	double weight_cache, weight_load; /* --weight */
	double affinity_threshold;	  /* --affinity-threshold */
	uint64_t session_ttl_ms;
	uint64_t sessions_max, prefix_blocks_max; /* bounds of the tables */
	uint32_t prefix_block_bytes;
	double bytes_per_token;
	uint32_t default_capacity_blocks; /* of an endpoint whose capacity is not known */
	uint64_t max_inflight;		  /* requests of an endpoint; 0: no bound */
	uint64_t seed;			  /* of the ties; 0: from the system */
};

struct decide_request {
	const char *model; /* "" if not known */
	bool has_session;
	uint64_t session; /* session hash */
	const uint64_t *blocks;
	uint32_t n_blocks;
	uint64_t prompt_bytes;
	const uint8_t *excluded; /* bitmap of ENDPOINT_MAX bits: endpoints that failed this request already; may be NULL */
};

enum { DECISION_CANDIDATES_MAX = 8 };

struct decision_candidate {
	uint32_t index;
	uint32_t cached_blocks;
	uint64_t inflight_tokens;
	double score; /* higher is better */
};

struct decision {
	int endpoint; /* index; -ENOENT if none */
	enum decision_reason reason;
	uint32_t n_blocks, cached_blocks; /* of the prompt; estimated on the chosen endpoint */
	uint32_t prompt_tokens, uncached_tokens;
	uint32_t n_candidates, n_usable;  /* the best few are kept, the chosen one first */
	struct decision_candidate candidate[DECISION_CANDIDATES_MAX];
};

struct decider;
struct prefix_index;
struct session_table;

struct decider *decider_new(const struct decide_config *config, struct endpoint_table *endpoints);
void decider_free(struct decider *decider);

/**
 * decide() - chooses, binds the session, remembers the prefix, and takes @claim for the uncached tokens.
 * @now_ms: monotonic.
 * Return: 0; nothing is changed by -ENOENT: no endpoint is usable, and -EBUSY: all that are have max_inflight requests.
 */
int decide(struct decider *decider, const struct decide_request *request, uint64_t now_ms, struct decision *out,
	struct endpoint_claim *claim);

/**
 * struct decider_listener - told of each decision, on the request's path. @bound: session @session; @is_new: it was not bound
 * there before. @stored: the prompt's blocks; @tokens: to be computed for it.
 */
struct decider_listener {
	void (*bound)(void *ctx, uint64_t session, uint32_t endpoint, bool is_new);
	void (*stored)(void *ctx, uint32_t endpoint, const uint64_t *blocks, uint32_t n, uint32_t tokens);
	void *ctx;
};
void decider_listen(struct decider *decider, const struct decider_listener *listener);

/** decider_note_placed() - another agent has sent a prompt there of which so many tokens have to be computed. */
void decider_note_placed(struct decider *decider, uint32_t endpoint, double tokens, uint64_t now_ms);

/** decider_forget_endpoint() - its prefixes and sessions are worthless: it is gone or was restarted. */
void decider_forget_endpoint(struct decider *decider, uint32_t index);

/** decider_set_capacity(), decider_capacity() - of an endpoint's prefix cache, in blocks. */
void decider_set_capacity(struct decider *decider, uint32_t index, uint32_t blocks);
uint32_t decider_capacity(const struct decider *decider, uint32_t index);

/**
 * decider_learn_hits() - the engine has looked up @queried prompt tokens more and found @hit of them: see drift.h.
 * @told: the capacity is known and stays. Return: whether there was enough of it to learn something.
 */
bool decider_learn_hits(struct decider *decider, uint32_t index, double queried, double hit, bool told);

/** decider_drift() - the engine's hit rate less the expected one, lately. */
double decider_drift(const struct decider *decider, uint32_t index);

/** decider_follow_endpoints() - what was known of an earlier pod at an index is forgotten; decide() begins with it. */
void decider_follow_endpoints(struct decider *decider);

/** decider_sessions(), decider_prefixes() - the tables, for who keeps a copy of them (mirror.c). */
struct session_table *decider_sessions(const struct decider *decider);
struct prefix_index *decider_prefixes(const struct decider *decider);

/** decider_session_get() - Return: 0 with the endpoint's index, use count and age, or -ENOENT. */
int decider_session_get(const struct decider *decider, uint64_t session, uint64_t now_ms, uint32_t *index, uint64_t *uses,
	uint64_t *idle_ms);

struct decider_stats {
	uint64_t sessions, sessions_max, sessions_evicted, sessions_expired;
	uint64_t prefix_blocks, prefix_blocks_max, prefix_evicted; /* (endpoint, block) pairs */
	uint64_t prefix_blocks_distinct;
	uint64_t queried_blocks, hit_blocks;			   /* of all decisions, estimated */
	uint64_t bytes;						   /* memory of both tables */
};
void decider_get_stats(const struct decider *decider, struct decider_stats *out);
uint64_t decider_endpoint_blocks(const struct decider *decider, uint32_t index);
const char *decision_reason_name(enum decision_reason reason);
const char *policy_name(enum policy policy);

#endif
