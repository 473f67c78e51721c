/* SPDX-License-Identifier: Apache-2.0 */
/* Histograms of durations with fixed bucket bounds, as Prometheus exposes them. */
#ifndef LLMD_LIB_HISTOGRAM_H
#define LLMD_LIB_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

enum { HISTOGRAM_BUCKETS_MAX = 24 };

/** struct histogram - counts per bucket (not cumulative); the last one, at index n_bounds, is for what is over. */
struct histogram {
	const double *bounds; /* seconds, ascending; not owned */
	size_t n_bounds;
	uint64_t count[HISTOGRAM_BUCKETS_MAX + 1];
	uint64_t total;
	double sum; /* seconds */
};

/** Bounds of vLLM's time_to_first_token_seconds, so that one dashboard shows both. */
extern const double histogram_bounds_ttft[];
extern const size_t histogram_n_bounds_ttft;
/** Bounds of vLLM's time_per_output_token_seconds (inter-token latency). */
extern const double histogram_bounds_itl[];
extern const size_t histogram_n_bounds_itl;
/** Bounds of vLLM's e2e_request_latency_seconds. */
extern const double histogram_bounds_e2e[];
extern const size_t histogram_n_bounds_e2e;

void histogram_init(struct histogram *histogram, const double *bounds, size_t n_bounds);
void histogram_observe(struct histogram *histogram, double seconds);

#endif
