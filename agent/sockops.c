// SPDX-License-Identifier: Apache-2.0
/* See sockops.h. */
#include "agent/sockops.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "build/bpf/llmd.skel.h"
#include "lib/log.h"

enum { LINE_MAX_BYTES = 4096 };

struct sockops {
	struct bpf_link *link;
};

/* The line of hierarchy 0 is version 2's (cgroups(7)). */
static int own_cgroup(char *out, size_t size)
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	char line[LINE_MAX_BYTES];
	int err = -ENOENT;

	if (!file)
		return -errno;
	while (err && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		if (!strncmp(line, "0::/", 4) && strlen(line + 3) < size)
			err = strcpy(out, line + 3) ? 0 : -ENOENT;
	}
	fclose(file);
	return err;
}

/* What is left of @own below @root, or NULL. A root outside this cgroup namespace ("/..") holds all that is in it. */
static const char *below(const char *root, const char *own)
{
	size_t len = !strcmp(root, "/") || !strncmp(root, "/..", 3) ? 0 : strlen(root);

	return strncmp(own, root, len) || (own[len] && own[len] != '/') ? NULL : own + len;
}

/*
 * mountinfo (proc(5)): ID parent major:minor root mount-point options ... - type source options
 * In a container without a cgroup namespace what is mounted is the container's own cgroup, which /proc/self/cgroup names from the root.
 */
static int find_mount(const char *own, char *out, size_t size)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char line[LINE_MAX_BYTES], root[LINE_MAX_BYTES], point[LINE_MAX_BYTES];
	int err = -ENOENT;

	if (!file)
		return -errno;
	while (err && fgets(line, sizeof(line), file)) {
		const char *type = strstr(line, " - "), *rest;

		if (!type || strncmp(type, " - cgroup2 ", 11) || sscanf(line, "%*s %*s %*s %4095s %4095s", root, point) != 2)
			continue;
		rest = below(root, own);
		if (rest)
			err = snprintf(out, size, "%s%s", point, rest) < (int)size ? 0 : -ENAMETOOLONG;
	}
	fclose(file);
	return err;
}

int sockops_cgroup_path(char *out, size_t size)
{
	char own[LINE_MAX_BYTES];
	int err = own_cgroup(own, sizeof(own));

	return err ? err : find_mount(own, out, size);
}

int sockops_attach(struct llmd_bpf *bpf, struct sockops **out)
{
	struct sockops *sockops;
	char path[2 * LINE_MAX_BYTES];
	int err = sockops_cgroup_path(path, sizeof(path)), fd;

	*out = NULL;
	if (err)
		return err;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	sockops = calloc(1, sizeof(*sockops));
	if (sockops)
		sockops->link = bpf_program__attach_cgroup(bpf->progs.llmd_sockops, fd);
	err = !sockops ? -ENOMEM : sockops->link ? 0 : -errno;
	close(fd);
	if (err) {
		free(sockops);
		return err;
	}
	*out = sockops;
	log_info("sockops attached", "cgroup=%s", path);
	return 0;
}

void sockops_free(struct sockops *sockops)
{
	if (!sockops)
		return;
	bpf_link__destroy(sockops->link);
	free(sockops);
}
