/* SPDX-License-Identifier: Apache-2.0 */
/* Small files that an operator names: secrets, passwords, tokens. */
#ifndef LLMD_LIB_SMALL_FILE_H
#define LLMD_LIB_SMALL_FILE_H

#include <stdbool.h>
#include <stddef.h>

/**
 * small_file_read() - all of it into @out, which ends with NUL. A pipe (a shell's <(...), a FIFO) is waited for, some seconds.
 * Return: the length, -EFBIG for @size bytes or more, -ETIMEDOUT when a pipe's other end says nothing, or another -errno.
 */
int small_file_read(const char *path, char *out, size_t size);

/** small_file_is_other() - there is something, and no regular file: to open a pipe may take for ever, and it can be read only once. */
bool small_file_is_other(const char *path);

#endif
