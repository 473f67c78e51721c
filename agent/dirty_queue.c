// SPDX-License-Identifier: Apache-2.0
/* Hashes of what is to be written: see dirty_queue.h. */
#include "agent/dirty_queue.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int dirty_queue_init(struct dirty_queue *queue, uint32_t size)
{
	void *ring = mmap(NULL, size * sizeof(*queue->ring), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	memset(queue, 0, sizeof(*queue));
	if (ring == MAP_FAILED)
		return -ENOMEM;
	queue->ring = ring;
	queue->size = size;
	return 0;
}

void dirty_queue_fini(struct dirty_queue *queue)
{
	if (queue->ring)
		munmap(queue->ring, queue->size * sizeof(*queue->ring));
	queue->ring = NULL;
}
