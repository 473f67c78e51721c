// SPDX-License-Identifier: Apache-2.0
/* Prompt facts of any bytes: bounded, and the same for any cut. The first byte chooses the API. */
#include <assert.h>
#include <string.h>

#include "agent/prompt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct prompt_scanner *whole, *cut;
	const struct prompt_facts *a, *b;
	enum api api;

	if (!size)
		return 0;
	if (!whole) {
		whole = prompt_scanner_new(16);
		cut = prompt_scanner_new(16);
	}
	api = API_OTHER + 1 + data[0] % (API_N - 1);
	prompt_scanner_reset(whole, api);
	prompt_scanner_reset(cut, api);
	prompt_scanner_feed(whole, (const char *)data + 1, size - 1);
	for (size_t i = 1; i < size; i++)
		prompt_scanner_feed(cut, (const char *)data + i, 1);
	a = prompt_scanner_finish(whole);
	b = prompt_scanner_finish(cut);
	assert(a->state == b->state && a->n_blocks == b->n_blocks && a->prompt_bytes == b->prompt_bytes && a->stream == b->stream);
	assert(!memcmp(a->blocks, b->blocks, a->n_blocks * sizeof(*a->blocks)));
	assert(!strcmp(a->model, b->model) && !strcmp(a->session_key, b->session_key));
	return 0;
}
