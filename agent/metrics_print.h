/* SPDX-License-Identifier: Apache-2.0 */
/* How a family of metrics is described, and how its samples are written. For the files that have a table of families. */
#ifndef LLMD_AGENT_METRICS_PRINT_H
#define LLMD_AGENT_METRICS_PRINT_H

#include <event2/buffer.h>
#include <stdint.h>
#include <stdio.h>

#include "agent/decide.h"
#include "agent/endpoint.h"
#include "agent/metrics.h"
#include "lib/histogram.h"

struct kernel_sums;
struct scrape;

enum { SCRAPE_LABELS_MAX = 256, SCRAPE_BOUNDS_MAX = 32 };

/** struct family - @labels, @help, @query: for the documentation. */
struct family {
	const char *name, *type, *labels, *help, *query;
	void (*print)(struct scrape *scrape);
};

/** struct scrape - one exposition. @le: @bounds as text; a family prints the same bounds for each pod. */
struct scrape {
	struct metrics *metrics;
	const struct endpoint_table *endpoints;
	struct evbuffer *out;
	const struct family *family;
	struct metrics_gauges gauges;
	struct decider_stats decider;
	const struct kernel_sums *kernel;
	const double *bounds;
	char le[SCRAPE_BOUNDS_MAX][32];
};

/** struct buckets - a histogram; @count: @n_bounds + 1 of them, not cumulative. */
struct buckets {
	const double *bounds;
	size_t n_bounds;
	const uint64_t *count;
	double sum;
};

/** print_families() - with their HELP and TYPE lines. print_families_markdown() - a table row each. */
void print_families(struct scrape *scrape, const struct family *families, size_t n);
void print_families_markdown(FILE *out, const struct family *families, size_t n);

/** sample() - one line. @suffix: of the family's name; @labels: as name="value", separated by commas. */
void sample(struct scrape *scrape, const char *suffix, const char *labels, uint64_t number);
void sample_double(struct scrape *scrape, const char *suffix, const char *labels, double number);
void sample_u64(struct scrape *scrape, uint64_t number);
void sample_label(struct scrape *scrape, const char *label, const char *value, uint64_t number);

/** sample_pod() - with the label "pod", and another one unless @label is NULL. */
void sample_pod(struct scrape *scrape, const struct endpoint *pod, const char *label, const char *value, uint64_t number);

void sample_pod_double(struct scrape *scrape, const struct endpoint *pod, double number);

/** print_buckets() - @pod: NULL for a histogram of no pod. */
void print_buckets(struct scrape *scrape, const struct buckets *buckets, const struct endpoint *pod);
void print_histogram(struct scrape *scrape, const struct histogram *histogram, const struct endpoint *pod);

/** each_pod() - calls @print for each endpoint that is there. */
void each_pod(struct scrape *scrape, void (*print)(struct scrape *, uint32_t, const struct endpoint *));

#endif
