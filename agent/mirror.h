/* SPDX-License-Identifier: Apache-2.0 */
/* A copy of the decider's sessions and prefixes in the pinned maps, for the agent that comes next and for llmd-maps. */
#ifndef LLMD_AGENT_MIRROR_H
#define LLMD_AGENT_MIRROR_H

#include <event2/event.h>
#include <stdint.h>

#include "agent/agent.h"
#include "agent/datapath.h"
#include "agent/decide.h"
#include "agent/endpoint.h"

struct mirror;

/** struct mirror_parts - what a mirror works on. @prefixes_max: entries of that map, as @sessions_max. */
struct mirror_parts {
	struct event_base *base;
	struct decider *decider;
	const struct endpoint_table *endpoints;
	int sessions_fd, prefixes_fd;
	uint32_t sessions_max, prefixes_max;
};

/** mirror_open() - from its return on changes are noted, and written within 50 ms. Return: 0 or -errno. */
int mirror_open(const struct mirror_parts *parts, struct mirror **out);

/** mirror_new() - mirror_open() on the agent's decider and the pinned maps. */
static inline int mirror_new(struct agent *agent, struct datapath *datapath, struct mirror **out)
{
	const struct mirror_parts parts = {
		.base = agent->base,
		.decider = agent->decider,
		.endpoints = agent->endpoints,
		.sessions_fd = datapath_map_fd(datapath, MAP_SESSIONS),
		.prefixes_fd = datapath_map_fd(datapath, MAP_PREFIXES),
		.sessions_max = datapath_map_size(datapath, MAP_SESSIONS),
		.prefixes_max = datapath_map_size(datapath, MAP_PREFIXES),
	};

	return mirror_open(&parts, out);
}

/** mirror_free() - what is not yet written is lost: call mirror_flush() before. */
void mirror_free(struct mirror *mirror);

/**
 * mirror_load() - the maps' contents into a decider that has decided nothing yet; the endpoints must be known. Entries of
 * other endpoints, older generations, and sessions past their TTL are deleted.
 * Return: 0 or -errno, logged; the decider then knows a part.
 */
int mirror_load(struct mirror *mirror, uint64_t now_ms);

/** mirror_flush() - writes all that is noted. */
void mirror_flush(struct mirror *mirror);

/**
 * struct mirror_stats - @queued: noted and not yet written. All others ever: @dropped: were not noted, for there were too
 * many; @written, @deleted: entries; @failed: that the kernel refused; @loaded, @rejected: by mirror_load().
 * @sessions, @prefixes: entries that the maps should hold by now.
 */
struct mirror_stats {
	uint64_t queued, dropped, written, deleted, failed, loaded, rejected;
	uint64_t sessions, prefixes;
};
void mirror_get_stats(const struct mirror *mirror, struct mirror_stats *out);

#endif
