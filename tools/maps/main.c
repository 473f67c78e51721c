// SPDX-License-Identifier: Apache-2.0
/* llmd-maps: options, nouns and verbs. What they do: see the files of the nouns. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/maps/maps.h"

enum { EXIT_USAGE = 2 };

static const struct noun *const nouns[] = { &noun_endpoint, &noun_session, &noun_prefix, &noun_flow, &noun_affinity, &noun_counter,
	&noun_summary };

static const struct option_range any = { 0, 1e12 }, interval_ms = { 100, 3600000 };

#define FIELD(name) offsetof(struct maps_config, name)
/* clang-format off */
static const struct option_row rows[] = {
	{ .help = "Options, before, between or after the words" },
	{ "pin-dir", "DIR", LLMD_PIN_DIR, "a directory", "Where the agent has pinned its maps.", option_parse_string, FIELD(pin_dir) },
	{ "json", NULL, NULL, "given without a value", "JSON instead of a table: an array (list), an object (get, delete, summary),\n"
	  "a line an interval (watch). Times in seconds, addresses as text, what is not known null.",
	  option_parse_flag, FIELD(json), .letter = 'j' },
	{ "hash", NULL, NULL, "given without a value", "The session key given is its hash, 16 hex digits.", option_parse_flag, FIELD(hash) },
	{ "limit", "N", "0", "a number", "At most that many rows; 0: all of them.", option_parse_u64, FIELD(limit), &any },
	{ "interval", "DURATION", "1s", "a duration from 100ms to 1h", "Between two pictures of watch; more where one takes long\n"
	  "to collect, so that watching uses a fifth of a core at most.", option_parse_duration, FIELD(interval_ms), &interval_ms },
	{ "count", "N", "0", "a number", "End watch after that many pictures; 0: on q or Ctrl-C, and where nobody watches\n"
	  "(output is no terminal, and no --json) after one.", option_parse_u64, FIELD(count), &any },
	{ "admin", "ADDR:PORT", "127.0.0.1:9470", "an IP address and port", "The agent's admin port, for drain and undrain.",
	  option_parse_address, FIELD(admin) },
};
/* clang-format on */

/* ---- help ---- */

static void print_key(FILE *out, const struct noun *noun, bool roff)
{
	char line[256];

	if (!noun->key)
		return;
	snprintf(line, sizeof(line), "%s is %s.", noun->key, noun->key_help);
	if (roff)
		options_print_roff(line, out);
	else
		fprintf(out, "  %s\n", line);
}

static void print_noun_roff(FILE *out, const struct noun *noun)
{
	fputs(".SS ", out);
	options_print_roff(noun->name, out);
	options_print_roff(noun->help, out);
	print_key(out, noun, true);
	for (size_t i = 0; noun->verbs[i]; i++) {
		const struct verb *verb = noun->verbs[i];

		fprintf(out, ".TP\n.BI \"%s %s \" \"%s\"\n", noun->name, verb->name, verb->takes_key ? noun->key : "");
		options_print_roff(verb->help, out);
	}
}

static void print_noun_text(FILE *out, const struct noun *noun)
{
	fprintf(out, "\n%s: %s\n", noun->name, noun->help);
	for (size_t i = 0; noun->verbs[i]; i++) {
		char line[64];

		snprintf(line, sizeof(line), "%s %s %s", noun->name, noun->verbs[i]->name, noun->verbs[i]->takes_key ? noun->key : "");
		fprintf(out, "  %-30s  %s\n", line, noun->verbs[i]->help);
	}
	print_key(out, noun, false);
}

static void print_commands(FILE *out, bool roff)
{
	if (roff)
		fputs(".SH COMMANDS\n", out);
	for (size_t i = 0; i < COUNT(nouns); i++) {
		if (roff)
			print_noun_roff(out, nouns[i]);
		else
			print_noun_text(out, nouns[i]);
	}
}

static const struct program program = {
	.name = "llmd-maps",
	.section = "8",
	.summary = "shows what the kernel knows of llmd's pods, sessions and connections",
	.usage = "{endpoint|session|prefix|flow|affinity|counter} {list|get|delete|watch} [KEY] [-j] | summary [watch] [-j]",
	.description = "llmd-maps reads the BPF maps that llmd-agent has pinned, whether or not an agent runs. Reading changes "
		       "nothing and needs no more than permission to open the maps. What a running agent knows of sessions and prefixes it has in its own "
		       "memory, too: an entry deleted here comes back when it is used again.",
	.sections = ".SH LATENCIES\nMedians and 95th percentiles are estimated from histograms whose buckets double in width: the real value "
		    "lies in the same bucket, so within a factor of two. Above 33 s they are cut.\n.SH EXIT STATUS\n0; 1 when "
		    "something failed or is not there; 2 for a command line that is not valid.\n.SH SEE ALSO\nllmd\\-agent(8), "
		    "bpftool\\-map(8)\n",
	.rows = rows,
	.n_rows = sizeof(rows) / sizeof(rows[0]),
	.print_commands = print_commands,
};

/* ---- words ---- */

/* Prints "a, b or c" by and by: @left counts down to the last one. */
static void print_choice(const char *name, size_t left)
{
	fprintf(stderr, "%s%s", name, left > 2 ? ", " : left == 2 ? " or " : "\n");
}

static int wrong_noun(const char *word)
{
	if (word)
		fprintf(stderr, "llmd-maps: \"%.200s\" is not valid: must be ", word);
	else
		fprintf(stderr, "llmd-maps: a word is missing: must be ");
	for (size_t i = 0; i < COUNT(nouns); i++)
		print_choice(nouns[i]->name, COUNT(nouns) - i);
	return -EINVAL;
}

static int wrong_verb(const struct noun *noun, const char *word)
{
	size_t n = 0;

	while (noun->verbs[n])
		n++;
	if (word)
		fprintf(stderr, "llmd-maps: %s: \"%.200s\" is not valid: must be ", noun->name, word);
	else
		fprintf(stderr, "llmd-maps: %s: a word is missing: must be ", noun->name);
	for (size_t i = 0; i < n; i++)
		print_choice(noun->verbs[i]->name, n - i);
	return -EINVAL;
}

static int find_noun(struct request *request, const char *word)
{
	for (size_t i = 0; word && i < COUNT(nouns); i++)
		if (!strcmp(nouns[i]->name, word)) {
			request->noun = nouns[i];
			return 0;
		}
	return wrong_noun(word);
}

static int find_verb(struct request *request, const char *word)
{
	const struct noun *noun = request->noun;

	if (!word && noun->verb_optional)
		word = noun->verbs[0]->name;
	for (size_t i = 0; word && noun->verbs[i]; i++)
		if (!strcmp(noun->verbs[i]->name, word)) {
			request->verb = noun->verbs[i];
			return 0;
		}
	return wrong_verb(noun, word);
}

static int check_keys(const struct request *request)
{
	const struct noun *noun = request->noun;
	int max = request->verb->takes_key ? noun->keys_max : 0;

	if (request->n_keys > max) {
		fprintf(stderr, "llmd-maps: %s %s: \"%.200s\" is one word too many\n", noun->name, request->verb->name, request->key[max]);
		return -EINVAL;
	}
	if (request->verb->takes_key && !request->n_keys) {
		fprintf(stderr, "llmd-maps: %s %s: %s is missing: must be %s\n", noun->name, request->verb->name, noun->key, noun->key_help);
		return -EINVAL;
	}
	return 0;
}

static int parse_words(struct request *request, int argc, char **argv)
{
	int err = find_noun(request, argv[0]);

	if (!err)
		err = find_verb(request, argc > 0 ? argv[1] : NULL);
	if (err)
		return err;
	request->key = argv + (argc > 2 ? 2 : argc);
	request->n_keys = argc > 2 ? argc - 2 : 0;
	return check_keys(request);
}

static int run(const struct request *request)
{
	static struct maps maps;
	int err;

	if (request->verb->asks_agent)
		return request->verb->run(NULL, request);
	err = maps_init(&maps, request->config->pin_dir);
	if (!err)
		err = maps_refresh(&maps);
	if (!err)
		err = request->verb->run(&maps, request);
	maps_close(&maps);
	return err;
}

int main(int argc, char **argv)
{
	static struct maps_config config;
	struct request request = { .config = &config };
	int operands, err;

	if (options_parse(&program, argc, argv, &config, &operands))
		return EXIT_USAGE;
	if (parse_words(&request, argc - operands, argv + operands))
		return EXIT_USAGE;
	err = run(&request);
	if (err == -ENOMEM)
		fprintf(stderr, "llmd-maps: %s\n", strerror(ENOMEM));
	return err == -EINVAL ? EXIT_USAGE : err ? EXIT_FAILURE : EXIT_SUCCESS;
}
