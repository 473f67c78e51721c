/* SPDX-License-Identifier: Apache-2.0 */
/* Within discovery: discovery.c has the sources, discovery_apply.c what follows from them for the endpoint table. */
#ifndef LLMD_AGENT_DISCOVERY_PRIVATE_H
#define LLMD_AGENT_DISCOVERY_PRIVATE_H

#include <event2/event.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/discovery.h"
#include "lib/log.h"

enum { DISCOVERY_SOURCES_MAX = 32, DISCOVERY_LOG_LINES = 10, DISCOVERY_LOG_MS = 10000 };

struct discovery_source {
	struct discovery *discovery;
	struct discovery_ops ops;
	void *ctx;
	bool synced; /* has published */
	uint32_t n;
	struct discovered *at; /* sorted by address, each once */
	uint64_t updates, failures;
	struct log_pace too_many;
};

/* What is known of an endpoint beside the table. @gone_ms: no longer listed, to be removed then at the latest; 0: listed. */
struct discovery_known {
	enum discovery_kind kind;
	bool lingers, drained, drains;
	unsigned grace_ms;
	const char *why;
	uint64_t identity, gone_ms;
};

struct discovery_merged {
	const struct discovered *item;
	const struct discovery_source *source;
	const char *why; /* NULL: does not drain */
	bool placed;
};

struct discovery {
	struct agent *agent;
	uint32_t n_sources, n_merged, left_out;
	struct discovery_source source[DISCOVERY_SOURCES_MAX];
	struct discovery_known known[ENDPOINT_MAX];
	struct discovery_merged *merged;
	struct event *linger;
	struct log_pace changes, updates, no_room;
	struct endpoint_entry *pinned; /* while starting */
};

static inline int discovery_compare_address(const struct address *a, const struct address *b)
{
	int order = memcmp(a->ip, b->ip, sizeof(a->ip));

	return order ? order : memcmp(&a->port_be, &b->port_be, sizeof(a->port_be));
}

/** discovery_apply() - makes the endpoint table what the sources' sets say. */
void discovery_apply(struct discovery *discovery);

/** discovery_set_drained() - the state that follows from what the sources and the operator want. */
void discovery_set_drained(struct discovery *discovery, uint32_t index);

/** discovery_on_linger() - timer: removes what is no longer listed, once nothing is in flight there. */
void discovery_on_linger(evutil_socket_t fd, short what, void *discovery);

#endif
