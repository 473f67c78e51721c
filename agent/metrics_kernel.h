/* SPDX-License-Identifier: Apache-2.0 */
/* What the BPF programs count, and what the pinned maps hold, as Prometheus sees it: a part of metrics.c. */
#ifndef LLMD_AGENT_METRICS_KERNEL_H
#define LLMD_AGENT_METRICS_KERNEL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "agent/flow_table.h"
#include "agent/handoff.h"
#include "agent/mirror.h"

struct agent;
struct scrape;

enum metrics_map {
	METRICS_MAP_FLOWS,
	METRICS_MAP_SLOTS,
	METRICS_MAP_SESSIONS,
	METRICS_MAP_PREFIXES,
	METRICS_MAP_AFFINITY,
	METRICS_MAP_HANDSHAKES,
	METRICS_MAP_N
};

/** struct metrics_fill - @fd: of a map that nobody counts, or -1: then @n are its entries. */
struct metrics_fill {
	int fd;
	uint64_t n, max;
};

/** struct metrics_kernel - what a scrape reads. Zeroed, but for @handoffs, where there is no kernel data path. */
struct metrics_kernel {
	bool is_there;
	int counters_fd, endpoint_stats_fd;
	struct metrics_fill map[METRICS_MAP_N];
	struct flow_counts flows;
	struct mirror_stats mirror;
	const struct handoff_stats *handoffs; /* may be NULL */
};

/** metrics_kernel_collect() - from the agent's parts. */
void metrics_kernel_collect(const struct agent *agent, struct metrics_kernel *out);

void metrics_kernel_print(struct scrape *scrape);
void metrics_kernel_print_markdown(FILE *out);

#endif
