// SPDX-License-Identifier: Apache-2.0
/* Sharing through Redis, the parts without a Redis: load of the others, the queue, who is heard on a session. */
#include "tests/unit/test.h"

#include <errno.h>

#include "agent/events_load.h"
#include "agent/events_queue.h"
#include "agent/session.h"

/* ---- load ---- */

static struct endpoint_table pods;
static struct events_loads loads;

static void set(uint64_t agent, uint32_t endpoint, uint64_t tokens, uint64_t until_ms)
{
	struct events_load_part *part = malloc(sizeof(*part));

	*part = (struct events_load_part){ endpoint, pods.at[endpoint].generation, 1, tokens };
	assert_int_equal(events_load_set(&loads, &pods, agent, part, 1, until_ms), 0);
}

static int two_pods(void **state)
{
	(void)state;
	pods = (struct endpoint_table){ .n = 2 };
	for (uint32_t i = 0; i < 2; i++) {
		pods.at[i].state = ENDPOINT_READY;
		pods.at[i].generation = 10 + i;
	}
	return 0;
}

static int no_loads(void **state)
{
	(void)state;
	events_load_fini(&loads, &pods);
	return 0;
}

static void loads_sum_up_and_end_in_time(void **state)
{
	(void)state;
	assert_true(events_load_next(&loads) == UINT64_MAX);
	set(1, 0, 100, 1500);
	set(2, 0, 20, 1700);
	set(2, 0, 30, 1900); /* in the place of what it said before */
	assert_int_equal(pods.at[0].remote_tokens, 130);
	assert_int_equal(pods.at[0].remote_requests, 2);
	assert_int_equal(events_load_next(&loads), 1500);
	events_load_expire(&loads, &pods, 1499);
	assert_int_equal(pods.at[0].remote_tokens, 130);
	events_load_expire(&loads, &pods, 1500);
	assert_int_equal(pods.at[0].remote_tokens, 30);
	assert_int_equal(events_load_next(&loads), 1900);
	assert_int_equal(events_load_set(&loads, &pods, 2, NULL, 0, 3000), 0);
	assert_int_equal(pods.at[0].remote_tokens + pods.at[0].remote_requests, 0);
	assert_true(events_load_next(&loads) == UINT64_MAX);
}

static void a_pod_that_was_replaced_is_not_touched(void **state)
{
	(void)state;
	set(1, 1, 100, 1500);
	pods.at[1].generation++;
	pods.at[1].remote_tokens = pods.at[1].remote_requests = 0;
	events_load_expire(&loads, &pods, 1500);
	assert_int_equal(pods.at[1].remote_tokens + pods.at[1].remote_requests, 0);
}

static void agents_are_bounded(void **state)
{
	struct events_load_part part = { 0, 10, 1, 1 };

	(void)state;
	for (uint64_t i = 0; i < EVENTS_AGENTS_MAX; i++)
		set(i, 0, 1, 1500);
	assert_int_equal(events_load_set(&loads, &pods, EVENTS_AGENTS_MAX, &part, 1, 1500), -ENOSPC);
	set(7, 0, 5, 1500); /* one that is there is heard */
	assert_int_equal(pods.at[0].remote_tokens, EVENTS_AGENTS_MAX + 4);
}

/* ---- the queue ---- */

static uint64_t dropped, last_dropped;

static void on_dropped(void *ctx, const struct events_record *record)
{
	(void)ctx;
	dropped++;
	last_dropped = record->session;
}

static void the_oldest_make_room(void **state)
{
	uint64_t hashes[CACHE_EVENT_HASHES_MAX], back[CACHE_EVENT_HASHES_MAX], pushed = 0, at;
	struct events_queue queue;
	struct events_record record;

	(void)state;
	assert_int_equal(events_queue_init(&queue, on_dropped, NULL), 0);
	while (dropped < 3000) { /* more than once around */
		for (uint32_t i = 0; i < pushed % 400; i++)
			hashes[i] = pushed * 1000 + i;
		record = (struct events_record){ .kind = CACHE_EVENT_STORED, .on = pushed & 1, .endpoint = 7, .generation = 9, .session = pushed,
			.seq = (uint32_t)pushed, .depth = 3, .tokens = 11, .n_hashes = (uint32_t)(pushed % 400), .hash = hashes };
		events_queue_push(&queue, &record);
		pushed++;
		assert_true(events_queue_words(&queue) <= EVENTS_QUEUE_WORDS);
	}
	at = queue.head;
	for (uint64_t i = last_dropped + 1; i < pushed; i++) {
		at = events_queue_read(&queue, at, &record, back);
		assert_int_equal(record.session, i);
		assert_int_equal(record.on, i & 1);
		assert_int_equal(record.tokens + record.depth + record.endpoint + record.generation, 30);
		assert_int_equal(record.n_hashes, i % 400);
		for (uint32_t k = 0; k < record.n_hashes; k++)
			assert_int_equal(back[k], i * 1000 + k);
	}
	assert_int_equal(at, queue.tail);
	events_queue_fini(&queue);
}

/* ---- whose word counts ---- */

static void a_word_is_owed_until_it_is_read_or_told_anew(void **state)
{
	struct session_table *table = session_table_new(4, 60000);
	struct session said = { .hash = 5, .endpoint = 1, .generation = 11, .last_used_ms = 2000 };

	(void)state;
	assert_true(session_bind(table, 5, 0, 10, 1000));
	session_tell(table, 5, 3, 1);
	session_bind(table, 5, 0, 10, 1100);
	session_tell(table, 5, 4, 1);
	session_settle(table, 5, 3); /* the older of two on their way */
	assert_int_equal(session_owed(table, 5), 4);
	session_settle(table, 5, 4);
	assert_int_equal(session_owed(table, 5), 0);
	session_adopt(table, &said, 2);
	assert_false(session_get(table, 5)->is_own); /* not told again */
	assert_int_equal(session_get(table, 5)->endpoint, 1);
	said.is_own = true;
	session_adopt(table, &said, 2);
	assert_true(session_get(table, 5)->is_own);
	session_unbind(table, 5);
	assert_int_equal(session_owed(table, 5), 0);
	session_table_free(table);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(loads_sum_up_and_end_in_time, two_pods, no_loads),
		cmocka_unit_test_setup_teardown(a_pod_that_was_replaced_is_not_touched, two_pods, no_loads),
		cmocka_unit_test_setup_teardown(agents_are_bounded, two_pods, no_loads),
		cmocka_unit_test(the_oldest_make_room),
		cmocka_unit_test(a_word_is_owed_until_it_is_read_or_told_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
