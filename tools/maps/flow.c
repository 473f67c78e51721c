// SPDX-License-Identifier: Apache-2.0
/*
 * Flows: connections that the kernel carries. See maps.h.
 *
 * How it works: what changes of a flow lies in the array "slots", which is mapped here; only get and delete go to the hash
 * "flows", which holds an entry for each direction. A slot is given to one connection after the other, and its "gen" tells
 * them apart: a copy counts only if gen was the same before and after, an entry only if both its marks are the slot's.
 */
#include "tools/maps/maps.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_TRIES = 4, CUT_WAIT_MS = 1000, CUT_STEP_MS = 20 };

static uint32_t load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

bool slot_read(const struct slot *slot, struct slot *copy)
{
	for (int tries = 0; tries < READ_TRIES; tries++) {
		uint32_t gen = load(&slot->gen);

		if (load(&slot->state) == SLOT_FREE)
			return false;
		memcpy(copy, slot, sizeof(*copy));
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (copy->state != SLOT_FREE && copy->gen == gen && load(&slot->gen) == gen)
			return true;
	}
	return false;
}

static int flow_collect(struct maps *maps, struct records *out)
{
	struct flow_record record = { 0 };

	if (maps_open(maps, MAP_SLOTS, false))
		return -EIO;
	for (record.index = 0; record.index < maps->max[MAP_SLOTS]; record.index++)
		if (slot_read(&maps->slots[record.index], &record.slot) && records_add(out, &record))
			return maps_fail(maps, MAP_SLOTS, "cannot be kept", -ENOMEM);
	return 0;
}

/* ---- one flow ---- */

static const struct flow_key *flow_direction(const struct flow_record *record, int direction)
{
	return direction ? &record->slot.pod : &record->slot.client;
}

static bool flow_is_of_slot(const struct flow_record *record, const struct flow *flow)
{
	return flow->slot == record->index && flow->gen_head == record->slot.gen && flow->gen_tail == record->slot.gen;
}

static void look_up_entries(struct maps *maps, struct flow_record *record)
{
	for (int i = 0; i < 2; i++)
		record->has[i] = !bpf_map_lookup_elem(maps->fd[MAP_FLOWS], flow_direction(record, i), &record->entry[i]) &&
				 flow_is_of_slot(record, &record->entry[i]);
	record->looked_up = true;
}

/* What may name a flow; @index: UINT64_MAX if the key is no number. */
struct flow_name {
	const char *text;
	struct address client;
	bool is_address;
	uint64_t index;
};

static void name_parse(struct flow_name *name, const char *text)
{
	name->text = text;
	name->is_address = !address_parse(&name->client, text);
	if (option_parse_u64(&name->index, text, NULL))
		name->index = UINT64_MAX;
}

static bool name_fits(const struct flow_name *name, const struct flow_record *record)
{
	struct address client = address_from_map(record->slot.client.saddr, record->slot.client.sport);
	const char *id = record->slot.request_id;
	size_t len = strnlen(id, sizeof(record->slot.request_id));

	if (name->is_address)
		return address_equal(&name->client, &client);
	return name->index == record->index || (strlen(name->text) == len && !memcmp(name->text, id, len));
}

static int flow_find(struct maps *maps, const struct request *request, struct records *out)
{
	struct records all = { .size = sizeof(struct flow_record) };
	struct flow_name name;
	int err;

	if (!*request->key[0])
		return key_invalid(request, request->key[0]);
	name_parse(&name, request->key[0]);
	err = maps_open(maps, MAP_FLOWS, false) ? -EIO : flow_collect(maps, &all);
	for (size_t i = 0; !err && i < all.n; i++) {
		struct flow_record *record = records_get(&all, i);

		if (!name_fits(&name, record))
			continue;
		look_up_entries(maps, record);
		err = records_add(out, record);
	}
	records_free(&all);
	return err;
}

/* Return: whether the pod has sent something by then. */
static bool wait_for_pod(const struct maps *maps, const struct flow_record *record)
{
	const volatile __u64 *packets = &maps->slots[record->index].packets_down;
	__u64 before = *packets;

	for (int ms = 0; ms < CUT_WAIT_MS; ms += CUT_STEP_MS) {
		if (*packets != before)
			return true;
		usleep(CUT_STEP_MS * 1000);
	}
	return false;
}

/*
 * A packet that finds no entry meets the node's own stack, which knows no such connection and answers with a reset: so an
 * end hears of the cut when it sends. A client that waits for an answer sends but acknowledgments, hence the order: first only
 * its entry goes, and what the pod sends next still reaches it and makes it acknowledge.
 *
 * The slot stays as it is: it belongs to the agent, which collects it when the flow's idle time is over.
 */
static int flow_remove(struct maps *maps, const void *at)
{
	const struct flow_record *record = at;
	bool heard = false;

	if (!record->has[0] && !record->has[1]) {
		fprintf(stderr, "llmd-maps: flow %u has no entries any more\n", record->index);
		return -EIO;
	}
	if (record->has[0] && maps_remove(maps, MAP_FLOWS, &record->slot.client))
		return -EIO;
	if (record->has[1]) {
		heard = wait_for_pod(maps, record);
		usleep(CUT_STEP_MS * 1000);
		if (maps_remove(maps, MAP_FLOWS, &record->slot.pod))
			return -EIO;
	}
	fprintf(stderr, "llmd-maps: flow %u is cut: the pod is reset when it next sends, the client %s\n", record->index,
		heard ? "was" : "too");
	return 0;
}

/* ---- rows ---- */

static const char *const state_names[] = {
	[SLOT_FREE] = "free",
	[SLOT_SENDING] = "sending",
	[SLOT_HANDED] = "handed",
};
static_assert(COUNT(state_names) == SLOT_STATE_N, "each state has a name");

static const struct {
	uint32_t flag;
	const char *name;
} flags[] = {
	{ SLOT_ACKED, "acked" },
	{ SLOT_CLIENT_FIN, "client-fin" },
	{ SLOT_POD_FIN, "pod-fin" },
	{ SLOT_CLIENT_FIN_ACKED, "client-fin-acked" },
	{ SLOT_POD_FIN_ACKED, "pod-fin-acked" },
	{ SLOT_RESET, "reset" },
	{ SLOT_POD_RESET, "pod-reset" },
	{ SLOT_DOUBTED, "doubted" },
	{ SLOT_CLIENT_LEFT, "client-left" },
	{ SLOT_ORPHAN, "orphan" },
	{ SLOT_ENDED, "ended" },
	{ SLOT_AGENT_FIN, "agent-fin" },
	{ SLOT_HEAD, "head" },
	{ SLOT_CONTENT, "content" },
	{ SLOT_ANSWERING, "answering" },
	{ SLOT_AFFINITY, "affinity" },
	{ SLOT_OPENED, "opened" },
	{ SLOT_ANSWERED, "answered" },
	{ SLOT_COUNTED, "counted" },
	{ SLOT_FORGETTING, "forgetting" },
};

static void add_flags(struct json_object *row, uint32_t set)
{
	struct json_object *names = json_object_new_array();
	char text[32];

	for (size_t i = 0; i < COUNT(flags); i++) {
		if (set & flags[i].flag)
			json_object_array_add(names, json_object_new_string(flags[i].name));
		set &= ~flags[i].flag;
	}
	if (set) {
		snprintf(text, sizeof(text), "0x%x?", set);
		json_object_array_add(names, json_object_new_string(text));
	}
	row_add(row, "flags", names);
}

/* State and flags in a word. */
static const char *flow_phase(const struct slot *slot)
{
	uint32_t fins = slot->flags & (SLOT_CLIENT_FIN | SLOT_POD_FIN);
	uint32_t acked = SLOT_CLIENT_FIN_ACKED | SLOT_POD_FIN_ACKED;

	if (slot->flags & SLOT_RESET)
		return "reset";
	if (slot->flags & SLOT_ORPHAN)
		return "orphan";
	if ((slot->flags & acked) == acked)
		return "closed";
	if (fins == (SLOT_CLIENT_FIN | SLOT_POD_FIN))
		return "closing";
	if (fins)
		return fins == SLOT_CLIENT_FIN ? "client-closed" : "pod-closed";
	return slot->state == SLOT_SENDING ? "sending" : "open";
}

static void add_entry(struct json_object *row, const char *field, const struct flow_record *record, int direction)
{
	const struct flow *flow = &record->entry[direction];
	struct json_object *entry = NULL;

	if (record->has[direction]) {
		entry = json_object_new_object();
		row_add_number(entry, "seq_add", flow->seq_add);
		row_add_number(entry, "ack_sub", flow->ack_sub);
		row_add_number(entry, "ifindex", flow->ifindex);
		row_add_number(entry, "scale_in", flow->scale_in);
		row_add_number(entry, "scale_out", flow->scale_out);
		row_add(entry, "sack", json_object_new_boolean(flow->sack));
	}
	row_add(row, field, entry);
}

static void add_ends(struct json_object *row, const struct slot *slot)
{
	row_add_address(row, "client", slot->client.saddr, slot->client.sport);
	row_add_address(row, "front", slot->client.daddr, slot->client.dport);
	row_add_address(row, "local", slot->pod.daddr, slot->pod.dport);
	row_add_address(row, "pod", slot->pod.saddr, slot->pod.sport);
}

/* Both counted from the same clock: from @from_ns to @to_ns, null if one is not there yet. */
static void add_between(struct json_object *row, const char *field, uint64_t from_ns, uint64_t to_ns)
{
	row_add_seconds(row, field, from_ns && to_ns >= from_ns ? (double)(to_ns - from_ns) * 1e-9 : -1);
}

static void add_progress(struct json_object *row, const struct maps *maps, const struct slot *slot)
{
	row_add_since(row, maps, "age_seconds", slot->begun_ns);
	row_add_since(row, maps, "idle_seconds", slot->last_ns);
	add_between(row, "handed_after_seconds", slot->begun_ns, slot->handed_ns);
	add_between(row, "first_byte_after_seconds", slot->begun_ns, slot->first_ns);
	row_add_number(row, "bytes_up", slot->bytes_up);
	row_add_number(row, "bytes_down", slot->bytes_down);
	row_add_number(row, "packets_up", slot->packets_up);
	row_add_number(row, "packets_down", slot->packets_down);
	row_add(row, "status", slot->status ? json_object_new_uint64(slot->status) : NULL);
	row_add_number(row, "requests", slot->requests);
	row_add_number(row, "tokens", slot->tokens);
}

static struct json_object *flow_describe(const struct maps *maps, const void *at)
{
	const struct flow_record *record = at;
	const struct slot *slot = &record->slot;
	struct json_object *row = json_object_new_object();

	if (!row)
		return NULL;
	row_add_number(row, "slot", record->index);
	add_ends(row, slot);
	row_add_endpoint(row, maps, slot->endpoint, slot->generation);
	row_add_name(row, "state", state_names, COUNT(state_names), slot->state);
	row_add_text(row, "phase", flow_phase(slot));
	add_flags(row, slot->flags);
	add_progress(row, maps, slot);
	row_add_raw_text(row, "request_id", slot->request_id, sizeof(slot->request_id));
	if (record->looked_up) {
		add_entry(row, "entry_up", record, 0);
		add_entry(row, "entry_down", record, 1);
	}
	return row;
}

/* The one that moved last first. */
static int flow_compare(const void *a, const void *b)
{
	const struct flow_record *x = a, *y = b;

	return (x->slot.last_ns < y->slot.last_ns) - (x->slot.last_ns > y->slot.last_ns);
}

static const struct column columns[] = {
	{ "slot", "SLOT", FORMAT_NUMBER },
	{ "client", "CLIENT", FORMAT_TEXT },
	{ "front", "-> FRONT", FORMAT_TEXT },
	{ "local", "=> LOCAL", FORMAT_TEXT },
	{ "pod", "-> POD", FORMAT_TEXT },
	{ "phase", "STATE", FORMAT_TEXT },
	{ "age_seconds", "AGE", FORMAT_SECONDS },
	{ "idle_seconds", "IDLE", FORMAT_SECONDS },
	{ "bytes_up", "UP", FORMAT_BYTES },
	{ "bytes_down", "DOWN", FORMAT_BYTES },
	{ "bytes_down_per_second", "DOWN/S", FORMAT_BYTES, "bytes_down" },
	{ "packets_up", "PKTS UP", FORMAT_NUMBER },
	{ "packets_down", "PKTS DOWN", FORMAT_NUMBER },
	{ "status", "STATUS", FORMAT_NUMBER },
	{ "request_id", "REQUEST", FORMAT_TEXT },
	{ "endpoint", NULL, FORMAT_ENDPOINT },
	{ "handed_after_seconds", NULL, FORMAT_SECONDS },
	{ "first_byte_after_seconds", NULL, FORMAT_SECONDS },
};

static const struct verb *const verbs[] = { &verb_list, &verb_get, &verb_delete, &verb_watch, NULL };

const struct noun noun_flow = {
	.name = "flow",
	.help = "Connections that the kernel carries, the one that moved last first. To delete one cuts its stream.",
	.key = "FLOW",
	.key_help = "the client's ADDR:PORT, a slot's number or a request's id",
	.keys_max = 1,
	.verbs = verbs,
	.record_size = sizeof(struct flow_record),
	.collect = flow_collect,
	.find = flow_find,
	.remove = flow_remove,
	.compare = flow_compare,
	.describe = flow_describe,
	.columns = columns,
	.n_columns = COUNT(columns),
};
