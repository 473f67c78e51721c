// SPDX-License-Identifier: Apache-2.0
/* See attach.h. */
#include "agent/attach.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/config.h"
#include "agent/pins.h"
#include "build/bpf/llmd.skel.h"
#include "lib/log.h"

/* Marks our filters among others' of a clsact qdisc; those of another schema serve their connections beside them. */
enum { FILTER_HANDLE = 0x6c6d00, FILTER_PRIORITY = 5 };

static uint32_t filter_handle(const char *pin_dir)
{
	const char *version = strrchr(pin_dir, 'v');

	return FILTER_HANDLE + (version ? (uint32_t)strtoul(version + 1, NULL, 10) & 0xff : 0);
}

struct attach {
	struct llmd_bpf *bpf;
	const struct config *config;
	enum attach_mode mode;
	uint32_t n;
	uint32_t ifindex[ATTACH_DEVICES_MAX];
	struct log_pace failures;
};

/* ---- tcx ---- */

/* Return: 0 when an earlier agent's link now runs our program. */
static int replace_link(const char *path, int program)
{
	int fd = bpf_obj_get(path), err;

	if (fd < 0)
		return -errno;
	err = bpf_link_update(fd, program, NULL) ? -errno : 0;
	close(fd);
	if (err)
		unlink(path); /* its device is gone */
	return err;
}

static int attach_link(struct attach *attach, uint32_t ifindex, bool ingress, const struct bpf_program *program)
{
	char path[PIN_PATH_MAX];
	int err, fd;

	pin_link_path(path, attach->config->pin_dir, ingress ? "ingress" : "egress", ifindex);
	if (!replace_link(path, bpf_program__fd(program)))
		return 0;
	fd = bpf_link_create(bpf_program__fd(program), (int)ifindex, (enum bpf_attach_type)attach_tcx_type(ingress), NULL);
	if (fd < 0)
		return -errno;
	err = bpf_obj_pin(fd, path) ? -errno : 0;
	close(fd);
	return err;
}

/* ---- clsact ---- */

static int attach_filter(struct attach *attach, uint32_t ifindex, bool ingress, const struct bpf_program *program)
{
	DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = ingress ? BPF_TC_INGRESS : BPF_TC_EGRESS);
	DECLARE_LIBBPF_OPTS(bpf_tc_opts, options, .handle = filter_handle(attach->config->pin_dir), .priority = FILTER_PRIORITY,
		.flags = BPF_TC_F_REPLACE, .prog_fd = bpf_program__fd(program));
	char path[PIN_PATH_MAX];
	int err = bpf_tc_hook_create(&hook);

	if (err && err != -EEXIST)
		return err;
	/* A directory stands for what cannot be pinned; whether the qdisc is ours, too, is in its name. */
	if (!err)
		mkdir(pin_link_path(path, attach->config->pin_dir, "qdisc", ifindex), 0700);
	mkdir(pin_link_path(path, attach->config->pin_dir, "filter", ifindex), 0700);
	return bpf_tc_attach(&hook, &options);
}

static int detach_filter(const char *pin_dir, uint32_t ifindex, bool ingress)
{
	DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = ingress ? BPF_TC_INGRESS : BPF_TC_EGRESS);
	DECLARE_LIBBPF_OPTS(bpf_tc_opts, options, .handle = filter_handle(pin_dir), .priority = FILTER_PRIORITY);
	int err = bpf_tc_detach(&hook, &options);

	return err == -ENOENT || err == -ENODEV || err == -EINVAL ? 0 : err;
}

static void remove_qdisc(struct netlink *netlink, uint32_t ifindex)
{
	DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);

	if (!netlink_has_filters(netlink, ifindex))
		bpf_tc_hook_destroy(&hook);
}

/* ---- either ---- */

static int attach_one(struct attach *attach, uint32_t ifindex, bool ingress, const struct bpf_program *program)
{
	int err = -EOPNOTSUPP;

	if (attach->mode != ATTACH_CLSACT)
		err = attach_link(attach, ifindex, ingress, program);
	/* Before 6.6 the attach type is not known: EINVAL. */
	if (attach->mode == ATTACH_AUTO && err == -EINVAL) {
		attach->mode = ATTACH_CLSACT;
		log_info("no tcx in this kernel: clsact filters", NULL);
	}
	return attach->mode == ATTACH_CLSACT ? attach_filter(attach, ifindex, ingress, program) : err;
}

static bool attach_has(const struct attach *attach, uint32_t ifindex)
{
	for (uint32_t i = 0; i < attach->n; i++)
		if (attach->ifindex[i] == ifindex)
			return true;
	return false;
}

bool attach_was(const struct attach *attach, uint32_t ifindex)
{
	char path[PIN_PATH_MAX];

	return !access(pin_link_path(path, attach->config->pin_dir, "ingress", ifindex), F_OK) ||
	       !access(pin_link_path(path, attach->config->pin_dir, "filter", ifindex), F_OK);
}

/* What an earlier agent has attached in the other manner; only now, so that no packet meets none. An empty qdisc may stay. */
static void detach_other(struct attach *attach, uint32_t ifindex)
{
	const char *dir = attach->config->pin_dir;
	char path[PIN_PATH_MAX];

	if (attach->mode == ATTACH_CLSACT) {
		unlink(pin_link_path(path, dir, "ingress", ifindex));
		unlink(pin_link_path(path, dir, "egress", ifindex));
	} else if (!access(pin_link_path(path, dir, "filter", ifindex), F_OK)) {
		if (!detach_filter(dir, ifindex, true) && !detach_filter(dir, ifindex, false))
			rmdir(path);
	}
}

int attach_device(struct attach *attach, const struct netlink_device *device)
{
	struct llmd_bpf *bpf = attach->bpf;
	int err;

	if (attach_has(attach, device->ifindex))
		return 0;
	if (!device->is_ethernet && !device->is_l3)
		return -EOPNOTSUPP;
	err = attach->n == ATTACH_DEVICES_MAX ? -ENOSPC : 0;
	/* Egress first: a SYN that is cleaned on its way in must find its answer looked at on the way out. */
	err = err ? err : attach_one(attach, device->ifindex, false, device->is_l3 ? bpf->progs.llmd_egress_l3 : bpf->progs.llmd_egress);
	err = err ? err : attach_one(attach, device->ifindex, true, device->is_l3 ? bpf->progs.llmd_ingress_l3 : bpf->progs.llmd_ingress);
	if (err) {
		log_paced(&attach->failures, 10, 60000, LOG_LEVEL_WARN, "cannot attach",
			"device=%s errno=%d", device->name, -err);
		return err;
	}
	detach_other(attach, device->ifindex);
	attach->ifindex[attach->n++] = device->ifindex;
	log_info("attached", "device=%s by=%s", device->name, attach->mode == ATTACH_CLSACT ? "clsact" : "tcx");
	return 0;
}

static void remove_pins(const char *pin_dir, uint32_t ifindex)
{
	char path[PIN_PATH_MAX];

	unlink(pin_link_path(path, pin_dir, "ingress", ifindex));
	unlink(pin_link_path(path, pin_dir, "egress", ifindex));
	rmdir(pin_link_path(path, pin_dir, "filter", ifindex));
	rmdir(pin_link_path(path, pin_dir, "qdisc", ifindex));
}

void attach_keep_only(struct attach *attach, bool (*present)(void *ctx, uint32_t ifindex), void *ctx)
{
	for (uint32_t i = 0; i < attach->n;) {
		if (present(ctx, attach->ifindex[i])) {
			i++;
			continue;
		}
		remove_pins(attach->config->pin_dir, attach->ifindex[i]);
		attach->ifindex[i] = attach->ifindex[--attach->n];
	}
}

int attach_new(struct llmd_bpf *bpf, const struct config *config, struct attach **out)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	(*out)->bpf = bpf;
	(*out)->config = config;
	(*out)->mode = (enum attach_mode)config->attach;
	return 0;
}

void attach_free(struct attach *attach)
{
	free(attach);
}

static int clean_entry(const char *pin_dir, struct netlink *netlink, const char *name)
{
	char kind[16], path[PIN_PATH_MAX];
	unsigned ifindex;
	int err = 0;

	if (sscanf(name, "%15[a-z]_%u", kind, &ifindex) != 2)
		return 0;
	pin_link_path(path, pin_dir, kind, ifindex);
	if (!strcmp(kind, "filter")) {
		err = detach_filter(pin_dir, ifindex, true);
		err = err ? err : detach_filter(pin_dir, ifindex, false);
	} else if (strcmp(kind, "qdisc")) {
		return unlink(path) ? -errno : 0; /* the last reference to the link */
	}
	if (!err && !access(pin_link_path(path, pin_dir, "qdisc", ifindex), F_OK))
		remove_qdisc(netlink, ifindex);
	if (!err && rmdir(pin_link_path(path, pin_dir, kind, ifindex)))
		err = -errno;
	return err;
}

int attach_cleanup(const char *pin_dir, struct netlink *netlink)
{
	char path[PIN_PATH_MAX];
	DIR *dir = opendir(pin_path(path, pin_dir, "links"));
	struct dirent *entry;
	int err = 0;

	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	while (!err && (entry = readdir(dir)))
		if (*entry->d_name != '.')
			err = clean_entry(pin_dir, netlink, entry->d_name);
	closedir(dir);
	return err;
}
