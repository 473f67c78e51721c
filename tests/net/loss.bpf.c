// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A bad link for the network tests, at the ingress of a device. Built for each use with
 *
 *   DROP   one TCP packet in DROP is lost; 0: none. No RST: nobody repeats one, and who waits for it waits for ever
 *   FINS   1: the first FIN of each connection is lost
 *   LAST   1: of each connection the first packet behind a FIN is lost
 *   HOLD   one TCP packet in HOLD takes the detour through device DETOUR, where tun.py holds it: it comes
 * late; 0: none
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

static __u8 seen[1 << 16]; /* by ports, of which one is the same for all connections */

static __always_inline struct tcphdr *tcp_of(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *v4 = (void *)(eth + 1);
	struct ipv6hdr *v6 = (void *)(eth + 1);

	if ((void *)(eth + 1) > end)
		return 0;
	if (eth->h_proto == bpf_htons(ETH_P_IP) && (void *)(v4 + 1) <= end && v4->protocol == IPPROTO_TCP)
		return (void *)(v4 + 1);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6) && (void *)(v6 + 1) <= end && v6->nexthdr == IPPROTO_TCP)
		return (void *)(v6 + 1);
	return 0;
}

static __always_inline int is_one_of_the_end(const struct tcphdr *tcp)
{
	enum { NOTHING, FIN, LOST };
	__u8 *had = &seen[(__u16)(tcp->source ^ tcp->dest)];

	if (*had == NOTHING && tcp->fin) {
		*had = FIN;
		return FINS;
	}
	if (*had == FIN && LAST && !tcp->fin) {
		*had = LOST;
		return 1;
	}
	return 0;
}

static __always_inline int one_in(__u32 n)
{
	return n && bpf_get_prandom_u32() % n == 0;
}

SEC("tc")
int bad_link(struct __sk_buff *skb)
{
	struct tcphdr *tcp = tcp_of(skb);

	if (!tcp || (void *)(tcp + 1) > (void *)(long)skb->data_end)
		return TC_ACT_OK;
	if ((FINS || LAST) && is_one_of_the_end(tcp))
		return TC_ACT_SHOT;
	if (!tcp->rst && one_in(DROP))
		return TC_ACT_SHOT;
	if (one_in(HOLD))
		return bpf_redirect(DETOUR, 0);
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
