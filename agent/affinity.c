// SPDX-License-Identifier: Apache-2.0
/* See affinity.h; the rest is in bpf/affinity.h. */
#include "agent/affinity.h"

#include <bpf/bpf.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/datapath.h"
#include "agent/endpoint.h"

bool affinity_is_on(const struct agent *agent)
{
	return agent->config.affinity == AFFINITY_CLIENT_IP && datapath_is_open(agent->datapath);
}

void affinity_note(const struct agent *agent, const struct address *client, const struct address *front, uint32_t endpoint)
{
	struct affinity_entry entry = { .endpoint = endpoint };
	struct affinity_key key = { .front_port = front->port_be };

	if (!affinity_is_on(agent) || address_is_local(client))
		return;
	memcpy(key.client, client->ip, sizeof(key.client));
	memcpy(key.front, front->ip, sizeof(key.front));
	entry.generation = agent->endpoints->at[endpoint].generation;
	entry.expires_ns = agent_now_us() * 1000 + agent->config.session_ttl_ms * 1000000;
	bpf_map_update_elem(datapath_map_fd(agent->datapath, MAP_AFFINITY), &key, &entry, BPF_ANY);
}
