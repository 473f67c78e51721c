/* SPDX-License-Identifier: Apache-2.0 */
/* The pods: addresses, what they serve, their states, and the load that is on each. */
#ifndef LLMD_AGENT_ENDPOINT_H
#define LLMD_AGENT_ENDPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/pace.h"
#include "lib/address.h"
#include "lib/log.h"

enum { ENDPOINT_MAX = 1024, ENDPOINT_MODEL_MAX = 256, ENDPOINT_WHY_MAX = 112, ENDPOINT_NAMES_MAX = 64 };

enum endpoint_role { ENDPOINT_ROLE_DECODE = 1, ENDPOINT_ROLE_PREFILL = 2, ENDPOINT_ROLE_BOTH = 3 };

enum endpoint_engine { ENDPOINT_ENGINE_UNKNOWN, ENDPOINT_ENGINE_VLLM, ENDPOINT_ENGINE_SGLANG, ENDPOINT_ENGINE_N };

enum endpoint_state {
	ENDPOINT_FREE,	   /* gone: no endpoint at this index */
	ENDPOINT_STARTING, /* never reached yet; used like a ready one */
	ENDPOINT_READY,
	ENDPOINT_DEGRADED, /* fails, but not often enough yet, or none can be spared: used where others cost much more */
	ENDPOINT_EJECTED,  /* not used; checked until it is back */
	ENDPOINT_DRAINING, /* no new sessions, streams go on */
	ENDPOINT_STATE_N
};

/** struct endpoint_config - what --endpoint or a discovery source says. */
struct endpoint_config {
	struct address address;
	char model[ENDPOINT_MODEL_MAX]; /* "": serves any */
	enum endpoint_role role;
	enum endpoint_engine engine;
	uint32_t blocks; /* capacity of its prefix cache in prefix blocks; 0: not known */
};

/**
 * struct endpoint - index into the table is its identity together with the generation, which changes whenever the
 * index is given to another pod (the same numbers go to the BPF map).
 * @queued_tokens: what is to be computed there for others, and what a full KV cache is worth, as the engine told lately.
 * @serves, @loaded: models, and LoRA adapters in its memory, as the engine told: bits of endpoint_name_bit(). 0: not known.
 * @trust: share of the prefix blocks believed to be there that really are, as far as the engine's counters tell.
 * @waiting_requests: of @inflight_requests, those that wait for their first content.
 * @why, @since_ms: of the present state.
 */
struct endpoint {
	/* What a decision looks at comes first, in 56 bytes: a thousand endpoints are gone over for each request. */
	enum endpoint_state state : 16;
	enum endpoint_role role : 16;
	uint32_t inflight_requests;
	uint64_t inflight_tokens; /* uncached prompt tokens chosen for it and not yet answered */
	uint64_t remote_tokens;	  /* as inflight_tokens, of the other agents */
	uint64_t model_hash;	  /* 0: serves any */
	uint64_t serves;
	uint32_t queued_tokens;
	float token_us, trust; /* time that a prompt token takes there, 0: not known; see pace.h */
	uint32_t generation;
	uint64_t loaded;
	uint32_t waiting_requests;
	uint32_t remote_requests; /* as inflight_requests, of the other agents */
	struct pace pace;
	uint64_t requests; /* ever */
	uint64_t since_ms;
	struct log_pace state_pace, failure_pace, leaving_pace;
	char why[ENDPOINT_WHY_MAX];
	struct endpoint_config config;
	char name[ADDRESS_TEXT_MAX]; /* of the address, for logs and labels */
};

struct endpoint_table {
	struct endpoint at[ENDPOINT_MAX];
	uint32_t n; /* indexes in use are below it */
	uint32_t changes; /* counts additions and removals */
	uint64_t inflight_requests;
	double mean_tokens; /* of the last requests: what each had to compute */
	uint64_t (*now_us)(void); /* NULL: paces are not learnt */
	struct pace_sum pace_sum;
	uint64_t transitions[ENDPOINT_STATE_N][ENDPOINT_STATE_N]; /* ever, from and to */
	uint64_t served, loaded; /* bits of @serves and @loaded that any endpoint has */
	uint64_t name_hash[ENDPOINT_NAMES_MAX];
	void (*on_change)(void *ctx, uint32_t index); /* after each change of a state; NULL: nobody looks */
	void *on_change_ctx;
};

/** endpoint_config_parse() - "ADDR:PORT[,model=M][,role=decode|prefill|both][,blocks=N][,engine=vllm|sglang]". Return: 0 or -EINVAL. */
int endpoint_config_parse(struct endpoint_config *out, const char *text);

/** endpoint_config_set() - one attribute by its name. Return: 0, -ENOENT for another name, -EINVAL for such a value. */
int endpoint_config_set(struct endpoint_config *out, const char *name, const char *value);

/** endpoint_add() - Return: index, -EEXIST for a known address, -ENOSPC. */
int endpoint_add(struct endpoint_table *table, const struct endpoint_config *config);

/**
 * endpoint_restore() - as endpoint_add(), at the index and with the generation that an earlier agent had given it.
 * Return: @index, or -EEXIST when it is taken.
 */
int endpoint_restore(struct endpoint_table *table, uint32_t index, uint32_t generation, const struct endpoint_config *config);

/** endpoint_reconfigure() - the same pod is described in another way: model, role, engine, capacity. */
void endpoint_reconfigure(struct endpoint_table *table, uint32_t index, const struct endpoint_config *config);

/** endpoint_remove() - frees the index; its generation is spent. */
void endpoint_remove(struct endpoint_table *table, uint32_t index);

/** endpoint_find() - Return: index or -ENOENT. */
int endpoint_find(const struct endpoint_table *table, const struct address *address);

/** endpoint_set_state() - the one setter: legal edges only (asserted), logs old -> new with @why. */
void endpoint_set_state(struct endpoint_table *table, uint32_t index, enum endpoint_state state, const char *why);

const char *endpoint_state_name(enum endpoint_state state);
const char *endpoint_role_name(enum endpoint_role role);
const char *endpoint_engine_name(enum endpoint_engine engine);

/** endpoint_model_hash() - of a model's name; 0 for "". */
uint64_t endpoint_model_hash(const char *model);

/** endpoint_name_bit() - of the name with that endpoint_model_hash() in @serves and @loaded; 0 for names nobody knows. */
uint64_t endpoint_name_bit(const struct endpoint_table *table, uint64_t hash);

/** endpoint_learn_names() - of all of these; a new name gets a bit as long as endpoints have less than ENDPOINT_NAMES_MAX names. */
uint64_t endpoint_learn_names(struct endpoint_table *table, const uint64_t *hashes, unsigned n);

/** endpoint_set_serves() - what it serves, as the engine says. */
void endpoint_set_serves(struct endpoint_table *table, uint32_t index, uint64_t serves);

/** endpoint_set_loaded() - the adapters in its memory, as the engine says. */
void endpoint_set_loaded(struct endpoint_table *table, uint32_t index, uint64_t loaded);

/** endpoint_requests() - in flight at it, of this agent and of all others that tell. */
static inline uint64_t endpoint_requests(const struct endpoint *endpoint)
{
	return (uint64_t)endpoint->inflight_requests + endpoint->remote_requests;
}

/** endpoint_tokens_ahead() - prompt tokens that are to be computed there before those of a new request. */
static inline uint64_t endpoint_tokens_ahead(const struct endpoint *endpoint)
{
	/* Other agents' requests that wait are in both: what they tell, and what the engine does. */
	return endpoint->inflight_tokens +
	       (endpoint->remote_tokens > endpoint->queued_tokens ? endpoint->remote_tokens : endpoint->queued_tokens);
}

/** endpoint_is_up() - requests may be sent there. */
static inline bool endpoint_is_up(const struct endpoint *endpoint)
{
	return endpoint->state == ENDPOINT_READY || endpoint->state == ENDPOINT_STARTING || endpoint->state == ENDPOINT_DEGRADED;
}

/** endpoint_is_usable() - up, with the decode role, and serving the model (0 matches all). */
static inline bool endpoint_is_usable(const struct endpoint *endpoint, uint64_t model_hash)
{
	return endpoint_is_up(endpoint) && endpoint->role & ENDPOINT_ROLE_DECODE &&
	       (!model_hash || !endpoint->model_hash || model_hash == endpoint->model_hash);
}

/**
 * struct endpoint_claim - what one request holds of one endpoint. Zeroed: nothing. Both releases may be called in any
 * order, any number of times; a claim on an endpoint that is gone since (generation) releases nothing.
 */
struct endpoint_claim {
	uint32_t index, generation;
	uint32_t tokens;
	bool holds_request, holds_tokens;
};

/** endpoint_forget_pace() - it is another pod, or another process, by now. */
void endpoint_forget_pace(struct endpoint_table *table, uint32_t index);

/** endpoint_claim_restore() - counts what an earlier agent had claimed. */
void endpoint_claim_restore(struct endpoint_table *table, uint32_t index, uint32_t tokens);

void endpoint_claim_take(struct endpoint_table *table, uint32_t index, uint32_t tokens, struct endpoint_claim *claim);
void endpoint_claim_release_tokens(struct endpoint_table *table, struct endpoint_claim *claim); /* first byte */
void endpoint_claim_release(struct endpoint_table *table, struct endpoint_claim *claim);	     /* any end */

#endif
