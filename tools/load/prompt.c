// SPDX-License-Identifier: Apache-2.0
/*
 * Bodies of requests. A trace has hashes for text: each block id becomes the same pseudo-random text every time, so ids
 * that requests share are prefixes that they share. The prompt is one user message, so that nothing stands between blocks.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/load/load.h"

/* xorshift64*, eight printable bytes a step. */
static void block_text(uint64_t id, char *out, size_t len)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .";
	uint64_t x = (id + 1) * 0x9e3779b97f4a7c15ull;

	for (size_t i = 0; i < len; i += 8) {
		uint64_t word;

		x ^= x >> 12;
		x ^= x << 25;
		x ^= x >> 27;
		word = x * 0x2545f4914f6cdd1dull;
		for (size_t k = i; k < i + 8 && k < len; k++, word >>= 8)
			out[k] = letters[word & 63];
	}
}

/* The last block is cut to the prompt's length. */
static size_t trace_bytes(const struct load_config *config, const struct trace_request *from)
{
	size_t whole = (size_t)from->n_ids * config->block_bytes;
	size_t wanted = (size_t)((double)from->input_tokens * (double)config->block_bytes / TRACE_BLOCK_TOKENS);

	return wanted < whole ? wanted : whole;
}

char *prompt_body(const struct load_config *config, const struct order *order, size_t *len)
{
	size_t bytes = order->from ? trace_bytes(config, order->from) : config->prompt_bytes;
	uint64_t tokens = order->from ? order->from->output_tokens : config->output_tokens;
	char *body = malloc(bytes + 512);
	size_t n;

	if (!body)
		abort();
	n = (size_t)snprintf(body, 512, "{\"model\":\"%s\",\"stream\":%s,\"max_tokens\":%lu,\"ignore_eos\":true,\"messages\":"
					"[{\"role\":\"user\",\"content\":\"",
		config->model, config->stream ? "true" : "false", (unsigned long)(tokens ? tokens : 1));
	for (size_t at = 0, i = 0; at < bytes; at += config->block_bytes, i++)
		block_text(order->from ? order->from->ids[i] : i, body + n + at,
			bytes - at < config->block_bytes ? bytes - at : config->block_bytes);
	n += bytes;
	memcpy(body + n, "\"}]}", 4);
	*len = n + 4;
	return body;
}
