// SPDX-License-Identifier: Apache-2.0
/*
 * A client's connection: see client.h.
 *
 * Memory of a connection is bounded by client_in_max() for what it sends, PEER_OUT_MAX in each direction for what a
 * socket does not take, one pipe, and while a prompt is read a scanner; an idle connection holds no buffer at all.
 */
#include "agent/client.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/conntrack.h"
#include "agent/datapath.h"
#include "agent/exchange.h"
#include "agent/listener.h"
#include "agent/metrics.h"
#include "agent/status.h"
#include "lib/log.h"

/* Of later requests, read ahead while one is answered. */
enum { PIPELINED_MAX = 2 * HTTP_HEAD_MAX };

/* SO_ORIGINAL_DST, and IP6T_SO_ORIGINAL_DST for IPv6 (linux/netfilter_ipv4.h, ip6_tables.h). */
enum { ORIGINAL_DST = 80 };

static const bool legal[CLIENT_STATE_N][CLIENT_STATE_N] = {
	[CLIENT_IDLE] = { [CLIENT_IDLE] = true, [CLIENT_HEAD] = true, [CLIENT_ACTIVE] = true, [CLIENT_LINGER] = true,
		[CLIENT_CLOSED] = true },
	/* To idle again: what had come was the first half of an empty line. */
	[CLIENT_HEAD] = { [CLIENT_IDLE] = true, [CLIENT_HEAD] = true, [CLIENT_ACTIVE] = true, [CLIENT_LINGER] = true,
		[CLIENT_CLOSED] = true },
	[CLIENT_ACTIVE] = { [CLIENT_IDLE] = true, [CLIENT_LINGER] = true, [CLIENT_CLOSED] = true },
	[CLIENT_LINGER] = { [CLIENT_CLOSED] = true },
};

static void client_set_state(struct client *client, enum client_state state)
{
	assert(legal[client->state][state]);
	client->state = state;
}

void client_arm(struct client *client, const struct timeval *timeout)
{
	if (timeout)
		event_add(&client->timer, timeout);
	else
		event_del(&client->timer);
}

size_t client_in_max(const struct client *client)
{
	return client->agent->config.request_buffer + 2 * HTTP_HEAD_MAX + AGENT_SCRATCH;
}

void client_await_gone(struct client *client)
{
	client_arm(client, client->agent->timeouts.linger);
}

/*
 * A FIN says that the client sends no more, be it that it waits for the answer or that it has ended. What tells is how
 * its kernel takes bytes: with an RST if nobody is there to read them. An interim "100 Continue" may come at any time
 * before the answer (RFC 9110 15.2). It is sent once: some clients take only a few of them.
 */
static void check_gone(struct client *client)
{
	int err = 0;
	socklen_t len = sizeof(err);

	getsockopt(client->peer.fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (err) {
		client_close(client, false);
		return;
	}
	exchange_probe_client(client->exchange);
	if (client->exchange)
		client_await_gone(client);
}

/* Callers up the stack still look at the state, so the memory goes when the loop has come round. */
static void client_free(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	free(arg);
}

void client_close(struct client *client, bool reset)
{
	struct agent *agent = client->agent;
	const struct timeval now = { 0 };

	if (client->state == CLIENT_CLOSED)
		return;
	if (client->exchange)
		exchange_abort(client->exchange);
	client_set_state(client, CLIENT_CLOSED);
	event_del(&client->timer);
	peer_close(&client->peer, reset);
	buffer_free(&client->in);
	*client->link = client->next;
	if (client->next)
		client->next->link = client->link;
	agent->n_clients--;
	event_base_once(agent->base, -1, EV_TIMEOUT, client_free, client, &now);
	agent_client_gone(agent);
}

/* Translation on the way (of a service's address, say) is undone; without any, there is nothing to ask. */
int client_front(struct client *client, struct address *out)
{
	const struct datapath *datapath = client->agent->datapath;
	bool v4 = address_is_ipv4(&client->address);
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);

	client->tracked = datapath && datapath_conntrack(datapath) && conntrack_is_active(datapath_conntrack(datapath));
	if (client->tracked &&
		!getsockopt(client->peer.fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, ORIGINAL_DST, &sa, &len))
		return address_from_sockaddr(out, (struct sockaddr *)&sa);
	return peer_own_address(&client->peer, out);
}

void client_adopt(struct client *client, int fd)
{
	listener_set_options(fd, &client->agent->config);
	peer_open(&client->peer, client->agent->base, &client->agent->pipes, fd);
	peer_watch_readable(&client->peer, !client->eof);
}

void client_linger(struct client *client)
{
	client_set_state(client, CLIENT_LINGER);
	buffer_free(&client->in);
	if (!peer_is_blocked(&client->peer))
		shutdown(client->peer.fd, SHUT_WR);
	if (client->eof) {
		client_close(client, false);
		return;
	}
	client_arm(client, client->agent->timeouts.linger);
	peer_watch_readable(&client->peer, true);
}

void client_refuse(struct client *client, unsigned status, const char *type, const char *message, const char *extra,
	bool to_head)
{
	char text[1024];
	char body[512];
	struct iovec iov = { .iov_base = text };
	int n = snprintf(body, sizeof(body), "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":%u}}",
		message, type, status);

	iov.iov_len = (size_t)snprintf(text, sizeof(text),
		"HTTP/1.1 %u %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n%s", status,
		status_reason(status), n, extra, to_head ? "" : body);
	assert(iov.iov_len < sizeof(text));
	if (peer_send(&client->peer, &iov, 1))
		client_close(client, true);
	else
		client_linger(client);
}

static void refuse_rule(struct client *client, enum http_rule rule)
{
	char text[ADDRESS_TEXT_MAX];

	metrics_rejected(client->agent->metrics, rule);
	log_debug("request refused", "client=%s rule=%s", address_format(&client->address, text), http_rule_name(rule));
	client_refuse(client, http_rule_status(rule), "invalid_request_error", http_rule_text(rule), "", false);
}

/* In a drain a client that has just come may still send the request that it came for. */
static const struct timeval *idle_timeout(const struct client *client)
{
	const struct agent_timeouts *timeouts = &client->agent->timeouts;

	return client->agent->draining ? timeouts->linger : timeouts->keepalive;
}

static void await_head(struct client *client)
{
	bool begun = client->in.len;

	if (client->eof || (client->agent->draining && !begun && client->served)) {
		client_close(client, false);
		return;
	}
	if (!begun)
		buffer_free(&client->in);
	if (!begun || client->state != CLIENT_HEAD)
		client_arm(client, begun ? client->agent->timeouts.head : idle_timeout(client));
	client_set_state(client, begun ? CLIENT_HEAD : CLIENT_IDLE);
	peer_watch_readable(&client->peer, true);
}

/* A lone CR may be the first half of an empty line, so it does not count as looked at. */
static void skip_empty_lines(struct client *client)
{
	if (!client->in.len || client->scan.looked_at > 1)
		return;
	buffer_consume(&client->in, http_skip_empty_lines(buffer_head(&client->in), client->in.len));
	client->scan = (struct http_head_scan){ 0 };
}

void client_next(struct client *client)
{
	enum http_rule rule = HTTP_RULE_NONE;
	struct http_head head;
	int err;

	if (client->state == CLIENT_ACTIVE) {
		client->scan = (struct http_head_scan){ 0 };
		client_set_state(client, CLIENT_IDLE);
		peer_watch_readable(&client->peer, !client->eof);
	}
	skip_empty_lines(client);
	err = client->in.len ? http_request_head_parse(&head, buffer_head(&client->in), client->in.len, &client->scan, &rule)
			     : -EAGAIN;
	if (err == -EAGAIN) {
		await_head(client);
	} else if (err) {
		refuse_rule(client, rule);
	} else {
		client_arm(client, NULL);
		client_set_state(client, CLIENT_ACTIVE);
		client->served = true;
		exchange_begin(client, &head);
	}
}

/* A request whose body is not all here yet reads straight into place; the rest is small. */
static ssize_t read_more(struct client *client)
{
	size_t want = client->exchange ? exchange_wants(client->exchange) : 0;
	ssize_t n;

	if (want > AGENT_SCRATCH && !buffer_reserve(&client->in, want, client_in_max(client))) {
		n = recv(client->peer.fd, buffer_tail(&client->in), buffer_room(&client->in), 0);
		client->in.len += n > 0 ? (size_t)n : 0;
		return n;
	}
	n = recv(client->peer.fd, client->agent->scratch, AGENT_SCRATCH, 0);
	if (n == AGENT_SCRATCH) /* there is more: room for it now spares a copy later; without it, it goes on, too */
		buffer_reserve(&client->in, 4 * AGENT_SCRATCH, client_in_max(client));
	if (n > 0 && buffer_append(&client->in, client->agent->scratch, (size_t)n, client_in_max(client))) {
		errno = ENOBUFS;
		return -1;
	}
	return n;
}

static void throw_away(struct client *client)
{
	ssize_t n = recv(client->peer.fd, client->agent->scratch, AGENT_SCRATCH, 0);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		client_close(client, false);
}

static void on_readable(struct peer *peer)
{
	struct client *client = (struct client *)peer;
	ssize_t n;

	if (client->state == CLIENT_LINGER) {
		throw_away(client);
		return;
	}
	if (client->exchange && exchange_streams_body(client->exchange)) {
		exchange_stream_body(client->exchange);
		return;
	}
	if (client->state == CLIENT_ACTIVE && client->in.len >= PIPELINED_MAX && !exchange_wants(client->exchange)) {
		peer_watch_readable(peer, false); /* client_next() goes on */
		return;
	}
	n = read_more(client);
	client->received += n > 0 ? (uint64_t)n : 0;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		client_close(client, errno == ENOBUFS);
		return;
	}
	if (n == 0) {
		client->eof = true;
		peer_watch_readable(peer, false);
	}
	if (client->state == CLIENT_ACTIVE)
		exchange_client_bytes(client->exchange);
	else
		client_next(client);
}

static void on_writable(struct peer *peer)
{
	struct client *client = (struct client *)peer;

	if (client->state == CLIENT_LINGER)
		shutdown(peer->fd, SHUT_WR);
	else if (client->exchange)
		exchange_client_writable(client->exchange);
}

static void on_broken(struct peer *peer, int err)
{
	(void)err;
	client_close((struct client *)peer, false);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct client *client = arg;

	(void)fd, (void)what;
	if (client->state == CLIENT_HEAD)
		refuse_rule(client, HTTP_RULE_HEAD_TIMEOUT);
	else if (client->state == CLIENT_ACTIVE && client->eof && client->exchange->state != EXCHANGE_HANDOFF)
		check_gone(client);
	else if (client->state == CLIENT_ACTIVE)
		exchange_timeout(client->exchange);
	else
		client_close(client, false);
}

int client_accept(struct agent *agent, int fd, const struct address *address)
{
	struct client *client = calloc(1, sizeof(*client));

	if (!client) {
		close(fd);
		return -ENOMEM;
	}
	client->agent = agent;
	client->address = *address;
	address_format_ip(address, client->ip);
	peer_open(&client->peer, agent->base, &agent->pipes, fd);
	client->peer.resets_by_default = true;
	client->peer.on_readable = on_readable;
	client->peer.on_writable = on_writable;
	client->peer.on_broken = on_broken;
	evtimer_assign(&client->timer, agent->base, on_timer, client);
	client->next = agent->clients;
	client->link = &agent->clients;
	if (client->next)
		client->next->link = &client->next;
	agent->clients = client;
	agent->n_clients++;
	await_head(client);
	on_readable(&client->peer); /* mostly the request has come with the connection: before anything is watched */
	return 0;
}

void clients_close_idle(struct agent *agent)
{
	for (struct client *client = agent->clients, *next; client; client = next) {
		next = client->next;
		if (client->state == CLIENT_IDLE && client->served)
			client_close(client, false);
		else if (client->state == CLIENT_IDLE)
			client_arm(client, idle_timeout(client));
	}
}
