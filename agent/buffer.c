// SPDX-License-Identifier: Apache-2.0
/* A bounded byte queue: see buffer.h. */
#include "agent/buffer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER_MIN = 2048 };

int buffer_reserve(struct buffer *buffer, size_t more, size_t max)
{
	size_t cap = buffer->cap ? buffer->cap : BUFFER_MIN;
	char *data;

	if (more > max || buffer->len > max - more)
		return -ENOBUFS;
	if (buffer_room(buffer) >= more)
		return 0;
	if (buffer->cap - buffer->len >= more) {
		memmove(buffer->data, buffer->data + buffer->start, buffer->len);
		buffer->start = 0;
		return 0;
	}
	while (cap < buffer->len + more)
		cap *= 2;
	data = malloc(cap); /* not realloc(), which would move what was consumed, too */
	if (!data)
		return -ENOMEM;
	if (buffer->len)
		memcpy(data, buffer_head(buffer), buffer->len);
	free(buffer->data);
	*buffer = (struct buffer){ data, 0, buffer->len, cap };
	return 0;
}

int buffer_append(struct buffer *buffer, const void *data, size_t len, size_t max)
{
	int err = buffer_reserve(buffer, len, max);

	if (err || !len)
		return err;
	memcpy(buffer_tail(buffer), data, len);
	buffer->len += len;
	return 0;
}

void buffer_consume(struct buffer *buffer, size_t len)
{
	assert(len <= buffer->len);
	buffer->len -= len;
	buffer->start = buffer->len ? buffer->start + len : 0;
}

void buffer_free(struct buffer *buffer)
{
	free(buffer->data);
	*buffer = (struct buffer){ 0 };
}
