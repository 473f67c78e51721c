// SPDX-License-Identifier: Apache-2.0
/* The lock on the pin directory, whoever removes and makes it meanwhile. */
#include "tests/unit/test.h"

#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/pins.h"

enum { TRIES = 20000 };

static int setup(void **state)
{
	static char dir[64], below[PIN_PATH_MAX];

	snprintf(dir, sizeof(dir), "/tmp/llmd-pins-%d", (int)getpid());
	if (mkdir(dir, 0700))
		return -1;
	pin_path(below, dir, "v1");
	*state = below;
	return 0;
}

static int teardown(void **state)
{
	char *below = *state;

	rmdir(below);
	below[strlen(below) - 3] = '\0';
	return rmdir(below);
}

static void one_at_a_time(void **state)
{
	const char *dir = *state;
	int fd;

	assert_int_equal(pins_lock(dir), -ENOENT);
	assert_false(pins_held(dir));
	assert_int_equal(mkdir(dir, 0700), 0);
	fd = pins_lock(dir);
	assert_true(fd >= 0);
	assert_int_equal(pins_lock(dir), -EBUSY);
	assert_true(pins_held(dir));
	close(fd);
	assert_false(pins_held(dir));
	assert_int_equal(rmdir(dir), 0);
}

/* As --cleanup does, again and again. */
static _Noreturn void remove_for_ever(const char *dir)
{
	for (;;) {
		int fd = pins_lock(dir);

		if (fd < 0)
			continue;
		rmdir(dir);
		close(fd);
	}
}

static void who_has_it_has_what_is_there(void **state)
{
	const char *dir = *state;
	unsigned locked = 0;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		remove_for_ever(dir);
	for (int i = 0; i < TRIES; i++) {
		struct stat mine, there = { 0 };
		int fd;

		mkdir(dir, 0700);
		fd = pins_lock(dir);
		if (fd < 0)
			continue;
		locked += !fstat(fd, &mine) && !stat(dir, &there) && mine.st_ino == there.st_ino ? 1 : TRIES;
		close(fd);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_in_range(locked, 1, TRIES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_at_a_time),
		cmocka_unit_test(who_has_it_has_what_is_there),
	};

	return cmocka_run_group_tests_name("pins", tests, setup, teardown);
}
