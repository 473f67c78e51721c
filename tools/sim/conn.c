// SPDX-License-Identifier: Apache-2.0
/* Connections to a simulated pod: one request at a time, in order; keep-alive. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/sim/sim.h"

enum { SIM_BODY_MAX = 64 << 20, SCRATCH = 256 * 1024 };

static char scratch[SCRATCH];

/* Callers up the stack still look at it; the memory goes when the loop has come round. */
static void conn_free(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	free(arg);
}

void conn_close(struct conn *conn, bool reset)
{
	const struct timeval now = { 0 };
	struct sequence *sequence = conn->sequence;

	if (conn->dead)
		return;
	conn->dead = true;
	conn->sequence = NULL;
	if (sequence)
		scheduler_abort(sequence);
	peer_close(&conn->peer, reset);
	buffer_free(&conn->in);
	buffer_free(&conn->body);
	event_base_once(conn->pod->base, -1, EV_TIMEOUT, conn_free, conn, &now);
}

void conn_send2(struct conn *conn, const void *head, size_t head_len, const void *body, size_t body_len)
{
	struct iovec iov[2] = { { (void *)head, head_len }, { (void *)body, body_len } };

	if (conn->dead || conn->broken || !peer_send(&conn->peer, iov, body_len ? 2 : 1))
		return;
	/* Its sequence is just being worked on: it ends with the next event. */
	conn->broken = true;
	shutdown(conn->peer.fd, SHUT_RDWR);
	peer_watch_readable(&conn->peer, true);
}

void conn_send(struct conn *conn, const void *data, size_t len)
{
	conn_send2(conn, data, len, NULL, 0);
}

bool conn_skims(const struct conn *conn)
{
	return conn->pod->config->skim && conn->api != API_OTHER && conn->api != API_EMBEDDINGS && conn->api != API_TOKENIZE;
}

/* The first SKIM_BYTES, and after them the last. */
static void keep_ends(struct buffer *body, const char *data, size_t len)
{
	size_t head = body->len < SKIM_BYTES ? SKIM_BYTES - body->len : 0, tail, over;

	head = head < len ? head : len;
	if (buffer_append(body, data, head, SIM_BODY_MAX))
		abort();
	data += head;
	len -= head;
	if (len > SKIM_BYTES) {
		data += len - SKIM_BYTES;
		len = SKIM_BYTES;
	}
	tail = len ? body->len - SKIM_BYTES : 0;
	over = tail + len > SKIM_BYTES ? tail + len - SKIM_BYTES : 0;
	if (over)
		memmove(buffer_head(body) + SKIM_BYTES, buffer_head(body) + SKIM_BYTES + over, tail - over);
	body->len -= over;
	if (buffer_append(body, data, len, SIM_BODY_MAX))
		abort();
}

static void keep_body(void *ctx, const char *data, size_t len)
{
	struct conn *conn = ctx;

	if (conn_skims(conn))
		keep_ends(&conn->body, data, len);
	else if (buffer_append(&conn->body, data, len, SIM_BODY_MAX))
		conn->closing = true;
}

static void begin_request(struct conn *conn, const struct http_head *head)
{
	size_t len = head->target.len < sizeof(conn->path) ? head->target.len : sizeof(conn->path) - 1;

	memcpy(conn->path, head->target.at, len);
	conn->path[len] = '\0';
	conn->path[strcspn(conn->path, "?")] = '\0';
	conn->method = head->method;
	conn->api = prompt_api(head->target.at, head->target.len);
	conn->keep_alive = head->keep_alive;
	conn->http10 = !head->minor;
	conn->in_body = true;
	http_body_begin_request(&conn->framing, head, SIM_BODY_MAX);
	buffer_consume(&conn->in, head->length);
	conn->scan = (struct http_head_scan){ 0 };
	if (head->expect_continue && !conn->in.len)
		conn_send(conn, "HTTP/1.1 100 Continue\r\n\r\n", 25);
}

static bool read_head(struct conn *conn)
{
	enum http_rule rule;
	struct http_head head;
	int err = http_request_head_parse(&head, buffer_head(&conn->in), conn->in.len, &conn->scan, &rule);

	if (!err) {
		begin_request(conn, &head);
	} else if (err != -EAGAIN) {
		conn->keep_alive = false;
		reply_error(conn, http_rule_status(rule), http_rule_text(rule));
	}
	return !err && !conn->dead;
}

/* Requests that are complete, one after another, until one takes its time. */
static void advance(struct conn *conn)
{
	enum http_rule rule;
	size_t used;

	while (!conn->dead && !conn->sequence && conn->in.len) {
		if (!conn->in_body && !read_head(conn))
			return;
		if (http_body_feed(&conn->framing, buffer_head(&conn->in), conn->in.len, &used, keep_body, conn, &rule) ||
			conn->closing) {
			conn_close(conn, true);
			return;
		}
		buffer_consume(&conn->in, used);
		if (!conn->framing.done)
			return;
		conn->in_body = false;
		request_serve(conn);
		buffer_free(&conn->body);
	}
}

void conn_done(struct conn *conn)
{
	if (conn->dead)
		return;
	if (!conn->keep_alive && !peer_is_blocked(&conn->peer))
		conn_close(conn, false);
	else if (!conn->keep_alive)
		conn->closing = true;
}

static void on_readable(struct peer *peer)
{
	struct conn *conn = (struct conn *)peer;
	ssize_t n = recv(peer->fd, scratch, sizeof(scratch), 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0 || (n == 0 && (!conn->sequence || conn->broken)) || buffer_append(&conn->in, scratch, (size_t)n, SIM_BODY_MAX)) {
		conn_close(conn, false);
		return;
	}
	if (n == 0) {
		peer_watch_readable(peer, false); /* a half-closed client still gets its answer */
		conn->keep_alive = false;
		return;
	}
	advance(conn);
}

static void on_writable(struct peer *peer)
{
	struct conn *conn = (struct conn *)peer;

	if (conn->closing)
		conn_close(conn, false);
	else
		advance(conn);
}

static void on_broken(struct peer *peer, int err)
{
	(void)err;
	conn_close((struct conn *)peer, false);
}

void conn_accept(struct pod *pod, int fd)
{
	struct conn *conn = calloc(1, sizeof(*conn));
	const int on = 1;

	if (!conn) {
		close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	conn->pod = pod;
	peer_open(&conn->peer, pod->base, NULL, fd);
	conn->peer.on_readable = on_readable;
	conn->peer.on_writable = on_writable;
	conn->peer.on_broken = on_broken;
	peer_watch_readable(&conn->peer, true);
}
