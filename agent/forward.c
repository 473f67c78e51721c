// SPDX-License-Identifier: Apache-2.0
/*
 * The request's way to the pod: head and what was collected of the body from where they lie, then the rest as it comes,
 * through a shared buffer or, where a long run of content is known to follow, through a pipe.
 */
#include <errno.h>
#include <sys/socket.h>

#include "agent/agent.h"
#include "agent/client.h"
#include "agent/exchange.h"
#include "agent/metrics.h"
#include "agent/upstream.h"

/* Below that a copy is cheaper than the two system calls more. */
enum { SPLICE_MIN = 64 * 1024, HANDOFF_TAIL = 4096 /* not through a pipe: kept for the hand-off */ };

static void request_is_out(struct exchange *exchange)
{
	client_arm(exchange->client, NULL);
	if (exchange->client->eof)
		client_await_gone(exchange->client);
	exchange_set_state(exchange, EXCHANGE_ANSWER);
}

/* Something to read where sending fails; not so if the request can simply be sent again on a fresh connection. */
static bool pod_may_have_answered(const struct exchange *exchange)
{
	const struct upstream *upstream = exchange->upstream;
	char byte;

	return upstream && exchange->state != EXCHANGE_CONNECT && !(upstream->reused && exchange->at_hand) &&
	       recv(upstream->peer.fd, &byte, 1, MSG_PEEK) == 1;
}

/*
 * A pod may answer before it has read all, and close: then what resets the connection is what it did not read, and the
 * answer is there to be passed on.
 */
void forward_failed(struct exchange *exchange, int err, const char *what)
{
	struct client *client = exchange->client;

	if (exchange->state == EXCHANGE_HANDOFF) {
		handoff_failed(exchange, err);
		return;
	}
	if (!pod_may_have_answered(exchange)) {
		exchange_fail(exchange, err, what);
		return;
	}
	client_arm(client, NULL);
	peer_watch_readable(&client->peer, false);
	peer_drop_output(&exchange->upstream->peer);
	if (!peer_is_blocked(&client->peer))
		response_readable(exchange);
}

/* The client has --body-timeout for what comes next, but not while the pod takes nothing: that is TCP_USER_TIMEOUT's, below. */
static void await_body(struct exchange *exchange)
{
	bool blocked = peer_is_blocked(&exchange->upstream->peer);

	client_arm(exchange->client, blocked ? NULL : exchange->client->agent->timeouts.body);
	peer_watch_readable(&exchange->client->peer, !blocked);
}

/* A request that is whole may be needed again until its answer begins; a part of one is of no more use. */
static void collected_is_out(struct exchange *exchange)
{
	struct client *client = exchange->client;

	upstream_keep_alive(exchange->upstream);
	if (!exchange->request_body.done)
		exchange->at_hand = false;
	if (!exchange->at_hand) {
		buffer_consume(&client->in, exchange->kept);
		exchange->kept = 0;
	}
	if (exchange->request_body.done)
		request_is_out(exchange);
	else
		await_body(exchange);
}

static bool sends_collected(const struct exchange *exchange)
{
	return (exchange->state == EXCHANGE_SEND || exchange->state == EXCHANGE_HANDOFF) &&
	       exchange->sent < exchange->head_len + exchange->kept;
}

/* Head and collected body lie in memory already, so what the socket does not take waits there. */
static void send_collected(struct exchange *exchange)
{
	size_t in_head = exchange->sent < exchange->head_len ? exchange->head_len - exchange->sent : 0;
	size_t in_body = exchange->head_len + exchange->kept - exchange->sent - in_head;
	struct iovec iov[2] = { { exchange->head + exchange->sent, in_head }, { NULL, in_body } };
	int first = in_head ? 0 : 1, n = (in_head != 0) + (in_body != 0);
	ssize_t sent;

	if (in_body)
		iov[1].iov_base = buffer_head(&exchange->client->in) + (exchange->kept - in_body);
	sent = peer_send_some(&exchange->upstream->peer, iov + first, n);
	if (sent < 0) {
		forward_failed(exchange, (int)sent, "sending the request failed");
		return;
	}
	exchange->sent += (size_t)sent;
	exchange->bytes_up += (size_t)sent;
	if (sends_collected(exchange)) {
		upstream_keep_alive(exchange->upstream); /* the pod may take no more of it */
		return;
	}
	if (exchange->state == EXCHANGE_HANDOFF)
		handoff_sent(exchange);
	else
		collected_is_out(exchange);
}

void forward_begin(struct exchange *exchange)
{
	int err = 0;

	exchange->sent_us = agent_now_us();
	exchange->sent = 0;
	exchange_set_state(exchange, EXCHANGE_SEND);
	if (exchange->request_body.done)
		err = handoff_begin(exchange);
	else
		handoff_plan(exchange);
	if (err == -EAGAIN)
		exchange_redial(exchange);
	else if (err == -EPIPE)
		client_close(exchange->client, true);
	else if (err == -ECONNRESET)
		exchange_fail(exchange, err, "the pod closed the connection");
	else
		send_collected(exchange);
}

/* The last bytes of a large body: kept, so that the hand-off comes before they are sent. */
static void end_by_handoff(struct exchange *exchange, const char *data, size_t used, size_t len)
{
	struct client *client = exchange->client;
	int err;

	if (buffer_append(&client->in, data, len, client_in_max(client))) {
		client_close(client, true);
		return;
	}
	exchange->kept = used;
	exchange->sent = exchange->head_len;
	err = handoff_complete(exchange);
	if (err == -EPIPE)
		client_close(client, true);
	else if (err == -ECONNRESET)
		exchange_fail(exchange, err, "the pod closed the connection");
	else
		send_collected(exchange);
}

/* What follows the body in the same read belongs to the next request. */
static void pass_on(struct exchange *exchange, const char *data, size_t len)
{
	struct client *client = exchange->client;
	enum http_rule rule = HTTP_RULE_NONE;
	struct iovec iov = { (char *)data, 0 };
	int err = http_body_feed(&exchange->request_body, data, len, &iov.iov_len, NULL, NULL, &rule);

	if (err) {
		metrics_rejected(client->agent->metrics, rule);
		exchange_refuse(exchange, http_rule_status(rule), "invalid_request_error", http_rule_text(rule), "");
		return;
	}
	if (exchange->handoff.planned && exchange->request_body.done) {
		end_by_handoff(exchange, data, iov.iov_len, len);
		return;
	}
	exchange->bytes_up += iov.iov_len;
	err = peer_send(&exchange->upstream->peer, &iov, 1);
	if (err) {
		forward_failed(exchange, err, "sending the request failed");
		return;
	}
	if (exchange->request_body.done)
		request_is_out(exchange);
	if (iov.iov_len < len && buffer_append(&client->in, data + iov.iov_len, len - iov.iov_len, client_in_max(client)))
		client_close(client, true);
	else if (!exchange->request_body.done)
		await_body(exchange);
}

static int splice_on(struct exchange *exchange, uint64_t run)
{
	struct client *client = exchange->client;
	uint64_t moved;
	int err = peer_splice(&client->peer, &exchange->upstream->peer, run, &moved);

	if (err == -ENOSR || err == -EAGAIN)
		return err;
	if (err) {
		forward_failed(exchange, err, "sending the request failed");
		return 0;
	}
	if (!moved) {
		client_close(client, true);
		return 0;
	}
	exchange->bytes_up += moved;
	metrics_spliced(client->agent->metrics, moved);
	http_body_skip(&exchange->request_body, moved);
	if (exchange->request_body.done)
		request_is_out(exchange);
	else
		await_body(exchange);
	return 0;
}

void exchange_stream_body(struct exchange *exchange)
{
	struct client *client = exchange->client;
	uint64_t run = http_body_skippable(&exchange->request_body);
	ssize_t n;

	if (exchange->handoff.planned && exchange->request_body.kind == HTTP_BODY_SIZED)
		run -= run < HANDOFF_TAIL ? run : HANDOFF_TAIL;
	if (run >= SPLICE_MIN && splice_on(exchange, run) != -ENOSR)
		return;
	n = recv(client->peer.fd, client->agent->scratch, AGENT_SCRATCH, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) /* the request stays incomplete, the pod must not take it for whole */
		client_close(client, true);
	else
		pass_on(exchange, client->agent->scratch, (size_t)n);
}

bool exchange_streams_body(const struct exchange *exchange)
{
	return exchange->state == EXCHANGE_SEND && !exchange->request_body.done && !sends_collected(exchange);
}

void forward_upstream_writable(struct exchange *exchange)
{
	if (sends_collected(exchange))
		send_collected(exchange);
	else if (exchange_streams_body(exchange))
		await_body(exchange);
}
