// SPDX-License-Identifier: Apache-2.0
/* Command lines as tables: see option.h. The parsing itself is getopt_long(3)'s. */
#include "lib/option.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/output.h"
#include "lib/version.h"

/* What getopt_long() returns, clear of all characters: for a row OPTION_ROW and its index. */
enum { OPTION_HELP = 1000, OPTION_VERSION, OPTION_MAN, OPTION_ROW };
enum { ENV_NAME_MAX = 64, LETTERS_MAX = 64 };

static bool is_in_range(const struct option_range *range, double number)
{
	return !range || (number >= range->min && number <= range->max);
}

int option_parse_string(void *field, const char *value, const void *data)
{
	(void)data;
	*(const char **)field = value;
	return 0;
}

int option_parse_flag(void *field, const char *value, const void *data)
{
	bool on = !strcmp(value, "true") || !strcmp(value, "1") || !strcmp(value, "yes");

	(void)data;
	if (!on && strcmp(value, "false") && strcmp(value, "0") && strcmp(value, "no"))
		return -EINVAL;
	*(bool *)field = on;
	return 0;
}

int option_parse_double(void *field, const char *value, const void *data)
{
	char *end;
	double number = strtod(value, &end);

	if (end == value || *end || !isfinite(number) || isspace((unsigned char)*value))
		return -EINVAL;
	if (!is_in_range(data, number))
		return -EINVAL;
	*(double *)field = number;
	return 0;
}

static int parse_digits(const char *value, const char **end, uint64_t *out)
{
	char *stop;

	if (!isdigit((unsigned char)*value))
		return -EINVAL;
	errno = 0;
	*out = strtoull(value, &stop, 10);
	*end = stop;
	return errno ? -EINVAL : 0;
}

int option_parse_u64(void *field, const char *value, const void *data)
{
	const char *end;
	uint64_t number;

	if (parse_digits(value, &end, &number) || *end || !is_in_range(data, (double)number))
		return -EINVAL;
	*(uint64_t *)field = number;
	return 0;
}

struct unit {
	const char *name;
	uint64_t factor;
};

static int parse_with_unit(const char *value, const struct unit *units, const struct option_range *range, uint64_t *out)
{
	const char *end;
	uint64_t number;

	if (parse_digits(value, &end, &number))
		return -EINVAL;
	while (units->name && strcmp(end, units->name))
		units++;
	if (!units->name || __builtin_mul_overflow(number, units->factor, &number) || !is_in_range(range, (double)number))
		return -EINVAL;
	*out = number;
	return 0;
}

int option_parse_duration(void *field, const char *value, const void *data)
{
	static const struct unit units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { 0 } };

	return parse_with_unit(!strcmp(value, "0") ? "0ms" : value, units, data, field);
}

int option_parse_size(void *field, const char *value, const void *data)
{
	static const struct unit units[] = { { "", 1 }, { "K", 1 << 10 }, { "M", 1 << 20 }, { "G", 1 << 30 },
		{ "KiB", 1 << 10 }, { "MiB", 1 << 20 }, { "GiB", 1 << 30 }, { 0 } };

	return parse_with_unit(value, units, data, field);
}

int option_parse_enum(void *field, const char *value, const void *data)
{
	for (const struct option_name *n = data; n->name; n++) {
		if (!strcmp(n->name, value)) {
			*(int *)field = n->value;
			return 0;
		}
	}
	return -EINVAL;
}

int option_parse_list(void *field, const char *value, const void *data)
{
	struct string_list *list = field;

	(void)data;
	if (list->n == STRING_LIST_MAX)
		return -EINVAL;
	list->item[list->n++] = value;
	return 0;
}

static int apply(const struct program *program, const struct option_row *row, const char *value, void *config)
{
	int err = row->parse((char *)config + row->offset, value, row->data);

	if (err)
		fprintf(stderr, "%s: --%s: \"%.200s\" is not valid: must be %s\n", program->name, row->name, value,
			row->allowed ? row->allowed : "different");
	return err;
}

static void env_name(const char *name, char out[ENV_NAME_MAX])
{
	size_t n = (size_t)snprintf(out, ENV_NAME_MAX, "LLMD_%s", name);

	for (size_t i = 0; i < n && i < ENV_NAME_MAX; i++)
		out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
}

/* Fields point into these for the life of the program. */
struct kept_text {
	struct kept_text *next;
	char text[];
};

static char *keep_text(const char *text)
{
	static struct kept_text *all;
	struct kept_text *kept = malloc(sizeof(*kept) + strlen(text) + 1);

	if (!kept)
		return NULL;
	strcpy(kept->text, text);
	kept->next = all;
	all = kept;
	return kept->text;
}

static int apply_words(const struct program *program, const struct option_row *row, const char *text, void *config)
{
	char *copy = keep_text(text), *save = NULL;

	if (!copy)
		return -ENOMEM;
	for (char *word = strtok_r(copy, " \t\n", &save); word; word = strtok_r(NULL, " \t\n", &save)) {
		int err = apply(program, row, word, config);

		if (err)
			return err;
	}
	return 0;
}

static int apply_row_defaults(const struct program *program, const struct option_row *row, bool on_line, void *config)
{
	char name[ENV_NAME_MAX];
	const char *env;

	if (!row->name || on_line)
		return 0;
	env_name(row->name, name);
	env = getenv(name);
	if (env && row->repeat)
		return apply_words(program, row, env, config);
	if (env)
		return apply(program, row, env, config);
	return row->initial ? apply(program, row, row->initial, config) : 0;
}

static struct option *long_options(const struct program *program)
{
	static const struct option common[] = { { "help", no_argument, NULL, OPTION_HELP },
		{ "version", no_argument, NULL, OPTION_VERSION }, { "man", no_argument, NULL, OPTION_MAN }, { 0 } };
	struct option *table = calloc(program->n_rows + 4, sizeof(*table));
	size_t n = 0;

	for (size_t i = 0; table && i < program->n_rows; i++)
		if (program->rows[i].name)
			table[n++] = (struct option){ program->rows[i].name,
				program->rows[i].arg ? required_argument : no_argument, NULL, OPTION_ROW + (int)i };
	if (table)
		memcpy(table + n, common, sizeof(common));
	return table;
}

static _Noreturn void print_and_exit(const struct program *program, int what)
{
	if (what == OPTION_HELP)
		options_print_help(program, stdout);
	else if (what == OPTION_MAN)
		options_print_man(program, stdout);
	else
		printf("%s %s\n", program->name, LLMD_VERSION);
	exit(0);
}

/* "hj": -h and the rows' letters. A leading '+' stops at the first operand. */
static void short_options(const struct program *program, bool permute, char out[2 * LETTERS_MAX])
{
	size_t n = (size_t)sprintf(out, permute ? "h" : "+h");

	for (size_t i = 0; i < program->n_rows && n + 3 < 2 * LETTERS_MAX; i++)
		if (program->rows[i].letter)
			n += (size_t)sprintf(out + n, program->rows[i].arg ? "%c:" : "%c", program->rows[i].letter);
}

/* A letter as the value that getopt_long() returns for its long form. */
static int long_value(const struct program *program, int c)
{
	if (c == 'h')
		return OPTION_HELP;
	for (size_t i = 0; c < OPTION_HELP && i < program->n_rows; i++)
		if (program->rows[i].letter == c)
			return OPTION_ROW + (int)i;
	return c;
}

static int parse_line(const struct program *program, int argc, char **argv, void *config, bool permute, bool *seen)
{
	struct option *table = long_options(program);
	char letters[2 * LETTERS_MAX];
	int c, err = table ? 0 : -ENOMEM;

	short_options(program, permute, letters);
	optind = 0; /* glibc: begin anew, with another order of operands, too */
	opterr = 1;
	while (!err && (c = getopt_long(argc, argv, letters, table, NULL)) != -1) {
		c = long_value(program, c);
		if (c < OPTION_HELP) {
			err = -EINVAL; /* getopt_long has said why */
		} else if (c < OPTION_ROW) {
			print_and_exit(program, c);
		} else {
			err = apply(program, &program->rows[c - OPTION_ROW], optarg ? optarg : "true", config);
			seen[c - OPTION_ROW] = true;
		}
	}
	free(table);
	return err;
}

int options_parse(const struct program *program, int argc, char **argv, void *config, int *operands)
{
	bool *seen = calloc(program->n_rows + 1, sizeof(*seen));
	int err = seen ? 0 : -ENOMEM;

	output_check_at_exit(program->name);
	if (!err)
		err = parse_line(program, argc, argv, config, operands != NULL, seen);
	for (size_t i = 0; !err && i < program->n_rows; i++)
		err = apply_row_defaults(program, &program->rows[i], seen[i], config);
	free(seen);
	if (err)
		return err;
	if (operands) {
		*operands = optind;
	} else if (optind < argc) {
		fprintf(stderr, "%s: \"%s\" is not an option; see --help\n", program->name, argv[optind]);
		return -EINVAL;
	}
	return 0;
}

static void print_help_text(const char *text, const char *indent, FILE *out)
{
	while (*text) {
		size_t n = strcspn(text, "\n");

		fprintf(out, "%s%.*s\n", indent, (int)n, text);
		text += n + (text[n] == '\n');
	}
}

void options_print_help(const struct program *program, FILE *out)
{
	fprintf(out, "%s: %s\n\nUsage: %s %s\n", program->name, program->summary, program->name, program->usage);
	if (program->print_commands)
		program->print_commands(out, false);
	for (size_t i = 0; i < program->n_rows; i++) {
		const struct option_row *row = &program->rows[i];

		if (!row->name) {
			fprintf(out, "\n%s\n", row->help);
			continue;
		}
		fputs("  ", out);
		if (row->letter)
			fprintf(out, "-%c, ", row->letter);
		fprintf(out, "--%s%s%s%s", row->name, row->arg ? " " : "", row->arg ? row->arg : "",
			row->repeat ? " ..." : "");
		if (row->arg && row->initial && *row->initial)
			fprintf(out, "  (default %s)", row->initial);
		fputc('\n', out);
		print_help_text(row->help, "        ", out);
	}
	fprintf(out, "\n  --help, --version\n\nEach option --x-y is also read from the environment variable LLMD_X_Y.\n");
}

/* Within a line. */
static void print_roff_words(const char *text, FILE *out)
{
	for (; *text; text++) {
		if (*text == '-' || *text == '\\')
			fputc('\\', out);
		fputc(*text == '\\' ? 'e' : *text, out);
	}
}

void options_print_roff(const char *text, FILE *out)
{
	bool line_start = true;

	for (; *text; text++) {
		if (line_start && (*text == '.' || *text == '\''))
			fputs("\\&", out);
		if (*text == '-')
			fputs("\\-", out);
		else if (*text == '\\')
			fputs("\\e", out);
		else
			fputc(*text, out);
		line_start = *text == '\n';
	}
	fputc('\n', out);
}

static void print_man_row(const struct option_row *row, FILE *out)
{
	if (!row->name) {
		fputs(".SS ", out);
		options_print_roff(row->help, out);
		return;
	}
	fputs(row->arg ? ".TP\n.BI \"" : ".TP\n.B \"", out);
	if (row->letter)
		fprintf(out, "\\-%c, ", row->letter);
	fputs("\\-\\-", out);
	print_roff_words(row->name, out);
	if (row->arg) {
		fputs(" \" \"", out);
		print_roff_words(row->arg, out);
	}
	fputs("\"\n", out);
	options_print_roff(row->help, out);
	if (row->arg && row->initial && *row->initial) {
		fputs("Default: ", out);
		options_print_roff(row->initial, out);
	}
	if (row->repeat)
		fputs("May be repeated.\n", out);
}

void options_print_man(const struct program *program, FILE *out)
{
	fprintf(out, ".TH %s %s \"\" \"llmd %s\" \"llmd manual\"\n.SH NAME\n", program->name, program->section, LLMD_VERSION);
	fprintf(out, "%s \\- ", program->name);
	options_print_roff(program->summary, out);
	fprintf(out, ".SH SYNOPSIS\n.B %s\n", program->name);
	options_print_roff(program->usage, out);
	fputs(".SH DESCRIPTION\n", out);
	options_print_roff(program->description, out);
	if (program->print_commands)
		program->print_commands(out, true);
	fputs(".SH OPTIONS\n", out);
	for (size_t i = 0; i < program->n_rows; i++)
		print_man_row(&program->rows[i], out);
	fputs(".SH ENVIRONMENT\nEach option \\-\\-x\\-y is also read from LLMD_X_Y; the command line wins.\n", out);
	if (program->sections)
		fputs(program->sections, out);
}
