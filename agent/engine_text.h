/* SPDX-License-Identifier: Apache-2.0 */
/* What an engine's /metrics (Prometheus text 0.0.4) says of interest; and the ids that its /v1/models lists. */
#ifndef LLMD_AGENT_ENGINE_TEXT_H
#define LLMD_AGENT_ENGINE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ENGINE_NAMES_MAX = 32, ENGINE_LINE_MAX = 4096 };

/* Numbers of several engines behind one port (data parallel) are added up, but for the usage, of which the mean counts. */
enum engine_number {
	ENGINE_RUNNING,
	ENGINE_WAITING,
	ENGINE_KV_USAGE, /* 0 to 1 */
	ENGINE_QUERIED,	 /* prompt tokens looked up in the prefix cache, ever */
	ENGINE_HIT,	 /* of those found */
	ENGINE_PROMPT,	 /* prompt tokens, ever */
	ENGINE_STARTED,	 /* process start, Unix time */
	ENGINE_CAPACITY, /* tokens that the KV cache holds */
	ENGINE_ADAPTERS, /* when the loaded LoRA adapters were told */
	ENGINE_NUMBER_N
};

/** struct engine_sample - @n: series that number was in; 0: not told. @adapter: endpoint_model_hash() of each loaded one. */
struct engine_sample {
	double number[ENGINE_NUMBER_N];
	uint16_t n[ENGINE_NUMBER_N];
	uint8_t rank[ENGINE_NUMBER_N];
	unsigned n_adapters;
	uint64_t adapter[ENGINE_NAMES_MAX];
};

/** struct engine_text - the parser between two pieces. Zeroed: at the begin. @line: of it @len bytes of one not complete. */
struct engine_text {
	struct engine_sample sample;
	size_t len;
	bool skips; /* the rest of a line that is too long */
	char line[ENGINE_LINE_MAX];
};

/** engine_text_feed() - the next bytes, however cut. What is not understood is left out. */
void engine_text_feed(struct engine_text *text, const char *data, size_t len);

/** engine_text_end() - the last line needs no end. */
void engine_text_end(struct engine_text *text);

/**
 * engine_models_parse() - {"data": [{"id": ...}, ...]}. @json: @len bytes, at most 1 MiB are looked at.
 * Return: how many hashes of ids are in @out (at most ENGINE_NAMES_MAX), or -EINVAL.
 */
int engine_models_parse(const char *json, size_t len, uint64_t out[ENGINE_NAMES_MAX]);

#endif
