/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Within the flow table.
 *
 *	flow_table.c	entries and slots: open, undo, close, reset
 *	flow_events.c	what the programs tell, and the ends that nobody told
 *	flow_adopt.c	what an earlier agent has left
 *	flow_cleanup.c	their end when llmd leaves the node
 */
#ifndef LLMD_AGENT_FLOW_PRIVATE_H
#define LLMD_AGENT_FLOW_PRIVATE_H

#include <event2/event.h>

#include "agent/agent.h"
#include "agent/datapath.h"
#include "agent/endpoint.h"
#include "agent/flow_table.h"
#include "lib/log.h"

enum { NO_SLOT = -1 };

struct ring_buffer;

/* What only the agent needs of a slot. @next: in the queue of ended ones, in the order of @due_ms. */
struct flow_local {
	struct exchange *owner;
	struct decision_ref logged;
	uint64_t due_ms;
	int32_t next;
	bool lingers;
};

/* @free: a stack, so that few slots are touched; @high: slots from there on were never used. */
struct flow_table {
	struct agent *agent;
	struct datapath *datapath;
	struct slot *slots;
	size_t slots_bytes;
	struct flow_local *local;
	uint32_t *free;
	uint32_t n_owned, n_unacked;
	uint32_t n, n_free, n_affinity, high, sweep;
	int32_t first, last;
	struct ring_buffer *ring;
	struct event *wake, *tick, *second;
	struct flow_counts counts;
	struct log_pace resets;
};

static inline bool flow_is_straight(const struct flow_table *table, uint32_t index)
{
	return index >= table->n - table->n_affinity;
}

/* Maps are input while the agent runs, too: whatever somebody writes there, what is used as an index is one. */
static inline uint32_t flow_endpoint(const struct slot *slot)
{
	return slot->endpoint % LLMD_ENDPOINT_MAX;
}

/** flow_endpoint_is_known() - its pod is still in the table, and no other one has taken its place. */
static inline bool flow_endpoint_is_known(const struct flow_table *table, uint32_t index)
{
	const struct slot *slot = &table->slots[index];
	const struct endpoint *endpoint = &table->agent->endpoints->at[flow_endpoint(slot)];

	return slot->endpoint < table->agent->endpoints->n && endpoint->state != ENDPOINT_FREE && endpoint->generation == slot->generation;
}

/**
 * flow_is_unacked() - its request is on its way from the socket that an agent has left, which repeats what gets lost. Only when
 * the pod has acknowledged it nobody is needed any more.
 */
static inline bool flow_is_unacked(const struct flow_table *table, uint32_t index)
{
	return table->slots[index].state == SLOT_HANDED && !table->local[index].owner && !table->local[index].lingers &&
	       !(table->slots[index].flags & (SLOT_ACKED | SLOT_AFFINITY | SLOT_ENDED));
}

/** flow_close() - its end is known: counts it, gives back what it holds. */
void flow_close(struct flow_table *table, uint32_t index);

/**
 * flow_end_both() - takes the entries out and resets client and pod, with the numbers that they expect. @err: of either, 0 or -errno.
 * Return: false if they know of its end, and were not told.
 */
bool flow_end_both(int flows_fd, const struct slot *slot, uint32_t index, int err[2]);

/** flow_reset() - tells both sides that it is over, unless they know, and closes. */
void flow_reset(struct flow_table *table, uint32_t index, const char *why);

/** flow_count_end() - once: the request is over, whatever its packets still do. */
void flow_count_end(struct flow_table *table, uint32_t index);

/** flow_note_first() - content has come: the prompt has been computed. */
void flow_note_first(struct flow_table *table, uint32_t index);

int flow_events_init(struct flow_table *table);
void flow_events_free(struct flow_table *table);

/** flow_linger() - it has ended: closes it after a while. */
void flow_linger(struct flow_table *table, uint32_t index);

/** flow_arm_tick() - looks at the ring buffer now and then, while there is something to wait for. */
void flow_arm_tick(struct flow_table *table);

#endif
