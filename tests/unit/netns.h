/* SPDX-License-Identifier: Apache-2.0 */
/* A network namespace of its own for a test, as cmocka's setup and teardown. It goes when its last socket is closed. */
#ifndef LLMD_TESTS_UNIT_NETNS_H
#define LLMD_TESTS_UNIT_NETNS_H

#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

static inline int netns_open(void)
{
	return open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

/* Setup; *state: descriptor of the namespace to go back to, plus 1. NULL: no rights to make one. */
static inline int netns_enter(void **state)
{
	int home = netns_open();

	*state = NULL;
	if (home < 0)
		return -1;
	if (unshare(CLONE_NEWNET)) {
		print_message("a network namespace: %s\n", strerror(errno));
		close(home);
		return errno == EPERM ? 0 : -1;
	}
	*state = (void *)(intptr_t)(home + 1);
	return 0;
}

static inline int netns_leave(void **state)
{
	int home = (int)(intptr_t)*state - 1;
	int err = 0;

	if (home >= 0) {
		err = setns(home, CLONE_NEWNET);
		close(home);
	}
	return err;
}

#define netns_test(f) cmocka_unit_test_setup_teardown(f, netns_enter, netns_leave)

/* run() - a shell command in the present namespace, which must succeed. */
static inline void __attribute__((format(printf, 1, 2))) run(const char *format, ...)
{
	char command[1024];
	va_list args;
	int status;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	status = system(command);
	if (status)
		fail_msg("%s: status %d", command, status);
}

#endif
