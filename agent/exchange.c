// SPDX-License-Identifier: Apache-2.0
/*
 * One request and its answer: see exchange.h for the files.
 *
 * How it works
 *
 * COLLECT: the body is read into client->in and scanned on the way, until it is complete or --request-buffer is full.
 * Then the pod is chosen (exchange_route()) and a connection to it taken from the pool or dialled: CONNECT. SEND passes on what
 * was collected and streams what is missing; ANSWER waits for the answer and passes it on. DONE is left once the client
 * has taken all. Until the first byte of the answer the collected request is kept, so that another pod can be tried:
 * that is over (at_hand) once a part of a larger body was thrown away.
 *
 * Whatever way an exchange ends, exchange_release() is the one place where claim, connection and memory are given back
 * and where the request is counted.
 */
#include "agent/exchange.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/affinity.h"
#include "agent/agent.h"
#include "agent/client.h"
#include "agent/datapath.h"
#include "agent/flow_table.h"
#include "agent/health.h"
#include "agent/metrics.h"
#include "agent/session_key.h"
#include "agent/upstream.h"
#include "lib/log.h"

enum { STATUS_CLIENT_GONE = 499 /* as nginx logs it; never sent */, LOOP_LOG_MS = 10000 };

static const bool legal[EXCHANGE_STATE_N][EXCHANGE_STATE_N] = {
	[EXCHANGE_COLLECT] = { [EXCHANGE_CONNECT] = true, [EXCHANGE_SEND] = true },
	[EXCHANGE_CONNECT] = { [EXCHANGE_CONNECT] = true, [EXCHANGE_SEND] = true },
	[EXCHANGE_SEND] = { [EXCHANGE_ANSWER] = true, [EXCHANGE_CONNECT] = true, [EXCHANGE_SEND] = true,
		[EXCHANGE_HANDOFF] = true, [EXCHANGE_DONE] = true },
	[EXCHANGE_HANDOFF] = { [EXCHANGE_SEND] = true },
	[EXCHANGE_ANSWER] = { [EXCHANGE_CONNECT] = true, [EXCHANGE_SEND] = true, [EXCHANGE_DONE] = true },
};

void exchange_set_state(struct exchange *exchange, enum exchange_state state)
{
	assert(legal[exchange->state][state]);
	exchange->state = state;
}

static void give_scanner_back(struct exchange *exchange)
{
	if (exchange->scanner)
		agent_give_scanner(exchange->client->agent, exchange->scanner);
	exchange->scanner = NULL;
	exchange->facts = NULL;
}

void exchange_answer_begins(struct exchange *exchange)
{
	exchange->at_hand = false;
	give_scanner_back(exchange);
	if (exchange->state == EXCHANGE_SEND)
		return; /* the pod answers early: the rest of it goes on being sent */
	buffer_consume(&exchange->client->in, exchange->kept);
	exchange->kept = 0;
}

const char *exchange_pod_name(const struct exchange *exchange)
{
	int index = exchange->decision.endpoint;

	return index < 0 ? "none" : exchange->client->agent->endpoints->at[index].name;
}

static void log_request(const struct exchange *exchange, unsigned status, double duration_s)
{
	enum log_level level = agent_access_level(exchange->client->agent);
	char client[ADDRESS_TEXT_MAX];

	if (!log_enabled(level))
		return;
	log_event(level, "request",
		"id=%s client=%s path=%s pod=%s reason=%s session=\"%s\" status=%u blocks=%u cached=%u tokens=%u uncached=%u retries=%u "
		"up=%" PRIu64 " down=%" PRIu64 " seconds=%.6f",
		exchange->request_id, address_format(&exchange->client->address, client), prompt_api_name(exchange->api),
		exchange_pod_name(exchange), decision_reason_name(exchange->decision.reason), exchange->session_source, status,
		exchange->decision.n_blocks, exchange->decision.cached_blocks, exchange->decision.prompt_tokens,
		exchange->decision.uncached_tokens, exchange->retries, exchange->bytes_up, exchange->bytes_down, duration_s);
}

static void exchange_free(struct exchange *exchange)
{
	struct client *client = exchange->client;

	if (exchange->upstream)
		upstream_close(exchange->upstream);
	give_scanner_back(exchange);
	buffer_consume(&client->in, exchange->kept);
	client->exchange = NULL;
	client_arm(client, NULL);
	free(exchange->head);
	free(exchange);
}

static void note_affinity(const struct exchange *exchange)
{
	struct client *client = exchange->client;
	struct address front;

	if (exchange->answered && exchange->decision.endpoint >= 0 && affinity_is_on(client->agent) && !client_front(client, &front))
		affinity_note(client->agent, &client->address, &front, (uint32_t)exchange->decision.endpoint);
}

/* The one way out: gives back all that the exchange holds, and counts it. */
static void exchange_release(struct exchange *exchange, unsigned status)
{
	struct agent *agent = exchange->client->agent;
	double duration_s = (double)(agent_now_us() - exchange->begun_us) / 1e6;

	metrics_request(agent->metrics, exchange->api, status, exchange->decision.endpoint, duration_s);
	metrics_bytes(agent->metrics, exchange->bytes_up, exchange->bytes_down);
	decision_log_end(agent->decisions, exchange->logged, status, exchange->retries, duration_s);
	log_request(exchange, status, duration_s);
	endpoint_claim_release(agent->endpoints, &exchange->claim);
	note_affinity(exchange);
	agent->handoffs.long_answers += exchange->bytes_down > HANDOFF_LONG_ANSWER;
	exchange_free(exchange);
}

void exchange_hand_over(struct exchange *exchange)
{
	exchange->upstream = NULL;
	metrics_bytes(exchange->client->agent->metrics, exchange->bytes_up, 0);
	exchange_free(exchange);
}

void exchange_abort(struct exchange *exchange)
{
	struct metrics *metrics = exchange->client->agent->metrics;

	if (exchange->state == EXCHANGE_HANDOFF)
		handoff_abort(exchange);
	if (exchange->state != EXCHANGE_DONE)
		metrics_cut(metrics, METRICS_CUT_CLIENT);
	exchange_release(exchange, exchange->status ? exchange->status : STATUS_CLIENT_GONE);
}

void exchange_refuse(struct exchange *exchange, unsigned status, const char *type, const char *message, const char *extra)
{
	struct client *client = exchange->client;
	bool to_head = exchange->to_head;

	if (exchange->answered) {
		client_close(client, true);
		return;
	}
	exchange_release(exchange, status);
	client_refuse(client, status, type, message, extra, to_head);
}

/* ---- the body, until the decision ---- */

static void scan_content(void *ctx, const char *data, size_t len)
{
	struct exchange *exchange = ctx;

	if (exchange->scanner)
		prompt_scanner_feed(exchange->scanner, data, len);
}

static void settle_session(struct exchange *exchange)
{
	struct agent *agent = exchange->client->agent;
	const char *key = exchange->facts ? exchange->facts->session_key : "";

	if (!exchange->has_session && *key) {
		exchange->has_session = true;
		exchange->session = session_key_hash(agent->session_secret, key, strlen(key));
		exchange->session_source = exchange->facts->session_from_user ? "body user" : "body session_id";
	}
	if (!exchange->has_session && exchange->api != API_OTHER)
		metrics_no_session(agent->metrics);
}

static void settle_prompt(struct exchange *exchange)
{
	struct agent *agent = exchange->client->agent;

	if (!exchange->scanner)
		return;
	exchange->facts = prompt_scanner_finish(exchange->scanner);
	metrics_prompt(agent->metrics, exchange->facts->state);
	if (exchange->facts->state == PROMPT_NOT_JSON)
		give_scanner_back(exchange);
}

static void collected(struct exchange *exchange)
{
	int err;

	client_arm(exchange->client, NULL);
	if (!exchange->request_body.done)
		peer_watch_readable(&exchange->client->peer, false); /* until what is here is out */
	settle_prompt(exchange);
	settle_session(exchange);
	retry_budget_request(&exchange->client->agent->retry_budget);
	err = exchange_route(exchange);
	if (err)
		exchange_refuse_failed(exchange, err, "no pod takes this request");
	else
		exchange_connect(exchange, false);
}

static void refuse_by_rule(struct exchange *exchange, enum http_rule rule)
{
	metrics_rejected(exchange->client->agent->metrics, rule);
	exchange_refuse(exchange, http_rule_status(rule), "invalid_request_error", http_rule_text(rule), "");
}

static void collect(struct exchange *exchange)
{
	struct client *client = exchange->client;
	enum http_rule rule = HTTP_RULE_NONE;
	size_t used = 0;

	if (client->in.len > exchange->kept &&
		http_body_feed(&exchange->request_body, buffer_head(&client->in) + exchange->kept,
			client->in.len - exchange->kept, &used, scan_content, exchange, &rule)) {
		refuse_by_rule(exchange, rule);
		return;
	}
	exchange->kept += used;
	if (exchange->request_body.done || exchange->kept >= client->agent->config.request_buffer)
		collected(exchange);
	else if (client->eof)
		client_close(client, true);
	else
		client_arm(client, client->agent->timeouts.body);
}

size_t exchange_wants(const struct exchange *exchange)
{
	size_t room = exchange->client->agent->config.request_buffer - exchange->kept;

	if (exchange->state != EXCHANGE_COLLECT)
		return 0;
	if (exchange->request_body.kind == HTTP_BODY_SIZED && exchange->request_body.remaining < room)
		return exchange->request_body.remaining;
	return exchange->request_body.kind == HTTP_BODY_SIZED ? room : 1;
}

void exchange_client_bytes(struct exchange *exchange)
{
	if (exchange->state == EXCHANGE_COLLECT)
		collect(exchange);
	else if (exchange->client->eof && exchange_streams_body(exchange))
		client_close(exchange->client, true);
	else if (exchange->client->eof)
		client_await_gone(exchange->client);
}

void exchange_timeout(struct exchange *exchange)
{
	if (exchange->state == EXCHANGE_HANDOFF) {
		handoff_timeout(exchange);
		return;
	}
	refuse_by_rule(exchange, HTTP_RULE_BODY_TIMEOUT);
}

/* ---- begin and end ---- */

static bool is_id_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || strchr("-_.:/+=", c);
}

static void settle_request_id(struct exchange *exchange, const struct http_head *head)
{
	const struct http_field *field = http_field_find(head, "x-request-id");
	static const char prefix[] = "llmd-";
	uint64_t *state = &exchange->client->agent->request_ids;
	size_t n = 0;

	while (field && n < field->value.len && n < REQUEST_ID_MAX && is_id_char(field->value.at[n]))
		n++;
	if (field && n && n == field->value.len) {
		memcpy(exchange->request_id, field->value.at, n);
		return;
	}
	*state += 0x9e3779b97f4a7c15ull; /* odd, so that all 2^64 come by; a Weyl sequence */
	memcpy(exchange->request_id, prefix, sizeof(prefix));
	sodium_bin2hex(exchange->request_id + sizeof(prefix) - 1, REQUEST_ID_MAX + 2 - sizeof(prefix), (const uint8_t *)state,
		sizeof(*state));
}

const char *exchange_id_line(const struct exchange *exchange, char line[EXCHANGE_ID_LINE_MAX])
{
	stpcpy(stpcpy(stpcpy(line, "x-request-id: "), exchange->request_id), "\r\n");
	return line;
}

static void settle_head_session(struct exchange *exchange, const struct http_head *head)
{
	struct agent *agent = exchange->client->agent;
	struct http_text key;

	exchange->session_source = "none";
	if (session_key_from_head(head, agent->config.session_headers.name, agent->config.session_headers.n, &key,
		    &exchange->session_source))
		return;
	exchange->has_session = true;
	exchange->session = session_key_hash(agent->session_secret, key.at, key.len);
}

static const char close_field[] = "Connection: close\r\n\r\n";

/* In the place of the empty line. */
void exchange_close_head(struct exchange *exchange, bool close)
{
	exchange->head_len -= exchange->close_len;
	memcpy(exchange->head + exchange->head_len - 2, close ? close_field : "\r\n", close ? sizeof(close_field) - 1 : 2);
	exchange->close_len = close ? sizeof(close_field) - 1 - 2 : 0;
	exchange->head_len += exchange->close_len;
}

/*
 * Who lists this agent as a pod, by a name that leads here or over another agent that lists this one, would have one request take all
 * connections that there may be.
 */
static bool was_here(const struct exchange *exchange, const struct http_head *head)
{
	struct agent *agent = exchange->client->agent;
	char from[ADDRESS_TEXT_MAX];
	bool found = false;

	for (unsigned i = 0; i < head->n_fields && !found; i++)
		found = http_text_equal_nocase(head->field[i].name, "Via") &&
			memmem(head->field[i].value.at, head->field[i].value.len, agent->pseudonym, strlen(agent->pseudonym));
	if (found)
		log_paced(&agent->loops, 1, LOOP_LOG_MS, LOG_LEVEL_ERROR, "a request has come back: a pod is this agent, or leads to it",
			"id=%s from=%s",
			exchange->request_id, address_format(&exchange->client->address, from));
	return found;
}

/* The head as the pod gets it: one id for the request, whoever gave it. */
static int make_head(struct exchange *exchange, const struct http_head *head)
{
	size_t size = head->length + 512 + sizeof(close_field);
	char lines[EXCHANGE_ID_LINE_MAX + AGENT_PSEUDONYM_MAX + 16] = "";
	const struct http_field *id = http_field_find(head, "x-request-id");
	bool same = id && http_text_equal(id->value, exchange->request_id);
	long n;

	exchange->head = malloc(size);
	if (!exchange->head)
		return -ENOMEM;
	if (!same)
		exchange_id_line(exchange, lines);
	stpcpy(stpcpy(stpcpy(lines + strlen(lines), "Via: 1.1 "), exchange->client->agent->pseudonym), "\r\n");
	n = http_request_rewrite(head, exchange->client->ip, lines, false, exchange->head, size - sizeof(close_field));
	if (n < 0)
		return (int)n;
	exchange->head_len = (size_t)n;
	return 0;
}

static struct exchange *exchange_new(struct client *client, const struct http_head *head)
{
	struct exchange *exchange = calloc(1, sizeof(*exchange));
	struct http_text path = http_target_path(head->target);

	if (!exchange)
		return NULL;
	exchange->client = client;
	exchange->begun_us = agent_now_us();
	exchange->decision.endpoint = -ENOENT;
	exchange->decision.reason = DECISION_NONE;
	exchange->at_hand = true;
	exchange->to_head = head->method == HTTP_HEAD;
	exchange->http10 = head->minor == 0;
	exchange->keep_alive = head->keep_alive;
	exchange->api = prompt_api(path.at, path.len);
	settle_request_id(exchange, head);
	settle_head_session(exchange, head);
	return exchange;
}

static void say_go_on(struct exchange *exchange)
{
	static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
	struct iovec iov = { (char *)go_on, sizeof(go_on) - 1 };

	if (peer_send(&exchange->client->peer, &iov, 1))
		client_close(exchange->client, false);
}

void exchange_probe_client(struct exchange *exchange)
{
	if (exchange->probed || exchange->answered || exchange->http10)
		return;
	exchange->probed = true;
	say_go_on(exchange);
}

void exchange_begin(struct client *client, const struct http_head *head)
{
	struct agent *agent = client->agent;
	struct exchange *exchange = exchange_new(client, head);
	bool waits = head->expect_continue && client->in.len == head->length && !exchange->http10;

	client->exchange = exchange;
	if (!exchange || make_head(exchange, head)) {
		client_close(client, true);
		return;
	}
	if (was_here(exchange, head)) {
		refuse_by_rule(exchange, HTTP_RULE_LOOP);
		return;
	}
	if (http_body_begin_request(&exchange->request_body, head, agent->config.max_body)) {
		refuse_by_rule(exchange, HTTP_RULE_BODY_TOO_LARGE);
		return;
	}
	if (exchange->api != API_OTHER && !exchange->request_body.done) {
		exchange->scanner = agent_take_scanner(agent);
		if (exchange->scanner)
			prompt_scanner_reset(exchange->scanner, exchange->api);
	}
	buffer_consume(&client->in, head->length);
	if (waits && !exchange->request_body.done)
		say_go_on(exchange);
	if (client->exchange)
		collect(exchange);
}

static void exchange_end(struct exchange *exchange)
{
	struct client *client = exchange->client;
	bool close_client = exchange->close_client;
	bool unread = !exchange->request_body.done || client->in.len > exchange->kept;

	exchange_release(exchange, exchange->status);
	if (!close_client) /* also at the end of what the client sends: requests may be left in client->in */
		client_next(client);
	else if (unread && !client->eof)
		client_linger(client);
	else
		client_close(client, false);
}

void exchange_finish(struct exchange *exchange, bool reuse)
{
	struct upstream *upstream = exchange->upstream;
	bool sent = exchange->state == EXCHANGE_ANSWER && !peer_is_blocked(&upstream->peer);

	if (exchange->status < 500) /* an error counted when it came, a good answer does only when it is whole */
		health_answered(exchange->client->agent->health, (uint32_t)exchange->decision.endpoint, exchange->status);
	exchange->upstream = NULL;
	if (reuse && sent)
		upstream_put(upstream);
	else
		upstream_close(upstream);
	exchange_set_state(exchange, EXCHANGE_DONE);
	if (!peer_is_blocked(&exchange->client->peer))
		exchange_end(exchange);
}

void exchange_client_writable(struct exchange *exchange)
{
	if (exchange->state == EXCHANGE_DONE)
		exchange_end(exchange);
	else if (exchange->upstream && exchange->upstream->state == UPSTREAM_BUSY)
		peer_watch_readable(&exchange->upstream->peer, true);
}
