// SPDX-License-Identifier: Apache-2.0
/* The kernel, this process's rights, and the file systems. See doctor.h. */
#include "tools/doctor/doctor.h"

#include <bpf/libbpf.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent/kernel_features.h"
#include "agent/sockops.h"

enum { PATH_BYTES = 4096 };

static void tell_feature(void *ctx, const char *name, const char *needs, bool there, bool needed)
{
	struct doctor *doctor = ctx;

	if (doctor->kernel_lacks)
		return;
	doctor->kernel_lacks = needed && !there;
	if (there)
		doctor_tell(doctor, FINDING_OK, "kernel", NULL, NULL, "%s", name);
	else if (needed)
		doctor_tell(doctor, FINDING_BAD, "kernel", "no stream can be handed to the kernel: all are relayed, and with --datapath kernel the agent does not start",
			"a newer kernel, or the capability that is named", "%s is missing; it needs %s", name, needs);
	else
		doctor_tell(doctor, FINDING_NOTE, "kernel", "round-trip times to pods are not measured, or maps show no field names",
			"a newer kernel, if you want them", "%s is missing; it needs %s", name, needs);
}

static int say_nothing(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level, (void)format, (void)args;
	return 0;
}

void check_kernel(struct doctor *doctor)
{
	struct utsname kernel;

	uname(&kernel);
	libbpf_set_print(say_nothing);
	doctor_tell(doctor, FINDING_OK, "kernel", NULL, NULL, "%s %s %s", kernel.sysname, kernel.release, kernel.machine);
	kernel_features_each(tell_feature, doctor);
}

static bool read_capabilities(unsigned long long *out)
{
	FILE *file = fopen("/proc/self/status", "re");
	char line[256];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = sscanf(line, "CapEff: %llx", out) == 1;
	if (file)
		fclose(file);
	return found;
}

void check_capabilities(struct doctor *doctor)
{
	static const struct {
		int bit;
		const char *name, *why;
	} wanted[] = {
		{ CAP_BPF, "CAP_BPF", "maps and programs cannot be loaded" },
		{ CAP_NET_ADMIN, "CAP_NET_ADMIN", "programs cannot be attached, and connections not taken out of the local stack" },
		{ CAP_PERFMON, "CAP_PERFMON", "the verifier refuses the programs" },
	};
	unsigned long long have = 0;

	if (!read_capabilities(&have))
		have = 0;
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		if (have & (1ull << wanted[i].bit | (wanted[i].bit == CAP_NET_ADMIN ? 0 : 1ull << CAP_SYS_ADMIN)))
			doctor_tell(doctor, FINDING_OK, "rights", NULL, NULL, "%s", wanted[i].name);
		else
			doctor_tell(doctor, FINDING_BAD, "rights", wanted[i].why,
				"in Kubernetes securityContext.capabilities.add; systemd: CapabilityBoundingSet; or --datapath relay, which needs none",
				"%s is missing", wanted[i].name);
	}
}

/* The nearest directory above that there is. */
static void existing_parent(char path[PATH_BYTES], const char *dir)
{
	snprintf(path, PATH_BYTES, "%s", dir);
	while (access(path, F_OK)) {
		char *slash = strrchr(path, '/');

		if (!slash || slash == path)
			break;
		*slash = '\0';
	}
}

static void check_pin_dir(struct doctor *doctor)
{
	const char *why = "what is pinned must outlive the agent: streams are cut otherwise";
	char path[PATH_BYTES];
	struct statfs fs;

	existing_parent(path, doctor->config.pin_dir);
	if (statfs(path, &fs) || fs.f_type != BPF_FS_MAGIC)
		doctor_tell(doctor, FINDING_BAD, "bpffs", why, "mount -t bpf bpf /sys/fs/bpf on the node; in a container the node's /sys/fs/bpf as a volume",
			"%s is not on a BPF file system", doctor->config.pin_dir);
	else if (access(path, W_OK))
		doctor_tell(doctor, FINDING_BAD, "bpffs", why, "run as the user that owns it, usually root", "%s cannot be written", path);
	else
		doctor_tell(doctor, FINDING_OK, "bpffs", NULL, NULL, "%s", path);
}

void check_mounts(struct doctor *doctor)
{
	char path[2 * PATH_BYTES];

	check_pin_dir(doctor);
	if (sockops_cgroup_path(path, sizeof(path)))
		doctor_tell(doctor, FINDING_NOTE, "cgroup", "round-trip times and retransmissions towards pods are not measured; nothing else",
			"mount cgroup version 2", "no cgroup version 2 hierarchy");
	else
		doctor_tell(doctor, FINDING_OK, "cgroup", NULL, NULL, "%s", path);
}
