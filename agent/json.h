/* SPDX-License-Identifier: Apache-2.0 */
/* An incremental JSON tokenizer (RFC 8259) in constant memory. Why own code: json.c. */
#ifndef LLMD_AGENT_JSON_H
#define LLMD_AGENT_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_DEPTH_MAX = 64, JSON_TOKEN_MAX = 64 };

enum json_event {
	JSON_OBJECT_BEGIN,
	JSON_OBJECT_END,
	JSON_ARRAY_BEGIN,
	JSON_ARRAY_END,
	JSON_KEY, /* decoded; of one longer than JSON_TOKEN_MAX only the first bytes, never equal to a shorter key */
	JSON_STRING_BEGIN,
	JSON_STRING_PART, /* decoded bytes; points into the input where that is possible */
	JSON_STRING_END,
	JSON_NUMBER, /* its text */
	JSON_TRUE,
	JSON_FALSE,
	JSON_NULL,
};

/** struct json - zeroed and given @on and @ctx, it is ready. The other fields are json.c's. */
struct json {
	void (*on)(void *ctx, enum json_event event, const char *data, size_t len);
	void *ctx;
	uint8_t state, is_key, escape_digits;
	uint8_t token_len;
	uint16_t code_unit, high_surrogate;
	unsigned depth;
	uint64_t objects; /* bit d: the container at depth d is an object */
	int error;
	char token[JSON_TOKEN_MAX + 1];
};

/** json_feed() - the next bytes, cut anywhere. Return: 0, -EBADMSG (not JSON) or -E2BIG (too deep); errors stay. */
int json_feed(struct json *json, const char *data, size_t len);

/** json_finish() - no more bytes. Return: 0 if one whole value was read, else as json_feed(). */
int json_finish(struct json *json);

/** json_is_complete() - one whole value was read; only white space may follow. */
bool json_is_complete(const struct json *json);

#endif
