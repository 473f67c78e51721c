/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded byte queue: append at the end, consume at the front. */
#ifndef LLMD_AGENT_BUFFER_H
#define LLMD_AGENT_BUFFER_H

#include <stddef.h>

/** struct buffer - zeroed is empty; @data + @start holds @len bytes. */
struct buffer {
	char *data;
	size_t start, len, cap;
};

static inline char *buffer_head(const struct buffer *buffer)
{
	return buffer->data + buffer->start;
}

static inline char *buffer_tail(const struct buffer *buffer)
{
	return buffer->data + buffer->start + buffer->len;
}

/** buffer_room() - bytes that fit at the tail as it stands. */
static inline size_t buffer_room(const struct buffer *buffer)
{
	return buffer->cap - buffer->start - buffer->len;
}

/** buffer_reserve() - makes room for @more bytes; the data may move. Return: 0, -ENOBUFS past @max in all, -ENOMEM. */
int buffer_reserve(struct buffer *buffer, size_t more, size_t max);

/** buffer_append() - Return: as buffer_reserve(). */
int buffer_append(struct buffer *buffer, const void *data, size_t len, size_t max);

void buffer_consume(struct buffer *buffer, size_t len);

/** buffer_free() - leaves it empty and without memory. */
void buffer_free(struct buffer *buffer);

#endif
