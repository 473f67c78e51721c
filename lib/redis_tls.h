/* SPDX-License-Identifier: Apache-2.0 */
/* The TLS side of a connection to Redis. */
#ifndef LLMD_LIB_REDIS_TLS_H
#define LLMD_LIB_REDIS_TLS_H

#include <openssl/ssl.h>
#include <stddef.h>

#include "lib/redis_conn.h"

/** redis_tls_new() - files are read anew each time, so replaced certificates are used. Return: NULL, and @why then says so. */
SSL *redis_tls_new(const struct redis_config *config, char *why, size_t size);

#endif
