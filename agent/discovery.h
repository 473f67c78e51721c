/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pods there are. A source publishes all that it knows at once; discovery.c computes the difference between what all
 * sources say and the endpoint table, and applies it: add, change, drain, remove.
 */
#ifndef LLMD_AGENT_DISCOVERY_H
#define LLMD_AGENT_DISCOVERY_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/endpoint.h"

struct agent;
struct discovery;
struct discovery_source;
struct endpoint_entry;

/* DISCOVERY_READY is 0, so that an item that says nothing of it is ready. */
enum discovery_condition { DISCOVERY_READY, DISCOVERY_DRAINING };

/* Kinds of sources, the ones that win first: the first that lists an address says what it is; any may drain it. */
enum discovery_kind {
	DISCOVERY_STATIC,
	DISCOVERY_FILE,
	DISCOVERY_DNS,
	DISCOVERY_K8S,
	DISCOVERY_PINNED, /* what an earlier agent knew, until all the others have said something */
	DISCOVERY_KIND_N
};

/* What one source may list; what it has beyond is counted and left out. */
enum { DISCOVERY_ITEMS_MAX = 16384 };

/**
 * struct discovered - one endpoint as a source sees it.
 * @identity: changes when another pod has the address (hash of the pod's UID); 0: the source cannot tell.
 * @why: constant text, for the log, of DISCOVERY_DRAINING.
 */
struct discovered {
	struct endpoint_config config;
	uint64_t identity;
	enum discovery_condition condition;
	const char *why;
};

/** struct discovery_view - what the admin port shows of an endpoint beside its state. @source: name of the kind. */
struct discovery_view {
	const char *source, *condition;
	bool drained; /* by the operator */
};

/** struct discovery_stats - by kind; @listed: by all sources of the kind. @left_out: no room in the endpoint table. */
struct discovery_stats {
	uint64_t listed[DISCOVERY_KIND_N], updates[DISCOVERY_KIND_N], failures[DISCOVERY_KIND_N];
	uint64_t left_out;
	bool used[DISCOVERY_KIND_N];
};

/** discovery_new() - @agent's endpoint table, decider and data path (or NULL) are there. Starts what the options name. */
int discovery_new(struct agent *agent, struct discovery **out);

/** discovery_free() - ends the sources; the endpoints stay in the table. */
void discovery_free(struct discovery *discovery);

/** discovery_reload() - SIGHUP: sources that can, look again. */
void discovery_reload(struct discovery *discovery);

/** discovery_drain() - by the operator. An endpoint that a source drains stays drained whatever is said here. */
void discovery_drain(struct discovery *discovery, uint32_t index, bool on);

struct discovery_view discovery_view(const struct discovery *discovery, uint32_t index);
void discovery_get_stats(const struct discovery *discovery, struct discovery_stats *out);
const char *discovery_kind_name(enum discovery_kind kind);

/* ---- for sources ---- */

/**
 * struct discovery_ops - @reload: may be NULL. @free: called once.
 * @lingers: what is no longer listed is drained while something is in flight there, for at most --drain-timeout; a source
 *           that tells the end of a pod from its draining does not need that.
 * @grace_ms: what is no longer listed is drained that long, and may come back as the same endpoint.
 */
struct discovery_ops {
	enum discovery_kind kind;
	bool lingers;
	unsigned grace_ms;
	void (*reload)(void *ctx);
	void (*free)(void *ctx);
};

/** discovery_register() - Return: the source, or NULL when there are too many or no memory. */
struct discovery_source *discovery_register(struct discovery *discovery, const struct discovery_ops *ops, void *ctx);

/** discovery_publish() - all that the source knows now; @items are copied, in any order, repeated addresses are merged. */
void discovery_publish(struct discovery_source *source, const struct discovered *items, uint32_t n);

/** discovery_failed() - counts an attempt that brought nothing; what was published last stays. The source logs it. */
void discovery_failed(struct discovery_source *source);

#endif
