// SPDX-License-Identifier: Apache-2.0
/*
 * Connections to pods: see upstream.h.
 *
 * Idle connections of an endpoint are a stack, so that the warmest is used again and the others time out. An idle one
 * is watched for reading: whatever comes (the pod's FIN, or bytes nobody asked for) ends it. The others are listed, too,
 * for the pod may be removed while they are in use.
 */
#include "agent/upstream.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/endpoint.h"
#include "agent/metrics.h"
#include "agent/port_pool.h"
#include "agent/tcp_repair.h"

enum { PORT_TRIES = 16 };

LIST_HEAD(upstream_list, upstream);

struct upstream_pool {
	struct agent *agent;
	struct upstream_callbacks callbacks;
	uint64_t n_open, n_idle;
	uint32_t idle_count[ENDPOINT_MAX];
	struct upstream_list idle[ENDPOINT_MAX], busy[ENDPOINT_MAX]; /* each is in one of them until it is closed */
	struct port_pool *ports;     /* NULL: the kernel chooses */
	uint32_t mss_limit;	     /* 0: none */
	uint32_t spares[ENDPOINT_MAX]; /* being dialled for nobody yet */
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

static void retire(struct upstream *upstream)
{
	struct upstream_pool *pool = upstream->pool;

	if (upstream->state == UPSTREAM_IDLE)
		leave_idle(upstream);
	else
		LIST_REMOVE(upstream, link);
	upstream_set_state(upstream, UPSTREAM_CLOSED);
	event_del(&upstream->timer);
	upstream->exchange = NULL;
	buffer_free(&upstream->in);
	pool->n_open--;
	LIST_INSERT_HEAD(&pool->closed, upstream, link);
	event_active(pool->reaper, EV_TIMEOUT, 1);
}

void upstream_close(struct upstream *upstream)
{
	retire(upstream);
	peer_close(&upstream->peer, false);
	if (upstream->port)
		upstream_give_port(upstream->pool, upstream->endpoint, upstream->port);
}

void upstream_close_silently(struct upstream *upstream)
{
	int fd = peer_release(&upstream->peer);

	retire(upstream);
	tcp_close_silently(fd);
}

static void fail_connect(struct upstream *upstream, int err)
{
	struct exchange *exchange = upstream->exchange;
	struct upstream_pool *pool = upstream->pool;

	if (!exchange)
		pool->spares[upstream->endpoint]--;
	upstream_close(upstream);
	if (exchange)
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

static void established(struct upstream *upstream)
{
	upstream_set_state(upstream, UPSTREAM_BUSY);
	peer_watch_readable(&upstream->peer, true);
}

/* Dialled for nobody yet. Its own address is asked for now, not when a request waits. */
static void spare_connected(struct upstream *upstream)
{
	struct address own;

	peer_own_address(&upstream->peer, &own);
	upstream_put(upstream);
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
	established(upstream);
	if (upstream->exchange) {
		upstream->pool->callbacks.connected(upstream->exchange);
		return;
	}
	upstream->pool->spares[upstream->endpoint]--;
	spare_connected(upstream);
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

/*
 * A pod that vanished without a word (node lost) is noticed within a minute, also while it is silent for a good reason. What it does
 * not acknowledge the kernel would repeat for a quarter of an hour.
 */
void upstream_keep_alive(struct upstream *upstream)
{
	const int on = 1, idle_s = 30, interval_s = 10, probes = 3, fd = upstream->peer.fd;
	const unsigned unacked_ms = (unsigned)upstream->pool->agent->config.body_timeout_ms;

	if (upstream->keeps_alive)
		return;
	upstream->keeps_alive = true;
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacked_ms, sizeof(unacked_ms));
}

static int bind_port(int fd, sa_family_t family, uint16_t port)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	const int on = 1;

	/* The same port serves all pods. */
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	return family == AF_INET ? bind(fd, (struct sockaddr *)&v4, sizeof(v4)) : bind(fd, (struct sockaddr *)&v6, sizeof(v6));
}

/* @port: 0 is the kernel's choice. */
static int dial(const struct upstream_pool *pool, const struct address *address, uint16_t port)
{
	struct sockaddr_storage sa;
	socklen_t len = address_to_sockaddr(address, &sa);
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	const int on = 1;

	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (pool->mss_limit)
		setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &pool->mss_limit, sizeof(pool->mss_limit));
	if (port && bind_port(fd, sa.ss_family, port)) {
		int err = -errno;

		close(fd);
		return err;
	}
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
	LIST_INSERT_HEAD(&pool->busy[endpoint], upstream, link);
	pool->n_open++;
	return upstream;
}

/*
 * A port whose last connection the kernel still remembers (TIME_WAIT) goes to the end of the queue. When none is left, the
 * kernel chooses, and the connection serves requests that are relayed.
 */
static int dial_from_port(struct upstream_pool *pool, uint32_t endpoint, const struct address *address, int *port)
{
	int fd = -EADDRNOTAVAIL;

	for (int i = 0; i < PORT_TRIES && (fd == -EADDRNOTAVAIL || fd == -EADDRINUSE); i++) {
		*port = pool->ports && i < PORT_TRIES - 1 ? port_pool_take(pool->ports, endpoint) : 0;
		if (*port < 0)
			*port = 0;
		fd = dial(pool, address, (uint16_t)*port);
		if (fd < 0 && *port)
			port_pool_give(pool->ports, endpoint, (uint16_t)*port);
	}
	return fd;
}

/* A pod of this node has answered before connect() returns. */
static bool is_connected(int fd)
{
	struct pollfd socket = { .fd = fd, .events = POLLOUT };

	return poll(&socket, 1, 0) == 1 && socket.revents == POLLOUT;
}

static int upstream_dial(struct upstream_pool *pool, uint32_t endpoint, struct upstream **out)
{
	int port, fd = dial_from_port(pool, endpoint, &pool->agent->endpoints->at[endpoint].config.address, &port);

	if (fd < 0)
		return fd;
	*out = upstream_new(pool, endpoint, fd);
	if (!*out) {
		close(fd);
		if (port)
			port_pool_give(pool->ports, endpoint, (uint16_t)port);
		return -ENOMEM;
	}
	(*out)->port = (uint16_t)port;
	if (is_connected(fd)) {
		established(*out);
		return 0;
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
	LIST_INSERT_HEAD(&pool->busy[endpoint], upstream, link);
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
	LIST_REMOVE(upstream, link);
	LIST_INSERT_HEAD(&pool->idle[endpoint], upstream, link);
	pool->n_idle++;
	pool->idle_count[endpoint]++;
	event_add(&upstream->timer, pool->agent->timeouts.pool);
}

void upstream_pool_spare(struct upstream_pool *pool, uint32_t endpoint)
{
	struct upstream *upstream;

	if (pool->idle_count[endpoint] + pool->spares[endpoint] || pool->agent->draining || !pool->agent->config.pool_idle ||
		!endpoint_is_usable(&pool->agent->endpoints->at[endpoint], 0))
		return;
	if (upstream_dial(pool, endpoint, &upstream))
		return;
	if (upstream->state == UPSTREAM_BUSY)
		spare_connected(upstream);
	else
		pool->spares[endpoint]++;
}

void upstream_pool_limit_mss(struct upstream_pool *pool, uint32_t mss)
{
	if (pool->mss_limit && pool->mss_limit <= mss)
		return;
	pool->mss_limit = mss;
	for (uint32_t i = 0; i < ENDPOINT_MAX; i++)
		upstream_pool_forget(pool, i);
}

int upstream_pool_use_ports(struct upstream_pool *pool, uint16_t low, uint16_t high)
{
	pool->ports = port_pool_new(low, high, ENDPOINT_MAX);
	return pool->ports ? 0 : -ENOMEM;
}

void upstream_reserve_port(struct upstream_pool *pool, uint32_t endpoint, uint16_t port)
{
	if (pool->ports)
		port_pool_reserve(pool->ports, endpoint, port);
}

void upstream_give_port(struct upstream_pool *pool, uint32_t endpoint, uint16_t port)
{
	if (pool->ports)
		port_pool_give(pool->ports, endpoint, port);
}

void upstream_pool_forget(struct upstream_pool *pool, uint32_t endpoint)
{
	struct upstream *upstream;

	while ((upstream = LIST_FIRST(&pool->idle[endpoint])))
		upstream_close(upstream);
}

/*
 * Dissolving the association makes the socket fail (ENOTCONN), and sends the pod a RST. After shutdown() it would end well,
 * and an answer without a length would look complete.
 */
void upstream_pool_cut(struct upstream_pool *pool, uint32_t endpoint)
{
	const struct sockaddr none = { .sa_family = AF_UNSPEC };
	struct upstream *upstream;

	upstream_pool_forget(pool, endpoint);
	LIST_FOREACH(upstream, &pool->busy[endpoint], link)
		if (upstream->state == UPSTREAM_BUSY)
			connect(upstream->peer.fd, &none, sizeof(none));
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
	port_pool_free(pool->ports);
	free(pool);
}
