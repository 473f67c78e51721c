/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A router's "packet too big" about a packet that has left here translated (RFC 792 type 3 code 4, RFC 4443 type 2). What it
 * quotes is what the router saw, so it is translated back, or whoever sent that packet would not know it, go on with its
 * size, and the stream stand still.
 *
 * Of the quoted TCP header there may be no more than eight bytes, and the receiver looks at no more: ports and sequence number.
 * The router's own address is not kept: to the receiver the node is as far as it sees.
 */
#ifndef LLMD_BPF_TOO_BIG_H
#define LLMD_BPF_TOO_BIG_H

#include "checksum.h"
#include "packet.h"

enum { ICMP_UNREACHABLE = 3, ICMP_UNREACHABLE_TOO_BIG = 4, ICMPV6_TOO_BIG = 2 };
enum { TOO_BIG_MTU_LEAST = 1280 /* what every way carries (RFC 8200, 5) */ };

struct icmp_head {
	__u8 type, code;
	__u16 check;
	__u32 mtu; /* of the next hop; IPv4 has it in the lower half */
};

struct quoted_tcp {
	__u16 sport, dport;
	__u32 seq;
};

/** struct too_big_ipv4, too_big_ipv6 - the packet from its IP header on. */
struct too_big_ipv4 {
	struct iphdr ip;
	struct icmp_head icmp;
	struct iphdr quoted;
	struct quoted_tcp tcp;
};
struct too_big_ipv6 {
	struct ipv6hdr ip;
	struct icmp_head icmp;
	struct ipv6hdr quoted;
	struct quoted_tcp tcp;
};

/**
 * too_big_key_ipv4() - @answers: the key of the packets that answer the quoted one; by these the connection is found.
 * Return: whether the packet is what it is taken for.
 */
static __always_inline bool too_big_key_ipv4(const struct too_big_ipv4 *from, struct flow_key *answers)
{
	const __u16 fragment = be16_from_host(PACKET_IPV4_FRAGMENT);

	if (from->ip.ihl != sizeof(from->ip) / 4 || from->ip.frag_off & fragment || from->icmp.type != ICMP_UNREACHABLE ||
		from->icmp.code != ICMP_UNREACHABLE_TOO_BIG || from->quoted.ihl != sizeof(from->quoted) / 4 ||
		from->quoted.frag_off & fragment || from->quoted.protocol != IPPROTO_TCP || from->quoted.saddr != from->ip.daddr)
		return false;
	address_from_ipv4(answers->saddr, from->quoted.daddr);
	address_from_ipv4(answers->daddr, from->quoted.saddr);
	answers->sport = from->tcp.dport;
	answers->dport = from->tcp.sport;
	return true;
}

static __always_inline bool too_big_key_ipv6(const struct too_big_ipv6 *from, struct flow_key *answers)
{
	__u32 differs = 0;

	if (from->icmp.type != ICMPV6_TOO_BIG || from->quoted.nexthdr != IPPROTO_TCP)
		return false;
	for (int i = 0; i < 4; i++)
		differs |= from->quoted.saddr.s6_addr32[i] ^ from->ip.daddr.s6_addr32[i];
	address_copy(answers->saddr, from->quoted.daddr.s6_addr32);
	address_copy(answers->daddr, from->quoted.saddr.s6_addr32);
	answers->sport = from->tcp.dport;
	answers->dport = from->tcp.sport;
	return !differs;
}

/* Return: what it does to the checksum. */
static __always_inline __u64 quoted_tcp_translate(struct quoted_tcp *tcp, const struct flow *answers)
{
	const struct quoted_tcp from = *tcp;
	__u64 sum;

	tcp->sport = answers->to.dport;
	tcp->dport = answers->to.sport;
	tcp->seq = be32_from_host(host_from_be32(from.seq) - answers->ack_sub);
	sum = checksum_exchange(0, from.sport, tcp->sport);
	sum = checksum_exchange(sum, from.dport, tcp->dport);
	return checksum_exchange(sum, from.seq, tcp->seq);
}

static __always_inline void too_big_addresses_ipv4(struct iphdr *ip, __u32 saddr, __u32 daddr)
{
	__u64 sum = checksum_exchange(checksum_exchange(0, ip->saddr, saddr), ip->daddr, daddr);

	ip->check = checksum_update(ip->check, sum);
	ip->saddr = saddr;
	ip->daddr = daddr;
}

/**
 * too_big_translate_ipv4() - in place, all checksums, too. @answers: entry of the packets that answer the quoted one: where
 * they go, this goes.
 */
static __always_inline void too_big_translate_ipv4(struct too_big_ipv4 *packet, const struct flow *answers)
{
	const struct iphdr quoted = packet->quoted;
	__u64 sum = quoted_tcp_translate(&packet->tcp, answers);

	too_big_addresses_ipv4(&packet->ip, answers->to.saddr[3], answers->to.daddr[3]);
	too_big_addresses_ipv4(&packet->quoted, answers->to.daddr[3], answers->to.saddr[3]);
	sum = checksum_exchange(sum, quoted.saddr, packet->quoted.saddr);
	sum = checksum_exchange(sum, quoted.daddr, packet->quoted.daddr);
	sum = checksum_exchange(sum, quoted.check, packet->quoted.check);
	packet->icmp.check = checksum_update(packet->icmp.check, sum);
}

static __always_inline __u64 address_exchange(__u64 sum, __u32 at[4], const __u32 to[4])
{
	for (int i = 0; i < 4; i++) {
		sum = checksum_exchange(sum, at[i], to[i]);
		at[i] = to[i];
	}
	return sum;
}

/* ICMPv6 covers the addresses of the packet itself, too. */
static __always_inline void too_big_translate_ipv6(struct too_big_ipv6 *packet, const struct flow *answers)
{
	__u64 sum = quoted_tcp_translate(&packet->tcp, answers);

	sum = address_exchange(sum, packet->ip.saddr.s6_addr32, answers->to.saddr);
	sum = address_exchange(sum, packet->ip.daddr.s6_addr32, answers->to.daddr);
	sum = address_exchange(sum, packet->quoted.saddr.s6_addr32, answers->to.daddr);
	sum = address_exchange(sum, packet->quoted.daddr.s6_addr32, answers->to.saddr);
	packet->icmp.check = checksum_update(packet->icmp.check, sum);
}

#endif
