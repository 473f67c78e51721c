/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handed-over connections: their entries in the pinned maps, their ends, and what they hold of endpoints and ports. What
 * is needed for that lies in the slots, so that the next agent can go on with it. See flow_table.c.
 */
#ifndef LLMD_AGENT_FLOW_TABLE_H
#define LLMD_AGENT_FLOW_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/decision_log.h"
#include "agent/prompt.h"
#include "llmd/abi.h"

struct agent;
struct datapath;
struct exchange;
struct flow_table;

/**
 * struct flow_spec - a connection to be handed over; numbers as in struct slot and struct flow.
 * @seq_add, @ack_sub: of the client's packets; the pod's are moved the other way round.
 * @client_scale, @pod_scale: window scale that each announced; @told_client, @told_pod: that the agent announced to each.
 */
struct flow_spec {
	struct flow_key client, pod;
	uint32_t client_ifindex;
	uint32_t seq_add, ack_sub;
	uint8_t client_scale, pod_scale, told_client, told_pod;
	bool sack;
	uint32_t client_isn, request_end, agent_end, pod_ack, client_start, pod_start;
	uint32_t endpoint, generation, tokens;
	enum api api;
	uint64_t begun_us;
	const char *request_id;
};

struct flow_counts {
	uint64_t open, max;	     /* slots */
	uint64_t handed, adopted, reset, idle; /* ever */
	uint64_t events_lost;	     /* ends that were found by the sweep only */
};

int flow_table_new(struct agent *agent, struct datapath *datapath, struct flow_table **out);
void flow_table_free(struct flow_table *table);

/** flow_table_adopt() - what an earlier agent has left: counts it, or resets what nobody can finish. */
void flow_table_adopt(struct flow_table *table);

/**
 * flow_open() - from its return on packets of both directions are translated.
 * @owner: told when the pod has acknowledged the request (handoff_acked()), until flow_disown().
 * Return: 0, -ENOSPC when the table is full, or another -errno with nothing changed.
 */
int flow_open(struct flow_table *table, const struct flow_spec *spec, struct exchange *owner, uint32_t *out);

/** flow_slot() - of an open one, mapped: programs write to it at the same time. */
struct slot *flow_slot(struct flow_table *table, uint32_t index);

/**
 * flow_reset_client() - RST to the client of @slot, whose entries are out.
 * @arriving: as its packets come; @ack: what it would send next. Return: 0 or -errno.
 */
int flow_reset_client(const struct slot *slot, const struct flow_key *arriving, uint32_t ack);

/** flow_undo() - takes the entries out again. Return: whether the client can know nothing of the pod. */
bool flow_undo(struct flow_table *table, uint32_t index);

/** flow_disown() - the hand-over is complete: what the request holds is given back when the flow ends. */
void flow_disown(struct flow_table *table, uint32_t index, struct decision_ref logged);

/** flow_table_has_owned() - whether a request is being handed over at this moment. */
bool flow_table_has_owned(const struct flow_table *table);

/** flow_table_endpoint_gone() - resets the clients and forgets the flows of an endpoint. */
void flow_table_endpoint_gone(struct flow_table *table, uint32_t endpoint);

void flow_table_counts(const struct flow_table *table, struct flow_counts *out);

#endif
