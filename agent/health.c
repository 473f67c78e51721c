// SPDX-License-Identifier: Apache-2.0
/*
 * Which pods are fit: see health.h.
 *
 * How it works
 *
 * Active: a check (prober.c) that fails makes a pod degraded at once, so that others are taken where that costs little;
 * --health-fall failures in a row eject it. Passive: --eject-after failures of requests in a row (reset, cut, 5xx) eject it,
 * and a connection that does not come about does so at once.
 *
 * Never the last half: where half of the pods are out already, a pod that would be ejected is degraded instead, for then
 * it is as likely that the checks are wrong, and some answers are better than none. One that refuses connections is
 * ejected all the same: nothing is there that could answer.
 *
 * An ejected pod comes back with --health-rise good checks in a row (the first one, if connections were refused), but not
 * before its time is over: --eject-time, twice as long each time it is ejected anew, until it has been well for a while. Who
 * refuses connections for the first time is just being started: none; again and again, it crashes. Nobody's time counts while
 * more than half are out.
 *
 * What is done about an ejection: idle connections are closed, requests that wait for the pod's first byte are taken
 * elsewhere, and with --on-eject reset streams in the kernel are cut. That is put off to the next turn of the loop: it is
 * often a request's own failure that ejects.
 */
#include "agent/health.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/client.h"
#include "agent/datapath.h"
#include "agent/endpoint.h"
#include "agent/exchange.h"
#include "agent/flow_table.h"
#include "agent/upstream.h"

enum { EJECT_DOUBLINGS_MAX = 6, WELL_MS = 150000, STATUS_NOT_IMPLEMENTED = 501, STATUS_VERSION = 505 };

/* Of one pod; @ejections: since it was last ready for WELL_MS. @until_ms: not before it comes back. */
struct fitness {
	uint32_t generation, fails, passes, request_fails, ejections;
	uint64_t until_ms, ready_ms;
	bool refused, flows_to_reset;
};

struct health {
	struct agent *agent;
	struct event *settle; /* what follows from ejections */
	uint64_t counts[HEALTH_EVENT_N];
	struct fitness at[ENDPOINT_MAX];
};

const uint64_t *health_counts(const struct health *health)
{
	return health->counts;
}

static struct fitness *fitness_of(struct health *health, uint32_t index)
{
	struct fitness *fitness = &health->at[index];
	uint32_t generation = health->agent->endpoints->at[index].generation;

	if (fitness->generation != generation)
		*fitness = (struct fitness){ .generation = generation };
	return fitness;
}

/* With @more than are out now. Draining pods are on their way out: they neither count nor can be ejected. */
static bool are_too_many_out(const struct endpoint_table *table, uint32_t more)
{
	uint32_t out = more, all = 0;

	for (uint32_t i = 0; i < table->n; i++) {
		out += table->at[i].state == ENDPOINT_EJECTED;
		all += table->at[i].state == ENDPOINT_EJECTED || endpoint_is_up(&table->at[i]);
	}
	return 2 * out > all;
}

static void set_out_time(struct health *health, struct fitness *fitness, bool refused)
{
	uint64_t now_ms = agent_now_ms(), out_ms;
	uint32_t before;

	if (now_ms > fitness->ready_ms + WELL_MS)
		fitness->ejections = 0;
	before = fitness->ejections < EJECT_DOUBLINGS_MAX ? fitness->ejections : EJECT_DOUBLINGS_MAX;
	out_ms = health->agent->config.eject_time_ms << before;
	if (refused)
		out_ms = before ? out_ms / 2 : 0;
	fitness->until_ms = now_ms + out_ms;
	fitness->ejections++;
}

static void degrade(struct health *health, uint32_t index, const char *why)
{
	struct endpoint *endpoint = &health->agent->endpoints->at[index];

	if (endpoint->state == ENDPOINT_READY || endpoint->state == ENDPOINT_STARTING)
		endpoint_set_state(health->agent->endpoints, index, ENDPOINT_DEGRADED, why);
}

static void eject(struct health *health, uint32_t index, const char *why, bool refused)
{
	struct endpoint_table *table = health->agent->endpoints;
	struct fitness *fitness = fitness_of(health, index);
	char text[ENDPOINT_WHY_MAX];

	fitness->passes = 0;
	if (!endpoint_is_up(&table->at[index]))
		return;
	if (!refused && are_too_many_out(table, 1)) {
		health->counts[HEALTH_SPARED]++;
		snprintf(text, sizeof(text), "%s; half are out", why);
		degrade(health, index, text);
		return;
	}
	fitness->refused = refused;
	fitness->request_fails = 0;
	set_out_time(health, fitness, refused);
	fitness->flows_to_reset = health->agent->config.on_eject == ON_EJECT_RESET;
	health->counts[HEALTH_EJECTED]++;
	endpoint_set_state(table, index, ENDPOINT_EJECTED, why);
	event_active(health->settle, EV_TIMEOUT, 1);
}

void health_check_ok(struct health *health, uint32_t index)
{
	struct fitness *fitness = fitness_of(health, index);
	struct endpoint *endpoint = &health->agent->endpoints->at[index];

	health->counts[HEALTH_CHECK_OK]++;
	fitness->fails = 0;
	fitness->passes++;
	if (agent_now_ms() < fitness->until_ms &&
		!(endpoint->state == ENDPOINT_EJECTED && are_too_many_out(health->agent->endpoints, 0)))
		return;
	if (endpoint->state == ENDPOINT_STARTING || endpoint->state == ENDPOINT_DEGRADED ||
		(endpoint->state == ENDPOINT_EJECTED && (fitness->refused || fitness->passes >= health->agent->config.health_rise))) {
		fitness->ready_ms = agent_now_ms();
		endpoint_set_state(health->agent->endpoints, index, ENDPOINT_READY, "answers checks");
	}
}

void health_check_failed(struct health *health, uint32_t index, const char *why)
{
	struct fitness *fitness = fitness_of(health, index);

	health->counts[HEALTH_CHECK_FAILED]++;
	fitness->passes = 0;
	fitness->fails++;
	if (fitness->fails >= health->agent->config.health_fall)
		eject(health, index, why, false);
	else
		degrade(health, index, why);
}

void health_cannot_connect(struct health *health, uint32_t index, int err)
{
	eject(health, index, strerror(-err), err == -ECONNREFUSED);
}

void health_request_failed(struct health *health, uint32_t index, const char *why)
{
	struct fitness *fitness = fitness_of(health, index);
	uint64_t most = health->agent->config.eject_after;

	health->counts[HEALTH_REQUEST_FAILED]++;
	fitness->request_fails++;
	if (!most || fitness->request_fails < most)
		return;
	fitness->request_fails = 0;
	eject(health, index, why, false);
	if (health->agent->endpoints->at[index].state == ENDPOINT_DEGRADED)
		set_out_time(health, fitness, false); /* or the next check would end it */
}

void health_answered(struct health *health, uint32_t index, unsigned status)
{
	char why[ENDPOINT_WHY_MAX];

	if (status < 500 || status == STATUS_NOT_IMPLEMENTED || status >= STATUS_VERSION) {
		fitness_of(health, index)->request_fails = 0;
		return;
	}
	snprintf(why, sizeof(why), "answers requests with %u", status);
	health_request_failed(health, index, why);
}

/* ---- what follows ---- */

static bool waits_for_ejected(const struct exchange *exchange, const struct endpoint_table *table)
{
	const struct endpoint *endpoint;

	if (!exchange || exchange->decision.endpoint < 0)
		return false;
	endpoint = &table->at[exchange->decision.endpoint];
	return endpoint->state == ENDPOINT_EJECTED && exchange->claim.generation == endpoint->generation;
}

/* A client that ends meanwhile stays in memory, and keeps its place in the list, until the loop comes round. */
static void take_requests_elsewhere(struct agent *agent)
{
	struct client *next;

	for (struct client *client = agent->clients; client; client = next) {
		next = client->next;
		if (waits_for_ejected(client->exchange, agent->endpoints))
			exchange_leave_pod(client->exchange);
	}
}

static void on_settle(evutil_socket_t fd, short what, void *arg)
{
	struct health *health = arg;
	struct agent *agent = health->agent;

	(void)fd, (void)what;
	for (uint32_t i = 0; i < agent->endpoints->n; i++) {
		if (agent->endpoints->at[i].state != ENDPOINT_EJECTED)
			continue;
		upstream_pool_forget(agent->upstreams, i);
		if (fitness_of(health, i)->flows_to_reset && datapath_is_open(agent->datapath))
			flow_table_endpoint_gone(datapath_flows(agent->datapath), i);
		fitness_of(health, i)->flows_to_reset = false;
	}
	take_requests_elsewhere(agent);
}

struct health *health_new(struct agent *agent)
{
	struct health *health = calloc(1, sizeof(*health));

	if (!health)
		return NULL;
	health->agent = agent;
	health->settle = event_new(agent->base, -1, 0, on_settle, health);
	if (health->settle)
		return health;
	free(health);
	return NULL;
}

void health_free(struct health *health)
{
	if (!health)
		return;
	event_free(health->settle);
	free(health);
}
