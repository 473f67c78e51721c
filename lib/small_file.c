// SPDX-License-Identifier: Apache-2.0
/* Small files: see small_file.h. */
#include "lib/small_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATIENCE_MS = 5000 };

/* @may_begin: a FIFO that nobody has opened yet reads as if it were at its end. */
static ssize_t read_some(int fd, bool may_begin, char *out, size_t size)
{
	struct pollfd waiting = { .fd = fd, .events = POLLIN };
	ssize_t n = read(fd, out, size);

	if (n > 0 || (n < 0 && errno != EAGAIN) || (!n && !may_begin))
		return n;
	if (!poll(&waiting, 1, PATIENCE_MS)) {
		errno = ETIMEDOUT;
		return -1;
	}
	return read(fd, out, size);
}

int small_file_read(const char *path, char *out, size_t size)
{
	int err = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	size_t have = 0;
	ssize_t n = 1;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st))
		err = -errno;
	while (!err && n > 0 && have < size) {
		n = read_some(fd, S_ISFIFO(st.st_mode) && !have, out + have, size - have);
		if (n < 0)
			err = -errno;
		else
			have += (size_t)n;
	}
	close(fd);
	if (!err && have == size)
		err = -EFBIG;
	if (err)
		return err;
	out[have] = '\0';
	return (int)have;
}

bool small_file_is_other(const char *path)
{
	struct stat st;

	return !stat(path, &st) && !S_ISREG(st.st_mode);
}
