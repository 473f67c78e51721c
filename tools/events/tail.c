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
	if (tool->config->count && shown == tool->config->count)
		return;
	show_entry(tool, read);
	shown++;
}

static void on_item(void *ctx, const struct redis_item *item)
{
	tool_complain(ctx, item);
	entry_item(ctx, &entry, item, on_entry);
}

static void go_on(struct tool *tool);

static void on_end(void *ctx)
{
	struct tool *tool = ctx;

	entry_end(tool, &entry, on_entry);
	if (tool->config->count && shown >= tool->config->count)
		tool_end(tool, EXIT_SUCCESS);
	else
		go_on(tool);
}

static void go_on(struct tool *tool)
{
	const struct redis_handler handler = { on_item, on_end, tool };
	const char *const argument[] = { "XREAD", "COUNT", "512", "BLOCK", "1000", "STREAMS", STREAM, after };

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
	tool_complain(ctx, item);
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
