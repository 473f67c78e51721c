/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's part: maps and programs, pinned below --pin-dir, so that they outlive the agent. What they hold is looked
 * after by flow_table.c (connections), mirror.c (sessions, prefixes) and devices.c (where the programs are attached).
 */
#ifndef LLMD_AGENT_DATAPATH_H
#define LLMD_AGENT_DATAPATH_H

#include <stdbool.h>
#include <stdint.h>

#include "llmd/abi.h"

struct agent;
struct conntrack;
struct datapath;
struct devices;
struct flow_table;
struct netlink;

enum datapath_mode { DATAPATH_AUTO, DATAPATH_KERNEL, DATAPATH_RELAY };
enum handoff_mode { HANDOFF_AUTO, HANDOFF_ALWAYS, HANDOFF_NEVER };
enum keepalive_mode { KEEPALIVE_CLOSE, KEEPALIVE_PIN };
enum affinity_mode { AFFINITY_NONE, AFFINITY_CLIENT_IP };

/** enum datapath_map - the pinned maps; their names are those of bpf/maps.h. */
enum datapath_map {
	MAP_CONTROL,
	MAP_ENDPOINTS,
	MAP_ENDPOINT_INDEX,
	MAP_FRONTS,
	MAP_FLOWS,
	MAP_SLOTS,
	MAP_HANDSHAKES,
	MAP_AFFINITY,
	MAP_AFFINITY_SLOTS,
	MAP_ENDPOINT_STATS,
	MAP_COUNTERS,
	MAP_EVENTS,
	MAP_SESSIONS,
	MAP_PREFIXES,
	MAP_N
};

/**
 * datapath_open() - takes the lock on --pin-dir, loads the programs, opens or makes the maps. With --datapath auto and a
 * kernel or rights that do not suffice: 0 and *@out NULL, after a log line that says what is missing.
 * Return: 0, -EBUSY (another agent has the directory), or another -errno, logged.
 */
int datapath_open(struct agent *agent, struct datapath **out);

/** datapath_start() - once the endpoints are known: attaches, adopts the connections that an earlier agent has left. */
int datapath_start(struct datapath *datapath);
void datapath_close(struct datapath *datapath);

/**
 * datapath_release() - gives the lock up, for a successor to start while this agent's relayed requests end. From then on
 * nothing more is handed over here, and what has ended is the successor's to collect.
 */
void datapath_release(struct datapath *datapath);

/** datapath_is_open() - whether connections can be handed over. @datapath: may be NULL. */
bool datapath_is_open(const struct datapath *datapath);

/** datapath_hold_syns() - while another agent takes over: clients' SYNs are dropped for that long, and come again. 0: no more. */
void datapath_hold_syns(struct datapath *datapath, uint64_t ms);

/** datapath_listening() - clients that an earlier agent has held may come now. */
void datapath_listening(struct datapath *datapath);

/** datapath_cleanup() - removes all that is pinned or attached. Return: 0, or -errno, logged. */
int datapath_cleanup(struct agent *agent);

int datapath_map_fd(const struct datapath *datapath, enum datapath_map map);
uint32_t datapath_map_size(const struct datapath *datapath, enum datapath_map map);
struct control *datapath_control(const struct datapath *datapath);

struct flow_table *datapath_flows(const struct datapath *datapath);
struct devices *datapath_devices(const struct datapath *datapath);
struct netlink *datapath_netlink(const struct datapath *datapath);
struct conntrack *datapath_conntrack(const struct datapath *datapath);

/** datapath_read_endpoints() - as an earlier agent has left them; the free ones have the generation that was given last. */
void datapath_read_endpoints(struct datapath *datapath, struct endpoint_entry entries[LLMD_ENDPOINT_MAX]);

#endif
