/* SPDX-License-Identifier: Apache-2.0 */
/* The keyed hash that stands for a session everywhere but in a request: in the agent's tables and in the pinned maps. */
#ifndef LLMD_LIB_SESSION_HASH_H
#define LLMD_LIB_SESSION_HASH_H

#include <stddef.h>
#include <stdint.h>

enum { SESSION_SECRET_BYTES = 16 };

/** session_key_hash() - SipHash-2-4 (Aumasson, Bernstein 2012): nobody without the secret can aim at another's session. */
uint64_t session_key_hash(const uint8_t secret[SESSION_SECRET_BYTES], const char *key, size_t len);

#endif
