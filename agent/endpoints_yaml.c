// SPDX-License-Identifier: Apache-2.0
/*
 * The text of --endpoints-file: see endpoints_yaml.h. Read by events, so that nothing is built that a hostile text could
 * blow up: aliases are refused, nesting goes three deep. Whatever is not understood is an error, not ignored: a typing
 * mistake in a key would otherwise change where requests go without a word.
 */
#include "agent/endpoints_yaml.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <yaml.h>

enum { SEEN_SIZE = 4 * DISCOVERY_ITEMS_MAX };

/* @seen: by hash of the address, the item's number from 1. */
struct reader {
	yaml_parser_t parser;
	yaml_event_t event;
	bool has_event;
	const char *text;
	size_t len;
	struct discovered *items;
	uint32_t n, room;
	uint32_t *seen;
	struct endpoints_yaml_error *error;
};

__attribute__((format(printf, 3, 4)))
static int fail_at(struct reader *reader, const yaml_mark_t *mark, const char *format, ...)
{
	va_list args;

	reader->error->line = (unsigned)mark->line + 1;
	reader->error->column = (unsigned)mark->column + 1;
	va_start(args, format);
	vsnprintf(reader->error->what, sizeof(reader->error->what), format, args);
	va_end(args);
	return -EINVAL;
}

/* Of bytes that are no text libyaml knows the offset only. */
static yaml_mark_t mark_of_offset(const struct reader *reader, size_t offset)
{
	yaml_mark_t mark = { 0 };

	for (size_t i = 0; i < offset && i < reader->len; i++) {
		mark.column = reader->text[i] == '\n' ? 0 : mark.column + 1;
		mark.line += reader->text[i] == '\n';
	}
	return mark;
}

static int syntax_error(struct reader *reader)
{
	const yaml_parser_t *parser = &reader->parser;
	const char *problem = parser->problem ? parser->problem : "not YAML";
	yaml_mark_t mark = parser->problem_mark;

	if (parser->error == YAML_MEMORY_ERROR)
		return -ENOMEM;
	if (parser->error == YAML_READER_ERROR)
		mark = mark_of_offset(reader, parser->problem_offset);
	if (parser->context)
		return fail_at(reader, &mark, "%s, %s", parser->context, problem);
	return fail_at(reader, &mark, "%s", problem);
}

static int next(struct reader *reader)
{
	if (reader->has_event)
		yaml_event_delete(&reader->event);
	reader->has_event = yaml_parser_parse(&reader->parser, &reader->event);
	if (!reader->has_event)
		return syntax_error(reader);
	if (reader->event.type == YAML_ALIAS_EVENT)
		return fail_at(reader, &reader->event.start_mark, "aliases are not supported");
	return 0;
}

static int fail_here(struct reader *reader, const char *what)
{
	return fail_at(reader, &reader->event.start_mark, "%s", what);
}

/* NULL unless the event is a text without a NUL within. */
static const char *scalar(const struct reader *reader)
{
	const char *value = (const char *)reader->event.data.scalar.value;

	if (reader->event.type != YAML_SCALAR_EVENT || strlen(value) != reader->event.data.scalar.length)
		return NULL;
	return value;
}

/* ---- one endpoint ---- */

static int add_item(struct reader *reader, const struct discovered *item, const yaml_mark_t *mark)
{
	const struct address *address = &item->config.address;
	uint32_t at = (uint32_t)(XXH3_64bits(address->ip, sizeof(address->ip)) + address->port_be) % SEEN_SIZE;
	char text[ADDRESS_TEXT_MAX];

	for (; reader->seen[at]; at = (at + 1) % SEEN_SIZE)
		if (address_equal(&reader->items[reader->seen[at] - 1].config.address, address))
			return fail_at(reader, mark, "%s is given twice", address_format(address, text));
	if (reader->n == DISCOVERY_ITEMS_MAX)
		return fail_at(reader, mark, "more than %u endpoints", (unsigned)DISCOVERY_ITEMS_MAX);
	if (reader->n == reader->room) {
		uint32_t room = reader->room ? reader->room * 2 : 64;
		struct discovered *items = realloc(reader->items, room * sizeof(items[0]));

		if (!items)
			return -ENOMEM;
		reader->items = items;
		reader->room = room;
	}
	reader->items[reader->n++] = *item;
	reader->seen[at] = reader->n;
	return 0;
}

static int set_drain(struct discovered *item, const char *value)
{
	bool drains = !strcmp(value, "true") || !strcmp(value, "yes") || !strcmp(value, "on");

	if (!drains && strcmp(value, "false") && strcmp(value, "no") && strcmp(value, "off"))
		return -EINVAL;
	item->condition = drains ? DISCOVERY_DRAINING : DISCOVERY_READY;
	item->why = drains ? "drained in the endpoints file" : NULL;
	return 0;
}

static int set_address(struct discovered *item, const char *value)
{
	return address_parse(&item->config.address, value) || !item->config.address.port_be ? -EINVAL : 0;
}

static const struct key {
	const char *name, *allowed;
	int (*set)(struct discovered *item, const char *value); /* NULL: an attribute as of --endpoint */
} keys[] = {
	{ "address", "must be an IP address and port", set_address },
	{ "model", "must be a name of at most 255 bytes" },
	{ "role", "must be decode, prefill or both" },
	{ "engine", "must be vllm, sglang or unknown" },
	{ "blocks", "must be a number from 1 to 268435456" },
	{ "drain", "must be true or false", set_drain },
};
enum { KEY_ADDRESS, N_KEYS = sizeof(keys) / sizeof(keys[0]) };

static int find_key(struct reader *reader, unsigned *given, unsigned *out)
{
	const char *name = scalar(reader);

	if (!name)
		return fail_here(reader, "expected a key of an endpoint");
	for (*out = 0; *out < N_KEYS && strcmp(keys[*out].name, name);)
		++*out;
	if (*out == N_KEYS)
		return fail_at(reader, &reader->event.start_mark, "no such key: \"%.64s\"", name);
	if (*given >> *out & 1)
		return fail_at(reader, &reader->event.start_mark, "\"%s\" is given twice", name);
	*given |= 1u << *out;
	return 0;
}

static int read_value(struct reader *reader, unsigned key, struct discovered *item)
{
	const char *value;
	int err = next(reader);

	if (err)
		return err;
	value = scalar(reader);
	if (value)
		err = keys[key].set ? keys[key].set(item, value) : endpoint_config_set(&item->config, keys[key].name, value);
	return value && !err ? 0 : fail_at(reader, &reader->event.start_mark, "%s %s", keys[key].name, keys[key].allowed);
}

static int read_mapping(struct reader *reader)
{
	struct discovered item = { .config = { .role = ENDPOINT_ROLE_BOTH } };
	const yaml_mark_t mark = reader->event.start_mark;
	unsigned given = 0, key = 0;
	int err;

	while (!(err = next(reader)) && reader->event.type != YAML_MAPPING_END_EVENT) {
		err = find_key(reader, &given, &key);
		err = err ? err : read_value(reader, key, &item);
		if (err)
			return err;
	}
	if (!err && !(given >> KEY_ADDRESS & 1))
		return fail_at(reader, &mark, "an endpoint without an address");
	return err ? err : add_item(reader, &item, &mark);
}

static int read_text(struct reader *reader)
{
	struct discovered item = { 0 };
	const char *text = scalar(reader);

	if (!text || endpoint_config_parse(&item.config, text))
		return fail_here(reader, "must be ADDR:PORT[,model=NAME][,role=decode|prefill|both][,blocks=N][,engine=vllm|sglang]");
	return add_item(reader, &item, &reader->event.start_mark);
}

/* ---- the document ---- */

static int read_sequence(struct reader *reader)
{
	int err = 0;

	if (reader->event.type != YAML_SEQUENCE_START_EVENT)
		return fail_here(reader, "expected a list of endpoints");
	while (!err && !(err = next(reader)) && reader->event.type != YAML_SEQUENCE_END_EVENT) {
		if (reader->event.type == YAML_MAPPING_START_EVENT)
			err = read_mapping(reader);
		else
			err = read_text(reader);
	}
	return err;
}

static int read_root(struct reader *reader)
{
	const char *key;
	int err;

	if (reader->event.type != YAML_MAPPING_START_EVENT)
		return read_sequence(reader);
	err = next(reader);
	if (err)
		return err;
	key = scalar(reader);
	if (!key || strcmp(key, "endpoints"))
		return fail_here(reader, "expected the key \"endpoints\" and no other");
	err = next(reader);
	err = err ? err : read_sequence(reader);
	err = err ? err : next(reader);
	if (!err && reader->event.type != YAML_MAPPING_END_EVENT)
		return fail_here(reader, "expected the key \"endpoints\" and no other");
	return err;
}

static int read_stream(struct reader *reader)
{
	int err = next(reader); /* the stream's start */

	err = err ? err : next(reader);
	if (!err && reader->event.type != YAML_DOCUMENT_START_EVENT)
		return fail_here(reader, "the file is empty");
	err = err ? err : next(reader);
	err = err ? err : read_root(reader);
	err = err ? err : next(reader); /* the document's end */
	err = err ? err : next(reader);
	if (!err && reader->event.type != YAML_STREAM_END_EVENT)
		return fail_here(reader, "more than one document");
	return err;
}

int endpoints_yaml_parse(const char *text, size_t len, struct discovered **out, uint32_t *n, struct endpoints_yaml_error *error)
{
	struct reader reader = { .text = text, .len = len, .error = error, .seen = calloc(SEEN_SIZE, sizeof(uint32_t)) };
	int err = reader.seen && yaml_parser_initialize(&reader.parser) ? 0 : -ENOMEM;

	*error = (struct endpoints_yaml_error){ 0 };
	if (!err) {
		yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, len);
		err = read_stream(&reader);
		if (reader.has_event)
			yaml_event_delete(&reader.event);
		yaml_parser_delete(&reader.parser);
	}
	free(reader.seen);
	if (err) {
		free(reader.items);
		return err;
	}
	*out = reader.items;
	*n = reader.n;
	return 0;
}
