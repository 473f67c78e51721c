// SPDX-License-Identifier: Apache-2.0
/* See wire.h. */
#include "tests/bpf/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/address.h"

enum { IPV4_HEADER = 20, IPV6_HEADER = 40, TCP_HEADER = 20, EXTENSION = 8, IP_TCP = 6, IP_ICMP = 1, IP_ICMPV6 = 58 };
enum { ICMP_HEADER = 8, ICMP_CHECK_AT = 2, QUOTED_TCP = 8, QUOTED_LEN = 1480, USUAL_MTU = 1400 };
enum { TCP_CHECK_AT = 16, IPV4_CHECK_AT = 10, MAPPED = 12 };

void wire_put16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

void wire_put32(uint8_t *at, uint32_t value)
{
	wire_put16(at, (uint16_t)(value >> 16));
	wire_put16(at + 2, (uint16_t)value);
}

uint16_t wire_get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

uint32_t wire_get32(const uint8_t *at)
{
	return (uint32_t)wire_get16(at) << 16 | wire_get16(at + 2);
}

uint16_t wire_sum(uint32_t sum, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sum += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

uint16_t wire_tcp_check(const uint8_t *ip, const uint8_t *tcp, size_t n)
{
	bool ipv6 = ip[0] >> 4 == 6;
	uint32_t sum = ipv6 ? wire_sum(0, ip + 8, 32) : wire_sum(0, ip + 12, 8);

	sum = wire_sum(sum + IP_TCP + (uint32_t)(n >> 16) + (uint32_t)(n & 0xffff), tcp, TCP_CHECK_AT);
	return (uint16_t)~wire_sum(sum, tcp + TCP_CHECK_AT + 2, n - TCP_CHECK_AT - 2);
}

uint16_t wire_ipv4_check(const uint8_t *ip)
{
	uint32_t sum = wire_sum(0, ip, IPV4_CHECK_AT);

	return (uint16_t)~wire_sum(sum, ip + IPV4_CHECK_AT + 2, (size_t)(ip[0] & 15) * 4 - IPV4_CHECK_AT - 2);
}

static void parse(struct address *out, const char *text)
{
	if (address_parse(out, text)) {
		fprintf(stderr, "no address: %s\n", text);
		abort();
	}
}

static size_t build_ethernet(uint8_t *out, const struct wire *wire, bool ipv6)
{
	static const uint8_t macs[] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2 };
	uint16_t type = wire->ethertype ? wire->ethertype : ipv6 ? 0x86dd : 0x0800;
	size_t n = sizeof(macs);

	memcpy(out, macs, n);
	if (wire->vlan) {
		wire_put16(out + n, 0x8100);
		wire_put16(out + n + 2, wire->vlan);
		n += 4;
	}
	wire_put16(out + n, type);
	return n + 2;
}

static uint16_t ip_length(const struct wire *wire, size_t right)
{
	return wire->ip_length_none ? 0 : (uint16_t)((int)right + wire->ip_length_add);
}

static uint8_t protocol_of(const struct wire *wire, bool ipv6)
{
	if (wire->protocol)
		return wire->protocol;
	if (!wire->quoted_from)
		return IP_TCP;
	return ipv6 ? IP_ICMPV6 : IP_ICMP;
}

static size_t build_ipv4(uint8_t *out, const struct wire *wire, const struct address *from, const struct address *to,
	size_t tcp_len)
{
	size_t header = IPV4_HEADER + wire->ip_options * 4u;

	memset(out, 1, header); /* options: NOPs */
	out[0] = (uint8_t)(0x40 | header / 4);
	out[1] = 0;
	wire_put16(out + 2, ip_length(wire, header + tcp_len));
	wire_put16(out + 4, 0x1234);
	wire_put16(out + 6, wire->fragment ? wire->fragment : 0x4000);
	out[8] = 64;
	out[9] = protocol_of(wire, false);
	memcpy(out + 12, from->ip + MAPPED, 4);
	memcpy(out + 16, to->ip + MAPPED, 4);
	wire_put16(out + IPV4_CHECK_AT, wire_ipv4_check(out));
	return header;
}

static size_t build_ipv6(uint8_t *out, const struct wire *wire, const struct address *from, const struct address *to,
	size_t tcp_len)
{
	size_t extension = wire->extension ? EXTENSION : 0;
	uint8_t protocol = protocol_of(wire, true);

	memset(out, 0, IPV6_HEADER + extension);
	out[0] = 0x60;
	wire_put16(out + 4, ip_length(wire, extension + tcp_len));
	out[6] = extension ? (uint8_t)wire->extension : protocol;
	out[7] = 64;
	memcpy(out + 8, from->ip, 16);
	memcpy(out + 24, to->ip, 16);
	if (extension)
		out[IPV6_HEADER] = protocol;
	return IPV6_HEADER + extension;
}

static size_t build_tcp(uint8_t *out, const struct wire *wire, const struct address *from, const struct address *to)
{
	size_t header = TCP_HEADER + wire->options.n;

	memcpy(out, &from->port_be, 2);
	memcpy(out + 2, &to->port_be, 2);
	wire_put32(out + 4, wire->seq);
	wire_put32(out + 8, wire->ack);
	wire_put16(out + 12, (uint16_t)((wire->data_offset ? wire->data_offset : header / 4) << 12 | wire->flags));
	wire_put16(out + 14, wire->window);
	wire_put16(out + TCP_CHECK_AT, 0);
	wire_put16(out + 18, wire->urgent);
	if (wire->options.n)
		memcpy(out + TCP_HEADER, wire->options.at, wire->options.n);
	if (wire->payload.n)
		memcpy(out + header, wire->payload.at, wire->payload.n);
	return header + wire->payload.n;
}

/* The quoted packet was as large as its IP header says; only its first bytes are here. */
static size_t build_quoted(uint8_t *out, const struct wire *wire)
{
	static const struct wire usual;
	const struct wire *odd = wire->quoted_odd ? wire->quoted_odd : &usual;
	struct address from, to;
	size_t n;

	parse(&from, wire->quoted_from);
	parse(&to, wire->quoted_to);
	n = (address_is_ipv4(&from) ? build_ipv4 : build_ipv6)(out, odd, &from, &to, QUOTED_LEN);
	memcpy(out + n, &from.port_be, 2);
	memcpy(out + n + 2, &to.port_be, 2);
	wire_put32(out + n + 4, wire->seq);
	if (wire->payload.n)
		memcpy(out + n + QUOTED_TCP, wire->payload.at, wire->payload.n);
	return n + QUOTED_TCP + wire->payload.n;
}

static size_t build_icmp(uint8_t *out, const struct wire *wire, bool ipv6)
{
	wire_put16(out, wire->icmp ? wire->icmp : ipv6 ? 0x0200 : 0x0304);
	wire_put16(out + ICMP_CHECK_AT, 0);
	wire_put32(out + 4, wire->no_mtu ? 0 : wire->mtu ? wire->mtu : USUAL_MTU);
	return ICMP_HEADER + build_quoted(out + ICMP_HEADER, wire);
}

/* ICMPv6 has a pseudo header, ICMP has none. */
static uint16_t icmp_check(const uint8_t *ip, const uint8_t *icmp, size_t n, bool ipv6)
{
	uint32_t sum = ipv6 ? wire_sum(IP_ICMPV6 + (uint32_t)n, ip + 8, 32) : 0;

	return (uint16_t)~wire_sum(sum, icmp, n);
}

size_t wire_build(uint8_t out[WIRE_MAX], const struct wire *wire, bool ethernet)
{
	uint8_t body[WIRE_MAX];
	size_t l3, l4, n, check_at;
	struct address from, to;
	uint16_t check;
	bool ipv6;

	parse(&from, wire->from);
	parse(&to, wire->to);
	ipv6 = !address_is_ipv4(&from);
	n = wire->quoted_from ? build_icmp(body, wire, ipv6) : build_tcp(body, wire, &from, &to);
	l3 = ethernet ? build_ethernet(out, wire, ipv6) : 0;
	l4 = l3 + (ipv6 ? build_ipv6 : build_ipv4)(out + l3, wire, &from, &to, n);
	memcpy(out + l4, body, n);
	check = wire->quoted_from ? icmp_check(out + l3, body, n, ipv6) : wire_tcp_check(out + l3, body, n);
	check_at = wire->quoted_from ? ICMP_CHECK_AT : TCP_CHECK_AT;
	wire_put16(out + l4 + check_at, wire->check_error ? wire_sum((uint32_t)check + wire->check_error, NULL, 0) : check);
	memset(out + l4 + n, 0xee, wire->padding);
	return l4 + n + wire->padding - wire->cut;
}

void wire_print(const char *title, const uint8_t *bytes, size_t n)
{
	fprintf(stderr, "%s, %zu bytes:", title, n);
	for (size_t i = 0; i < n; i++)
		fprintf(stderr, "%s%02x", i % 16 ? " " : "\n  ", bytes[i]);
	fprintf(stderr, "\n");
}
