/* SPDX-License-Identifier: Apache-2.0 */
/* Request traces in the format of the Mooncake project (FAST '25 release): JSON lines. */
#ifndef LLMD_TOOLS_LOAD_TRACE_H
#define LLMD_TOOLS_LOAD_TRACE_H

#include <stddef.h>
#include <stdint.h>

enum { TRACE_BLOCK_TOKENS = 512, TRACE_IDS_MAX = 4096 };

/**
 * struct trace_request - @ids: of the prompt's blocks of TRACE_BLOCK_TOKENS tokens; equal ids mean equal blocks after equal
 * ones. @session: from 0 on, once inferred or when the trace has it.
 */
struct trace_request {
	uint64_t at_ms;
	uint32_t input_tokens, output_tokens;
	uint32_t session;
	uint32_t n_ids;
	const uint32_t *ids;
};

struct trace {
	size_t n, cap;
	struct trace_request *at;
	uint32_t n_sessions; /* 0: the trace does not say */
};

/**
 * trace_read() - requests with "timestamp" (ms), "input_length", "output_length" (tokens), "hash_ids" and, optional,
 * "session_id" (number).
 * @limit: read no more than that; 0 for all.
 * @error: on failure a sentence with the line's number.
 * Return: 0 or -errno. The caller frees @out.
 */
int trace_read(struct trace **out, const char *path, size_t limit, char *error, size_t error_size);
void trace_free(struct trace *trace);

/**
 * trace_infer_sessions() - a request belongs to the session of the earlier request that first brought the last of its
 * already seen blocks (block 0 not counted), else it starts one. Return: 0 or -ENOMEM.
 */
int trace_infer_sessions(struct trace *trace);

#endif
