// SPDX-License-Identifier: Apache-2.0
/* Histograms: see histogram.h. Bucket bounds are those of vLLM's metrics (vllm/v1/metrics/loggers.py). */
#include "lib/histogram.h"

#include <assert.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

const double histogram_bounds_ttft[] = { 0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
	7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0 };
const size_t histogram_n_bounds_ttft = COUNT(histogram_bounds_ttft);
const double histogram_bounds_itl[] = { 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
	10.0, 20.0, 40.0, 80.0 };
const size_t histogram_n_bounds_itl = COUNT(histogram_bounds_itl);
const double histogram_bounds_e2e[] = { 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
	120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0 };
const size_t histogram_n_bounds_e2e = COUNT(histogram_bounds_e2e);

static_assert(COUNT(histogram_bounds_ttft) <= HISTOGRAM_BUCKETS_MAX, "ttft");
static_assert(COUNT(histogram_bounds_itl) <= HISTOGRAM_BUCKETS_MAX, "itl");
static_assert(COUNT(histogram_bounds_e2e) <= HISTOGRAM_BUCKETS_MAX, "e2e");

void histogram_init(struct histogram *histogram, const double *bounds, size_t n_bounds)
{
	assert(n_bounds <= HISTOGRAM_BUCKETS_MAX);
	memset(histogram, 0, sizeof(*histogram));
	histogram->bounds = bounds;
	histogram->n_bounds = n_bounds;
}

void histogram_observe(struct histogram *histogram, double seconds)
{
	size_t i = 0;

	while (i < histogram->n_bounds && seconds > histogram->bounds[i])
		i++;
	histogram->count[i]++;
	histogram->total++;
	histogram->sum += seconds;
}
