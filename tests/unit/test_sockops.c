// SPDX-License-Identifier: Apache-2.0
/* Where the agent's cgroup is found, in the layouts that there are, each mounted in a mount namespace of the test's own. */
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/sockops.h"

#define TOP "/sys/fs/cgroup"

/* Setup. *state: NULL without the rights. The namespace is the next test's, too: each takes away what is mounted. */
static int no_cgroups(void **state)
{
	*state = NULL;
	if (unshare(CLONE_NEWNS)) {
		print_message("a mount namespace: %s\n", strerror(errno));
		return errno == EPERM ? 0 : -1;
	}
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -1;
	while (!umount2(TOP, MNT_DETACH))
		;
	*state = state;
	return 0;
}

static void mount_at(const char *type, const char *point, const char *options)
{
	mkdir(point, 0755);
	if (mount(type, point, type, 0, options))
		fail_msg("%s on %s: %s", type, point, strerror(errno));
}

/* As systemd and others mount it: a folder with a hierarchy of version 1 each, and among them version 2. */
static void mount_hybrid(bool with_second)
{
	mount_at("tmpfs", TOP, "mode=755");
	mount_at("cgroup", TOP "/first", "none,name=llmd-test");
	if (with_second)
		mount_at("cgroup2", TOP "/unified", NULL);
}

/* Whether @path is a cgroup of version 2 that this process is in. */
static bool is_own(const char *path)
{
	char procs[512], line[64];
	struct statfs fs;
	bool found = false;
	FILE *file;

	if (statfs(path, &fs) || fs.f_type != CGROUP2_SUPER_MAGIC)
		return false;
	snprintf(procs, sizeof(procs), "%s/cgroup.procs", path);
	file = fopen(procs, "re");
	while (file && !found && fgets(line, sizeof(line), file))
		found = atoi(line) == getpid();
	if (file)
		fclose(file);
	return found;
}

static void finds_its_own(const char *below)
{
	char path[512];

	assert_int_equal(sockops_cgroup_path(path, sizeof(path)), 0);
	if (strncmp(path, below, strlen(below)) || !is_own(path))
		fail_msg("%s is not this process's cgroup", path);
}

static void version_2_alone(void **state)
{
	ROOT_OR_SKIP(state);
	mount_at("cgroup2", TOP, NULL);
	finds_its_own(TOP);
}

static void version_2_beside_version_1(void **state)
{
	ROOT_OR_SKIP(state);
	mount_hybrid(true);
	finds_its_own(TOP "/unified");
}

static void version_1_alone(void **state)
{
	char path[512];

	ROOT_OR_SKIP(state);
	mount_hybrid(false);
	assert_int_equal(sockops_cgroup_path(path, sizeof(path)), -ENOENT);
}

static void a_path_that_is_too_long(void **state)
{
	char path[sizeof(TOP)];

	ROOT_OR_SKIP(state);
	mount_at("cgroup2", TOP, NULL);
	assert_int_equal(sockops_cgroup_path(path, sizeof(path) - 1), -ENAMETOOLONG);
}

static bool join(const char *cgroup)
{
	char procs[700];
	bool joined;
	int fd;

	snprintf(procs, sizeof(procs), "%s/cgroup.procs", cgroup);
	fd = open(procs, O_WRONLY | O_CLOEXEC);
	joined = fd >= 0 && write(fd, "0", 1) == 1;
	close(fd);
	return joined;
}

/* In the cgroup @cgroup, in a process of its own: 0 if it is found, all of version 2 being mounted, and then that cgroup alone. */
static int look_from_within(const char *cgroup)
{
	char path[512];

	if (sockops_cgroup_path(path, sizeof(path)) || strcmp(path, cgroup) || !is_own(path))
		return 2;
	if (mount("tmpfs", "/mnt", "tmpfs", 0, NULL) || mkdir("/mnt/cgroup", 0755) || mount(cgroup, "/mnt/cgroup", NULL, MS_BIND, NULL) ||
		umount2(TOP, MNT_DETACH))
		return 3;
	if (sockops_cgroup_path(path, sizeof(path)) || strcmp(path, "/mnt/cgroup") || !is_own(path))
		return 4;
	return 0;
}

/* In a cgroup namespace of its own, with the mount of who is outside it: what is mounted holds this cgroup somewhere. */
static int look_from_a_namespace(const char *cgroup)
{
	char path[512];

	if (unshare(CLONE_NEWCGROUP))
		return 5;
	return sockops_cgroup_path(path, sizeof(path)) || strncmp(cgroup, path, strlen(path)) ? 6 : 0;
}

static void in_a_cgroup_below_the_root(int (*look)(const char *))
{
	char top[512], cgroup[600];
	int status = -1;
	pid_t child;

	mount_at("cgroup2", TOP, NULL);
	assert_int_equal(sockops_cgroup_path(top, sizeof(top)), 0);
	snprintf(cgroup, sizeof(cgroup), "%s%sllmd-test-%d", top, top[strlen(top) - 1] == '/' ? "" : "/", getpid());
	assert_int_equal(mkdir(cgroup, 0755), 0);
	child = fork();
	if (!child)
		_exit(unshare(CLONE_NEWNS) || !join(cgroup) ? 1 : look(cgroup));
	if (child > 0)
		waitpid(child, &status, 0);
	while (rmdir(cgroup) && errno == EBUSY) /* a moment after its last process ended */
		usleep(1000);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* A container without a cgroup namespace sees its own cgroup mounted, and reads its name from the root. */
static void without_a_cgroup_namespace(void **state)
{
	ROOT_OR_SKIP(state);
	in_a_cgroup_below_the_root(look_from_within);
}

static void with_the_mount_of_the_host(void **state)
{
	ROOT_OR_SKIP(state);
	in_a_cgroup_below_the_root(look_from_a_namespace);
}

#define layout_test(f) cmocka_unit_test_setup(f, no_cgroups)

int main(void)
{
	const struct CMUnitTest tests[] = {
		layout_test(version_2_alone),
		layout_test(version_2_beside_version_1),
		layout_test(version_1_alone),
		layout_test(a_path_that_is_too_long),
		layout_test(without_a_cgroup_namespace),
		layout_test(with_the_mount_of_the_host),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
