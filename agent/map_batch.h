/* SPDX-License-Identifier: Apache-2.0 */
/* Many entries of a BPF map at a time; one by one where the kernel has no batches for the type of map. */
#ifndef LLMD_AGENT_MAP_BATCH_H
#define LLMD_AGENT_MAP_BATCH_H

#include <stddef.h>
#include <stdint.h>

/** struct map_shape - a map; @value_size: as the kernel copies it, so for per-CPU maps of all CPUs. */
struct map_shape {
	int fd;
	uint32_t key_size, value_size;
};

/** map_batch_update() - entries that the kernel refuses are left out. Return: how many were written. */
uint32_t map_batch_update(const struct map_shape *map, const void *keys, const void *values, uint32_t n);

/** map_batch_delete() - keys that are not there are no error. Return: how many were deleted. */
uint32_t map_batch_delete(const struct map_shape *map, const void *keys, uint32_t n);

/**
 * map_batch_walk() - calls @visit for the entries of a hash map until it returns non-zero. @visit may delete what it has
 * seen. Return: that, 0, or -errno of the kernel.
 */
int map_batch_walk(const struct map_shape *map, int (*visit)(void *ctx, const void *key, const void *value), void *ctx);

/**
 * map_batch_estimate() - how many of its @max entries a hash map holds: exactly if they are few, else to some per cent.
 * Return: 0 or -errno, -ENOTSUP where the kernel does not let it be told.
 */
int map_batch_estimate(const struct map_shape *map, uint32_t max, uint64_t *out);

/** map_batch_read() - the first @n values of an array map, one after the other. Return: 0 or -errno. */
int map_batch_read(const struct map_shape *map, uint32_t n, void *values);

#endif
