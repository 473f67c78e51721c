// SPDX-License-Identifier: Apache-2.0
/* What an agent has to tell: see events_queue.h. A record is HEAD words and its hashes; it may lie across the ring's end. */
#include "agent/events_queue.h"

#include <errno.h>
#include <stdlib.h>

enum { HEAD = 4 };

int events_queue_init(struct events_queue *queue, void (*dropped)(void *ctx, const struct events_record *record), void *ctx)
{
	*queue = (struct events_queue){ .dropped = dropped, .ctx = ctx };
	queue->ring = calloc(EVENTS_QUEUE_WORDS, sizeof(*queue->ring));
	return queue->ring ? 0 : -ENOMEM;
}

void events_queue_fini(struct events_queue *queue)
{
	free(queue->ring);
	queue->ring = NULL;
}

static uint64_t *word(const struct events_queue *queue, uint64_t at)
{
	return &queue->ring[at % EVENTS_QUEUE_WORDS];
}

uint64_t events_queue_read(const struct events_queue *queue, uint64_t at, struct events_record *out, uint64_t *hashes)
{
	uint64_t what = *word(queue, at), where = *word(queue, at + 1), seq_depth = *word(queue, at + 3);

	*out = (struct events_record){
		.kind = (enum cache_event_kind)(what & 0xff),
		.on = what >> 8 & 1,
		.n_hashes = (uint32_t)(what >> 16 & 0xffff),
		.tokens = (uint32_t)(what >> 32),
		.endpoint = (uint32_t)where,
		.generation = (uint32_t)(where >> 32),
		.session = *word(queue, at + 2),
		.seq = (uint32_t)seq_depth,
		.depth = (uint32_t)(seq_depth >> 32),
		.hash = hashes,
	};
	for (uint32_t i = 0; hashes && i < out->n_hashes; i++)
		hashes[i] = *word(queue, at + HEAD + i);
	return at + HEAD + out->n_hashes;
}

static void drop_oldest(struct events_queue *queue)
{
	struct events_record oldest;

	queue->head = events_queue_read(queue, queue->head, &oldest, NULL);
	queue->dropped(queue->ctx, &oldest);
}

void events_queue_push(struct events_queue *queue, const struct events_record *record)
{
	uint32_t n = record->n_hashes < CACHE_EVENT_HASHES_MAX ? record->n_hashes : CACHE_EVENT_HASHES_MAX;

	while (events_queue_words(queue) + HEAD + n > EVENTS_QUEUE_WORDS)
		drop_oldest(queue);
	*word(queue, queue->tail) = (uint64_t)record->kind | (uint64_t)record->on << 8 | (uint64_t)n << 16 | (uint64_t)record->tokens << 32;
	*word(queue, queue->tail + 1) = record->endpoint | (uint64_t)record->generation << 32;
	*word(queue, queue->tail + 2) = record->session;
	*word(queue, queue->tail + 3) = record->seq | (uint64_t)record->depth << 32;
	for (uint32_t i = 0; i < n; i++)
		*word(queue, queue->tail + HEAD + i) = record->hash[i];
	queue->tail += HEAD + n;
}
