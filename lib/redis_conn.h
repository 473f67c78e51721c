/* SPDX-License-Identifier: Apache-2.0 */
/* A connection to Redis on the event loop: never waits, comes back by itself. How: redis_conn.c. */
#ifndef LLMD_LIB_REDIS_CONN_H
#define LLMD_LIB_REDIS_CONN_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/redis_url.h"

/** struct redis_config - what command lines say of a Redis; "": not given. */
struct redis_config {
	struct redis_url url;
	const char *password_file; /* read at each connect; instead of the URL's */
	const char *ca_file, *cert_file, *key_file;
};

enum redis_type { REDIS_STRING, REDIS_STATUS, REDIS_ERROR, REDIS_INTEGER, REDIS_NIL, REDIS_ARRAY };
enum { REDIS_DEPTH_MAX = 8, REDIS_ARGS_MAX = 2048 };

/**
 * struct redis_item - a piece of a reply, as it is read: an array before its elements.
 * @index: @index[d - 1] is the place in the array of depth d - 1; the reply itself has depth 0.
 * @number: of an integer, or an array's size.
 */
struct redis_item {
	enum redis_type type;
	unsigned depth, index[REDIS_DEPTH_MAX];
	const char *text;
	size_t len;
	int64_t number;
};

/** struct redis_handler - @item: for each piece, may be NULL; @end: after the last one. Neither is called when the connection is lost. */
struct redis_handler {
	void (*item)(void *ctx, const struct redis_item *item);
	void (*end)(void *ctx);
	void *ctx;
};

/** struct redis_callbacks - @ready: logged in; @lost: was ready, or could not become so; commands that were sent are forgotten. */
struct redis_callbacks {
	void (*ready)(void *ctx);
	void (*lost)(void *ctx, const char *why);
	void *ctx;
};

struct redis_conn;

/**
 * redis_conn_new() - begins to connect. @config stays the caller's, and must stay. @name: what CLIENT LIST shows.
 * Return: 0 or -ENOMEM.
 */
int redis_conn_new(struct event_base *base, const struct redis_config *config, const char *name,
	const struct redis_callbacks *callbacks, struct redis_conn **out);
void redis_conn_free(struct redis_conn *conn);

bool redis_conn_is_ready(const struct redis_conn *conn);

/** redis_conn_fail() - drops the connection, which comes back after a while. From a handler, too. */
void redis_conn_fail(struct redis_conn *conn, const char *why);

/** redis_send() - @length may be NULL: arguments end with NUL. Return: 0, -ENOTCONN, -ENOMEM. */
int redis_send(struct redis_conn *conn, const struct redis_handler *handler, int n, const char *const *argument, const size_t *length);

/** redis_password_keep() - if it stands in a pipe: that can be read only once. Return: 0, or -errno after a line in the log. */
int redis_password_keep(struct redis_config *config);

/** redis_config_check() - whether the files can be read; with redis_password_keep(). Return: 0, or -errno after a line in the log. */
int redis_config_check(struct redis_config *config);

#endif
