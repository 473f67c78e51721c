// SPDX-License-Identifier: Apache-2.0
/*
 * The server of the admin port: see admin_server.h.
 *
 * Whoever can reach --metrics-listen can connect without end, and libevent 2.1 neither bounds a server's connections nor
 * tells when one ends. So each evhttp accepts GENERATION_MAX of them, then another one takes its place at the same socket. It
 * still serves what it has until that one is full, too; what is left then was held open and is closed: answers take moments. So
 * no more than twice as many can be held.
 */
#include "agent/admin_server.h"

#include <errno.h>
#include <event2/listener.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/listener.h"
#include "lib/log.h"

enum { HEAD_MAX = 8192, BODY_MAX = 4096, TIMEOUT_S = 30, GENERATION_MAX = 128, BACKLOG = 128, PAUSE_S = 1, COMPLAIN_EVERY_MS = 10000 };

/*
 * @http:     accepts, by @listener. NULL while there is no memory for it.
 * @earlier:  serves what it had accepted.
 * @accepted: connections since @http is there.
 * @renewal:  puts another one in the place of @http.
 * @tick:     accepting goes on where it has paused. Always on, for what fails is told to a function that cannot find @server.
 */
struct admin_server {
	struct event_base *base;
	void (*handler)(struct evhttp_request *, void *);
	void *arg;
	int fd;
	struct evhttp *http, *earlier;
	struct evhttp_bound_socket *listener;
	unsigned accepted;
	struct event *renewal, *tick;
};

/* Return: NULL, a bufferevent of the usual kind. */
static struct bufferevent *on_connection(struct event_base *base, void *arg)
{
	struct admin_server *server = arg;

	(void)base;
	if (++server->accepted == GENERATION_MAX) {
		evconnlistener_disable(evhttp_bound_socket_get_listener(server->listener));
		event_active(server->renewal, EV_TIMEOUT, 1);
	}
	return NULL;
}

/* Out of descriptors: it would be tried, and complained about, all the time. */
static void on_accept_failed(struct evconnlistener *listener, void *arg)
{
	static struct log_pace pace; /* @arg is libevent's own */

	(void)arg;
	log_paced(&pace, 1, COMPLAIN_EVERY_MS, LOG_LEVEL_WARN, "accepting connections paused", "errno=%d port=admin", errno);
	evconnlistener_disable(listener);
}

static int begin(struct admin_server *server)
{
	struct evconnlistener *listener = evconnlistener_new(server->base, NULL, NULL, LEV_OPT_CLOSE_ON_EXEC, 0, server->fd);
	struct evhttp *http = evhttp_new(server->base);

	server->listener = http && listener ? evhttp_bind_listener(http, listener) : NULL;
	if (!server->listener) {
		if (http)
			evhttp_free(http);
		if (listener)
			evconnlistener_free(listener);
		return -ENOMEM;
	}
	server->http = http;
	server->accepted = 0;
	evconnlistener_set_error_cb(listener, on_accept_failed);
	evhttp_set_max_headers_size(http, HEAD_MAX);
	evhttp_set_max_body_size(http, BODY_MAX);
	evhttp_set_timeout(http, TIMEOUT_S);
	evhttp_set_bevcb(http, on_connection, server);
	evhttp_set_gencb(http, server->handler, server->arg);
	return 0;
}

static void on_renewal(evutil_socket_t fd, short what, void *arg)
{
	struct admin_server *server = arg;

	(void)fd, (void)what;
	if (server->earlier)
		evhttp_free(server->earlier);
	evhttp_del_accept_socket(server->http, server->listener); /* the listener goes, the socket stays */
	server->earlier = server->http;
	server->http = NULL;
	begin(server); /* or with the next tick */
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct admin_server *server = arg;

	(void)fd, (void)what;
	if (server->http)
		evconnlistener_enable(evhttp_bound_socket_get_listener(server->listener));
	else
		begin(server);
}

static int start(struct admin_server *server, const struct address *address)
{
	const struct timeval pause = { .tv_sec = PAUSE_S };

	server->fd = listener_open(address, BACKLOG, NULL);
	if (server->fd < 0)
		return server->fd;
	server->renewal = event_new(server->base, -1, 0, on_renewal, server);
	server->tick = event_new(server->base, -1, EV_PERSIST, on_tick, server);
	return server->renewal && server->tick && !event_add(server->tick, &pause) ? begin(server) : -ENOMEM;
}

int admin_server_new(struct event_base *base, const struct address *address, void (*handler)(struct evhttp_request *, void *),
	void *arg, struct admin_server **out)
{
	struct admin_server *server = calloc(1, sizeof(*server));
	char text[ADDRESS_TEXT_MAX];
	int err = -ENOMEM;

	*out = NULL;
	if (server) {
		server->base = base;
		server->handler = handler;
		server->arg = arg;
		err = start(server, address);
	}
	if (!err) {
		*out = server;
		return 0;
	}
	log_error("cannot listen", "address=%s error=\"%s\"", address_format(address, text), strerror(-err));
	admin_server_free(server);
	return err;
}

void admin_server_free(struct admin_server *server)
{
	if (!server)
		return;
	if (server->earlier)
		evhttp_free(server->earlier);
	if (server->http)
		evhttp_free(server->http);
	if (server->renewal)
		event_free(server->renewal);
	if (server->tick)
		event_free(server->tick);
	if (server->fd >= 0)
		close(server->fd);
	free(server);
}
