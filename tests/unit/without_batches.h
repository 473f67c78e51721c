/* SPDX-License-Identifier: Apache-2.0 */
/* A kernel without batches for the type of map: these functions stand in front of libbpf's. For one file of a program. */
#ifndef LLMD_TESTS_UNIT_WITHOUT_BATCHES_H
#define LLMD_TESTS_UNIT_WITHOUT_BATCHES_H

#include <bpf/bpf.h>
#include <dlfcn.h>
#include <stdbool.h>

enum { KERNEL_ENOTSUPP = 524 };

static bool without_batches;

#define BATCH(name, parameters, ...) \
	int name parameters \
	{ \
		static int(*next) parameters; \
		if (without_batches) \
			return -KERNEL_ENOTSUPP; \
		if (!next) \
			*(void **)&next = dlsym(RTLD_NEXT, #name); \
		return next(__VA_ARGS__); \
	}
BATCH(bpf_map_update_batch, (int fd, const void *keys, const void *values, __u32 *n, const struct bpf_map_batch_opts *opts), fd,
	keys, values, n, opts)
BATCH(bpf_map_delete_batch, (int fd, const void *keys, __u32 *n, const struct bpf_map_batch_opts *opts), fd, keys, n, opts)
BATCH(bpf_map_lookup_batch,
	(int fd, void *from, void *to, void *keys, void *values, __u32 *n, const struct bpf_map_batch_opts *opts), fd, from, to,
	keys, values, n, opts)

#endif
