/* SPDX-License-Identifier: Apache-2.0 */
/* Which session a request belongs to: the key in its head, and the secret for the hash that stands for it. */
#ifndef LLMD_AGENT_SESSION_KEY_H
#define LLMD_AGENT_SESSION_KEY_H

#include <stddef.h>
#include <stdint.h>

#include "agent/http_head.h"
#include "lib/session_hash.h"

/**
 * session_key_from_head() - the first of the headers @names that is there with a value, else the cookie "session" or
 * "session-id".
 * @key:    into the head's buffer.
 * @source: the name from @names, or "cookie".
 * Return: 0, or -ENOENT with nothing changed.
 */
int session_key_from_head(const struct http_head *head, const char *const *names, size_t n_names, struct http_text *key,
	const char **source);

/** session_secret_load() - from a file of 32 hex digits. Return: 0, or -errno after a log line; @secret then unchanged. */
int session_secret_load(uint8_t secret[SESSION_SECRET_BYTES], const char *path);

void session_secret_random(uint8_t secret[SESSION_SECRET_BYTES]);

#endif
