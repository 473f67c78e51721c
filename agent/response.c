// SPDX-License-Identifier: Apache-2.0
/*
 * The answer's way to the client: its head is rewritten, its body passes as it comes. One read, one write a chunk; a
 * chunk is never held back to wait for more. While the client does not take it, the pod's socket is left unread.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

#include "agent/agent.h"
#include "agent/client.h"
#include "agent/exchange.h"
#include "agent/health.h"
#include "agent/metrics.h"
#include "agent/upstream.h"

/* Below that much of known content a copy is cheaper than the two system calls more. */
enum { SPLICE_MIN = 64 * 1024, SPLICE_WORTH = 16 * 1024, RESPONSE_RUNS = 64 };

/* Content without its framing, for a client that does not know chunks. */
struct runs {
	struct iovec iov[RESPONSE_RUNS];
	int n, err;
	struct peer *to;
};

static void runs_flush(struct runs *runs)
{
	if (runs->n && !runs->err)
		runs->err = peer_send(runs->to, runs->iov, runs->n);
	runs->n = 0;
}

static void runs_add(void *ctx, const char *data, size_t len)
{
	struct runs *runs = ctx;

	if (runs->n == RESPONSE_RUNS)
		runs_flush(runs);
	runs->iov[runs->n++] = (struct iovec){ (char *)data, len };
}

/* Engines send the head of a stream before they have computed anything: content is what ends the wait. */
static void note_first_content(struct exchange *exchange)
{
	struct agent *agent = exchange->client->agent;
	double ttft_s = (double)(agent_now_us() - exchange->begun_us) / 1e6;

	exchange->saw_content = true;
	endpoint_claim_release_tokens(agent->endpoints, &exchange->claim);
	metrics_ttft(agent->metrics, exchange->decision.endpoint, ttft_s);
	decision_log_first_byte(agent->decisions, exchange->logged, ttft_s);
}

/* The pod died or broke the protocol after the client had got something: the client must be able to tell. */
static void cut(struct exchange *exchange)
{
	struct client *client = exchange->client;

	health_request_failed(client->agent->health, (uint32_t)exchange->decision.endpoint, "broke off in an answer");
	metrics_cut(client->agent->metrics, METRICS_CUT_UPSTREAM);
	client_close(client, true);
}

static void go_on(struct exchange *exchange, bool surplus)
{
	if (exchange->response_body.done)
		exchange_finish(exchange, exchange->pod_keeps_alive && !surplus);
	else
		peer_watch_readable(&exchange->upstream->peer, !peer_is_blocked(&exchange->client->peer));
}

static void pass_on(struct exchange *exchange, struct iovec head, const char *data, size_t len)
{
	struct runs runs; /* not cleared whole: it is larger than a chunk */
	enum http_rule rule;
	size_t used;

	runs.iov[0] = head;
	runs.n = head.iov_len ? 1 : 0;
	runs.err = 0;
	runs.to = &exchange->client->peer;
	if (http_body_feed(&exchange->response_body, data, len, &used, exchange->dechunk ? runs_add : NULL, &runs, &rule)) {
		cut(exchange);
		return;
	}
	if (used && !exchange->saw_content)
		note_first_content(exchange);
	if (used && !exchange->dechunk)
		runs_add(&runs, data, used);
	exchange->bytes_down += used + head.iov_len;
	exchange->answered = true;
	runs_flush(&runs);
	if (runs.err)
		client_close(exchange->client, false);
	else
		go_on(exchange, used < len);
}

/* HTTP/1.0 knows no chunks: they are taken off, and the end of the connection ends the body. */
static void settle_framing(struct exchange *exchange, struct http_head *head)
{
	unsigned i = 0;

	http_body_begin_response(&exchange->response_body, head, exchange->to_head);
	exchange->pod_keeps_alive = head->keep_alive;
	exchange->dechunk = exchange->http10 && head->chunked;
	while (exchange->dechunk && i < head->n_fields) {
		if (http_text_equal_nocase(head->field[i].name, "Transfer-Encoding"))
			head->field[i] = head->field[--head->n_fields];
		else
			i++;
	}
	exchange->close_client = !exchange->keep_alive || exchange->dechunk || exchange->client->agent->draining ||
				 exchange->response_body.kind == HTTP_BODY_UNTIL_CLOSE || !exchange->request_body.done;
}

static void begin_answer(struct exchange *exchange, struct http_head *head, const char *data, size_t len)
{
	static char text[HTTP_HEAD_MAX + 512]; /* sent or held back before this returns */
	char line[EXCHANGE_ID_LINE_MAX];
	bool has_id = http_field_find(head, "x-request-id");
	long n;

	exchange_answer_begins(exchange);
	exchange->status = head->status;
	settle_framing(exchange, head);
	n = http_response_rewrite(head, exchange->close_client, exchange->http10, has_id ? "" : exchange_id_line(exchange, line), text,
		sizeof(text));
	if (n < 0)
		exchange_fail(exchange, (int)n, "the head of the pod's answer is too large");
	else
		pass_on(exchange, (struct iovec){ text, (size_t)n }, data + head->length, len - head->length);
}

/* An interim answer is passed on, except 100: the agent has given that by itself where it was asked for. */
static bool pass_interim(struct exchange *exchange, const struct http_head *head)
{
	struct client *client = exchange->client;
	char text[HTTP_HEAD_MAX + 512];
	struct iovec iov = { .iov_base = text };
	long n;

	if (head->status == 100 || exchange->http10)
		return true;
	n = http_response_rewrite(head, false, false, "", text, sizeof(text));
	iov.iov_len = n > 0 ? (size_t)n : 0;
	if (n > 0 && !peer_send(&client->peer, &iov, 1))
		return true;
	client_close(client, false);
	return false;
}

/**
 * read_heads() - interim answers, then the final one with what follows it.
 * @used: bytes of @data that are done with, when more are needed.
 * Return: whether more bytes of the head are needed; otherwise the exchange has moved on.
 */
static bool read_heads(struct exchange *exchange, const char *data, size_t len, size_t *used)
{
	enum http_rule rule;
	struct http_head head;

	for (*used = 0;; *used += head.length) {
		struct http_head_scan scan = { 0 };
		int err = http_response_head_parse(&head, data + *used, len - *used, &scan, &rule);

		if (err == -EAGAIN)
			return true;
		if (err || head.status == 101) {
			exchange_fail(exchange, -EPROTO, "the pod's answer is not valid HTTP");
			return false;
		}
		if (head.status >= 200)
			break;
		if (!pass_interim(exchange, &head))
			return false;
	}
	if (head.status >= 500)
		health_answered(exchange->client->agent->health, (uint32_t)exchange->decision.endpoint, head.status);
	if (head.status >= 502 && head.status <= 504 && exchange_try_elsewhere(exchange))
		return false;
	begin_answer(exchange, &head, data + *used, len - *used);
	return false;
}

/* The head comes with one read as a rule; only a part of one is kept in upstream->in. */
static void read_answer_head(struct exchange *exchange, const char *data, size_t len)
{
	struct upstream *upstream = exchange->upstream;
	struct buffer in = upstream->in;
	size_t used;

	if (!in.len && !read_heads(exchange, data, len, &used)) {
		return;
	} else if (!in.len) {
		if (buffer_append(&upstream->in, data + used, len - used, HTTP_HEAD_MAX + AGENT_SCRATCH))
			exchange_fail(exchange, -ENOBUFS, "the head of the pod's answer is too large");
		return;
	}
	upstream->in = (struct buffer){ 0 }; /* its end may come below */
	if (buffer_append(&in, data, len, HTTP_HEAD_MAX + AGENT_SCRATCH)) {
		exchange_fail(exchange, -ENOBUFS, "the head of the pod's answer is too large");
	} else if (read_heads(exchange, buffer_head(&in), in.len, &used)) {
		buffer_consume(&in, used);
		upstream->in = in;
		return;
	}
	buffer_free(&in);
}

static void end_of_stream(struct exchange *exchange, int err)
{
	if (!exchange->status) {
		exchange_fail(exchange, err ? err : -ECONNRESET, "the pod closed the connection without an answer");
	} else if (!err && exchange->response_body.kind == HTTP_BODY_UNTIL_CLOSE) {
		exchange->response_body.done = true;
		exchange_finish(exchange, false);
	} else {
		cut(exchange);
	}
}

/* Return: whether it was its turn. */
static bool splice_on(struct exchange *exchange)
{
	struct client *client = exchange->client;
	uint64_t run = http_body_skippable(&exchange->response_body), moved;
	int err;

	if (!exchange->bulk || exchange->dechunk || run < SPLICE_MIN)
		return false;
	err = peer_splice(&exchange->upstream->peer, &client->peer, run, &moved);
	if (err == -ENOSR)
		return false;
	if (err == -EPIPE) {
		client_close(client, false);
		return true;
	}
	if (err == -EAGAIN)
		return true;
	if (err || !moved) {
		end_of_stream(exchange, err);
		return true;
	}
	exchange->bulk = moved >= SPLICE_WORTH;
	exchange->bytes_down += moved;
	metrics_spliced(client->agent->metrics, moved);
	http_body_skip(&exchange->response_body, moved);
	go_on(exchange, false);
	return true;
}

void response_readable(struct exchange *exchange)
{
	char *scratch = exchange->client->agent->scratch;
	ssize_t n;

	if (exchange->state != EXCHANGE_HANDOFF && exchange->status && splice_on(exchange))
		return;
	n = recv(exchange->upstream->peer.fd, scratch, AGENT_SCRATCH, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	exchange->bulk = n == AGENT_SCRATCH;
	if (exchange->state == EXCHANGE_HANDOFF)
		handoff_failed(exchange, n < 0 ? -errno : -ECONNRESET);
	else if (n <= 0)
		end_of_stream(exchange, n ? -errno : 0);
	else if (exchange->status)
		pass_on(exchange, (struct iovec){ 0 }, scratch, (size_t)n);
	else
		read_answer_head(exchange, scratch, (size_t)n);
}
