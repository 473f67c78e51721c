// SPDX-License-Identifier: Apache-2.0
/* Durations in log-linear buckets: bounded memory for any number of samples (as HdrHistogram does it). */
#include "tools/load/load.h"

/* Below QUANTILE_STEPS exact; above, the bits that follow the highest one choose the bucket within the octave. */
static unsigned bucket_of(uint64_t ns)
{
	unsigned shift;

	if (ns < QUANTILE_STEPS)
		return (unsigned)ns;
	shift = 63u - (unsigned)__builtin_clzll(ns) - QUANTILE_BITS;
	if (shift + 1 >= QUANTILE_OCTAVES)
		return QUANTILE_OCTAVES * QUANTILE_STEPS - 1;
	return (shift + 1) * QUANTILE_STEPS + (unsigned)(ns >> shift) - QUANTILE_STEPS;
}

static uint64_t bucket_end(unsigned bucket)
{
	unsigned octave = bucket / QUANTILE_STEPS;
	uint64_t step = bucket % QUANTILE_STEPS;

	return octave ? ((step + QUANTILE_STEPS + 1) << (octave - 1)) - 1 : step;
}

void quantile_add(struct quantile *quantile, uint64_t ns)
{
	quantile->count[bucket_of(ns)]++;
	quantile->n++;
	quantile->sum_ns += (double)ns;
	if (ns > quantile->max_ns)
		quantile->max_ns = ns;
}

double quantile_at(const struct quantile *quantile, double share)
{
	uint64_t rank = (uint64_t)(share * (double)quantile->n), seen = 0;

	for (unsigned i = 0; i < QUANTILE_OCTAVES * QUANTILE_STEPS && quantile->n; i++) {
		seen += quantile->count[i];
		if (seen > rank)
			return (double)(bucket_end(i) < quantile->max_ns ? bucket_end(i) : quantile->max_ns) / 1e9;
	}
	return (double)quantile->max_ns / 1e9;
}
