// SPDX-License-Identifier: Apache-2.0
/* Prefix blocks: which pods hold a block of prompt text in their KV cache. See maps.h. */
#include "tools/maps/maps.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>

struct prefix_record {
	uint64_t hash;
	struct prefix_entry entry;
};

static int add_prefix(void *ctx, const void *key, const void *value)
{
	struct prefix_record record;

	memcpy(&record.hash, key, sizeof(record.hash));
	memcpy(&record.entry, value, sizeof(record.entry));
	return records_add(ctx, &record);
}

static int prefix_collect(struct maps *maps, struct records *out)
{
	return maps_collect(maps, MAP_PREFIXES, add_prefix, out);
}

static int prefix_find(struct maps *maps, const struct request *request, struct records *out)
{
	struct prefix_record record;

	if (hash_parse(request->key[0], &record.hash))
		return key_invalid(request, request->key[0]);
	if (maps_open(maps, MAP_PREFIXES, false))
		return -EIO;
	if (!bpf_map_lookup_elem(maps->fd[MAP_PREFIXES], &record.hash, &record.entry))
		return records_add(out, &record);
	return errno == ENOENT ? 0 : maps_fail(maps, MAP_PREFIXES, "cannot be read", -errno);
}

static int prefix_remove(struct maps *maps, const void *at)
{
	const struct prefix_record *record = at;

	return maps_remove(maps, MAP_PREFIXES, &record->hash);
}

static int prefix_compare(const void *a, const void *b)
{
	const struct prefix_record *x = a, *y = b;

	return (x->entry.last_used_ns < y->entry.last_used_ns) - (x->entry.last_used_ns > y->entry.last_used_ns);
}

/* The map keeps but the low bits of a generation. */
static bool holder_is_there(const struct maps *maps, const struct prefix_holder *holder)
{
	return holder->endpoint < maps->n_endpoints && (uint16_t)maps->endpoints[holder->endpoint].generation == holder->generation;
}

static void add_holders(struct json_object *row, const struct maps *maps, const struct prefix_entry *entry)
{
	uint32_t n = entry->n < LLMD_HOLDERS_MAX ? entry->n : LLMD_HOLDERS_MAX;
	struct json_object *holders = json_object_new_array();
	uint64_t gone = 0;

	for (uint32_t i = 0; i < n; i++) {
		char text[ADDRESS_TEXT_MAX];
		const char *name = holder_is_there(maps, &entry->holder[i]) ? endpoint_text(maps, entry->holder[i].endpoint, text) : NULL;

		if (name)
			json_object_array_add(holders, json_object_new_string(name));
		else
			gone++;
	}
	row_add(row, "endpoints", holders);
	row_add_number(row, "endpoints_gone", gone);
}

static struct json_object *prefix_describe(const struct maps *maps, const void *at)
{
	const struct prefix_record *record = at;
	struct json_object *row = json_object_new_object();

	if (!row)
		return NULL;
	row_add_hash(row, "prefix_hash", record->hash);
	row_add_number(row, "depth", record->entry.depth);
	row_add_since(row, maps, "idle_seconds", record->entry.last_used_ns);
	add_holders(row, maps, &record->entry);
	return row;
}

static const struct column columns[] = {
	{ "prefix_hash", "PREFIX", FORMAT_TEXT },
	{ "depth", "DEPTH", FORMAT_NUMBER },
	{ "idle_seconds", "IDLE", FORMAT_SECONDS },
	{ "endpoints_gone", "GONE", FORMAT_NUMBER },
	{ "endpoints", "ENDPOINTS", FORMAT_TEXT },
};

static const struct verb *const verbs[] = { &verb_list, &verb_get, &verb_delete, &verb_watch, NULL };

const struct noun noun_prefix = {
	.name = "prefix",
	.help = "Blocks of prompt text and the pods that took them, the last used first.",
	.key = "HASH",
	.key_help = "the hash of a prefix block, 16 hex digits",
	.keys_max = 1,
	.verbs = verbs,
	.record_size = sizeof(struct prefix_record),
	.collect = prefix_collect,
	.find = prefix_find,
	.remove = prefix_remove,
	.compare = prefix_compare,
	.describe = prefix_describe,
	.columns = columns,
	.n_columns = COUNT(columns),
};
