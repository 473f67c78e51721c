// SPDX-License-Identifier: Apache-2.0
/*
 * What an earlier agent has left in the slots: see flow_private.h. Its connections go on, and what they hold is counted
 * anew; those whose request it had not given to the kernel as a whole, and those of pods that are gone, are reset.
 */
#include <bpf/bpf.h>
#include <endian.h>

#include "agent/flow_private.h"
#include "agent/upstream.h"
#include "lib/log.h"

static void adopt_claim(struct flow_table *table, struct slot *slot)
{
	if (slot->flags & SLOT_CONTENT)
		slot->tokens = 0;
	if (!(slot->flags & (SLOT_COUNTED | SLOT_AFFINITY)))
		endpoint_claim_restore(table->agent->endpoints, slot->endpoint, slot->tokens);
}

/* It may have died between sending the last byte and noting it: what the pod has acknowledged needs nobody. */
static bool is_incomplete(struct slot *slot)
{
	if (slot->state == SLOT_SENDING && slot->flags & SLOT_ACKED)
		slot->state = SLOT_HANDED;
	return slot->state == SLOT_SENDING;
}

static void adopt_slot(struct flow_table *table, uint32_t index)
{
	struct slot *slot = &table->slots[index];
	bool known = flow_endpoint_is_known(table, index);

	table->local[index].next = NO_SLOT;
	__atomic_fetch_and(&slot->flags, ~(uint32_t)SLOT_FORGETTING, __ATOMIC_RELAXED);
	if (!flow_is_straight(table, index)) {
		table->counts.open++;
		table->high = index >= table->high ? index + 1 : table->high;
	}
	if (!known)
		__atomic_fetch_or(&slot->flags, SLOT_COUNTED, __ATOMIC_RELAXED); /* its counts went with its endpoint */
	else
		adopt_claim(table, slot);
	if (!(slot->flags & SLOT_AFFINITY) && slot->endpoint < LLMD_ENDPOINT_MAX)
		upstream_reserve_port(table->agent->upstreams, slot->endpoint, be16toh(slot->pod.dport));
	table->counts.adopted++;
	if (is_incomplete(slot))
		flow_reset(table, index, "the agent died in the hand-off");
	else if (!known)
		flow_reset(table, index, "the pod is gone");
	else if (slot->flags & SLOT_ENDED)
		flow_linger(table, index);
	else
		table->n_unacked += flow_is_unacked(table, index);
}

void flow_table_adopt(struct flow_table *table)
{
	uint32_t n = table->n - table->n_affinity, index;
	int queue = datapath_map_fd(table->datapath, MAP_AFFINITY_SLOTS);

	/* Filled anew: which of its slots are in the queue is not to be seen. */
	while (!bpf_map_lookup_and_delete_elem(queue, NULL, &index))
		;
	for (uint32_t i = table->n; i-- > 0;) {
		if (table->slots[i].state != SLOT_FREE && table->slots[i].endpoint < LLMD_ENDPOINT_MAX)
			adopt_slot(table, i);
		else if (i < n)
			table->free[table->n_free++] = i;
		else
			bpf_map_update_elem(queue, NULL, &i, 0);
	}
	flow_arm_tick(table);
	if (table->counts.adopted)
		log_info("flows adopted", "flows=%lu reset=%lu", (unsigned long)table->counts.adopted,
			(unsigned long)table->counts.reset);
}

