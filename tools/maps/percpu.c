// SPDX-License-Identifier: Apache-2.0
/* Values with a copy per CPU, and the histograms in them: see maps.h. */
#include "tools/maps/maps.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The kernel rounds a copy up to 8 bytes: of 64-bit words there is nothing to round. */
static_assert(sizeof(struct endpoint_stats) % sizeof(__u64) == 0, "stats are words");

void percpu_sum(const __u64 *values, size_t n_cpus, size_t n_words, __u64 *sum)
{
	memset(sum, 0, n_words * sizeof(*sum));
	for (size_t cpu = 0; cpu < n_cpus; cpu++)
		for (size_t i = 0; i < n_words; i++)
			sum[i] += values[cpu * n_words + i];
}

int percpu_read(struct maps *maps, enum map_id id, uint32_t index, __u64 *sum, size_t n_words)
{
	int n_cpus = libbpf_num_possible_cpus(), err = 0;
	__u64 *values;

	if (n_cpus < 0)
		return n_cpus;
	values = calloc((size_t)n_cpus, n_words * sizeof(*values));
	if (!values)
		return -ENOMEM;
	if (bpf_map_lookup_elem(maps->fd[id], &index, values))
		err = -errno;
	percpu_sum(values, (size_t)n_cpus, n_words, sum);
	free(values);
	return err;
}

int percpu_clear(struct maps *maps, enum map_id id, uint32_t index, size_t n_words)
{
	int n_cpus = libbpf_num_possible_cpus(), err = 0;
	__u64 *values;

	if (n_cpus < 0)
		return n_cpus;
	values = calloc((size_t)n_cpus, n_words * sizeof(*values));
	if (!values)
		return -ENOMEM;
	if (bpf_map_update_elem(maps->fd[id], &index, values, BPF_ANY))
		err = -errno;
	free(values);
	return err;
}

/* ---- histograms ---- */

uint64_t histogram_count(const __u64 buckets[LLMD_HISTOGRAM_N])
{
	uint64_t total = 0;

	for (size_t i = 0; i < LLMD_HISTOGRAM_N; i++)
		total += buckets[i];
	return total;
}

double histogram_quantile(const __u64 buckets[LLMD_HISTOGRAM_N], double q)
{
	double total = 0, below = 0, wanted;
	size_t i;

	for (i = 0; i < LLMD_HISTOGRAM_N; i++)
		total += (double)buckets[i];
	if (total == 0)
		return -1;
	wanted = q * total;
	for (i = 0; i < LLMD_HISTOGRAM_N - 1 && (!buckets[i] || below + (double)buckets[i] < wanted); i++)
		below += (double)buckets[i];
	if (i == LLMD_HISTOGRAM_N - 1)
		return exp2((double)i) * 1e-6;
	return exp2((double)i + (wanted - below) / (double)buckets[i]) * 1e-6;
}
