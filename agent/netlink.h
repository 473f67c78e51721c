/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel's routing knows: the way to an address, the devices, the node's own addresses, and their changes. */
#ifndef LLMD_AGENT_NETLINK_H
#define LLMD_AGENT_NETLINK_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/address.h"

struct netlink;

/** struct netlink_route - the way to an address. @mtu: bytes of IP packet that it can carry: the route's or the device's. */
struct netlink_route {
	uint32_t ifindex;
	uint32_t mtu;
	uint8_t source[16]; /* the node's address on that way, IPv4 mapped */
	bool is_local;	    /* the address is the node's own: the way is the loopback */
};

/**
 * struct netlink_device - @is_up: by its configuration; the carrier may still be on its way.
 * @is_l3: packets carry no Ethernet header (tunnels); @is_ethernet: they do. Neither, as the loopback: of no use here.
 * @has_address: other than an IPv6 link-local one, which any device may have.
 */
struct netlink_device {
	uint32_t ifindex;
	uint32_t mtu;
	bool is_up, is_loopback, is_ethernet, is_l3, has_address;
	char name[16];
};

/**
 * netlink_new() - @changed: called from the loop once a burst of link, address or route changes is over (50 ms), during a
 * burst that does not end about once a second. It may call everything here but netlink_free(). What is asked before the
 * loop has run may still know a device's earlier MTU.
 */
int netlink_new(struct event_base *base, void (*changed)(void *ctx), void *ctx, struct netlink **out);
void netlink_free(struct netlink *netlink);

/**
 * netlink_route_get() - as TCP to @to's port is routed; about 10 us. Return: 0, or -errno with @out unchanged:
 * -ENETUNREACH without a route, -EHOSTUNREACH, -EACCES or -EINVAL as connect() would where a route rejects.
 */
int netlink_route_get(struct netlink *netlink, const struct address *to, struct netlink_route *out);

/**
 * netlink_devices() - calls @visit for each device of the network namespace, by ifindex. A visitor may call the other
 * functions here. Return: 0 or -errno.
 */
int netlink_devices(struct netlink *netlink, void (*visit)(void *ctx, const struct netlink_device *device), void *ctx);

/** netlink_addresses() - calls @visit for each of the node's own addresses (IPv4 mapped), loopback's included. */
int netlink_addresses(struct netlink *netlink, void (*visit)(void *ctx, uint32_t ifindex, const uint8_t ip[16]), void *ctx);

/** netlink_has_filters() - whether the device's clsact qdisc holds a filter. Return: 0 (also without the device), 1 or -errno. */
int netlink_has_filters(struct netlink *netlink, uint32_t ifindex);

#endif
