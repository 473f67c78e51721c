// SPDX-License-Identifier: Apache-2.0
/*
 * Preloaded into an agent by bench/redis: a histogram of the CPU time that its thread spends between two calls of epoll_wait(),
 * a bucket a microsecond, in the file that TURNS_FILE names. CPU time, so that it does not count who else had the processor.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { BUCKETS = 16384 };

static int (*real_wait)(int fd, struct epoll_event *events, int max, int timeout_ms);
static uint64_t *histogram;
static uint64_t woken_ns;

static uint64_t cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("TURNS_FILE");
	size_t size = BUCKETS * sizeof(*histogram);
	int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;

	*(void **)&real_wait = dlsym(RTLD_NEXT, "epoll_wait");
	if (fd < 0 || ftruncate(fd, (off_t)size))
		abort();
	histogram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (histogram == MAP_FAILED)
		abort();
	close(fd);
}

int epoll_wait(int fd, struct epoll_event *events, int max, int timeout_ms)
{
	uint64_t us = (cpu_ns() - woken_ns) / 1000;
	int n;

	if (woken_ns)
		histogram[us < BUCKETS ? us : BUCKETS - 1]++;
	n = real_wait(fd, events, max, timeout_ms);
	woken_ns = cpu_ns();
	return n;
}
