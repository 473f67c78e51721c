// SPDX-License-Identifier: Apache-2.0
/* Choosing a pod for a request, and reaching it, or another: see exchange.h. */
#include <errno.h>

#include "agent/agent.h"
#include "agent/client.h"
#include "agent/exchange.h"
#include "agent/health.h"
#include "agent/metrics.h"
#include "agent/upstream.h"
#include "lib/log.h"

enum { FAILURE_LOG_MS = 1000, LEAVING_LOGGED = 20 };

static void record_decision(struct exchange *exchange)
{
	struct agent *agent = exchange->client->agent;
	const struct decision_record record = {
		.request_id = exchange->request_id,
		.api = exchange->api,
		.model = exchange->facts ? exchange->facts->model : "",
		.session_source = exchange->session_source,
		.session = exchange->session,
		.decision = &exchange->decision,
	};

	metrics_decision(agent->metrics, exchange->decision.reason);
	exchange->logged = decision_log_add(agent->decisions, &record);
}

/* This is where a request is decided: the facts of its body and its session go into decide(). */
int exchange_route(struct exchange *exchange)
{
	struct agent *agent = exchange->client->agent;
	const struct prompt_facts *facts = exchange->facts;
	struct decide_request request = {
		.model = facts ? facts->model : "",
		.has_session = exchange->has_session,
		.session = exchange->session,
		.blocks = facts ? facts->blocks : NULL,
		.n_blocks = facts ? facts->n_blocks : 0,
		.prompt_bytes = facts ? facts->prompt_bytes : 0,
		.excluded = exchange->excluded,
	};
	struct endpoint_claim claim = { 0 };
	struct decision decision;
	uint64_t most = agent->config.max_inflight_total;
	int err;

	if (most && agent->endpoints->inflight_requests - exchange->claim.holds_request >= most)
		return -EDQUOT;
	err = decide(agent->decider, &request, agent_now_ms(), &decision, &claim);

	if (err)
		return err;
	endpoint_claim_release(agent->endpoints, &exchange->claim);
	exchange->claim = claim;
	exchange->decision = decision;
	record_decision(exchange);
	return 0;
}

void exchange_connect(struct exchange *exchange, bool fresh)
{
	struct agent *agent = exchange->client->agent;
	int err = upstream_get(agent->upstreams, (uint32_t)exchange->decision.endpoint, fresh, exchange, &exchange->upstream);

	if (err) {
		exchange->upstream = NULL;
		exchange_set_state(exchange, EXCHANGE_CONNECT);
		exchange_fail(exchange, err, "the pod cannot be reached");
	} else if (exchange->upstream->state == UPSTREAM_BUSY) {
		forward_begin(exchange);
	} else {
		exchange_set_state(exchange, EXCHANGE_CONNECT);
	}
}

static void drop_upstream(struct exchange *exchange)
{
	if (exchange->upstream)
		upstream_close(exchange->upstream);
	exchange->upstream = NULL;
}

void exchange_redial(struct exchange *exchange)
{
	drop_upstream(exchange);
	exchange_connect(exchange, true);
}

bool exchange_try_elsewhere(struct exchange *exchange)
{
	struct agent *agent = exchange->client->agent;
	uint32_t failed = (uint32_t)exchange->decision.endpoint;

	if (!exchange->at_hand || exchange->retries >= agent->config.retries)
		return false;
	exchange->excluded[failed / 8] |= (uint8_t)(1u << failed % 8);
	if (!retry_budget_take(&agent->retry_budget, agent_now_ms())) {
		metrics_no_retry(agent->metrics);
		return false;
	}
	if (exchange_route(exchange))
		return false;
	exchange->retries++;
	metrics_retry(agent->metrics);
	drop_upstream(exchange);
	exchange_connect(exchange, false);
	return true;
}

void exchange_leave_pod(struct exchange *exchange)
{
	struct agent *agent = exchange->client->agent;
	bool waits = exchange->state == EXCHANGE_CONNECT || exchange->state == EXCHANGE_SEND || exchange->state == EXCHANGE_ANSWER;

	if (!waits || exchange->status || exchange->answered || !exchange->at_hand)
		return;
	log_paced(&agent->endpoints->at[exchange->decision.endpoint].leaving_pace, LEAVING_LOGGED, 1000, LOG_LEVEL_INFO, "request leaves its pod",
		"id=%s pod=%s", exchange->request_id, exchange_pod_name(exchange));
	metrics_upstream(agent->metrics, METRICS_UPSTREAM_FAILED);
	exchange_try_elsewhere(exchange); /* or it goes on waiting: it may still be answered */
}

void exchange_refuse_failed(struct exchange *exchange, int err, const char *what)
{
	struct agent *agent = exchange->client->agent;
	uint64_t model = endpoint_model_hash(exchange->facts ? exchange->facts->model : "");
	bool any = false;

	if (err == -EDQUOT || err == -EBUSY) {
		metrics_overload(agent->metrics, err == -EDQUOT);
		exchange_refuse(exchange, err == -EDQUOT ? 429 : 503, err == -EDQUOT ? "rate_limit_error" : "overloaded_error",
			err == -EDQUOT ? "too many requests at a time" : "all pods are busy", "Retry-After: 1\r\n");
		return;
	}
	for (uint32_t i = 0; i < agent->endpoints->n; i++)
		any |= endpoint_is_usable(&agent->endpoints->at[i], model);
	if (!any)
		exchange_refuse(exchange, 503, "service_unavailable", "no pod is available", "Retry-After: 1\r\n");
	else
		exchange_refuse(exchange, err == -ETIMEDOUT ? 504 : 502, "bad_gateway", what, "");
}

/* Of this process or its node: no other pod would be reached either, and none is to blame. */
static bool is_own_trouble(int err)
{
	return err == -EMFILE || err == -ENFILE || err == -ENOBUFS || err == -ENOMEM || err == -EADDRNOTAVAIL;
}

static void refuse_for_own_trouble(struct exchange *exchange, int err)
{
	metrics_upstream(exchange->client->agent->metrics, METRICS_UPSTREAM_CONNECT_FAILED);
	log_debug("no connection to a pod can be made", "id=%s errno=%d", exchange->request_id, -err);
	exchange_refuse(exchange, 503, "overloaded_error", "the router is out of resources", "Retry-After: 1\r\n");
}

/* One line a second for each pod, or an outage would fill the disk, too. */
static void log_failure(const struct exchange *exchange, int err, const char *what)
{
	struct endpoint *endpoint = &exchange->client->agent->endpoints->at[exchange->decision.endpoint];

	log_paced(&endpoint->failure_pace, 1, FAILURE_LOG_MS, LOG_LEVEL_WARN, "pod failed", "id=%s pod=%s what=\"%s\" errno=%d",
		exchange->request_id, exchange_pod_name(exchange), what, -err);
}

void exchange_fail(struct exchange *exchange, int err, const char *what)
{
	struct agent *agent = exchange->client->agent;
	struct upstream *upstream = exchange->upstream;
	/* Closed by the pod just when it was used again: nothing wrong with the pod. */
	bool closed = err != -EPROTO && err != -ETIMEDOUT && err != -ENETUNREACH;
	bool stale = upstream && upstream->reused && !upstream->in.len && closed && exchange->at_hand;
	bool dialling = exchange->state == EXCHANGE_CONNECT;

	if (exchange->answered) {
		health_request_failed(agent->health, (uint32_t)exchange->decision.endpoint, what);
		metrics_cut(agent->metrics, METRICS_CUT_UPSTREAM);
		client_close(exchange->client, true);
		return;
	}
	drop_upstream(exchange);
	if (stale) {
		exchange_connect(exchange, true);
		return;
	}
	if (dialling && is_own_trouble(err)) {
		refuse_for_own_trouble(exchange, err);
		return;
	}
	metrics_upstream(agent->metrics, dialling ? METRICS_UPSTREAM_CONNECT_FAILED : METRICS_UPSTREAM_FAILED);
	log_failure(exchange, err, what);
	if (dialling)
		health_cannot_connect(agent->health, (uint32_t)exchange->decision.endpoint, err);
	else
		health_request_failed(agent->health, (uint32_t)exchange->decision.endpoint, what);
	if (!exchange_try_elsewhere(exchange))
		exchange_refuse_failed(exchange, err, what);
}

/* ---- what the pool of pod connections calls ---- */

static void on_failed(struct exchange *exchange, int err)
{
	exchange->upstream = NULL;
	exchange_fail(exchange, err, err == -ETIMEDOUT ? "connecting to the pod took too long" : "the pod cannot be reached");
}

static void on_broken(struct exchange *exchange, int err)
{
	forward_failed(exchange, err, "the connection to the pod broke");
}

const struct upstream_callbacks exchange_upstream_callbacks = {
	.connected = forward_begin,
	.failed = on_failed,
	.readable = response_readable,
	.writable = forward_upstream_writable,
	.broken = on_broken,
};
