/* SPDX-License-Identifier: Apache-2.0 */
/* Hashes of what has changed and is to be written, in the order of the changes, each once or a little more. Bounded. */
#ifndef LLMD_AGENT_DIRTY_QUEUE_H
#define LLMD_AGENT_DIRTY_QUEUE_H

#include <stdint.h>

enum { DIRTY_RECENT = 1 << 14 };

/** struct dirty_queue - @recent: by low bits of a hash its high bits, if it is in the queue; so that few are in it twice. */
struct dirty_queue {
	uint64_t *ring;
	uint64_t first, end, dropped;
	uint32_t size; /* a power of two */
	uint32_t recent[DIRTY_RECENT];
};

/** dirty_queue_init() - @size: a power of two. Memory is touched as the queue fills. Return: 0 or -ENOMEM. */
int dirty_queue_init(struct dirty_queue *queue, uint32_t size);
void dirty_queue_fini(struct dirty_queue *queue);

static inline uint64_t dirty_queue_n(const struct dirty_queue *queue)
{
	return queue->end - queue->first;
}

static inline uint32_t *dirty_recent(struct dirty_queue *queue, uint64_t hash)
{
	return &queue->recent[hash % DIRTY_RECENT];
}

/* 0 is an empty place. */
static inline uint32_t dirty_tag(uint64_t hash)
{
	uint32_t tag = (uint32_t)(hash >> 32);

	return tag ? tag : 1;
}

/** dirty_queue_take() - the oldest one; there must be one. */
static inline uint64_t dirty_queue_take(struct dirty_queue *queue)
{
	uint64_t hash = queue->ring[queue->first++ % queue->size];

	if (*dirty_recent(queue, hash) == dirty_tag(hash))
		*dirty_recent(queue, hash) = 0;
	return hash;
}

/** dirty_queue_add() - on a request's path; the oldest one is dropped when there is no room. */
static inline void dirty_queue_add(struct dirty_queue *queue, uint64_t hash)
{
	if (*dirty_recent(queue, hash) == dirty_tag(hash))
		return;
	if (dirty_queue_n(queue) == queue->size) {
		dirty_queue_take(queue);
		queue->dropped++;
	}
	*dirty_recent(queue, hash) = dirty_tag(hash);
	queue->ring[queue->end++ % queue->size] = hash;
}

#endif
