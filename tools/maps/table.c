// SPDX-License-Identifier: Apache-2.0
/* Rows on the screen: tables for people, JSON for programs. See maps.h. */
#include "tools/maps/maps.h"

#include <errno.h>
#include <string.h>

/* Widths come from so many first rows: a map of a million entries is not gone through twice. */
enum { ROWS_MEASURED = 1000, COLUMNS_MAX = 32 };

static const int json_flags = JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE;

/* ---- tables ---- */

struct layout {
	const struct column *columns[COLUMNS_MAX];
	int width[COLUMNS_MAX];
	size_t n;
};

static void layout_init(struct layout *layout, const struct column *columns, size_t n_columns, bool rates)
{
	layout->n = 0;
	for (size_t i = 0; i < n_columns && layout->n < COLUMNS_MAX; i++) {
		if (!columns[i].title || (columns[i].rate_of && !rates))
			continue;
		layout->columns[layout->n] = &columns[i];
		layout->width[layout->n++] = (int)strlen(columns[i].title);
	}
}

static int layout_measure(struct layout *layout, const struct row_source *rows)
{
	char cell[CELL_MAX];

	for (size_t i = 0; i < rows->n && i < ROWS_MEASURED; i++) {
		struct json_object *row = rows->at(rows->ctx, i);

		if (!row)
			return -ENOMEM;
		for (size_t k = 0; k < layout->n; k++) {
			format_cell(row, layout->columns[k], cell);
			if ((int)strlen(cell) > layout->width[k])
				layout->width[k] = (int)strlen(cell);
		}
		json_object_put(row);
	}
	return 0;
}

/* Numbers stand at the right, so that their digits align. No blanks at the end of a line. */
static void print_cell(FILE *out, const struct layout *layout, size_t k, const char *text)
{
	enum format format = layout->columns[k]->format;
	bool left = format == FORMAT_TEXT || format == FORMAT_INDENTED || format == FORMAT_ENDPOINT, last = k + 1 == layout->n;

	if (k)
		fputs("  ", out);
	if (!left)
		fprintf(out, "%*s", layout->width[k], text);
	else
		fprintf(out, "%-*s", last ? 0 : layout->width[k], text);
	if (last)
		fputc('\n', out);
}

static void print_head(FILE *out, const struct layout *layout)
{
	for (size_t k = 0; k < layout->n; k++)
		print_cell(out, layout, k, layout->columns[k]->title);
}

int table_print(FILE *out, const struct column *columns, size_t n_columns, const struct row_source *rows, bool rates)
{
	struct layout layout;
	char cell[CELL_MAX];

	layout_init(&layout, columns, n_columns, rates);
	if (layout_measure(&layout, rows))
		return -ENOMEM;
	print_head(out, &layout);
	for (size_t i = 0; i < rows->n; i++) {
		struct json_object *row = rows->at(rows->ctx, i);

		if (!row)
			return -ENOMEM;
		for (size_t k = 0; k < layout.n; k++) {
			format_cell(row, layout.columns[k], cell);
			print_cell(out, &layout, k, cell);
		}
		json_object_put(row);
	}
	return 0;
}

static const struct column *find_column(const struct column *columns, size_t n_columns, const char *field)
{
	for (size_t i = 0; i < n_columns; i++)
		if (!strcmp(columns[i].field, field))
			return &columns[i];
	return NULL;
}

void table_print_row(FILE *out, const struct column *columns, size_t n_columns, struct json_object *row)
{
	int width = 0;
	char cell[CELL_MAX];

	json_object_object_foreach(row, field, unused) {
		(void)unused;
		if ((int)strlen(field) > width)
			width = (int)strlen(field);
	}
	json_object_object_foreach(row, name, value) {
		const struct column *column = find_column(columns, n_columns, name);
		const struct column plain = { .field = name, .format = FORMAT_TEXT };

		(void)value;
		format_cell(row, column ? column : &plain, cell);
		fprintf(out, "%-*s  %s\n", width, name, cell);
	}
}

/* ---- JSON ---- */

void json_print(FILE *out, struct json_object *json)
{
	fprintf(out, "%s\n", json_object_to_json_string_ext(json, json_flags));
}

int json_print_rows(FILE *out, const struct row_source *rows, bool lines)
{
	fputc('[', out);
	for (size_t i = 0; i < rows->n; i++) {
		struct json_object *row = rows->at(rows->ctx, i);

		if (!row)
			return -ENOMEM;
		fprintf(out, "%s%s%s", i ? "," : "", lines ? "\n" : "", json_object_to_json_string_ext(row, json_flags));
		json_object_put(row);
	}
	fputs(lines && rows->n ? "\n]\n" : "]\n", out);
	return 0;
}
