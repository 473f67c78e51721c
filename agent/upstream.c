// SPDX-License-Identifier: Apache-2.0
/*
 * Connections to pods: see upstream.h.
 *
 * Idle connections of an endpoint are a stack, so that the warmest is used again and the others time out. An idle one
 * is watched for reading: whatever comes (the pod's FIN, or bytes nobody asked for) ends it.
 */
#include "agent/upstream.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/endpoint.h"
#include "agent/metrics.h"

LIST_HEAD(upstream_list, upstream);

struct upstream_pool {
	struct agent *agent;
	struct upstream_callbacks callbacks;
	uint64_t n_open, n_idle;
	uint32_t idle_count[ENDPOINT_MAX];
	struct upstream_list idle[ENDPOINT_MAX];
	struct upstream_list closed; /* freed after the callbacks of this turn of the loop */
	struct event *reaper;
};

static const bool legal[UPSTREAM_STATE_N][UPSTREAM_STATE_N] = {
	[UPSTREAM_CONNECTING] = { [UPSTREAM_BUSY] = true, [UPSTREAM_CLOSED] = true },
	[UPSTREAM_BUSY] = { [UPSTREAM_IDLE] = true, [UPSTREAM_CLOSED] = true },
	[UPSTREAM_IDLE] = { [UPSTREAM_BUSY] = true, [UPSTREAM_CLOSED] = true },
};

static void upstream_set_state(struct upstream *upstream, enum upstream_state state)
{
	assert(legal[upstream->state][state]);
	upstream->state = state;
}

static void reap(evutil_socket_t fd, short what, void *arg)
{
	struct upstream_pool *pool = arg;
	struct upstream *upstream;

	(void)fd, (void)what;
	while ((upstream = LIST_FIRST(&pool->closed))) {
		LIST_REMOVE(upstream, link);
		free(upstream);
	}
}

static void leave_idle(struct upstream *upstream)
{
	LIST_REMOVE(upstream, link);
	event_del(&upstream->timer);
	upstream->pool->n_idle--;
	upstream->pool->idle_count[upstream->endpoint]--;
}

void upstream_close(struct upstream *upstream)
{
	struct upstream_pool *pool = upstream->pool;

	if (upstream->state == UPSTREAM_IDLE)
		leave_idle(upstream);
	upstream_set_state(upstream, UPSTREAM_CLOSED);
	event_del(&upstream->timer);
	upstream->exchange = NULL;
	peer_close(&upstream->peer, false);
	buffer_free(&upstream->in);
	pool->n_open--;
	LIST_INSERT_HEAD(&pool->closed, upstream, link);
	event_active(pool->reaper, EV_TIMEOUT, 1);
}

static void fail_connect(struct upstream *upstream, int err)
{
	struct exchange *exchange = upstream->exchange;
	struct upstream_pool *pool = upstream->pool;

	upstream_close(upstream);
	pool->callbacks.failed(exchange, err);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct upstream *upstream = arg;

	(void)fd, (void)what;
	if (upstream->state == UPSTREAM_CONNECTING)
		fail_connect(upstream, -ETIMEDOUT);
	else
		upstream_close(upstream);
}

static void on_readable(struct peer *peer)
{
	struct upstream *upstream = (struct upstream *)peer;

	if (upstream->state == UPSTREAM_IDLE)
		upstream_close(upstream);
	else
		upstream->pool->callbacks.readable(upstream->exchange);
}

static void on_connected(struct upstream *upstream)
{
	int err = 0;
	socklen_t len = sizeof(err);

	getsockopt(upstream->peer.fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (err) {
		fail_connect(upstream, -err);
		return;
	}
	event_del(&upstream->timer);
	upstream_set_state(upstream, UPSTREAM_BUSY);
	peer_watch_readable(&upstream->peer, true);
	upstream->pool->callbacks.connected(upstream->exchange);
}

static void on_writable(struct peer *peer)
{
	struct upstream *upstream = (struct upstream *)peer;

	if (upstream->state == UPSTREAM_CONNECTING)
		on_connected(upstream);
	else
		upstream->pool->callbacks.writable(upstream->exchange);
}

static void on_broken(struct peer *peer, int err)
{
	struct upstream *upstream = (struct upstream *)peer;

	if (upstream->state == UPSTREAM_IDLE)
		upstream_close(upstream);
	else
		upstream->pool->callbacks.broken(upstream->exchange, err);
}

/* A pod that vanished without a word (node lost) is noticed within a minute, also while it is silent for a good reason. */
static void set_socket_options(int fd)
{
	const int on = 1, idle_s = 30, interval_s = 10, probes = 3;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

static int dial(const struct address *address)
{
	struct sockaddr_storage sa;
	socklen_t len = address_to_sockaddr(address, &sa);
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	set_socket_options(fd);
	if (connect(fd, (struct sockaddr *)&sa, len) && errno != EINPROGRESS) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

static struct upstream *upstream_new(struct upstream_pool *pool, uint32_t endpoint, int fd)
{
	struct upstream *upstream = calloc(1, sizeof(*upstream));

	if (!upstream)
		return NULL;
	upstream->pool = pool;
	upstream->endpoint = endpoint;
	upstream->generation = pool->agent->endpoints->at[endpoint].generation;
	upstream->state = UPSTREAM_CONNECTING;
	peer_open(&upstream->peer, pool->agent->base, &pool->agent->pipes, fd);
	upstream->peer.on_readable = on_readable;
	upstream->peer.on_writable = on_writable;
	upstream->peer.on_broken = on_broken;
	evtimer_assign(&upstream->timer, pool->agent->base, on_timer, upstream);
	pool->n_open++;
	return upstream;
}

static int upstream_dial(struct upstream_pool *pool, uint32_t endpoint, struct upstream **out)
{
	int fd = dial(&pool->agent->endpoints->at[endpoint].config.address);

	if (fd < 0)
		return fd;
	*out = upstream_new(pool, endpoint, fd);
	if (!*out) {
		close(fd);
		return -ENOMEM;
	}
	event_add(&(*out)->timer, pool->agent->timeouts.connect);
	peer_await_writable(&(*out)->peer);
	return 0;
}

/* One of an earlier pod at this index is of no use. */
static struct upstream *take_idle(struct upstream_pool *pool, uint32_t endpoint)
{
	struct upstream *upstream;

	while ((upstream = LIST_FIRST(&pool->idle[endpoint]))) {
		if (upstream->generation == pool->agent->endpoints->at[endpoint].generation)
			break;
		upstream_close(upstream);
	}
	if (!upstream)
		return NULL;
	leave_idle(upstream);
	upstream_set_state(upstream, UPSTREAM_BUSY);
	upstream->reused = true;
	return upstream;
}

int upstream_get(struct upstream_pool *pool, uint32_t endpoint, bool fresh, struct exchange *exchange,
	struct upstream **out)
{
	int err = 0;

	*out = fresh ? NULL : take_idle(pool, endpoint);
	metrics_upstream(pool->agent->metrics, *out ? METRICS_UPSTREAM_REUSED : METRICS_UPSTREAM_OPENED);
	if (!*out)
		err = upstream_dial(pool, endpoint, out);
	if (!err)
		(*out)->exchange = exchange;
	return err;
}

void upstream_put(struct upstream *upstream)
{
	struct upstream_pool *pool = upstream->pool;
	uint32_t endpoint = upstream->endpoint;

	if (pool->idle_count[endpoint] >= pool->agent->config.pool_idle || pool->agent->draining ||
		upstream->generation != pool->agent->endpoints->at[endpoint].generation) {
		upstream_close(upstream);
		return;
	}
	upstream_set_state(upstream, UPSTREAM_IDLE);
	upstream->exchange = NULL;
	peer_watch_readable(&upstream->peer, true);
	LIST_INSERT_HEAD(&pool->idle[endpoint], upstream, link);
	pool->n_idle++;
	pool->idle_count[endpoint]++;
	event_add(&upstream->timer, pool->agent->timeouts.pool);
}

void upstream_pool_forget(struct upstream_pool *pool, uint32_t endpoint)
{
	struct upstream *upstream;

	while ((upstream = LIST_FIRST(&pool->idle[endpoint])))
		upstream_close(upstream);
}

void upstream_pool_counts(const struct upstream_pool *pool, uint64_t *open, uint64_t *idle)
{
	*open = pool->n_open;
	*idle = pool->n_idle;
}

struct upstream_pool *upstream_pool_new(struct agent *agent, const struct upstream_callbacks *callbacks)
{
	struct upstream_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return NULL;
	pool->agent = agent;
	pool->callbacks = *callbacks;
	pool->reaper = event_new(agent->base, -1, 0, reap, pool);
	if (!pool->reaper) {
		free(pool);
		return NULL;
	}
	return pool;
}

void upstream_pool_free(struct upstream_pool *pool)
{
	if (!pool)
		return;
	for (uint32_t i = 0; i < ENDPOINT_MAX; i++)
		upstream_pool_forget(pool, i);
	reap(-1, 0, pool);
	event_free(pool->reaper);
	free(pool);
}
