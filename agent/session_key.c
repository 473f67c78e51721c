// SPDX-License-Identifier: Apache-2.0
/* Which session a request belongs to: see session_key.h. */
#include "agent/session_key.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "lib/log.h"
#include "lib/small_file.h"

/* "a=1; session=x" (RFC 6265 4.2.1); a quoted value is taken as it stands. */
static bool cookie_find(struct http_text cookies, const char *name, struct http_text *value)
{
	size_t name_len = strlen(name);

	while (cookies.len) {
		const char *end = memchr(cookies.at, ';', cookies.len);
		size_t len = end ? (size_t)(end - cookies.at) : cookies.len;

		if (len > name_len + 1 && !memcmp(cookies.at, name, name_len) && cookies.at[name_len] == '=') {
			*value = (struct http_text){ cookies.at + name_len + 1, len - name_len - 1 };
			return true;
		}
		len += end != NULL;
		while (len < cookies.len && cookies.at[len] == ' ')
			len++;
		cookies.at += len;
		cookies.len -= len;
	}
	return false;
}

static bool key_from_cookie(const struct http_head *head, struct http_text *key)
{
	static const char *const names[] = { "session", "session-id" };

	for (size_t n = 0; n < 2; n++)
		for (unsigned i = 0; i < head->n_fields; i++)
			if (http_text_equal_nocase(head->field[i].name, "Cookie") &&
				cookie_find(head->field[i].value, names[n], key))
				return true;
	return false;
}

int session_key_from_head(const struct http_head *head, const char *const *names, size_t n_names, struct http_text *key,
	const char **source)
{
	for (size_t i = 0; i < n_names; i++) {
		const struct http_field *field = http_field_find(head, names[i]);

		if (field && field->value.len) {
			*key = field->value;
			*source = names[i];
			return 0;
		}
	}
	if (!key_from_cookie(head, key))
		return -ENOENT;
	*source = "cookie";
	return 0;
}

static int parse_secret(uint8_t secret[SESSION_SECRET_BYTES], const char *text, size_t len)
{
	uint8_t parsed[SESSION_SECRET_BYTES];
	const char *end;
	size_t n;

	if (sodium_hex2bin(parsed, sizeof(parsed), text, len, NULL, &n, &end) || n != sizeof(parsed))
		return -EINVAL;
	for (; end < text + len; end++)
		if (*end != '\n' && *end != '\r' && *end != ' ')
			return -EINVAL;
	memcpy(secret, parsed, sizeof(parsed));
	return 0;
}

int session_secret_load(uint8_t secret[SESSION_SECRET_BYTES], const char *path)
{
	char text[128], quoted[256];
	int n = small_file_read(path, text, sizeof(text));
	int err = n == -EFBIG ? -EINVAL : n < 0 ? n : parse_secret(secret, text, (size_t)n);

	sodium_memzero(text, sizeof(text));
	if (err)
		log_error("session secret not loaded", "option=--session-secret-file file=%s error=\"%s\"",
			log_quote(path, quoted, sizeof(quoted)), err == -EINVAL ? "must be 32 hex digits" : strerror(-err));
	return err;
}

void session_secret_random(uint8_t secret[SESSION_SECRET_BYTES])
{
	randombytes_buf(secret, SESSION_SECRET_BYTES);
}
