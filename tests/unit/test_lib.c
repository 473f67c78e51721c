// SPDX-License-Identifier: Apache-2.0
/* Option tables, addresses, log lines, histograms. */
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <unistd.h>

#include "lib/address.h"
#include "lib/histogram.h"
#include "lib/log.h"
#include "lib/option.h"

struct options {
	const char *text;
	bool flag;
	uint64_t number, wait_ms, size;
	double share;
	int mode;
	struct string_list list;
};

static const struct option_range one_to_ten = { 1, 10 };
static const struct option_name modes[] = { { "a", 1 }, { "b", 2 }, { 0 } };

#define FIELD(name) offsetof(struct options, name)
static const struct option_row rows[] = {
	{ .help = "Heading" },
	{ "text", "T", "x", "text", "A text.", option_parse_string, FIELD(text) },
	{ "flag", NULL, NULL, "nothing", "A flag.", option_parse_flag, FIELD(flag), .letter = 'f' },
	{ "number", "N", "5", "1 to 10", "A number.", option_parse_u64, FIELD(number), &one_to_ten, .letter = 'n' },
	{ "wait", "D", "2s", "a duration", "A duration.", option_parse_duration, FIELD(wait_ms) },
	{ "size", "S", "4K", "a size", "A size.", option_parse_size, FIELD(size) },
	{ "share", "F", "0.5", "a number", "A share.", option_parse_double, FIELD(share) },
	{ "test-mode", "M", "a", "a or b", "A mode.", option_parse_enum, FIELD(mode), modes },
	{ "item", "I", NULL, "an item", "Items.", option_parse_list, FIELD(list), .repeat = true },
};
static const struct program program = { "prog", "1", "summary", "usage", "description", NULL, rows, COUNT(rows) };

/* Runs with standard error in @error. */
static int parse_operands(struct options *options, char *error, size_t size, int argc, char **argv, int *operands)
{
	int saved = dup(STDERR_FILENO), pipes[2], err;
	ssize_t n;

	assert_int_equal(pipe(pipes), 0);
	fflush(stderr);
	dup2(pipes[1], STDERR_FILENO);
	close(pipes[1]);
	memset(options, 0, sizeof(*options));
	err = options_parse(&program, argc, argv, options, operands);
	fflush(stderr);
	dup2(saved, STDERR_FILENO);
	close(saved);
	n = read(pipes[0], error, size - 1);
	close(pipes[0]);
	error[n > 0 ? n : 0] = '\0';
	return err;
}

static int parse(struct options *options, char *error, size_t size, int argc, char **argv)
{
	return parse_operands(options, error, size, argc, argv, NULL);
}

static void options_between_operands(void **state)
{
	static struct options options;
	char *mixed[] = { "prog", "noun", "-f", "verb", "-n", "7", "--", "-x", NULL };
	char *wrong[] = { "prog", "noun", "-n", "0", NULL }, *unknown[] = { "prog", "-q", NULL };
	char error[512];
	int operands;

	(void)state;
	assert_int_equal(parse_operands(&options, error, sizeof(error), 8, mixed, &operands), 0);
	assert_true(options.flag && options.number == 7);
	assert_int_equal(operands, 5);
	assert_string_equal(mixed[5], "noun");
	assert_string_equal(mixed[6], "verb");
	assert_string_equal(mixed[7], "-x");
	assert_int_equal(parse_operands(&options, error, sizeof(error), 4, wrong, &operands), -EINVAL);
	assert_non_null(strstr(error, "--number: \"0\" is not valid: must be 1 to 10"));
	assert_int_equal(parse_operands(&options, error, sizeof(error), 2, unknown, &operands), -EINVAL);
	assert_non_null(strstr(error, "'q'"));
}

static void options_in_order(void **state)
{
	static struct options options;
	char *none[] = { "prog", NULL }, *some[] = { "prog", "--number", "7", "--item=b", "--flag", "--wait", "3m", NULL };
	char error[512];

	(void)state;
	assert_int_equal(parse(&options, error, sizeof(error), 1, none), 0);
	assert_true(options.number == 5 && options.wait_ms == 2000 && options.size == 4096 && options.mode == 1 && !options.flag);
	setenv("LLMD_NUMBER", "6", 1);
	setenv("LLMD_ITEM", "x y", 1);
	setenv("LLMD_TEST_MODE", "b", 1);
	assert_int_equal(parse(&options, error, sizeof(error), 1, none), 0);
	assert_true(options.number == 6 && options.list.n == 2 && options.mode == 2);
	assert_int_equal(parse(&options, error, sizeof(error), 7, some), 0);
	assert_true(options.number == 7 && options.list.n == 1 && options.flag && options.wait_ms == 180000);
	assert_string_equal(options.list.item[0], "b");
	unsetenv("LLMD_NUMBER");
	unsetenv("LLMD_ITEM");
	unsetenv("LLMD_TEST_MODE");
}

static void options_refused(void **state)
{
	static const char *const wrong[][2] = { { "--number", "0" }, { "--number", "11" }, { "--number", "5x" }, { "--number", "-1" },
		{ "--wait", "5" }, { "--wait", "5 s" }, { "--wait", "s" }, { "--size", "5Q" }, { "--size", "99999999999G" },
		{ "--share", "nan" }, { "--share", "" }, { "--test-mode", "c" }, { "--unknown", "1" }, { "operand", "1" } };
	static struct options options;
	char error[512];

	(void)state;
	for (size_t i = 0; i < COUNT(wrong); i++) {
		char *argv[] = { "prog", (char *)wrong[i][0], (char *)wrong[i][1], NULL };

		if (parse(&options, error, sizeof(error), 3, argv) != -EINVAL)
			fail_msg("%s %s was taken", wrong[i][0], wrong[i][1]);
		assert_non_null(strstr(error, i < 12 ? wrong[i][0] : i == 12 ? "unknown" : "operand"));
		if (i < 12)
			assert_non_null(strstr(error, "must be"));
	}
}

static void help_and_manual_name_all(void **state)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	(void)state;
	options_print_help(&program, out);
	fflush(out);
	for (size_t i = 1; i < COUNT(rows); i++) {
		char name[64];

		sprintf(name, "--%s", rows[i].name);
		assert_non_null(strstr(text, name));
		assert_non_null(strstr(text, rows[i].help));
	}
	rewind(out);
	options_print_man(&program, out);
	fclose(out);
	assert_non_null(strstr(text, ".TH prog 1"));
	assert_non_null(strstr(text, "test\\-mode"));
	assert_non_null(strstr(text, "\\-f, \\-\\-flag"));
	free(text);
}

static void addresses(void **state)
{
	static const char *const right[] = { "1.2.3.4:80", "[::1]:65535", "[2001:db8::1]:1", "0.0.0.0:0" };
	static const char *const wrong[] = { "", ":", "1.2.3.4", "1.2.3:80", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4: 80", "::1:80",
		"[::1]", "[::1:80", "host:80", "1.2.3.4:80 ", "[]:80" };
	struct address address;
	char text[ADDRESS_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < COUNT(right); i++) {
		struct sockaddr_storage sa;
		struct address back;

		assert_int_equal(address_parse(&address, right[i]), 0);
		assert_string_equal(address_format(&address, text), right[i]);
		address_to_sockaddr(&address, &sa);
		assert_int_equal(address_from_sockaddr(&back, (struct sockaddr *)&sa), 0);
		assert_true(address_equal(&address, &back));
	}
	for (size_t i = 0; i < COUNT(wrong); i++)
		if (!address_parse(&address, wrong[i]))
			fail_msg("%s was taken", wrong[i]);
}

static void addresses_without_port(void **state)
{
	static const char *const right[] = { "1.2.3.4", "::1", "2001:db8::1" };
	static const char *const wrong[] = { "", ":", "1.2.3", "1.2.3.4:80", "[::1]", "host", "1.2.3.4 ", "::1%eth0" };
	struct address address;
	char text[ADDRESS_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < COUNT(right); i++) {
		assert_int_equal(address_parse_ip(&address, right[i]), 0);
		assert_string_equal(address_format_ip(&address, text), right[i]);
		assert_int_equal(address.port_be, 0);
	}
	for (size_t i = 0; i < COUNT(wrong); i++)
		if (!address_parse_ip(&address, wrong[i]))
			fail_msg("%s was taken", wrong[i]);
}

static struct json_object *logged_json(const char *value)
{
	static char line[2 * LOG_LINE_MAX], quoted[2 * LOG_LINE_MAX];
	int saved = dup(STDERR_FILENO), pipes[2];
	ssize_t n;

	assert_int_equal(pipe(pipes), 0);
	dup2(pipes[1], STDERR_FILENO);
	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
	log_info("message", "a=%d text=%s", 5, log_quote(value, quoted, sizeof(quoted)));
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(pipes[1]);
	n = read(pipes[0], line, sizeof(line) - 1);
	close(pipes[0]);
	assert_true(n > 0);
	line[n] = '\0';
	return json_tokener_parse(line);
}

static void log_lines_are_json(void **state)
{
	char big[3 * LOG_LINE_MAX / 2];
	struct json_object *json = logged_json("a \"quoted\"\n\\ text=1");

	(void)state;
	assert_non_null(json);
	assert_int_equal(json_object_get_int(json_object_object_get(json, "a")), 5);
	assert_string_equal(json_object_get_string(json_object_object_get(json, "text")), "a \"quoted\"\n\\ text=1");
	json_object_put(json);
	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	json = logged_json(big);
	assert_non_null(json);
	json_object_put(json);
	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
}

/* Lines of five calls, the last after the time: which of them, and what the last one says of the others. */
static unsigned paced(enum log_level level, char *last, size_t size)
{
	struct log_pace pace = { 0 };
	int ends[2], stderr_fd = dup(STDERR_FILENO);
	unsigned n = 0;
	char text[4096];
	ssize_t len;

	assert_return_code(pipe(ends), errno);
	dup2(ends[1], STDERR_FILENO);
	log_setup(level, LOG_FORMAT_TEXT);
	for (int i = 0; i < 5; i++) {
		pace.begun_ms -= i == 4 ? 3600000 : 0;
		log_paced(&pace, 2, 3600000, LOG_LEVEL_WARN, "often", "i=%d", i);
	}
	dup2(stderr_fd, STDERR_FILENO);
	close(ends[1]);
	len = read(ends[0], text, sizeof(text) - 1);
	close(ends[0]);
	close(stderr_fd);
	text[len > 0 ? len : 0] = '\0';
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), n++)
		snprintf(last, size, "%s", line);
	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
	return n;
}

static void log_lines_are_paced(void **state)
{
	char last[256];

	(void)state;
	assert_int_equal(paced(LOG_LEVEL_INFO, last, sizeof(last)), 3);
	assert_non_null(strstr(last, "level=warn msg=\"often\" passed_over=2 i=4"));
	assert_int_equal(paced(LOG_LEVEL_DEBUG, last, sizeof(last)), 5);
	assert_int_equal(paced(LOG_LEVEL_ERROR, last, sizeof(last)), 0);
}

static void histograms(void **state)
{
	static const double bounds[] = { 1, 2 };
	struct histogram histogram;

	(void)state;
	histogram_init(&histogram, bounds, 2);
	histogram_observe(&histogram, 1);
	histogram_observe(&histogram, 1.5);
	histogram_observe(&histogram, 9);
	assert_true(histogram.count[0] == 1 && histogram.count[1] == 1 && histogram.count[2] == 1 && histogram.total == 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_in_order),
		cmocka_unit_test(options_between_operands),
		cmocka_unit_test(options_refused),
		cmocka_unit_test(help_and_manual_name_all),
		cmocka_unit_test(addresses),
		cmocka_unit_test(addresses_without_port),
		cmocka_unit_test(log_lines_are_json),
		cmocka_unit_test(log_lines_are_paced),
		cmocka_unit_test(histograms),
	};

	return cmocka_run_group_tests_name("lib", tests, NULL, NULL);
}
