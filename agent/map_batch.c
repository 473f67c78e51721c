// SPDX-License-Identifier: Apache-2.0
/* Many entries of a BPF map at a time: see map_batch.h. */
#include "agent/map_batch.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
	WALK_BATCH = 1024,
	SAMPLE = 512,
	WALK_BATCH_MAX = 1 << 20, /* a bucket that holds more than this is no hash table */
	KERNEL_ENOTSUPP = 524,	  /* the kernel's own, for maps without batches: no errno of user space */
};

static bool has_no_batches(int err)
{
	return err == -KERNEL_ENOTSUPP || err == -EOPNOTSUPP || err == -EINVAL;
}

static const void *nth(const void *array, uint32_t size, uint32_t i)
{
	return (const char *)array + (size_t)size * i;
}

static int update(const struct map_shape *map, const void *keys, const void *values, uint32_t *n, bool single)
{
	if (!single)
		return bpf_map_update_batch(map->fd, keys, values, n, NULL);
	*n = 0;
	return bpf_map_update_elem(map->fd, keys, values, BPF_ANY);
}

static int delete(const struct map_shape *map, const void *keys, uint32_t *n, bool single)
{
	if (!single)
		return bpf_map_delete_batch(map->fd, keys, n, NULL);
	*n = 0;
	return bpf_map_delete_elem(map->fd, keys);
}

/*
 * The kernel stops at the first entry that fails, and says how many it did before: that one is skipped. @values: NULL to
 * delete. A failing call that has done nothing also skips one, so this ends.
 */
static uint32_t change(const struct map_shape *map, const void *keys, const void *values, uint32_t n)
{
	uint32_t at = 0, changed = 0;
	bool single = false;

	while (at < n) {
		uint32_t done = n - at;
		const void *key = nth(keys, map->key_size, at);
		int err = values ? update(map, key, nth(values, map->value_size, at), &done, single) : delete(map, key, &done, single);

		if (!single && has_no_batches(err)) {
			single = true;
			continue;
		}
		if (!err && single)
			done = 1;
		else if (err && done > n - at - 1)
			done = 0; /* not written by a kernel that did not know the command */
		changed += done;
		at += done + (err ? 1 : 0);
	}
	return changed;
}

uint32_t map_batch_update(const struct map_shape *map, const void *keys, const void *values, uint32_t n)
{
	return change(map, keys, values, n);
}

uint32_t map_batch_delete(const struct map_shape *map, const void *keys, uint32_t n)
{
	return change(map, keys, NULL, n);
}

/* ---- walk ---- */

struct walk {
	const struct map_shape *map;
	int (*visit)(void *ctx, const void *key, const void *value);
	void *ctx;
	char *keys, *values, *next;
	uint32_t room;
	bool begun;
};

static void walk_free(struct walk *walk)
{
	free(walk->keys);
	free(walk->values);
	free(walk->next);
}

static int walk_grow(struct walk *walk, uint32_t room)
{
	char *keys = realloc(walk->keys, (size_t)walk->map->key_size * room);
	char *values = keys ? realloc(walk->values, (size_t)walk->map->value_size * room) : NULL;

	walk->keys = keys ? keys : walk->keys;
	walk->values = values ? values : walk->values;
	if (!keys || !values)
		return -ENOMEM;
	walk->room = room;
	return 0;
}

static int walk_visit(struct walk *walk, uint32_t n)
{
	int stop = 0;

	for (uint32_t i = 0; i < n && !stop; i++)
		stop = walk->visit(walk->ctx, nth(walk->keys, walk->map->key_size, i), nth(walk->values, walk->map->value_size, i));
	return stop;
}

static int walk_batches(struct walk *walk)
{
	for (;;) {
		uint32_t n = walk->room;
		int err = bpf_map_lookup_batch(walk->map->fd, walk->begun ? walk->next : NULL, walk->next, walk->keys, walk->values,
			&n, NULL);
		int stop;

		if (err == -ENOSPC && walk->room < WALK_BATCH_MAX) { /* a bucket holds more than there is room for */
			err = walk_grow(walk, walk->room * 2);
			if (err)
				return err;
			continue;
		}
		if (err && err != -ENOENT)
			return err;
		stop = walk_visit(walk, n);
		if (stop || err)
			return stop;
		walk->begun = true;
	}
}

static int walk_single(struct walk *walk)
{
	while (!bpf_map_get_next_key(walk->map->fd, walk->begun ? walk->next : NULL, walk->keys)) {
		int stop;

		memcpy(walk->next, walk->keys, walk->map->key_size);
		walk->begun = true;
		if (bpf_map_lookup_elem(walk->map->fd, walk->keys, walk->values))
			continue; /* gone meanwhile */
		stop = walk_visit(walk, 1);
		if (stop)
			return stop;
	}
	return 0;
}

int map_batch_walk(const struct map_shape *map, int (*visit)(void *ctx, const void *key, const void *value), void *ctx)
{
	struct walk walk = { .map = map, .visit = visit, .ctx = ctx, .next = malloc(map->key_size < 4 ? 4 : map->key_size) };
	int err = walk.next ? walk_grow(&walk, WALK_BATCH) : -ENOMEM;

	if (!err)
		err = walk_batches(&walk);
	if (!walk.begun && has_no_batches(err))
		err = walk_single(&walk);
	walk_free(&walk);
	return err;
}

/*
 * The batch ends somewhere in the table; where to go on is told as the number of the next bucket, of which a map has as many
 * as entries, rounded up to a power of two (kernel/bpf/hashtab.c). Keys are hashed, so the other buckets are no fuller.
 */
static int extrapolate(uint32_t n, uint32_t next, uint32_t max, uint64_t *out)
{
	uint64_t buckets = 1;

	while (buckets < max)
		buckets *= 2;
	if (!next || next > buckets)
		return -ENOTSUP; /* another kernel's cursor */
	*out = n * buckets / next;
	if (*out > max)
		*out = max;
	return 0;
}

int map_batch_estimate(const struct map_shape *map, uint32_t max, uint64_t *out)
{
	uint32_t n = SAMPLE, next = 0;
	char *keys = malloc((size_t)map->key_size * n), *values = malloc((size_t)map->value_size * n);
	int err = keys && values ? bpf_map_lookup_batch(map->fd, NULL, &next, keys, values, &n, NULL) : -ENOMEM;

	free(keys);
	free(values);
	if (err != -ENOENT)
		return err ? err : extrapolate(n, next, max, out);
	*out = n; /* the end was reached */
	return 0;
}

static int read_single(const struct map_shape *map, uint32_t n, char *values)
{
	int err = 0;

	for (uint32_t i = 0; i < n && !err; i++)
		err = bpf_map_lookup_elem(map->fd, &i, values + (size_t)map->value_size * i);
	return err;
}

int map_batch_read(const struct map_shape *map, uint32_t n, void *values)
{
	uint32_t *keys = calloc(n ? n : 1, sizeof(*keys));
	uint32_t done = n, next;
	int err = keys ? 0 : -ENOMEM;

	if (!err && n)
		err = bpf_map_lookup_batch(map->fd, NULL, &next, keys, values, &done, NULL);
	free(keys);
	if (has_no_batches(err))
		return read_single(map, n, values);
	return err == -ENOENT && done == n ? 0 : err; /* -ENOENT: the end of the map was reached */
}
