/* SPDX-License-Identifier: Apache-2.0 */
/* What an agent has to tell and Redis has not yet taken: a ring of bounded size, in which the oldest make room. */
#ifndef LLMD_AGENT_EVENTS_QUEUE_H
#define LLMD_AGENT_EVENTS_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/cache_event.h"

/** struct events_record - one event. @generation: an endpoint that has been replaced meanwhile is nothing to tell of. */
struct events_record {
	enum cache_event_kind kind;
	bool on;
	uint32_t endpoint, generation;
	uint64_t session;
	uint32_t seq;
	uint32_t depth, tokens, n_hashes;
	const uint64_t *hash;
};

/** struct events_queue - @head, @tail: words that were ever taken out and put in. @dropped: called for each that made room. */
struct events_queue {
	uint64_t *ring;
	uint64_t head, tail;
	void (*dropped)(void *ctx, const struct events_record *record);
	void *ctx;
};

enum { EVENTS_QUEUE_WORDS = 1 << 19 };

int events_queue_init(struct events_queue *queue, void (*dropped)(void *ctx, const struct events_record *record), void *ctx);
void events_queue_fini(struct events_queue *queue);

void events_queue_push(struct events_queue *queue, const struct events_record *record);

/**
 * events_queue_read() - the record at @at, a place between head and tail. @hashes: room for CACHE_EVENT_HASHES_MAX.
 * Return: the place of the next one.
 */
uint64_t events_queue_read(const struct events_queue *queue, uint64_t at, struct events_record *out, uint64_t *hashes);

/** events_queue_release() - all before @at was taken. */
static inline void events_queue_release(struct events_queue *queue, uint64_t at)
{
	if (queue->head < at)
		queue->head = at;
}

static inline uint64_t events_queue_words(const struct events_queue *queue)
{
	return queue->tail - queue->head;
}

#endif
