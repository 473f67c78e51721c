// SPDX-License-Identifier: Apache-2.0
/*
 * Map contents of any bits: the endpoints, then records of one noun, through all that llmd-maps prints. What comes out must
 * be printable ASCII and, as JSON, parse.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tools/maps/maps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *at;
	size_t left;
};

static const struct noun *const nouns[] = { &noun_endpoint, &noun_session, &noun_prefix, &noun_flow, &noun_affinity, &noun_counter };

/* What the input has not, is 0. */
static void take(struct input *input, void *out, size_t size)
{
	size_t n = size < input->left ? size : input->left;

	memset(out, 0, size);
	if (n)
		memcpy(out, input->at, n);
	input->at += n;
	input->left -= n;
}

static void check_text(const char *text)
{
	for (; *text; text++)
		assert((*text >= 0x20 && *text < 0x7f) || *text == '\n');
}

struct source {
	const struct maps *maps;
	const struct noun *noun;
	const struct records *records;
};

static struct json_object *describe(void *ctx, size_t i)
{
	const struct source *source = ctx;

	return source->noun->describe(source->maps, records_get(source->records, i));
}

static void print_all(FILE *out, struct source *source)
{
	struct row_source rows = { source->records->n, describe, source };
	const struct noun *noun = source->noun;

	table_print(out, noun->columns, noun->n_columns, &rows, false);
	for (size_t i = 0; i < rows.n; i++) {
		struct json_object *row = describe(source, i);

		table_print_row(out, noun->columns, noun->n_columns, row);
		json_object_put(row);
	}
}

static void run(struct source *source, bool json)
{
	struct row_source rows = { source->records->n, describe, source };
	struct json_object *parsed;
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	if (json)
		json_print_rows(out, &rows, true);
	else
		print_all(out, source);
	fclose(out);
	check_text(text);
	if (json) {
		parsed = json_tokener_parse(text);
		assert(parsed && json_object_array_length(parsed) == rows.n);
		json_object_put(parsed);
	}
	free(text);
}

static void take_record(struct input *input, const struct noun *noun, struct records *records)
{
	void *record = malloc(noun->record_size);

	assert(record);
	take(input, record, noun->record_size);
	if (noun == &noun_flow) { /* as the map has it: a slot, and of its entries no more than that they are there */
		struct flow_record *flow = record;
		struct slot slot = flow->slot;

		flow->looked_up = flow->index & 1;
		flow->has[0] = flow->has[1] = flow->index & 2;
		if (!slot_read(&slot, &flow->slot))
			flow->slot.state = SLOT_FREE;
	}
	records_add(records, record);
	free(record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	static struct maps maps;
	struct records records = { 0 };
	struct source source = { .maps = &maps, .records = &records };
	uint8_t head[2];

	take(&input, head, sizeof(head));
	source.noun = nouns[head[0] % COUNT(nouns)];
	records.size = source.noun->record_size;
	maps.n_endpoints = head[1] % 4;
	take(&input, &maps.now_ns, sizeof(maps.now_ns));
	take(&input, maps.endpoints, maps.n_endpoints * sizeof(maps.endpoints[0]));
	while (input.left && records.n < 64)
		take_record(&input, source.noun, &records);
	if (source.noun->compare && records.n)
		qsort(records.at, records.n, records.size, source.noun->compare);
	run(&source, false);
	run(&source, true);
	records_free(&records);
	return 0;
}
