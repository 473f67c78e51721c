/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The TC programs on devices: by tcx links (Linux 6.6), which are pinned and replaced atomically, else as filters of a clsact
 * qdisc. What others have attached is never touched; ours come behind what is there (tcx), or at their priority (clsact).
 */
#ifndef LLMD_AGENT_ATTACH_H
#define LLMD_AGENT_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/netlink.h"

struct attach;
struct config;
struct llmd_bpf;

/* One device more than the bound is not attached to, and said so. */
enum { ATTACH_DEVICES_MAX = 4096 };

/** attach_tcx_type() - an enum bpf_attach_type of Linux 6.6 (linux/bpf.h), which older headers do not know. */
static inline int attach_tcx_type(bool ingress)
{
	return ingress ? 46 /* BPF_TCX_INGRESS */ : 47 /* BPF_TCX_EGRESS */;
}

enum attach_mode { ATTACH_AUTO, ATTACH_TCX, ATTACH_CLSACT };

int attach_new(struct llmd_bpf *bpf, const struct config *config, struct attach **out);

/** attach_free() - what is attached stays. */
void attach_free(struct attach *attach);

/** attach_device() - once; replaces the programs of an earlier agent. Return: 0, or -errno, logged. */
int attach_device(struct attach *attach, const struct netlink_device *device);

/** attach_was() - whether an earlier agent has left its programs on the device. */
bool attach_was(const struct attach *attach, uint32_t ifindex);

/** attach_keep_only() - forgets devices that are gone. @present: tells. */
void attach_keep_only(struct attach *attach, bool (*present)(void *ctx, uint32_t ifindex), void *ctx);

/** attach_cleanup() - detaches from all devices that links/ below @pin_dir names. */
int attach_cleanup(const char *pin_dir, struct netlink *netlink);

#endif
