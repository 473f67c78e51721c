// SPDX-License-Identifier: Apache-2.0
/*
 * A client for the network tests: many requests to netpod behind the agent, every byte of the answers
 * checked.
 *
 *   netclient ADDR:PORT key=value ...       see options[] below
 *
 * Prints "heads N" when N answers have begun, for N = count, and in the end one line of JSON: how many
 * requests came to which end, and what the first few that failed looked like. Each request has a connection
 * of its own and asks for it to be closed after the answer; one that is right ends with the end of the stream
 * exactly where the pod's answer ends.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/net/wire.h"

enum { HEAD_MAX = 2048, TICK_MS = 5, BLOCK = 1 << 18, SAMPLES = 5 };
enum state { FREE, CONNECTING, SENDING, HEAD, BODY };
enum end {
	END_OK,
	END_WRONG,
	END_CUT,
	END_RESET,
	END_TIMEOUT,
	END_REFUSED,
	END_UNREACHED,
	END_STATUS,
	END_N
};

static const char *const end_names[END_N] = { "ok", "wrong", "cut", "reset", "timeout", "refused",
	"unreached", "status" };

struct stream {
	enum state state;
	int fd;
	char request[HEAD_MAX], head[HEAD_MAX + 1];
	size_t request_len, request_sent, head_len;
	struct wire up, down;
	uint64_t index, sent, got, start_ms, read_ms, send_due_ms;
};

static struct option {
	const char *name, *meaning;
	uint64_t value;
} options[] = {
	{ "count", "requests", 1 },
	{ "concurrency", "at a time; 0: all", 0 },
	{ "rate", "started per second; 0: at once", 0 },
	{ "up", "letters in a request", 10 },
	{ "down", "bytes of an answer", 10 },
	{ "chunk", "of the answer", 200 },
	{ "gap", "ms between two chunks; 0: one piece", 0 },
	{ "up_chunk", "of the request", 0 },
	{ "up_gap", "ms between two of them", 0 },
	{ "timeout", "s for a request", 60 },
	{ "half_close", "after the request", 0 },
	{ "retry_refused", "dial again while nobody listens", 0 },
	{ "seconds", "start none after that time; 0: no bound", 0 },
	{ "seed", "of the first stream", 1 },
};
enum {
	COUNT,
	CONCURRENCY,
	RATE,
	UP,
	DOWN,
	CHUNK,
	GAP,
	UP_CHUNK,
	UP_GAP,
	TIMEOUT,
	HALF_CLOSE,
	RETRY_REFUSED,
	SECONDS,
	SEED
};
#define OPTION(name) (options[name].value)

static struct stream *streams;
static struct sockaddr_storage target;
static socklen_t target_len;
static const char *target_text;
static char block[BLOCK], samples[SAMPLES][160];
static uint64_t ends[END_N], started, finished, heads, slots, begin_ms, refused, gap_max_ms, bytes_up,
	bytes_down, n_samples;
static int epoll_fd;

static void stream_end(struct stream *stream, enum end end, const char *why)
{
	ends[end]++;
	finished++;
	bytes_up += stream->sent;
	bytes_down += stream->got;
	if (end != END_OK && n_samples < SAMPLES)
		snprintf(samples[n_samples++], sizeof(samples[0]),
			"%s: request %lu after %lu ms: %s, sent %lu, head %zu, got %lu of %lu",
			end_names[end], stream->index, now_ms() - stream->start_ms, why, stream->sent,
			stream->head_len, stream->got, wire_size(&stream->down));
	if (stream->fd >= 0)
		close(stream->fd);
	stream->state = FREE;
}

static void stream_fail(struct stream *stream, int err)
{
	if (err == ECONNREFUSED && OPTION(RETRY_REFUSED)) {
		refused++;
		close(stream->fd);
		stream->fd = -1; /* dialled again by the tick */
		return;
	}
	stream_end(stream,
		err == ECONNREFUSED	      ? END_REFUSED
		: stream->state == CONNECTING ? END_UNREACHED
		: err == ETIMEDOUT	      ? END_TIMEOUT
					      : END_RESET,
		strerror(err));
}

static void stream_dial(struct stream *stream)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
		.data.ptr = stream };
	const int on = 1;

	stream->state = CONNECTING;
	stream->fd = socket(target.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (stream->fd < 0) {
		stream_end(stream, END_UNREACHED, strerror(errno));
		return;
	}
	setsockopt(stream->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(stream->fd, (const struct sockaddr *)&target, target_len) && errno != EINPROGRESS) {
		if (errno == EADDRNOTAVAIL) { /* all ports are in use: the tick dials again */
			close(stream->fd);
			stream->fd = -1;
			return;
		}
		stream_fail(stream, errno);
		return;
	}
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, stream->fd, &event);
}

static void stream_start(struct stream *stream)
{
	memset(stream, 0, sizeof(*stream));
	stream->index = started++;
	stream->up = wire_request(OPTION(SEED) + stream->index, OPTION(UP));
	stream->down = wire_answer(OPTION(SEED) + stream->index, OPTION(DOWN));
	stream->start_ms = stream->read_ms = stream->send_due_ms = now_ms();
	stream->request_len = (size_t)snprintf(stream->request, sizeof(stream->request),
		"POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: "
		"%lu\r\n"
		"X-Plan: seed=%lu up=%lu down=%lu chunk=%lu gap=%lu\r\n\r\n",
		target_text, wire_size(&stream->up), OPTION(SEED) + stream->index, OPTION(UP), OPTION(DOWN),
		OPTION(CHUNK), OPTION(GAP));
	stream_dial(stream);
}

/* The next piece to send: of the head and, in the same call, the body; 0: the time of the next one has not
 * come. */
static size_t piece_fill(struct stream *stream)
{
	const size_t head = stream->request_len - stream->request_sent;
	uint64_t len = wire_size(&stream->up) - stream->sent;

	if (OPTION(UP_GAP) && now_ms() < stream->send_due_ms)
		return 0;
	if (OPTION(UP_GAP) && len > OPTION(UP_CHUNK) - stream->sent % OPTION(UP_CHUNK))
		len = OPTION(UP_CHUNK) - stream->sent % OPTION(UP_CHUNK);
	if (len > BLOCK - head)
		len = BLOCK - head;
	memcpy(block, stream->request + stream->request_sent, head);
	wire_fill(&stream->up, stream->sent, block + head, len);
	return head + len;
}

static int stream_send(struct stream *stream)
{
	while (stream->sent < wire_size(&stream->up)) {
		const size_t len = piece_fill(stream), head = stream->request_len - stream->request_sent;
		const ssize_t n = len ? send(stream->fd, block, len, MSG_NOSIGNAL) : 0;

		if (!len || (n < 0 && errno == EAGAIN))
			return 0;
		if (n < 0)
			return -errno;
		stream->request_sent += (size_t)n < head ? (size_t)n : head;
		stream->sent += (size_t)n < head ? 0 : (size_t)n - head;
		if (OPTION(UP_GAP) && stream->sent % OPTION(UP_CHUNK) == 0)
			stream->send_due_ms += OPTION(UP_GAP);
	}
	if (OPTION(HALF_CLOSE))
		shutdown(stream->fd, SHUT_WR);
	stream->state = HEAD;
	return 0;
}

/* NULL if the head is what netpod sends when it got the whole body right. */
static const char *head_fault(struct stream *stream)
{
	const char *up = header_find(stream->head, "X-Up:");

	if (!up || number_of(up, "bytes=") != wire_size(&stream->up))
		return "the pod did not get the whole request";
	if (number_of(up, "wrong=-"))
		return number_of(header_find(stream->head, "Content-Length:"), " ") ==
				       wire_size(&stream->down)
			       ? NULL
			       : "wrong length";
	return "the pod got a wrong byte";
}

static void body_take(struct stream *stream, const char *data, size_t len)
{
	const uint64_t size = wire_size(&stream->down);
	char why[80];
	int64_t wrong = stream->got + len > size ? (int64_t)size : -1;

	if (wrong < 0)
		wrong = wire_check(&stream->down, stream->got, data, len);
	stream->got += len;
	if (wrong < 0)
		return;
	snprintf(why, sizeof(why), "wrong byte at %ld", wrong);
	stream_end(stream, END_WRONG, why);
}

static void head_take(struct stream *stream, size_t len)
{
	char *end;
	const char *fault;

	stream->head_len += len;
	stream->head[stream->head_len] = 0;
	end = strstr(stream->head, "\r\n\r\n");
	if (!end && stream->head_len < HEAD_MAX)
		return;
	if (!end || strncmp(stream->head, "HTTP/1.1 200 ", 13)) {
		stream_end(stream, strncmp(stream->head, "HTTP/1.1 ", 9) ? END_WRONG : END_STATUS,
			"not the pod's answer");
		return;
	}
	end[2] = 0;
	fault = head_fault(stream);
	if (fault) {
		stream_end(stream, END_WRONG, fault);
		return;
	}
	if (++heads == OPTION(COUNT)) {
		printf("heads %lu\n", heads);
		fflush(stdout);
	}
	stream->state = BODY;
	body_take(stream, end + 4, stream->head_len - (size_t)(end + 4 - stream->head));
}

static void end_of_stream(struct stream *stream)
{
	if (stream->state == BODY && stream->got == wire_size(&stream->down))
		stream_end(stream, END_OK, "");
	else
		stream_end(stream, END_CUT, "end of stream");
}

static void stream_receive(struct stream *stream)
{
	while (stream->state >= SENDING) {
		const int in_body = stream->state == BODY;
		const ssize_t n = in_body ? recv(stream->fd, block, sizeof(block), 0)
					  : recv(stream->fd, stream->head + stream->head_len,
						    HEAD_MAX - stream->head_len, 0);

		if (n < 0 && errno != EAGAIN)
			stream_fail(stream, errno);
		if (n == 0)
			end_of_stream(stream);
		if (n <= 0)
			return;
		if (in_body && now_ms() - stream->read_ms > gap_max_ms)
			gap_max_ms = now_ms() - stream->read_ms;
		stream->read_ms = now_ms();
		if (in_body)
			body_take(stream, block, (size_t)n);
		else
			head_take(stream, (size_t)n);
	}
}

static void stream_run(struct stream *stream)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (stream->state == CONNECTING) {
		struct sockaddr_storage peer;
		socklen_t peer_len = sizeof(peer);

		getsockopt(stream->fd, SOL_SOCKET, SO_ERROR, &err, &len);
		if (!err && getpeername(stream->fd, (struct sockaddr *)&peer, &peer_len))
			return; /* not yet */
		if (!err)
			stream->state = SENDING;
	}
	if (err) {
		stream_fail(stream, err);
		return;
	}
	if (stream->state == SENDING)
		err = -stream_send(stream);
	if (err && err != EPIPE &&
		err != ECONNRESET) /* after these reading tells, and an answer may still be there */
		stream_fail(stream, err);
	else
		stream_receive(stream);
}

static int more_to_start(void)
{
	return started < OPTION(COUNT) && (!OPTION(SECONDS) || now_ms() - begin_ms < OPTION(SECONDS) * 1000);
}

static int may_start(void)
{
	return more_to_start() && (!OPTION(RATE) || started <= (now_ms() - begin_ms) * OPTION(RATE) / 1000);
}

static void tick(struct stream *stream)
{
	if (stream->state != FREE && stream->fd < 0 && (!OPTION(RETRY_REFUSED) || now_ms() % 10 < TICK_MS))
		stream_dial(stream);
	else if (stream->state == SENDING)
		stream_run(stream);
	if (stream->state != FREE && now_ms() - stream->start_ms > OPTION(TIMEOUT) * 1000)
		stream_end(stream, END_TIMEOUT, stream->state == CONNECTING ? "connecting" : "waiting");
}

static void run(void)
{
	struct epoll_event events[256];
	uint64_t tick_ms = 0;
	int n;

	do {
		n = epoll_wait(epoll_fd, events, 256, TICK_MS);
		for (int i = 0; i < n; i++)
			if (((struct stream *)events[i].data.ptr)->state != FREE &&
				((struct stream *)events[i].data.ptr)->fd >= 0)
				stream_run(events[i].data.ptr);
		for (uint64_t i = 0; now_ms() - tick_ms >= TICK_MS && i < slots; i++)
			tick(&streams[i]);
		if (now_ms() - tick_ms >= TICK_MS)
			tick_ms = now_ms();
		for (uint64_t i = 0; started - finished < slots && i < slots && may_start(); i++)
			if (streams[i].state == FREE)
				stream_start(&streams[i]);
	} while (started > finished || more_to_start());
}

static void report(void)
{
	printf("{");
	for (int i = 0; i < END_N; i++)
		printf("\"%s\":%lu,", end_names[i], ends[i]);
	printf("\"started\":%lu,\"heads\":%lu,\"refused_dials\":%lu,\"bytes_up\":%lu,\"bytes_down\":%lu,"
	       "\"gap_max_ms\":%lu,\"ms\":%lu,\"samples\":[",
		started, heads, refused, bytes_up, bytes_down, gap_max_ms, now_ms() - begin_ms);
	for (uint64_t i = 0; i < n_samples; i++)
		printf("%s\"%s\"", i ? "," : "", samples[i]);
	puts("]}");
}

static void option_set(const char *text)
{
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		const size_t len = strlen(options[i].name);

		if (strncmp(text, options[i].name, len) || text[len] != '=')
			continue;
		options[i].value = strtoull(text + len + 1, NULL, 10);
		return;
	}
	fprintf(stderr, "%s: one of\n", text);
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		fprintf(stderr, "  %s=N\t%s (%lu)\n", options[i].name, options[i].meaning, options[i].value);
	exit(2);
}

int main(int argc, char **argv)
{
	if (argc < 2)
		option_set("");
	target_text = argv[1];
	target = parse_address(argv[1], &target_len);
	for (int i = 2; i < argc; i++)
		option_set(argv[i]);
	signal(SIGPIPE, SIG_IGN);
	slots = OPTION(CONCURRENCY) ? OPTION(CONCURRENCY) : OPTION(COUNT);
	streams = calloc(slots, sizeof(*streams));
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	begin_ms = now_ms();
	run();
	report();
	return 0;
}
