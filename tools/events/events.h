/* SPDX-License-Identifier: Apache-2.0 */
/* llmd-events: what its files share. */
#ifndef LLMD_TOOLS_EVENTS_EVENTS_H
#define LLMD_TOOLS_EVENTS_EVENTS_H

#include <event2/event.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/cache_event.h"
#include "lib/redis_conn.h"

#define STREAM	    "llmd:events"
#define SESSION_KEY "llmd:session:"
#define POD_KEY	    "llmd:pod:"
#define DRAIN_KEY   "llmd:drain:"
#define EPOCH_KEY   "llmd:epoch"

/** struct events_config - the command line; durations in milliseconds. */
struct events_config {
	struct redis_config redis;
	const char *session_secret_file, *from;
	uint64_t count, block, stream_max, session_ttl_ms;
	bool json;
};

/** struct tool - one run. @status: what the program will exit with. @words: after the command. */
struct tool {
	const struct events_config *config;
	struct event_base *base;
	struct redis_conn *conn;
	int n_words, status;
	char **words;
};

/** struct command - @prepare: before there is a connection, 0 or -EINVAL after a line on standard error; @start: once there is one. */
struct command {
	const char *name, *operands, *help;
	int (*prepare)(struct tool *tool);
	void (*start)(struct tool *tool);
};
extern const struct command command_tail, command_inject, command_snapshot;

/** tool_end() - leaves the loop. What was already read is still handed over: see @status. */
void tool_end(struct tool *tool, int status);

/** tool_expect() - ends with a line on standard error if it is an error, or a whole reply of another type than @type or @other. */
void tool_expect(struct tool *tool, const struct redis_item *item, enum redis_type type, enum redis_type other);
void tool_send(struct tool *tool, const struct redis_handler *handler, int n, const char *const *argument, const size_t *length);

/** struct entry - one being read from a reply in which the list of entries lies at depth @base. */
struct entry {
	unsigned base;
	bool is_open;
	struct stream_id id;
	struct cache_event event;
};
/** entry_item() - calls @done at the end of each entry but the last, for which entry_end() does. */
void entry_item(struct tool *tool, struct entry *entry, const struct redis_item *item, void (*done)(struct tool *, struct entry *));
void entry_end(struct tool *tool, struct entry *entry, void (*done)(struct tool *, struct entry *));

/** show_entry() - a line, or an object in JSON. */
void show_entry(struct tool *tool, const struct entry *entry);

enum { SHOW_TEXT_MAX = 160 };
/** show_plain() - what others wrote, without what a terminal or a parser of JSON would not take; cut to fit. Return: @out. */
const char *show_plain(char out[SHOW_TEXT_MAX], const char *text, size_t len);

#endif
