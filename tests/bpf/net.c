// SPDX-License-Identifier: Apache-2.0
/* See net.h. */
#include "tests/bpf/net.h"

#include <arpa/inet.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { IP_TCP = 6, IPV4_PROTOCOL = 9, IPV6_PROTOCOL = 6, TRIES = 50 };

static void must(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "%s: %s\n", what, strerror(errno));
		abort();
	}
}

int net_enter(void)
{
	return unshare(CLONE_NEWNET) ? -errno : 0;
}

void net_run(const char *command)
{
	must(!system(command), command);
}

uint32_t net_ifindex(const char *device)
{
	uint32_t ifindex = if_nametoindex(device);

	must(ifindex, device);
	return ifindex;
}

void net_complete_checksums(const char *device, bool on)
{
	struct ethtool_value value = { .cmd = ETHTOOL_STXCSUM, .data = !on };
	struct ifreq request = { .ifr_data = (void *)&value };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", device);
	must(!ioctl(fd, SIOCETHTOOL, &request), "ETHTOOL_STXCSUM");
	value = (struct ethtool_value){ .cmd = ETHTOOL_STSO, .data = !on };
	must(!ioctl(fd, SIOCETHTOOL, &request), "ETHTOOL_STSO");
	close(fd);
}

static void attach(uint32_t ifindex, enum bpf_tc_attach_point point, int program)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = point);
	LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = program);
	int err = bpf_tc_hook_create(&hook);

	errno = -err;
	must(!err || err == -EEXIST, "clsact");
	errno = -bpf_tc_attach(&hook, &opts);
	must(!errno, "attach");
}

void net_attach(const char *device, int ingress, int egress)
{
	libbpf_print_fn_t printer = libbpf_set_print(NULL); /* that the hook exists is no news */

	attach(net_ifindex(device), BPF_TC_INGRESS, ingress);
	attach(net_ifindex(device), BPF_TC_EGRESS, egress);
	libbpf_set_print(printer);
}

int net_tap(const char *device)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)), on = 1;
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = (int)net_ifindex(device) };
	struct timeval second = { .tv_sec = 1 };

	must(fd >= 0 && !bind(fd, (struct sockaddr *)&at, sizeof(at)), device);
	must(!setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)), "PACKET_VNET_HDR");
	must(!setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second)), "SO_RCVTIMEO");
	return fd;
}

int net_tun(const char *device)
{
	struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", device);
	if (!ioctl(fd, TUNSETIFF, &request))
		return fd;
	close(fd);
	return -errno;
}

void net_send(int tap, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	static const struct virtio_net_hdr none;
	struct iovec parts[] = { { (void *)(uintptr_t)(header ? header : &none), sizeof(*header) },
		{ (void *)(uintptr_t)frame, n } };

	must(writev(tap, parts, 2) == (ssize_t)(n + sizeof(*header)) || errno == ENOBUFS, "send");
}

/* Only what is whole here, and has come in: a socket sees what it sends, too. */
static bool is_wanted(const struct sockaddr_ll *from, const uint8_t *frame, ssize_t n)
{
	const uint8_t *ip = frame + ETH_HLEN;

	if (from->sll_pkttype == PACKET_OUTGOING || n < ETH_HLEN + 40)
		return false;
	return ip[0] >> 4 == 4 ? ip[IPV4_PROTOCOL] == IP_TCP : ip[IPV6_PROTOCOL] == IP_TCP;
}

size_t net_receive(int tap, struct virtio_net_hdr *header, uint8_t frame[NET_PACKET_MAX])
{
	struct iovec parts[] = { { header, sizeof(*header) }, { frame, NET_PACKET_MAX } };
	struct sockaddr_ll from;

	/* Others: neighbour and router discovery. */
	for (int i = 0; i < TRIES; i++) {
		struct msghdr message = { .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = parts, .msg_iovlen = 2 };
		ssize_t n = recvmsg(tap, &message, 0);

		if (n < (ssize_t)sizeof(*header))
			return 0;
		if (is_wanted(&from, frame, n - (ssize_t)sizeof(*header)))
			return (size_t)n - sizeof(*header);
	}
	return 0;
}
