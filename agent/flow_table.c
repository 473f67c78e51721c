// SPDX-License-Identifier: Apache-2.0
/*
 * Handed-over connections: see flow_table.h, flow_private.h.
 *
 * How it works
 *
 * A flow is a slot, mapped and shared with the programs, and two entries in map "flows" that name it. The slot's
 * generation, which the entries carry, changes when the slot is taken and when it is given back: an entry that a program
 * still holds is then stale and can be told.
 */
#include "agent/flow_private.h"

#include <assert.h>
#include <bpf/bpf.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "agent/handoff.h"
#include "agent/health.h"
#include "agent/metrics.h"
#include "agent/tcp_repair.h"
#include "agent/upstream.h"
#include "lib/log.h"

enum { STATUS_UNKNOWN = 499, RESETS_LOGGED = 100, ID_WIDTH = sizeof(((struct slot *)NULL)->request_id) };

struct slot *flow_slot(struct flow_table *table, uint32_t index)
{
	return &table->slots[index];
}

/* ---- entries ---- */

static int put_entry(struct flow_table *table, const struct flow_key *key, const struct flow *flow)
{
	return bpf_map_update_elem(datapath_map_fd(table->datapath, MAP_FLOWS), key, flow, BPF_ANY) ? -errno : 0;
}

/* The client may have come again from the same port: then the key is another flow's by now. */
static void drop_entry(int flows_fd, const struct flow_key *key, uint32_t index)
{
	struct flow flow;

	if (!bpf_map_lookup_elem(flows_fd, key, &flow) && flow.slot == index)
		bpf_map_delete_elem(flows_fd, key);
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
		drop_entry(datapath_map_fd(table->datapath, MAP_FLOWS), &spec->pod, index);
	return err;
}

static void fill_slot(struct slot *slot, const struct flow_spec *spec)
{
	const uint32_t gen = slot->gen + 1;

	memset(slot, 0, sizeof(*slot));
	slot->gen = gen;
	slot->state = SLOT_SENDING;
	slot->last_ns = agent_now_us() * 1000;
	slot->handed_ns = slot->last_ns;
	slot->begun_ns = spec->begun_us * 1000;
	slot->pod_ack = spec->pod_ack;
	slot->pod_next = spec->pod_start;
	slot->client_ack = spec->pod_start;
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

	assert(!table->local[index].lingers); /* others are queued behind it */
	table->n_owned -= table->local[index].owner != NULL;
	memset(slot, 0, sizeof(*slot)); /* SLOT_FREE */
	slot->gen = gen;
	table->local[index] = (struct flow_local){ .next = NO_SLOT };
	if (flow_is_straight(table, index)) {
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
	flow_arm_tick(table);
	return 0;
}

static void drop_entries(int flows_fd, const struct slot *slot, uint32_t index)
{
	drop_entry(flows_fd, &slot->client, index);
	drop_entry(flows_fd, &slot->pod, index);
}

bool flow_undo(struct flow_table *table, uint32_t index)
{
	const struct slot *slot = &table->slots[index];
	bool unknown;

	drop_entries(datapath_map_fd(table->datapath, MAP_FLOWS), slot, index);
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
	flow_arm_tick(table);
}

/* ---- what a flow holds ---- */

static struct endpoint_claim claim_of(const struct slot *slot)
{
	return (struct endpoint_claim){ flow_endpoint(slot), slot->generation, slot->tokens, true, slot->tokens != 0 };
}

/* The clock that is read for each packet is coarse and may lag behind. */
static double seconds_between(uint64_t from_ns, uint64_t to_ns)
{
	return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0;
}

void flow_note_first(struct flow_table *table, uint32_t index)
{
	struct agent *agent = table->agent;
	struct slot *slot = &table->slots[index];
	double ttft_s = seconds_between(slot->begun_ns, slot->first_ns);
	struct endpoint_claim claim = claim_of(slot);

	if (slot->flags & (SLOT_COUNTED | SLOT_AFFINITY))
		return;
	endpoint_claim_release_tokens(agent->endpoints, &claim);
	slot->tokens = 0;
	metrics_ttft(agent->metrics, (int)flow_endpoint(slot), ttft_s);
	decision_log_first_byte(agent->decisions, table->local[index].logged, ttft_s);
}

/* A reset after the last byte of the answer, when both have said their FIN, is only how the pod closes. */
static void tell_health(const struct flow_table *table, const struct slot *slot)
{
	struct agent *agent = table->agent;
	uint32_t endpoint = flow_endpoint(slot);

	if (agent->endpoints->at[endpoint].generation != slot->generation)
		return;
	if (slot->flags & SLOT_POD_RESET && !(slot->flags & (SLOT_POD_FIN | SLOT_CLIENT_FIN)))
		health_request_failed(agent->health, endpoint, "resets streams");
	else if (slot->status)
		health_answered(agent->health, endpoint, slot->status);
}

void flow_count_end(struct flow_table *table, uint32_t index)
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
	tell_health(table, slot);
	metrics_request(agent->metrics, (enum api)(slot->api % API_N), status, (int)claim.index, duration_s);
	metrics_bytes(agent->metrics, slot->bytes_up, slot->bytes_down);
	decision_log_end(agent->decisions, table->local[index].logged, status, 0, duration_s);
	log_event(agent_access_level(agent), "flow ended", "id=%.*s pod=%s status=%u up=%lu down=%lu seconds=%.6f", ID_WIDTH, slot->request_id,
		agent->endpoints->at[claim.index].name, status, (unsigned long)slot->bytes_up,
		(unsigned long)slot->bytes_down, duration_s);
}

void flow_close(struct flow_table *table, uint32_t index)
{
	struct slot *slot = &table->slots[index];
	uint16_t port = be16toh(slot->pod.dport);

	flow_count_end(table, index);
	drop_entries(datapath_map_fd(table->datapath, MAP_FLOWS), slot, index);
	if (!(slot->flags & SLOT_AFFINITY))
		upstream_give_port(table->agent->upstreams, flow_endpoint(slot), port);
	give_slot_back(table, index);
}

/* @sent: what is expected next if all has come in; @acked: if what was sent since then got lost. Any other number may go unheard. */
static int reset_peer(const struct flow_key *arriving, uint32_t sent, uint32_t acked, uint32_t ack)
{
	int err = tcp_reset_peer(arriving, sent, ack);

	return err || acked == sent ? err : tcp_reset_peer(arriving, acked, ack);
}

int flow_reset_client(const struct slot *slot, const struct flow_key *arriving, uint32_t ack)
{
	const uint32_t to_client = slot->client_start - slot->pod_start;

	return reset_peer(arriving, slot->pod_next + to_client, slot->client_ack + to_client, ack);
}

/*
 * Entries go first, or the RST would be taken for a muted socket's, and the numbers still grow. Not told is a client that has
 * acknowledged the end of its answer: it knows, and on many systems a RST discards what is unread.
 */
bool flow_end_both(int flows_fd, const struct slot *slot, uint32_t index, int err[2])
{
	struct flow up = { 0 };

	bpf_map_lookup_elem(flows_fd, &slot->client, &up);
	drop_entries(flows_fd, slot, index);
	if (slot->flags & (SLOT_RESET | SLOT_ORPHAN))
		return false;
	err[0] = slot->flags & SLOT_POD_FIN_ACKED ? 0 : flow_reset_client(slot, &slot->client, slot->client_next - up.seq_add);
	err[1] = reset_peer(&slot->pod, slot->client_next, slot->pod_ack, slot->pod_next);
	return true;
}

void flow_reset(struct flow_table *table, uint32_t index, const char *why)
{
	struct slot *slot = &table->slots[index];
	int err[2];

	if (flow_end_both(datapath_map_fd(table->datapath, MAP_FLOWS), slot, index, err)) {
		table->counts.reset++;
		log_paced(&table->resets, RESETS_LOGGED, 1000, LOG_LEVEL_INFO, "flow reset",
			"id=%.*s why=\"%s\" client_errno=%d pod_errno=%d", ID_WIDTH,
			slot->request_id, why, -err[0], -err[1]);
	}
	flow_close(table, index);
}

/* What lingers has ended, and its slot is nobody else's before its time is over: see collect() in flow_events.c. */
static void endpoint_gone_range(struct flow_table *table, uint32_t endpoint, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++) {
		if (table->slots[i].state == SLOT_FREE || table->slots[i].endpoint != endpoint || table->local[i].lingers)
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
	return table->local && table->free ? flow_events_init(table) : -ENOMEM;
}

void flow_table_free(struct flow_table *table)
{
	if (!table)
		return;
	flow_events_free(table);
	if (table->slots)
		munmap(table->slots, table->slots_bytes);
	free(table->local);
	free(table->free);
	free(table);
}
