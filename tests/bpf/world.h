/* SPDX-License-Identifier: Apache-2.0 */
/* The loaded programs with small maps, and what is in these. */
#ifndef LLMD_TESTS_BPF_WORLD_H
#define LLMD_TESTS_BPF_WORLD_H

#include "tests/bpf/fixture.h"

enum { WORLD_SLOTS = 16, WORLD_EVENTS = 8, WORLD_FLOWS = 8 };

/** struct world_counts - sums over all CPUs. */
struct world_counts {
	uint64_t reason[REASON_N];
	struct endpoint_stats endpoint[LLMD_ENDPOINT_MAX < 8 ? LLMD_ENDPOINT_MAX : 8];
};

/** world_is_allowed() - whether this process may load programs; says so if not. */
bool world_is_allowed(void);

/** world_open() - loads. Return: 0, or -errno with libbpf's log on stderr. */
int world_open(void);
void world_close(void);

/** world_program() - file descriptor of one. */
int world_program(enum program program, bool ethernet);

/** world_has_complete() - whether the kernel can check what becomes of a checksum that the device has computed. */
bool world_has_complete(void);

/** world_set_up() - empties all maps, then puts in what the fixture says. */
void world_set_up(const struct fixture *fixture);

/** world_use_devices() - where the clients and the pods are, from the next set-up on. */
void world_use_devices(uint32_t client_ifindex, uint32_t pod_ifindex);

/** world_forget_counts() - all counters and statistics to 0, events away. */
void world_forget_counts(void);
void world_counts(struct world_counts *out);
/** world_events() - those told since the last call. Return: how many. */
size_t world_events(struct event_record out[WORLD_EVENTS]);

void world_slots(struct slot out[WORLD_SLOTS]);
void world_store_slot(uint32_t number, const struct slot *slot);
bool world_flow(const struct flow_key *key, struct flow *out);
size_t world_flow_count(void);
bool world_handshake(const struct flow_key *key, struct handshake *out);
bool world_affinity(const struct flow_key *key, struct affinity_entry *out);
/** world_takes_slot() - out of the queue for straight connections. Return: whether there was one, the right one. */
bool world_takes_slot(void);
uint64_t world_now_ns(void);

/** world_key() - of packets from one address to another, as in struct wire. */
void world_key(struct flow_key *out, const char *from, const char *to);

#endif
