// SPDX-License-Identifier: Apache-2.0
/* Everything on one screen: how full the maps are, pods, counters, whether an agent runs. See maps.h. */
#include "tools/maps/maps.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { COUNTERS_SHOWN = 8 };

/* ---- fill ---- */

static uint64_t count_slots(const struct maps *maps)
{
	uint64_t used = 0;

	for (uint32_t i = 0; i < maps->max[MAP_SLOTS]; i++)
		used += *(const volatile uint32_t *)&maps->slots[i].state != SLOT_FREE;
	return used;
}

static uint64_t count_endpoints(const struct maps *maps)
{
	uint64_t used = 0;

	for (uint32_t i = 0; i < maps->n_endpoints; i++)
		used += maps->endpoints[i].state != ENDPOINT_MAP_FREE;
	return used;
}

/* The ring's first page tells how far it is read, the second how far it is written (kernel/bpf/ringbuf.c). */
static int64_t count_ring_bytes(const struct maps *maps)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *at = mmap(NULL, 2 * page, PROT_READ, MAP_SHARED, maps->fd[MAP_EVENTS], 0);
	uint64_t read_to, written_to;

	if (at == MAP_FAILED && !maps->writable[MAP_EVENTS])
		return -ENODATA;
	if (at == MAP_FAILED)
		return -errno;
	read_to = *(volatile unsigned long *)at;
	written_to = *(volatile unsigned long *)(at + page);
	munmap(at, 2 * page);
	return written_to >= read_to ? (int64_t)(written_to - read_to) : 0;
}

/* Return: what is used, or -ENODATA where that is no question (all of an array) or the kernel does not tell us. */
static int64_t count_used(struct maps *maps, enum map_id id)
{
	switch (id) {
	case MAP_ENDPOINTS:
		return (int64_t)count_endpoints(maps);
	case MAP_SLOTS:
		return (int64_t)count_slots(maps);
	case MAP_EVENTS:
		return count_ring_bytes(maps);
	case MAP_CONTROL:
	case MAP_AFFINITY_SLOTS:
	case MAP_ENDPOINT_STATS:
	case MAP_COUNTERS:
		return -ENODATA;
	case MAP_ENDPOINT_INDEX:
	case MAP_FRONTS:
	case MAP_FLOWS:
	case MAP_HANDSHAKES:
	case MAP_AFFINITY:
	case MAP_SESSIONS:
	case MAP_PREFIXES:
		return maps_walk(maps, id, NULL, NULL);
	case MAP_N:
		break;
	}
	return -EINVAL;
}

static struct json_object *map_row(struct maps *maps, enum map_id id)
{
	struct json_object *row = json_object_new_object();
	char why[CELL_MAX];
	int err = maps_try(maps, id, false, why, sizeof(why));
	int64_t used = err ? err : count_used(maps, id);
	bool known = !err && maps->max[id] && used >= 0;

	row_add_text(row, "map", maps_name(id));
	row_add(row, "used", known ? json_object_new_int64(used) : NULL);
	row_add(row, "max", err ? NULL : json_object_new_uint64(maps->max[id]));
	row_add(row, "fill", known ? json_object_new_double((double)used / maps->max[id]) : NULL);
	if (!err && used < 0 && used != -ENODATA)
		snprintf(why, sizeof(why), "cannot be read: %s", strerror((int)-used));
	row_add_text(row, "problem", err || (used < 0 && used != -ENODATA) ? why : NULL);
	return row;
}

static struct json_object *map_rows(struct maps *maps)
{
	struct json_object *rows = json_object_new_array();

	for (enum map_id id = 0; id < MAP_N; id++)
		json_object_array_add(rows, map_row(maps, id));
	return rows;
}

/* ---- what is in them ---- */

static int add_front(void *ctx, const void *key, const void *value)
{
	struct address address;
	struct front front;
	char text[ADDRESS_TEXT_MAX];

	(void)value;
	memcpy(&front, key, sizeof(front));
	address = address_from_map(front.addr, front.port);
	json_object_array_add(ctx, json_object_new_string(address_format(&address, text)));
	return 0;
}

static struct json_object *front_rows(struct maps *maps)
{
	struct json_object *rows = json_object_new_array();
	char why[CELL_MAX];

	if (!maps_try(maps, MAP_FRONTS, false, why, sizeof(why)))
		maps_walk(maps, MAP_FRONTS, add_front, rows);
	return rows;
}

static struct json_object *describe_all(struct maps *maps, const struct noun *noun, const struct records *records)
{
	struct json_object *rows = json_object_new_array();

	for (size_t i = 0; i < records->n; i++)
		json_object_array_add(rows, noun->describe(maps, records_get(records, i)));
	return rows;
}

static int endpoint_rows(struct maps *maps, struct json_object **rows)
{
	struct records records = { .size = sizeof(struct endpoint_record) };
	int err = endpoint_collect(maps, &records);

	*rows = err ? NULL : describe_all(maps, &noun_endpoint, &records);
	records_free(&records);
	return err;
}

static int larger_count(const void *a, const void *b)
{
	const struct counter_record *x = a, *y = b;

	return (x->count < y->count) - (x->count > y->count);
}

static int counter_rows(struct maps *maps, struct json_object **rows)
{
	struct records records = { .size = sizeof(struct counter_record) };
	int err = counter_collect(maps, &records);

	if (!err) {
		qsort(records.at, records.n, records.size, larger_count);
		while (records.n && !((struct counter_record *)records_get(&records, records.n - 1))->count)
			records.n--;
		*rows = describe_all(maps, &noun_counter, &records);
	}
	records_free(&records);
	return err;
}

static void add_control(struct json_object *out, const struct maps *maps)
{
	const struct control *control = &maps->control;
	uint64_t hold_ns = control->hold_until_ns > maps->now_ns ? control->hold_until_ns - maps->now_ns : 0;

	row_add_number(out, "schema", control->schema);
	row_add_number(out, "port_low", control->port_low);
	row_add_number(out, "port_high", control->port_high);
	row_add_seconds(out, "affinity_ttl_seconds", control->affinity_ttl_ns ? (double)control->affinity_ttl_ns * 1e-9 : -1);
	row_add_seconds(out, "hold_seconds", (double)hold_ns * 1e-9);
}

static int summarize(struct maps *maps, struct json_object *out)
{
	struct json_object *rows = NULL;
	int err, err_counters;

	row_add_text(out, "pin_dir", maps->dir);
	row_add(out, "agent_runs", json_object_new_boolean(maps_agent_runs(maps)));
	add_control(out, maps);
	row_add(out, "fronts", front_rows(maps));
	row_add(out, "maps", map_rows(maps));
	err = endpoint_rows(maps, &rows);
	row_add(out, "endpoints", rows);
	rows = NULL;
	err_counters = counter_rows(maps, &rows);
	row_add(out, "counters", rows);
	return err ? err : err_counters;
}

/* ---- for people, on a screen of 24 lines if there are not many pods ---- */

/* Two maps a line. */
static const struct column map_columns[] = {
	{ "map", "MAP", FORMAT_TEXT },
	{ "used", "USED", FORMAT_NUMBER },
	{ "max", "MAX", FORMAT_NUMBER },
	{ "fill", "FILL", FORMAT_PERCENT },
	{ "right_map", "   MAP", FORMAT_INDENTED },
	{ "right_used", "USED", FORMAT_NUMBER },
	{ "right_max", "MAX", FORMAT_NUMBER },
	{ "right_fill", "FILL", FORMAT_PERCENT },
};

static struct json_object *array_row(void *ctx, size_t i)
{
	return json_object_get(json_object_array_get_idx(ctx, i));
}

static int print_rows(FILE *out, struct json_object *rows, const struct column *columns, size_t n_columns, size_t max)
{
	size_t n = rows ? json_object_array_length(rows) : 0;
	struct row_source source = { n < max ? n : max, array_row, rows };

	fputc('\n', out);
	return n ? table_print(out, columns, n_columns, &source, false) : 0;
}

static void add_copy(struct json_object *to, const char *name, struct json_object *from, const char *field)
{
	row_add(to, name, json_object_get(json_object_object_get(from, field)));
}

/* Those maps of which is known how full they are. */
static struct json_object *maps_with_fill(struct json_object *maps)
{
	struct json_object *rows = json_object_new_array();

	for (size_t i = 0; i < json_object_array_length(maps); i++) {
		struct json_object *row = json_object_array_get_idx(maps, i);

		if (json_object_object_get(row, "used"))
			json_object_array_add(rows, json_object_get(row));
	}
	return rows;
}

static struct json_object *side_by_side(struct json_object *maps)
{
	struct json_object *shown = maps_with_fill(maps), *lines = json_object_new_array();
	size_t n = json_object_array_length(shown), half = (n + 1) / 2;

	for (size_t i = 0; i < half; i++) {
		struct json_object *line = json_object_new_object();

		for (size_t k = 0; k < COUNT(map_columns) / 2; k++) {
			const char *field = map_columns[k].field, *right = map_columns[k + COUNT(map_columns) / 2].field;

			add_copy(line, field, json_object_array_get_idx(shown, i), field);
			if (i + half < n)
				add_copy(line, right, json_object_array_get_idx(shown, i + half), field);
		}
		json_object_array_add(lines, line);
	}
	json_object_put(shown);
	return lines;
}

static void print_maps(FILE *out, struct json_object *maps)
{
	struct json_object *lines = side_by_side(maps);

	print_rows(out, lines, map_columns, COUNT(map_columns), MAP_N);
	for (size_t i = 0; i < json_object_array_length(maps); i++) {
		struct json_object *row = json_object_array_get_idx(maps, i);
		const char *problem = json_object_get_string(json_object_object_get(row, "problem"));

		if (problem)
			fprintf(out, "%s %s\n", json_object_get_string(json_object_object_get(row, "map")), problem);
	}
	json_object_put(lines);
}

static void print_head(FILE *out, const struct maps *maps, struct json_object *summary)
{
	static const struct column fronts = { "fronts", NULL, FORMAT_TEXT }, ttl = { "affinity_ttl_seconds", NULL, FORMAT_SECONDS },
				   hold = { "hold_seconds", NULL, FORMAT_SECONDS };
	bool runs = json_object_get_boolean(json_object_object_get(summary, "agent_runs"));
	char cell[CELL_MAX];

	fprintf(out, "%s: agent %s, schema %u, ports to pods %u-%u\n", maps->dir, runs ? "running" : "not running",
		maps->control.schema, maps->control.port_low, maps->control.port_high);
	format_cell(summary, &fronts, cell);
	fprintf(out, "fronts %s", cell);
	format_cell(summary, &ttl, cell);
	fprintf(out, ", affinity %s", maps->control.affinity_ttl_ns ? cell : "off");
	format_cell(summary, &hold, cell);
	if (maps->control.hold_until_ns > maps->now_ns)
		fprintf(out, ", new connections wait for an agent for %s", cell);
	fputc('\n', out);
}

static void print_summary(FILE *out, const struct maps *maps, struct json_object *summary)
{
	print_head(out, maps, summary);
	print_maps(out, json_object_object_get(summary, "maps"));
	print_rows(out, json_object_object_get(summary, "endpoints"), noun_endpoint.columns, noun_endpoint.n_columns, LLMD_ENDPOINT_MAX);
	print_rows(out, json_object_object_get(summary, "counters"), noun_counter.columns, noun_counter.n_columns, COUNTERS_SHOWN);
}

static int render_summary(struct maps *maps, const struct request *request, struct watch *watch, FILE *out)
{
	struct json_object *summary = json_object_new_object();
	int err = summarize(maps, summary);

	(void)watch;
	if (request->config->json)
		json_print(out, summary);
	else
		print_summary(out, maps, summary);
	json_object_put(summary);
	return err;
}

static int run_show(struct maps *maps, const struct request *request)
{
	return render_summary(maps, request, NULL, stdout);
}

static int run_watch(struct maps *maps, const struct request *request)
{
	return watch_run(maps, request, render_summary);
}

static const struct verb verb_show = { "show", "Once; the word may be left out.", false, false, run_show };
static const struct verb verb_summary_watch = { "watch", "Again and again.", false, false, run_watch };
static const struct verb *const verbs[] = { &verb_show, &verb_summary_watch, NULL };

const struct noun noun_summary = {
	.name = "summary",
	.help = "How full the maps are, the pods, the largest counters, whether an agent runs.",
	.verb_optional = true,
	.verbs = verbs,
};
