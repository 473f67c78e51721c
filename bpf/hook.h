/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What both TC hooks do with a packet: read it, count it, change a SYN's options. */
#ifndef LLMD_BPF_HOOK_H
#define LLMD_BPF_HOOK_H

#include <linux/pkt_cls.h>

#include "lib/options.h"
#include "maps.h"

/* Bytes before the IP header: devices with Ethernet headers, and those without any (tunnels). */
enum { HOOK_ETHERNET = ETH_HLEN, HOOK_L3 = 0 };

enum { TCP_CHECK_OFFSET = offsetof(struct tcphdr, check), TCP_FLAGS_OFFSET = 12 };

static __always_inline void hook_count(enum reason why)
{
	__u32 key = why;
	__u64 *count = bpf_map_lookup_elem(&counters, &key);

	if (count)
		++*count;
}

static __always_inline const struct control *hook_control(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

/** hook_find_flow() - a copy of the entry, if it is whole and its slot, which is returned, still the connection's. */
static __always_inline struct slot *hook_find_flow(const struct flow_key *key, struct flow *flow)
{
	const struct flow *found = bpf_map_lookup_elem(&flows, key);
	struct slot *slot;

	if (!found)
		return NULL;
	*flow = *found;
	slot = bpf_map_lookup_elem(&slots, &flow->slot);
	if (slot && slot->gen == flow->gen_head && slot->gen == flow->gen_tail)
		return slot;
	hook_count(REASON_STALE_ENTRY);
	return NULL;
}

/** hook_way() - Return: the device by which packets of the entry leave, 0 if there is none. */
static __always_inline __u32 hook_way(const struct flow *flow, const struct slot *slot)
{
	__u32 index = slot->endpoint;
	const struct endpoint_entry *endpoint;

	if (flow->ifindex)
		return slot->client_way ? slot->client_way : flow->ifindex;
	endpoint = bpf_map_lookup_elem(&endpoints, &index);
	return endpoint ? endpoint->ifindex : 0;
}

/*
 * The headers may lie in fragments of the packet: then they are pulled together. Not a byte more: behind the headers begins
 * what a clone shares with the socket that keeps it for retransmission, and pulling from there copies the whole head.
 */
static __always_inline enum reason hook_parse(struct __sk_buff *skb, struct packet *packet, __u32 l3)
{
	__u32 need = l3 + packet_headers((__u16)skb->protocol);

	if (skb->vlan_present)
		return REASON_VLAN;
	if (need == l3)
		return packet_parse(packet, NULL, NULL, l3, (__u16)skb->protocol, skb->len);
	if ((void *)(long)skb->data + need > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, skb->len < need ? skb->len : need);
	return packet_parse(packet, (void *)(long)skb->data, (void *)(long)skb->data_end, l3, (__u16)skb->protocol, skb->len);
}

static __always_inline bool hook_load_options(struct __sk_buff *skb, const struct packet *packet, struct tcp_options *options)
{
	__u32 n = packet->options;

	/* A length that the verifier can follow. */
	asm volatile("%0 &= 63" : "+r"(n));
	if (n == 0 || n > TCP_OPTIONS_MAX)
		return false;
	return !bpf_skb_load_bytes(skb, packet->l4 + sizeof(struct tcphdr), options->at, n);
}

static __always_inline bool hook_store_options(struct __sk_buff *skb, const struct packet *packet,
	const struct tcp_options *from, const struct tcp_options *to)
{
	__u32 n = packet->options;

	asm volatile("%0 &= 63" : "+r"(n));
	if (n == 0 || n > TCP_OPTIONS_MAX)
		return false;
	if (bpf_l4_csum_replace(skb, packet->l4 + TCP_CHECK_OFFSET, 0, checksum_diff(options_sum(from, to)), 0))
		return false;
	return !bpf_skb_store_bytes(skb, packet->l4 + sizeof(struct tcphdr), to->at, n, 0);
}

/* Stores the two bytes of data offset, reserved bits and flags. */
static __always_inline bool hook_store_flags(struct __sk_buff *skb, const struct packet *packet, __u16 word)
{
	__u64 sum = checksum_exchange(0, packet->flags_word, word);

	if (bpf_l4_csum_replace(skb, packet->l4 + TCP_CHECK_OFFSET, 0, checksum_diff(sum), 0))
		return false;
	return !bpf_skb_store_bytes(skb, packet->l4 + TCP_FLAGS_OFFSET, &word, sizeof(word), 0);
}

/* ECN is offered by ECE and CWR (RFC 3168, 6.1.1) and the bit before them (accurate ECN). */
static __always_inline bool hook_clear_ecn(struct __sk_buff *skb, const struct packet *packet)
{
	__u16 word = packet->flags_word & bpf_htons(0xffff & ~(0x100 | TCP_ECE | TCP_CWR));

	return word == packet->flags_word || hook_store_flags(skb, packet, word);
}

/* Return: REASON_SYN_CLEANED, REASON_SYN_SIGNED or REASON_REWRITE_FAILED. */
static __always_inline enum reason hook_clean_syn(struct __sk_buff *skb, const struct packet *packet, __u32 mss_max)
{
	struct tcp_options from = {}, to;
	enum reason why;

	if (packet->options) {
		if (!hook_load_options(skb, packet, &from))
			return REASON_REWRITE_FAILED;
		to = from;
		why = syn_clean(&to, packet->options, mss_max);
		if (why != REASON_SYN_CLEANED)
			return why;
		if (!hook_store_options(skb, packet, &from, &to))
			return REASON_REWRITE_FAILED;
	}
	return hook_clear_ecn(skb, packet) ? REASON_SYN_CLEANED : REASON_REWRITE_FAILED;
}

#endif
