/* SPDX-License-Identifier: Apache-2.0 */
/* Where a Redis is: redis://[user:password@]host[:port][/db], rediss:// (TLS), unix://[user:password@]/path[?db=N]. */
#ifndef LLMD_LIB_REDIS_URL_H
#define LLMD_LIB_REDIS_URL_H

#include <stdbool.h>
#include <stdint.h>

enum { REDIS_URL_HOST_MAX = 256, REDIS_URL_SECRET_MAX = 512 };

/** struct redis_url - @host: a name, an address without brackets, or with @is_unix the path of a socket. "": no user, no password. */
struct redis_url {
	bool is_set, is_unix, is_tls;
	uint16_t port;
	uint32_t db;
	char host[REDIS_URL_HOST_MAX];
	char user[REDIS_URL_SECRET_MAX], password[REDIS_URL_SECRET_MAX];
};

/** redis_url_parse() - Return: 0 or -EINVAL, @out then unchanged. */
int redis_url_parse(struct redis_url *out, const char *text);

/** redis_password_read() - from a file, without the line's end. Return: 0, -ENODATA for an empty one, -EFBIG, or why it cannot be read. */
int redis_password_read(const char *path, char out[REDIS_URL_SECRET_MAX]);

/** option_parse_redis_url() - for option tables (see option.h); field: struct redis_url. "": not set. */
int option_parse_redis_url(void *field, const char *value, const void *data);

#endif
