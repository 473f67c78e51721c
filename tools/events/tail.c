// SPDX-License-Identifier: Apache-2.0
/* llmd-events tail: the stream's entries as they come. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/events/events.h"

static struct entry entry = { .base = 2 };
static char after[STREAM_ID_TEXT_MAX];
static uint64_t shown;
static bool is_new;

enum { PAUSE_MS = 100 };

static int prepare(struct tool *tool)
{
	const char *from = tool->config->from;
	struct stream_id id;

	if (tool->n_words) {
		fprintf(stderr, "llmd-events: tail: \"%.200s\" is one word too many\n", tool->words[0]);
		return -EINVAL;
	}
	if (strcmp(from, "$") && strcmp(from, "0") && stream_id_parse(&id, from, strlen(from))) {
		fprintf(stderr, "llmd-events: --from: \"%.200s\" is not valid: must be an entry's id, 0 for all that is there, or $\n", from);
		return -EINVAL;
	}
	snprintf(after, sizeof(after), "%s", from);
	return 0;
}

static void on_entry(struct tool *tool, struct entry *read)
{
	stream_id_format(&read->id, after);
	is_new = true;
	if (tool->config->count && shown == tool->config->count)
		return;
	show_entry(tool, read);
	shown++;
}

static void on_item(void *ctx, const struct redis_item *item)
{
	tool_expect(ctx, item, REDIS_ARRAY, REDIS_NIL);
	entry_item(ctx, &entry, item, on_entry);
}

static void go_on(struct tool *tool);

static void on_pause_over(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	go_on(arg);
}

/* A pause after nothing: what stands in for Redis may not wait before it says so. */
static void on_end(void *ctx)
{
	const struct timeval pause = { .tv_usec = PAUSE_MS * 1000 };
	struct tool *tool = ctx;

	entry_end(tool, &entry, on_entry);
	if (tool->config->count && shown >= tool->config->count)
		tool_end(tool, EXIT_SUCCESS);
	else if (is_new)
		go_on(tool);
	else if (event_base_once(tool->base, -1, EV_TIMEOUT, on_pause_over, tool, &pause))
		tool_end(tool, EXIT_FAILURE);
}

static void go_on(struct tool *tool)
{
	const struct redis_handler handler = { on_item, on_end, tool };
	const char *const argument[] = { "XREAD", "COUNT", "512", "BLOCK", "1000", "STREAMS", STREAM, after };

	is_new = false;
	tool_send(tool, &handler, 8, argument, NULL);
}

/* "$" would mean another place at each read: what came between two reads were lost. */
static void on_newest(struct tool *tool, struct entry *read)
{
	(void)tool;
	stream_id_format(&read->id, after);
}

static void on_newest_item(void *ctx, const struct redis_item *item)
{
	tool_expect(ctx, item, REDIS_ARRAY, REDIS_ARRAY);
	entry_item(ctx, &entry, item, on_newest);
}

static void on_newest_end(void *ctx)
{
	entry_end(ctx, &entry, on_newest);
	entry.base = 2;
	go_on(ctx);
}

static void start(struct tool *tool)
{
	const struct redis_handler handler = { on_newest_item, on_newest_end, tool };
	static const char *const newest[] = { "XREVRANGE", STREAM, "+", "-", "COUNT", "1" };

	if (strcmp(after, "$")) {
		go_on(tool);
		return;
	}
	snprintf(after, sizeof(after), "0");
	entry.base = 0;
	tool_send(tool, &handler, 6, newest, NULL);
}

const struct command command_tail = { "tail", "", "Show events as they come, one a line.", prepare, start };
