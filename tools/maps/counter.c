// SPDX-License-Identifier: Apache-2.0
/* Counters: why packets were not simply passed. See maps.h. */
#include "tools/maps/maps.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *name, *meaning;
} reasons[] = {
#define REASON_ROW(NAME, name, meaning) { name, meaning },
	LLMD_REASONS(REASON_ROW)
#undef REASON_ROW
};
static_assert(COUNT(reasons) == REASON_N, "each reason has a name");

/* An agent with more reasons than are known here has counters for them, too. */
static void counter_name(uint32_t reason, char *out, size_t size)
{
	if (reason < REASON_N)
		snprintf(out, size, "%s", reasons[reason].name);
	else
		snprintf(out, size, "reason_%u", reason);
}

int counter_collect(struct maps *maps, struct records *out)
{
	struct counter_record record = { 0 };

	if (maps_open(maps, MAP_COUNTERS, false))
		return -EIO;
	for (record.reason = 0; record.reason < maps->max[MAP_COUNTERS]; record.reason++) {
		int err = percpu_read(maps, MAP_COUNTERS, record.reason, &record.count, 1);

		if (err)
			return maps_fail(maps, MAP_COUNTERS, "cannot be read", err);
		if (records_add(out, &record))
			return maps_fail(maps, MAP_COUNTERS, "cannot be kept", -ENOMEM);
	}
	return 0;
}

static int counter_find(struct maps *maps, const struct request *request, struct records *out)
{
	struct records all = { .size = sizeof(struct counter_record) };
	int err = counter_collect(maps, &all);

	for (size_t i = 0; !err && i < all.n; i++) {
		const struct counter_record *record = records_get(&all, i);
		char name[64];

		counter_name(record->reason, name, sizeof(name));
		if (!strcmp(name, request->key[0]))
			err = records_add(out, record);
	}
	records_free(&all);
	return err || out->n ? err : key_invalid(request, request->key[0]);
}

/* An array has no entries to take away: it counts from 0 again. */
static int counter_remove(struct maps *maps, const void *at)
{
	const struct counter_record *record = at;
	int err;

	if (maps_open(maps, MAP_COUNTERS, true))
		return -EIO;
	err = percpu_clear(maps, MAP_COUNTERS, record->reason, 1);
	return err ? maps_fail(maps, MAP_COUNTERS, "cannot be cleared", err) : 0;
}

static struct json_object *counter_describe(const struct maps *maps, const void *at)
{
	const struct counter_record *record = at;
	struct json_object *row = json_object_new_object();
	char name[64];

	(void)maps;
	if (!row)
		return NULL;
	counter_name(record->reason, name, sizeof(name));
	row_add_text(row, "counter", name);
	row_add_number(row, "count", record->count);
	row_add_text(row, "meaning", record->reason < REASON_N ? reasons[record->reason].meaning : NULL);
	return row;
}

static const struct column columns[] = {
	{ "counter", "COUNTER", FORMAT_TEXT },
	{ "count", "PACKETS", FORMAT_NUMBER },
	{ "per_second", "/S", FORMAT_RATE, "count" },
	{ "meaning", "MEANING", FORMAT_TEXT },
};

static const struct verb *const verbs[] = { &verb_list, &verb_get, &verb_delete, &verb_watch, NULL };

const struct noun noun_counter = {
	.name = "counter",
	.help = "Packets by what became of them. To delete one sets it to 0.",
	.key = "NAME",
	.key_help = "a counter's name as list shows it",
	.keys_max = 1,
	.verbs = verbs,
	.record_size = sizeof(struct counter_record),
	.collect = counter_collect,
	.find = counter_find,
	.remove = counter_remove,
	.describe = counter_describe,
	.columns = columns,
	.n_columns = COUNT(columns),
};
