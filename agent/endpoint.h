/* SPDX-License-Identifier: Apache-2.0 */
/* The pods: addresses, what they serve, their states, and the load that this agent has put on each. */
#ifndef LLMD_AGENT_ENDPOINT_H
#define LLMD_AGENT_ENDPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/address.h"

enum { ENDPOINT_MAX = 1024, ENDPOINT_MODEL_MAX = 256 };

enum endpoint_role { ENDPOINT_ROLE_DECODE = 1, ENDPOINT_ROLE_PREFILL = 2, ENDPOINT_ROLE_BOTH = 3 };

enum endpoint_state {
	ENDPOINT_FREE,	   /* no endpoint at this index */
	ENDPOINT_STARTING, /* never reached yet; used like a ready one */
	ENDPOINT_READY,
	ENDPOINT_DOWN, /* connecting failed; probed until it is back */
	ENDPOINT_DRAINING, /* no new sessions, streams go on */
	ENDPOINT_STATE_N
};

/** struct endpoint_config - what --endpoint says. */
struct endpoint_config {
	struct address address;
	char model[ENDPOINT_MODEL_MAX]; /* "": serves any */
	enum endpoint_role role;
	uint32_t blocks; /* capacity of its prefix cache in prefix blocks; 0: not known */
};

/**
 * struct endpoint - index into the table is its identity together with the generation, which changes whenever the
 * index is given to another pod (the same numbers go to the BPF map).
 */
struct endpoint {
	enum endpoint_state state; /* what a decision looks at comes first, in one cache line */
	enum endpoint_role role;
	uint32_t generation;
	uint32_t inflight_requests;
	uint64_t inflight_tokens; /* uncached prompt tokens chosen for it and not yet answered */
	uint64_t model_hash;	  /* 0: serves any */
	uint64_t requests;	  /* ever */
	uint64_t remote_tokens;	  /* as inflight_tokens, of the other agents */
	uint32_t remote_requests;
	struct endpoint_config config;
	char name[ADDRESS_TEXT_MAX]; /* of the address, for logs and labels */
};

struct endpoint_table {
	uint32_t n; /* indexes in use are below it */
	uint32_t changes; /* counts additions and removals */
	void (*on_change)(void *ctx, uint32_t index); /* after each change of a state; NULL: nobody looks */
	void *on_change_ctx;
	struct endpoint at[ENDPOINT_MAX];
};

/** endpoint_config_parse() - "ADDR:PORT[,model=M][,role=decode|prefill|both][,blocks=N]". Return: 0 or -EINVAL. */
int endpoint_config_parse(struct endpoint_config *out, const char *text);

/** endpoint_add() - Return: index, -EEXIST for a known address, -ENOSPC. */
int endpoint_add(struct endpoint_table *table, const struct endpoint_config *config);

/**
 * endpoint_restore() - as endpoint_add(), at the index and with the generation that an earlier agent had given it.
 * Return: @index, or -EEXIST when it is taken.
 */
int endpoint_restore(struct endpoint_table *table, uint32_t index, uint32_t generation, const struct endpoint_config *config);

/** endpoint_remove() - frees the index; its generation is spent. */
void endpoint_remove(struct endpoint_table *table, uint32_t index);

/** endpoint_find() - Return: index or -ENOENT. */
int endpoint_find(const struct endpoint_table *table, const struct address *address);

/** endpoint_set_state() - the one setter: legal edges only (asserted), logs old -> new with @why. */
void endpoint_set_state(struct endpoint_table *table, uint32_t index, enum endpoint_state state, const char *why);

/** endpoint_drain() - takes no new sessions, or does again; nothing when it is so already. */
void endpoint_drain(struct endpoint_table *table, uint32_t index, bool on, const char *why);

const char *endpoint_state_name(enum endpoint_state state);
const char *endpoint_role_name(enum endpoint_role role);

/** endpoint_model_hash() - of a model's name; 0 for "". */
uint64_t endpoint_model_hash(const char *model);

/** endpoint_is_usable() - ready or starting, with the decode role, and serving the model (0 matches all). */
static inline bool endpoint_is_usable(const struct endpoint *endpoint, uint64_t model_hash)
{
	return (endpoint->state == ENDPOINT_READY || endpoint->state == ENDPOINT_STARTING) &&
	       endpoint->role & ENDPOINT_ROLE_DECODE &&
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

/** endpoint_claim_restore() - counts what an earlier agent had claimed. */
void endpoint_claim_restore(struct endpoint_table *table, uint32_t index, uint32_t tokens);

void endpoint_claim_take(struct endpoint_table *table, uint32_t index, uint32_t tokens, struct endpoint_claim *claim);
void endpoint_claim_release_tokens(struct endpoint_table *table, struct endpoint_claim *claim); /* first byte */
void endpoint_claim_release(struct endpoint_table *table, struct endpoint_claim *claim);	     /* any end */

#endif
