// SPDX-License-Identifier: Apache-2.0
/* Sessions: which pod a session key is bound to. See maps.h. */
#include "tools/maps/maps.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>

#include "lib/session_hash.h"

struct session_record {
	uint64_t hash;
	struct session_entry entry;
};

static int add_session(void *ctx, const void *key, const void *value)
{
	struct session_record record;

	memcpy(&record.hash, key, sizeof(record.hash));
	memcpy(&record.entry, value, sizeof(record.entry));
	return records_add(ctx, &record);
}

static int session_collect(struct maps *maps, struct records *out)
{
	return maps_collect(maps, MAP_SESSIONS, add_session, out);
}

/* A key as the application sent it; its hash is as secret as the control map is readable. */
static int session_find(struct maps *maps, const struct request *request, struct records *out)
{
	const char *key = request->key[0];
	struct session_record record;

	if (!request->config->hash)
		record.hash = session_key_hash(maps->control.session_secret, key, strlen(key));
	else if (hash_parse(key, &record.hash))
		return key_invalid(request, key);
	if (maps_open(maps, MAP_SESSIONS, false))
		return -EIO;
	if (!bpf_map_lookup_elem(maps->fd[MAP_SESSIONS], &record.hash, &record.entry))
		return records_add(out, &record);
	return errno == ENOENT ? 0 : maps_fail(maps, MAP_SESSIONS, "cannot be read", -errno);
}

static int session_remove(struct maps *maps, const void *at)
{
	const struct session_record *record = at;

	return maps_remove(maps, MAP_SESSIONS, &record->hash);
}

/* The last used first. */
static int session_compare(const void *a, const void *b)
{
	const struct session_record *x = a, *y = b;

	return (x->entry.last_used_ns < y->entry.last_used_ns) - (x->entry.last_used_ns > y->entry.last_used_ns);
}

static struct json_object *session_describe(const struct maps *maps, const void *at)
{
	const struct session_record *record = at;
	struct json_object *row = json_object_new_object();

	if (!row)
		return NULL;
	row_add_hash(row, "session_hash", record->hash);
	row_add_endpoint(row, maps, record->entry.endpoint, record->entry.generation);
	row_add_number(row, "uses", record->entry.uses);
	row_add_since(row, maps, "idle_seconds", record->entry.last_used_ns);
	return row;
}

static const struct column columns[] = {
	{ "session_hash", "SESSION", FORMAT_TEXT },
	{ "endpoint", "ENDPOINT", FORMAT_ENDPOINT },
	{ "uses", "USES", FORMAT_NUMBER },
	{ "idle_seconds", "IDLE", FORMAT_SECONDS },
};

static const struct verb *const verbs[] = { &verb_list, &verb_get, &verb_delete, &verb_watch, NULL };

const struct noun noun_session = {
	.name = "session",
	.help = "Sessions and the pods that they are bound to, the last used first.",
	.key = "KEY",
	.key_help = "a session key as the application sends it, or with --hash its hash, 16 hex digits",
	.keys_max = 1,
	.verbs = verbs,
	.record_size = sizeof(struct session_record),
	.collect = session_collect,
	.find = session_find,
	.remove = session_remove,
	.compare = session_compare,
	.describe = session_describe,
	.columns = columns,
	.n_columns = COUNT(columns),
};
