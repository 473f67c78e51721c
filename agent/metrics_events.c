// SPDX-License-Identifier: Apache-2.0
/* Metrics of what agents share through Redis: see metrics_events.h. Without --redis all are 0. */
#include "agent/metrics_events.h"

#include "agent/metrics_print.h"

#define PRINT_COUNT(function, value) \
	static void function(struct scrape *scrape) \
	{ \
		sample_u64(scrape, scrape->gauges.events.value); \
	}
PRINT_COUNT(print_queued, queued_bytes)
PRINT_COUNT(print_queue_max, queue_max_bytes)
PRINT_COUNT(print_dropped, dropped)
PRINT_COUNT(print_agents, agents)
PRINT_COUNT(print_secret, secret_differs)
PRINT_COUNT(print_lost, lost_connections)
PRINT_COUNT(print_republished, republished)
PRINT_COUNT(print_snapshot_errors, snapshot_errors)

static void print_state(struct scrape *scrape)
{
	for (enum events_state state = 0; state < EVENTS_STATE_N; state++)
		sample_label(scrape, "state", events_state_name(state), scrape->gauges.has_events && scrape->gauges.events.state == state);
}

static void print_connected(struct scrape *scrape)
{
	sample_label(scrape, "direction", "read", scrape->gauges.events.reader_ready);
	sample_label(scrape, "direction", "write", scrape->gauges.events.writer_ready);
}

static void print_lag(struct scrape *scrape)
{
	sample_double(scrape, "", "", scrape->gauges.events.lag_s);
}

static void print_kinds(struct scrape *scrape, const uint64_t *count)
{
	for (enum cache_event_kind kind = 0; kind < CACHE_EVENT_KIND_N; kind++)
		sample_label(scrape, "kind", cache_event_kind_name(kind), count[kind]);
}

static void print_published(struct scrape *scrape)
{
	print_kinds(scrape, scrape->gauges.events.published);
}

static void print_applied(struct scrape *scrape)
{
	print_kinds(scrape, scrape->gauges.events.applied);
}

static void print_ignored(struct scrape *scrape)
{
	for (enum events_ignored why = 0; why < EVENTS_IGNORED_N; why++)
		sample_label(scrape, "why", events_ignored_name(why), scrape->gauges.events.ignored[why]);
}

static void print_malformed(struct scrape *scrape)
{
	for (enum cache_event_fault fault = CACHE_EVENT_OK + 1; fault < CACHE_EVENT_FAULT_N; fault++)
		sample_label(scrape, "why", cache_event_fault_name(fault), scrape->gauges.events.malformed[fault]);
}

static void print_resyncs(struct scrape *scrape)
{
	for (enum events_resync why = 0; why < EVENTS_RESYNC_N; why++)
		sample_label(scrape, "why", events_resync_name(why), scrape->gauges.events.resyncs[why]);
}

static void print_faults(struct scrape *scrape)
{
	for (enum events_fault fault = EVENTS_FAULT_NONE + 1; fault < EVENTS_FAULT_N; fault++)
		sample_label(scrape, "why", events_fault_name(fault), scrape->gauges.events.faults[fault]);
}

static void pod_remote_tokens(struct scrape *scrape, uint32_t i, const struct endpoint *endpoint)
{
	(void)i;
	sample_pod(scrape, endpoint, NULL, NULL, endpoint->remote_tokens);
}

static void print_remote_tokens(struct scrape *scrape)
{
	each_pod(scrape, pod_remote_tokens);
}

/* clang-format off */
static const struct family families[] = {
	{ "llmd_events_state", "gauge", "state", "1 for how far this agent follows the others: connecting, loading the snapshot, live. None without --redis.",
	  "llmd_events_state{state=\"live\"}", print_state },
	{ "llmd_redis_connected", "gauge", "direction", "1 for a connection to Redis that is open.", "min(llmd_redis_connected)", print_connected },
	{ "llmd_redis_lost_connections_total", "counter", "", "Connections to Redis that were lost or could not be made.",
	  "rate(llmd_redis_lost_connections_total[5m])", print_lost },
	{ "llmd_redis_refused_total", "counter", "why", "Writes that Redis has refused.", "sum by (why) (rate(llmd_redis_refused_total[5m])) > 0", print_faults },
	{ "llmd_events_lag_seconds", "gauge", "", "Age of the last event when it was applied, by the clock of Redis.", "max(llmd_events_lag_seconds)", print_lag },
	{ "llmd_events_published_total", "counter", "kind", "Events that this agent has told the others.",
	  "sum by (kind) (rate(llmd_events_published_total[5m]))", print_published },
	{ "llmd_events_applied_total", "counter", "kind", "Events that were read and applied, its own among them.",
	  "sum by (kind) (rate(llmd_events_applied_total[5m]))", print_applied },
	{ "llmd_events_ignored_total", "counter", "why", "Events that were understood and changed nothing.",
	  "sum by (why) (rate(llmd_events_ignored_total[5m]))", print_ignored },
	{ "llmd_events_malformed_total", "counter", "why", "Entries of the stream that are no events.",
	  "sum by (why) (rate(llmd_events_malformed_total[5m])) > 0", print_malformed },
	{ "llmd_events_resyncs_total", "counter", "why", "Times that all was read anew: at the start, after a gap in the stream, for pods that are new.",
	  "increase(llmd_events_resyncs_total{why=\"gap\"}[1h])", print_resyncs },
	{ "llmd_events_republished_total", "counter", "", "Sessions and blocks told once more, since Redis had lost them.",
	  "increase(llmd_events_republished_total[1h])", print_republished },
	{ "llmd_events_snapshot_errors_total", "counter", "", "Keys of the snapshot that are not what they should be.",
	  "increase(llmd_events_snapshot_errors_total[1h]) > 0", print_snapshot_errors },
	{ "llmd_events_queued_bytes", "gauge", "", "What this agent has still to tell.", "llmd_events_queued_bytes / llmd_events_queue_max_bytes", print_queued },
	{ "llmd_events_queue_max_bytes", "gauge", "", "Bound of that queue; beyond it the oldest go.", "llmd_events_queued_bytes / llmd_events_queue_max_bytes", print_queue_max },
	{ "llmd_events_dropped_total", "counter", "", "Events that went because the queue was full.", "rate(llmd_events_dropped_total[5m])", print_dropped },
	{ "llmd_events_agents", "gauge", "", "Other agents that have requests in flight.", "llmd_events_agents", print_agents },
	{ "llmd_events_other_secret", "gauge", "", "1 once an agent with another session secret was seen.", "max(llmd_events_other_secret)", print_secret },
	{ "llmd_remote_inflight_tokens", "gauge", "pod", "As llmd_inflight_tokens, of all other agents together.", "llmd_remote_inflight_tokens", print_remote_tokens },
};
/* clang-format on */
enum { N_FAMILIES = sizeof(families) / sizeof(families[0]) };

void metrics_events_print(struct scrape *scrape)
{
	print_families(scrape, families, N_FAMILIES);
}

void metrics_events_print_markdown(FILE *out)
{
	print_families_markdown(out, families, N_FAMILIES);
}
