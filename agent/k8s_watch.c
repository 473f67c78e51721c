// SPDX-License-Identifier: Apache-2.0
/*
 * List and watch: see k8s_watch.h.
 *
 * How it works
 *
 *	LIST	pages of LIST_LIMIT objects, all of one snapshot (the token "continue"). The last page's resourceVersion is where
 *		the watch begins. A snapshot that has become too old (410) means to begin again.
 *	WATCH	events from that version on. Each event, bookmarks among them, moves the version ahead. The server ends a watch
 *		after timeoutSeconds; it is then taken up at the version reached. "Too old" (410, as status or as an ERROR event)
 *		leads back to LIST, and so does 400: the version makes no sense there.
 *
 * After a failure (refused, cut, garbage, 401 ...) the same is tried again from the version reached, after a pause that
 * doubles and of which a random half is waited. A watch that lasted, or moved the version ahead, resets the pause; one that did not
 * last is followed by a pause in any case. A list has at most PAGES_MAX pages: more objects than that are not kept.
 */
#include "agent/k8s_watch.h"

#include <ctype.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/http_fetch.h"
#include "agent/k8s_object.h"
#include "agent/k8s_stream.h"
#include "lib/log.h"
#include "lib/small_file.h"

enum { LIST_LIMIT = 250, PAGES_MAX = 256, LIST_MS = 60000, WATCH_S = 240, WATCH_SPREAD_S = 60, WATCH_GRACE_MS = 15000, GOOD_MS = 500 };
enum { PAUSE_MIN_MS = 200, PAUSE_MAX_MS = 30000, VERSION_MAX = 128, CONTINUE_MAX = 4096, TOKEN_MAX = 16384, QUERY_MAX = 2048 };
enum { STATUS_OK = 200, STATUS_BAD_REQUEST = 400, STATUS_GONE = 410 };

/* @is_gone: the server has said so within the stream. @moved: the version, by this watch. @problem: why the stream was ended from here. */
struct k8s_watch {
	const struct k8s_api *api;
	const struct k8s_watch_ops *ops;
	void *ctx;
	struct http_fetch *fetch;
	struct k8s_stream *stream;
	struct event *next;
	bool watching, metadata_only, is_gone, moved;
	int problem;
	uint32_t pause_ms, pages;
	uint64_t begun_ms;
	char version[VERSION_MAX], more[CONTINUE_MAX];
	char path[256], selector[QUERY_MAX];
};

/* ---- requests ---- */

/* Of what may stand in a query: unreserved characters (RFC 3986). */
static int escape(char *out, size_t size, const char *text)
{
	size_t n = 0;

	for (; *text; text++) {
		bool plain = isalnum((unsigned char)*text) || strchr("-._~", *text);

		if (n + 4 > size)
			return -ENOSPC;
		n += (size_t)sprintf(out + n, plain ? "%c" : "%%%02X", (unsigned char)*text);
	}
	out[n] = '\0';
	return 0;
}

static void read_token(const struct k8s_watch *watch, char token[TOKEN_MAX])
{
	char path[512];

	snprintf(path, sizeof(path), "%s/token", watch->api->service_account);
	if (small_file_is_other(path) || small_file_read(path, token, TOKEN_MAX) < 0)
		*token = '\0';
	token[strcspn(token, "\r\n")] = '\0';
}

static void request_url(const struct k8s_watch *watch, unsigned watch_s, char *out, size_t size)
{
	char escaped[3 * CONTINUE_MAX];
	int n = snprintf(out, size, "%s%s?", watch->api->url, watch->path);

	if (*watch->selector)
		n += snprintf(out + n, size - (size_t)n, "labelSelector=%s&", watch->selector);
	if (watch->watching) {
		escape(escaped, sizeof(escaped), watch->version);
		snprintf(out + n, size - (size_t)n, "watch=1&allowWatchBookmarks=true&timeoutSeconds=%u&resourceVersion=%s", watch_s, escaped);
		return;
	}
	n += snprintf(out + n, size - (size_t)n, "limit=%d", LIST_LIMIT);
	if (*watch->more && !escape(escaped, sizeof(escaped), watch->more))
		snprintf(out + n, size - (size_t)n, "&continue=%s", escaped);
}

static const char *accept_of(const struct k8s_watch *watch)
{
	if (!watch->metadata_only)
		return "application/json";
	return watch->watching ? "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
			       : "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
}

static bool on_data(void *ctx, const char *data, size_t len)
{
	struct k8s_watch *watch = ctx;

	watch->problem = k8s_stream_feed(watch->stream, data, len);
	return !watch->problem;
}

static void on_done(void *ctx, long status, const char *why);
static int take_object(void *ctx, struct json_object *json);

static int start_request(struct k8s_watch *watch)
{
	static const struct http_fetch_ops ops = { on_data, on_done };
	unsigned watch_s = WATCH_S + randombytes_uniform(WATCH_SPREAD_S);
	char url[sizeof(watch->api->url) + sizeof(watch->path) + QUERY_MAX + 3 * CONTINUE_MAX + 256], token[TOKEN_MAX], ca_file[512];
	struct http_request request = { .url = url, .ca_file = ca_file, .token = token, .accept = accept_of(watch),
		.timeout_ms = watch->watching ? (long)watch_s * 1000 + WATCH_GRACE_MS : LIST_MS };

	snprintf(ca_file, sizeof(ca_file), "%s/ca.crt", watch->api->service_account);
	if (small_file_is_other(ca_file)) /* OpenSSL would wait for a FIFO's writer */
		*ca_file = '\0';
	read_token(watch, token);
	request_url(watch, watch_s, url, sizeof(url));
	if (!*token)
		request.token = NULL;
	k8s_stream_free(watch->stream);
	watch->stream = k8s_stream_new(watch->watching ? K8S_WATCH : K8S_LIST, take_object, watch);
	watch->problem = 0;
	watch->is_gone = watch->moved = false;
	watch->begun_ms = agent_now_ms();
	watch->fetch = watch->stream ? http_fetch_start(watch->api->http, &request, &ops, watch) : NULL;
	sodium_memzero(token, sizeof(token));
	return watch->fetch ? 0 : -ENOMEM;
}

/* ---- pauses ---- */

static void begin_after(struct k8s_watch *watch, uint32_t ms)
{
	struct timeval wait = { .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000 * 1000) };

	event_add(watch->next, &wait);
}

static void pause_more(struct k8s_watch *watch)
{
	watch->pause_ms = watch->pause_ms ? watch->pause_ms * 2 : PAUSE_MIN_MS;
	if (watch->pause_ms > PAUSE_MAX_MS)
		watch->pause_ms = PAUSE_MAX_MS;
	begin_after(watch, watch->pause_ms / 2 + randombytes_uniform(watch->pause_ms / 2 + 1));
}

static const char *problem_text(int problem)
{
	switch (problem) {
	case -EFBIG:
		return "an object is too large";
	case -ENOMEM:
		return "no memory";
	case -ELOOP:
		return "the list does not end";
	case -ECANCELED:
		return "the server ended the watch";
	default:
		return "no Kubernetes JSON";
	}
}

static void attempt_failed(struct k8s_watch *watch, long status, const char *why)
{
	char quoted[512];

	if (watch->problem)
		why = problem_text(watch->problem);
	pause_more(watch);
	log_warn("kubernetes not read", "path=%s what=%s status=%ld error=%s pause_ms=%u", watch->path, watch->watching ? "watch" : "list",
		status, log_quote(why, quoted, sizeof(quoted)), watch->pause_ms);
	watch->ops->failed(watch->ctx);
}

static void on_next(evutil_socket_t fd, short what, void *arg)
{
	struct k8s_watch *watch = arg;

	(void)fd, (void)what;
	if (watch->fetch)
		return;
	if (!watch->watching && !*watch->more) {
		watch->pages = 0;
		watch->ops->begin(watch->ctx);
	}
	if (start_request(watch))
		attempt_failed(watch, 0, "no memory");
}

/* ---- answers ---- */

/* An empty one, as of an object that has none, changes nothing. Return: whether it fits. */
static bool keep_text(char *out, size_t size, struct json_object *json)
{
	const char *text = k8s_text(json);
	size_t len = strlen(text);

	if (len && len < size)
		memcpy(out, text, len + 1);
	return len < size;
}

static bool is_gone(struct json_object *status)
{
	struct json_object *code = k8s_get(status, "code", NULL);

	return json_object_get_int(code) == STATUS_GONE || !strcmp(k8s_text(k8s_get(status, "reason", NULL)), "Expired") ||
	       !strcmp(k8s_text(k8s_get(status, "reason", NULL)), "Gone");
}

static int take_event(struct k8s_watch *watch, struct json_object *json)
{
	const char *type = k8s_text(k8s_get(json, "type", NULL));
	struct json_object *object = k8s_get(json, "object", NULL), *version = k8s_get(object, "metadata", "resourceVersion", NULL);

	if (!strcmp(type, "ERROR")) {
		watch->is_gone = is_gone(object);
		return -ECANCELED;
	}
	if (!strcmp(type, "ADDED") || !strcmp(type, "MODIFIED"))
		watch->ops->put(watch->ctx, object);
	else if (!strcmp(type, "DELETED"))
		watch->ops->delete(watch->ctx, object);
	else if (strcmp(type, "BOOKMARK"))
		return -EPROTO;
	watch->moved |= *k8s_text(version) && strcmp(k8s_text(version), watch->version);
	keep_text(watch->version, sizeof(watch->version), version);
	return 0;
}

static int take_object(void *ctx, struct json_object *json)
{
	struct k8s_watch *watch = ctx;

	if (watch->watching)
		return take_event(watch, json);
	watch->ops->put(watch->ctx, json);
	return 0;
}

static void list_again(struct k8s_watch *watch)
{
	log_info("kubernetes lists anew", "path=%s why=\"the version is too old, or not known\"", watch->path);
	watch->watching = false;
	*watch->more = '\0';
	pause_more(watch);
}

/* Return: 0, -EPROTO when the page was not whole, -ELOOP. */
static int take_page(struct k8s_watch *watch)
{
	struct json_object *around = k8s_stream_end(watch->stream);
	struct json_object *version = k8s_get(around, "metadata", "resourceVersion", NULL), *more = k8s_get(around, "metadata", "continue", NULL);
	bool is_whole = *k8s_text(version) && keep_text(watch->version, sizeof(watch->version), version);
	bool is_last = !*k8s_text(more), is_same = !is_last && !strcmp(k8s_text(more), watch->more);

	*watch->more = '\0';
	is_whole = is_whole && keep_text(watch->more, sizeof(watch->more), more);
	json_object_put(around);
	if (!is_whole)
		return -EPROTO;
	return !is_last && (is_same || ++watch->pages == PAGES_MAX) ? -ELOOP : 0;
}

static void list_done(struct k8s_watch *watch, long status, const char *why)
{
	if (status == STATUS_GONE) {
		list_again(watch);
		return;
	}
	if (status == STATUS_OK && !watch->problem && !*why)
		watch->problem = take_page(watch);
	if (status != STATUS_OK || watch->problem || *why) {
		*watch->more = '\0';
		attempt_failed(watch, status, why);
	} else {
		if (!*watch->more) {
			watch->watching = true;
			watch->ops->end(watch->ctx);
		}
		begin_after(watch, 0);
	}
}

static void watch_done(struct k8s_watch *watch, long status, const char *why)
{
	bool lasted = agent_now_ms() - watch->begun_ms >= GOOD_MS;

	if (status == STATUS_OK && (lasted || (watch->moved && !watch->is_gone)))
		watch->pause_ms = 0;
	if (status == STATUS_GONE || status == STATUS_BAD_REQUEST || watch->is_gone)
		list_again(watch);
	else if (status != STATUS_OK || watch->problem || *why)
		attempt_failed(watch, status, why);
	else if (lasted)
		begin_after(watch, 0);
	else
		pause_more(watch);
}

static void on_done(void *ctx, long status, const char *why)
{
	struct k8s_watch *watch = ctx;

	watch->fetch = NULL;
	if (watch->watching)
		watch_done(watch, status, why);
	else
		list_done(watch, status, why);
}

/* ---- start and end ---- */

struct k8s_watch *k8s_watch_new(const struct k8s_api *api, const char *path, const char *selector, bool metadata_only,
	const struct k8s_watch_ops *ops, void *ctx)
{
	struct k8s_watch *watch = calloc(1, sizeof(*watch));

	if (!watch)
		return NULL;
	watch->api = api;
	watch->ops = ops;
	watch->ctx = ctx;
	watch->metadata_only = metadata_only;
	snprintf(watch->path, sizeof(watch->path), "%s", path);
	watch->next = evtimer_new(api->base, on_next, watch);
	if (!watch->next || escape(watch->selector, sizeof(watch->selector), selector)) {
		k8s_watch_free(watch);
		return NULL;
	}
	begin_after(watch, 0);
	return watch;
}

void k8s_watch_hurry(struct k8s_watch *watch)
{
	if (!watch->fetch)
		begin_after(watch, 0);
}

void k8s_watch_free(struct k8s_watch *watch)
{
	if (!watch)
		return;
	if (watch->fetch)
		http_fetch_cancel(watch->fetch);
	if (watch->next)
		event_free(watch->next);
	k8s_stream_free(watch->stream);
	free(watch);
}
