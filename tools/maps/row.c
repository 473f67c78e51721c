// SPDX-License-Identifier: Apache-2.0
/* What map contents become: fields of a JSON object. See maps.h. No bits that a map may hold can do harm here. */
#include "tools/maps/maps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void row_add(struct json_object *row, const char *field, struct json_object *value)
{
	json_object_object_add_ex(row, field, value, JSON_C_OBJECT_ADD_CONSTANT_KEY);
}

void row_add_text(struct json_object *row, const char *field, const char *text)
{
	row_add(row, field, text ? json_object_new_string(text) : NULL);
}

void row_add_raw_text(struct json_object *row, const char *field, const char *text, size_t size)
{
	char clean[CELL_MAX];
	size_t n = strnlen(text, size < sizeof(clean) ? size : sizeof(clean) - 1);

	for (size_t i = 0; i < n; i++)
		clean[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
	row_add(row, field, n ? json_object_new_string_len(clean, (int)n) : NULL);
}

void row_add_number(struct json_object *row, const char *field, uint64_t number)
{
	row_add(row, field, json_object_new_uint64(number));
}

/* To the microsecond, without the digits of a binary fraction. */
void row_add_seconds(struct json_object *row, const char *field, double seconds)
{
	char text[64];

	snprintf(text, sizeof(text), "%.6f", seconds);
	row_add(row, field, seconds < 0 ? NULL : json_object_new_double_s(seconds, text));
}

static double seconds_since(const struct maps *maps, uint64_t then_ns)
{
	if (!then_ns)
		return -1;
	return then_ns < maps->now_ns ? (double)(maps->now_ns - then_ns) * 1e-9 : 0;
}

void row_add_since(struct json_object *row, const struct maps *maps, const char *field, uint64_t then_ns)
{
	row_add_seconds(row, field, seconds_since(maps, then_ns));
}

void row_add_hash(struct json_object *row, const char *field, uint64_t hash)
{
	char text[32];

	snprintf(text, sizeof(text), "%016lx", (unsigned long)hash);
	row_add_text(row, field, text);
}

int hash_parse(const char *text, uint64_t *hash)
{
	if (strlen(text) != 16 || strspn(text, "0123456789abcdefABCDEF") != 16)
		return -EINVAL;
	*hash = strtoull(text, NULL, 16);
	return 0;
}

void row_add_name(struct json_object *row, const char *field, const char *const *names, size_t n_names, uint32_t value)
{
	char text[32];

	snprintf(text, sizeof(text), "%u?", value);
	row_add_text(row, field, value < n_names && names[value] ? names[value] : text);
}

/* ---- addresses ---- */

struct address address_from_map(const uint32_t ip[4], uint16_t port_be)
{
	struct address address = { .port_be = port_be };

	memcpy(address.ip, ip, sizeof(address.ip));
	return address;
}

void row_add_address(struct json_object *row, const char *field, const uint32_t ip[4], uint16_t port_be)
{
	struct address address = address_from_map(ip, port_be);
	char text[ADDRESS_TEXT_MAX];

	row_add_text(row, field, address_format(&address, text));
}

void row_add_ip(struct json_object *row, const char *field, const uint32_t ip[4])
{
	struct address address = address_from_map(ip, 0);
	char text[ADDRESS_TEXT_MAX];

	row_add_text(row, field, address_format_ip(&address, text));
}

const char *endpoint_text(const struct maps *maps, uint32_t index, char text[ADDRESS_TEXT_MAX])
{
	const struct endpoint_entry *entry;
	struct address address;

	if (index >= maps->n_endpoints || maps->endpoints[index].state == ENDPOINT_MAP_FREE)
		return NULL;
	entry = &maps->endpoints[index];
	address = address_from_map(entry->addr, entry->port);
	return address_format(&address, text);
}

void row_add_endpoint(struct json_object *row, const struct maps *maps, uint32_t index, uint32_t generation)
{
	char text[ADDRESS_TEXT_MAX];
	const char *name = endpoint_text(maps, index, text);
	bool gone = !name || maps->endpoints[index].generation != generation;

	/* An index of another generation was given to another pod: its address would mislead. */
	row_add_text(row, "endpoint", gone ? NULL : name);
	row_add_number(row, "endpoint_index", index);
	row_add(row, "endpoint_gone", json_object_new_boolean(gone));
}
