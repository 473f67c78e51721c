// SPDX-License-Identifier: Apache-2.0
/* The least that a relay in user space can do, as a mark for the others: what comes from one socket is written to the other, unread.
 * It opens a connection to the pod for each client, chooses nothing, and waits where a receiver is slow, which no proxy may. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MAX_FD = 16384, EVENTS = 64, BYTES = 64 << 10 };

static int other[MAX_FD]; /* the peer of each descriptor; 0: none, or closed */
static int epoll;

static struct sockaddr_in address(const char *host, const char *port)
{
	struct sockaddr_in out = { .sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(port, NULL, 10)) };

	if (inet_pton(AF_INET, host, &out.sin_addr) != 1) {
		fprintf(stderr, "bare: \"%s\" is not valid: must be an IPv4 address\n", host);
		exit(2);
	}
	return out;
}

static void watch(int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void take(int listener, const struct sockaddr_in *to)
{
	int client = accept(listener, NULL, NULL), pod = socket(AF_INET, SOCK_STREAM, 0);

	if (client < 0 || pod < 0 || client >= MAX_FD || pod >= MAX_FD || connect(pod, (const struct sockaddr *)to, sizeof(*to))) {
		close(client);
		close(pod);
		return;
	}
	other[client] = pod;
	other[pod] = client;
	watch(client);
	watch(pod);
}

static void end(int fd)
{
	int peer = other[fd];

	other[fd] = other[peer] = 0;
	close(fd);
	close(peer);
}

static void pass(int fd)
{
	static char bytes[BYTES];
	ssize_t n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT), done = 0, wrote = 1;

	while (done < n && wrote > 0) {
		wrote = write(other[fd], bytes + done, (size_t)(n - done));
		done += wrote;
	}
	if (n < 0 && errno == EAGAIN) /* an event of a connection that had this number before */
		return;
	if (n <= 0 || wrote <= 0)
		end(fd);
}

static int listen_at(const struct sockaddr_in *at)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (const struct sockaddr *)at, sizeof(*at)) || listen(fd, 4096)) {
		perror("bare: cannot listen");
		exit(1);
	}
	return fd;
}

int main(int argc, char **argv)
{
	struct epoll_event ready[EVENTS];
	struct sockaddr_in at, to;
	int listener;

	if (argc != 5) {
		fprintf(stderr, "usage: bare LISTEN_ADDRESS LISTEN_PORT POD_ADDRESS POD_PORT\n");
		return 2;
	}
	at = address(argv[1], argv[2]);
	to = address(argv[3], argv[4]);
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){ MAX_FD, MAX_FD });
	signal(SIGPIPE, SIG_IGN);
	epoll = epoll_create1(0);
	listener = listen_at(&at);
	watch(listener);
	for (;;) {
		int n = epoll_wait(epoll, ready, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			int fd = ready[i].data.fd;

			if (fd == listener)
				take(listener, &to);
			else if (other[fd]) /* not closed with its peer in this turn */
				pass(fd);
		}
	}
}
