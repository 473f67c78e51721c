/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP requests of the agent's own, by libcurl on the event loop. */
#ifndef LLMD_AGENT_HTTP_FETCH_H
#define LLMD_AGENT_HTTP_FETCH_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>

struct http_client;
struct http_fetch;

/**
 * struct http_request - copied. @ca_file: for https. @token: of a Bearer header, or NULL; only sent over https.
 * @accept: or NULL. @timeout_ms: for the whole of it.
 */
struct http_request {
	const char *url, *ca_file, *token, *accept;
	long timeout_ms;
};

/**
 * struct http_fetch_ops - @data: a piece of the body of an answer with status 200. Return: false to end the request.
 * @done: the last call; the fetch is freed after it. @status: 0 without an answer. @why: what went wrong, or the beginning
 * of the body when the status is not 200; "" when all went well. It may start another fetch.
 */
struct http_fetch_ops {
	bool (*data)(void *ctx, const char *data, size_t len);
	void (*done)(void *ctx, long status, const char *why);
};

struct http_client *http_client_new(struct event_base *base);

/** http_client_free() - all its fetches must have ended or been cancelled. */
void http_client_free(struct http_client *client);

/** http_fetch_start() - @ops->done follows, never before the return. Return: NULL without memory. */
struct http_fetch *http_fetch_start(struct http_client *client, const struct http_request *request, const struct http_fetch_ops *ops,
	void *ctx);

/** http_fetch_cancel() - no more calls. Not from @ops->data. */
void http_fetch_cancel(struct http_fetch *fetch);

#endif
