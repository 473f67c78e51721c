/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's own ports towards pods, for each pod the whole of --port-range: no tuple is used twice while a connection
 * of an earlier agent, which no socket stands for, still lives in the kernel. A port that was used goes to the end of the
 * queue, so that the pod's side has as much time as there is to forget it.
 */
#ifndef LLMD_AGENT_PORT_POOL_H
#define LLMD_AGENT_PORT_POOL_H

#include <stdint.h>

struct port_pool;

/** port_pool_new() - @low, @high: host order, both included. An endpoint's queue (2 bytes a port) is made at its first use. */
struct port_pool *port_pool_new(uint16_t low, uint16_t high, uint32_t n_endpoints);
void port_pool_free(struct port_pool *pool);

/** port_pool_take() - Return: a port in host order, -EADDRNOTAVAIL when all are in use, -ENOMEM. */
int port_pool_take(struct port_pool *pool, uint32_t endpoint);

/** port_pool_reserve() - takes a given port out of the queue. Return: 0, -ERANGE, -ENOENT when it is in use, -ENOMEM. */
int port_pool_reserve(struct port_pool *pool, uint32_t endpoint, uint16_t port);

void port_pool_give(struct port_pool *pool, uint32_t endpoint, uint16_t port);

#endif
