/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request and its answer.
 *
 *	exchange.c	the head is in: collect what the decision needs; the end
 *	reach.c		decide, connect, try elsewhere
 *	forward.c	the request's bytes to the pod
 *	response.c	the answer's bytes to the client
 *	handoff.c	both connections to the kernel
 */
#ifndef LLMD_AGENT_EXCHANGE_H
#define LLMD_AGENT_EXCHANGE_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/decide.h"
#include "agent/decision_log.h"
#include "agent/handoff.h"
#include "agent/http_body.h"
#include "agent/http_head.h"
#include "agent/prompt.h"

struct client;
struct prompt_facts;
struct upstream;
struct upstream_callbacks;

enum { REQUEST_ID_MAX = 64, EXCHANGE_ID_LINE_MAX = REQUEST_ID_MAX + 32 };

enum exchange_state {
	EXCHANGE_COLLECT, /* the body, as far as the decision needs it */
	EXCHANGE_CONNECT,
	EXCHANGE_SEND, /* what was collected is sent; the rest of the body streams */
	EXCHANGE_HANDOFF, /* the kernel carries the answer; what is left is to send the request, see handoff.c */
	EXCHANGE_ANSWER, /* the request is out; response.c may have begun earlier, too */
	EXCHANGE_DONE, /* the answer is complete, but the client has not taken it all */
	EXCHANGE_STATE_N
};

/**
 * struct exchange - shared by the files above, private to them.
 * @head, @head_len: the request head as the pod gets it, allocated.
 * @kept:     bytes at the front of client->in that belong to the body; all of it so far while @at_hand.
 * @close_len: bytes that exchange_close_head() has added to @head.
 * @sent:     of @head and then @kept, bytes that the pod's socket has taken.
 * @at_hand:  the request could be sent again: nothing of it was thrown away.
 * @answered: something of the answer reached the client.
 * @bulk:     the last read of the answer was a full one: worth a pipe.
 */
struct exchange {
	struct client *client;
	struct upstream *upstream;
	enum exchange_state state;
	enum api api;
	bool to_head, http10, keep_alive, at_hand, answered, dechunk, bulk, close_client, pod_keeps_alive,
		saw_content, probed;
	struct http_body request_body, response_body;
	char *head;
	size_t head_len, close_len;
	size_t kept, sent;
	struct prompt_scanner *scanner;
	const struct prompt_facts *facts;
	const char *session_source; /* a name for the decision log */
	bool has_session;
	uint64_t session;
	struct decision decision;
	struct endpoint_claim claim;
	struct handoff handoff;
	struct decision_ref logged;
	unsigned retries, status;
	uint64_t begun_us, sent_us;
	uint64_t bytes_up, bytes_down;
	uint8_t excluded[ENDPOINT_MAX / 8];
	char request_id[REQUEST_ID_MAX + 1];
};

/** exchange_begin() - for a valid head at the front of client->in, which is consumed. */
void exchange_begin(struct client *client, const struct http_head *head);

/** exchange_abort() - the client is gone: releases everything. */
void exchange_abort(struct exchange *exchange);

/** exchange_wants() - body bytes that it would like to see in client->in. */
size_t exchange_wants(const struct exchange *exchange);

/** exchange_client_bytes() - client->in has grown, or the client's end of file came. */
void exchange_client_bytes(struct exchange *exchange);

/** exchange_streams_body() - it reads the client's socket by itself, with exchange_stream_body(). */
bool exchange_streams_body(const struct exchange *exchange);
void exchange_stream_body(struct exchange *exchange);

/** exchange_probe_client() - sends bytes that any client ignores, once and only before the answer. May end the exchange. */
void exchange_probe_client(struct exchange *exchange);

void exchange_client_writable(struct exchange *exchange);
void exchange_timeout(struct exchange *exchange);

/** exchange_upstream_callbacks() - what the pool of pod connections calls. */
extern const struct upstream_callbacks exchange_upstream_callbacks;

/* ---- among these files ---- */

/** exchange_close_head() - the head for the pod says that the connection ends with the answer, or no more. */
void exchange_close_head(struct exchange *exchange, bool close);

/** exchange_hand_over() - the kernel has the request: frees the exchange and counts nothing, its flow does at its end. */
void exchange_hand_over(struct exchange *exchange);


/** exchange_route() - decides, with a claim on the pod. Return: 0, or -ENOENT without a usable one. */
int exchange_route(struct exchange *exchange);

/** exchange_connect() - to the chosen pod. @fresh: on a new connection. */
void exchange_connect(struct exchange *exchange, bool fresh);

/** exchange_refuse_failed() - no pod took it: 503 if none is left, else 502 or 504. */
void exchange_refuse_failed(struct exchange *exchange, int err, const char *what);

const char *exchange_pod_name(const struct exchange *exchange);

/** exchange_fail() - the pod connection is of no more use (already closed or not); tries elsewhere, else tells the client. */
void exchange_fail(struct exchange *exchange, int err, const char *what);

/** exchange_redial() - the same pod on a fresh connection; nothing was sent on this one. */
void exchange_redial(struct exchange *exchange);

/** exchange_try_elsewhere() - Return: whether another pod was found. */
bool exchange_try_elsewhere(struct exchange *exchange);

/** exchange_leave_pod() - the pod is out: if nothing of its answer came, and it can, it goes elsewhere. */
void exchange_leave_pod(struct exchange *exchange);

/** exchange_id_line() - "x-request-id: ..." with its line end. Return: @line. */
const char *exchange_id_line(const struct exchange *exchange, char line[EXCHANGE_ID_LINE_MAX]);

/** exchange_answer_begins() - the request need not be kept any longer. */
void exchange_answer_begins(struct exchange *exchange);

/** exchange_finish() - the answer is complete. @reuse: the pod's connection can serve another request. */
void exchange_finish(struct exchange *exchange, bool reuse);

/** exchange_refuse() - the agent itself answers with an error. */
void exchange_refuse(struct exchange *exchange, unsigned status, const char *type, const char *message, const char *extra);

/** exchange_set_state() - legal edges only. */
void exchange_set_state(struct exchange *exchange, enum exchange_state state);

void forward_begin(struct exchange *exchange);
/** forward_failed() - sending to the pod failed; passes on what the pod may have answered, else as exchange_fail(). */
void forward_failed(struct exchange *exchange, int err, const char *what);

void forward_upstream_writable(struct exchange *exchange);
void response_readable(struct exchange *exchange);

#endif
