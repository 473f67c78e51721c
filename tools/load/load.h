/* SPDX-License-Identifier: Apache-2.0 */
/* llmd-load: what its files share. */
#ifndef LLMD_TOOLS_LOAD_LOAD_H
#define LLMD_TOOLS_LOAD_LOAD_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "agent/http_body.h"
#include "agent/peer.h"
#include "lib/address.h"
#include "lib/option.h"
#include "tools/load/trace.h"

enum session_mode { SESSION_INFER, SESSION_NONE, SESSION_TRACE };

/** struct load_config - the command line; durations in milliseconds. */
struct load_config {
	const char *trace, *synth, *json, *session_header, *model, *path;
	struct string_list targets, pod_metrics;
	uint64_t concurrency, requests, duration_ms, prompt_bytes, output_tokens, output_max, block_bytes, limit, warmup, timeout_ms, seed;
	uint64_t synth_sessions, endpoints, blocks, slow;
	double rate, time_scale, prefill_rate, itl_ms;
	int session, policy;
	bool stream, new_connection, dry_run, untold, allow_failures, progress;
};

enum failure { FAILURE_CONNECT, FAILURE_TIMEOUT, FAILURE_RESET, FAILURE_CUT, FAILURE_STATUS, FAILURE_MALFORMED, FAILURE_CONTENT, FAILURE_N };

/* quantile.c: a histogram of durations, 256 buckets an octave: within 0.4 %. */
enum { QUANTILE_OCTAVES = 40, QUANTILE_BITS = 8, QUANTILE_STEPS = 1 << QUANTILE_BITS };
struct quantile {
	uint64_t n, max_ns, count[QUANTILE_OCTAVES * QUANTILE_STEPS];
	double sum_ns;
};
void quantile_add(struct quantile *quantile, uint64_t ns);
/** quantile_at() - in seconds; the upper end of the bucket. 0 without samples. */
double quantile_at(const struct quantile *quantile, double share);

/* sse.c: checks a stream of server-sent events as it comes. */
struct sse {
	uint64_t events;   /* with data, [DONE] not counted */
	uint64_t stamp_ns; /* of the last event that has "t_ns"; 0: none */
	bool done, malformed;
	uint32_t len;
	char line[8192];
};
/** sse_feed() - Return: events that this brought. */
uint64_t sse_feed(struct sse *sse, const char *data, size_t len);

/** struct pod_totals - of the pods' metrics, one entry a pod. */
struct pod_totals {
	double queries[1024], hits[1024];
};

struct stats {
	uint64_t started, finished, later_turns, sticky, tokens, bytes;
	uint64_t failures[FAILURE_N];
	uint64_t status[600];
	struct quantile head, ttft, itl, e2e, delay, connect;
	uint64_t first_ns, last_ns;
	struct pod_totals before, after;
};

/** struct order - one request to be made. */
struct order {
	const struct trace_request *from; /* NULL: of --prompt-bytes */
	uint64_t number;
};

struct load {
	const struct load_config *config;
	struct event_base *base;
	struct address target[STRING_LIST_MAX];
	uint64_t random; /* which of them is next */
	struct trace *trace;
	struct stats stats;
	char *request; /* the one that is sent again and again, without a trace */
	size_t request_len;
	uint64_t next, inflight, begun_ns;
	uint32_t *last_pod; /* of each session: hash of its name; 0: none */
	LIST_HEAD(client_list, load_client) idle;
	struct event *clock, *due;
	bool stopping;
};

uint64_t load_now_ns(void);

/* prompt.c: bodies of requests; equal block ids give equal text. The caller frees. */
char *prompt_body(const struct load_config *config, const struct order *order, size_t *len);

/* client.c */
void client_start(struct load *load, const struct order *order);
void clients_close(struct load *load);

/* run.c */
int load_run(struct load *load);
/** load_request_over() - called by a client; starts what comes next. */
void load_request_over(struct load *load);

/* pods.c */
int pods_read(const struct load_config *config, struct pod_totals *out);

/* report.c */
void report_progress(const struct load *load);
int report_print(const struct load *load);

/* synth.c */
int synth_write(const struct load_config *config);

#endif
