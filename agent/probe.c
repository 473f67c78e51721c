// SPDX-License-Identifier: Apache-2.0
/*
 * Questions to a pod: see probe.h.
 *
 * A thousand pods are asked each second, so this is as bare as can be: the heads and bodies are for the agent's own parsers,
 * and what is asked at one tick of the owner is read at the next, for then it is there. An event for each answer would wake
 * the agent a thousand times for nothing that is urgent. A kept connection that turns out to be closed is opened again once.
 */
#include "agent/probe.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"

enum { REQUEST_MAX = 512, BODY_READS = 16 };

static const bool legal[PROBE_STATE_N][PROBE_STATE_N] = {
	[PROBE_CLOSED] = { [PROBE_CONNECTING] = true },
	[PROBE_CONNECTING] = { [PROBE_WAITING] = true, [PROBE_CLOSED] = true },
	[PROBE_WAITING] = { [PROBE_IDLE] = true, [PROBE_CLOSED] = true },
	[PROBE_IDLE] = { [PROBE_WAITING] = true, [PROBE_CLOSED] = true },
};

static void set_state(struct probe *probe, enum probe_state state)
{
	assert(legal[probe->state][state]);
	probe->state = state;
}

void probe_init(struct probe *probe, char *scratch, void *ctx)
{
	*probe = (struct probe){ .scratch = scratch, .ctx = ctx, .fd = -1 };
}

void probe_close(struct probe *probe)
{
	if (probe->state == PROBE_CLOSED)
		return;
	close(probe->fd);
	probe->fd = -1;
	buffer_free(&probe->head);
	set_state(probe, PROBE_CLOSED);
}

static void finish(struct probe *probe, int err)
{
	unsigned status = probe->status;

	if (err || !probe->keeps_alive)
		probe_close(probe);
	else
		set_state(probe, PROBE_IDLE);
	probe->done(probe->ctx, err, status);
}

static void dial(struct probe *probe);

/* Nothing of an answer was read on a connection that was kept: the pod has closed it meanwhile, which is its right. */
static void failed(struct probe *probe, int err)
{
	bool again = probe->reused && !probe->status && !probe->head.len && err != -ETIMEDOUT;

	if (!again) {
		finish(probe, err);
		return;
	}
	probe_close(probe);
	dial(probe);
}

static void send_request(struct probe *probe)
{
	char text[REQUEST_MAX]; /* the path was checked to fit */
	char *end = stpcpy(stpcpy(text, "GET "), probe->path);
	ssize_t n;

	end = stpcpy(stpcpy(end, " HTTP/1.1\r\nHost: "), probe->host);
	end = stpcpy(end, "\r\nUser-Agent: llmd-agent\r\nAccept: */*\r\n\r\n");
	probe->status = 0;
	n = send(probe->fd, text, (size_t)(end - text), MSG_NOSIGNAL);
	if (n != end - text) /* a socket that was just opened, or has answered, takes that much */
		failed(probe, errno ? -errno : -EPIPE);
}

/* Return: 0 with what of @data is left, -EAGAIN, or another -errno. */
static int take_head(struct probe *probe, const char **data, size_t *len)
{
	struct http_head_scan scan = { 0 };
	struct http_head head;
	enum http_rule rule;
	int err;

	if (buffer_append(&probe->head, *data, *len, HTTP_HEAD_MAX + AGENT_SCRATCH))
		return -ENOBUFS;
	err = http_response_head_parse(&head, buffer_head(&probe->head), probe->head.len, &scan, &rule);
	if (err)
		return err == -EAGAIN ? err : -EPROTO;
	if (head.status < 200)
		return -EPROTO; /* nobody asked for that */
	probe->status = head.status;
	probe->keeps_alive = head.keep_alive;
	http_body_begin_response(&probe->body, &head, false);
	probe->body.max = PROBE_BODY_MAX;
	*len = probe->head.len - head.length;
	*data = buffer_head(&probe->head) + head.length;
	return 0;
}

static void take_body(struct probe *probe, const char *data, size_t len)
{
	enum http_rule rule;
	size_t used;

	if (http_body_feed(&probe->body, data, len, &used, probe->content, probe->ctx, &rule) || probe->body.data > PROBE_BODY_MAX) {
		finish(probe, -EMSGSIZE);
		return;
	}
	buffer_free(&probe->head);
	if (!probe->body.done)
		return;
	probe->keeps_alive &= used == len && probe->body.kind != HTTP_BODY_UNTIL_CLOSE;
	finish(probe, 0);
}

static void take(struct probe *probe, const char *data, size_t len)
{
	int err = probe->status ? 0 : take_head(probe, &data, &len);

	if (!err)
		take_body(probe, data, len);
	else if (err != -EAGAIN)
		finish(probe, err);
}

static void at_end(struct probe *probe, int err)
{
	if (!err && probe->status && probe->body.kind == HTTP_BODY_UNTIL_CLOSE)
		finish(probe, 0);
	else
		failed(probe, err ? err : -ECONNRESET);
}

static void read_answer(struct probe *probe)
{
	ssize_t n = AGENT_SCRATCH;

	for (int i = 0; i < BODY_READS && n == AGENT_SCRATCH && probe->state == PROBE_WAITING; i++) {
		n = recv(probe->fd, probe->scratch, AGENT_SCRATCH, 0);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0)
			at_end(probe, n ? -errno : 0);
		else
			take(probe, probe->scratch, (size_t)n);
	}
}

static void connected(struct probe *probe)
{
	struct pollfd poll_fd = { .fd = probe->fd, .events = POLLOUT };
	int err = 0;
	socklen_t len = sizeof(err);

	if (poll(&poll_fd, 1, 0) <= 0)
		return;
	getsockopt(probe->fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (err || !probe->path) {
		finish(probe, -err);
		return;
	}
	probe->connected = true;
	set_state(probe, PROBE_WAITING);
	send_request(probe);
}

void probe_turn(struct probe *probe, uint64_t now_ms)
{
	if (probe->state == PROBE_CONNECTING)
		connected(probe);
	else if (probe->state == PROBE_WAITING)
		read_answer(probe);
	if (probe_is_asking(probe) && probe->deadline_ms <= now_ms)
		finish(probe, -ETIMEDOUT);
}

static void dial(struct probe *probe)
{
	struct sockaddr_storage sa;
	socklen_t len = address_to_sockaddr(&probe->address, &sa);
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), err;
	const int on = 1;

	probe->connected = false;
	probe->reused = false;
	probe->keeps_alive = false;
	probe->status = 0;
	if (fd < 0) {
		probe->done(probe->ctx, -EMFILE, 0);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	err = connect(fd, (struct sockaddr *)&sa, len) && errno != EINPROGRESS ? -errno : 0;
	probe->fd = fd;
	set_state(probe, PROBE_CONNECTING);
	if (err)
		finish(probe, err);
}

void probe_ask(struct probe *probe, const struct address *address, const char *host, const char *path, uint64_t deadline_ms,
	void (*content)(void *ctx, const char *data, size_t len), void (*done)(void *ctx, int err, unsigned status))
{
	probe->address = *address;
	probe->host = host;
	probe->path = path;
	probe->deadline_ms = deadline_ms;
	probe->content = content;
	probe->done = done;
	if (probe->state == PROBE_IDLE && !path)
		probe_close(probe); /* whether it accepts is the question */
	if (probe->state != PROBE_IDLE) {
		dial(probe);
		return;
	}
	probe->reused = true;
	set_state(probe, PROBE_WAITING);
	send_request(probe);
}
