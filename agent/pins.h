/* SPDX-License-Identifier: Apache-2.0 */
/* The directory on the BPF file system. */
#ifndef LLMD_AGENT_PINS_H
#define LLMD_AGENT_PINS_H

#include <stdbool.h>
#include <stdint.h>

struct bpf_map_info;

enum { PIN_PATH_MAX = 512, PIN_DIR_MAX = 400 /* leaves room for the longest name of a link */ };

/** pin_path() - "@dir/@name" into @out of PIN_PATH_MAX bytes. Return: @out. */
const char *pin_path(char *out, const char *dir, const char *name);

/** pin_link_path() - as pin_path(), of what is attached to a device. @kind: "ingress" and "egress" are links, "filter" and "qdisc" stand for those. */
const char *pin_link_path(char *out, const char *dir, const char *kind, uint32_t ifindex);

/**
 * pins_make_dir() - with its links/; mounts a BPF file system on /sys/fs/bpf if @dir is below and none is there.
 * Return: 0, -ENOTSUP when @dir would not be on a BPF file system, or another -errno.
 */
int pins_make_dir(const char *dir);

/**
 * pins_lock() - @dir is this process's alone until the descriptor is closed.
 * Return: the descriptor, -EBUSY while another process has it, -ENOENT if there is no @dir (any more), or another -errno.
 */
int pins_lock(const char *dir);

/** pins_held() - whether an agent has @dir just now; who asks holds it itself for a moment. */
bool pins_held(const char *dir);

/** pin_open_map() - the map that is pinned at @path. @info: of it. Return: its descriptor or -errno. */
int pin_open_map(const char *path, struct bpf_map_info *info);

/** pins_remove() - all below @dir, @dir itself, and its parent if that is left empty and called llmd. Return: 0 or -errno. */
int pins_remove(const char *dir);

#endif
