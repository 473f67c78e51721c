/* SPDX-License-Identifier: Apache-2.0 */
/* The sources that options name; each publishes to the registry by itself from then on. */
#ifndef LLMD_AGENT_DISCOVERY_SOURCES_H
#define LLMD_AGENT_DISCOVERY_SOURCES_H

struct agent;
struct discovery;

/** endpoints_file_start() - --endpoints-file: read at once, then watched. A broken one is logged and no error. */
int endpoints_file_start(struct discovery *discovery, struct agent *agent);

/** dns_source_start() - one source for each --discover-dns. */
int dns_source_start(struct discovery *discovery, struct agent *agent);

/** k8s_source_start() - one source for each --discover-k8s. Return: 0, or -errno, logged: no service account. */
int k8s_source_start(struct discovery *discovery, struct agent *agent);

static inline int discovery_start_sources(struct discovery *discovery, struct agent *agent)
{
	int err = endpoints_file_start(discovery, agent);

	err = err ? err : dns_source_start(discovery, agent);
	return err ? err : k8s_source_start(discovery, agent);
}

#endif
