/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* "Packet too big" about handed-over connections: see lib/too_big.h. */
#ifndef LLMD_BPF_TOO_BIG_HOOK_H
#define LLMD_BPF_TOO_BIG_HOOK_H

#include "hook.h"
#include "lib/slot.h"
#include "lib/too_big.h"

/*
 * Where it is to go. What the agent itself has sent to the pod, and the pod has not acknowledged, is its socket's to send
 * again in smaller pieces. A pod remembers the MTU for the node, that is for all of its streams, so what a client can make a
 * router say, or forge about its own connection, has a bound.
 */
static __always_inline enum reason too_big_route(const struct flow_key *answers, __u32 seq, __u32 mtu, struct flow *flow,
	__u32 *ifindex)
{
	const struct slot *slot = hook_find_flow(answers, flow);

	if (!slot || (flow->from_pod && !slot_has_acked(slot) && seq_after(slot->agent_end, seq)))
		return REASON_NOT_OURS;
	if (!flow->from_pod && mtu < TOO_BIG_MTU_LEAST)
		return REASON_TOO_NARROW;
	*ifindex = hook_way(flow, slot);
	return *ifindex ? REASON_TOO_BIG : REASON_NOT_OURS;
}

/*
 * The bytes are stored as they are: what the checksum takes off the sum of the whole packet, if the device has computed that,
 * the other changes add.
 */
SUBPROGRAM enum reason too_big_ipv4(struct __sk_buff *skb, __u32 l3, __u32 *ifindex)
{
	struct too_big_ipv4 packet;
	struct flow_key answers;
	struct flow flow;
	enum reason why;

	if (!ifindex || bpf_skb_load_bytes(skb, l3, &packet, sizeof(packet)) || packet.ip.protocol != IPPROTO_ICMP)
		return REASON_NOT_OURS;
	if (!too_big_key_ipv4(&packet, &answers))
		return REASON_NOT_OURS;
	why = too_big_route(&answers, bpf_ntohl(packet.tcp.seq), bpf_ntohl(packet.icmp.mtu) & 0xffff, &flow, ifindex);
	if (why != REASON_TOO_BIG)
		return why;
	too_big_translate_ipv4(&packet, &flow);
	return bpf_skb_store_bytes(skb, l3, &packet, sizeof(packet), 0) ? REASON_REWRITE_FAILED : REASON_TOO_BIG;
}

SUBPROGRAM enum reason too_big_ipv6(struct __sk_buff *skb, __u32 l3, __u32 *ifindex)
{
	struct too_big_ipv6 packet;
	struct flow_key answers;
	struct flow flow;
	enum reason why;

	if (!ifindex || bpf_skb_load_bytes(skb, l3, &packet, sizeof(packet)) || packet.ip.nexthdr != IPPROTO_ICMPV6)
		return REASON_NOT_OURS;
	if (!too_big_key_ipv6(&packet, &answers))
		return REASON_NOT_OURS;
	why = too_big_route(&answers, bpf_ntohl(packet.tcp.seq), bpf_ntohl(packet.icmp.mtu), &flow, ifindex);
	if (why != REASON_TOO_BIG)
		return why;
	too_big_translate_ipv6(&packet, &flow);
	return bpf_skb_store_bytes(skb, l3, &packet, sizeof(packet), 0) ? REASON_REWRITE_FAILED : REASON_TOO_BIG;
}

/** too_big() - of a packet that is no TCP. @l3: bytes before the IP header. Return: REASON_TOO_BIG: it is to leave by @ifindex. */
static __always_inline enum reason too_big(struct __sk_buff *skb, __u32 l3, __u32 *ifindex)
{
	enum reason why = REASON_NOT_OURS;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		why = too_big_ipv4(skb, l3, ifindex);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		why = too_big_ipv6(skb, l3, ifindex);
	return why;
}

#endif
