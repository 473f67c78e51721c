// SPDX-License-Identifier: Apache-2.0
/* Parts of llmd-load and llmd-sim: events, quantiles, traces, the simulated cache. */
#include "tests/unit/test.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/load/load.h"
#include "tools/sim/sim.h"

static void events_in_any_cut(void **state)
{
	const char *stream = "event: x\r\ndata: {\"a\":1}\r\n\r\n: comment\n\ndata: {\"t_ns\":77}\n\ndata: [DONE]\n\n";

	(void)state;
	for (size_t step = 1; step < 80; step++) {
		static struct sse sse;

		sse = (struct sse){ 0 };
		for (size_t at = 0; at < strlen(stream); at += step)
			sse_feed(&sse, stream + at, strlen(stream) - at < step ? strlen(stream) - at : step);
		assert_true(sse.events == 2 && sse.done && !sse.malformed && sse.stamp_ns == 77);
	}
}

static void events_that_are_wrong(void **state)
{
	static const char *const wrong[] = { "data: {\"a\":1\n\n", "data:x\n\n", "nonsense\n", "data: [DONE]\n\ndata: {}\n\n" };
	static struct sse sse;

	(void)state;
	for (size_t i = 0; i < COUNT(wrong); i++) {
		sse = (struct sse){ 0 };
		sse_feed(&sse, wrong[i], strlen(wrong[i]));
		if (!sse.malformed)
			fail_msg("taken: %s", wrong[i]);
	}
}

static void quantiles_are_close(void **state)
{
	static struct quantile quantile;

	(void)state;
	for (uint64_t i = 1; i <= 100000; i++)
		quantile_add(&quantile, i * 1000);
	for (double share = 0.01; share < 1; share += 0.01) {
		double exact = share * 0.1, error = quantile_at(&quantile, share) / exact - 1;

		if (error < -0.001 || error > 0.004)
			fail_msg("%g: off by %g", share, error);
	}
	quantile_add(&quantile, UINT64_MAX);
	assert_true(quantile.n == 100001);
}

static int read_text(const char *text, struct trace **out, char *error)
{
	int fd = memfd_create("trace", MFD_CLOEXEC), err;
	char path[64];

	assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	err = trace_read(out, path, 0, error, 200);
	close(fd);
	return err;
}

#define LINE(at, ids) "{\"timestamp\":" #at ",\"input_length\":600,\"output_length\":5,\"hash_ids\":[" ids "]}\n"

static void infers_sessions(void **state)
{
	static const uint32_t expected[] = { 0, 1, 0, 1, 2 };
	struct trace *trace;
	char error[200];

	(void)state;
	assert_int_equal(read_text(LINE(0, "0,1") LINE(1, "0,2") LINE(2, "0,1,3") LINE(3, "0,2,4") LINE(4, "0,9"), &trace, error), 0);
	assert_int_equal(trace_infer_sessions(trace), 0);
	assert_int_equal(trace->n_sessions, 3);
	for (size_t i = 0; i < trace->n; i++)
		assert_int_equal(trace->at[i].session, expected[i]);
	trace_free(trace);
}

static void names_the_line_that_is_wrong(void **state)
{
	static const char *const wrong[] = { LINE(0, "1") "x\n", LINE(0, "1") LINE(1, "-1"), LINE(5, "1") LINE(4, "1"),
		LINE(0, "1") "{\"timestamp\":1}\n", LINE(0, "1") LINE(1, "\"a\"") };
	struct trace *trace;
	char error[200];

	(void)state;
	for (size_t i = 0; i < COUNT(wrong); i++) {
		assert_int_equal(read_text(wrong[i], &trace, error), -EINVAL);
		assert_non_null(strstr(error, "line 2"));
	}
	assert_int_equal(read_text("", &trace, error), -EINVAL);
}

static void cache_evicts_tails_first(void **state)
{
	struct kv_cache *cache = kv_cache_new(6);
	uint64_t a[4] = { 1, 2, 3, 4 }, b[4] = { 11, 12, 13, 14 };
	uint32_t blocks[8];

	(void)state;
	assert_int_equal(kv_cache_take(cache, a, 4, 4, blocks), 0);
	assert_int_equal(kv_cache_in_use(cache), 4);
	assert_int_equal(kv_cache_take(cache, b, 4, 4, blocks + 4), -ENOSPC);
	kv_cache_give(cache, blocks, 4);
	assert_int_equal(kv_cache_match(cache, a, 4), 4);
	assert_int_equal(kv_cache_take(cache, b, 4, 4, blocks), 0);
	assert_int_equal(kv_cache_match(cache, a, 4), 2);
	kv_cache_give(cache, blocks, 4);
	assert_int_equal(kv_cache_in_use(cache), 0);
	kv_cache_free(cache);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(events_in_any_cut),
		cmocka_unit_test(events_that_are_wrong),
		cmocka_unit_test(quantiles_are_close),
		cmocka_unit_test(infers_sessions),
		cmocka_unit_test(names_the_line_that_is_wrong),
		cmocka_unit_test(cache_evicts_tails_first),
	};

	return cmocka_run_group_tests_name("load", tests, NULL, NULL);
}
