// SPDX-License-Identifier: Apache-2.0
/* The URL of a Redis: see redis_url.h. libevent takes it apart and decodes it; here is what the parts may be. */
#include "lib/redis_url.h"

#include <errno.h>
#include <event2/http.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "lib/small_file.h"

enum { DEFAULT_PORT = 6379, DB_MAX = 65535, URL_MAX = 2048 };

/* Percent-decoded; -EINVAL for one that is too long or holds a NUL. */
static int decode(char *out, size_t size, const char *text, size_t len)
{
	char copy[URL_MAX];
	size_t n;
	char *decoded;
	int err = -EINVAL;

	if (len >= sizeof(copy))
		return -EINVAL;
	memcpy(copy, text, len);
	copy[len] = '\0';
	decoded = evhttp_uridecode(copy, 0, &n);
	if (decoded && n < size && strlen(decoded) == n) {
		memcpy(out, decoded, n + 1);
		err = 0;
	}
	free(decoded);
	return err;
}

static int parse_userinfo(struct redis_url *url, const char *info)
{
	const char *colon = info ? strchr(info, ':') : NULL;

	if (!info)
		return 0;
	if (!colon) /* a user without a password says nothing to Redis */
		return -EINVAL;
	if (decode(url->user, sizeof(url->user), info, (size_t)(colon - info)))
		return -EINVAL;
	return decode(url->password, sizeof(url->password), colon + 1, strlen(colon + 1));
}

static int parse_db(struct redis_url *url, const char *text)
{
	char *end;
	unsigned long db;

	if (!*text)
		return 0;
	if (*text < '0' || *text > '9')
		return -EINVAL;
	db = strtoul(text, &end, 10);
	if (*end || db > DB_MAX)
		return -EINVAL;
	url->db = (uint32_t)db;
	return 0;
}

static int parse_unix(struct redis_url *url, const struct evhttp_uri *uri)
{
	const char *path = evhttp_uri_get_path(uri), *host = evhttp_uri_get_host(uri), *query = evhttp_uri_get_query(uri);

	url->is_unix = true;
	if ((host && *host) || !path || path[0] != '/' || !path[1])
		return -EINVAL;
	if (decode(url->host, sizeof(url->host), path, strlen(path)) || strlen(url->host) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return -EINVAL;
	if (query && strncmp(query, "db=", 3))
		return -EINVAL;
	return query ? parse_db(url, query + 3) : 0;
}

static int parse_host(struct redis_url *url, const char *host)
{
	size_t len = host ? strlen(host) : 0;

	if (len && host[0] == '[') {
		host++;
		len -= 2; /* libevent has seen to the other bracket */
	}
	if (!len || len >= sizeof(url->host))
		return -EINVAL;
	memcpy(url->host, host, len);
	return 0;
}

static int parse_inet(struct redis_url *url, const struct evhttp_uri *uri)
{
	const char *path = evhttp_uri_get_path(uri);
	int port = evhttp_uri_get_port(uri);

	if (port == 0 || port > UINT16_MAX || evhttp_uri_get_query(uri))
		return -EINVAL;
	url->port = port < 0 ? DEFAULT_PORT : (uint16_t)port;
	if (parse_host(url, evhttp_uri_get_host(uri)))
		return -EINVAL;
	return path && *path ? parse_db(url, path + 1) : 0;
}

static int parse_parts(struct redis_url *url, const struct evhttp_uri *uri)
{
	const char *scheme = evhttp_uri_get_scheme(uri);

	if (!scheme || evhttp_uri_get_fragment(uri) || parse_userinfo(url, evhttp_uri_get_userinfo(uri)))
		return -EINVAL;
	if (!strcmp(scheme, "unix"))
		return parse_unix(url, uri);
	url->is_tls = !strcmp(scheme, "rediss");
	return url->is_tls || !strcmp(scheme, "redis") ? parse_inet(url, uri) : -EINVAL;
}

int redis_url_parse(struct redis_url *out, const char *text)
{
	struct redis_url parsed = { .is_set = true };
	struct evhttp_uri *uri = strlen(text) < URL_MAX ? evhttp_uri_parse(text) : NULL;
	int err = uri ? parse_parts(&parsed, uri) : -EINVAL;

	if (uri)
		evhttp_uri_free(uri);
	if (!err)
		*out = parsed;
	return err;
}

int option_parse_redis_url(void *field, const char *value, const void *data)
{
	(void)data;
	if (*value)
		return redis_url_parse(field, value);
	*(struct redis_url *)field = (struct redis_url){ 0 };
	return 0;
}

int redis_password_read(const char *path, char out[REDIS_URL_SECRET_MAX])
{
	int n = small_file_read(path, out, REDIS_URL_SECRET_MAX);

	if (n < 0)
		return n;
	while (n && (out[n - 1] == '\n' || out[n - 1] == '\r'))
		n--;
	out[n] = '\0';
	return n ? 0 : -ENODATA;
}
