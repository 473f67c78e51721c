// SPDX-License-Identifier: Apache-2.0
/* Where the metrics of the kernel path come from: see metrics_kernel.h. */
#include <string.h>

#include "agent/agent.h"
#include "agent/datapath.h"
#include "agent/metrics_kernel.h"

static struct metrics_fill uncounted(const struct datapath *datapath, enum datapath_map map)
{
	return (struct metrics_fill){ datapath_map_fd(datapath, map), 0, datapath_map_size(datapath, map) };
}

static struct metrics_fill counted(uint64_t n, uint64_t max)
{
	return (struct metrics_fill){ -1, n, max };
}

void metrics_kernel_collect(const struct agent *agent, struct metrics_kernel *out)
{
	const struct datapath *datapath = agent->datapath;

	memset(out, 0, sizeof(*out));
	out->handoffs = &agent->handoffs;
	if (!datapath_is_open(datapath))
		return;
	out->is_there = true;
	out->counters_fd = datapath_map_fd(datapath, MAP_COUNTERS);
	out->endpoint_stats_fd = datapath_map_fd(datapath, MAP_ENDPOINT_STATS);
	flow_table_counts(datapath_flows(datapath), &out->flows);
	if (agent->mirror)
		mirror_get_stats(agent->mirror, &out->mirror);
	out->map[METRICS_MAP_FLOWS] = uncounted(datapath, MAP_FLOWS);
	out->map[METRICS_MAP_SLOTS] = counted(out->flows.open, out->flows.max);
	out->map[METRICS_MAP_SESSIONS] = counted(out->mirror.sessions, datapath_map_size(datapath, MAP_SESSIONS));
	out->map[METRICS_MAP_PREFIXES] = counted(out->mirror.prefixes, datapath_map_size(datapath, MAP_PREFIXES));
	out->map[METRICS_MAP_AFFINITY] = uncounted(datapath, MAP_AFFINITY);
	out->map[METRICS_MAP_HANDSHAKES] = uncounted(datapath, MAP_HANDSHAKES);
}
