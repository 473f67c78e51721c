/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A TCP packet, as far as the programs need to know it. */
#ifndef LLMD_BPF_PACKET_H
#define LLMD_BPF_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include "../../include/llmd/abi.h"
#include "compat.h"

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16, TCP_ECE = 64, TCP_CWR = 128 };
enum { FAMILY_IPV4 = 2, FAMILY_IPV6 = 10 }; /* AF_INET and AF_INET6 of linux/socket.h, which programs cannot include */
enum { PACKET_IPV4_FRAGMENT = 0x3fff /* more fragments, or an offset */, TCP_OPTIONS_MAX = 40 };

/**
 * struct packet - all numbers in host order.
 * @l3, @l4:  offsets from the start of the packet's data.
 * @len:      bytes of payload, whatever padding follows.
 * @options:  bytes of TCP options.
 */
struct packet {
	struct flow_key key;
	__u32 seq, ack, len;
	__u32 l3, l4;
	__u16 window;
	__u16 ip_check; /* IPv4, as stored */
	__u16 flags_word; /* offset and flags, as stored */
	__u8 flags, options;
	bool ipv6;
};

/** packet_end() - the sequence number after the packet. */
static __always_inline __u32 packet_end(const struct packet *packet)
{
	return packet->seq + packet->len + !!(packet->flags & TCP_SYN) + !!(packet->flags & TCP_FIN);
}

static __always_inline void address_from_ipv4(__u32 out[4], __u32 ipv4)
{
	out[0] = 0;
	out[1] = 0;
	out[2] = be32_from_host(0xffff);
	out[3] = ipv4;
}

static __always_inline bool address_is_ipv6(const __u32 address[4])
{
	return address[0] || address[1] || address[2] != be32_from_host(0xffff);
}

static __always_inline void address_copy(__u32 out[4], const __u32 in[4])
{
	out[0] = in[0];
	out[1] = in[1];
	out[2] = in[2];
	out[3] = in[3];
}

static __always_inline enum reason packet_parse_tcp(struct packet *packet, const struct tcphdr *tcp, __u32 l4_len)
{
	const __u8 *bytes = (const __u8 *)tcp;
	__u32 header = bytes[12] >> 4 << 2;

	if (header < sizeof(*tcp) || header > l4_len)
		return REASON_MALFORMED;
	packet->key.sport = tcp->source;
	packet->key.dport = tcp->dest;
	packet->seq = host_from_be32(tcp->seq);
	packet->ack = host_from_be32(tcp->ack_seq);
	packet->window = host_from_be16(tcp->window);
	packet->flags = bytes[13];
	packet->flags_word = *(const __u16 *)(bytes + 12);
	packet->options = (__u8)(header - sizeof(*tcp));
	packet->len = l4_len - header;
	return REASON_NONE;
}

/* BIG TCP leaves the IP length at 0: then the packet's own counts. */
static __always_inline enum reason packet_parse_ipv4(struct packet *packet, const void *l3, const void *end, __u32 left)
{
	const struct iphdr *ip = l3;
	const struct tcphdr *tcp = l3 + sizeof(*ip);
	__u32 total;

	if ((const void *)(ip + 1) > end || ip->protocol != IPPROTO_TCP)
		return REASON_NOT_OURS;
	if (ip->frag_off & be16_from_host(PACKET_IPV4_FRAGMENT))
		return REASON_FRAGMENT;
	if (ip->ihl != sizeof(*ip) / 4)
		return REASON_IP_OPTIONS;
	total = host_from_be16(ip->tot_len);
	if (!total)
		total = left;
	if ((const void *)(tcp + 1) > end || total < sizeof(*ip) + sizeof(*tcp) || total > left)
		return REASON_MALFORMED;
	address_from_ipv4(packet->key.saddr, ip->saddr);
	address_from_ipv4(packet->key.daddr, ip->daddr);
	packet->ip_check = ip->check;
	packet->l4 = packet->l3 + sizeof(*ip);
	return packet_parse_tcp(packet, tcp, total - sizeof(*ip));
}

/* The first byte of each of these says what follows; multicast reports, for one, come behind hop-by-hop options. */
static __always_inline enum reason packet_parse_extension(__u8 kind, const void *extension, const void *end)
{
	const __u8 *next = extension;

	if (kind != IPPROTO_FRAGMENT && kind != IPPROTO_HOPOPTS && kind != IPPROTO_ROUTING && kind != IPPROTO_DSTOPTS)
		return REASON_NOT_OURS;
	if ((const void *)(next + 1) > end || *next != IPPROTO_TCP)
		return REASON_NOT_OURS;
	return kind == IPPROTO_FRAGMENT ? REASON_FRAGMENT : REASON_IP_OPTIONS;
}

static __always_inline enum reason packet_parse_ipv6(struct packet *packet, const void *l3, const void *end, __u32 left)
{
	const struct ipv6hdr *ip = l3;
	const struct tcphdr *tcp = l3 + sizeof(*ip);
	__u32 payload;

	if ((const void *)(ip + 1) > end)
		return REASON_NOT_OURS;
	if (ip->nexthdr != IPPROTO_TCP)
		return packet_parse_extension(ip->nexthdr, ip + 1, end);
	payload = host_from_be16(ip->payload_len);
	if (!payload)
		payload = left - sizeof(*ip);
	if ((const void *)(tcp + 1) > end || payload < sizeof(*tcp) || payload + sizeof(*ip) > left)
		return REASON_MALFORMED;
	address_copy(packet->key.saddr, ip->saddr.s6_addr32);
	address_copy(packet->key.daddr, ip->daddr.s6_addr32);
	packet->ipv6 = true;
	packet->l4 = packet->l3 + sizeof(*ip);
	return packet_parse_tcp(packet, tcp, payload);
}

/**
 * packet_parse() - @packet: zeroed. @data, @end: its headers, of which packet_headers() are there if it has them.
 * @l3: bytes before the IP header; @protocol: ETH_P_*, as stored; @total: bytes of the whole packet from @data on.
 * Return: REASON_NONE for a TCP packet, REASON_NOT_OURS, or what is wrong with it.
 */
static __always_inline enum reason packet_parse(struct packet *packet, const void *data, const void *end, __u32 l3,
	__u16 protocol, __u32 total)
{
	if (total < l3)
		return REASON_NOT_OURS;
	packet->l3 = l3;
	if (protocol == be16_from_host(ETH_P_IP))
		return packet_parse_ipv4(packet, data + l3, end, total - l3);
	if (protocol == be16_from_host(ETH_P_IPV6))
		return packet_parse_ipv6(packet, data + l3, end, total - l3);
	if (protocol == be16_from_host(ETH_P_8021Q) || protocol == be16_from_host(ETH_P_8021AD))
		return REASON_VLAN;
	return REASON_NOT_OURS;
}

/** packet_headers() - bytes of IP and TCP header without options; 0 for any other @protocol, as stored. */
static __always_inline __u32 packet_headers(__u16 protocol)
{
	if (protocol == be16_from_host(ETH_P_IP))
		return sizeof(struct iphdr) + sizeof(struct tcphdr);
	return protocol == be16_from_host(ETH_P_IPV6) ? sizeof(struct ipv6hdr) + sizeof(struct tcphdr) : 0;
}

/** flow_key_reverse() - the key of the packets that answer. */
static __always_inline void flow_key_reverse(struct flow_key *out, const struct flow_key *key)
{
	address_copy(out->saddr, key->daddr);
	address_copy(out->daddr, key->saddr);
	out->sport = key->dport;
	out->dport = key->sport;
}

#endif
