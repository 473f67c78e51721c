/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Turns a packet of one connection into one of the other, in place. */
#ifndef LLMD_BPF_REWRITE_H
#define LLMD_BPF_REWRITE_H

#include "hook.h"
#include "lib/translate.h"

SUBPROGRAM bool rewrite(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	struct rewrite_sums sums = {};
	long err;

	if (!packet || !flow)
		return false;
	if (packet->ipv6) {
		struct rewrite_ipv6 to = {};

		translate_ipv6(&to, packet, flow, &sums);
		err = bpf_skb_store_bytes(skb, packet->l3 + REWRITE_IPV6_OFFSET, &to, sizeof(to), 0);
	} else {
		struct rewrite_ipv4 to = {};

		translate_ipv4(&to, packet, flow, &sums);
		err = bpf_skb_store_bytes(skb, packet->l3 + REWRITE_IPV4_OFFSET, (__u8 *)&to + REWRITE_IPV4_SKIP,
			sizeof(to) - REWRITE_IPV4_SKIP, 0);
	}
	/* Apart, since a checksum that the device completes covers only the pseudo header so far. */
	err = err ?: bpf_l4_csum_replace(skb, packet->l4 + TCP_CHECK_OFFSET, 0, checksum_diff(sums.pseudo), BPF_F_PSEUDO_HDR);
	err = err ?: bpf_l4_csum_replace(skb, packet->l4 + TCP_CHECK_OFFSET, 0, checksum_diff(sums.rest), 0);
	/*
	 * The sum of the whole packet, if the device has computed it, stays: what the addresses add, the checksum takes off.
	 * The helper takes it off that sum, too, which is right only where an IP header has a checksum of its own.
	 */
	if (packet->ipv6)
		bpf_csum_update(skb, checksum_diff(sums.pseudo));
	return !err;
}

/* bpf_redirect_neigh() drops what has no Ethernet header in front, whether the other device needs one or not. */
static __always_inline bool rewrite_make_room(struct __sk_buff *skb, __u32 l3)
{
	return l3 != HOOK_L3 || !bpf_skb_change_head(skb, ETH_HLEN, 0);
}

#endif
