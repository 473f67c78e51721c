// SPDX-License-Identifier: Apache-2.0
/* See kernel_features.h. */
#include "agent/kernel_features.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent/config.h"
#include "agent/tcp_repair.h"
#include "lib/log.h"

static bool may_bpf(void)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "llmd_probe", 4, 4, 1, NULL);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* Which TC programs the verifier takes depends on it; the kernel says no more than EACCES. CAP_SYS_ADMIN has it, too. */
static bool may_perfmon(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	unsigned long long capabilities = 0;
	char line[256];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "CapEff: %llx", &capabilities) == 1)
			break;
	if (file)
		fclose(file);
	return capabilities & (1ull << CAP_PERFMON | 1ull << CAP_SYS_ADMIN);
}

static bool has_tc(void)
{
	return libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_SCHED_CLS, NULL) > 0;
}

static bool has_redirect_neigh(void)
{
	return libbpf_probe_bpf_helper(BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_redirect_neigh, NULL) > 0;
}

static bool has_ringbuf(void)
{
	return libbpf_probe_bpf_map_type(BPF_MAP_TYPE_RINGBUF, NULL) > 0;
}

static bool has_queue(void)
{
	return libbpf_probe_bpf_map_type(BPF_MAP_TYPE_QUEUE, NULL) > 0;
}

static bool has_sockops(void)
{
	return libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_SOCK_OPS, NULL) > 0;
}

static bool has_btf(void)
{
	return !access("/sys/kernel/btf/vmlinux", R_OK);
}

/* In the order in which a missing one explains those behind it. */
static const struct feature {
	const char *name, *needs;
	bool (*probe)(void);
	bool needed;
} features[] = {
	{ "maps", "CAP_BPF", may_bpf, true },
	{ "tc_programs", "CAP_BPF and CAP_NET_ADMIN", has_tc, true },
	{ "perfmon", "CAP_PERFMON", may_perfmon, true },
	{ "redirect_neigh", "Linux 5.10", has_redirect_neigh, true },
	{ "ring_buffer", "Linux 5.8", has_ringbuf, true },
	{ "queue_map", "Linux 4.20", has_queue, true },
	{ "tcp_repair", "CAP_NET_ADMIN", tcp_repair_available, true },
	{ "sockops", "Linux 4.13", has_sockops, false },
	{ "btf", "CONFIG_DEBUG_INFO_BTF", has_btf, false },
};
enum { N_FEATURES = sizeof(features) / sizeof(features[0]) };

void kernel_features_each(void (*visit)(void *ctx, const char *name, const char *needs, bool there, bool needed), void *ctx)
{
	for (size_t i = 0; i < N_FEATURES; i++)
		visit(ctx, features[i].name, features[i].needs, features[i].probe(), features[i].needed);
}

int kernel_features_check(const struct config *config)
{
	struct utsname kernel;
	char table[512];
	int at = 0, err = 0;

	(void)config;
	uname(&kernel);
	for (size_t i = 0; i < N_FEATURES; i++) {
		bool there = features[i].probe();

		at += snprintf(table + at, sizeof(table) - (size_t)at, " %s=%s", features[i].name, there ? "yes" : "no");
		if (there)
			continue;
		log_event(features[i].needed ? LOG_LEVEL_WARN : LOG_LEVEL_INFO, "kernel feature missing", "feature=%s needs=\"%s\"",
			features[i].name, features[i].needs);
		err = features[i].needed ? -EOPNOTSUPP : err;
		if (err)
			break; /* what follows would fail for the same reason */
	}
	log_info("kernel features", "kernel=%s%s", kernel.release, table);
	return err;
}
