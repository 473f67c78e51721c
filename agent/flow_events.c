// SPDX-License-Identifier: Apache-2.0
/*
 * What the programs tell of handed-over connections: see flow_private.h.
 *
 * How it works
 *
 * They report the pod's acknowledgment of the request, the first content, and the end, through the ring buffer. Only the
 * first wakes the agent; the others are taken with it or every POLL_MS. A flow that has ended lingers for LINGER_MS, so
 * that late packets still find their way, then its entries and its port are free again. Should packets have passed long
 * after its end, the end was a forgery that one of the two sides has refused: the flow goes on.
 *
 * The ring buffer may have been full: every second a part of the slots is looked at for ends that were missed and for
 * idle ones, all of them within SWEEP_S, so that the cost is flat.
 */
#include <bpf/libbpf.h>
#include <errno.h>

#include "agent/flow_private.h"
#include "agent/handoff.h"
#include "agent/prober.h"

#define FORGED ((uint32_t)(SLOT_RESET | SLOT_POD_RESET | SLOT_DOUBTED | SLOT_ENDED))

enum { POLL_MS = 10, LINGER_MS = 1000, SWEEP_S = 60, SWEEP_MIN = 256 };

/* While there is something to wait for. */
void flow_arm_tick(struct flow_table *table)
{
	const struct timeval poll = { .tv_usec = POLL_MS * 1000 };

	if ((table->counts.open || table->n_affinity) && !evtimer_pending(table->tick, NULL))
		evtimer_add(table->tick, &poll);
}

/* Straight connections meet no agent that would notice that their pod does not answer. */
static void suspect_pod(struct flow_table *table, uint32_t index)
{
	const struct slot *slot = &table->slots[index];

	if (slot->flags & SLOT_AFFINITY && !(slot->flags & SLOT_HEAD))
		prober_suspect(table->agent->prober, flow_endpoint(slot));
}

void flow_linger(struct flow_table *table, uint32_t index)
{
	struct flow_local *local = &table->local[index];

	if (local->lingers)
		return;
	suspect_pod(table, index);
	flow_count_end(table, index);
	local->lingers = true;
	local->due_ms = agent_now_ms() + LINGER_MS;
	local->next = NO_SLOT;
	if (table->last == NO_SLOT)
		table->first = (int32_t)index;
	else
		table->local[table->last].next = (int32_t)index;
	table->last = (int32_t)index;
}

/* Packets long after the last valid RST: it was not believed, and the connection lives. Its request stays counted. */
static bool was_forged(const struct flow_table *table, uint32_t index)
{
	const struct slot *slot = &table->slots[index];

	return slot->flags & SLOT_RESET && slot->flags & SLOT_DOUBTED && !(slot->flags & SLOT_ORPHAN) &&
	       slot->last_ns / 1000000 + LINGER_MS / 4 > table->local[index].due_ms;
}

/* Its pod may have gone meanwhile. */
static void revive(struct flow_table *table, uint32_t index)
{
	__atomic_fetch_and(&table->slots[index].flags, ~FORGED, __ATOMIC_RELAXED);
	if (!flow_endpoint_is_known(table, index))
		flow_reset(table, index, "the pod is gone");
}

static void collect(struct flow_table *table)
{
	uint64_t now_ms = agent_now_ms();

	while (table->first != NO_SLOT && table->local[table->first].due_ms <= now_ms) {
		uint32_t index = (uint32_t)table->first;

		table->first = table->local[index].next;
		if (table->first == NO_SLOT)
			table->last = NO_SLOT;
		table->local[index].lingers = false;
		if (was_forged(table, index))
			revive(table, index);
		else
			flow_close(table, index);
	}
}

static int on_event_record(void *ctx, void *data, size_t size)
{
	struct flow_table *table = ctx;
	const struct event_record *record = data;

	if (size < sizeof(*record) || record->slot >= table->n || table->slots[record->slot].gen != record->gen ||
		table->slots[record->slot].state == SLOT_FREE)
		return 0;
	switch ((enum event_type)record->type) {
	case EVENT_ACKED:
		if (table->local[record->slot].owner)
			handoff_acked(table->local[record->slot].owner);
		break;
	case EVENT_FIRST:
		flow_note_first(table, record->slot);
		break;
	case EVENT_ANSWERED:
		if (!table->local[record->slot].owner)
			flow_count_end(table, record->slot);
		break;
	case EVENT_END:
		/* The hand-over may be seen complete only now. */
		if (table->local[record->slot].owner)
			handoff_leave(table->local[record->slot].owner);
		flow_linger(table, record->slot);
		break;
	case EVENT_TYPE_N:
		break;
	}
	return 0;
}

/* Takes what the programs have told. */
static void flow_table_poll(struct flow_table *table)
{
	ring_buffer__consume(table->ring);
	collect(table);
}

/*
 * Why a connection is over although nothing tells its end; NULL: it is not. A pod that has said its FIN has said all: its kernel
 * repeats that for some 100 s, and what the client leaves half open it forgets after 60 s (tcp_orphan_retries, tcp_fin_timeout). The
 * same for a client that has perhaps reset it. A straight connection that brings no request keeps a slot and a port for as long as the
 * agent lets its own clients wait.
 */
static const char *why_over(const struct config *config, const struct slot *slot, uint64_t now)
{
	if (now > slot->last_ns + config->idle_timeout_ms * 1000000)
		return "idle";
	if (slot->flags & (SLOT_POD_FIN | SLOT_CLIENT_LEFT) && now > slot->last_ns + config->fin_timeout_ms * 1000000)
		return "idle after the answer's end";
	if (slot->flags & SLOT_AFFINITY && slot->client_next == slot->client_isn + 1 &&
		now > slot->begun_ns + config->keepalive_timeout_ms * 1000000)
		return "no request";
	return NULL;
}

static void sweep_slot(struct flow_table *table, uint32_t index, uint64_t now)
{
	struct slot *slot = &table->slots[index];
	uint64_t connect_ns = table->agent->config.connect_timeout_ms * 1000000;
	const char *why;

	if (slot->state == SLOT_FREE || table->local[index].lingers || table->local[index].owner)
		return;
	if (slot->flags & SLOT_ENDED) {
		table->counts.events_lost++;
		flow_linger(table, index);
	} else if (slot->flags & SLOT_AFFINITY && !slot->packets_down && now > slot->begun_ns + connect_ns) {
		suspect_pod(table, index);
		flow_close(table, index); /* the client's next SYN may find another pod */
	} else if ((why = why_over(&table->agent->config, slot, now))) {
		table->counts.idle++;
		flow_reset(table, index, why);
	}
}

static void sweep_range(struct flow_table *table, uint32_t from, uint32_t to, uint32_t n)
{
	uint64_t now = agent_now_us() * 1000;

	for (uint32_t i = 0; i < n && from + i < to; i++)
		sweep_slot(table, from + i, now);
}

/*
 * A living agent tries elsewhere when a pod does not take the request. One that died cannot, and what the pod says of it nobody
 * hears: should it be silent for as long as an agent would wait, the client, which has sent all, is told.
 */
static void sweep_unacked(struct flow_table *table)
{
	uint64_t now = agent_now_us() * 1000, wait_ns = table->agent->config.connect_timeout_ms * 1000000;

	table->n_unacked = 0;
	for (uint32_t i = 0; i < table->high; i++) {
		if (!flow_is_unacked(table, i))
			continue;
		if (now > table->slots[i].last_ns + wait_ns)
			flow_reset(table, i, "the agent died in the hand-off");
		else
			table->n_unacked++;
	}
}

static void on_second(evutil_socket_t fd, short what, void *arg)
{
	struct flow_table *table = arg;
	uint32_t part = table->high / SWEEP_S > SWEEP_MIN ? table->high / SWEEP_S : SWEEP_MIN;

	(void)fd, (void)what;
	if (table->sweep >= table->high)
		table->sweep = 0;
	sweep_range(table, table->sweep, table->high, part);
	table->sweep += part;
	sweep_range(table, table->n - table->n_affinity, table->n, table->n_affinity);
	if (table->n_unacked)
		sweep_unacked(table);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	flow_table_poll(arg);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct flow_table *table = arg;

	(void)fd, (void)what;
	flow_table_poll(table);
	flow_arm_tick(table);
}

int flow_events_init(struct flow_table *table)
{
	const struct timeval second = { .tv_sec = 1 };
	struct event_base *base = table->agent->base;

	table->ring = ring_buffer__new(datapath_map_fd(table->datapath, MAP_EVENTS), on_event_record, table, NULL);
	if (!table->ring)
		return -errno;
	table->wake = event_new(base, ring_buffer__epoll_fd(table->ring), EV_READ | EV_PERSIST, on_wake, table);
	table->tick = evtimer_new(base, on_tick, table);
	table->second = event_new(base, -1, EV_PERSIST, on_second, table);
	if (!table->wake || !table->tick || !table->second)
		return -ENOMEM;
	event_add(table->wake, NULL);
	flow_arm_tick(table);
	event_add(table->second, &second);
	return 0;
}

static void free_event(struct event *event)
{
	if (event)
		event_free(event);
}

void flow_events_free(struct flow_table *table)
{
	free_event(table->wake);
	free_event(table->tick);
	free_event(table->second);
	ring_buffer__free(table->ring);
}
