// SPDX-License-Identifier: Apache-2.0
/*
 * --endpoints-file: read at start, when it changes, and at SIGHUP.
 *
 * Watched is the directory, so that a file that replaces another (rename, or the link that a mounted ConfigMap goes by) is
 * seen as well as an edit in place. An editor may write in several steps: a file that is open for writing is read when it is
 * closed, or when it has not changed for SETTLE_OPEN_MS; POLL_MS after its first change in any case.
 * Where no notification comes (network file systems, a link into
 * another directory) the file's status is looked at every POLL_MS.
 */
#include "agent/endpoints_file.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/discovery.h"
#include "agent/discovery_sources.h"
#include "lib/log.h"

enum { FILE_BYTES_MAX = 4 << 20, SETTLE_MS = 20, SETTLE_OPEN_MS = 1000, POLL_MS = 3000, LOG_LINES = 10, LOG_MS = 10000 };

struct endpoints_file {
	struct discovery_source *source;
	const char *path;
	char *directory;
	struct stat seen;
	int inotify, watch; /* -1: none */
	struct event *changed, *settled, *poll;
	uint64_t waits_since_ms;
	struct log_pace refused, taken;
};

/* ---- reading ---- */

static int read_all(int fd, size_t size, char *text)
{
	size_t have = 0;
	ssize_t n;

	while (have < size && (n = read(fd, text + have, size - have)) > 0)
		have += (size_t)n;
	return have == size ? 0 : -EIO; /* it got shorter meanwhile: its end will be told */
}

static int read_file(const char *path, struct stat *st, char **text)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), err = 0;

	if (fd < 0)
		return -errno;
	if (fstat(fd, st))
		err = -errno;
	else if (!S_ISREG(st->st_mode))
		err = -EINVAL;
	else if (st->st_size > FILE_BYTES_MAX)
		err = -EFBIG;
	*text = err ? NULL : malloc((size_t)st->st_size + 1);
	if (!err)
		err = *text ? read_all(fd, (size_t)st->st_size, *text) : -ENOMEM;
	if (err)
		free(*text);
	close(fd);
	return err;
}

static int load(const char *path, struct stat *st, struct discovered **items, uint32_t *n, struct endpoints_yaml_error *error)
{
	char *text = NULL;
	int err = read_file(path, st, &text);

	*error = (struct endpoints_yaml_error){ 0 };
	if (err) {
		snprintf(error->what, sizeof(error->what), "%s", err == -EINVAL ? "not a regular file" : strerror(-err));
		return err;
	}
	err = endpoints_yaml_parse(text, (size_t)st->st_size, items, n, error);
	if (err == -ENOMEM)
		snprintf(error->what, sizeof(error->what), "%s", strerror(ENOMEM));
	free(text);
	return err;
}

int endpoints_file_check(const char *path)
{
	struct endpoints_yaml_error error;
	struct discovered *items;
	struct stat st;
	uint32_t n;

	if (!load(path, &st, &items, &n, &error)) {
		free(items);
		return 0;
	}
	if (error.line)
		fprintf(stderr, "llmd-agent: --endpoints-file: %s:%u:%u: %s\n", path, error.line, error.column, error.what);
	else
		fprintf(stderr, "llmd-agent: --endpoints-file: %s: %s\n", path, error.what);
	return -EINVAL;
}

static void read_again(struct endpoints_file *file)
{
	struct endpoints_yaml_error error;
	struct discovered *items;
	char quoted[256], place[32] = "";
	uint32_t n;

	memset(&file->seen, 0, sizeof(file->seen));
	if (load(file->path, &file->seen, &items, &n, &error)) {
		if (error.line)
			snprintf(place, sizeof(place), ":%u:%u", error.line, error.column);
		log_paced(&file->refused, LOG_LINES, LOG_MS, LOG_LEVEL_ERROR, "endpoints file not taken",
			"at=%s%s error=%s kept=\"what was read last\"", file->path, place,
			log_quote(error.what, quoted, sizeof(quoted)));
		discovery_failed(file->source);
		return;
	}
	log_paced(&file->taken, LOG_LINES, LOG_MS, LOG_LEVEL_INFO, "endpoints file read", "file=%s endpoints=%u", file->path, n);
	discovery_publish(file->source, items, n);
	free(items);
}

/* ---- watching ---- */

/* What changes all the time would otherwise never be read. */
static void settle_after(struct endpoints_file *file, unsigned ms)
{
	const struct timeval wait = { .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000 * 1000) };

	if (!event_pending(file->settled, EV_TIMEOUT, NULL))
		file->waits_since_ms = agent_now_ms();
	else if (agent_now_ms() - file->waits_since_ms + ms >= POLL_MS)
		return;
	event_add(file->settled, &wait);
}

static bool is_seen(const struct endpoints_file *file)
{
	const struct stat *seen = &file->seen;
	struct stat st;

	if (stat(file->path, &st))
		return !seen->st_ino; /* that it cannot be read is known */
	return st.st_ino == seen->st_ino && st.st_dev == seen->st_dev && st.st_size == seen->st_size &&
	       !memcmp(&st.st_mtim, &seen->st_mtim, sizeof(st.st_mtim)) && !memcmp(&st.st_ctim, &seen->st_ctim, sizeof(st.st_ctim));
}

static void on_settled(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	if (!is_seen(arg))
		read_again(arg);
}

/* The directory itself may be replaced: then the watch is gone, and taken again. */
static void watch_directory(struct endpoints_file *file)
{
	if (file->inotify >= 0 && file->watch < 0)
		file->watch = inotify_add_watch(file->inotify, file->directory,
			IN_CLOSE_WRITE | IN_MOVED_TO | IN_MODIFY | IN_CREATE | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF);
}

static void on_poll(evutil_socket_t fd, short what, void *arg)
{
	struct endpoints_file *file = arg;

	watch_directory(file);
	if (!event_pending(file->settled, EV_TIMEOUT, NULL))
		on_settled(fd, what, file);
}

/* Of other files only what may have made another file of the path counts. Return: how long to wait; 0: for nothing. */
static unsigned patience_ms(struct endpoints_file *file, const struct inotify_event *event)
{
	const char *slash = strrchr(file->path, '/');
	bool own = event->len && !strcmp(event->name, slash ? slash + 1 : file->path);

	if (event->mask & IN_IGNORED)
		file->watch = -1;
	else if (event->mask & IN_MOVE_SELF)
		inotify_rm_watch(file->inotify, file->watch);
	if (event->mask & IN_MODIFY)
		return own ? SETTLE_OPEN_MS : 0;
	return own || !event_pending(file->settled, EV_TIMEOUT, NULL) ? SETTLE_MS : 0;
}

static void on_changed(evutil_socket_t fd, short what, void *arg)
{
	char buffer[8192] __attribute__((aligned(__alignof__(struct inotify_event))));
	struct endpoints_file *file = arg;
	const struct inotify_event *event;
	ssize_t n = read(fd, buffer, sizeof(buffer));
	unsigned wait_ms = 0, more_ms;

	(void)what;
	for (const char *at = buffer; n > 0 && at < buffer + n; at += sizeof(*event) + event->len) {
		event = (const struct inotify_event *)(const void *)at;
		more_ms = patience_ms(file, event);
		wait_ms = more_ms ? more_ms : wait_ms;
	}
	if (wait_ms)
		settle_after(file, wait_ms);
}

/* ---- start and end ---- */

static void reload(void *ctx)
{
	read_again(ctx);
}

static void free_event(struct event *event)
{
	if (event)
		event_free(event);
}

static void file_free(void *ctx)
{
	struct endpoints_file *file = ctx;

	free_event(file->changed);
	free_event(file->settled);
	free_event(file->poll);
	if (file->inotify >= 0)
		close(file->inotify);
	free(file->directory);
	free(file);
}

static int start_watch(struct endpoints_file *file, struct event_base *base)
{
	const struct timeval poll = { .tv_sec = POLL_MS / 1000 };

	file->settled = evtimer_new(base, on_settled, file);
	file->poll = event_new(base, -1, EV_PERSIST, on_poll, file);
	if (!file->settled || !file->poll)
		return -ENOMEM;
	event_add(file->poll, &poll);
	file->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (file->inotify < 0) {
		log_warn("no notification of changes", "file=%s error=\"%s\"", file->path, strerror(errno));
		return 0; /* looked at now and then */
	}
	file->changed = event_new(base, file->inotify, EV_READ | EV_PERSIST, on_changed, file);
	if (!file->changed)
		return -ENOMEM;
	event_add(file->changed, NULL);
	watch_directory(file);
	return 0;
}

int endpoints_file_start(struct discovery *discovery, struct agent *agent)
{
	static const struct discovery_ops ops = { DISCOVERY_FILE, true, 0, reload, file_free };
	struct endpoints_file *file;
	char *copy;
	int err;

	if (!*agent->config.endpoints_file)
		return 0;
	file = calloc(1, sizeof(*file));
	if (!file)
		return -ENOMEM;
	*file = (struct endpoints_file){ .path = agent->config.endpoints_file, .inotify = -1, .watch = -1 };
	file->source = discovery_register(discovery, &ops, file);
	if (!file->source) {
		file_free(file);
		return -ENOSPC;
	}
	copy = strdup(file->path);
	file->directory = copy ? strdup(dirname(copy)) : NULL;
	free(copy);
	err = file->directory ? start_watch(file, agent->base) : -ENOMEM;
	if (!err)
		read_again(file);
	return err;
}
