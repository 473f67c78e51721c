/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines as tables: parser, --help, LLMD_* environment and man page come from the same rows. */
#ifndef LLMD_LIB_OPTION_H
#define LLMD_LIB_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/**
 * struct option_row - one option of a program.
 * @name:    long name without dashes ("drain-timeout"); also read from LLMD_DRAIN_TIMEOUT.
 * @arg:     placeholder shown in help; NULL for a flag.
 * @initial: default as text, run through @parse; NULL leaves the field as it is.
 * @allowed: what a valid value looks like, completes "must be ..." in errors.
 * @help:    one sentence or two; '\n' starts a new line.
 * @parse:   stores @value in @field; 0 or -EINVAL. Called once per occurrence. For a flag @value is "true".
 * @offset:  of the field in the program's configuration.
 * @data:    passed to @parse (names of an enumeration, a range).
 * @letter:  short form ('j' for -j), or 0.
 *
 * A row with a NULL @name and a @help is a heading. From the environment a repeatable option takes its values
 * separated by white space.
 */
struct option_row {
	const char *name;
	const char *arg;
	const char *initial;
	const char *allowed;
	const char *help;
	int (*parse)(void *field, const char *value, const void *data);
	size_t offset;
	const void *data;
	bool repeat;
	char letter;
};

/**
 * struct program - what help text and man page say about a program.
 * @sections: roff appended to the man page.
 * @print_commands: if not NULL, writes what comes before the options: as plain text, or as roff with its own headings.
 */
struct program {
	const char *name;
	const char *section; /* of the manual: "1" or "8" */
	const char *summary; /* "routes LLM requests ..." */
	const char *usage;   /* what follows the name in the synopsis */
	const char *description;
	const char *sections;
	const struct option_row *rows;
	size_t n_rows;
	void (*print_commands)(FILE *out, bool roff);
};

/** struct option_range - data of option_parse_u64, _double, _duration (milliseconds), _size; both ends belong to it. */
struct option_range {
	double min, max;
};

/** struct option_name - data of option_parse_enum: names and values, ended by a NULL name. Field: int. */
struct option_name {
	const char *name;
	int value;
};

/**
 * options_parse() - fills @config from defaults, then environment, then @argv.
 * @operands: if not NULL, receives the index of the first operand, after @argv was permuted so that operands, which may
 *            stand between options, come last; otherwise operands are an error.
 *
 * Handles --help, --version and --man (roff to standard output) by itself and exits 0 (1: see output.h). Return: 0, or -EINVAL after
 * one line on standard error that names the option, the value and what is allowed.
 */
int options_parse(const struct program *program, int argc, char **argv, void *config, int *operands);

void options_print_help(const struct program *program, FILE *out);
void options_print_man(const struct program *program, FILE *out);

/** options_print_roff() - @text with what roff would read as its own escaped, and a newline. */
void options_print_roff(const char *text, FILE *out);

/* Field types, in order: char * (not copied: points into argv, environment or the table), bool, uint64_t, double,
 * uint64_t milliseconds ("250ms", "30s", "5m", "2h"), uint64_t bytes ("512", "64K", "16M", "1G"), int (enum). */
int option_parse_string(void *field, const char *value, const void *data);
int option_parse_flag(void *field, const char *value, const void *data);
int option_parse_u64(void *field, const char *value, const void *data);
int option_parse_double(void *field, const char *value, const void *data);
int option_parse_duration(void *field, const char *value, const void *data);
int option_parse_size(void *field, const char *value, const void *data);
int option_parse_enum(void *field, const char *value, const void *data);

/** struct string_list - field of option_parse_list, which appends; bounded by STRING_LIST_MAX (-EINVAL past it). */
#define STRING_LIST_MAX 1024
struct string_list {
	size_t n;
	const char *item[STRING_LIST_MAX];
};
int option_parse_list(void *field, const char *value, const void *data);

#endif
