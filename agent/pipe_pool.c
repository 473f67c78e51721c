// SPDX-License-Identifier: Apache-2.0
/* A bounded pool of pipes: see pipe_pool.h. */
#include "agent/pipe_pool.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static struct pipe *pipe_new(void)
{
	struct pipe *pipe = calloc(1, sizeof(*pipe));
	int size;

	if (!pipe)
		return NULL;
	if (pipe2(pipe->fd, O_NONBLOCK | O_CLOEXEC)) {
		free(pipe);
		return NULL;
	}
	/* Beyond the user's quota the kernel refuses; the default size then does. */
	size = fcntl(pipe->fd[0], F_SETPIPE_SZ, PIPE_SIZE_WANTED);
	if (size < 0)
		size = fcntl(pipe->fd[0], F_GETPIPE_SZ);
	pipe->size = size > 0 ? (size_t)size : 4096;
	return pipe;
}

static void pipe_close(struct pipe_pool *pool, struct pipe *pipe)
{
	close(pipe->fd[0]);
	close(pipe->fd[1]);
	free(pipe);
	pool->n_open--;
}

struct pipe *pipe_pool_take(struct pipe_pool *pool)
{
	struct pipe *pipe = pool->idle;

	if (pipe) {
		pool->idle = pipe->next;
		return pipe;
	}
	if (pool->n_open == PIPE_POOL_MAX)
		return NULL;
	pipe = pipe_new();
	pool->n_open += pipe != NULL;
	return pipe;
}

void pipe_pool_give(struct pipe_pool *pool, struct pipe *pipe)
{
	if (pipe->used) {
		pipe_close(pool, pipe);
		return;
	}
	pipe->next = pool->idle;
	pool->idle = pipe;
}

void pipe_pool_close(struct pipe_pool *pool)
{
	while (pool->idle) {
		struct pipe *next = pool->idle->next;

		pipe_close(pool, pool->idle);
		pool->idle = next;
	}
}
