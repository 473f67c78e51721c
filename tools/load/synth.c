// SPDX-License-Identifier: Apache-2.0
/*
 * A trace of multi-turn sessions over shared system prompts, in the format of the Mooncake traces.
 *
 * Where the numbers come from: turns per session have the mean of ShareChat (Yan et al., arXiv 2512.17843: 660 293 turns
 * in 142 808 conversations), geometrically distributed. Lengths and pauses are log-normal, with median and deviation as
 * measured on the conversation trace of the Mooncake project (FAST '25 release), sessions inferred as in trace.h: first
 * prompts 5 264 tokens (1.26), new tokens of later turns 455 (2.39, cut to 1.5), answers 350 tokens (1.36), pauses 123 s
 * (0.98).
 * That system prompts are shared by sessions is what the demo is about; their number and length are chosen, not measured.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/load/load.h"

enum { SYSTEM_PROMPTS = 4, SYSTEM_BLOCKS = 4, CONTEXT_TOKENS = 32768, OUTPUT_TOKENS = 2048, SYNTH_MAX = 1000000 };
static const double MEAN_TURNS = 660293.0 / 142808.0;

struct turn {
	uint64_t at_ms;
	uint32_t session, input_tokens, output_tokens;
};

/* Box and Muller. */
static double log_normal(double median, double deviation)
{
	double u = 1 - drand48(), v = drand48();

	return median * exp(deviation * sqrt(-2 * log(u)) * cos(2 * M_PI * v));
}

static uint32_t tokens(double median, double deviation, uint32_t max)
{
	double n = log_normal(median, deviation);

	return n < 1 ? 1 : n > max ? max : (uint32_t)n;
}

/* The turns of one session. Return: how many. */
static size_t session_turns(uint32_t session, uint64_t span_ms, struct turn *out, size_t room)
{
	uint64_t at_ms = (uint64_t)(drand48() * (double)span_ms);
	uint32_t input = SYSTEM_BLOCKS * TRACE_BLOCK_TOKENS + tokens(5264, 1.26, CONTEXT_TOKENS / 2);
	size_t n = 0;

	do {
		uint32_t output = tokens(350, 1.36, OUTPUT_TOKENS);

		if (input > CONTEXT_TOKENS || n == room)
			break;
		out[n++] = (struct turn){ at_ms, session, input, output };
		input += output + tokens(455, 1.5, CONTEXT_TOKENS / 4);
		at_ms += (uint64_t)(1000 * log_normal(123, 0.98));
	} while (drand48() < 1 - 1 / MEAN_TURNS);
	return n;
}

static int by_time(const void *a, const void *b)
{
	const struct turn *x = a, *y = b;

	return (x->at_ms > y->at_ms) - (x->at_ms < y->at_ms);
}

static void write_turn(FILE *out, const struct turn *turn)
{
	uint32_t n = (turn->input_tokens + TRACE_BLOCK_TOKENS - 1) / TRACE_BLOCK_TOKENS;

	fprintf(out, "{\"timestamp\": %lu, \"input_length\": %u, \"output_length\": %u, \"session_id\": %u, \"hash_ids\": [",
		(unsigned long)turn->at_ms, turn->input_tokens, turn->output_tokens, turn->session);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t id = i < SYSTEM_BLOCKS ? turn->session % SYSTEM_PROMPTS * SYSTEM_BLOCKS + i
						: 1000 + turn->session * 1000 + i;

		fprintf(out, "%s%u", i ? ", " : "", id);
	}
	fprintf(out, "]}\n");
}

int synth_write(const struct load_config *config)
{
	struct turn *turns = calloc(SYNTH_MAX, sizeof(*turns));
	FILE *out = fopen(config->synth, "we");
	size_t n = 0;
	int err = 0;

	if (!turns || !out) {
		fprintf(stderr, "llmd-load: --synth: %s: %s\n", config->synth, strerror(errno));
		free(turns);
		return -EIO;
	}
	srand48((long)config->seed);
	for (uint32_t s = 0; s < config->synth_sessions; s++)
		n += session_turns(s, config->duration_ms ? config->duration_ms : 600000, turns + n, SYNTH_MAX - n);
	qsort(turns, n, sizeof(*turns), by_time);
	for (size_t i = 0; i < n; i++)
		write_turn(out, &turns[i]);
	if (fclose(out))
		err = -errno;
	printf("%zu requests of %lu sessions\n", n, (unsigned long)config->synth_sessions);
	free(turns);
	return err;
}
