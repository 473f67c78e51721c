// SPDX-License-Identifier: Apache-2.0
/* One request at a time over one connection; what is wrong with an answer is a failure with a kind. */
#include <errno.h>
#include <json-c/json.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/load/load.h"

enum { SCRATCH = 256 * 1024, KEEP_MAX = 1 << 20 };

struct load_client {
	struct peer peer;
	LIST_ENTRY(load_client) link;
	struct load *load;
	struct event timer;
	struct order order;
	struct buffer head, body; /* incomplete response head; body of an answer that is not streamed */
	struct http_body framing;
	struct sse sse;
	unsigned status;
	bool busy, connected, keep_alive, counted;
	uint64_t begun_ns, last_ns, events;
	char *request;
	size_t request_len, sent;
};

static char scratch[SCRATCH];

static void client_free(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	free(arg);
}

static void drop_request(struct load_client *client)
{
	if (client->request != client->load->request)
		free(client->request);
	client->request = NULL;
}

static void client_drop(struct load_client *client)
{
	const struct timeval now = { 0 };

	if (!client->busy)
		LIST_REMOVE(client, link);
	event_del(&client->timer);
	peer_close(&client->peer, false);
	buffer_free(&client->head);
	buffer_free(&client->body);
	drop_request(client);
	event_base_once(client->load->base, -1, EV_TIMEOUT, client_free, client, &now);
}

static void over(struct load_client *client, int failure)
{
	struct load *load = client->load;
	uint64_t now = load_now_ns();

	if (client->counted) {
		if (failure >= 0)
			load->stats.failures[failure]++;
		else
			quantile_add(&load->stats.e2e, now - client->begun_ns);
		load->stats.finished++;
		load->stats.last_ns = now;
	}
	event_del(&client->timer);
	load->inflight--;
	drop_request(client);
	if (failure >= 0 || !client->keep_alive || load->config->new_connection) {
		client_drop(client);
	} else {
		client->busy = false;
		LIST_INSERT_HEAD(&load->idle, client, link);
	}
	load_request_over(load);
}

/* ---- what came back ---- */

static void note_events(struct load_client *client, uint64_t n)
{
	struct stats *stats = &client->load->stats;
	uint64_t now = load_now_ns();

	if (!n || !client->counted)
		return;
	if (!client->events)
		quantile_add(&stats->ttft, now - client->begun_ns);
	else
		quantile_add(&stats->itl, now - client->last_ns);
	if (client->sse.stamp_ns && now > client->sse.stamp_ns)
		quantile_add(&stats->delay, now - client->sse.stamp_ns);
	client->events += n;
	client->last_ns = now;
	stats->tokens += n;
}

static void on_content(void *ctx, const char *data, size_t len)
{
	struct load_client *client = ctx;

	if (client->counted)
		client->load->stats.bytes += len;
	if (client->load->config->stream && client->status == 200)
		note_events(client, sse_feed(&client->sse, data, len));
	else
		buffer_append(&client->body, data, len, KEEP_MAX);
}

static uint64_t expected_tokens(const struct load_client *client)
{
	uint64_t tokens = client->order.from ? client->order.from->output_tokens : client->load->config->output_tokens;

	return tokens ? tokens : 1;
}

/* A whole answer: JSON with the number of tokens that was asked for. */
static bool whole_is_right(struct load_client *client)
{
	struct json_tokener *tokener = json_tokener_new();
	struct json_object *json = json_tokener_parse_ex(tokener, buffer_head(&client->body), (int)client->body.len);
	struct json_object *usage, *tokens;
	bool right = json && json_object_object_get_ex(json, "usage", &usage) &&
		     json_object_object_get_ex(usage, "completion_tokens", &tokens) &&
		     json_object_get_uint64(tokens) == expected_tokens(client);

	if (client->counted && right) {
		quantile_add(&client->load->stats.ttft, load_now_ns() - client->begun_ns);
		client->load->stats.tokens += expected_tokens(client);
	}
	json_object_put(json);
	json_tokener_free(tokener);
	return right;
}

static int verdict(struct load_client *client)
{
	if (client->status != 200)
		return FAILURE_STATUS;
	if (!client->load->config->stream)
		return client->body.len && whole_is_right(client) ? -1 : FAILURE_CONTENT;
	if (client->sse.malformed)
		return FAILURE_MALFORMED;
	if (!client->sse.done)
		return FAILURE_CUT;
	return client->sse.events == expected_tokens(client) ? -1 : FAILURE_CONTENT;
}

static void note_pod(struct load_client *client, const struct http_head *head)
{
	const struct http_field *pod = http_field_find(head, "x-sim-pod");
	struct load *load = client->load;
	uint32_t hash = 2166136261u; /* FNV-1a */

	if (!pod || !client->order.from || !load->last_pod)
		return;
	for (size_t i = 0; i < pod->value.len; i++)
		hash = (hash ^ (uint8_t)pod->value.at[i]) * 16777619u;
	if (load->last_pod[client->order.from->session] && client->counted) {
		load->stats.later_turns++;
		load->stats.sticky += load->last_pod[client->order.from->session] == hash;
	}
	load->last_pod[client->order.from->session] = hash;
}

static void note_head(struct load_client *client)
{
	struct stats *stats = &client->load->stats;

	if (!client->counted)
		return;
	stats->status[client->status]++;
	quantile_add(&stats->head, load_now_ns() - client->begun_ns);
}

/* Return: bytes of the head, 0 if it is not complete, -1 if it is none. */
static long take_head(struct load_client *client, const char *data, size_t len)
{
	struct http_head_scan scan = { 0 };
	struct http_head head;
	enum http_rule rule;
	int err = http_response_head_parse(&head, data, len, &scan, &rule);

	if (err)
		return err == -EAGAIN ? 0 : -1;
	if (head.status >= 200) {
		client->status = head.status;
		client->keep_alive = head.keep_alive;
		note_head(client);
		http_body_begin_response(&client->framing, &head, false);
		note_pod(client, &head);
	}
	return (long)head.length;
}

static void take(struct load_client *client, const char *data, size_t len)
{
	enum http_rule rule;
	size_t used;

	if (http_body_feed(&client->framing, data, len, &used, on_content, client, &rule) || used < len) {
		over(client, FAILURE_MALFORMED);
		return;
	}
	if (client->framing.done)
		over(client, verdict(client));
}

static void take_heads(struct load_client *client)
{
	while (!client->status) {
		long n = take_head(client, buffer_head(&client->head), client->head.len);

		if (n < 0)
			over(client, FAILURE_MALFORMED);
		if (n <= 0)
			return;
		buffer_consume(&client->head, (size_t)n);
		if (client->status) {
			struct buffer rest = client->head;

			client->head = (struct buffer){ 0 };
			take(client, buffer_head(&rest), rest.len);
			buffer_free(&rest);
		} else if (!client->head.len) {
			return;
		}
	}
}

static void on_readable(struct peer *peer)
{
	struct load_client *client = (struct load_client *)peer;
	ssize_t n = recv(peer->fd, scratch, sizeof(scratch), 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (!client->busy) { /* closed while idle */
		client_drop(client);
	} else if (n < 0) {
		over(client, FAILURE_RESET);
	} else if (n == 0) {
		bool whole = client->status && client->framing.kind == HTTP_BODY_UNTIL_CLOSE;

		client->keep_alive = false;
		over(client, whole ? verdict(client) : client->status ? FAILURE_CUT : FAILURE_RESET);
	} else if (client->status) {
		take(client, scratch, (size_t)n);
	} else if (buffer_append(&client->head, scratch, (size_t)n, HTTP_HEAD_MAX + SCRATCH)) {
		over(client, FAILURE_MALFORMED);
	} else {
		take_heads(client);
	}
}

/* ---- what goes out ---- */

static char *make_request(const struct load_config *config, const struct order *order, size_t *len)
{
	char head[1024], session[256] = "";
	size_t body_len, n;
	char *body = prompt_body(config, order, &body_len);

	if (order->from && config->session != SESSION_NONE)
		snprintf(session, sizeof(session), "%s: session-%u\r\n", config->session_header, order->from->session);
	n = (size_t)snprintf(head, sizeof(head),
		"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n%s%s\r\n", config->path,
		config->targets.item[0] + sizeof("http://") - 1, body_len, session, config->new_connection ? "Connection: close\r\n" : "");
	body = realloc(body, body_len + n);
	if (!body)
		abort();
	memmove(body + n, body, body_len);
	memcpy(body, head, n);
	*len = n + body_len;
	return body;
}

/* Without a trace all requests are alike, and making one would cost more than what is measured. */
static void set_request(struct load_client *client)
{
	struct load *load = client->load;

	client->sent = 0;
	if (client->order.from) {
		client->request = make_request(load->config, &client->order, &client->request_len);
		return;
	}
	if (!load->request)
		load->request = make_request(load->config, &client->order, &load->request_len);
	client->request = load->request;
	client->request_len = load->request_len;
}

static void push(struct load_client *client)
{
	while (client->sent < client->request_len) {
		ssize_t n = send(client->peer.fd, client->request + client->sent, client->request_len - client->sent, MSG_NOSIGNAL);

		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			peer_await_writable(&client->peer);
			return;
		}
		if (n < 0) {
			over(client, FAILURE_RESET);
			return;
		}
		client->sent += (size_t)n;
	}
	peer_watch_readable(&client->peer, true);
}

static void on_writable(struct peer *peer)
{
	struct load_client *client = (struct load_client *)peer;
	int err = 0;
	socklen_t len = sizeof(err);

	if (!client->connected) {
		getsockopt(peer->fd, SOL_SOCKET, SO_ERROR, &err, &len);
		if (err) {
			over(client, FAILURE_CONNECT);
			return;
		}
		client->connected = true;
		quantile_add(&client->load->stats.connect, load_now_ns() - client->begun_ns);
	}
	push(client);
}

static void on_broken(struct peer *peer, int err)
{
	(void)err;
	over((struct load_client *)peer, FAILURE_RESET);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	over(arg, FAILURE_TIMEOUT);
}

static const struct address *next_target(struct load *load)
{
	load->random = load->random * 6364136223846793005ull + 1442695040888963407ull; /* Knuth's MMIX */
	return &load->target[(load->random >> 33) % load->config->targets.n];
}

static struct load_client *client_dial(struct load *load)
{
	struct load_client *client = calloc(1, sizeof(*client));
	struct sockaddr_storage sa;
	socklen_t len = address_to_sockaddr(next_target(load), &sa);
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	const int on = 1;

	if (!client || fd < 0) {
		perror("llmd-load: socket");
		exit(1);
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	client->load = load;
	peer_open(&client->peer, load->base, NULL, fd);
	client->peer.on_readable = on_readable;
	client->peer.on_writable = on_writable;
	client->peer.on_broken = on_broken;
	evtimer_assign(&client->timer, load->base, on_timeout, client);
	if (connect(fd, (struct sockaddr *)&sa, len) && errno != EINPROGRESS)
		client->keep_alive = false; /* SO_ERROR has it, too */
	peer_await_writable(&client->peer);
	return client;
}

void client_start(struct load *load, const struct order *order)
{
	struct timeval timeout = { .tv_sec = (time_t)(load->config->timeout_ms / 1000),
		.tv_usec = (suseconds_t)(load->config->timeout_ms % 1000 * 1000) };
	struct load_client *client = LIST_FIRST(&load->idle);
	uint64_t begun_ns = load_now_ns();

	load->inflight++;
	if (client)
		LIST_REMOVE(client, link);
	else
		client = client_dial(load);
	client->busy = true;
	client->order = *order;
	client->counted = order->number >= load->config->warmup;
	client->status = 0;
	client->events = 0;
	client->sse = (struct sse){ 0 };
	buffer_free(&client->head);
	buffer_free(&client->body);
	client->begun_ns = begun_ns;
	if (client->counted) {
		load->stats.started++;
		if (!load->stats.first_ns)
			load->stats.first_ns = client->begun_ns;
	}
	event_add(&client->timer, &timeout);
	set_request(client);
	if (client->connected)
		push(client);
}

void clients_close(struct load *load)
{
	while (!LIST_EMPTY(&load->idle))
		client_drop(LIST_FIRST(&load->idle));
	free(load->request);
	load->request = NULL;
}
