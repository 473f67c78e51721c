/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets as data: a struct wire says what a TCP packet holds, and what is odd about it; wire_build() makes the bytes. It
 * shares no code with the programs under test, and computes every checksum from scratch.
 */
#ifndef LLMD_TESTS_BPF_WIRE_H
#define LLMD_TESTS_BPF_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WIRE_FIN = 1, WIRE_SYN = 2, WIRE_RST = 4, WIRE_PSH = 8, WIRE_ACK = 16, WIRE_URG = 32, WIRE_ECE = 64, WIRE_CWR = 128,
	WIRE_AE = 256 };
enum { WIRE_MAX = 2048, WIRE_ETHERNET = 14 };

struct wire_bytes {
	const void *at;
	size_t n;
};

/**
 * struct wire - what is left out is the usual: no options, right lengths, right checksums.
 * @from, @to:	    "1.2.3.4:80" or "[::1]:80"; they decide the IP version.
 * @flags:	    WIRE_*, all twelve bits before the window.
 * @data_offset:    instead of the right one, in words.
 * @ip_length_add:  to the right one; @ip_length_none: 0, as BIG TCP has it.
 * @ip_options:	    words of them, NOPs (IPv4); @fragment: the whole field (IPv4).
 * @extension:	    number of the extension header between IPv6 and @protocol, plus 0x100; @protocol: instead of TCP.
 * @vlan:	    number of an 802.1Q tag; @ethertype: instead of IP's.
 * @padding:	    bytes behind what the IP length covers; @cut: bytes that are missing at the end.
 * @check_error:    added to the right TCP (or ICMP) checksum.
 * @quoted_from, @quoted_to: no TCP, but a router's "packet too big" about a TCP packet between these with @seq; of that its
 *		    IP header and eight bytes are quoted, and @payload. @icmp: type and code instead of the right ones;
 *		    @mtu: instead of 1400; @no_mtu: 0; @quoted_odd: what is odd about the quoted packet's IP header.
 */
struct wire {
	const char *from, *to;
	uint32_t seq, ack;
	uint16_t flags, window, urgent;
	struct wire_bytes options, payload;
	uint8_t data_offset, ip_options, protocol;
	int ip_length_add;
	bool ip_length_none;
	uint16_t fragment, extension, vlan, ethertype, check_error;
	size_t padding, cut;
	const char *quoted_from, *quoted_to;
	uint16_t icmp, mtu;
	bool no_mtu;
	const struct wire *quoted_odd;
};

#define TCP(source, target, ...) { .from = (source), .to = (target), __VA_ARGS__ }
#define TOO_BIG(router, receiver, source, target, ...) \
	{ .from = (router), .to = (receiver), .quoted_from = (source), .quoted_to = (target), __VA_ARGS__ }
#define BYTES(...) { (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }) }
#define TEXT(text) { (text), sizeof(text) - 1 }

/** wire_build() - @ethernet: with a header of that. Return: its length; at most WIRE_MAX. */
size_t wire_build(uint8_t out[WIRE_MAX], const struct wire *wire, bool ethernet);

/** wire_sum() - one's complement sum of @n bytes, on top of @sum, folded. */
uint16_t wire_sum(uint32_t sum, const uint8_t *bytes, size_t n);

/** wire_tcp_check() - what the TCP checksum of @n bytes of segment must be; it is taken as 0. @ip: the IP header. */
uint16_t wire_tcp_check(const uint8_t *ip, const uint8_t *tcp, size_t n);

/** wire_ipv4_check() - what the checksum of an IPv4 header must be. */
uint16_t wire_ipv4_check(const uint8_t *ip);

void wire_put16(uint8_t *at, uint16_t value);
void wire_put32(uint8_t *at, uint32_t value);
uint16_t wire_get16(const uint8_t *at);
uint32_t wire_get32(const uint8_t *at);

/** wire_print() - as hexadecimal rows, with @title, to stderr. */
void wire_print(const char *title, const uint8_t *bytes, size_t n);

#endif
