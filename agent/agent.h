/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the agent share: one event loop owns all of it, so there are no locks. */
#ifndef LLMD_AGENT_AGENT_H
#define LLMD_AGENT_AGENT_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/time.h>

#include "agent/config.h"
#include "agent/handoff.h"
#include "agent/pipe_pool.h"
#include "agent/retry_budget.h"
#include "lib/log.h"

enum { AGENT_SCRATCH = 64 * 1024, AGENT_SCANNERS_KEPT = 64, AGENT_PSEUDONYM_MAX = 24 };

struct client;
struct datapath;
struct decider;
struct decision_log;
struct discovery;
struct engines;
struct health;
struct events;
struct metrics;
struct mirror;
struct prober;
struct prompt_scanner;
struct upstream_pool;

/* Durations that many timers share; libevent then keeps them in a queue rather than a heap. */
struct agent_timeouts {
	const struct timeval *head, *body, *keepalive, *connect, *pool, *linger;
};

/**
 * struct agent - @scratch: for the duration of one callback, what was just read.
 * @scanners: prompt scanners between requests.
 */
struct agent {
	struct config config;
	struct agent_timeouts timeouts;
	struct event_base *base;
	struct endpoint_table *endpoints;
	struct decider *decider;
	struct decision_log *decisions;
	struct discovery *discovery;
	struct metrics *metrics;
	struct engines *engines;
	struct health *health;
	struct prober *prober;
	struct retry_budget retry_budget;
	struct upstream_pool *upstreams;
	struct datapath *datapath; /* NULL: everything is relayed */
	struct mirror *mirror;	   /* NULL without a data path, or once it is left to a successor */
	struct events *events;	   /* NULL without --redis */
	struct handoff_stats handoffs;
	struct pipe_pool pipes;
	struct client *clients;
	uint64_t n_clients;
	uint8_t session_secret[16];
	uint64_t request_ids; /* begins at random, so that agents differ */
	char pseudonym[AGENT_PSEUDONYM_MAX]; /* in Via */
	struct log_pace loops;
	uint64_t ended;	      /* requests, for --access-log */
	bool draining;
	unsigned n_scanners;
	struct prompt_scanner *scanners[AGENT_SCANNERS_KEPT];
	char scratch[AGENT_SCRATCH];
};

/** agent_now_us(), agent_now_ms() - monotonic. */
uint64_t agent_now_us(void);
uint64_t agent_now_ms(void);

/** agent_take_scanner(), agent_give_scanner() - a prompt scanner from or back to the kept ones; NULL without memory. */
struct prompt_scanner *agent_take_scanner(struct agent *agent);
void agent_give_scanner(struct agent *agent, struct prompt_scanner *scanner);

/** agent_client_gone() - called by a client when it ends: a drain may be over, or the listeners may go on. */
void agent_client_gone(struct agent *agent);

/** agent_access_level() - of the line about a request that has ended: one of --access-log is for everybody. */
static inline enum log_level agent_access_level(struct agent *agent)
{
	uint64_t one_of = agent->config.access_log;

	return one_of && agent->ended++ % one_of == 0 ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG;
}

#endif
