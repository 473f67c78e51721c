/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The way to a client may change while its stream is open: a device goes, a route moves. The entry names the device that led
 * there when the connection was opened, and what is redirected to one that is gone is lost without a word. But the pod then
 * repeats itself, so only what is repeated is worth a question to the routing table. No agent is needed for it.
 */
#ifndef LLMD_BPF_WAY_H
#define LLMD_BPF_WAY_H

#include "hook.h"

/** way_follow() - @flow: the entry of a packet that the pod has sent again. Return: 0. */
SUBPROGRAM int way_follow(struct __sk_buff *skb, const struct flow *flow, struct slot *slot)
{
	struct bpf_fib_lookup route = { .l4_protocol = IPPROTO_TCP };
	long err;

	if (!flow || !slot)
		return 0;
	route.ifindex = skb->ifindex;
	route.sport = flow->to.sport;
	route.dport = flow->to.dport;
	if (address_is_ipv6(flow->to.daddr)) {
		route.family = FAMILY_IPV6;
		address_copy(route.ipv6_src, flow->to.saddr);
		address_copy(route.ipv6_dst, flow->to.daddr);
	} else {
		route.family = FAMILY_IPV4;
		route.ipv4_src = flow->to.saddr[3];
		route.ipv4_dst = flow->to.daddr[3];
	}
	err = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	/* Whose neighbour is not known yet is found out when the packet leaves. */
	if ((err == BPF_FIB_LKUP_RET_SUCCESS || err == BPF_FIB_LKUP_RET_NO_NEIGH) && route.ifindex != hook_way(flow, slot))
		slot->client_way = route.ifindex;
	return 0;
}

#endif
