// SPDX-License-Identifier: Apache-2.0
/*
 * The listening sockets: see listener.h. At --max-connections, or when the process is out of descriptors, accepting
 * stops; connections then wait in the kernel's queue, whose bound refuses what is too much.
 */
#include "agent/listener.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/client.h"
#include "agent/metrics.h"
#include "lib/log.h"

enum { BACKLOG = 4096, ACCEPT_BURST = 64, PAUSE_MS = 100, COMPLAIN_EVERY_MS = 10000, UNTAKEN_MS = 15 * 60 * 1000 };

struct listeners {
	struct agent *agent;
	unsigned n;
	bool paused;
	struct event *pause; /* out of descriptors: tries again after a while */
	struct log_pace pace;
	struct event *event[CONFIG_LISTEN_MAX];
	int fd[CONFIG_LISTEN_MAX];
};

static void set_paused(struct listeners *listeners, bool paused)
{
	if (listeners->paused == paused)
		return;
	listeners->paused = paused;
	for (unsigned i = 0; i < listeners->n; i++) {
		if (paused)
			event_del(listeners->event[i]);
		else
			event_add(listeners->event[i], NULL);
	}
}

void listeners_resume(struct listeners *listeners)
{
	if (listeners && listeners->agent->n_clients < listeners->agent->config.max_connections)
		set_paused(listeners, false);
}

static void on_pause_over(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	listeners_resume(arg);
}

static void accept_failed(struct listeners *listeners, int err)
{
	const struct timeval pause = { .tv_usec = PAUSE_MS * 1000 };

	metrics_accept_error(listeners->agent->metrics);
	if (err != EMFILE && err != ENFILE && err != ENOBUFS && err != ENOMEM)
		return; /* of that connection alone, as ECONNABORTED */
	log_paced(&listeners->pace, 1, COMPLAIN_EVERY_MS, LOG_LEVEL_WARN, "accepting connections paused",
		"errno=%d connections=%lu", err,
		(unsigned long)listeners->agent->n_clients);
	set_paused(listeners, true);
	event_add(listeners->pause, &pause);
}

static void on_connection(evutil_socket_t fd, short what, void *arg)
{
	struct listeners *listeners = arg;
	struct agent *agent = listeners->agent;

	(void)what;
	for (int i = 0; i < ACCEPT_BURST; i++) {
		struct sockaddr_storage sa;
		socklen_t len = sizeof(sa);
		struct address address;
		int client;

		if (agent->n_clients >= agent->config.max_connections) {
			set_paused(listeners, true);
			return;
		}
		client = accept4(fd, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (client < 0) {
			if (errno != EAGAIN && errno != EINTR)
				accept_failed(listeners, errno);
			return;
		}
		if (address_from_sockaddr(&address, (struct sockaddr *)&sa))
			close(client);
		else if (client_accept(agent, client, &address))
			metrics_accept_error(agent->metrics);
	}
}

/*
 * A client that acknowledges nothing Linux gives up after a quarter of an hour; one that acknowledges but never takes the answer would hold
 * its place at the pod for ever. For the linger time see peer.h.
 */
void listener_set_options(int fd, const struct config *config)
{
	const struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
	const unsigned untaken_ms = config->idle_timeout_ms < UNTAKEN_MS ? (unsigned)config->idle_timeout_ms : UNTAKEN_MS;
	const int on = 1;

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &untaken_ms, sizeof(untaken_ms));
}

int listener_open(const struct address *address, int backlog, const struct config *config)
{
	struct sockaddr_storage sa;
	socklen_t len = address_to_sockaddr(address, &sa);
	const int on = 1;
	int err, fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (config)
		listener_set_options(fd, config); /* what is accepted has them from the start: Linux hands them down */
	if (!bind(fd, (struct sockaddr *)&sa, len) && !listen(fd, backlog))
		return fd;
	err = -errno;
	close(fd);
	return err;
}

static int listeners_add(struct listeners *listeners, const struct address *address)
{
	char text[ADDRESS_TEXT_MAX];
	int fd = listener_open(address, BACKLOG, &listeners->agent->config);
	unsigned i = listeners->n;

	if (fd < 0) {
		log_error("cannot listen", "address=%s error=\"%s\"", address_format(address, text), strerror(-fd));
		return fd;
	}
	listeners->event[i] = event_new(listeners->agent->base, fd, EV_READ | EV_PERSIST, on_connection, listeners);
	if (!listeners->event[i] || event_add(listeners->event[i], NULL)) {
		close(fd);
		return -ENOMEM;
	}
	listeners->fd[i] = fd;
	listeners->n++;
	log_info("listening", "address=%s", address_format(address, text));
	return 0;
}

int listeners_new(struct agent *agent, struct listeners **out)
{
	struct listeners *listeners = calloc(1, sizeof(*listeners));
	int err = listeners ? 0 : -ENOMEM;

	*out = listeners;
	if (err)
		return err;
	listeners->agent = agent;
	listeners->pause = evtimer_new(agent->base, on_pause_over, listeners);
	if (!listeners->pause)
		return -ENOMEM;
	for (uint32_t i = 0; !err && i < agent->config.listen.n; i++)
		err = listeners_add(listeners, &agent->config.listen.at[i]);
	return err;
}

void listeners_hold(struct listeners *listeners)
{
	/* A socket's filter sees the packet from its TCP header on; byte 13 has the flags. */
	static struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, TH_SYN, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
	};
	const struct sock_fprog drop_syn = { sizeof(code) / sizeof(code[0]), code };

	for (unsigned i = 0; i < listeners->n; i++)
		setsockopt(listeners->fd[i], SOL_SOCKET, SO_ATTACH_FILTER, &drop_syn, sizeof(drop_syn));
}

/* At most as many as the queue holds. */
static void accept_rest(struct listeners *listeners, int fd)
{
	struct pollfd waiting = { .fd = fd, .events = POLLIN };

	for (int i = 0; i < BACKLOG / ACCEPT_BURST && poll(&waiting, 1, 0) == 1 && !listeners->paused; i++)
		on_connection(fd, EV_READ, listeners);
}

void listeners_close(struct listeners *listeners)
{
	for (unsigned i = 0; i < listeners->n; i++) {
		accept_rest(listeners, listeners->fd[i]);
		event_free(listeners->event[i]);
		close(listeners->fd[i]);
	}
	listeners->n = 0;
	event_del(listeners->pause);
}

void listeners_free(struct listeners *listeners)
{
	if (!listeners)
		return;
	if (listeners->pause) {
		listeners_close(listeners);
		event_free(listeners->pause);
	}
	free(listeners);
}
