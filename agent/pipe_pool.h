/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded pool of pipes for splice(2). */
#ifndef LLMD_AGENT_PIPE_POOL_H
#define LLMD_AGENT_PIPE_POOL_H

#include <stddef.h>

enum { PIPE_POOL_MAX = 256, PIPE_SIZE_WANTED = 256 * 1024 };

/** struct pipe - @used: bytes in it, kept by whoever holds it. */
struct pipe {
	int fd[2];
	size_t size, used;
	struct pipe *next;
};

/** struct pipe_pool - zeroed is empty; pipes are made on demand, PIPE_POOL_MAX at most at a time. */
struct pipe_pool {
	struct pipe *idle;
	size_t n_open;
};

/** pipe_pool_take() - Return: an empty pipe, or NULL when all are in use or none can be made. */
struct pipe *pipe_pool_take(struct pipe_pool *pool);

/** pipe_pool_give() - back; one that still holds bytes is closed, so that nobody else reads them. */
void pipe_pool_give(struct pipe_pool *pool, struct pipe *pipe);

/** pipe_pool_close() - closes all idle pipes. */
void pipe_pool_close(struct pipe_pool *pool);

#endif
