// SPDX-License-Identifier: Apache-2.0
/*
 * A pod for the network tests: reads and checks requests of netclient, answers as their X-Plan header says.
 *
 *   netpod ADDR:PORT [BACKLOG]
 *   X-Plan: seed=S up=LETTERS down=BYTES chunk=BYTES gap=MS
 *
 * The answer's X-Up header tells how many bytes of the body came and which was the first wrong one. With a
 * gap the answer goes out chunk by chunk. GET /stats tells what happened so far.
 *
 * Sockets are edge-triggered: each event and each tick runs a connection's state on until a call would block.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/net/wire.h"

enum { HEAD_MAX = 8192, TICK_MS = 5, FD_MAX = 65536, BLOCK = 1 << 18 };
enum state { READ_HEAD, READ_BODY, WRITE_HEAD, WRITE_BODY, CLOSING };

struct conn {
	enum state state;
	int fd, close;
	char head[HEAD_MAX + 1], out[HEAD_MAX];
	size_t head_len, out_len, out_sent;
	struct wire up, down;
	uint64_t want, got, sent, chunk, gap_ms, due_ms;
	int64_t wrong;
};

static struct conn *conns[FD_MAX];
static struct {
	uint64_t accepted, requests, answered, wrong, aborted;
} stats;
static int epoll_fd, fd_top;
static char block[BLOCK];

static void conn_drop(struct conn *conn)
{
	stats.aborted += conn->state != READ_HEAD && conn->state != CLOSING;
	conns[conn->fd] = NULL;
	close(conn->fd);
	free(conn);
}

/* What the answer's head says; 0 if there was no plan: another request than netclient's. */
static void answer_prepare(struct conn *conn)
{
	char text[256] = "";

	if (!strncmp(conn->head, "GET /stats ", 11))
		snprintf(text, sizeof(text),
			"{\"accepted\":%lu,\"requests\":%lu,\"answered\":%lu,\"wrong\":%lu,\"aborted\":%lu}",
			stats.accepted, stats.requests, stats.answered, stats.wrong, stats.aborted);
	conn->out_len = (size_t)snprintf(conn->out, sizeof(conn->out),
		"HTTP/1.1 200 OK\r\nContent-Length: %lu\r\n%sX-Up: bytes=%lu wrong=%ld\r\n\r\n%s",
		text[0] ? strlen(text) : wire_size(&conn->down), conn->close ? "Connection: close\r\n" : "",
		conn->got, conn->wrong, text);
	conn->out_sent = 0;
	conn->sent = 0;
	conn->due_ms = now_ms();
	conn->state = WRITE_HEAD;
}

static void request_begin(struct conn *conn)
{
	const char *plan = header_find(conn->head, "X-Plan:");
	const uint64_t seed = number_of(plan, "seed=");

	stats.requests++;
	conn->close = header_find(conn->head, "Connection: close") != NULL;
	conn->up = wire_request(seed, number_of(plan, "up="));
	conn->down = wire_answer(seed, number_of(plan, "down="));
	conn->chunk = number_of(plan, "chunk=");
	conn->gap_ms = number_of(plan, "gap=");
	conn->want = number_of(header_find(conn->head, "Content-Length:"), " ");
	conn->got = 0;
	conn->wrong = -1;
	conn->state = READ_BODY;
}

static void body_take(struct conn *conn, const char *data, size_t len)
{
	if (conn->wrong < 0)
		conn->wrong = wire_check(&conn->up, conn->got, data, len);
	conn->got += len;
}

/* Moves a complete head's rest to the body; pipelined requests are not expected. */
static int read_head(struct conn *conn)
{
	const ssize_t n = recv(conn->fd, conn->head + conn->head_len, HEAD_MAX - conn->head_len, 0);
	char *end;

	if (n <= 0)
		return n < 0 && errno == EAGAIN ? 0 : -1;
	conn->head_len += (size_t)n;
	conn->head[conn->head_len] = 0;
	end = strstr(conn->head, "\r\n\r\n");
	if (!end)
		return conn->head_len < HEAD_MAX ? 1 : -1;
	end[2] = 0; /* for header_find() */
	request_begin(conn);
	body_take(conn, end + 4, conn->head_len - (size_t)(end + 4 - conn->head));
	conn->head_len = 0;
	return 1;
}

static int read_body(struct conn *conn)
{
	ssize_t n;

	if (conn->got >= conn->want) {
		stats.wrong += conn->wrong >= 0;
		answer_prepare(conn);
		return 1;
	}
	n = recv(conn->fd, block, sizeof(block), 0);
	if (n <= 0)
		return n < 0 && errno == EAGAIN ? 0 : -1;
	body_take(conn, block, (size_t)n);
	return 1;
}

static int write_head(struct conn *conn)
{
	const ssize_t n =
		send(conn->fd, conn->out + conn->out_sent, conn->out_len - conn->out_sent, MSG_NOSIGNAL);

	if (n < 0)
		return errno == EAGAIN ? 0 : -1;
	conn->out_sent += (size_t)n;
	if (conn->out_sent == conn->out_len)
		conn->state = WRITE_BODY;
	return 1;
}

static int answer_end(struct conn *conn)
{
	stats.answered++;
	conn->state = conn->close ? CLOSING : READ_HEAD;
	if (conn->close)
		shutdown(conn->fd, SHUT_WR);
	return 1;
}

static int write_body(struct conn *conn)
{
	const uint64_t size = wire_size(&conn->down),
		       piece = conn->gap_ms ? conn->chunk - conn->sent % conn->chunk : sizeof(block);
	uint64_t len = size - conn->sent < piece ? size - conn->sent : piece;
	ssize_t n;

	if (!len)
		return answer_end(conn);
	if (conn->gap_ms && now_ms() < conn->due_ms)
		return 0;
	if (len > sizeof(block))
		len = sizeof(block);
	wire_fill(&conn->down, conn->sent, block, len);
	n = send(conn->fd, block, len, MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN ? 0 : -1;
	conn->sent += (uint64_t)n;
	if (conn->gap_ms && conn->sent % conn->chunk == 0)
		conn->due_ms += conn->gap_ms;
	return 1;
}

static int read_end(struct conn *conn)
{
	const ssize_t n = recv(conn->fd, block, sizeof(block), 0);

	return n > 0 ? 1 : n < 0 && errno == EAGAIN ? 0 : -1;
}

static void conn_run(struct conn *conn)
{
	static int (*const step[])(
		struct conn *) = { read_head, read_body, write_head, write_body, read_end };
	int more = 1;

	while (more > 0)
		more = step[conn->state](conn);
	if (more < 0)
		conn_drop(conn);
}

static void accept_all(int listener)
{
	const int on = 1;
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		struct conn *conn = fd < FD_MAX ? calloc(1, sizeof(*conn)) : NULL;
		struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
			.data.fd = fd };

		if (!conn) {
			close(fd);
			continue;
		}
		stats.accepted++;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		conn->fd = fd;
		conns[fd] = conn;
		fd_top = fd > fd_top ? fd : fd_top;
		epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
	}
}

static int listen_on(const char *text, int backlog)
{
	socklen_t len;
	const struct sockaddr_storage sa = parse_address(text, &len);
	const int on = 1, fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, (const struct sockaddr *)&sa, len) || listen(fd, backlog)) {
		perror(text);
		exit(1);
	}
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
	return fd;
}

static void tick(void)
{
	static uint64_t last_ms;

	if (now_ms() - last_ms < TICK_MS)
		return;
	last_ms = now_ms();
	for (int fd = 0; fd <= fd_top; fd++)
		if (conns[fd] && conns[fd]->state == WRITE_BODY && conns[fd]->due_ms <= last_ms)
			conn_run(conns[fd]);
}

int main(int argc, char **argv)
{
	struct epoll_event events[256];
	int listener;

	if (argc < 2)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	listener = listen_on(argv[1], argc > 2 ? atoi(argv[2]) : 4096);
	puts("listening");
	fflush(stdout);
	for (;;) {
		const int n = epoll_wait(epoll_fd, events, 256, TICK_MS);

		for (int i = 0; i < n; i++) {
			struct conn *conn = conns[events[i].data.fd];

			if (events[i].data.fd == listener)
				accept_all(listener);
			else if (conn && conn->state == WRITE_BODY && events[i].events & EPOLLERR)
				conn_drop(conn); /* reset, perhaps long before the next chunk */
			else if (conn)
				conn_run(conn);
		}
		tick();
	}
}
