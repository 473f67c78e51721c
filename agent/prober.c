// SPDX-License-Identifier: Apache-2.0
/*
 * Finds out whether pods that could not be reached are back: see prober.h.
 *
 * One timer ticks while the agent lives; an endpoint whose time has come is dialled. What counts is that it accepts a
 * connection. The pause doubles from PAUSE_MIN_MS to PAUSE_MAX_MS and is spread by a quarter, so that many agents do not
 * come back to a pod at the same moment.
 */
#include "agent/prober.h"

#include <errno.h>
#include <event2/event_struct.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/endpoint.h"
#include "agent/upstream.h"
#include "lib/log.h"

enum { TICK_MS = 100, PAUSE_MIN_MS = 200, PAUSE_MAX_MS = 5000 };

struct probe {
	struct prober *prober;
	struct event event;
	uint64_t due_ms;
	uint32_t pause_ms, generation;
	int fd; /* -1: not dialling */
};

struct prober {
	struct agent *agent;
	struct event *tick;
	struct probe at[ENDPOINT_MAX];
};

static struct endpoint *endpoint_of(const struct probe *probe)
{
	return &probe->prober->agent->endpoints->at[probe - probe->prober->at];
}

static uint32_t index_of(const struct probe *probe)
{
	return (uint32_t)(probe - probe->prober->at);
}

static void probe_stop(struct probe *probe)
{
	if (probe->fd < 0)
		return;
	event_del(&probe->event);
	close(probe->fd);
	probe->fd = -1;
}

static void probe_failed(struct probe *probe, int err)
{
	struct endpoint *endpoint = endpoint_of(probe);

	probe->pause_ms = probe->pause_ms ? probe->pause_ms * 2 : PAUSE_MIN_MS;
	if (probe->pause_ms > PAUSE_MAX_MS)
		probe->pause_ms = PAUSE_MAX_MS;
	probe->due_ms = agent_now_ms() + probe->pause_ms + randombytes_uniform(probe->pause_ms / 4 + 1);
	if (endpoint->state == ENDPOINT_STARTING || endpoint->state == ENDPOINT_READY) {
		endpoint_set_state(probe->prober->agent->endpoints, index_of(probe), ENDPOINT_DOWN, strerror(-err));
		upstream_pool_forget(probe->prober->agent->upstreams, index_of(probe));
	}
}

static void probe_succeeded(struct probe *probe)
{
	struct endpoint *endpoint = endpoint_of(probe);

	probe->pause_ms = 0;
	if (endpoint->state == ENDPOINT_STARTING || endpoint->state == ENDPOINT_DOWN)
		endpoint_set_state(probe->prober->agent->endpoints, index_of(probe), ENDPOINT_READY, "accepts connections");
}

static void on_result(evutil_socket_t fd, short what, void *arg)
{
	struct probe *probe = arg;
	int err = 0;
	socklen_t len = sizeof(err);

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (what & EV_TIMEOUT)
		err = ETIMEDOUT;
	probe_stop(probe);
	if (err)
		probe_failed(probe, -err);
	else
		probe_succeeded(probe);
}

static void probe_dial(struct probe *probe)
{
	struct agent *agent = probe->prober->agent;
	struct sockaddr_storage sa;
	socklen_t len = address_to_sockaddr(&endpoint_of(probe)->config.address, &sa);

	probe->fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (probe->fd < 0)
		return; /* tried again at the next tick */
	if (connect(probe->fd, (struct sockaddr *)&sa, len) && errno != EINPROGRESS) {
		int err = -errno;

		close(probe->fd);
		probe->fd = -1;
		probe_failed(probe, err);
		return;
	}
	event_assign(&probe->event, agent->base, probe->fd, EV_WRITE, on_result, probe);
	event_add(&probe->event, agent->timeouts.connect);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct prober *prober = arg;
	uint64_t now_ms = agent_now_ms();

	(void)fd, (void)what;
	for (uint32_t i = 0; i < prober->agent->endpoints->n; i++) {
		struct probe *probe = &prober->at[i];
		const struct endpoint *endpoint = &prober->agent->endpoints->at[i];

		if (probe->generation != endpoint->generation) { /* another pod by now */
			probe_stop(probe);
			probe->generation = endpoint->generation;
			probe->pause_ms = 0;
			probe->due_ms = 0;
		}
		if ((endpoint->state == ENDPOINT_STARTING || endpoint->state == ENDPOINT_DOWN) && probe->fd < 0 &&
			probe->due_ms <= now_ms)
			probe_dial(probe);
	}
}

void prober_suspect(struct prober *prober, uint32_t index)
{
	struct probe *probe = &prober->at[index];
	enum endpoint_state state = prober->agent->endpoints->at[index].state;

	if (probe->fd < 0 && (state == ENDPOINT_STARTING || state == ENDPOINT_READY))
		probe_dial(probe);
}

void prober_endpoint_failed(struct prober *prober, uint32_t index, int err)
{
	struct probe *probe = &prober->at[index];

	if (prober->agent->endpoints->at[index].state == ENDPOINT_STARTING ||
		prober->agent->endpoints->at[index].state == ENDPOINT_READY)
		probe_failed(probe, err);
}

struct prober *prober_new(struct agent *agent)
{
	const struct timeval tick = { .tv_usec = TICK_MS * 1000 };
	struct prober *prober = calloc(1, sizeof(*prober));

	if (!prober)
		return NULL;
	prober->agent = agent;
	for (uint32_t i = 0; i < ENDPOINT_MAX; i++)
		prober->at[i] = (struct probe){ .prober = prober, .fd = -1 };
	prober->tick = event_new(agent->base, -1, EV_PERSIST, on_tick, prober);
	if (!prober->tick || event_add(prober->tick, &tick)) {
		prober_free(prober);
		return NULL;
	}
	event_active(prober->tick, EV_TIMEOUT, 1);
	return prober;
}

void prober_free(struct prober *prober)
{
	if (!prober)
		return;
	for (uint32_t i = 0; i < ENDPOINT_MAX; i++)
		probe_stop(&prober->at[i]);
	if (prober->tick)
		event_free(prober->tick);
	free(prober);
}
