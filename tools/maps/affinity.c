// SPDX-License-Identifier: Apache-2.0
/* Affinity: clients whose connections go straight to a pod. See maps.h. */
#include "tools/maps/maps.h"

#include <errno.h>
#include <string.h>

struct affinity_record {
	struct affinity_key key;
	struct affinity_entry entry;
};

static int add_affinity(void *ctx, const void *key, const void *value)
{
	struct affinity_record record;

	memcpy(&record.key, key, sizeof(record.key));
	memcpy(&record.entry, value, sizeof(record.entry));
	return records_add(ctx, &record);
}

static int affinity_collect(struct maps *maps, struct records *out)
{
	return maps_collect(maps, MAP_AFFINITY, add_affinity, out);
}

/* What the operands name: a client, with one front or with all. */
struct affinity_name {
	struct address client, front;
	bool any_front;
};

static int name_parse(const struct request *request, struct affinity_name *name)
{
	name->any_front = request->n_keys == 1;
	if (address_parse_ip(&name->client, request->key[0]))
		return key_invalid(request, request->key[0]);
	if (!name->any_front && address_parse(&name->front, request->key[1]))
		return key_invalid(request, request->key[1]);
	return 0;
}

static bool name_fits(const struct affinity_name *name, const struct affinity_key *key)
{
	struct address client = address_from_map(key->client, 0), front = address_from_map(key->front, key->front_port);

	return address_equal(&client, &name->client) && (name->any_front || address_equal(&front, &name->front));
}

static int affinity_find(struct maps *maps, const struct request *request, struct records *out)
{
	struct records all = { .size = sizeof(struct affinity_record) };
	struct affinity_name name;
	int err = name_parse(request, &name);

	if (!err)
		err = affinity_collect(maps, &all);
	for (size_t i = 0; !err && i < all.n; i++) {
		const struct affinity_record *record = records_get(&all, i);

		if (name_fits(&name, &record->key))
			err = records_add(out, record);
	}
	records_free(&all);
	return err;
}

static int affinity_remove(struct maps *maps, const void *at)
{
	const struct affinity_record *record = at;

	return maps_remove(maps, MAP_AFFINITY, &record->key);
}

/* The one that lasts longest first: it is also the one used last. */
static int affinity_compare(const void *a, const void *b)
{
	const struct affinity_record *x = a, *y = b;

	return (x->entry.expires_ns < y->entry.expires_ns) - (x->entry.expires_ns > y->entry.expires_ns);
}

static struct json_object *affinity_describe(const struct maps *maps, const void *at)
{
	const struct affinity_record *record = at;
	struct json_object *row = json_object_new_object();
	uint64_t expires_ns = record->entry.expires_ns;

	if (!row)
		return NULL;
	row_add_ip(row, "client", record->key.client);
	row_add_address(row, "front", record->key.front, record->key.front_port);
	row_add_endpoint(row, maps, record->entry.endpoint, record->entry.generation);
	row_add_number(row, "uses", record->entry.uses);
	row_add(row, "expired", json_object_new_boolean(expires_ns <= maps->now_ns));
	row_add_seconds(row, "expires_in_seconds", expires_ns > maps->now_ns ? (double)(expires_ns - maps->now_ns) * 1e-9 : 0);
	return row;
}

static const struct column columns[] = {
	{ "client", "CLIENT", FORMAT_TEXT },
	{ "front", "FRONT", FORMAT_TEXT },
	{ "endpoint", "ENDPOINT", FORMAT_ENDPOINT },
	{ "uses", "USES", FORMAT_NUMBER },
	{ "expires_in_seconds", "EXPIRES IN", FORMAT_SECONDS },
	{ "expired", "EXPIRED", FORMAT_TEXT },
};

static const struct verb *const verbs[] = { &verb_list, &verb_get, &verb_delete, &verb_watch, NULL };

const struct noun noun_affinity = {
	.name = "affinity",
	.help = "Clients whose connections go straight to a pod, without the agent.",
	.key = "CLIENT [FRONT]",
	.key_help = "a client's IP address and, if it is known at several, the ADDR:PORT that it connects to",
	.keys_max = 2,
	.verbs = verbs,
	.record_size = sizeof(struct affinity_record),
	.collect = affinity_collect,
	.find = affinity_find,
	.remove = affinity_remove,
	.compare = affinity_compare,
	.describe = affinity_describe,
	.columns = columns,
	.n_columns = COUNT(columns),
};
