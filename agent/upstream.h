/* SPDX-License-Identifier: Apache-2.0 */
/* Connections to pods: dialled, used by one exchange at a time, kept idle for the next. */
#ifndef LLMD_AGENT_UPSTREAM_H
#define LLMD_AGENT_UPSTREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "agent/peer.h"

struct agent;
struct exchange;
struct upstream_pool;

enum upstream_state { UPSTREAM_CONNECTING, UPSTREAM_BUSY, UPSTREAM_IDLE, UPSTREAM_CLOSED, UPSTREAM_STATE_N };

/**
 * struct upstream - @exchange: who uses it; NULL while idle. @in: an incomplete response head.
 * @port: of the agent's own, in host order; 0: the kernel's choice.
 * @reused: has answered an earlier request; it may have been closed by the pod at the very moment of its reuse.
 */
struct upstream {
	struct peer peer;
	struct event timer;
	LIST_ENTRY(upstream) link;
	struct upstream_pool *pool;
	struct exchange *exchange;
	struct buffer in;
	enum upstream_state state;
	uint32_t endpoint, generation;
	uint16_t port;
	bool reused, keeps_alive;
};

/** What the pool tells of a connection in use. */
struct upstream_callbacks {
	void (*connected)(struct exchange *exchange);
	void (*failed)(struct exchange *exchange, int err); /* connecting failed or took too long; upstream is gone */
	void (*readable)(struct exchange *exchange);
	void (*writable)(struct exchange *exchange);
	void (*broken)(struct exchange *exchange, int err);
};

struct upstream_pool *upstream_pool_new(struct agent *agent, const struct upstream_callbacks *callbacks);
void upstream_pool_free(struct upstream_pool *pool);

/**
 * upstream_get() - a connection to @endpoint for @exchange.
 * @fresh: dial even if an idle one is there.
 * @out: state BUSY when it can be used at once, else CONNECTING and a callback follows. Return: 0 or -errno.
 */
int upstream_get(struct upstream_pool *pool, uint32_t endpoint, bool fresh, struct exchange *exchange,
	struct upstream **out);

/** upstream_put() - the exchange is over and the pod keeps the connection alive: idle from here on. */
void upstream_put(struct upstream *upstream);

/** upstream_keep_alive() - it is relayed on: the kernel is to look after the pod while nothing comes. */
void upstream_keep_alive(struct upstream *upstream);

/** upstream_close() - the exchange gives it up. */
void upstream_close(struct upstream *upstream);

/** upstream_close_silently() - the kernel carries the connection on; its port stays taken until upstream_give_port(). */
void upstream_close_silently(struct upstream *upstream);

/** upstream_pool_spare() - has an unused connection to @endpoint ready for the next request that is handed over. */
void upstream_pool_spare(struct upstream_pool *pool, uint32_t endpoint);

/** upstream_pool_limit_mss() - connections from now on tell pods not to send more at once; idle ones are closed. */
void upstream_pool_limit_mss(struct upstream_pool *pool, uint32_t mss);

/** upstream_pool_use_ports() - from now on connections leave from ports of @low to @high. Return: 0 or -ENOMEM. */
int upstream_pool_use_ports(struct upstream_pool *pool, uint16_t low, uint16_t high);

/** upstream_reserve_port(), upstream_give_port() - of a connection that has no socket here. */
void upstream_reserve_port(struct upstream_pool *pool, uint32_t endpoint, uint16_t port);
void upstream_give_port(struct upstream_pool *pool, uint32_t endpoint, uint16_t port);

/** upstream_pool_forget() - closes the idle connections to an endpoint that is gone or down. */
void upstream_pool_forget(struct upstream_pool *pool, uint32_t endpoint);

/** upstream_pool_cut() - the endpoint is removed: what is in use breaks as if the pod had reset it, in the next turn of the loop. */
void upstream_pool_cut(struct upstream_pool *pool, uint32_t endpoint);

void upstream_pool_counts(const struct upstream_pool *pool, uint64_t *open, uint64_t *idle);

#endif
