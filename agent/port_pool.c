// SPDX-License-Identifier: Apache-2.0
/* See port_pool.h. */
#include "agent/port_pool.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

/* A ring: @n ports from @head on are free. */
struct port_queue {
	uint32_t head, n;
	uint16_t port[];
};

struct port_pool {
	uint16_t low;
	uint32_t size, n_endpoints;
	struct port_queue *queue[];
};

struct port_pool *port_pool_new(uint16_t low, uint16_t high, uint32_t n_endpoints)
{
	struct port_pool *pool = calloc(1, sizeof(*pool) + n_endpoints * sizeof(pool->queue[0]));

	if (!pool)
		return NULL;
	pool->low = low;
	pool->size = (uint32_t)high - low + 1;
	pool->n_endpoints = n_endpoints;
	return pool;
}

void port_pool_free(struct port_pool *pool)
{
	if (!pool)
		return;
	for (uint32_t i = 0; i < pool->n_endpoints; i++)
		free(pool->queue[i]);
	free(pool);
}

static struct port_queue *queue_of(struct port_pool *pool, uint32_t endpoint)
{
	struct port_queue *queue = pool->queue[endpoint];

	if (queue)
		return queue;
	queue = malloc(sizeof(*queue) + pool->size * sizeof(queue->port[0]));
	if (!queue)
		return NULL;
	/* Not where an agent begins that is just leaving, or an earlier one whose connections are in TIME_WAIT. */
	queue->head = randombytes_uniform(pool->size);
	queue->n = pool->size;
	for (uint32_t i = 0; i < pool->size; i++)
		queue->port[i] = (uint16_t)(pool->low + i);
	pool->queue[endpoint] = queue;
	return queue;
}

int port_pool_take(struct port_pool *pool, uint32_t endpoint)
{
	struct port_queue *queue = queue_of(pool, endpoint);
	int port;

	if (!queue)
		return -ENOMEM;
	if (!queue->n)
		return -EADDRNOTAVAIL;
	port = queue->port[queue->head];
	queue->head = (queue->head + 1) % pool->size;
	queue->n--;
	return port;
}

int port_pool_reserve(struct port_pool *pool, uint32_t endpoint, uint16_t port)
{
	struct port_queue *queue = queue_of(pool, endpoint);

	if (!queue)
		return -ENOMEM;
	if (port < pool->low || port >= pool->low + pool->size)
		return -ERANGE;
	for (uint32_t i = 0; i < queue->n; i++) {
		uint16_t *found = &queue->port[(queue->head + i) % pool->size];

		if (*found != port)
			continue;
		*found = queue->port[queue->head];
		queue->head = (queue->head + 1) % pool->size;
		queue->n--;
		return 0;
	}
	return -ENOENT;
}

void port_pool_give(struct port_pool *pool, uint32_t endpoint, uint16_t port)
{
	struct port_queue *queue = pool->queue[endpoint];

	if (!queue || queue->n == pool->size || port < pool->low || port >= pool->low + pool->size)
		return;
	queue->port[(queue->head + queue->n) % pool->size] = port;
	queue->n++;
}
