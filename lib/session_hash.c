// SPDX-License-Identifier: Apache-2.0
/* Session hashes: see session_hash.h. */
#include "lib/session_hash.h"

#include <assert.h>
#include <sodium.h>

static_assert(SESSION_SECRET_BYTES == crypto_shorthash_KEYBYTES, "SipHash takes a key of 16 bytes");

uint64_t session_key_hash(const uint8_t secret[SESSION_SECRET_BYTES], const char *key, size_t len)
{
	uint8_t out[crypto_shorthash_BYTES];
	uint64_t hash = 0;

	crypto_shorthash(out, (const unsigned char *)key, len, secret);
	for (int i = 7; i >= 0; i--)
		hash = hash << 8 | out[i];
	return hash;
}
