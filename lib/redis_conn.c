// SPDX-License-Identifier: Apache-2.0
/*
 * A connection to Redis: see redis_conn.h.
 *
 * How it works
 *
 * hiredis speaks the protocol: it formats commands and takes replies apart. The transport is a libevent bufferevent and not
 * hiredis' own asynchronous context, which in the version that Debian 12 has (0.14) resolves names blocking, has no timeout
 * for connecting, and no TLS. All three come with libevent: evdns, a timer, OpenSSL.
 *
 * Replies are not built in memory: hiredis calls the object functions below for each piece that it has read, and the piece
 * goes to the command's handler at once. So what a reply costs does not grow with it; the largest single string is bounded
 * by BUFFER_MAX, past which the connection is given up.
 *
 * A Redis that hangs is one whose oldest unanswered command is REPLY_TIMEOUT_MS old. A lost connection is made again after
 * a time that doubles up to RETRY_MAX_MS, of which a random half is cut, so that agents do not come back all at once.
 */
#include "lib/redis_conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/dns.h>
#include <hiredis/hiredis.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "lib/redis_tls.h"

enum {
	REPLY_TIMEOUT_MS = 3000,
	RETRY_MIN_MS = 100,
	RETRY_MAX_MS = 5000,
	BUFFER_MAX = 8 << 20,
	SLICE = 4096, /* read at a time: some 30 events, so that what else the loop has to do waits for no more */
	OUTPUT_MAX = 32 << 20,
	PENDING_MAX = 8192, /* a power of two */
	WHY_MAX = 160,
};

struct redis_conn {
	struct event_base *base;
	struct evdns_base *dns;
	const struct redis_config *config;
	struct redis_callbacks callbacks;
	char name[64], why[WHY_MAX];
	struct bufferevent *bev;
	redisReader *reader;
	struct event *retry, *timeout, *broken;
	bool is_connected, is_ready, is_broken;
	unsigned retry_ms;
	struct timeval ready_at;
	uint32_t first, last; /* of @pending, counting on */
	uint64_t progress;    /* replies so far: the oldest command has waited if it has not changed */
	uint64_t progress_seen;
	struct redis_handler pending[PENDING_MAX];
};

/* ---- pieces of replies ---- */

static char piece;
#define SOME_OBJECT ((void *)&piece) /* hiredis wants something for each piece */

static void hand_over(const redisReadTask *task, enum redis_type type, const char *text, size_t len, int64_t number)
{
	struct redis_conn *conn = task->privdata;
	const struct redis_handler *handler = &conn->pending[conn->first % PENDING_MAX];
	struct redis_item item = { .type = type, .text = text, .len = len, .number = number };
	const redisReadTask *at = task;

	if (conn->is_broken || conn->first == conn->last || !handler->item)
		return;
	for (const redisReadTask *up = task->parent; up; up = up->parent)
		item.depth++;
	for (unsigned d = item.depth; d > 0 && d <= REDIS_DEPTH_MAX; d--, at = at->parent)
		item.index[d - 1] = (unsigned)at->idx;
	if (item.depth <= REDIS_DEPTH_MAX)
		handler->item(handler->ctx, &item);
}

static void *on_string(const redisReadTask *task, char *text, size_t len)
{
	enum redis_type type = task->type == REDIS_REPLY_ERROR ? REDIS_ERROR :
		task->type == REDIS_REPLY_STATUS	       ? REDIS_STATUS :
								 REDIS_STRING;

	hand_over(task, type, text, len, 0);
	return SOME_OBJECT;
}

static void *on_array(const redisReadTask *task, int n)
{
	hand_over(task, REDIS_ARRAY, "", 0, n);
	return SOME_OBJECT;
}

static void *on_integer(const redisReadTask *task, long long number)
{
	hand_over(task, REDIS_INTEGER, "", 0, number);
	return SOME_OBJECT;
}

static void *on_nil(const redisReadTask *task)
{
	hand_over(task, REDIS_NIL, "", 0, 0);
	return SOME_OBJECT;
}

static void on_free(void *object)
{
	(void)object;
}

static redisReplyObjectFunctions object_functions = { on_string, on_array, on_integer, on_nil, on_free };

/* ---- the end of a connection ---- */

static void set_timer(struct event *timer, unsigned ms)
{
	const struct timeval delay = { .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000 };

	event_add(timer, &delay);
}

static void close_connection(struct redis_conn *conn)
{
	if (conn->bev)
		bufferevent_free(conn->bev);
	if (conn->reader)
		redisReaderFree(conn->reader);
	conn->bev = NULL;
	conn->reader = NULL;
	conn->is_connected = conn->is_ready = conn->is_broken = false;
	conn->first = conn->last = 0;
	event_del(conn->timeout);
}

/* One that breaks soon after each login must not be made again and again at once. */
static void forget_failures(struct redis_conn *conn)
{
	struct timeval now, lasted;

	event_base_gettimeofday_cached(conn->base, &now);
	evutil_timersub(&now, &conn->ready_at, &lasted);
	if (conn->is_ready && lasted.tv_sec >= RETRY_MAX_MS / 1000)
		conn->retry_ms = RETRY_MIN_MS;
}

/* Not within the callback that found it: hiredis and libevent are still at work there. */
static void on_broken(evutil_socket_t fd, short what, void *arg)
{
	struct redis_conn *conn = arg;

	(void)fd, (void)what;
	forget_failures(conn);
	close_connection(conn);
	set_timer(conn->retry, conn->retry_ms / 2 + randombytes_uniform(conn->retry_ms / 2 + 1));
	conn->retry_ms = conn->retry_ms * 2 < RETRY_MAX_MS ? conn->retry_ms * 2 : RETRY_MAX_MS;
	conn->callbacks.lost(conn->callbacks.ctx, conn->why);
}

void redis_conn_fail(struct redis_conn *conn, const char *why)
{
	if (conn->is_broken)
		return;
	conn->is_broken = true;
	snprintf(conn->why, sizeof(conn->why), "%s", why);
	if (conn->bev)
		bufferevent_disable(conn->bev, EV_READ | EV_WRITE);
	event_active(conn->broken, EV_TIMEOUT, 0);
}

/* ---- sending ---- */

bool redis_conn_is_ready(const struct redis_conn *conn)
{
	return conn->is_ready && !conn->is_broken;
}

static void watch_reply(struct redis_conn *conn)
{
	if (evtimer_pending(conn->timeout, NULL))
		return;
	conn->progress_seen = conn->progress;
	set_timer(conn->timeout, REPLY_TIMEOUT_MS);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct redis_conn *conn = arg;

	(void)fd, (void)what;
	if (conn->is_connected && conn->first == conn->last)
		return;
	if (conn->progress != conn->progress_seen)
		watch_reply(conn);
	else
		redis_conn_fail(conn, conn->is_connected ? "no answer in time" : "not connected in time");
}

static int send_any(struct redis_conn *conn, const struct redis_handler *handler, int n, const char *const *argument,
	const size_t *length)
{
	char *text = NULL;
	int len;

	if (conn->last - conn->first == PENDING_MAX || evbuffer_get_length(bufferevent_get_output(conn->bev)) > OUTPUT_MAX) {
		redis_conn_fail(conn, "too much is waiting to be sent");
		return -ENOTCONN;
	}
	len = redisFormatCommandArgv(&text, n, (const char **)(uintptr_t)argument, length);
	if (len < 0)
		return -ENOMEM;
	len = bufferevent_write(conn->bev, text, (size_t)len);
	free(text);
	if (len)
		return -ENOMEM;
	conn->pending[conn->last++ % PENDING_MAX] = *handler;
	watch_reply(conn);
	return 0;
}

int redis_send(struct redis_conn *conn, const struct redis_handler *handler, int n, const char *const *argument, const size_t *length)
{
	return redis_conn_is_ready(conn) ? send_any(conn, handler, n, argument, length) : -ENOTCONN;
}

/* ---- logging in ---- */

static void on_greeting(void *ctx, const struct redis_item *item)
{
	struct redis_conn *conn = ctx;
	char why[WHY_MAX];

	if (item->type != REDIS_ERROR)
		return;
	snprintf(why, sizeof(why), "login refused: %.*s", (int)(item->len < 100 ? item->len : 100), item->text);
	redis_conn_fail(conn, why);
}

static void on_last_greeted(void *ctx)
{
	struct redis_conn *conn = ctx;

	if (conn->is_broken)
		return;
	conn->is_ready = true;
	event_base_gettimeofday_cached(conn->base, &conn->ready_at);
	conn->callbacks.ready(conn->callbacks.ctx);
}

static int send_auth(struct redis_conn *conn, const struct redis_handler *handler)
{
	const struct redis_url *url = &conn->config->url;
	char password[REDIS_URL_SECRET_MAX];
	const char *with_user[] = { "AUTH", url->user, password }, *without[] = { "AUTH", password };
	int err = 0;

	snprintf(password, sizeof(password), "%s", url->password);
	if (*conn->config->password_file)
		err = redis_password_read(conn->config->password_file, password);
	if (!err && *password)
		err = *url->user ? send_any(conn, handler, 3, with_user, NULL) : send_any(conn, handler, 2, without, NULL);
	sodium_memzero(password, sizeof(password));
	return err;
}

static void greet(struct redis_conn *conn)
{
	const struct redis_handler handler = { on_greeting, NULL, conn }, last = { on_greeting, on_last_greeted, conn };
	char db[16];
	const char *select[] = { "SELECT", db }, *name[] = { "CLIENT", "SETNAME", conn->name };
	int err = send_auth(conn, &handler);

	if (err) {
		redis_conn_fail(conn, "cannot read --redis-password-file");
		return;
	}
	snprintf(db, sizeof(db), "%u", conn->config->url.db);
	if (conn->config->url.db)
		send_any(conn, &handler, 2, select, NULL);
	send_any(conn, &last, 3, name, NULL);
}

/* ---- bytes ---- */

/* Takes what hiredis has of whole replies. Return: 0 or -EPROTO. */
static int take_replies(struct redis_conn *conn)
{
	struct redis_handler handler;
	void *reply = NULL;

	while (!conn->is_broken) {
		if (redisReaderGetReply(conn->reader, &reply) != REDIS_OK)
			return -EPROTO;
		if (!reply)
			return 0;
		if (conn->first == conn->last) /* nobody has asked */
			return -EPROTO;
		handler = conn->pending[conn->first++ % PENDING_MAX];
		conn->progress++;
		if (!conn->is_broken && handler.end)
			handler.end(handler.ctx);
	}
	return 0;
}

static void on_readable(struct bufferevent *bev, void *arg)
{
	struct redis_conn *conn = arg;
	struct evbuffer *input = bufferevent_get_input(bev);

	while (!conn->is_broken && evbuffer_get_length(input)) {
		struct evbuffer_iovec part;

		if (evbuffer_peek(input, -1, NULL, &part, 1) < 1)
			return;
		if (redisReaderFeed(conn->reader, part.iov_base, part.iov_len) != REDIS_OK || take_replies(conn))
			redis_conn_fail(conn, "not what Redis says");
		else if (conn->reader->len > BUFFER_MAX)
			redis_conn_fail(conn, "a value too large");
		evbuffer_drain(input, part.iov_len);
	}
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
	struct redis_conn *conn = arg;
	unsigned long tls = conn->config->url.is_tls ? bufferevent_get_openssl_error(bev) : 0;
	char why[WHY_MAX];

	if (what & BEV_EVENT_CONNECTED) {
		conn->is_connected = true;
		greet(conn);
		return;
	}
	if (tls)
		ERR_error_string_n(tls, why, sizeof(why));
	else if (what & BEV_EVENT_EOF)
		snprintf(why, sizeof(why), "closed by Redis");
	else if (bufferevent_socket_get_dns_error(bev))
		snprintf(why, sizeof(why), "name not resolved: %s", evutil_gai_strerror(bufferevent_socket_get_dns_error(bev)));
	else
		snprintf(why, sizeof(why), "%s", errno ? strerror(errno) : "connection failed");
	redis_conn_fail(conn, why);
}

/* ---- connecting ---- */

static int connect_unix(struct redis_conn *conn)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	strcpy(address.sun_path, conn->config->url.host);
	return bufferevent_socket_connect(conn->bev, (struct sockaddr *)&address, sizeof(address));
}

/* Names are looked up anew each time: a primary that moved is found. */
static int connect_inet(struct redis_conn *conn)
{
	const struct redis_url *url = &conn->config->url;

	if (!conn->dns)
		conn->dns = evdns_base_new(conn->base, EVDNS_BASE_INITIALIZE_NAMESERVERS | EVDNS_BASE_DISABLE_WHEN_INACTIVE);
	if (!conn->dns) /* without it libevent would look up blocking */
		return -1;
	return bufferevent_socket_connect_hostname(conn->bev, conn->dns, AF_UNSPEC, url->host, url->port);
}

static int open_transport(struct redis_conn *conn, char why[WHY_MAX])
{
	SSL *ssl = NULL;

	snprintf(why, WHY_MAX, "no memory");
	if (conn->config->url.is_tls) {
		ssl = redis_tls_new(conn->config, why, WHY_MAX);
		if (!ssl)
			return -EINVAL;
		conn->bev = bufferevent_openssl_socket_new(conn->base, -1, ssl, BUFFEREVENT_SSL_CONNECTING, BEV_OPT_CLOSE_ON_FREE);
		if (!conn->bev)
			SSL_free(ssl);
	} else {
		conn->bev = bufferevent_socket_new(conn->base, -1, BEV_OPT_CLOSE_ON_FREE);
	}
	conn->reader = redisReaderCreateWithFunctions(&object_functions);
	if (!conn->bev || !conn->reader)
		return -ENOMEM;
	conn->reader->privdata = conn;
	bufferevent_set_max_single_read(conn->bev, SLICE);
	bufferevent_setcb(conn->bev, on_readable, NULL, on_event, conn);
	return 0;
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct redis_conn *conn = arg;
	char why[WHY_MAX];

	(void)fd, (void)what;
	errno = 0;
	if (open_transport(conn, why)) {
		redis_conn_fail(conn, why);
		return;
	}
	bufferevent_enable(conn->bev, EV_READ | EV_WRITE);
	watch_reply(conn);
	if (conn->config->url.is_unix ? connect_unix(conn) : connect_inet(conn))
		redis_conn_fail(conn, errno ? strerror(errno) : "cannot connect");
}

int redis_conn_new(struct event_base *base, const struct redis_config *config, const char *name,
	const struct redis_callbacks *callbacks, struct redis_conn **out)
{
	struct redis_conn *conn = calloc(1, sizeof(*conn));

	*out = NULL;
	if (!conn)
		return -ENOMEM;
	conn->base = base;
	conn->config = config;
	conn->callbacks = *callbacks;
	conn->retry_ms = RETRY_MIN_MS;
	snprintf(conn->name, sizeof(conn->name), "%s", name);
	conn->retry = evtimer_new(base, on_retry, conn);
	conn->timeout = evtimer_new(base, on_timeout, conn);
	conn->broken = event_new(base, -1, 0, on_broken, conn);
	if (!conn->retry || !conn->timeout || !conn->broken) {
		redis_conn_free(conn);
		return -ENOMEM;
	}
	set_timer(conn->retry, 0);
	*out = conn;
	return 0;
}

static void free_event(struct event *event)
{
	if (event)
		event_free(event);
}

void redis_conn_free(struct redis_conn *conn)
{
	if (!conn)
		return;
	if (conn->bev)
		bufferevent_free(conn->bev);
	if (conn->reader)
		redisReaderFree(conn->reader);
	if (conn->dns)
		evdns_base_free(conn->dns, 0);
	free_event(conn->retry);
	free_event(conn->timeout);
	free_event(conn->broken);
	free(conn);
}
