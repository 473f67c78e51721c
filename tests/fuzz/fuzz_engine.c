// SPDX-License-Identifier: Apache-2.0
/* What engines tell: metrics are the same for any cut, and only numbers that can be meant come out; lists of models end. */
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "agent/engine_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_sample(const struct engine_sample *sample)
{
	for (int i = 0; i < ENGINE_NUMBER_N; i++)
		assert(isfinite(sample->number[i]) && sample->number[i] >= 0 && (sample->n[i] || sample->number[i] == 0));
	assert(sample->number[ENGINE_KV_USAGE] <= sample->n[ENGINE_KV_USAGE]);
	assert(sample->n_adapters <= ENGINE_NAMES_MAX);
	for (unsigned i = 0; i < sample->n_adapters; i++)
		assert(sample->adapter[i]);
}

static void metrics(const char *data, size_t size, size_t cut)
{
	static struct engine_text whole, pieces;

	whole = pieces = (struct engine_text){ 0 };
	engine_text_feed(&whole, data, size);
	engine_text_end(&whole);
	for (size_t i = 0; i < size; i += cut)
		engine_text_feed(&pieces, data + i, size - i < cut ? size - i : cut);
	engine_text_end(&pieces);
	check_sample(&whole.sample);
	assert(!memcmp(&whole.sample, &pieces.sample, sizeof(whole.sample)));
}

/* The first byte says which of the two, and how it is cut. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t hashes[ENGINE_NAMES_MAX];

	if (!size)
		return 0;
	if (*data == '{') {
		int n = engine_models_parse((const char *)data, size, hashes);

		assert(n <= ENGINE_NAMES_MAX);
		for (int i = 0; i < n; i++)
			assert(hashes[i]);
	} else {
		metrics((const char *)data + 1, size - 1, 1 + *data % 64);
	}
	return 0;
}
