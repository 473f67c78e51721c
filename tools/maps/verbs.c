// SPDX-License-Identifier: Apache-2.0
/* What can be done with every noun: list, get, delete, watch. See maps.h. */
#include "tools/maps/maps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Makes the rows of a list, and keeps those of a watch for its next picture. */
struct list {
	struct maps *maps;
	const struct request *request;
	const struct records *records;
	const struct watch *watch;
};

static struct json_object *list_row(void *ctx, size_t i)
{
	const struct list *list = ctx;
	const struct noun *noun = list->request->noun;
	struct json_object *row = noun->describe(list->maps, records_get(list->records, i));

	if (row && list->watch)
		watch_add_rates(list->watch, noun->columns, noun->n_columns, row);
	return row;
}

static size_t rows_shown(const struct request *request, const struct watch *watch, size_t n)
{
	if (request->config->limit && n > request->config->limit)
		n = request->config->limit;
	if (watch && watch->rows_max && n > watch->rows_max)
		n = watch->rows_max;
	return n;
}

static int print_list(struct list *list, FILE *out)
{
	const struct request *request = list->request;
	const struct noun *noun = request->noun;
	struct row_source rows = { rows_shown(request, list->watch, list->records->n), list_row, list };
	int err;

	if (request->config->json)
		return json_print_rows(out, &rows, !list->watch);
	err = table_print(out, noun->columns, noun->n_columns, &rows, list->watch != NULL);
	if (!err && rows.n < list->records->n)
		fprintf(out, "... and %zu more\n", list->records->n - rows.n);
	return err;
}

/* What a row counts. Return: NULL if nothing. */
static struct json_object *counted_fields(const struct noun *noun, struct json_object *row)
{
	struct json_object *counted = NULL;

	for (size_t i = 0; i < noun->n_columns; i++) {
		const char *field = noun->columns[i].rate_of;

		if (!field)
			continue;
		if (!counted)
			counted = json_object_new_object();
		row_add(counted, field, json_object_get(json_object_object_get(row, field)));
	}
	return counted;
}

/* What the rows shown count, by their names, for the rates of the next picture. */
static void remember_rows(struct list *list, struct watch *watch)
{
	const struct noun *noun = list->request->noun;
	struct json_object *now = json_object_new_object();
	size_t n = rows_shown(list->request, watch, list->records->n);
	struct json_object *counted = now;

	for (size_t i = 0; counted && i < n; i++) {
		struct json_object *row = noun->describe(list->maps, records_get(list->records, i));

		counted = counted_fields(noun, row);
		if (counted)
			json_object_object_add(now, json_object_get_string(json_object_object_get(row, noun->columns[0].field)), counted);
		json_object_put(row);
	}
	json_object_put(watch->before);
	watch->before = now;
}

static int render_list(struct maps *maps, const struct request *request, struct watch *watch, FILE *out)
{
	const struct noun *noun = request->noun;
	struct records records = { .size = noun->record_size };
	struct list list = { maps, request, &records, watch };
	int err = noun->collect(maps, &records);

	if (!err && noun->compare && records.n)
		qsort(records.at, records.n, records.size, noun->compare);
	if (!err && print_list(&list, out)) {
		fprintf(stderr, "llmd-maps: %s\n", strerror(ENOMEM));
		err = -EIO;
	}
	if (!err && watch)
		remember_rows(&list, watch);
	records_free(&records);
	return err;
}

static int run_list(struct maps *maps, const struct request *request)
{
	return render_list(maps, request, NULL, stdout);
}

static int run_watch(struct maps *maps, const struct request *request)
{
	return watch_run(maps, request, render_list);
}

/* ---- one record ---- */

int key_invalid(const struct request *request, const char *key)
{
	fprintf(stderr, "llmd-maps: %s %s: \"%.200s\" is not valid: must be %s\n", request->noun->name, request->verb->name, key,
		request->noun->key_help);
	return -EINVAL;
}

static int not_unique(struct maps *maps, const struct request *request, const struct records *records)
{
	const struct noun *noun = request->noun;
	struct list list = { maps, request, records, NULL };
	struct row_source rows = { records->n, list_row, &list };

	if (!records->n) {
		fprintf(stderr, "llmd-maps: %s %s: \"%.200s\" is not there\n", noun->name, request->verb->name, request->key[0]);
		return -EIO;
	}
	fprintf(stderr, "llmd-maps: %s %s: \"%.200s\" is not one but %zu:\n", noun->name, request->verb->name, request->key[0], records->n);
	table_print(stderr, noun->columns, noun->n_columns, &rows, false);
	return -EIO;
}

/* The one record that the operands name. */
static int find_one(struct maps *maps, const struct request *request, struct records *records)
{
	int err = request->noun->find(maps, request, records);

	if (!err && records->n != 1)
		err = not_unique(maps, request, records);
	return err;
}

static int print_one(struct maps *maps, const struct request *request, const void *record)
{
	const struct noun *noun = request->noun;
	struct json_object *row = noun->describe(maps, record);

	if (request->config->json)
		json_print(stdout, row);
	else
		table_print_row(stdout, noun->columns, noun->n_columns, row);
	json_object_put(row);
	return 0;
}

static int run_get(struct maps *maps, const struct request *request)
{
	struct records records = { .size = request->noun->record_size };
	int err = find_one(maps, request, &records);

	if (!err)
		err = print_one(maps, request, records_get(&records, 0));
	records_free(&records);
	return err;
}

/* Prints what was taken away, the last copy of it. */
static int run_delete(struct maps *maps, const struct request *request)
{
	struct records records = { .size = request->noun->record_size };
	int err = find_one(maps, request, &records);

	if (!err)
		err = request->noun->remove(maps, records_get(&records, 0));
	if (!err)
		err = print_one(maps, request, records_get(&records, 0));
	records_free(&records);
	return err;
}

const struct verb verb_list = { "list", "All of them.", false, false, run_list };
const struct verb verb_get = { "get", "One of them, with all fields.", true, false, run_get };
const struct verb verb_delete = { "delete", "Take one out of the map, and print what it was.", true, false, run_delete };
const struct verb verb_watch = { "watch", "The list again and again, with what it grows by a second.", false, false, run_watch };
