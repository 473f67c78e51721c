// SPDX-License-Identifier: Apache-2.0
/* Packets that are no TCP, or odd. All but the first carry the addresses of a handed-over connection. */
#include "tests/bpf/fixture.h"

enum { ACK = WIRE_ACK, SYN = WIRE_SYN };
enum { HOP_BY_HOP = 0x100, ROUTING = 0x12b, FRAGMENT = 0x12c, DESTINATION = 0x13c, ICMPV6 = 58, UDP = 17, ARP = 0x0806,
	QINQ = 0x88a8 };

/* From the client, with the right numbers. */
#define ODD4(...) C4(REQUEST_END, ANSWER, ACK, __VA_ARGS__)
#define ODD6(...) C6(REQUEST_END, ANSWER, ACK, __VA_ARGS__)
#define PASSED(text, frames, connection, reason, ...) \
	{ .name = text, .framing = frames, .conn = connection, \
	  .step = { { .in = __VA_ARGS__, .verdict = PASS, .why = { reason } }, \
		  { .program = EGRESS, .in = __VA_ARGS__, .verdict = PASS, .why = { reason } } } }
#define PASSED4(text, reason, ...) PASSED(text, ETHERNET_AND_L3, &conn4, reason, __VA_ARGS__)
#define PASSED6(text, reason, ...) PASSED(text, ETHERNET_AND_L3, &conn6, reason, __VA_ARGS__)
#define SENT4(text, packet, result) \
	{ .name = text, .conn = &conn4, .step = { { .in = packet, .out = result, .verdict = SEND, \
		.why = { REASON_FORWARDED_UP } } } }
#define SENT6(text, packet, result) \
	{ .name = text, .conn = &conn6, .step = { { .in = packet, .out = result, .verdict = SEND, \
		.why = { REASON_FORWARDED_UP } } } }

static const struct fixture cases[] = {
	PASSED("others' TCP", ETHERNET_AND_L3, NULL, REASON_NOT_OURS, ODD4(.payload = TEXT("x"))),
	PASSED("others' TCP, IPv6", ETHERNET_AND_L3, NULL, REASON_NOT_OURS, ODD6(.payload = TEXT("x"))),
	PASSED4("UDP", REASON_NOT_OURS, ODD4(.protocol = UDP)),
	PASSED6("UDP, IPv6", REASON_NOT_OURS, ODD6(.protocol = UDP)),
	PASSED("ARP", ETHERNET, &conn4, REASON_NOT_OURS, ODD4(.ethertype = ARP)),
	PASSED("802.1Q tag", ETHERNET, &conn4, REASON_VLAN, ODD4(.vlan = 5)),
	PASSED("802.1Q tag, IPv6", ETHERNET, &conn6, REASON_VLAN, ODD6(.vlan = 5)),
	PASSED("802.1ad type", ETHERNET, &conn4, REASON_VLAN, ODD4(.ethertype = QINQ)),

	PASSED4("first fragment", REASON_FRAGMENT, ODD4(.fragment = 0x2000, .payload = TEXT("12345678"))),
	PASSED4("last fragment", REASON_FRAGMENT, ODD4(.fragment = 0x0001)),
	PASSED4("fragment of UDP", REASON_NOT_OURS, ODD4(.fragment = 0x2000, .protocol = UDP)),
	PASSED4("a reserved bit makes no fragment, but options do", REASON_IP_OPTIONS, ODD4(.fragment = 0x8000, .ip_options = 1)),
	PASSED4("IP options, one word", REASON_IP_OPTIONS, ODD4(.ip_options = 1)),
	PASSED4("IP options, ten words", REASON_IP_OPTIONS, ODD4(.ip_options = 10)),
	PASSED6("fragment, IPv6", REASON_FRAGMENT, ODD6(.extension = FRAGMENT)),
	PASSED6("fragment of UDP, IPv6", REASON_NOT_OURS, ODD6(.extension = FRAGMENT, .protocol = UDP)),
	PASSED6("routing header", REASON_IP_OPTIONS, ODD6(.extension = ROUTING)),
	PASSED6("destination options", REASON_IP_OPTIONS, ODD6(.extension = DESTINATION)),
	PASSED6("hop-by-hop options", REASON_IP_OPTIONS, ODD6(.extension = HOP_BY_HOP)),
	PASSED6("a multicast report behind hop-by-hop options", REASON_NOT_OURS,
		ODD6(.extension = HOP_BY_HOP, .protocol = ICMPV6)),

	PASSED("cut before the TCP header", ETHERNET, &conn4, REASON_MALFORMED, ODD4(.cut = 20)),
	PASSED4("cut in the TCP header", REASON_MALFORMED, ODD4(.cut = 1)),
	PASSED("cut before the TCP header, IPv6", ETHERNET, &conn6, REASON_MALFORMED, ODD6(.cut = 20)),
	PASSED6("cut in the TCP header, IPv6", REASON_MALFORMED, ODD6(.cut = 1)),
	PASSED4("cut in the payload", REASON_MALFORMED, ODD4(.payload = TEXT("hello"), .cut = 1)),
	PASSED6("cut in the payload, IPv6", REASON_MALFORMED, ODD6(.payload = TEXT("hello"), .cut = 1)),
	PASSED4("IP length ends in the TCP header", REASON_MALFORMED, ODD4(.ip_length_add = -1)),
	PASSED6("IP length ends in the TCP header, IPv6", REASON_MALFORMED, ODD6(.ip_length_add = -1)),
	PASSED4("IP length of the IP header", REASON_MALFORMED, ODD4(.ip_length_add = -20)),
	PASSED4("IP length below the IP header", REASON_MALFORMED, ODD4(.ip_length_add = -21)),
	PASSED4("IP length past the packet", REASON_MALFORMED, ODD4(.ip_length_add = 1)),
	PASSED6("IP length past the packet, IPv6", REASON_MALFORMED, ODD6(.ip_length_add = 1)),
	PASSED4("data offset of four words", REASON_MALFORMED, ODD4(.data_offset = 4)),
	PASSED4("data offset past the packet", REASON_MALFORMED, ODD4(.data_offset = 6)),
	PASSED4("data offset into the padding", REASON_MALFORMED, ODD4(.data_offset = 6, .padding = 6)),
	PASSED6("data offset of four words, IPv6", REASON_MALFORMED, ODD6(.data_offset = 4)),
	PASSED6("data offset of 15 words, past the packet, IPv6", REASON_MALFORMED,
		ODD6(.data_offset = 15, .payload = TEXT("hello"))),

	SENT4("padding behind the IP length is no payload", ODD4(.padding = 6),
		CP4(REQUEST_END_POD, ANSWER_POD, ACK, .padding = 6)),
	SENT6("padding behind the IP length is no payload, IPv6", ODD6(.padding = 1),
		CP6(REQUEST_END_POD, ANSWER_POD, ACK, .padding = 1)),
	SENT4("the reserved bit beside those of fragments", ODD4(.fragment = 0x8000),
		CP4(REQUEST_END_POD, ANSWER_POD, ACK, .fragment = 0x8000)),
	{ .name = "IP length 0, as of packets past 64 KiB: the packet's own counts", .conn = &conn4,
	  .step = { { .in = P4(ANSWER_POD, REQUEST_END_POD, ACK, .payload = TEXT("x\r\n\r\n"), .ip_length_none = true),
		  .out = PC4(ANSWER, REQUEST_END, ACK, .payload = TEXT("x\r\n\r\n"), .ip_length_none = true),
		  .verdict = SEND, .why = { REASON_FORWARDED_DOWN },
		  .after = { .flags = SLOT_ACKED | SLOT_HEAD | SLOT_ANSWERING, .pod_next = ANSWER_POD + 5 } } } },
	{ .name = "IP length 0, IPv6", .conn = &conn6,
	  .step = { { .in = P6(ANSWER_POD, REQUEST_END_POD, ACK, .payload = TEXT("x\r\n\r\n"), .ip_length_none = true),
		  .out = PC6(ANSWER, REQUEST_END, ACK, .payload = TEXT("x\r\n\r\n"), .ip_length_none = true),
		  .verdict = SEND, .why = { REASON_FORWARDED_DOWN },
		  .after = { .flags = SLOT_ACKED | SLOT_HEAD | SLOT_ANSWERING, .pod_next = ANSWER_POD + 5 } } } },
	PASSED4("IP length 0 of a packet that is too short", REASON_MALFORMED, ODD4(.ip_length_none = true, .cut = 3)),
	PASSED6("IP length 0 of a packet that is too short, IPv6", REASON_MALFORMED, ODD6(.ip_length_none = true, .cut = 3)),
	SENT4("a wrong checksum stays as wrong", ODD4(.check_error = 0x1234),
		CP4(REQUEST_END_POD, ANSWER_POD, ACK, .check_error = 0x1234)),
};

FIXTURES(fixtures_parse, cases);
