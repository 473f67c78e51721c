/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From one connection's numbers to the other's: addresses, ports, sequence numbers, window. */
#ifndef LLMD_BPF_TRANSLATE_H
#define LLMD_BPF_TRANSLATE_H

#include "checksum.h"
#include "packet.h"

/* The part of the TCP header that changes. */
struct tcp_head {
	__u16 sport, dport;
	__u32 seq, ack;
	__u16 flags_word, window;
};

/** struct rewrite - what to store: from the IPv4 checksum, or the IPv6 source address, to the TCP window, as one run. */
struct rewrite_ipv4 {
	__u16 pad, check;
	__u32 saddr, daddr;
	struct tcp_head tcp;
};
struct rewrite_ipv6 {
	__u32 saddr[4], daddr[4];
	struct tcp_head tcp;
};
enum { REWRITE_IPV4_OFFSET = offsetof(struct iphdr, check), REWRITE_IPV6_OFFSET = offsetof(struct ipv6hdr, saddr),
	REWRITE_IPV4_SKIP = offsetof(struct rewrite_ipv4, check) };

/** struct rewrite_sums - @pseudo: of what the pseudo header covers; @rest: of the other words. */
struct rewrite_sums {
	__u64 pseudo, rest;
};

/** window_translate() - a SYN's window is never scaled (RFC 7323, 2.2). */
static __always_inline __u16 window_translate(const struct packet *packet, const struct flow *flow)
{
	__u32 window = packet->window;

	if (packet->flags & TCP_SYN)
		return packet->window;
	window = window << (flow->scale_in & 15) >> (flow->scale_out & 15);
	return window > 0xffff ? 0xffff : (__u16)window;
}

static __always_inline void tcp_head_translate(struct tcp_head *out, const struct packet *packet, const struct flow *flow,
	struct rewrite_sums *sums)
{
	__u16 old_window = be16_from_host(packet->window);
	__u32 old_ack = be32_from_host(packet->ack);

	out->sport = flow->to.sport;
	out->dport = flow->to.dport;
	out->seq = be32_from_host(packet->seq + flow->seq_add);
	out->ack = packet->flags & TCP_ACK ? be32_from_host(packet->ack - flow->ack_sub) : old_ack;
	out->flags_word = packet->flags_word;
	out->window = be16_from_host(window_translate(packet, flow));
	sums->rest = checksum_exchange(sums->rest, packet->key.sport, out->sport);
	sums->rest = checksum_exchange(sums->rest, packet->key.dport, out->dport);
	sums->rest = checksum_exchange(sums->rest, be32_from_host(packet->seq), out->seq);
	sums->rest = checksum_exchange(sums->rest, old_ack, out->ack);
	sums->rest = checksum_exchange(sums->rest, old_window, out->window);
}

static __always_inline void translate_ipv4(struct rewrite_ipv4 *out, const struct packet *packet, const struct flow *flow,
	struct rewrite_sums *sums)
{
	out->saddr = flow->to.saddr[3];
	out->daddr = flow->to.daddr[3];
	sums->pseudo = checksum_exchange(sums->pseudo, packet->key.saddr[3], out->saddr);
	sums->pseudo = checksum_exchange(sums->pseudo, packet->key.daddr[3], out->daddr);
	out->check = checksum_update(packet->ip_check, sums->pseudo);
	tcp_head_translate(&out->tcp, packet, flow, sums);
}

static __always_inline void translate_ipv6(struct rewrite_ipv6 *out, const struct packet *packet, const struct flow *flow,
	struct rewrite_sums *sums)
{
	for (int i = 0; i < 4; i++) {
		out->saddr[i] = flow->to.saddr[i];
		out->daddr[i] = flow->to.daddr[i];
		sums->pseudo = checksum_exchange(sums->pseudo, packet->key.saddr[i], out->saddr[i]);
		sums->pseudo = checksum_exchange(sums->pseudo, packet->key.daddr[i], out->daddr[i]);
	}
	tcp_head_translate(&out->tcp, packet, flow, sums);
}

#endif
