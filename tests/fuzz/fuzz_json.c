// SPDX-License-Identifier: Apache-2.0
/* The tokenizer takes what json-c in its strict mode takes, and nothing else. */
#include <assert.h>
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "agent/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ignore(void *ctx, enum json_event event, const char *data, size_t len)
{
	(void)ctx, (void)event, (void)data, (void)len;
}

/* Where json-c 0.16 differs from RFC 8259: it is laxer with numbers, control characters, and bytes behind the value. */
static bool reference_takes(const char *data, size_t size)
{
	struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH_MAX + 1);
	struct json_object *object;
	bool taken;

	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
	object = json_tokener_parse_ex(tokener, data, (int)size);
	if (json_tokener_get_error(tokener) == json_tokener_continue)
		object = json_tokener_parse_ex(tokener, "", 1);
	taken = json_tokener_get_error(tokener) == json_tokener_success;
	json_object_put(object);
	json_tokener_free(tokener);
	return taken;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct json whole = { .on = ignore }, cut = { .on = ignore };
	int err;

	json_feed(&whole, (const char *)data, size);
	err = json_finish(&whole);
	for (size_t i = 0; i < size; i++)
		json_feed(&cut, (const char *)data + i, 1);
	assert(json_finish(&cut) == err);
	if (!err && !memchr(data, 0, size))
		assert(reference_takes((const char *)data, size));
	return 0;
}
