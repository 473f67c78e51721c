/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs must know of the node: the devices where packets of clients and pods pass, the addresses under which
 * clients reach the agent (fronts), the ways to the pods. Follows links, addresses and routes.
 */
#ifndef LLMD_AGENT_DEVICES_H
#define LLMD_AGENT_DEVICES_H

#include <stdint.h>

#include "lib/address.h"

struct agent;
struct datapath;
struct devices;
struct llmd_bpf;

int devices_new(struct agent *agent, struct datapath *datapath, struct llmd_bpf *bpf, struct devices **out);
void devices_free(struct devices *devices);

/** devices_watch_endpoints() - from then on the maps follow the endpoint table; what an earlier agent left over goes. */
void devices_watch_endpoints(struct devices *devices);

/** devices_drop_old_fronts() - an earlier agent may have listened elsewhere, or learnt. Only now that SYNs need not be held there. */
void devices_drop_old_fronts(struct devices *devices);

/** devices_changed() - for netlink_new(); @datapath. */
void devices_changed(void *datapath);

/** devices_refresh() - looks at everything anew. */
void devices_refresh(struct devices *devices);

/**
 * devices_note_mss() - the pod takes smaller segments than clients were told: those that connect from now on are told so,
 * until what may be a passing state of the way to the pod is over. @mss: in bytes.
 */
void devices_note_mss(struct devices *devices, uint32_t index, uint16_t mss);

/**
 * devices_learn() - a connection came that no program has seen: attaches to the device that leads to its client, and
 * remembers the address under which the client reached the agent.
 */
void devices_learn(struct devices *devices, const struct address *client, const struct address *front);

/** devices_cleanup() - detaches everywhere. Return: 0 or -errno. */
int devices_cleanup(struct agent *agent);

#endif
