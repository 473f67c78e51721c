// SPDX-License-Identifier: Apache-2.0
/* The copy of sessions and prefixes in BPF maps: written, read back, bounded. Needs the right to make maps. */
#include "tests/unit/test.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdbool.h>
#include <unistd.h>

#include "agent/mirror.h"
#include "agent/prefix.h"
#include "agent/session.h"
#include "lib/log.h"
#include "tests/unit/without_batches.h"

enum { PODS = 4, PROMPT = 10, SESSIONS = 64, MAP_MAX = 1 << 17, QUEUE_MAX = 1 << 16 };

/* The one agent's state, and the next one's. */
struct side {
	struct endpoint_table *pods;
	struct decider *decider;
	struct mirror *mirror;
};

static struct side before, after;
static int sessions_fd = -1, prefixes_fd = -1;
static uint64_t now_ms;

static struct decide_config config;

static void add_pods(struct endpoint_table *pods)
{
	for (int i = 0; i < PODS; i++) {
		struct endpoint_config endpoint;
		char text[64];

		sprintf(text, "10.0.0.%d:80", i + 1);
		assert_int_equal(endpoint_config_parse(&endpoint, text), 0);
		assert_int_equal(endpoint_add(pods, &endpoint), i);
	}
}

static void open_side(struct side *side, struct event_base *base)
{
	struct mirror_parts parts = { .base = base, .sessions_fd = sessions_fd, .prefixes_fd = prefixes_fd, .sessions_max = MAP_MAX,
		.prefixes_max = MAP_MAX };

	side->pods = calloc(1, sizeof(*side->pods));
	add_pods(side->pods);
	side->decider = decider_new(&config, side->pods);
	parts.decider = side->decider;
	parts.endpoints = side->pods;
	assert_int_equal(mirror_open(&parts, &side->mirror), 0);
}

static void close_side(struct side *side)
{
	mirror_free(side->mirror);
	decider_free(side->decider);
	free(side->pods);
	*side = (struct side){ 0 };
}

static int setup(void **state)
{
	(void)state;
	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
	now_ms = 1000000;
	without_batches = false;
	config = (struct decide_config){ .policy = POLICY_PREFIX_CACHE_AWARE, .weight_cache = 0.7, .weight_load = 0.3,
		.affinity_threshold = 0.6, .session_ttl_ms = 500000, .sessions_max = 2 * QUEUE_MAX, .prefix_blocks_max = 65536,
		.prefix_block_bytes = 512, .bytes_per_token = 4, .default_capacity_blocks = 4096, .seed = 7 };
	sessions_fd = bpf_map_create(BPF_MAP_TYPE_LRU_HASH, "sessions", 8, sizeof(struct session_entry), MAP_MAX, NULL);
	prefixes_fd = bpf_map_create(BPF_MAP_TYPE_LRU_HASH, "prefixes", 8, sizeof(struct prefix_entry), MAP_MAX, NULL);
	if (sessions_fd >= 0 && prefixes_fd >= 0)
		open_side(&before, NULL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	close_side(&before);
	close_side(&after);
	close(sessions_fd);
	close(prefixes_fd);
	return 0;
}

static void need_maps(void)
{
	if (sessions_fd >= 0 && prefixes_fd >= 0)
		return;
	print_message("SKIPPED: cannot make BPF maps (%s): needs root or CAP_BPF\n", strerror(-sessions_fd));
	skip();
}

static uint64_t hash_of(uint64_t n)
{
	return n * 0x9e3779b97f4a7c15ull;
}

/* A prompt that begins with @shared blocks that all have. */
static void prompt_of(uint64_t own, uint32_t shared, uint64_t *out)
{
	for (uint32_t i = 0; i < PROMPT; i++)
		out[i] = hash_of(i < shared ? 1000000 + i : own * 1000 + i);
}

static struct decision ask(struct side *side, uint64_t session, const uint64_t *blocks)
{
	const struct decide_request request = { .model = "", .has_session = session, .session = hash_of(session), .blocks = blocks,
		.n_blocks = PROMPT, .prompt_bytes = PROMPT * 512 };
	struct endpoint_claim claim;
	struct decision decision;

	assert_int_equal(decide(side->decider, &request, ++now_ms, &decision, &claim), 0);
	endpoint_claim_release(side->pods, &claim);
	return decision;
}

static void serve(uint32_t shared)
{
	uint64_t blocks[PROMPT];

	for (uint64_t s = 1; s <= SESSIONS; s++) {
		prompt_of(s, shared, blocks);
		ask(&before, s, blocks);
	}
	mirror_flush(before.mirror);
}

static struct mirror_stats restart(void)
{
	struct mirror_stats stats;

	open_side(&after, NULL);
	assert_int_equal(mirror_load(after.mirror, now_ms), 0);
	mirror_get_stats(after.mirror, &stats);
	return stats;
}

static void assert_same_caches(uint32_t shared)
{
	for (uint64_t s = 1; s <= SESSIONS; s++) {
		uint16_t was[ENDPOINT_MAX], is[ENDPOINT_MAX];
		uint64_t blocks[PROMPT];

		prompt_of(s, shared, blocks);
		prefix_match(decider_prefixes(before.decider), blocks, PROMPT, PODS, was);
		prefix_match(decider_prefixes(after.decider), blocks, PROMPT, PODS, is);
		assert_memory_equal(was, is, PODS * sizeof(*was));
	}
}

static bool has_session(uint64_t hash)
{
	struct session_entry entry;

	return !bpf_map_lookup_elem(sessions_fd, &hash, &entry);
}

static bool has_block(uint64_t hash, struct prefix_entry *entry)
{
	return !bpf_map_lookup_elem(prefixes_fd, &hash, entry);
}

static void routes_as_before(uint32_t shared)
{
	struct mirror_stats stats;
	uint64_t blocks[PROMPT];

	serve(shared);
	stats = restart();
	assert_int_equal(stats.rejected, 0);
	assert_int_equal(stats.loaded, SESSIONS + SESSIONS * (PROMPT - shared) + shared);
	assert_int_equal(stats.prefixes, SESSIONS * (PROMPT - shared) + shared);
	assert_same_caches(shared);
	for (uint64_t s = 1; s <= SESSIONS; s++) {
		struct decision was, is;

		prompt_of(s, shared, blocks);
		is = ask(&after, s, blocks);
		was = ask(&before, s, blocks);
		assert_int_equal(is.endpoint, was.endpoint);
		assert_int_equal(is.reason, DECISION_SESSION);
		assert_int_equal(is.cached_blocks, PROMPT);
	}
}

static void loaded_it_routes_the_same(void **state)
{
	(void)state;
	need_maps();
	routes_as_before(4);
}

static void works_without_batches(void **state)
{
	(void)state;
	need_maps();
	without_batches = true;
	routes_as_before(2);
}

static int note_hash(void *ctx, const struct session *session)
{
	uint64_t **at = ctx;

	*(*at)++ = session->hash;
	return 0;
}

static void sessions_keep_their_order(void **state)
{
	uint64_t was[SESSIONS], is[SESSIONS], blocks[PROMPT], *at;

	(void)state;
	need_maps();
	serve(0);
	for (uint64_t s = SESSIONS; s > SESSIONS / 2; s--) {
		prompt_of(s, 0, blocks);
		ask(&before, s, blocks);
	}
	mirror_flush(before.mirror);
	restart();
	at = was;
	session_walk(decider_sessions(before.decider), note_hash, &at);
	at = is;
	session_walk(decider_sessions(after.decider), note_hash, &at);
	assert_memory_equal(was, is, sizeof(was));
}

/* Both evict the same from then on, block by block. */
static void caches_keep_their_order(void **state)
{
	(void)state;
	need_maps();
	serve(0);
	restart();
	for (uint32_t blocks = SESSIONS * PROMPT / PODS; blocks > 0; blocks -= blocks > 7 ? 7 : 1) {
		for (uint32_t i = 0; i < PODS; i++) {
			prefix_set_capacity(decider_prefixes(before.decider), i, blocks);
			prefix_set_capacity(decider_prefixes(after.decider), i, blocks);
		}
		assert_same_caches(0);
	}
}

static void what_goes_leaves_the_maps(void **state)
{
	struct prefix_block block;
	struct prefix_entry entry;
	uint64_t blocks[PROMPT];

	(void)state;
	need_maps();
	serve(0);
	prompt_of(1, 0, blocks);
	assert_true(has_session(hash_of(1)) && has_block(blocks[3], &entry));
	assert_int_equal(entry.depth, 4);
	session_unbind(decider_sessions(before.decider), hash_of(1));
	assert_int_equal(prefix_block_get(decider_prefixes(before.decider), blocks[0], &block), 0);
	prefix_set_capacity(decider_prefixes(before.decider), block.holder[0], 3); /* evicts all but a head of the last prompt */
	mirror_flush(before.mirror);
	assert_false(has_session(hash_of(1)) || has_block(blocks[0], &entry) || has_block(blocks[9], &entry));
	for (uint32_t i = 0; i < PODS; i++)
		prefix_clear(decider_prefixes(before.decider), i);
	now_ms += config.session_ttl_ms;
	session_expire(decider_sessions(before.decider), now_ms, 2 * SESSIONS);
	mirror_flush(before.mirror);
	assert_int_equal(restart().loaded, 0);
	assert_int_equal(bpf_map_get_next_key(sessions_fd, NULL, blocks), -ENOENT);
	assert_int_equal(bpf_map_get_next_key(prefixes_fd, NULL, blocks), -ENOENT);
}

static void holders_are_told_the_latest_first(void **state)
{
	static const uint32_t users[] = { 0, 1, 2, 3, 1, 0 };
	static const uint16_t latest[] = { 0, 1, 3, 2 };
	const uint64_t hash = hash_of(5);
	struct prefix_entry entry;
	struct prefix_block block;

	(void)state;
	need_maps();
	decider_follow_endpoints(before.decider);
	for (size_t i = 0; i < COUNT(users); i++)
		prefix_insert(decider_prefixes(before.decider), users[i], &hash, 1, now_ms + i);
	mirror_flush(before.mirror);
	assert_true(has_block(hash, &entry) && entry.n == PODS && entry.depth == 1);
	for (int i = 0; i < PODS; i++)
		assert_true(entry.holder[i].endpoint == latest[i] && entry.holder[i].generation == 1);
	now_ms += COUNT(users) - 1;
	assert_int_equal(entry.last_used_ns, now_ms * 1000000);
	now_ms += 100;
	restart();
	assert_int_equal(prefix_block_get(decider_prefixes(after.decider), hash, &block), 0);
	assert_memory_equal(block.holder, latest, sizeof(latest));
	assert_int_equal(block.used_ms, now_ms - 100);
}

static void many_holders_keep_the_latest(void **state)
{
	struct prefix_index *index = prefix_index_new(4096);
	struct prefix_block block;
	const uint64_t hash = 1;

	(void)state;
	for (uint32_t i = 0; i < 100; i++)
		prefix_insert(index, i, &hash, 1, i);
	prefix_insert(index, 50, &hash, 1, 100);
	prefix_clear(index, 98);
	assert_int_equal(prefix_block_get(index, hash, &block), 0);
	assert_true(block.n_holders == 7 && block.used_ms == 100 && block.depth == 1);
	assert_true(block.holder[0] == 50 && block.holder[1] == 99 && block.holder[2] == 97 && block.holder[6] == 93);
	for (uint32_t i = 3; i < 100; i++)
		prefix_clear(index, i);
	prefix_insert(index, 1, &hash, 1, 100); /* in place again */
	assert_int_equal(prefix_block_get(index, hash, &block), 0);
	assert_true(block.n_holders == 3 && block.holder[0] == 1);
	for (uint32_t i = 0; i < 3; i++)
		prefix_clear(index, i);
	assert_int_equal(prefix_block_get(index, hash, &block), -ENOENT);
	prefix_index_free(index);
}

static void another_generation_is_not_believed(void **state)
{
	const uint64_t shared = hash_of(1000000);
	struct endpoint_config pod;
	struct mirror_stats stats;
	struct prefix_entry entry;
	uint64_t blocks[PROMPT];

	(void)state;
	need_maps();
	serve(1);
	open_side(&after, NULL);
	pod = after.pods->at[2].config;
	endpoint_remove(after.pods, 2);
	assert_int_equal(endpoint_add(after.pods, &pod), 2);
	assert_int_equal(mirror_load(after.mirror, now_ms), 0);
	mirror_get_stats(after.mirror, &stats);
	assert_true(stats.rejected > 0 && stats.deleted > 0 && stats.loaded > stats.rejected);
	assert_int_equal(decider_endpoint_blocks(after.decider, 2), 0);
	for (uint64_t s = 1; s <= SESSIONS; s++) {
		uint32_t was, is;
		uint64_t uses, idle_ms;

		assert_int_equal(decider_session_get(before.decider, hash_of(s), now_ms, &was, &uses, &idle_ms), 0);
		prompt_of(s, 1, blocks);
		assert_int_equal(has_session(hash_of(s)), was != 2);
		assert_int_equal(has_block(blocks[5], &entry), was != 2);
		assert_int_equal(decider_session_get(after.decider, hash_of(s), now_ms, &is, &uses, &idle_ms), was != 2 ? 0 : -ENOENT);
		assert_true(was == 2 || is == was);
	}
	assert_true(has_block(shared, &entry) && entry.n == PODS - 1);
	for (uint32_t i = 0; i < entry.n; i++)
		assert_int_not_equal(entry.holder[i].endpoint, 2);
}

static void expired_sessions_are_not_read(void **state)
{
	(void)state;
	need_maps();
	serve(0);
	now_ms += config.session_ttl_ms - SESSIONS / 2;
	assert_int_equal(restart().loaded, SESSIONS * PROMPT + SESSIONS / 2);
	assert_true(!has_session(hash_of(SESSIONS / 2)) && has_session(hash_of(SESSIONS / 2 + 1)));
}

static void what_comes_too_fast_is_dropped(void **state)
{
	enum { MORE = 1000 };
	struct mirror_stats stats;

	(void)state;
	need_maps();
	for (uint64_t i = 1; i <= QUEUE_MAX + MORE; i++)
		for (int twice = 0; twice < 2; twice++)
			session_bind(decider_sessions(before.decider), hash_of(i), 0, 1, now_ms);
	mirror_get_stats(before.mirror, &stats);
	assert_true(stats.queued == QUEUE_MAX && stats.dropped == MORE && !stats.written);
	mirror_flush(before.mirror);
	mirror_get_stats(before.mirror, &stats);
	assert_true(!stats.queued && stats.written == QUEUE_MAX && !stats.failed);
	assert_true(!has_session(hash_of(1)) && !has_session(hash_of(MORE)));
	assert_true(has_session(hash_of(MORE + 1)) && has_session(hash_of(QUEUE_MAX + MORE)));
}

static void foreign_entries_do_no_harm(void **state)
{
	static const struct session_entry sessions[] = { { .endpoint = 5000, .generation = 1 }, { .endpoint = PODS, .generation = 0 },
		{ .endpoint = UINT32_MAX, .generation = UINT32_MAX }, { .endpoint = 1, .generation = 0x10001 } };
	static const struct prefix_entry prefixes[] = { { .n = 0 }, { .n = 9, .depth = 1 }, { .n = UINT32_MAX, .depth = UINT32_MAX },
		{ .n = 2, .holder = { { 1, 1 }, { 65535, 1 } }, .depth = UINT32_MAX, .last_used_ns = UINT64_MAX },
		{ .n = 2, .holder = { { 1, 1 }, { 1, 1 } }, .last_used_ns = UINT64_MAX } };
	const struct session_entry future = { .endpoint = 1, .generation = 1, .last_used_ns = UINT64_MAX };
	struct prefix_block block;
	struct mirror_stats stats;
	uint64_t key = 1, uses, idle_ms;
	uint32_t index;

	(void)state;
	need_maps();
	assert_int_equal(bpf_map_update_elem(sessions_fd, &key, &future, BPF_ANY), 0);
	for (key = 2; key - 2 < COUNT(sessions); key++)
		assert_int_equal(bpf_map_update_elem(sessions_fd, &key, &sessions[key - 2], BPF_ANY), 0);
	for (key = 0; key < COUNT(prefixes); key++)
		assert_int_equal(bpf_map_update_elem(prefixes_fd, &key, &prefixes[key], BPF_ANY), 0);
	stats = restart();
	assert_true(stats.loaded == 2 && stats.rejected == COUNT(sessions) + 4 && stats.sessions == 1 && stats.prefixes == 2);
	assert_int_equal(decider_session_get(after.decider, 1, now_ms, &index, &uses, &idle_ms), 0);
	assert_true(index == 1 && idle_ms == 0);
	assert_int_equal(prefix_block_get(decider_prefixes(after.decider), 3, &block), 0);
	assert_true(block.n_holders == 1 && block.depth == UINT16_MAX && block.used_ms == now_ms);
	assert_true(!has_session(2) && !has_session(5) && has_session(1));
}

static void writes_by_itself(void **state)
{
	struct event_base *base = event_base_new();
	struct mirror_stats stats;
	uint64_t blocks[PROMPT];

	(void)state;
	need_maps();
	open_side(&after, base);
	for (uint64_t s = 1; s <= 1000; s++) {
		prompt_of(s, 0, blocks);
		ask(&after, s, blocks);
	}
	mirror_get_stats(after.mirror, &stats);
	assert_int_equal(stats.written, 0);
	assert_int_equal(event_base_loop(base, 0), 1); /* until no timer is left */
	mirror_get_stats(after.mirror, &stats);
	assert_true(!stats.queued && stats.written >= 1000 + 1000 * PROMPT && stats.written < 2 * (1000 + 1000 * PROMPT));
	assert_true(has_session(hash_of(1)) && has_session(hash_of(1000)));
	close_side(&after);
	event_base_free(base);
}

int main(void)
{
#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(loaded_it_routes_the_same),
		CASE(works_without_batches),
		CASE(sessions_keep_their_order),
		CASE(caches_keep_their_order),
		CASE(what_goes_leaves_the_maps),
		CASE(holders_are_told_the_latest_first),
		CASE(many_holders_keep_the_latest),
		CASE(another_generation_is_not_believed),
		CASE(expired_sessions_are_not_read),
		CASE(what_comes_too_fast_is_dropped),
		CASE(foreign_entries_do_no_harm),
		CASE(writes_by_itself),
	};

	return cmocka_run_group_tests_name("mirror", tests, NULL, NULL);
}
