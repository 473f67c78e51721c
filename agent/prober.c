// SPDX-License-Identifier: Apache-2.0
/*
 * Asks the pods: see prober.h.
 *
 * One timer ticks while the agent lives; what is due is asked, over two connections a pod, so that a scrape that takes long
 * does not hide whether the pod is well: one that has waited for --health-timeout has the pod checked at once. All pauses are spread, so that neither the pods of one agent nor many agents at
 * one pod are asked at the same moment.
 *
 * Checks: a pod that is well each --health-interval; after a failure as soon as --health-timeout allows, so that a pod that
 * hangs is out within --health-interval and --health-fall times --health-timeout; an ejected one with pauses that double
 * from PAUSE_MIN_MS to PAUSE_MAX_MS. With --health-interval 0 only pods that never answered or are out are looked after, and
 * accepting a connection is enough.
 */
#include "agent/prober.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/endpoint.h"
#include "agent/engine.h"
#include "agent/health.h"
#include "agent/probe.h"
#include "lib/log.h"

/* LOOK_TURNS: whether its state has changed is seen after that many ticks at the latest. */
enum { TICK_MS = 100, LOOK_TURNS = 2, PAUSE_MIN_MS = 200, PAUSE_MAX_MS = 5000 };
enum { SCRAPE_TIMEOUT_MS = 3000, MODELS_EVERY_MS = 60000, MODELS_BODY_MAX = 1 << 20 };

/* Of one pod. @seen: its state at the last tick. */
struct watch {
	struct prober *prober;
	struct probe check, scrape;
	uint32_t generation, pause_ms;
	enum endpoint_state seen;
	uint64_t check_due_ms, check_begun_ms, scrape_due_ms, scrape_begun_ms, models_due_ms;
	struct buffer models;
};

struct prober {
	struct agent *agent;
	struct event *tick;
	uint32_t turn;
	uint64_t random;
	uint64_t next_ms[ENDPOINT_MAX]; /* apart: most turns look no further */
	struct watch at[ENDPOINT_MAX];
	struct engine_text text[ENDPOINT_MAX]; /* apart: hardly any of it is touched */
};

static uint32_t index_of(const struct watch *watch)
{
	return (uint32_t)(watch - watch->prober->at);
}

static struct endpoint *endpoint_of(const struct watch *watch)
{
	return &watch->prober->agent->endpoints->at[index_of(watch)];
}

static struct engine_text *text_of(const struct watch *watch)
{
	return &watch->prober->text[index_of(watch)];
}

/* A tenth less at most. */
static uint64_t spread(struct watch *watch, uint64_t ms)
{
	uint64_t *state = &watch->prober->random;

	*state += 0x9e3779b97f4a7c15ull; /* a Weyl sequence, whose upper bits are even enough for that */
	return ms - (*state >> 32) % (ms / 10 + 1);
}

/* ---- checks ---- */

static void plan_check(struct watch *watch, bool ok)
{
	const struct config *config = &watch->prober->agent->config;
	uint64_t now_ms = agent_now_ms();

	if (endpoint_of(watch)->state == ENDPOINT_EJECTED) {
		watch->pause_ms = ok || !watch->pause_ms ? PAUSE_MIN_MS : watch->pause_ms * 2;
		if (watch->pause_ms > PAUSE_MAX_MS)
			watch->pause_ms = PAUSE_MAX_MS;
		watch->check_due_ms = now_ms + spread(watch, watch->pause_ms);
	} else {
		watch->check_due_ms = watch->check_begun_ms + (ok ? spread(watch, config->health_interval_ms) : config->health_timeout_ms);
	}
}

static void on_checked(void *ctx, int err, unsigned status)
{
	struct watch *watch = ctx;
	struct health *health = watch->prober->agent->health;
	bool ok = !err && status < 500; /* a pod that has no such path is there, too */
	char why[ENDPOINT_WHY_MAX];

	if (ok) {
		health_check_ok(health, index_of(watch));
	} else if (err && !watch->check.connected && err != -EMFILE) {
		health_cannot_connect(health, index_of(watch), err);
	} else if (err != -EMFILE) { /* which is the agent's own trouble */
		if (err)
			snprintf(why, sizeof(why), "check: %s", strerror(-err));
		else
			snprintf(why, sizeof(why), "check: answers %u", status);
		health_check_failed(health, index_of(watch), why);
	}
	plan_check(watch, ok);
}

static void check(struct watch *watch, uint64_t now_ms)
{
	const struct config *config = &watch->prober->agent->config;

	watch->check_begun_ms = now_ms;
	probe_ask(&watch->check, &endpoint_of(watch)->config.address, endpoint_of(watch)->name, config->health_interval_ms ? config->health_path : NULL,
		now_ms + (config->health_interval_ms ? config->health_timeout_ms : config->connect_timeout_ms), NULL, on_checked);
}

static bool wants_check(const struct watch *watch)
{
	switch (endpoint_of(watch)->state) {
	case ENDPOINT_STARTING:
	case ENDPOINT_DEGRADED:
	case ENDPOINT_EJECTED:
		return true;
	case ENDPOINT_READY:
		return watch->prober->agent->config.health_interval_ms;
	case ENDPOINT_FREE:
	case ENDPOINT_DRAINING:
	case ENDPOINT_STATE_N:
		break;
	}
	return false;
}

/* ---- scrapes ---- */

static void on_models_content(void *ctx, const char *data, size_t len)
{
	struct watch *watch = ctx;

	if (buffer_append(&watch->models, data, len, MODELS_BODY_MAX))
		log_debug("list of models too long", "endpoint=%s", endpoint_of(watch)->name);
}

static void on_models(void *ctx, int err, unsigned status)
{
	struct watch *watch = ctx;
	uint64_t hashes[ENGINE_NAMES_MAX];
	int n = err || status != 200 ? -EINVAL : engine_models_parse(buffer_head(&watch->models), watch->models.len, hashes);

	buffer_free(&watch->models);
	if (n > 0)
		engine_serves(watch->prober->agent->engines, index_of(watch), hashes, (unsigned)n);
}

static void on_metrics_content(void *ctx, const char *data, size_t len)
{
	engine_text_feed(text_of(ctx), data, len);
}

static void on_metrics(void *ctx, int err, unsigned status)
{
	struct watch *watch = ctx;
	struct engines *engines = watch->prober->agent->engines;

	engine_text_end(text_of(watch));
	if (err || status != 200)
		engine_not_sampled(engines, index_of(watch));
	else
		engine_sampled(engines, index_of(watch), &text_of(watch)->sample, agent_now_ms());
}

static void scrape(struct watch *watch, uint64_t now_ms)
{
	const struct endpoint *endpoint = endpoint_of(watch);

	watch->scrape_begun_ms = now_ms;
	if (watch->models_due_ms <= now_ms) {
		watch->models_due_ms = now_ms + spread(watch, MODELS_EVERY_MS);
		probe_ask(&watch->scrape, &endpoint->config.address, endpoint->name, "/v1/models", now_ms + SCRAPE_TIMEOUT_MS, on_models_content, on_models);
		return;
	}
	watch->scrape_due_ms = now_ms + spread(watch, watch->prober->agent->config.scrape_interval_ms);
	text_of(watch)->sample = (struct engine_sample){ 0 };
	probe_ask(&watch->scrape, &endpoint->config.address, endpoint->name, "/metrics", now_ms + SCRAPE_TIMEOUT_MS, on_metrics_content, on_metrics);
}

/* ---- the clock ---- */

static void forget(struct watch *watch)
{
	probe_close(&watch->check);
	probe_close(&watch->scrape);
	buffer_free(&watch->models);
	watch->pause_ms = 0;
	watch->check_due_ms = 0;
	watch->scrape_due_ms = 0;
	watch->models_due_ms = 0;
	watch->seen = ENDPOINT_FREE;
}

static void note_state(struct watch *watch, uint64_t now_ms)
{
	enum endpoint_state state = endpoint_of(watch)->state;

	if (watch->seen == state)
		return;
	if (state == ENDPOINT_EJECTED) {
		watch->pause_ms = 0;
		watch->check_due_ms = now_ms + PAUSE_MIN_MS;
	} else if (watch->seen == ENDPOINT_EJECTED) {
		watch->scrape_due_ms = now_ms; /* it may have been started anew */
		watch->models_due_ms = now_ms;
	}
	watch->seen = state;
}

static void look_after_scrape(struct watch *watch, uint64_t now_ms)
{
	struct agent *agent = watch->prober->agent;

	if (probe_is_asking(&watch->scrape))
		probe_turn(&watch->scrape, now_ms);
	if (probe_is_asking(&watch->scrape)) {
		if (now_ms >= watch->scrape_begun_ms + agent->config.health_timeout_ms && watch->check_begun_ms < watch->scrape_begun_ms)
			watch->check_due_ms = now_ms; /* does it hang? */
	} else if (watch->scrape_due_ms <= now_ms && endpoint_is_up(endpoint_of(watch))) {
		scrape(watch, now_ms);
	}
	engine_age(agent->engines, index_of(watch), now_ms);
}

/* When it need be looked at again, if nothing happens to it. */
static uint64_t next_look(const struct watch *watch)
{
	bool scrapes = watch->prober->agent->config.scrape_interval_ms && endpoint_is_up(endpoint_of(watch));
	uint64_t check_ms = wants_check(watch) ? watch->check_due_ms : UINT64_MAX;
	uint64_t scrape_ms = scrapes ? watch->scrape_due_ms : UINT64_MAX;

	if (probe_is_asking(&watch->check) || probe_is_asking(&watch->scrape))
		return 0;
	return check_ms < scrape_ms ? check_ms : scrape_ms;
}

static void look_at(struct watch *watch, uint64_t now_ms)
{
	const struct endpoint *endpoint = endpoint_of(watch);

	if (watch->generation != endpoint->generation) { /* another pod by now */
		forget(watch);
		watch->generation = endpoint->generation;
	}
	note_state(watch, now_ms);
	if (watch->prober->agent->config.scrape_interval_ms)
		look_after_scrape(watch, now_ms);
	if (probe_is_asking(&watch->check))
		probe_turn(&watch->check, now_ms);
	else if (watch->check_due_ms <= now_ms && wants_check(watch))
		check(watch, now_ms);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct prober *prober = arg;
	uint64_t now_ms = agent_now_ms();

	(void)fd, (void)what;
	prober->turn++;
	for (uint32_t i = 0; i < prober->agent->endpoints->n; i++) {
		if (prober->next_ms[i] > now_ms && (i + prober->turn) % LOOK_TURNS)
			continue;
		look_at(&prober->at[i], now_ms);
		prober->next_ms[i] = next_look(&prober->at[i]);
	}
}

void prober_suspect(struct prober *prober, uint32_t index)
{
	struct watch *watch = &prober->at[index];

	if (probe_is_asking(&watch->check) || !endpoint_is_up(endpoint_of(watch)))
		return;
	check(watch, agent_now_ms());
	prober->next_ms[index] = 0;
}

struct prober *prober_new(struct agent *agent)
{
	const struct timeval tick = { .tv_usec = TICK_MS * 1000 };
	struct prober *prober = calloc(1, sizeof(*prober));

	if (!prober)
		return NULL;
	prober->agent = agent;
	randombytes_buf(&prober->random, sizeof(prober->random));
	for (uint32_t i = 0; i < ENDPOINT_MAX; i++) {
		struct watch *watch = &prober->at[i];

		watch->prober = prober;
		probe_init(&watch->check, agent->scratch, watch);
		probe_init(&watch->scrape, agent->scratch, watch);
	}
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
		forget(&prober->at[i]);
	if (prober->tick)
		event_free(prober->tick);
	free(prober);
}
