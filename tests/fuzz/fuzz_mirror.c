// SPDX-License-Identifier: Apache-2.0
/* Pinned sessions and prefixes of any bytes, read into a decider, which then has to decide and to write back. */
#include <assert.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/mirror.h"
#include "agent/prefix.h"
#include "agent/session.h"
#include "lib/log.h"

enum { SESSIONS = 1, PREFIXES = 2, PODS = 3, SESSIONS_MAX = 8, PAIRS_MAX = 32, CAPACITY = 8, BLOCKS = 4, NOW_MS = 5000 };

/* What is left of each map's contents; the functions below stand in front of libbpf's. */
static const uint8_t *left[PREFIXES + 1];
static size_t n_left[PREFIXES + 1];

static size_t value_size(int fd)
{
	return fd == SESSIONS ? sizeof(struct session_entry) : sizeof(struct prefix_entry);
}

int bpf_map_lookup_batch(int fd, void *from, void *to, void *keys, void *values, __u32 *n, const struct bpf_map_batch_opts *opts)
{
	const size_t size = value_size(fd), entry = sizeof(uint64_t) + size;
	__u32 i = 0;

	(void)from, (void)to, (void)opts;
	for (; i < *n && n_left[fd] >= entry; i++, left[fd] += entry, n_left[fd] -= entry) {
		memcpy((char *)keys + i * sizeof(uint64_t), left[fd], sizeof(uint64_t));
		memcpy((char *)values + i * size, left[fd] + sizeof(uint64_t), size);
	}
	*n = i;
	return n_left[fd] >= entry ? 0 : -ENOENT;
}

int bpf_map_update_batch(int fd, const void *keys, const void *values, __u32 *n, const struct bpf_map_batch_opts *opts)
{
	const struct session_entry *session = values;
	const struct prefix_entry *prefix = values;

	(void)keys, (void)opts;
	for (__u32 i = 0; i < *n; i++) {
		assert(fd == PREFIXES || session[i].endpoint < PODS);
		for (__u32 k = 0; fd == PREFIXES && k < prefix[i].n; k++)
			assert(k < LLMD_HOLDERS_MAX && prefix[i].holder[k].endpoint < PODS && prefix[i].holder[k].generation == 1);
	}
	return 0;
}

int bpf_map_delete_batch(int fd, const void *keys, __u32 *n, const struct bpf_map_batch_opts *opts)
{
	(void)fd, (void)keys, (void)n, (void)opts;
	return 0;
}

static void ask(struct decider *decider, struct endpoint_table *pods, const uint64_t *blocks)
{
	const struct decide_request request = { .model = "", .has_session = true, .session = blocks[0], .blocks = blocks,
		.n_blocks = BLOCKS, .prompt_bytes = BLOCKS * 512 };
	struct endpoint_claim claim;
	struct decision decision;

	assert(!decide(decider, &request, NOW_MS, &decision, &claim));
	assert(decision.endpoint >= 0 && decision.endpoint < PODS && decision.cached_blocks <= BLOCKS);
	endpoint_claim_release(pods, &claim);
}

static struct endpoint_table *make_pods(void)
{
	struct endpoint_table *pods = calloc(1, sizeof(*pods));

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
	for (int i = 0; i < PODS; i++) {
		char text[] = "10.0.0.0:80";
		struct endpoint_config endpoint;

		text[7] += (char)i;
		assert(!endpoint_config_parse(&endpoint, text) && endpoint_add(pods, &endpoint) == i);
	}
	return pods;
}

static void load_and_use(struct mirror *mirror, struct decider *decider, struct endpoint_table *pods, const uint64_t *blocks)
{
	struct session_stats sessions;
	struct mirror_stats stats;

	assert(!mirror_load(mirror, NOW_MS));
	mirror_get_stats(mirror, &stats);
	session_get_stats(decider_sessions(decider), &sessions);
	assert(!stats.queued && !stats.dropped && sessions.n <= SESSIONS_MAX);
	for (int i = 0; i < 3; i++)
		ask(decider, pods, blocks);
	for (uint32_t i = 0; i < PODS; i++)
		assert(decider_endpoint_blocks(decider, i) <= CAPACITY);
	mirror_flush(mirror);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A byte that says how many sessions there are, these, then prefixes. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct decide_config config = { .policy = POLICY_PREFIX_CACHE_AWARE, .weight_cache = 0.7, .weight_load = 0.3,
		.affinity_threshold = 0.6, .session_ttl_ms = 4000, .sessions_max = SESSIONS_MAX, .prefix_blocks_max = PAIRS_MAX,
		.prefix_block_bytes = 512, .bytes_per_token = 4, .default_capacity_blocks = CAPACITY, .seed = 1 };
	const size_t entry = sizeof(uint64_t) + sizeof(struct session_entry);
	static struct endpoint_table *pods;
	struct mirror_parts parts = { .sessions_fd = SESSIONS, .prefixes_fd = PREFIXES, .sessions_max = SESSIONS_MAX,
		.prefixes_max = PAIRS_MAX };
	uint64_t blocks[BLOCKS] = { 0 };
	struct mirror *mirror;

	if (!size--)
		return 0;
	pods = pods ? pods : make_pods();
	left[SESSIONS] = data + 1;
	n_left[SESSIONS] = *data * entry < size ? *data * entry : size;
	left[PREFIXES] = left[SESSIONS] + n_left[SESSIONS];
	n_left[PREFIXES] = size - n_left[SESSIONS];
	memcpy(blocks, data + 1, size < sizeof(blocks) ? size : sizeof(blocks));
	parts.endpoints = pods;
	parts.decider = decider_new(&config, pods);
	assert(parts.decider && !mirror_open(&parts, &mirror));
	load_and_use(mirror, parts.decider, pods, blocks);
	mirror_free(mirror);
	decider_free(parts.decider);
	return 0;
}
