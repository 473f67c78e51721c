/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent counts, and how Prometheus sees it (text format 0.0.4). */
#ifndef LLMD_AGENT_METRICS_H
#define LLMD_AGENT_METRICS_H

#include <event2/buffer.h>
#include <stdint.h>
#include <stdio.h>

#include "agent/decide.h"
#include "agent/discovery.h"
#include "agent/endpoint.h"
#include "agent/events.h"
#include "agent/http_head.h"
#include "agent/metrics_kernel.h"
#include "agent/prompt.h"

/* Codes that are told apart; any other counts as "other". Bounds requests_total to API_N x this x pods. */
enum { METRICS_CODES = 16 };

enum metrics_upstream_event {
	METRICS_UPSTREAM_OPENED,
	METRICS_UPSTREAM_REUSED,
	METRICS_UPSTREAM_CONNECT_FAILED,
	METRICS_UPSTREAM_FAILED, /* broke before the first byte of an answer */
	METRICS_UPSTREAM_N
};

enum metrics_cut { METRICS_CUT_CLIENT, METRICS_CUT_UPSTREAM, METRICS_CUT_N };

struct engines;
struct engine_state;

/** struct metrics_gauges - what others know at the moment of a scrape. */
struct metrics_gauges {
	uint64_t clients, upstreams_open, upstreams_idle;
	bool draining;
	struct discovery_stats discovery;
	const struct decider *decider;
	const struct engines *engines;
	const struct engine_state *(*engine_state)(const struct engines *engines, uint32_t index); /* NULL: nothing is known */
	const uint64_t *health; /* health_counts(), or NULL */
	struct metrics_kernel kernel;
	bool has_events;
	struct events_stats events;
};

struct metrics;

/** metrics_new() - @gauges: called at each scrape. About 12 KiB a pod, for ENDPOINT_MAX pods, touched as used. */
struct metrics *metrics_new(const struct endpoint_table *endpoints, const struct decider *decider,
	void (*gauges)(void *ctx, struct metrics_gauges *out), void *ctx);
void metrics_free(struct metrics *metrics);

/* On the request's path: no allocation, no formatting. @endpoint: index, or negative for none. */
void metrics_request(struct metrics *metrics, enum api api, unsigned status, int endpoint, double duration_s);
void metrics_ttft(struct metrics *metrics, int endpoint, double ttft_s);
void metrics_bytes(struct metrics *metrics, uint64_t up, uint64_t down);
void metrics_spliced(struct metrics *metrics, uint64_t bytes);
void metrics_rejected(struct metrics *metrics, enum http_rule rule);
void metrics_decision(struct metrics *metrics, enum decision_reason reason);
void metrics_prompt(struct metrics *metrics, enum prompt_state state);
void metrics_no_session(struct metrics *metrics);
void metrics_retry(struct metrics *metrics);
/** metrics_no_retry() - --retry-budget forbade one. metrics_overload() - refused; @total: not for the pods' own bounds. */
void metrics_no_retry(struct metrics *metrics);
void metrics_overload(struct metrics *metrics, bool total);
void metrics_cut(struct metrics *metrics, enum metrics_cut who);
void metrics_upstream(struct metrics *metrics, enum metrics_upstream_event event);
void metrics_accept_error(struct metrics *metrics);

/** metrics_print() - all families. */
void metrics_print(struct metrics *metrics, struct evbuffer *out);

/** metrics_print_markdown() - their documentation, from the same table. */
void metrics_print_markdown(FILE *out);

#endif
