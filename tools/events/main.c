// SPDX-License-Identifier: Apache-2.0
/* llmd-events: options, commands, the connection. What the commands do: see their files. */
#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/option.h"
#include "tools/events/events.h"

enum { EXIT_USAGE = 2 };

static const struct command *const commands[] = { &command_tail, &command_inject, &command_snapshot };
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct option_range any = { 0, 1e12 }, block_range = { 16, 65536 }, stream_range = { 1024, 1 << 28 }, some_time = { 1000, 1e12 };

#define FIELD(name) offsetof(struct events_config, name)
/* clang-format off */
static const struct option_row rows[] = {
	{ .help = "Options, before, between or after the words" },
	{ "redis", "URL", "redis://127.0.0.1:6379", "redis://[user:password@]host[:port][/db], rediss://... for TLS, unix://[user:password@]/path[?db=N]",
	  "The Redis that the agents share.", option_parse_redis_url, FIELD(redis.url) },
	{ "redis-password-file", "FILE", "", "a file", "The password, instead of one in the URL.", option_parse_string, FIELD(redis.password_file) },
	{ "redis-ca-file", "FILE", "", "a file", "Authorities that may sign the certificate of a rediss:// server; by default the system's.",
	  option_parse_string, FIELD(redis.ca_file) },
	{ "redis-cert-file", "FILE", "", "a file", "Certificate to show to it.", option_parse_string, FIELD(redis.cert_file) },
	{ "redis-key-file", "FILE", "", "a file", "Key of that certificate.", option_parse_string, FIELD(redis.key_file) },
	{ "session-secret-file", "FILE", "", "a file", "That of the agents: to name a session by its key instead of its hash.",
	  option_parse_string, FIELD(session_secret_file) },
	{ "session-ttl", "DURATION", "2h", "a duration of at least a second", "How long what is injected stays in the snapshot: that of the agents.",
	  option_parse_duration, FIELD(session_ttl_ms), &some_time },
	{ "prefix-block", "BYTES", "512", "a number from 16 to 65536", "Size of a prefix block: that of the agents.", option_parse_u64, FIELD(block), &block_range },
	{ "redis-stream-max", "N", "65536", "a number from 1024 to 268435456", "Entries that the stream keeps: that of the agents.",
	  option_parse_u64, FIELD(stream_max), &stream_range },
	{ "from", "ID", "$", "an entry's id, 0 for all that is there, or $", "Where tail begins: after that entry; $: with what comes.",
	  option_parse_string, FIELD(from) },
	{ "count", "N", "0", "a number", "End tail after that many; 0: on Ctrl-C.", option_parse_u64, FIELD(count), &any },
	{ "json", NULL, NULL, "given without a value", "JSON: an object a line (tail), one object (snapshot).", option_parse_flag, FIELD(json), .letter = 'j' },
};
/* clang-format on */

static void print_commands(FILE *out, bool roff)
{
	fputs(roff ? ".SH COMMANDS\n" : "\n", out);
	for (size_t i = 0; i < N_COMMANDS; i++) {
		char line[128];

		snprintf(line, sizeof(line), "%s %s", commands[i]->name, commands[i]->operands);
		if (roff) {
			fprintf(out, ".TP\n.BI \"%s \" \"%s\"\n", commands[i]->name, commands[i]->operands);
			options_print_roff(commands[i]->help, out);
		} else {
			fprintf(out, "  %-30s  %s\n", line, commands[i]->help);
		}
	}
}

static const struct program program = {
	.name = "llmd-events",
	.section = "8",
	.summary = "shows and produces what llmd agents tell each other through Redis",
	.usage = "{tail | inject KIND FIELD=VALUE ... | snapshot} [OPTION ...]",
	.description = "llmd-events reads the stream of events that several llmd-agents share, adds events to it as an operator or an engine "
		       "may, and shows the snapshot from which an agent starts. docs/redis.md describes all of it.",
	.sections = ".SH EXIT STATUS\n0; 1 when something failed; 2 for a command line that is not valid.\n.SH SEE ALSO\nllmd\\-agent(8), "
		    "llmd\\-maps(8)\n",
	.rows = rows,
	.n_rows = sizeof(rows) / sizeof(rows[0]),
	.print_commands = print_commands,
};

void tool_end(struct tool *tool, int status)
{
	if (status > tool->status)
		tool->status = status;
	event_base_loopbreak(tool->base);
}

void tool_expect(struct tool *tool, const struct redis_item *item, enum redis_type type, enum redis_type other)
{
	char text[SHOW_TEXT_MAX];

	if (tool->status) /* what follows from the first is of no interest */
		return;
	if (item->type == REDIS_ERROR)
		fprintf(stderr, "llmd-events: Redis says: %s\n", show_plain(text, item->text, item->len));
	else if (item->depth || item->type == type || item->type == other)
		return;
	else
		fprintf(stderr, "llmd-events: not an answer to what was asked\n");
	tool_end(tool, EXIT_FAILURE);
}

void tool_send(struct tool *tool, const struct redis_handler *handler, int n, const char *const *argument, const size_t *length)
{
	if (redis_send(tool->conn, handler, n, argument, length))
		tool_end(tool, EXIT_FAILURE);
}

static const struct command *find_command(const char *word)
{
	for (size_t i = 0; word && i < N_COMMANDS; i++)
		if (!strcmp(commands[i]->name, word))
			return commands[i];
	if (word)
		fprintf(stderr, "llmd-events: \"%.200s\" is not valid: must be tail, inject or snapshot\n", word);
	else
		fprintf(stderr, "llmd-events: a word is missing: must be tail, inject or snapshot\n");
	return NULL;
}

static const struct command *command;

static void on_ready(void *ctx)
{
	command->start(ctx);
}

static void on_lost(void *ctx, const char *why)
{
	char text[SHOW_TEXT_MAX];

	fprintf(stderr, "llmd-events: no connection to Redis: %s\n", show_plain(text, why, strlen(why)));
	tool_end(ctx, EXIT_FAILURE);
}

static void on_signal(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	tool_end(arg, EXIT_SUCCESS);
}

static int run(struct tool *tool)
{
	const struct redis_callbacks callbacks = { on_ready, on_lost, tool };
	struct event *interrupt;

	tool->base = event_base_new();
	interrupt = tool->base ? evsignal_new(tool->base, SIGINT, on_signal, tool) : NULL;
	if (!interrupt || redis_conn_new(tool->base, &tool->config->redis, "llmd-events", &callbacks, &tool->conn))
		return EXIT_FAILURE;
	event_add(interrupt, NULL);
	event_base_dispatch(tool->base);
	redis_conn_free(tool->conn);
	event_free(interrupt);
	event_base_free(tool->base);
	return tool->status;
}

int main(int argc, char **argv)
{
	static struct events_config config;
	struct tool tool = { .config = &config };
	int operands;

	if (options_parse(&program, argc, argv, &config, &operands))
		return EXIT_USAGE;
	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
	command = find_command(argv[operands]);
	if (!command)
		return EXIT_USAGE;
	tool.words = argv + operands + 1;
	tool.n_words = argc - operands - 1;
	if (sodium_init() < 0 || command->prepare(&tool) || redis_config_check(&config.redis))
		return EXIT_USAGE;
	signal(SIGPIPE, SIG_IGN);
	return run(&tool);
}
