// SPDX-License-Identifier: Apache-2.0
/* Devices, sysctls, and who else is on the devices. See doctor.h. */
#include "tools/doctor/doctor.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/attach.h"
#include "agent/netlink.h"
#include "agent/pins.h"

enum { NODE_PORT_LOW = 30000, NODE_PORT_HIGH = 32767, PERCENT_FULL = 80 };

/* ---- devices ---- */

struct devices {
	unsigned usable, down, filtered;
	uint32_t mtu_low, mtu_high;
	char low[16], others[256];
	const char *pin_dir; /* set when others' programs are asked for */
	struct netlink *netlink;
};

enum { PROGRAMS_MAX = 64 };

/* Return: the id of the agent's program there, 0 without one. */
static uint32_t own_program(const char *pin_dir, const char *kind, uint32_t ifindex)
{
	struct bpf_link_info info = { 0 };
	uint32_t size = sizeof(info);
	char path[PIN_PATH_MAX];
	int fd = bpf_obj_get(pin_link_path(path, pin_dir, kind, ifindex));

	if (fd < 0)
		return 0;
	if (bpf_obj_get_info_by_fd(fd, &info, &size))
		info.prog_id = 0;
	close(fd);
	return info.prog_id;
}

/* Where the kernel knows no tcx, or does not tell us, there is nothing to tell. */
static bool has_others_programs(const char *pin_dir, uint32_t ifindex, bool ingress)
{
	uint32_t ids[PROGRAMS_MAX], own = own_program(pin_dir, ingress ? "ingress" : "egress", ifindex);
	LIBBPF_OPTS(bpf_prog_query_opts, query, .prog_ids = ids, .prog_cnt = PROGRAMS_MAX);

	if (bpf_prog_query_opts((int)ifindex, (enum bpf_attach_type)attach_tcx_type(ingress), &query))
		return false;
	for (uint32_t i = 0; i < query.prog_cnt; i++)
		if (ids[i] != own)
			return true;
	return false;
}

static void see_others(struct devices *devices, const struct netlink_device *device)
{
	size_t n = strlen(devices->others);

	if (netlink_has_filters(devices->netlink, device->ifindex) <= 0 && !has_others_programs(devices->pin_dir, device->ifindex, true) &&
		!has_others_programs(devices->pin_dir, device->ifindex, false))
		return;
	devices->filtered++;
	snprintf(devices->others + n, sizeof(devices->others) - n, " %s", device->name);
}

static void see_device(void *ctx, const struct netlink_device *device)
{
	struct devices *devices = ctx;

	if (device->is_loopback || !(device->is_ethernet || device->is_l3))
		return;
	if (!device->is_up) {
		devices->down++;
		return;
	}
	devices->usable++;
	if (!devices->mtu_low || device->mtu < devices->mtu_low) {
		devices->mtu_low = device->mtu;
		snprintf(devices->low, sizeof(devices->low), "%s", device->name);
	}
	if (device->mtu > devices->mtu_high)
		devices->mtu_high = device->mtu;
	if (devices->pin_dir)
		see_others(devices, device);
}

/* Return: 0 or -errno. */
static int see_devices(struct devices *devices)
{
	struct event_base *base = event_base_new();
	int err = base ? netlink_new(base, NULL, NULL, &devices->netlink) : -ENOMEM;

	if (!err) {
		err = netlink_devices(devices->netlink, see_device, devices);
		netlink_free(devices->netlink);
	}
	if (base)
		event_base_free(base);
	return err;
}

void check_devices(struct doctor *doctor)
{
	struct devices devices = { 0 };
	int err = see_devices(&devices);

	if (err)
		doctor_tell(doctor, FINDING_BAD, "devices", "the agent follows devices and routes by netlink", "allow AF_NETLINK sockets", "cannot be listed: %s",
			strerror(-err));
	else if (!devices.usable)
		doctor_tell(doctor, FINDING_BAD, "devices", "programs are attached to devices", "in Kubernetes hostNetwork: true", "none but the loopback is up");
	else if (devices.mtu_low != devices.mtu_high)
		doctor_tell(doctor, FINDING_NOTE, "devices", "all clients are told the segment size that fits the smallest way to a pod",
			"none needed, if pods or clients are behind that device; they may be sent a little less a packet", "%u up, MTU from %u (%s) to %u",
			devices.usable, devices.mtu_low, devices.low, devices.mtu_high);
	else
		doctor_tell(doctor, FINDING_OK, "devices", NULL, NULL, "%u up, MTU %u", devices.usable, devices.mtu_low);
}

void check_others(struct doctor *doctor)
{
	struct devices devices = { .pin_dir = doctor->config.pin_dir };

	if (!see_devices(&devices) && devices.filtered)
		doctor_tell(doctor, FINDING_NOTE, "others at TC", "who sees packets before llmd may redirect what is llmd's; llmd never touches others' programs",
			"if nothing is handed over (llmd_handoffs_total), look at: bpftool net show; tc filter show dev DEVICE ingress", "programs or filters on:%s", devices.others);
	else
		doctor_tell(doctor, FINDING_OK, "others at TC", NULL, NULL, "no programs (tcx), no filters (clsact)");
}

/* ---- sysctls ---- */

static bool read_numbers(const char *name, uint64_t out[2])
{
	char path[256];
	FILE *file;
	int n;

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	file = fopen(path, "re");
	if (!file)
		return false;
	out[1] = 0;
	n = fscanf(file, "%" SCNu64 " %" SCNu64, &out[0], &out[1]);
	fclose(file);
	return n >= 1;
}

static void check_ports(struct doctor *doctor, const char *option, const char *range)
{
	uint64_t local[2];
	unsigned low, high;

	if (sscanf(range, "%u-%u", &low, &high) != 2)
		doctor_tell(doctor, FINDING_BAD, "ports", "the agent does not start so", "two ports, such as 15000-29999", "--%s %s is not valid", option, range);
	else if (read_numbers("net/ipv4/ip_local_port_range", local) && low <= local[1] && local[0] <= high)
		doctor_tell(doctor, FINDING_BAD, "ports", "the kernel may give a port that a handed-over connection uses to somebody else: both are broken",
			"another --port-range, or another net.ipv4.ip_local_port_range", "--%s %s overlaps net.ipv4.ip_local_port_range %" PRIu64 "-%" PRIu64,
			option, range, local[0], local[1]);
	else if (low <= NODE_PORT_HIGH && NODE_PORT_LOW <= high)
		doctor_tell(doctor, FINDING_WARN, "ports", "where Kubernetes has its default NodePorts, a service's port can be one of them", "a range that ends below 30000",
			"--%s %s overlaps %d-%d", option, range, NODE_PORT_LOW, NODE_PORT_HIGH);
	else
		doctor_tell(doctor, FINDING_OK, "ports", NULL, NULL, "--%s %s", option, range);
}

static void check_forwarding(struct doctor *doctor)
{
	uint64_t filter[2] = { 0 };

	if (read_numbers("net/ipv4/conf/all/rp_filter", filter) && filter[0] == 1)
		doctor_tell(doctor, FINDING_NOTE, "rp_filter", "strict: where a pod's way back differs from the way there, its packets are dropped before llmd's relay sees them",
			"net.ipv4.conf.all.rp_filter=2 (loose) if pods have several ways", "net.ipv4.conf.all.rp_filter is 1");
	else
		doctor_tell(doctor, FINDING_OK, "rp_filter", NULL, NULL, "net.ipv4.conf.all.rp_filter is %" PRIu64, filter[0]);
}

static void check_conntrack(struct doctor *doctor)
{
	uint64_t count[2], max[2];

	if (!read_numbers("net/netfilter/nf_conntrack_count", count) || !read_numbers("net/netfilter/nf_conntrack_max", max) || !max[0])
		doctor_tell(doctor, FINDING_OK, "conntrack", NULL, NULL, "not in use");
	else if (count[0] * 100 >= max[0] * PERCENT_FULL)
		doctor_tell(doctor, FINDING_WARN, "conntrack", "when the table is full, the node drops new connections, the agent's, too", "raise net.netfilter.nf_conntrack_max",
			"%" PRIu64 " of %" PRIu64 " entries", count[0], max[0]);
	else
		doctor_tell(doctor, FINDING_OK, "conntrack", NULL, NULL, "%" PRIu64 " of %" PRIu64 " entries", count[0], max[0]);
}

void check_sysctls(struct doctor *doctor)
{
	check_ports(doctor, "port-range", doctor->config.port_range);
	check_ports(doctor, "affinity-ports", doctor->config.affinity_ports);
	check_forwarding(doctor);
	check_conntrack(doctor);
}
