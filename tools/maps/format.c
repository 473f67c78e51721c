// SPDX-License-Identifier: Apache-2.0
/* Values for people: see maps.h. */
#include "tools/maps/maps.h"

#include <math.h>
#include <string.h>

void format_bytes(double bytes, char *out, size_t size)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	size_t unit = 0;

	while (bytes >= 1023.95 && unit + 1 < COUNT(units)) {
		bytes /= 1024;
		unit++;
	}
	snprintf(out, size, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

/* Three digits or so; from a minute on, the two largest units. */
void format_seconds(double seconds, char *out, size_t size)
{
	unsigned long whole = seconds < 1e15 ? (unsigned long)seconds : 0;

	if (seconds == 0)
		snprintf(out, size, "0 s");
	else if (seconds < 0.0009995)
		snprintf(out, size, "%.0f us", seconds * 1e6);
	else if (seconds < 0.0995)
		snprintf(out, size, "%.1f ms", seconds * 1e3);
	else if (seconds < 0.9995)
		snprintf(out, size, "%.0f ms", seconds * 1e3);
	else if (seconds < 60)
		snprintf(out, size, "%.1f s", seconds);
	else if (whole < 3600)
		snprintf(out, size, "%lum%02lus", whole / 60, whole % 60);
	else if (whole < 86400)
		snprintf(out, size, "%luh%02lum", whole / 3600, whole % 3600 / 60);
	else
		snprintf(out, size, "%lud%02luh", whole / 86400, whole % 86400 / 3600);
}

static void format_list(struct json_object *list, char *out, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < json_object_array_length(list) && n < size; i++)
		n += (size_t)snprintf(out + n, size - n, i ? ",%s" : "%s", json_object_get_string(json_object_array_get_idx(list, i)));
	if (!n)
		snprintf(out, size, "-");
}

static void format_text(struct json_object *value, char *out, size_t size)
{
	if (json_object_is_type(value, json_type_array))
		format_list(value, out, size);
	else if (json_object_is_type(value, json_type_boolean))
		snprintf(out, size, json_object_get_boolean(value) ? "yes" : "no");
	else
		snprintf(out, size, "%s", json_object_get_string(value));
}

/* A name, or where there is none any more, the number that it was known by. */
static void format_endpoint(struct json_object *row, struct json_object *value, char *out, size_t size)
{
	if (value)
		format_text(value, out, size);
	else
		snprintf(out, size, "gone (%s)", json_object_get_string(json_object_object_get(row, "endpoint_index")));
}

static void format_indented(struct json_object *value, char *out, size_t size)
{
	snprintf(out, size, "   %s", json_object_get_string(value));
}

static void format_value(struct json_object *value, enum format format, char *out, size_t size)
{
	switch (format) {
	case FORMAT_TEXT:
	case FORMAT_NUMBER:
	case FORMAT_ENDPOINT:
		format_text(value, out, size);
		break;
	case FORMAT_RATE:
		snprintf(out, size, "%.1f", json_object_get_double(value));
		break;
	case FORMAT_INDENTED:
		format_indented(value, out, size);
		break;
	case FORMAT_BYTES:
		format_bytes(json_object_get_double(value), out, size);
		break;
	case FORMAT_SECONDS:
		format_seconds(json_object_get_double(value), out, size);
		break;
	case FORMAT_PERCENT:
		snprintf(out, size, "%.1f %%", 100 * json_object_get_double(value));
		break;
	}
}

void format_cell(struct json_object *row, const struct column *column, char out[CELL_MAX])
{
	struct json_object *value = json_object_object_get(row, column->field);

	if (column->format == FORMAT_ENDPOINT)
		format_endpoint(row, value, out, CELL_MAX);
	else if (!value)
		snprintf(out, CELL_MAX, "-");
	else
		format_value(value, column->format, out, CELL_MAX);
}
