// SPDX-License-Identifier: Apache-2.0
/*
 * Handed-over connections: see flow_table.h.
 *
 * How it works
 *
 * A flow is a slot, mapped and shared with the programs, and two entries in map "flows" that name it. The slot's
 * generation, which the entries carry, changes when the slot is taken and when it is given back: an entry that a program
 * still holds is then stale and can be told.
 *
 * The programs report the pod's acknowledgment of the request, the first content, and the end, through the ring buffer.
 * Only the first wakes the agent; the others are taken with it or every POLL_MS. A flow that has ended lingers for
 * LINGER_MS, so that late packets still find their way, then its entries and its port are free again. Should packets have
 * passed long after its end, the end was a forgery that one of the two sides has refused: the flow goes on.
 *
 * The ring buffer may have been full: every second a part of the slots is looked at for ends that were missed and for
 * idle ones, all of them within SWEEP_S, so that the cost is flat.
 */
#include "agent/flow_table.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/datapath.h"
#include "agent/endpoint.h"
#include "agent/handoff.h"
#include "agent/metrics.h"
#include "agent/tcp_repair.h"
#include "agent/upstream.h"
#include "lib/log.h"

enum { POLL_MS = 10, LINGER_MS = 1000, SWEEP_S = 60, SWEEP_MIN = 256, NO_SLOT = -1, STATUS_UNKNOWN = 499 };

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
	uint32_t n_owned;
	uint32_t n, n_free, n_affinity, high, sweep;
	int32_t first, last;
	struct ring_buffer *ring;
	struct event *wake, *tick, *second;
	struct flow_counts counts;
};

static uint64_t now_ns(void)
{
	return agent_now_us() * 1000;
}

struct slot *flow_slot(struct flow_table *table, uint32_t index)
{
	return &table->slots[index];
}

static bool is_affinity_slot(const struct flow_table *table, uint32_t index)
{
	return index >= table->n - table->n_affinity;
}

/* While there is something to wait for. */
static void arm_tick(struct flow_table *table)
{
	const struct timeval poll = { .tv_usec = POLL_MS * 1000 };

	if ((table->counts.open || table->n_affinity) && !evtimer_pending(table->tick, NULL))
		evtimer_add(table->tick, &poll);
}

/* ---- entries ---- */

static int put_entry(struct flow_table *table, const struct flow_key *key, const struct flow *flow)
{
	return bpf_map_update_elem(datapath_map_fd(table->datapath, MAP_FLOWS), key, flow, BPF_ANY) ? -errno : 0;
}

/* The client may have come again from the same port: then the key is another flow's by now. */
static void drop_entry(struct flow_table *table, const struct flow_key *key, uint32_t index)
{
	int fd = datapath_map_fd(table->datapath, MAP_FLOWS);
	struct flow flow;

	if (!bpf_map_lookup_elem(fd, key, &flow) && flow.slot == index)
		bpf_map_delete_elem(fd, key);
}

static void reverse(struct flow_key *out, const struct flow_key *key)
{
	memcpy(out->saddr, key->daddr, sizeof(out->saddr));
	memcpy(out->daddr, key->saddr, sizeof(out->daddr));
	out->sport = key->dport;
	out->dport = key->sport;
}

static int put_entries(struct flow_table *table, const struct flow_spec *spec, uint32_t index)
{
	uint32_t gen = table->slots[index].gen;
	struct flow up = { .gen_head = gen, .slot = index, .seq_add = spec->seq_add, .ack_sub = spec->ack_sub,
		.scale_in = spec->client_scale, .scale_out = spec->told_pod, .sack = spec->sack, .gen_tail = gen };
	struct flow down = { .gen_head = gen, .slot = index, .seq_add = spec->ack_sub, .ack_sub = spec->seq_add,
		.ifindex = spec->client_ifindex, .scale_in = spec->pod_scale, .scale_out = spec->told_client,
		.from_pod = 1, .sack = spec->sack, .gen_tail = gen };
	int err;

	reverse(&up.to, &spec->pod);
	reverse(&down.to, &spec->client);
	/* The pod has nothing to say yet; from the client's entry on the agent's socket is mute. */
	err = put_entry(table, &spec->pod, &down);
	if (err)
		return err;
	err = put_entry(table, &spec->client, &up);
	if (err)
		drop_entry(table, &spec->pod, index);
	return err;
}

static void fill_slot(struct slot *slot, const struct flow_spec *spec)
{
	const uint32_t gen = slot->gen + 1;

	memset(slot, 0, sizeof(*slot));
	slot->gen = gen;
	slot->state = SLOT_SENDING;
	slot->last_ns = now_ns();
	slot->handed_ns = slot->last_ns;
	slot->begun_ns = spec->begun_us * 1000;
	slot->pod_ack = spec->pod_ack;
	slot->pod_next = spec->pod_start;
	slot->client_next = spec->agent_end;
	slot->agent_end = spec->agent_end;
	slot->request_end = spec->request_end;
	slot->client_isn = spec->client_isn;
	slot->client_start = spec->client_start;
	slot->pod_start = spec->pod_start;
	slot->endpoint = spec->endpoint;
	slot->generation = spec->generation;
	slot->tokens = spec->tokens;
	slot->api = spec->api;
	slot->client = spec->client;
	slot->pod = spec->pod;
	strncpy(slot->request_id, spec->request_id, sizeof(slot->request_id) - 1);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void give_slot_back(struct flow_table *table, uint32_t index)
{
	struct slot *slot = &table->slots[index];
	const uint32_t gen = slot->gen + 1;

	table->n_owned -= table->local[index].owner != NULL;
	memset(slot, 0, sizeof(*slot)); /* SLOT_FREE */
	slot->gen = gen;
	table->local[index] = (struct flow_local){ .next = NO_SLOT };
	if (is_affinity_slot(table, index)) {
		bpf_map_update_elem(datapath_map_fd(table->datapath, MAP_AFFINITY_SLOTS), NULL, &index, 0);
		return;
	}
	table->counts.open--;
	table->free[table->n_free++] = index;
}

int flow_open(struct flow_table *table, const struct flow_spec *spec, struct exchange *owner, uint32_t *out)
{
	uint32_t index;
	int err;

	if (!table->n_free)
		return -ENOSPC;
	index = table->free[--table->n_free];
	if (index >= table->high)
		table->high = index + 1;
	table->counts.open++;
	fill_slot(&table->slots[index], spec);
	table->local[index] = (struct flow_local){ .owner = owner, .next = NO_SLOT };
	table->n_owned++;
	err = put_entries(table, spec, index);
	if (err) {
		give_slot_back(table, index);
		return err;
	}
	*out = index;
	return 0;
}

static void drop_entries(struct flow_table *table, uint32_t index)
{
	drop_entry(table, &table->slots[index].client, index);
	drop_entry(table, &table->slots[index].pod, index);
}

bool flow_undo(struct flow_table *table, uint32_t index)
{
	const struct slot *slot = &table->slots[index];
	bool unknown;

	drop_entries(table, index);
	unknown = slot->pod_next == slot->pod_start && !(slot->flags & (SLOT_ACKED | SLOT_HEAD));
	give_slot_back(table, index);
	return unknown;
}

bool flow_table_has_owned(const struct flow_table *table)
{
	return table->n_owned;
}

void flow_disown(struct flow_table *table, uint32_t index, struct decision_ref logged)
{
	table->local[index].owner = NULL;
	table->n_owned--;
	table->local[index].logged = logged;
	table->counts.handed++;
	arm_tick(table);
}

/* ---- what a flow holds ---- */

static struct endpoint_claim claim_of(const struct slot *slot)
{
	return (struct endpoint_claim){ slot->endpoint, slot->generation, slot->tokens, true, slot->tokens != 0 };
}

/* The clock that is read for each packet is coarse and may lag behind. */
static double seconds_between(uint64_t from_ns, uint64_t to_ns)
{
	return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0;
}

static void note_first(struct flow_table *table, uint32_t index)
{
	struct agent *agent = table->agent;
	struct slot *slot = &table->slots[index];
	double ttft_s = seconds_between(slot->begun_ns, slot->first_ns);
	struct endpoint_claim claim = claim_of(slot);

	if (slot->flags & (SLOT_COUNTED | SLOT_AFFINITY))
		return;
	endpoint_claim_release_tokens(agent->endpoints, &claim);
	slot->tokens = 0;
	metrics_ttft(agent->metrics, (int)slot->endpoint, ttft_s);
	decision_log_first_byte(agent->decisions, table->local[index].logged, ttft_s);
}

static void count_end(struct flow_table *table, uint32_t index)
{
	struct agent *agent = table->agent;
	struct slot *slot = &table->slots[index];
	double duration_s = seconds_between(slot->begun_ns, slot->last_ns);
	unsigned status = slot->status ? slot->status : STATUS_UNKNOWN;
	struct endpoint_claim claim = claim_of(slot);

	if (__atomic_fetch_or(&slot->flags, SLOT_COUNTED, __ATOMIC_RELAXED) & (SLOT_COUNTED | SLOT_AFFINITY))
		return;
	endpoint_claim_release(agent->endpoints, &claim);
	slot->tokens = 0;
	metrics_request(agent->metrics, (enum api)slot->api, status, (int)slot->endpoint, duration_s);
	metrics_bytes(agent->metrics, slot->bytes_up, slot->bytes_down);
	decision_log_end(agent->decisions, table->local[index].logged, status, 0, duration_s);
	log_debug("flow ended", "id=%s pod=%s status=%u up=%lu down=%lu seconds=%.6f", slot->request_id,
		agent->endpoints->at[slot->endpoint].name, status, (unsigned long)slot->bytes_up,
		(unsigned long)slot->bytes_down, duration_s);
}

static void flow_close(struct flow_table *table, uint32_t index)
{
	struct slot *slot = &table->slots[index];
	uint16_t port = be16toh(slot->pod.dport);

	count_end(table, index);
	drop_entries(table, index);
	if (!(slot->flags & SLOT_AFFINITY))
		upstream_give_port(table->agent->upstreams, slot->endpoint, port);
	give_slot_back(table, index);
}

/* Both sides are told, with the numbers that they expect; entries go first, or the RST would be taken for a muted socket's. */
static void flow_reset(struct flow_table *table, uint32_t index, const char *why)
{
	struct slot *slot = &table->slots[index];
	struct flow up = { 0 };
	int err, pod_err;

	bpf_map_lookup_elem(datapath_map_fd(table->datapath, MAP_FLOWS), &slot->client, &up);
	drop_entries(table, index);
	if (slot->flags & (SLOT_RESET | SLOT_ORPHAN)) {
		flow_close(table, index);
		return;
	}
	err = tcp_reset_peer(&slot->client, slot->client_start + (slot->pod_next - slot->pod_start), slot->client_next - up.seq_add);
	pod_err = tcp_reset_peer(&slot->pod, slot->pod_ack, slot->pod_next);
	table->counts.reset++;
	log_info("flow reset", "id=%s why=\"%s\" client_errno=%d pod_errno=%d", slot->request_id, why, -err, -pod_err);
	flow_close(table, index);
}

/* ---- ends ---- */

static void linger(struct flow_table *table, uint32_t index)
{
	struct flow_local *local = &table->local[index];

	if (local->lingers)
		return;
	count_end(table, index);
	local->lingers = true;
	local->due_ms = agent_now_ms() + LINGER_MS;
	local->next = NO_SLOT;
	if (table->last == NO_SLOT)
		table->first = (int32_t)index;
	else
		table->local[table->last].next = (int32_t)index;
	table->last = (int32_t)index;
}

/* Packets long after the end: it was not believed, and the connection lives. Its request stays counted. */
static bool was_forged(const struct flow_table *table, uint32_t index)
{
	const struct slot *slot = &table->slots[index];

	return slot->flags & SLOT_RESET && !(slot->flags & SLOT_ORPHAN) &&
	       slot->last_ns / 1000000 + LINGER_MS / 4 > table->local[index].due_ms;
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
			__atomic_fetch_and(&table->slots[index].flags, ~(uint32_t)(SLOT_RESET | SLOT_ENDED), __ATOMIC_RELAXED);
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
		note_first(table, record->slot);
		break;
	case EVENT_END:
		/* The hand-over may be seen complete only now. */
		if (table->local[record->slot].owner)
			handoff_acked(table->local[record->slot].owner);
		linger(table, record->slot);
		break;
	case EVENT_TYPE_N:
		break;
	}
	return 0;
}

void flow_table_poll(struct flow_table *table)
{
	ring_buffer__consume(table->ring);
	collect(table);
}

static void sweep_slot(struct flow_table *table, uint32_t index, uint64_t now)
{
	struct slot *slot = &table->slots[index];
	uint64_t idle_ns = table->agent->config.idle_timeout_ms * 1000000;

	if (slot->state == SLOT_FREE || table->local[index].lingers || table->local[index].owner)
		return;
	if (slot->flags & SLOT_ENDED) {
		table->counts.events_lost++;
		linger(table, index);
	} else if (now > slot->last_ns + idle_ns) {
		table->counts.idle++;
		flow_reset(table, index, "idle");
	}
}

static void sweep_range(struct flow_table *table, uint32_t from, uint32_t to, uint32_t n)
{
	uint64_t now = now_ns();

	for (uint32_t i = 0; i < n && from + i < to; i++)
		sweep_slot(table, from + i, now);
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
	arm_tick(table);
}

static void endpoint_gone_range(struct flow_table *table, uint32_t endpoint, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++) {
		if (table->slots[i].state == SLOT_FREE || table->slots[i].endpoint != endpoint)
			continue;
		if (table->local[i].owner)
			handoff_pod_gone(table->local[i].owner);
		else
			flow_reset(table, i, "the pod is gone");
	}
}

void flow_table_endpoint_gone(struct flow_table *table, uint32_t endpoint)
{
	endpoint_gone_range(table, endpoint, 0, table->high);
	endpoint_gone_range(table, endpoint, table->n - table->n_affinity, table->n);
}

void flow_table_counts(const struct flow_table *table, struct flow_counts *out)
{
	*out = table->counts;
	out->max = table->n;
}

/* ---- start ---- */

static bool endpoint_is_known(const struct flow_table *table, const struct slot *slot)
{
	const struct endpoint *endpoint;

	if (slot->endpoint >= table->agent->endpoints->n)
		return false;
	endpoint = &table->agent->endpoints->at[slot->endpoint];
	return endpoint->state != ENDPOINT_FREE && endpoint->generation == slot->generation;
}

static void adopt_claim(struct flow_table *table, struct slot *slot)
{
	if (slot->flags & SLOT_CONTENT)
		slot->tokens = 0;
	if (!(slot->flags & (SLOT_COUNTED | SLOT_AFFINITY)))
		endpoint_claim_restore(table->agent->endpoints, slot->endpoint, slot->tokens);
}

static void adopt_slot(struct flow_table *table, uint32_t index)
{
	struct slot *slot = &table->slots[index];
	bool known = endpoint_is_known(table, slot);

	table->local[index].next = NO_SLOT;
	if (!is_affinity_slot(table, index)) {
		table->counts.open++;
		table->high = index >= table->high ? index + 1 : table->high;
	}
	if (!known)
		slot->flags |= SLOT_COUNTED; /* its counts went with its endpoint */
	else
		adopt_claim(table, slot);
	if (!(slot->flags & SLOT_AFFINITY) && slot->endpoint < LLMD_ENDPOINT_MAX)
		upstream_reserve_port(table->agent->upstreams, slot->endpoint, be16toh(slot->pod.dport));
	table->counts.adopted++;
	if (slot->state == SLOT_SENDING)
		flow_reset(table, index, "the agent died in the hand-off");
	else if (!known)
		flow_reset(table, index, "the pod is gone");
	else if (slot->flags & SLOT_ENDED)
		linger(table, index);
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
	arm_tick(table);
	if (table->counts.adopted)
		log_info("flows adopted", "flows=%lu reset=%lu", (unsigned long)table->counts.adopted,
			(unsigned long)table->counts.reset);
}

static int init_events(struct flow_table *table)
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
	arm_tick(table);
	event_add(table->second, &second);
	return 0;
}

int flow_table_new(struct agent *agent, struct datapath *datapath, struct flow_table **out)
{
	struct flow_table *table = calloc(1, sizeof(*table));
	void *slots;

	*out = table;
	if (!table)
		return -ENOMEM;
	table->agent = agent;
	table->datapath = datapath;
	table->n = datapath_map_size(datapath, MAP_SLOTS);
	table->n_affinity = agent->config.affinity == AFFINITY_NONE ? 0 : datapath_map_size(datapath, MAP_AFFINITY_SLOTS);
	table->first = NO_SLOT;
	table->last = NO_SLOT;
	table->slots_bytes = table->n * sizeof(struct slot);
	slots = mmap(NULL, table->slots_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, datapath_map_fd(datapath, MAP_SLOTS), 0);
	if (slots == MAP_FAILED)
		return -errno;
	table->slots = slots;
	table->local = calloc(table->n, sizeof(table->local[0]));
	table->free = calloc(table->n, sizeof(table->free[0]));
	return table->local && table->free ? init_events(table) : -ENOMEM;
}

static void free_event(struct event *event)
{
	if (event)
		event_free(event);
}

void flow_table_free(struct flow_table *table)
{
	if (!table)
		return;
	free_event(table->wake);
	free_event(table->tick);
	free_event(table->second);
	ring_buffer__free(table->ring);
	if (table->slots)
		munmap(table->slots, table->slots_bytes);
	free(table->local);
	free(table->free);
	free(table);
}
