// SPDX-License-Identifier: Apache-2.0
/* libcurl's multi interface on libevent: see http_fetch.h. */
#include "agent/http_fetch.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONNECT_MS = 5000, KEEPALIVE_IDLE_S = 20, KEEPALIVE_INTERVAL_S = 10, TOLD_MAX = 400, TOKEN_HEADER_MAX = 17000 };

struct http_client {
	CURLM *multi;
	struct event_base *base;
	struct event *timer;
};

struct http_fetch {
	struct http_client *client;
	const struct http_fetch_ops *ops;
	void *ctx;
	CURL *easy;
	struct curl_slist *headers;
	char error[CURL_ERROR_SIZE];
	char told[TOLD_MAX]; /* what an answer other than 200 says */
	size_t told_len;
};

static void fetch_free(struct http_fetch *fetch)
{
	if (fetch->easy) {
		curl_multi_remove_handle(fetch->client->multi, fetch->easy);
		curl_easy_cleanup(fetch->easy);
	}
	curl_slist_free_all(fetch->headers);
	free(fetch);
}

/* ---- libcurl on the event loop ---- */

static void finish(struct http_fetch *fetch, CURLcode code)
{
	const struct http_fetch_ops *ops = fetch->ops;
	void *ctx = fetch->ctx;
	char why[CURL_ERROR_SIZE + TOLD_MAX];
	long status = 0;

	curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &status);
	snprintf(why, sizeof(why), "%.*s", (int)fetch->told_len, fetch->told);
	if (code != CURLE_OK && !fetch->told_len)
		snprintf(why, sizeof(why), "%s", *fetch->error ? fetch->error : curl_easy_strerror(code));
	fetch_free(fetch);
	ops->done(ctx, status, why);
}

static void collect_ended(struct http_client *client)
{
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(client->multi, &left))) {
		struct http_fetch *fetch;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&fetch);
		finish(fetch, message->data.result);
	}
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
	struct http_client *client = arg;
	int running, action = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);

	curl_multi_socket_action(client->multi, fd, action, &running);
	collect_ended(client);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct http_client *client = arg;
	int running;

	(void)fd, (void)what;
	curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	collect_ended(client);
}

static int set_timer(CURLM *multi, long ms, void *arg)
{
	struct http_client *client = arg;
	struct timeval wait = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

	(void)multi;
	if (ms < 0)
		event_del(client->timer);
	else
		event_add(client->timer, &wait);
	return 0;
}

static int set_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket)
{
	struct http_client *client = arg;
	short events = (short)((what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0));
	struct event *event = socket;

	(void)easy;
	if (event)
		event_free(event);
	event = what == CURL_POLL_REMOVE ? NULL : event_new(client->base, fd, events | EV_PERSIST, on_socket, client);
	if (event)
		event_add(event, NULL);
	curl_multi_assign(client->multi, fd, event);
	return 0;
}

/* ---- one request ---- */

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
	struct http_fetch *fetch = arg;
	size_t len = size * n, room = sizeof(fetch->told) - fetch->told_len;
	long status = 0;

	curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status == 200)
		return fetch->ops->data(fetch->ctx, data, len) ? len : 0;
	memcpy(fetch->told + fetch->told_len, data, len < room ? len : room);
	fetch->told_len += len < room ? len : room;
	return len;
}

static int set_headers(struct http_fetch *fetch, const struct http_request *request, bool is_https)
{
	char line[TOKEN_HEADER_MAX];
	struct curl_slist *more;

	if (request->accept) {
		snprintf(line, sizeof(line), "Accept: %s", request->accept);
		fetch->headers = curl_slist_append(NULL, line);
		if (!fetch->headers)
			return -1;
	}
	if (request->token && is_https) {
		snprintf(line, sizeof(line), "Authorization: Bearer %s", request->token);
		more = curl_slist_append(fetch->headers, line);
		if (!more)
			return -1;
		fetch->headers = more;
	}
	return curl_easy_setopt(fetch->easy, CURLOPT_HTTPHEADER, fetch->headers);
}

static int set_options(struct http_fetch *fetch, const struct http_request *request)
{
	bool is_https = !strncmp(request->url, "https://", 8);
	CURL *easy = fetch->easy;

	curl_easy_setopt(easy, CURLOPT_PRIVATE, fetch);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, fetch->error);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* a cluster's API is never behind the proxy of the environment */
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, is_https ? "https" : "http");
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, request->timeout_ms);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, (long)KEEPALIVE_IDLE_S);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, (long)KEEPALIVE_INTERVAL_S);
	curl_easy_setopt(easy, CURLOPT_CAINFO, request->ca_file);
	curl_easy_setopt(easy, CURLOPT_CAPATH, NULL); /* the cluster's own authority, and not those of the system */
	curl_easy_setopt(easy, CURLOPT_CA_CACHE_TIMEOUT, 0L); /* the file may have been replaced */
	if (curl_easy_setopt(easy, CURLOPT_URL, request->url))
		return -1;
	return set_headers(fetch, request, is_https);
}

struct http_fetch *http_fetch_start(struct http_client *client, const struct http_request *request, const struct http_fetch_ops *ops,
	void *ctx)
{
	struct http_fetch *fetch = calloc(1, sizeof(*fetch));

	if (!fetch)
		return NULL;
	fetch->client = client;
	fetch->ops = ops;
	fetch->ctx = ctx;
	fetch->easy = curl_easy_init();
	if (fetch->easy && !set_options(fetch, request) && !curl_multi_add_handle(client->multi, fetch->easy))
		return fetch;
	fetch_free(fetch);
	return NULL;
}

void http_fetch_cancel(struct http_fetch *fetch)
{
	fetch_free(fetch);
}

/* ---- the client ---- */

struct http_client *http_client_new(struct event_base *base)
{
	struct http_client *client = calloc(1, sizeof(*client));

	if (!client)
		return NULL;
	client->base = base;
	client->timer = evtimer_new(base, on_timer, client);
	client->multi = client->timer && !curl_global_init(CURL_GLOBAL_DEFAULT) ? curl_multi_init() : NULL;
	if (!client->multi) {
		http_client_free(client);
		return NULL;
	}
	curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, set_socket);
	curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client);
	curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client);
	return client;
}

void http_client_free(struct http_client *client)
{
	if (!client)
		return;
	if (client->multi)
		curl_multi_cleanup(client->multi);
	if (client->timer)
		event_free(client->timer);
	free(client);
}
