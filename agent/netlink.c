// SPDX-License-Identifier: Apache-2.0
/*
 * What the kernel's routing knows: see netlink.h.
 *
 * How it works. Requests and events have a socket each, so that an event never stands between a request and its reply.
 * Dumps are read to their end before a visitor sees the first row: the visitor may ask again on the same socket, and a
 * dump that a change has torn apart (-EINTR) is read anew.
 *
 * The MTU of a route without one of its own is the device's. It is kept by ifindex, and dropped as soon as the kernel
 * tells of any change of that device, or drops a notification.
 */
#include "agent/netlink.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "agent/netlink_request.h"

enum {
	EVENT_QUEUE_BYTES = 1 << 20,
	EVENT_READS = 64, /* a callback: connections come first */
	SETTLE_MS = 50,
	SETTLE_MAX_MS = 1000, /* changes that never pause are told, too */
	DUMP_TRIES = 5,
	MTU_CACHED = 256, /* a power of two: ifindexes are dense, so few collide */
};

struct mtu_entry {
	uint32_t ifindex, mtu; /* ifindex 0: none */
};

struct netlink {
	struct netlink_requests requests;
	struct mnl_socket *notices;
	struct event *readable, *settle;
	void (*changed)(void *ctx);
	void *ctx;
	uint64_t told_by_ms;
	struct mtu_entry mtu[MTU_CACHED];
};

/** struct rows - what a dump has said. */
struct rows {
	void *at;
	size_t n, max, size; /* @size of a row */
};

static void *rows_add(struct rows *rows)
{
	if (rows->n == rows->max) {
		size_t max = rows->max ? rows->max * 2 : 64;
		void *at = reallocarray(rows->at, max, rows->size);

		if (!at)
			return NULL;
		rows->at = at;
		rows->max = max;
	}
	return memset((char *)rows->at + rows->n++ * rows->size, 0, rows->size);
}

/* Links. */
static bool is_l3_type(uint16_t type)
{
	switch (type) {
	case ARPHRD_NONE: /* tun, WireGuard, IP tunnels in metadata mode */
	case ARPHRD_PPP:
	case ARPHRD_RAWIP:
	case ARPHRD_TUNNEL:
	case ARPHRD_TUNNEL6:
	case ARPHRD_SIT:
	case ARPHRD_IPGRE:
	case ARPHRD_IP6GRE:
		return true;
	default:
		return false;
	}
}

static int device_parse(const struct nlmsghdr *nlh, struct netlink_device *out)
{
	const struct nlattr *table[IFLA_MTU + 1] = { 0 };
	const struct ifinfomsg *link = mnl_nlmsg_get_payload(nlh);

	if (nlh->nlmsg_type != RTM_NEWLINK || !netlink_message_holds(nlh, sizeof(*link)) || link->ifi_index <= 0)
		return -EPROTO;
	netlink_attributes(table, IFLA_MTU, nlh, sizeof(*link));
	if (!netlink_attribute_u32(table[IFLA_MTU], &out->mtu))
		return -EPROTO;
	if (!table[IFLA_IFNAME] || mnl_attr_validate(table[IFLA_IFNAME], MNL_TYPE_NUL_STRING) < 0)
		return -EPROTO;
	snprintf(out->name, sizeof(out->name), "%s", mnl_attr_get_str(table[IFLA_IFNAME]));
	out->ifindex = (uint32_t)link->ifi_index;
	out->is_up = link->ifi_flags & IFF_UP;
	out->is_loopback = link->ifi_flags & IFF_LOOPBACK;
	out->is_ethernet = link->ifi_type == ARPHRD_ETHER;
	out->is_l3 = is_l3_type(link->ifi_type);
	return 0;
}

static int on_device(const struct nlmsghdr *nlh, void *ctx)
{
	struct netlink_device *device = rows_add(ctx);

	return device ? device_parse(nlh, device) : -ENOMEM;
}

static int on_mtu(const struct nlmsghdr *nlh, void *ctx)
{
	struct netlink_device device = { 0 };
	struct mtu_entry *entry = ctx;
	int err = device_parse(nlh, &device);

	if (!err)
		*entry = (struct mtu_entry){ .ifindex = device.ifindex, .mtu = device.mtu };
	return err;
}

static struct nlmsghdr *link_request(struct netlink *netlink, uint32_t ifindex)
{
	struct nlmsghdr *nlh = netlink_request_begin(&netlink->requests, RTM_GETLINK, ifindex ? 0 : NLM_F_DUMP);
	struct ifinfomsg *link = mnl_nlmsg_put_extra_header(nlh, sizeof(*link));

	link->ifi_family = AF_UNSPEC;
	link->ifi_index = (int)ifindex;
	mnl_attr_put_u32(nlh, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
	return nlh;
}

static struct mtu_entry *mtu_entry_of(struct netlink *netlink, uint32_t ifindex)
{
	return &netlink->mtu[ifindex & (MTU_CACHED - 1)];
}

static int device_mtu(struct netlink *netlink, uint32_t ifindex, uint32_t *mtu)
{
	struct mtu_entry *entry = mtu_entry_of(netlink, ifindex);
	int err = 0;

	if (entry->ifindex != ifindex)
		err = netlink_request_send(&netlink->requests, link_request(netlink, ifindex), on_mtu, entry);
	if (!err && entry->ifindex != ifindex)
		err = -EPROTO;
	*mtu = entry->mtu;
	return err;
}

/* Addresses. */
struct own_address {
	uint32_t ifindex;
	uint8_t ip[16];
};

static int on_address(const struct nlmsghdr *nlh, void *ctx)
{
	const struct nlattr *table[IFA_LOCAL + 1] = { 0 };
	const struct ifaddrmsg *message = mnl_nlmsg_get_payload(nlh);
	struct own_address *address;
	struct rows *rows = ctx;

	if (nlh->nlmsg_type != RTM_NEWADDR || !netlink_message_holds(nlh, sizeof(*message)))
		return -EPROTO;
	if (message->ifa_family != AF_INET && message->ifa_family != AF_INET6)
		return 0;
	address = rows_add(rows);
	if (!address)
		return -ENOMEM;
	address->ifindex = message->ifa_index;
	netlink_attributes(table, IFA_LOCAL, nlh, sizeof(*message));
	/* IFA_ADDRESS of a point-to-point device is the other end's, then IFA_LOCAL is there, too */
	if (netlink_attribute_ip(table[IFA_LOCAL] ? table[IFA_LOCAL] : table[IFA_ADDRESS], message->ifa_family, address->ip))
		return 0;
	return -EPROTO;
}

/* dump() - reads all into @rows, anew if it changed meanwhile. What is still torn at last is told of by an event. */
static int dump(struct netlink *netlink, uint16_t type, netlink_reply_fn *reply, struct rows *rows)
{
	int err = -EINTR;

	for (int i = 0; i < DUMP_TRIES && err == -EINTR; i++) {
		struct nlmsghdr *nlh;

		rows->n = 0;
		if (type == RTM_GETLINK) {
			nlh = link_request(netlink, 0);
		} else {
			nlh = netlink_request_begin(&netlink->requests, type, NLM_F_DUMP);
			mnl_nlmsg_put_extra_header(nlh, sizeof(struct ifaddrmsg));
		}
		err = netlink_request_send(&netlink->requests, nlh, reply, rows);
	}
	return err == -EINTR ? 0 : err;
}

static int compare_devices(const void *a, const void *b)
{
	uint32_t left = ((const struct netlink_device *)a)->ifindex, right = ((const struct netlink_device *)b)->ifindex;

	return (left > right) - (left < right);
}

static void devices_mark_addressed(const struct rows *devices, const struct rows *addresses)
{
	const struct own_address *address = addresses->at;

	for (size_t i = 0; i < addresses->n; i++) {
		struct netlink_device key = { .ifindex = address[i].ifindex }, *device;

		if (IN6_IS_ADDR_LINKLOCAL((const struct in6_addr *)address[i].ip))
			continue;
		device = bsearch(&key, devices->at, devices->n, devices->size, compare_devices);
		if (device)
			device->has_address = true;
	}
}

int netlink_devices(struct netlink *netlink, void (*visit)(void *ctx, const struct netlink_device *device), void *ctx)
{
	struct rows devices = { .size = sizeof(struct netlink_device) }, addresses = { .size = sizeof(struct own_address) };
	int err = dump(netlink, RTM_GETLINK, on_device, &devices);

	if (!err)
		err = dump(netlink, RTM_GETADDR, on_address, &addresses);
	if (err || !devices.n)
		goto out;
	qsort(devices.at, devices.n, devices.size, compare_devices);
	devices_mark_addressed(&devices, &addresses);
	for (size_t i = 0; i < devices.n; i++)
		visit(ctx, (struct netlink_device *)devices.at + i);
out:
	free(devices.at);
	free(addresses.at);
	return err;
}

int netlink_addresses(struct netlink *netlink, void (*visit)(void *ctx, uint32_t ifindex, const uint8_t ip[16]), void *ctx)
{
	struct rows addresses = { .size = sizeof(struct own_address) };
	int err = dump(netlink, RTM_GETADDR, on_address, &addresses);
	const struct own_address *address = addresses.at;

	for (size_t i = 0; !err && i < addresses.n; i++)
		visit(ctx, address[i].ifindex, address[i].ip);
	free(addresses.at);
	return err;
}

/* Routes. */
static uint32_t metrics_mtu(const struct nlattr *metrics)
{
	const struct nlattr *attr;
	uint32_t mtu;

	if (!metrics || mnl_attr_validate(metrics, MNL_TYPE_NESTED) < 0)
		return 0;
	mnl_attr_for_each_nested(attr, metrics)
	{
		if (mnl_attr_get_type(attr) == RTAX_MTU && netlink_attribute_u32(attr, &mtu))
			return mtu;
	}
	return 0;
}

static int on_route(const struct nlmsghdr *nlh, void *ctx)
{
	const struct nlattr *table[RTA_METRICS + 1] = { 0 };
	const struct rtmsg *message = mnl_nlmsg_get_payload(nlh);
	struct netlink_route *route = ctx;

	if (nlh->nlmsg_type != RTM_NEWROUTE || !netlink_message_holds(nlh, sizeof(*message)))
		return -EPROTO;
	/* a route that rejects is told of as an error; so not by all kernels in IPv6 */
	if (message->rtm_type != RTN_UNICAST && message->rtm_type != RTN_LOCAL)
		return -ENETUNREACH;
	netlink_attributes(table, RTA_METRICS, nlh, sizeof(*message));
	if (!netlink_attribute_u32(table[RTA_OIF], &route->ifindex) || !route->ifindex)
		return -EPROTO;
	if (!netlink_attribute_ip(table[RTA_PREFSRC], message->rtm_family, route->source))
		return -EADDRNOTAVAIL; /* a way out, and no address to use there */
	route->mtu = metrics_mtu(table[RTA_METRICS]);
	route->is_local = message->rtm_type == RTN_LOCAL;
	return 0;
}

/* Protocol and port are told, for rules that look at them. Kernels before 4.18 ignore both. */
static struct nlmsghdr *route_request(struct netlink *netlink, const struct address *to)
{
	struct nlmsghdr *nlh = netlink_request_begin(&netlink->requests, RTM_GETROUTE, 0);
	struct rtmsg *message = mnl_nlmsg_put_extra_header(nlh, sizeof(*message));
	size_t len = address_is_ipv4(to) ? 4 : 16;

	message->rtm_family = len == 4 ? AF_INET : AF_INET6;
	message->rtm_dst_len = (unsigned char)(len * 8);
	message->rtm_flags = RTM_F_LOOKUP_TABLE;
	mnl_attr_put(nlh, RTA_DST, len, to->ip + 16 - len);
	mnl_attr_put_u8(nlh, RTA_IP_PROTO, IPPROTO_TCP);
	mnl_attr_put_u16(nlh, RTA_DPORT, to->port_be);
	return nlh;
}

int netlink_route_get(struct netlink *netlink, const struct address *to, struct netlink_route *out)
{
	struct netlink_route route = { 0 };
	uint32_t mtu;
	int err = netlink_request_send(&netlink->requests, route_request(netlink, to), on_route, &route);

	if (!err)
		err = device_mtu(netlink, route.ifindex, &mtu);
	if (err)
		return err;
	if (!route.mtu || route.mtu > mtu)
		route.mtu = mtu;
	*out = route;
	return 0;
}

/* Filters. */
static int on_filter(const struct nlmsghdr *nlh, void *ctx)
{
	if (nlh->nlmsg_type == RTM_NEWTFILTER)
		*(int *)ctx = 1;
	return 0;
}

int netlink_has_filters(struct netlink *netlink, uint32_t ifindex)
{
	static const uint32_t parents[] = { TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS) };
	int found = 0;

	for (size_t i = 0; i < MNL_ARRAY_SIZE(parents) && !found; i++) {
		struct nlmsghdr *nlh = netlink_request_begin(&netlink->requests, RTM_GETTFILTER, NLM_F_DUMP);
		struct tcmsg *message = mnl_nlmsg_put_extra_header(nlh, sizeof(*message));
		int err;

		message->tcm_ifindex = (int)ifindex;
		message->tcm_parent = parents[i];
		err = netlink_request_send(&netlink->requests, nlh, on_filter, &found);
		if (err)
			return err;
	}
	return found;
}

/* Events. */
static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void settle_later(struct netlink *netlink)
{
	const struct timeval settle = { .tv_usec = SETTLE_MS * 1000 };
	uint64_t now = now_ms();

	if (!event_pending(netlink->settle, EV_TIMEOUT, NULL))
		netlink->told_by_ms = now + SETTLE_MAX_MS;
	else if (now + SETTLE_MS > netlink->told_by_ms)
		return;
	event_add(netlink->settle, &settle);
}

static void on_settled(evutil_socket_t fd, short what, void *ctx)
{
	struct netlink *netlink = ctx;

	(void)fd, (void)what;
	netlink->changed(netlink->ctx);
}

static void notices_take(struct netlink *netlink, int len)
{
	const struct nlmsghdr *nlh = (const struct nlmsghdr *)netlink->requests.buffer;

	for (; mnl_nlmsg_ok(nlh, len); nlh = mnl_nlmsg_next(nlh, &len)) {
		const struct ifinfomsg *link = mnl_nlmsg_get_payload(nlh);

		if (nlh->nlmsg_type != RTM_NEWLINK && nlh->nlmsg_type != RTM_DELLINK)
			continue;
		if (netlink_message_holds(nlh, sizeof(*link)))
			mtu_entry_of(netlink, (uint32_t)link->ifi_index)->ifindex = 0;
	}
}

static void on_readable(evutil_socket_t fd, short what, void *ctx)
{
	struct netlink *netlink = ctx;
	bool any = false;

	(void)fd, (void)what;
	for (int i = 0; i < EVENT_READS; i++) {
		ssize_t len = mnl_socket_recvfrom(netlink->notices, netlink->requests.buffer, sizeof(netlink->requests.buffer));

		if (len < 0 && errno == EINTR)
			continue;
		if (len < 0 && errno == EAGAIN)
			break;
		any = true;
		if (len < 0) /* ENOBUFS: the queue was full; what was lost is unknown, so everything may have changed */
			memset(netlink->mtu, 0, sizeof(netlink->mtu));
		else
			notices_take(netlink, (int)len);
	}
	if (any)
		settle_later(netlink);
}

static int notices_open(struct netlink *netlink, struct event_base *base)
{
	unsigned groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
	int bytes = EVENT_QUEUE_BYTES, fd;

	netlink->notices = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (!netlink->notices)
		return -errno;
	fd = mnl_socket_get_fd(netlink->notices);
	/* a smaller queue does no harm: an overrun counts as a change */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)))
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	if (mnl_socket_bind(netlink->notices, groups, MNL_SOCKET_AUTOPID) < 0)
		return -errno;
	netlink->readable = event_new(base, fd, EV_READ | EV_PERSIST, on_readable, netlink);
	netlink->settle = event_new(base, -1, 0, on_settled, netlink);
	if (!netlink->readable || !netlink->settle || event_add(netlink->readable, NULL))
		return -ENOMEM;
	return 0;
}

int netlink_new(struct event_base *base, void (*changed)(void *ctx), void *ctx, struct netlink **out)
{
	struct netlink *netlink = calloc(1, sizeof(*netlink));
	int err;

	if (!netlink)
		return -ENOMEM;
	netlink->changed = changed;
	netlink->ctx = ctx;
	err = netlink_requests_open(&netlink->requests);
	if (!err)
		err = notices_open(netlink, base);
	if (err) {
		netlink_free(netlink);
		return err;
	}
	*out = netlink;
	return 0;
}

void netlink_free(struct netlink *netlink)
{
	if (!netlink)
		return;
	if (netlink->readable)
		event_free(netlink->readable);
	if (netlink->settle)
		event_free(netlink->settle);
	if (netlink->notices)
		mnl_socket_close(netlink->notices);
	netlink_requests_close(&netlink->requests);
	free(netlink);
}
