// SPDX-License-Identifier: Apache-2.0
/* See world.h. */
#include "tests/bpf/world.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "build/bpf/llmd.skel.h"
#include "lib/address.h"
#include "tests/bpf/sockets.h"

enum { CPUS_MAX = 1024, ENDPOINTS = 8, SMALL_MAP = 64, CAP_BPF_BIT = 39, CAP_PERFMON_BIT = 38, CAP_NET_ADMIN_BIT = 12, CAP_SYS_ADMIN_BIT = 21 };
enum { AFFINITY_TTL_S = 7200 };
#define NS_PER_S UINT64_C(1000000000)

static struct {
	struct llmd_bpf *bpf;
	struct ring_buffer *ring;
	struct event_record events[WORLD_EVENTS];
	size_t n_events;
	int cpus;
	bool complete;
	uint32_t client_ifindex, pod_ifindex;
} world = { .client_ifindex = CLIENT_IFINDEX, .pod_ifindex = POD_IFINDEX };

static void must(int err, const char *what)
{
	if (err) {
		fprintf(stderr, "%s: %s\n", what, strerror(errno));
		abort();
	}
}

uint64_t world_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

bool world_is_allowed(void)
{
	FILE *file = fopen("/proc/self/status", "r");
	unsigned long long caps = 0;
	char line[256];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "CapEff: %llx", &caps) == 1)
			break;
	if (file)
		fclose(file);
	if (caps >> CAP_SYS_ADMIN_BIT & 1 || (caps >> CAP_BPF_BIT & 1 && caps >> CAP_PERFMON_BIT & 1 && caps >> CAP_NET_ADMIN_BIT & 1))
		return true;
	fprintf(stderr, "SKIPPED: to load the programs takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN\n");
	return false;
}

static int take_event(void *ctx, void *data, size_t size)
{
	(void)ctx;
	if (size == sizeof(struct event_record) && world.n_events < WORLD_EVENTS)
		memcpy(&world.events[world.n_events++], data, size);
	return 0;
}

static void make_small(struct llmd_bpf *bpf)
{
	bpf_map__set_max_entries(bpf->maps.endpoints, ENDPOINTS);
	bpf_map__set_max_entries(bpf->maps.endpoint_index, ENDPOINTS);
	bpf_map__set_max_entries(bpf->maps.endpoint_stats, ENDPOINTS);
	bpf_map__set_max_entries(bpf->maps.fronts, ENDPOINTS);
	bpf_map__set_max_entries(bpf->maps.flows, WORLD_FLOWS);
	bpf_map__set_max_entries(bpf->maps.slots, WORLD_SLOTS);
	bpf_map__set_max_entries(bpf->maps.handshakes, SMALL_MAP);
	bpf_map__set_max_entries(bpf->maps.affinity, SMALL_MAP);
	bpf_map__set_max_entries(bpf->maps.affinity_slots, 1);
	bpf_map__set_max_entries(bpf->maps.sessions, SMALL_MAP);
	bpf_map__set_max_entries(bpf->maps.prefixes, SMALL_MAP);
	bpf_map__set_max_entries(bpf->maps.events, 4096);
}

/* Newer than some kernels that the programs run on. */
static bool try_complete(void)
{
	uint8_t packet[WIRE_MAX];
	struct wire wire = TCP(CLIENT, FRONT, .flags = WIRE_ACK);
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet, .data_size_in = (uint32_t)wire_build(packet, &wire, true),
		.repeat = 1, .flags = BPF_F_TEST_SKB_CHECKSUM_COMPLETE);

	return !bpf_prog_test_run_opts(world_program(INGRESS, true), &run);
}

int world_open(void)
{
	int err;

	world.bpf = llmd_bpf__open();
	if (!world.bpf)
		return -errno;
	make_small(world.bpf);
	err = llmd_bpf__load(world.bpf);
	if (err)
		return err;
	world.cpus = libbpf_num_possible_cpus();
	if (world.cpus < 1 || world.cpus > CPUS_MAX)
		return -E2BIG;
	world.ring = ring_buffer__new(bpf_map__fd(world.bpf->maps.events), take_event, NULL, NULL);
	if (!world.ring)
		return -errno;
	world.complete = try_complete();
	if (!world.complete)
		fprintf(stderr, "This kernel cannot check CHECKSUM_COMPLETE: that is not tested.\n");
	return 0;
}

void world_close(void)
{
	ring_buffer__free(world.ring);
	llmd_bpf__destroy(world.bpf);
}

int world_program(enum program program, bool ethernet)
{
	if (program == INGRESS)
		return bpf_program__fd(ethernet ? world.bpf->progs.llmd_ingress : world.bpf->progs.llmd_ingress_l3);
	return bpf_program__fd(ethernet ? world.bpf->progs.llmd_egress : world.bpf->progs.llmd_egress_l3);
}

bool world_has_complete(void)
{
	return world.complete;
}

void world_use_devices(uint32_t client_ifindex, uint32_t pod_ifindex)
{
	world.client_ifindex = client_ifindex;
	world.pod_ifindex = pod_ifindex;
}

/* ---- maps ---- */

static void put(const struct bpf_map *map, const void *key, const void *value)
{
	must(bpf_map_update_elem(bpf_map__fd(map), key, value, BPF_ANY), bpf_map__name(map));
}

static void empty(const struct bpf_map *map)
{
	uint8_t key[128];
	int fd = bpf_map__fd(map);

	while (!bpf_map_get_next_key(fd, NULL, key))
		must(bpf_map_delete_elem(fd, key), bpf_map__name(map));
}

static void zero_per_cpu(const struct bpf_map *map)
{
	size_t size = (bpf_map__value_size(map) + 7) / 8 * 8;
	void *zeros = calloc((size_t)world.cpus, size);

	must(!zeros, "memory");
	for (uint32_t i = 0; i < bpf_map__max_entries(map); i++)
		put(map, &i, zeros);
	free(zeros);
}

/* Adds up words: the values are nothing else. */
static void sum_per_cpu(const struct bpf_map *map, uint32_t key, uint64_t *out)
{
	size_t words = bpf_map__value_size(map) / sizeof(uint64_t);
	uint64_t *all = calloc((size_t)world.cpus * words, sizeof(*all));

	must(!all, "memory");
	must(bpf_map_lookup_elem(bpf_map__fd(map), &key, all), bpf_map__name(map));
	memset(out, 0, words * sizeof(*out));
	for (size_t i = 0; i < (size_t)world.cpus * words; i++)
		out[i % words] += all[i];
	free(all);
}

void world_key(struct flow_key *out, const char *from, const char *to)
{
	struct address source, target;

	must(address_parse(&source, from) || address_parse(&target, to), "address");
	memcpy(out->saddr, source.ip, sizeof(out->saddr));
	memcpy(out->daddr, target.ip, sizeof(out->daddr));
	out->sport = source.port_be;
	out->dport = target.port_be;
}

void world_forget_counts(void)
{
	zero_per_cpu(world.bpf->maps.counters);
	zero_per_cpu(world.bpf->maps.endpoint_stats);
	ring_buffer__consume(world.ring);
	world.n_events = 0;
}

void world_counts(struct world_counts *out)
{
	for (uint32_t i = 0; i < REASON_N; i++)
		sum_per_cpu(world.bpf->maps.counters, i, &out->reason[i]);
	for (uint32_t i = 0; i < ENDPOINTS; i++)
		sum_per_cpu(world.bpf->maps.endpoint_stats, i, (uint64_t *)&out->endpoint[i]);
}

size_t world_events(struct event_record out[WORLD_EVENTS])
{
	size_t n;

	ring_buffer__consume(world.ring);
	n = world.n_events;
	memcpy(out, world.events, sizeof(world.events));
	world.n_events = 0;
	return n;
}

void world_slots(struct slot out[WORLD_SLOTS])
{
	for (uint32_t i = 0; i < WORLD_SLOTS; i++)
		must(bpf_map_lookup_elem(bpf_map__fd(world.bpf->maps.slots), &i, &out[i]), "slots");
}

void world_store_slot(uint32_t number, const struct slot *slot)
{
	put(world.bpf->maps.slots, &number, slot);
}

bool world_flow(const struct flow_key *key, struct flow *out)
{
	return !bpf_map_lookup_elem(bpf_map__fd(world.bpf->maps.flows), key, out);
}

size_t world_flow_count(void)
{
	struct flow_key key, next;
	size_t n = 0;

	for (void *at = NULL; !bpf_map_get_next_key(bpf_map__fd(world.bpf->maps.flows), at, &next); at = &key, n++)
		key = next;
	return n;
}

bool world_handshake(const struct flow_key *key, struct handshake *out)
{
	return !bpf_map_lookup_elem(bpf_map__fd(world.bpf->maps.handshakes), key, out);
}

static void affinity_key(struct affinity_key *out, const struct flow_key *key)
{
	memset(out, 0, sizeof(*out));
	memcpy(out->client, key->saddr, sizeof(out->client));
	memcpy(out->front, key->daddr, sizeof(out->front));
	out->front_port = key->dport;
}

bool world_affinity(const struct flow_key *key, struct affinity_entry *out)
{
	struct affinity_key affinity;

	affinity_key(&affinity, key);
	return !bpf_map_lookup_elem(bpf_map__fd(world.bpf->maps.affinity), &affinity, out);
}

bool world_takes_slot(void)
{
	uint32_t number = 0;

	return !bpf_map_lookup_and_delete_elem(bpf_map__fd(world.bpf->maps.affinity_slots), NULL,
		&number) && number == STRAIGHT_SLOT;
}

/* ---- what a fixture says ---- */

static void put_endpoint(uint32_t index, const char *pod, const char *node, const struct fixture *fixture)
{
	struct endpoint_entry entry = { .state = ENDPOINT_MAP_READY, .generation = ENDPOINT_GENERATION,
		.ifindex = world.pod_ifindex, .mss = fixture->pod_mss };
	struct front front = { 0 };
	struct flow_key key;

	world_key(&key, node, pod);
	memcpy(entry.addr, key.daddr, sizeof(entry.addr));
	memcpy(entry.local, key.saddr, sizeof(entry.local));
	entry.port = key.dport;
	memcpy(front.addr, key.daddr, sizeof(front.addr));
	front.port = key.dport;
	if (fixture->straight == STRAIGHT_DOWN)
		entry.state = ENDPOINT_MAP_EJECTED;
	if (fixture->straight == STRAIGHT_DRAINING)
		entry.state = ENDPOINT_MAP_DRAINING;
	if (fixture->no_route || fixture->straight == STRAIGHT_NO_ROUTE)
		entry.ifindex = 0;
	put(world.bpf->maps.endpoints, &index, &entry);
	put(world.bpf->maps.endpoint_index, &front, &index);
}

static void put_front(const char *text)
{
	struct front_info info = { 0 };
	struct front front = { 0 };
	struct flow_key key;

	world_key(&key, text, text);
	memcpy(front.addr, key.saddr, sizeof(front.addr));
	front.port = key.sport;
	put(world.bpf->maps.fronts, &front, &info);
}

static void put_control(const struct fixture *fixture)
{
	struct control control = { .schema = LLMD_SCHEMA, .port_low = fixture->any_port ? 0 : 15000, .port_high = 29999,
		.affinity_port_low = STRAIGHT_PORT_BASE, .affinity_slot = STRAIGHT_SLOT_BASE, .mss4 = fixture->mss,
		.mss6 = fixture->mss ? fixture->mss - 20u : 0 };
	uint32_t zero = 0;

	if (fixture->straight)
		control.affinity_ttl_ns = AFFINITY_TTL_S * NS_PER_S;
	if (fixture->hold)
		control.hold_until_ns = world_now_ns() + 600 * NS_PER_S;
	if (fixture->hold_over)
		control.hold_until_ns = world_now_ns() - 1;
	put(world.bpf->maps.control, &zero, &control);
}

/* Not what the fixture says: what every slot starts with. */
static void slot_of(struct slot *slot, const struct connection *conn)
{
	*slot = (struct slot){ .state = SLOT_HANDED, .flags = conn->slot.flags, .gen = SLOT_GEN, .pod_ack = conn->slot.pod_ack,
		.pod_next = conn->slot.pod_next, .client_ack = conn->slot.pod_start, .pod_fin = conn->slot.pod_fin, .client_next = conn->slot.client_next,
		.client_fin = conn->slot.client_fin, .agent_end = conn->slot.agent_end, .client_isn = conn->client_isn,
		.request_end = conn->request_end, .pod_start = conn->slot.pod_start, .client_start = conn->slot.pod_start + conn->d,
		.generation = ENDPOINT_GENERATION,
		.begun_ns = world_now_ns(), .handed_ns = world_now_ns(), .request_id = "chatcmpl-1" };
	world_key(&slot->client, conn->client, conn->front);
	world_key(&slot->pod, conn->pod, conn->node);
	slot->endpoint = conn->client[0] == '[' ? ENDPOINT6 : ENDPOINT;
}

static void slot_override(struct slot *slot, const struct numbers *by)
{
#define OVERRIDE(field) slot->field = by->field ? (__typeof__(slot->field))by->field : slot->field
	OVERRIDE(flags);
	OVERRIDE(pod_ack);
	OVERRIDE(pod_start);
	OVERRIDE(pod_next);
	OVERRIDE(pod_fin);
	OVERRIDE(client_next);
	OVERRIDE(client_fin);
	OVERRIDE(agent_end);
	OVERRIDE(status);
	OVERRIDE(requests);
#undef OVERRIDE
}

static void put_connection(const struct fixture *fixture)
{
	const struct connection *conn = fixture->conn;
	struct flow up = { .gen_head = SLOT_GEN, .gen_tail = SLOT_GEN, .slot = SLOT, .seq_add = conn->e, .ack_sub = conn->d,
		.scale_in = conn->up_in, .scale_out = conn->up_out, .sack = conn->sack };
	struct flow down = { .gen_head = SLOT_GEN, .gen_tail = SLOT_GEN, .slot = SLOT, .seq_add = conn->d, .ack_sub = conn->e,
		.scale_in = conn->down_in, .scale_out = conn->down_out, .sack = conn->sack, .from_pod = 1,
		.ifindex = world.client_ifindex };
	struct slot slot;

	slot_of(&slot, conn);
	slot_override(&slot, &fixture->slot);
	slot.gen += fixture->stale == STALE_SLOT;
	up.gen_head -= fixture->stale == STALE_HEAD;
	down.gen_head -= fixture->stale == STALE_HEAD;
	up.gen_tail -= fixture->stale == STALE_TAIL;
	down.gen_tail -= fixture->stale == STALE_TAIL;
	world_key(&up.to, conn->node, conn->pod);
	world_key(&down.to, conn->front, conn->client);
	world_store_slot(SLOT, &slot);
	put(world.bpf->maps.flows, &slot.client, &up);
	put(world.bpf->maps.flows, &slot.pod, &down);
}

static void put_handshake(const struct flow_key *key, const struct noted *noted)
{
	struct handshake handshake = { .isn_in = noted->isn_in, .isn_out = noted->isn_out,
		.ifindex_in = noted->ifindex_in ? TEST_IFINDEX : 0, .ifindex_out = noted->ifindex_out ? TEST_IFINDEX : 0 };

	put(world.bpf->maps.handshakes, key, &handshake);
}

/* One slot in the queue, and the client's entry, made a moment ago. */
static void put_affinity(const struct fixture *fixture, const struct flow_key *key)
{
	struct affinity_entry entry = { .generation = ENDPOINT_GENERATION, .expires_ns = world_now_ns() + 10 * NS_PER_S,
		.uses = 1 };
	bool ipv6 = (fixture->step[0].in.from[0] == '[') != (fixture->straight == STRAIGHT_OTHER_FAMILY);
	struct slot slot = { .gen = STRAIGHT_GEN };
	uint32_t number = STRAIGHT_SLOT;
	struct affinity_key affinity;

	if (fixture->straight != STRAIGHT_NO_SLOT)
		put(world.bpf->maps.affinity_slots, NULL, &number);
	world_store_slot(number, &slot);
	if (fixture->straight == STRAIGHT_NEW_CLIENT)
		return;
	entry.endpoint = ipv6 ? ENDPOINT6 : ENDPOINT;
	if (fixture->straight == STRAIGHT_EXPIRED)
		entry.expires_ns = world_now_ns() - 1;
	if (fixture->straight == STRAIGHT_RENEWED)
		entry.generation--;
	affinity_key(&affinity, key);
	put(world.bpf->maps.affinity, &affinity, &entry);
}

static void fill_flows(bool but_one)
{
	struct flow_key key = { .sport = 1 };
	struct flow flow = { 0 };

	while (!bpf_map_update_elem(bpf_map__fd(world.bpf->maps.flows), &key, &flow, BPF_NOEXIST))
		key.dport++;
	key.dport--;
	if (but_one)
		must(bpf_map_delete_elem(bpf_map__fd(world.bpf->maps.flows), &key), "flows");
}

static void empty_all(void)
{
	struct slot none = { 0 };
	uint32_t number;

	sockets_disconnect();
	empty(world.bpf->maps.flows);
	empty(world.bpf->maps.handshakes);
	empty(world.bpf->maps.affinity);
	while (!bpf_map_lookup_and_delete_elem(bpf_map__fd(world.bpf->maps.affinity_slots), NULL, &number))
		continue;
	for (number = 0; number < WORLD_SLOTS; number++)
		world_store_slot(number, &none);
}

void world_set_up(const struct fixture *fixture)
{
	const struct step *first = &fixture->step[0];
	bool up = first->program == INGRESS;
	struct flow_key key;

	empty_all();
	world_key(&key, up ? first->in.from : first->in.to, up ? first->in.to : first->in.from);
	put_endpoint(ENDPOINT, POD, NODE, fixture);
	put_endpoint(ENDPOINT6, POD6, NODE6, fixture);
	put_front(FRONT);
	put_front(FRONT6);
	put_control(fixture);
	if (fixture->conn)
		put_connection(fixture);
	if (fixture->noted_before.isn_in || fixture->noted_before.isn_out)
		put_handshake(&key, &fixture->noted_before);
	if (fixture->straight)
		put_affinity(fixture, &key);
	if (fixture->straight == STRAIGHT_TAKEN)
		sockets_connect(first->in.from, first->in.to);
	if (fixture->straight == STRAIGHT_TABLE_FULL || fixture->straight == STRAIGHT_TABLE_NEARLY_FULL)
		fill_flows(fixture->straight == STRAIGHT_TABLE_NEARLY_FULL);
}
