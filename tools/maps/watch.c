// SPDX-License-Identifier: Apache-2.0
/* A picture that is drawn again and again, as top(1) does: see maps.h. */
#include "tools/maps/maps.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* Home; and after each line, the rest of it; after the last, the rest of the screen: no flicker, unlike clearing it all. */
#define ANSI_HOME	 "\033[H"
#define ANSI_CLEAR_LINE	 "\033[K"
#define ANSI_CLEAR_BELOW "\033[J"
#define ANSI_CLEAR_ALL	 "\033[H\033[2J"

enum { LINES_AROUND = 4 /* title, head, what is left out, cursor */, PAUSE_FACTOR = 4 };

static volatile sig_atomic_t stopped;

static void on_signal(int signal)
{
	(void)signal;
	stopped = 1;
}

void watch_add_rates(const struct watch *watch, const struct column *columns, size_t n_columns, struct json_object *row)
{
	const char *name = json_object_get_string(json_object_object_get(row, columns[0].field));
	struct json_object *before = watch->before && watch->seconds > 0 ? json_object_object_get(watch->before, name) : NULL;

	for (size_t i = 0; i < n_columns; i++) {
		const char *counted = columns[i].rate_of;
		uint64_t was, is;

		if (!counted)
			continue;
		is = json_object_get_uint64(json_object_object_get(row, counted));
		was = json_object_get_uint64(json_object_object_get(before, counted));
		/* Less than before: counted anew, or something else by the same name. */
		row_add_seconds(row, columns[i].field, before && is >= was ? (double)(is - was) / watch->seconds : -1);
	}
}

/* ---- terminal ---- */

struct screen {
	bool picture; /* draws over what it drew before */
	bool keys;    /* the terminal was told to hand over single keys */
	struct termios saved;
};

static void screen_open(struct screen *screen, bool picture)
{
	struct termios raw;

	screen->picture = picture;
	if (picture)
		fputs(ANSI_CLEAR_ALL, stdout);
	screen->keys = picture && !tcgetattr(STDIN_FILENO, &screen->saved);
	if (!screen->keys)
		return;
	raw = screen->saved;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	raw.c_cc[VMIN] = 0;
	raw.c_cc[VTIME] = 0;
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

static void screen_close(const struct screen *screen)
{
	if (screen->keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &screen->saved);
}

/* Lines and columns; those of a terminal that does not tell are those of the first ones. */
static struct winsize screen_size(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || !size.ws_row || !size.ws_col)
		size = (struct winsize){ .ws_row = 24, .ws_col = 80 };
	return size;
}

/* At least one: no limit would be all of them. */
static size_t screen_rows(void)
{
	struct winsize size = screen_size();

	return size.ws_row > LINES_AROUND ? size.ws_row - LINES_AROUND : 1;
}

/* What does not fit is cut: a line that wraps or scrolls would move the picture. Text is ASCII, so bytes are columns. */
static void draw(const char *text)
{
	struct winsize size = screen_size();

	fputs(ANSI_HOME, stdout);
	for (unsigned line = 1; *text && line < size.ws_row; line++) {
		size_t n = strcspn(text, "\n");

		printf("%.*s" ANSI_CLEAR_LINE "\n", (int)(n < size.ws_col ? n : size.ws_col), text);
		text += n + (text[n] == '\n');
	}
	fputs(ANSI_CLEAR_BELOW, stdout);
}

static bool key_ends(void)
{
	char key;

	while (read(STDIN_FILENO, &key, 1) == 1)
		if (key == 'q' || key == 'Q')
			return true;
	return false;
}

/* Return: false when it is time to end. */
static bool screen_wait(const struct screen *screen, uint64_t ms, const sigset_t *unblocked)
{
	struct pollfd in = { .fd = screen->keys ? STDIN_FILENO : -1, .events = POLLIN };
	struct timespec now, end, left;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += (time_t)(ms / 1000);
	end.tv_nsec += (long)(ms % 1000) * 1000000;
	for (;;) {
		int64_t ns;

		clock_gettime(CLOCK_MONOTONIC, &now);
		ns = (int64_t)(end.tv_sec - now.tv_sec) * 1000000000 + (end.tv_nsec - now.tv_nsec);
		if (stopped || ns <= 0)
			return !stopped;
		left = (struct timespec){ ns / 1000000000, ns % 1000000000 };
		if (ppoll(&in, 1, &left, unblocked) > 0 && (key_ends() || in.revents & (POLLHUP | POLLERR)))
			return false;
	}
}

/* ---- pictures ---- */

static void print_title(const struct request *request, FILE *out)
{
	time_t now = time(NULL);
	char clock[16];
	struct tm tm;

	strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&now, &tm));
	fprintf(out, "llmd-maps %s  %s  every %.3g s, q ends\n", request->noun->name, clock,
		(double)request->config->interval_ms / 1000);
}

static int render_picture(struct maps *maps, const struct request *request, struct watch *watch, watch_render *render)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	int err;

	if (!out)
		return -EIO;
	print_title(request, out);
	err = render(maps, request, watch, out);
	fclose(out);
	if (!err)
		draw(text);
	free(text);
	return err;
}

/* The maps are opened anew for each picture: an agent may have put others in their place. */
static int look_again(struct maps *maps)
{
	const char *dir = maps->dir;
	int err;

	maps_close(maps);
	err = maps_init(maps, dir);
	return err ? err : maps_refresh(maps);
}

static int render_once(struct maps *maps, const struct request *request, struct watch *watch, struct screen *screen,
	watch_render *render)
{
	uint64_t before_ns = maps->now_ns;
	int err = look_again(maps);

	if (err)
		return err;
	watch->seconds = watch->before ? (double)(maps->now_ns - before_ns) * 1e-9 : 0;
	watch->rows_max = screen->picture ? screen_rows() : 0;
	err = screen->picture ? render_picture(maps, request, watch, render) : render(maps, request, watch, stdout);
	if (!err && (fflush(stdout) || ferror(stdout)))
		err = -EIO; /* nobody reads any more */
	return err;
}

/* Signals are let in while it waits only, so that none is missed between a look and the wait. */
static void catch_signals(sigset_t *unblocked)
{
	struct sigaction action = { .sa_handler = on_signal };
	sigset_t ours;

	sigemptyset(&ours);
	sigaddset(&ours, SIGINT);
	sigaddset(&ours, SIGTERM);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigprocmask(SIG_BLOCK, &ours, unblocked);
	sigdelset(unblocked, SIGINT);
	sigdelset(unblocked, SIGTERM);
}

static uint64_t clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* To look must not load a node that is full: what takes long is done less often, for a fifth of a core at most. */
static uint64_t pause_ms(const struct request *request, uint64_t took_ms)
{
	uint64_t least_ms = PAUSE_FACTOR * took_ms;

	return request->config->interval_ms > least_ms ? request->config->interval_ms : least_ms;
}

int watch_run(struct maps *maps, const struct request *request, watch_render *render)
{
	bool json = request->config->json, terminal = isatty(STDOUT_FILENO);
	uint64_t left = request->config->count ? request->config->count : UINT64_MAX;
	struct watch watch = { 0 };
	struct screen screen;
	sigset_t unblocked;
	uint64_t begun_ms;
	int err;

	if (!terminal && !json && !request->config->count)
		left = 1;
	catch_signals(&unblocked);
	screen_open(&screen, terminal && !json);
	do {
		begun_ms = clock_ms();
		err = render_once(maps, request, &watch, &screen, render);
	} while (!err && --left && screen_wait(&screen, pause_ms(request, clock_ms() - begun_ms), &unblocked));
	screen_close(&screen);
	json_object_put(watch.before);
	return err;
}
