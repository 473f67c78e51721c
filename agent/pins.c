// SPDX-License-Identifier: Apache-2.0
/* See pins.h. */
#define _XOPEN_SOURCE 700
#include "agent/pins.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define BPFFS "/sys/fs/bpf"

enum { DIR_MODE = 0700, OPEN_MAX_FTW = 8 };

const char *pin_path(char *out, const char *dir, const char *name)
{
	snprintf(out, PIN_PATH_MAX, "%s/%s", dir, name);
	return out;
}

const char *pin_link_path(char *out, const char *dir, const char *kind, uint32_t ifindex)
{
	snprintf(out, PIN_PATH_MAX, "%s/links/%s_%u", dir, kind, ifindex);
	return out;
}

static bool is_bpffs(const char *path)
{
	struct statfs fs;

	return !statfs(path, &fs) && fs.f_type == BPF_FS_MAGIC;
}

static int make_one(const char *path)
{
	return mkdir(path, DIR_MODE) && errno != EEXIST ? -errno : 0;
}

/* What was there before is not ours to remove. */
static int refuse(const char *dir, bool was_there)
{
	if (!was_there)
		rmdir(dir);
	return -ENOTSUP;
}

static int make_parents(const char *dir)
{
	char path[PIN_PATH_MAX];

	if (strlen(dir) >= sizeof(path) - sizeof("/links") || *dir != '/')
		return -ENAMETOOLONG;
	strcpy(path, dir);
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		int err = 0;

		*slash = '\0';
		if (access(path, F_OK))
			err = make_one(path);
		*slash = '/';
		if (err)
			return err;
	}
	return make_one(path);
}

int pins_make_dir(const char *dir)
{
	bool was_there = !access(dir, F_OK);
	char links[PIN_PATH_MAX];
	int err;

	if (!strncmp(dir, BPFFS "/", sizeof(BPFFS)) && !is_bpffs(BPFFS) && mount("bpf", BPFFS, "bpf", 0, "mode=0700"))
		return -errno;
	err = make_parents(dir);
	if (err)
		return err;
	if (!is_bpffs(dir))
		return refuse(dir, was_there);
	return make_one(pin_path(links, dir, "links"));
}

/* Whoever removes the directory has its lock, and who waits for that meanwhile gets the lock of what nobody finds any more. */
static bool is_still(int fd, const char *dir)
{
	struct stat locked, there;

	return !fstat(fd, &locked) && !stat(dir, &there) && locked.st_ino == there.st_ino && locked.st_dev == there.st_dev;
}

int pins_lock(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB))
		err = errno == EWOULDBLOCK ? -EBUSY : -errno;
	else if (!is_still(fd, dir))
		err = -ENOENT;
	if (!err)
		return fd;
	close(fd);
	return err;
}

bool pins_held(const char *dir)
{
	int fd = pins_lock(dir);

	if (fd >= 0)
		close(fd);
	return fd == -EBUSY;
}

int pin_open_map(const char *path, struct bpf_map_info *info)
{
	uint32_t len = sizeof(*info);
	int fd = bpf_obj_get(path), err;

	if (fd < 0)
		return -errno;
	memset(info, 0, sizeof(*info));
	err = bpf_obj_get_info_by_fd(fd, info, &len);
	if (!err)
		return fd;
	close(fd);
	return err;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path) ? -errno : 0;
}

int pins_remove(const char *dir)
{
	char parent[PIN_PATH_MAX];
	int err = nftw(dir, remove_one, OPEN_MAX_FTW, FTW_DEPTH | FTW_PHYS);

	if (err)
		return err < 0 ? err : -EIO;
	snprintf(parent, sizeof(parent), "%s", dir);
	dirname(parent);
	if (strlen(parent) > 5 && !strcmp(parent + strlen(parent) - 5, "/llmd"))
		rmdir(parent); /* stays while another schema's directory is in it */
	return 0;
}
