// SPDX-License-Identifier: Apache-2.0
/*
 * The request's way to the pod: head and what was collected of the body at once, then the rest as it comes, through a
 * shared buffer or, where a long run of content is known to follow, through a pipe.
 */
#include <errno.h>
#include <sys/socket.h>

#include "agent/agent.h"
#include "agent/client.h"
#include "agent/exchange.h"
#include "agent/metrics.h"
#include "agent/upstream.h"

/* Below that a copy is cheaper than the two system calls more. */
enum { SPLICE_MIN = 64 * 1024 };

static void request_is_out(struct exchange *exchange)
{
	client_arm(exchange->client, NULL);
	exchange_set_state(exchange, EXCHANGE_ANSWER);
}

void forward_begin(struct exchange *exchange)
{
	struct client *client = exchange->client;
	struct iovec iov[2] = { { exchange->head, exchange->head_len }, { NULL, 0 } };
	int err;

	if (exchange->kept)
		iov[1] = (struct iovec){ buffer_head(&client->in), exchange->kept };
	exchange->sent_us = agent_now_us();
	exchange_set_state(exchange, EXCHANGE_SEND);
	exchange->bytes_up += iov[0].iov_len + iov[1].iov_len;
	err = peer_send(&exchange->upstream->peer, iov, exchange->kept ? 2 : 1);
	if (err) {
		exchange_fail(exchange, err, "sending the request failed");
		return;
	}
	if (exchange->request_body.done) {
		request_is_out(exchange);
		return;
	}
	exchange->at_hand = false;
	buffer_consume(&client->in, exchange->kept);
	exchange->kept = 0;
	peer_watch_readable(&client->peer, !peer_is_blocked(&exchange->upstream->peer));
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
	exchange->bytes_up += iov.iov_len;
	err = peer_send(&exchange->upstream->peer, &iov, 1);
	if (err) {
		exchange_fail(exchange, err, "sending the request failed");
		return;
	}
	if (exchange->request_body.done)
		request_is_out(exchange);
	if (iov.iov_len < len && buffer_append(&client->in, data + iov.iov_len, len - iov.iov_len, client_in_max(client)))
		client_close(client, true);
	else if (!exchange->request_body.done)
		peer_watch_readable(&client->peer, !peer_is_blocked(&exchange->upstream->peer));
}

static int splice_on(struct exchange *exchange, uint64_t run)
{
	struct client *client = exchange->client;
	uint64_t moved;
	int err = peer_splice(&client->peer, &exchange->upstream->peer, run, &moved);

	if (err == -ENOSR || err == -EAGAIN)
		return err;
	if (err) {
		exchange_fail(exchange, err, "sending the request failed");
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
		peer_watch_readable(&client->peer, !peer_is_blocked(&exchange->upstream->peer));
	return 0;
}

void exchange_stream_body(struct exchange *exchange)
{
	struct client *client = exchange->client;
	uint64_t run = http_body_skippable(&exchange->request_body);
	ssize_t n;

	client_arm(client, client->agent->timeouts.body);
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
	return exchange->state == EXCHANGE_SEND && !exchange->request_body.done;
}

void forward_upstream_writable(struct exchange *exchange)
{
	if (exchange_streams_body(exchange))
		peer_watch_readable(&exchange->client->peer, true);
}
