// SPDX-License-Identifier: Apache-2.0
/* llmd-maps watch, on a terminal and off it, and the completion of its command line. */
#include "tests/maps/fixture.h"

#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_MS = 20000, SCREEN_MAX = 1 << 20 };

static int setup(void **state)
{
	*state = fixture_new();
	return 0;
}

static int teardown(void **state)
{
	fixture_free(*state);
	return 0;
}

static void set_counter(struct fixture *fixture, uint64_t count)
{
	uint64_t *values = calloc((size_t)libbpf_num_possible_cpus(), sizeof(*values));
	uint32_t up = REASON_FORWARDED_UP;

	values[0] = count;
	assert_int_equal(bpf_map_update_elem(bpf_map__fd(fixture->maps->maps.counters), &up, values, BPF_ANY), 0);
	free(values);
}

/* ---- no terminal ---- */

static void once_where_nobody_watches(void **state)
{
	struct output output = run_maps(*state, "session watch --interval 1h");

	assert_int_equal(output.status, 0);
	assert_null(strchr(output.out, '\033'));
	assert_non_null(strstr(output.out, "SESSION "));
	output_free(&output);
}

static void a_json_line_each_interval(void **state)
{
	struct output output = run_maps(*state, "counter watch -j --count 3 --interval 100ms");
	char *save = NULL, *line = strtok_r(output.out, "\n", &save);

	assert_int_equal(output.status, 0);
	for (int i = 0; i < 3; i++, line = strtok_r(NULL, "\n", &save)) {
		struct json_object *rows, *row;

		assert_non_null(line);
		rows = json_tokener_parse(line);
		row = row_where(rows, "counter", "forwarded_up");
		if (i == 0)
			assert_null(member(row, "per_second"));
		else
			assert_true(json_object_get_double(member(row, "per_second")) == 0);
		json_object_put(rows);
	}
	assert_null(line);
	output_free(&output);
}

/* ---- a terminal ---- */

struct terminal {
	pid_t pid;
	int fd;
	size_t len;
	char text[SCREEN_MAX];
};

static struct terminal *terminal_open(struct fixture *fixture, const char *noun, unsigned short rows)
{
	struct terminal *terminal = calloc(1, sizeof(*terminal));
	struct winsize size = { .ws_row = rows, .ws_col = 60 };

	assert_non_null(terminal);
	terminal->pid = forkpty(&terminal->fd, NULL, NULL, &size);
	assert_true(terminal->pid >= 0);
	if (!terminal->pid) {
		execl(fixture->program, "llmd-maps", noun, "watch", "--interval", "200ms", "--pin-dir", fixture->dir, NULL);
		_exit(127);
	}
	return terminal;
}

/* Return: false at its end. */
static bool terminal_read(struct terminal *terminal)
{
	struct pollfd in = { .fd = terminal->fd, .events = POLLIN };
	ssize_t n;

	assert_int_equal(poll(&in, 1, WAIT_MS), 1);
	n = read(terminal->fd, terminal->text + terminal->len, sizeof(terminal->text) - 1 - terminal->len);
	if (n <= 0)
		return false;
	terminal->len += (size_t)n;
	return true;
}

static void terminal_wait_for(struct terminal *terminal, const char *wanted)
{
	while (!strstr(terminal->text, wanted))
		if (!terminal_read(terminal))
			fail_msg("no %s in %s", wanted, terminal->text);
}

/* To its end, which must come by itself. */
static void terminal_close(struct terminal *terminal)
{
	time_t begun = time(NULL);
	int status;

	while (terminal_read(terminal)) {
		if (time(NULL) - begun < WAIT_MS / 1000)
			continue;
		kill(terminal->pid, SIGKILL);
		fail_msg("does not end");
	}
	assert_int_equal(waitpid(terminal->pid, &status, 0), terminal->pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("status %x after %s", status, terminal->text);
	assert_null(strstr(terminal->text, "Sanitizer"));
	close(terminal->fd);
	free(terminal);
}

static void a_picture_that_is_drawn_over(void **state)
{
	struct terminal *terminal = terminal_open(*state, "counter", 12);

	terminal_wait_for(terminal, "llmd-maps counter");
	assert_non_null(strstr(terminal->text, "\033[2J"));
	terminal_wait_for(terminal, "more"); /* 8 rows of them fit between title and cursor */
	terminal->len = 0;
	memset(terminal->text, 0, sizeof(terminal->text));
	set_counter(*state, 1234567);
	terminal_wait_for(terminal, "1234567");
	assert_null(strstr(terminal->text, "\033[2J"));
	for (const char *line = strstr(terminal->text, "COUNTER"); line && *line && *line != '\033'; line++)
		assert_true(line - strstr(terminal->text, "COUNTER") <= 60);
	assert_int_equal(write(terminal->fd, "xq", 2), 2);
	terminal_close(terminal);
}

static void a_low_window_does_not_scroll(void **state)
{
	struct terminal *terminal = terminal_open(*state, "counter", 3);
	unsigned lines = 0;

	terminal_wait_for(terminal, "\033[J");
	for (const char *text = terminal->text; text < strstr(terminal->text, "\033[J"); text++)
		lines += *text == '\n';
	assert_int_equal(lines, 2);
	assert_int_equal(write(terminal->fd, "q", 1), 1);
	terminal_close(terminal);
}

static void a_signal_ends_it_in_peace(void **state)
{
	struct terminal *terminal = terminal_open(*state, "summary", 12);

	terminal_wait_for(terminal, "not running");
	assert_int_equal(write(terminal->fd, "\003", 1), 1); /* Ctrl-C */
	terminal_close(terminal);
}

/* ---- completion ---- */

/* What bash offers for a line, joined by blanks. */
static void completes(const struct fixture *fixture, const char *line, const char *wanted)
{
	char command[2048], offered[1024] = "";
	FILE *out;

	snprintf(command, sizeof(command),
		"bash -c 'PATH=$(dirname %s):$PATH; export LLMD_PIN_DIR=%s; . tools/maps/llmd-maps.bash; COMP_LINE=\"%s\"; "
		"COMP_POINT=${#COMP_LINE}; COMP_WORDBREAKS=: ; read -ra COMP_WORDS <<<\"${COMP_LINE//:/ : }\"; "
		"[[ $COMP_LINE == *\" \" ]] && COMP_WORDS+=(\"\"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _llmd_maps; echo -n \"${COMPREPLY[*]}\"'",
		fixture->program, fixture->dir, line);
	out = popen(command, "r");
	assert_non_null(out);
	if (!fgets(offered, sizeof(offered), out))
		*offered = '\0';
	assert_int_equal(pclose(out), 0);
	if (strcmp(offered, wanted))
		fail_msg("%s: offered \"%s\", not \"%s\"", line, offered, wanted);
}

static void words_are_completed(void **state)
{
	completes(*state, "llmd-maps ", "endpoint session prefix flow affinity counter summary");
	completes(*state, "llmd-maps se", "session");
	completes(*state, "llmd-maps session ", "list get delete watch");
	completes(*state, "llmd-maps endpoint ", "list get watch drain undrain");
	completes(*state, "llmd-maps -j summary ", "show watch");
	completes(*state, "llmd-maps flow list --li", "--limit");
	completes(*state, "llmd-maps flow list --limit ", "");
	completes(*state, "llmd-maps endpoint drain ", "10.1.0.4:8000 [2001:db8::5]:8000 10.1.0.6:8000 10.1.0.9:8000");
	completes(*state, "llmd-maps endpoint get 10.1.0.4", "10.1.0.4:8000");
	completes(*state, "llmd-maps endpoint get 10.1.0.4:8", "8000"); /* bash replaces what stands behind the colon */
	completes(*state, "llmd-maps counter get forwarded", "forwarded_up forwarded_down");
	completes(*state, "llmd-maps session get ", "");
}

/* Every word of --help is offered: the file is written by hand. */
static void no_word_is_forgotten(void **state)
{
	struct output help = run_maps(*state, "--help");
	struct output options = run_maps(*state, "--help | grep -oE '^  (-j, )?--[a-z-]+' | sed 's/.* //' | sort | tr '\\n' ' '");
	char command[512], *save = NULL;

	for (char *word = strtok_r(options.out, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		snprintf(command, sizeof(command), "grep -qe '[\" ]%s[\" ]' tools/maps/llmd-maps.bash", word);
		if (system(command))
			fail_msg("%s is not completed", word);
	}
	output_free(&help);
	output_free(&options);
}

#define WITH_MAPS(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_MAPS(once_where_nobody_watches),
		WITH_MAPS(a_json_line_each_interval),
		WITH_MAPS(a_picture_that_is_drawn_over),
		WITH_MAPS(a_low_window_does_not_scroll),
		WITH_MAPS(a_signal_ends_it_in_peace),
		WITH_MAPS(words_are_completed),
		WITH_MAPS(no_word_is_forgotten),
	};

	return fixture_run_tests("maps_watch", tests, COUNT(tests));
}
