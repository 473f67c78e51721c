// SPDX-License-Identifier: Apache-2.0
/*
 * What the agent counts: see metrics.h. One table of families says name, type, help, labels and how the samples are
 * printed; the exposition and docs/metrics.md both come from it. Labels take their values from enumerations and from the
 * endpoint table, so the number of series is bounded; a pod's series start anew when its index is given to another pod.
 */
#include "agent/metrics.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "agent/metrics_endpoint.h"
#include "agent/metrics_events.h"
#include "agent/metrics_kernel.h"
#include "agent/metrics_print.h"
#include "lib/histogram.h"
#include "lib/version.h"

static const unsigned codes[METRICS_CODES - 1] = { 200, 201, 204, 400, 401, 404, 408, 413, 422, 429, 499, 500, 502, 503, 504 };

struct pod_metrics {
	uint32_t generation;
	uint64_t requests[API_N][METRICS_CODES];
	struct histogram ttft, duration;
};

struct metrics {
	const struct endpoint_table *endpoints;
	const struct decider *decider;
	void (*gauges)(void *ctx, struct metrics_gauges *out);
	void *ctx;
	double started_s;
	uint64_t bytes_up, bytes_down, spliced, no_session, retries, no_retries, overload[2], accept_errors;
	uint64_t rejected[HTTP_RULE_N], decisions[DECISION_REASON_N], prompts[PROMPT_N];
	uint64_t cuts[METRICS_CUT_N], upstream[METRICS_UPSTREAM_N];
	uint64_t unrouted[API_N][METRICS_CODES]; /* requests that reached no pod */
	struct pod_metrics pod[ENDPOINT_MAX];
};

struct metrics *metrics_new(const struct endpoint_table *endpoints, const struct decider *decider,
	void (*gauges)(void *ctx, struct metrics_gauges *out), void *ctx)
{
	struct metrics *metrics = calloc(1, sizeof(*metrics));
	struct timespec now;

	if (!metrics)
		return NULL;
	clock_gettime(CLOCK_REALTIME, &now);
	metrics->started_s = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
	metrics->endpoints = endpoints;
	metrics->decider = decider;
	metrics->gauges = gauges;
	metrics->ctx = ctx;
	return metrics;
}

void metrics_free(struct metrics *metrics)
{
	free(metrics);
}

/* ---- counting ---- */

static struct pod_metrics *pod_of(struct metrics *metrics, int endpoint)
{
	struct pod_metrics *pod = &metrics->pod[endpoint];

	if (pod->generation != metrics->endpoints->at[endpoint].generation) {
		memset(pod, 0, sizeof(*pod));
		pod->generation = metrics->endpoints->at[endpoint].generation;
		histogram_init(&pod->ttft, histogram_bounds_ttft, histogram_n_bounds_ttft);
		histogram_init(&pod->duration, histogram_bounds_e2e, histogram_n_bounds_e2e);
	}
	return pod;
}

static unsigned code_index(unsigned status)
{
	unsigned i = 0;

	while (i < METRICS_CODES - 1 && codes[i] != status)
		i++;
	return i;
}

void metrics_request(struct metrics *metrics, enum api api, unsigned status, int endpoint, double duration_s)
{
	if (endpoint < 0) {
		metrics->unrouted[api][code_index(status)]++;
		return;
	}
	pod_of(metrics, endpoint)->requests[api][code_index(status)]++;
	histogram_observe(&pod_of(metrics, endpoint)->duration, duration_s);
}

void metrics_ttft(struct metrics *metrics, int endpoint, double ttft_s)
{
	if (endpoint >= 0)
		histogram_observe(&pod_of(metrics, endpoint)->ttft, ttft_s);
}

void metrics_bytes(struct metrics *metrics, uint64_t up, uint64_t down)
{
	metrics->bytes_up += up;
	metrics->bytes_down += down;
}

void metrics_spliced(struct metrics *metrics, uint64_t bytes)
{
	metrics->spliced += bytes;
}

void metrics_rejected(struct metrics *metrics, enum http_rule rule)
{
	metrics->rejected[rule]++;
}

void metrics_decision(struct metrics *metrics, enum decision_reason reason)
{
	metrics->decisions[reason]++;
}

void metrics_prompt(struct metrics *metrics, enum prompt_state state)
{
	metrics->prompts[state]++;
}

void metrics_no_session(struct metrics *metrics)
{
	metrics->no_session++;
}

void metrics_retry(struct metrics *metrics)
{
	metrics->retries++;
}

void metrics_no_retry(struct metrics *metrics)
{
	metrics->no_retries++;
}

void metrics_overload(struct metrics *metrics, bool total)
{
	metrics->overload[total]++;
}

void metrics_cut(struct metrics *metrics, enum metrics_cut who)
{
	metrics->cuts[who]++;
}

void metrics_upstream(struct metrics *metrics, enum metrics_upstream_event event)
{
	metrics->upstream[event]++;
}

void metrics_accept_error(struct metrics *metrics)
{
	metrics->accept_errors++;
}

/* ---- printing ---- */

static void print_codes(struct scrape *scrape, uint64_t counts[API_N][METRICS_CODES], const char *pod)
{
	for (enum api api = 0; api < API_N; api++) {
		for (unsigned c = 0; c < METRICS_CODES; c++) {
			char code[16] = "other", labels[SCRAPE_LABELS_MAX];

			if (!counts[api][c])
				continue;
			if (c < METRICS_CODES - 1)
				snprintf(code, sizeof(code), "%u", codes[c]);
			snprintf(labels, sizeof(labels), "path=\"%s\",code=\"%s\",pod=\"%s\"", prompt_api_name(api), code, pod);
			sample(scrape, "", labels, counts[api][c]);
		}
	}
}

static void pod_requests(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	print_codes(scrape, pod_of(scrape->metrics, (int)i)->requests, endpoint->name);
}

static void print_requests(struct scrape *scrape)
{
	print_codes(scrape, scrape->metrics->unrouted, "");
	each_pod(scrape, pod_requests);
}

static void pod_ttft(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	print_histogram(scrape, &pod_of(scrape->metrics, (int)i)->ttft, endpoint);
}

static void print_ttft(struct scrape *scrape)
{
	each_pod(scrape, pod_ttft);
}

static void pod_duration(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	print_histogram(scrape, &pod_of(scrape->metrics, (int)i)->duration, endpoint);
}

static void print_duration(struct scrape *scrape)
{
	each_pod(scrape, pod_duration);
}

static void print_by_source(struct scrape *scrape, const uint64_t *number)
{
	for (enum discovery_kind kind = 0; kind < DISCOVERY_KIND_N; kind++)
		if (scrape->gauges.discovery.used[kind])
			sample_label(scrape, "source", discovery_kind_name(kind), number[kind]);
}

static void print_listed(struct scrape *scrape)
{
	print_by_source(scrape, scrape->gauges.discovery.listed);
}

static void print_updates(struct scrape *scrape)
{
	print_by_source(scrape, scrape->gauges.discovery.updates);
}

static void print_failures(struct scrape *scrape)
{
	print_by_source(scrape, scrape->gauges.discovery.failures);
}

static void print_decisions(struct scrape *scrape)
{
	for (enum decision_reason reason = 0; reason < DECISION_REASON_N; reason++)
		sample_label(scrape, "reason", decision_reason_name(reason), scrape->metrics->decisions[reason]);
}

static void print_rejected(struct scrape *scrape)
{
	for (enum http_rule rule = HTTP_RULE_NONE + 1; rule < HTTP_RULE_N; rule++)
		sample_label(scrape, "rule", http_rule_name(rule), scrape->metrics->rejected[rule]);
}

static void print_prompts(struct scrape *scrape)
{
	for (enum prompt_state state = PROMPT_READING + 1; state < PROMPT_N; state++)
		sample_label(scrape, "result", prompt_state_name(state), scrape->metrics->prompts[state]);
}

static void print_upstream_events(struct scrape *scrape)
{
	static const char *const names[METRICS_UPSTREAM_N] = { "opened", "reused", "connect_failed", "failed" };

	for (int i = 0; i < METRICS_UPSTREAM_N; i++)
		sample_label(scrape, "event", names[i], scrape->metrics->upstream[i]);
}

static void print_cuts(struct scrape *scrape)
{
	sample_label(scrape, "side", "client", scrape->metrics->cuts[METRICS_CUT_CLIENT]);
	sample_label(scrape, "side", "pod", scrape->metrics->cuts[METRICS_CUT_UPSTREAM]);
}

static void print_overload(struct scrape *scrape)
{
	sample_label(scrape, "limit", "pod", scrape->metrics->overload[false]);
	sample_label(scrape, "limit", "total", scrape->metrics->overload[true]);
}

static void print_connections(struct scrape *scrape)
{
	sample_label(scrape, "side", "client", scrape->gauges.clients);
	sample_label(scrape, "side", "pod", scrape->gauges.upstreams_open);
	sample_label(scrape, "side", "pod_idle", scrape->gauges.upstreams_idle);
}

static void print_bytes(struct scrape *scrape)
{
	sample_label(scrape, "direction", "to_pod", scrape->metrics->bytes_up);
	sample_label(scrape, "direction", "to_client", scrape->metrics->bytes_down);
}

#define PRINT_COUNT(function, value) \
	static void function(struct scrape *scrape) \
	{ \
		sample_u64(scrape, scrape->value); \
	}
PRINT_COUNT(print_queried, decider.queried_blocks)
PRINT_COUNT(print_hit, decider.hit_blocks)
PRINT_COUNT(print_sessions, decider.sessions)
PRINT_COUNT(print_sessions_max, decider.sessions_max)
PRINT_COUNT(print_sessions_evicted, decider.sessions_evicted)
PRINT_COUNT(print_sessions_expired, decider.sessions_expired)
PRINT_COUNT(print_blocks, decider.prefix_blocks)
PRINT_COUNT(print_blocks_max, decider.prefix_blocks_max)
PRINT_COUNT(print_blocks_evicted, decider.prefix_evicted)
PRINT_COUNT(print_table_bytes, decider.bytes)
PRINT_COUNT(print_no_session, metrics->no_session)
PRINT_COUNT(print_retries, metrics->retries)
PRINT_COUNT(print_no_retries, metrics->no_retries)
PRINT_COUNT(print_accept_errors, metrics->accept_errors)
PRINT_COUNT(print_spliced, metrics->spliced)
PRINT_COUNT(print_left_out, gauges.discovery.left_out)
PRINT_COUNT(print_draining, gauges.draining)

static void print_build_info(struct scrape *scrape)
{
	sample_label(scrape, "version", LLMD_VERSION, 1);
}

static void print_start_time(struct scrape *scrape)
{
	sample_double(scrape, "", "", scrape->metrics->started_s);
}

static void print_cpu(struct scrape *scrape)
{
	struct rusage usage = { 0 };

	getrusage(RUSAGE_SELF, &usage);
	sample_double(scrape, "", "", (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
		(double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
}

static void print_resident(struct scrape *scrape)
{
	FILE *file = fopen("/proc/self/statm", "re");
	unsigned long pages = 0;

	if (file && fscanf(file, "%*u %lu", &pages) != 1)
		pages = 0;
	if (file)
		fclose(file);
	sample_u64(scrape, (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE));
}

static void print_open_fds(struct scrape *scrape)
{
	DIR *dir = opendir("/proc/self/fd");
	uint64_t n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	sample_u64(scrape, n > 3 ? n - 3 : 0); /* ".", ".." and the directory itself */
}

/* clang-format off */
static const struct family families[] = {
	{ "llmd_requests_total", "counter", "path, code, pod", "Requests answered, by API, status code and pod (empty: none reached).",
	  "sum by (code) (rate(llmd_requests_total[5m]))", print_requests },
	{ "llmd_decisions_total", "counter", "reason", "Choices of a pod, by reason.",
	  "sum by (reason) (rate(llmd_decisions_total[5m]))", print_decisions },
	{ "llmd_prefix_blocks_queried_total", "counter", "", "Prefix blocks of all routed prompts.",
	  "rate(llmd_prefix_blocks_hit_total[5m]) / rate(llmd_prefix_blocks_queried_total[5m])", print_queried },
	{ "llmd_prefix_blocks_hit_total", "counter", "", "Of those, blocks estimated to be cached on the chosen pod.",
	  "rate(llmd_prefix_blocks_hit_total[5m]) / rate(llmd_prefix_blocks_queried_total[5m])", print_hit },
	{ "llmd_ttft_seconds", "histogram", "pod", "From the request's head to the first content of the answer.",
	  "histogram_quantile(0.95, sum by (le) (rate(llmd_ttft_seconds_bucket[5m])))", print_ttft },
	{ "llmd_request_duration_seconds", "histogram", "pod", "From the request's head to the end of the answer.",
	  "histogram_quantile(0.5, sum by (le) (rate(llmd_request_duration_seconds_bucket[5m])))", print_duration },
	{ "llmd_discovery_endpoints", "gauge", "source", "Endpoints that a source of discovery lists.",
	  "llmd_discovery_endpoints", print_listed },
	{ "llmd_discovery_left_out", "gauge", "", "Listed endpoints for which the table of 1024 has no room.",
	  "llmd_discovery_left_out > 0", print_left_out },
	{ "llmd_discovery_updates_total", "counter", "source", "Sets of endpoints that a source has brought.",
	  "rate(llmd_discovery_updates_total[5m])", print_updates },
	{ "llmd_discovery_failures_total", "counter", "source", "Attempts of a source that brought nothing; the last set stays.",
	  "rate(llmd_discovery_failures_total[5m]) > 0", print_failures },
	{ "llmd_sessions", "gauge", "", "Sessions bound.", "llmd_sessions / llmd_sessions_max", print_sessions },
	{ "llmd_sessions_max", "gauge", "", "Bound of the session table.", "llmd_sessions / llmd_sessions_max", print_sessions_max },
	{ "llmd_sessions_evicted_total", "counter", "", "Sessions that went because the table was full.",
	  "rate(llmd_sessions_evicted_total[5m])", print_sessions_evicted },
	{ "llmd_sessions_expired_total", "counter", "", "Sessions that went after --session-ttl.",
	  "rate(llmd_sessions_expired_total[5m])", print_sessions_expired },
	{ "llmd_prefix_blocks", "gauge", "", "(Pod, block) pairs remembered.", "llmd_prefix_blocks / llmd_prefix_blocks_max", print_blocks },
	{ "llmd_prefix_blocks_max", "gauge", "", "Bound of the prefix index.", "llmd_prefix_blocks / llmd_prefix_blocks_max", print_blocks_max },
	{ "llmd_prefix_blocks_evicted_total", "counter", "", "Pairs that went for a pod's capacity or the bound.",
	  "rate(llmd_prefix_blocks_evicted_total[5m])", print_blocks_evicted },
	{ "llmd_table_bytes", "gauge", "", "Memory of the session table and the prefix index.", "llmd_table_bytes", print_table_bytes },
	{ "llmd_prompts_total", "counter", "result", "Request bodies read, by what was understood.",
	  "rate(llmd_prompts_total{result!=\"complete\"}[5m])", print_prompts },
	{ "llmd_requests_without_session_total", "counter", "", "Requests to a known API without a session key.",
	  "rate(llmd_requests_without_session_total[5m])", print_no_session },
	{ "llmd_rejected_total", "counter", "rule", "Requests refused, by the rule that they broke.",
	  "sum by (rule) (rate(llmd_rejected_total[5m])) > 0", print_rejected },
	{ "llmd_retries_total", "counter", "", "Requests sent to another pod after a failure.", "rate(llmd_retries_total[5m])", print_retries },
	{ "llmd_retries_refused_total", "counter", "", "Tries elsewhere that --retry-budget forbade.",
	  "rate(llmd_retries_refused_total[5m]) > 0", print_no_retries },
	{ "llmd_overload_total", "counter", "limit", "Requests refused for --max-inflight (pod: 503) or --max-inflight-total (total: 429).",
	  "rate(llmd_overload_total[5m]) > 0", print_overload },
	{ "llmd_cut_total", "counter", "side", "Requests that ended early because the client or the pod went away.",
	  "rate(llmd_cut_total{side=\"pod\"}[5m])", print_cuts },
	{ "llmd_upstream_events_total", "counter", "event", "Connections to pods: opened, used again, failed.",
	  "rate(llmd_upstream_events_total{event=\"connect_failed\"}[5m])", print_upstream_events },
	{ "llmd_connections", "gauge", "side", "Open connections; those to pods with the idle ones among them.",
	  "llmd_connections{side=\"client\"}", print_connections },
	{ "llmd_accept_errors_total", "counter", "", "Connections that could not be accepted.", "rate(llmd_accept_errors_total[5m])", print_accept_errors },
	{ "llmd_bytes_total", "counter", "direction", "Bytes of requests and answers passed on.",
	  "rate(llmd_bytes_total[5m])", print_bytes },
	{ "llmd_spliced_bytes_total", "counter", "", "Of those, bytes that went through a pipe without a copy.",
	  "rate(llmd_spliced_bytes_total[5m])", print_spliced },
	{ "llmd_draining", "gauge", "", "1 after SIGTERM, while running requests end.", "llmd_draining", print_draining },
	{ "llmd_build_info", "gauge", "version", "1; the version is in the label.", "llmd_build_info", print_build_info },
	{ "process_start_time_seconds", "gauge", "", "Start of the process, Unix time.", "time() - process_start_time_seconds", print_start_time },
	{ "process_cpu_seconds_total", "counter", "", "User and system CPU time.", "rate(process_cpu_seconds_total[5m])", print_cpu },
	{ "process_resident_memory_bytes", "gauge", "", "Resident memory.", "process_resident_memory_bytes", print_resident },
	{ "process_open_fds", "gauge", "", "Open file descriptors.", "process_open_fds", print_open_fds },
};
/* clang-format on */
enum { N_FAMILIES = sizeof(families) / sizeof(families[0]) };

void metrics_print(struct metrics *metrics, struct evbuffer *out)
{
	struct scrape scrape = { .metrics = metrics, .endpoints = metrics->endpoints, .out = out };

	metrics->gauges(metrics->ctx, &scrape.gauges);
	decider_get_stats(metrics->decider, &scrape.decider);
	print_families(&scrape, families, N_FAMILIES);
	metrics_endpoint_print(&scrape);
	metrics_events_print(&scrape);
	metrics_kernel_print(&scrape);
}

void metrics_print_markdown(FILE *out)
{
	fputs("| metric | type | unit | labels | meaning | example query |\n|---|---|---|---|---|---|\n", out);
	print_families_markdown(out, families, N_FAMILIES);
	metrics_endpoint_print_markdown(out);
	metrics_events_print_markdown(out);
	metrics_kernel_print_markdown(out);
}
