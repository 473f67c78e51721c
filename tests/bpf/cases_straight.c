// SPDX-License-Identifier: Apache-2.0
/* Affinity: SYNs of clients that the agent has met before go straight to their pod. */
#include "tests/bpf/fixture.h"

enum { ACK = WIRE_ACK, SYN = WIRE_SYN, SYN_ACK = WIRE_SYN | WIRE_ACK, RST_ACK = WIRE_RST | WIRE_ACK,
	FIN_ACK = WIRE_FIN | WIRE_ACK };
enum { ISN = 1000, OPEN = SLOT_AFFINITY | SLOT_ACKED, TAKEN = OPEN | SLOT_OPENED /* the client knows the pod's numbers */ };
#define POD_ISN 0x90000000u /* beyond half of all numbers from 0 */
#define TIMES	1, 1, 8, 10, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0
#define SACK	1, 1, 5, 10, 0x90, 0, 0, 0x65, 0x90, 0, 0, 0xc9

/* Nothing of these moves but the addresses. */
#define UP(why_, seq_, ack_, flags_, options_, payload_, ...) \
	{ .in = TCP(CLIENT, FRONT, .seq = seq_, .ack = ack_, .flags = flags_, .window = 500, .options = options_, \
		.payload = payload_), \
	  .out = TCP(STRAIGHT, POD, .seq = seq_, .ack = ack_, .flags = flags_, .window = 500, .options = options_, \
		.payload = payload_), \
	  .verdict = SEND, .why = { why_ }, __VA_ARGS__ }
#define DOWN(seq_, ack_, flags_, options_, payload_, ...) \
	{ .in = TCP(POD, STRAIGHT, .seq = seq_, .ack = ack_, .flags = flags_, .window = 500, .options = options_, \
		.payload = payload_), \
	  .out = TCP(FRONT, CLIENT, .seq = seq_, .ack = ack_, .flags = flags_, .window = 500, .options = options_, \
		.payload = payload_), \
	  .verdict = SEND, .why = { REASON_FORWARDED_DOWN }, __VA_ARGS__ }
#define NO_BYTES { NULL, 0 }
#define MSS(high, low) 2, 4, (high), (low)
/* The SYN comes by a device that carries 65536 bytes. */
#define CLAMPED(text, from_, to_, pod_from_, pod_to_) \
	{ .name = text, .straight = STRAIGHT_KNOWN, .affinity = AFFINITY_REFRESHED, .entries_add = 2, .pod_mss = 1400, \
	  .step = { { .in = TCP(CLIENT, FRONT, .seq = ISN, .flags = SYN, .options = from_), \
		.out = TCP(STRAIGHT, POD, .seq = ISN, .flags = SYN, .options = to_), .verdict = SEND, \
			.why = { REASON_AFFINITY_STRAIGHT } }, \
		  { .in = TCP(POD, STRAIGHT, .seq = POD_ISN, .ack = ISN + 1, .flags = SYN_ACK, .options = pod_from_), \
			.out = TCP(FRONT, CLIENT, .seq = POD_ISN, .ack = ISN + 1, .flags = SYN_ACK, .options = pod_to_), \
			  .verdict = SEND, .why = { REASON_FORWARDED_DOWN }, \
				.after = { .pod_start = POD_ISN + 1, .pod_next = POD_ISN + 1, .pod_ack = ISN + 1 } } } }

#define SENT_SYN UP(REASON_AFFINITY_STRAIGHT, ISN, 0, SYN | WIRE_ECE | WIRE_CWR, BYTES(TIMES), NO_BYTES)
#define SYN_TAKEN \
	DOWN(POD_ISN, ISN + 1, SYN_ACK | WIRE_ECE, BYTES(TIMES), NO_BYTES, \
		.after = { .pod_start = POD_ISN + 1, .pod_next = POD_ISN + 1, .pod_ack = ISN + 1, .client_ack = POD_ISN + 1 })
/* What becomes of a SYN that does not go straight. */
#define TO_AGENT(text, straight_, affinity_, why_) \
	{ .name = text, .straight = straight_, .affinity = affinity_, .noted = { .isn_in = ISN, .ifindex_in = true }, \
	  .step = { { .in = C4(ISN, 0, SYN | WIRE_ECE, .options = BYTES(1, 1, 1, 1)), \
		.out = C4(ISN, 0, SYN, .options = BYTES(1, 1, 1, 1)), \
		  .verdict = PASS, .why = { why_, REASON_SYN_CLEANED } } } }

static const struct fixture cases[] = {
	{ .name = "straight: SYN, SYN-ACK, request, answer, FIN both ways", .straight = STRAIGHT_KNOWN,
		.affinity = AFFINITY_REFRESHED, .entries_add = 2,
	  .step = { SENT_SYN, SYN_TAKEN,
		  UP(REASON_FORWARDED_UP, ISN + 1, POD_ISN + 1, ACK, NO_BYTES, TEXT("GET"), .after = { .flags = TAKEN, .client_next = ISN + 4 }),
		  DOWN(POD_ISN + 1, ISN + 4, FIN_ACK, NO_BYTES, TEXT("HTTP/1.1 200 OK\r\n\r\nhi"), .ttft_ago_us = GAP_US,
			.ttft_bucket = GAP_BUCKET, .events = EVENT(EVENT_FIRST),
			  .after = { .flags = TAKEN | SLOT_HEAD | SLOT_CONTENT | SLOT_ANSWERING | SLOT_POD_FIN,
				.pod_ack = ISN + 4, .pod_next = POD_ISN + 23, .pod_fin = POD_ISN + 23, .status = 200 }),
		  UP(REASON_FORWARDED_UP, ISN + 4, POD_ISN + 23, FIN_ACK, NO_BYTES, NO_BYTES,
			.after = { .client_next = ISN + 5, .client_fin = ISN + 5, .client_ack = POD_ISN + 23,
			  .flags = TAKEN | SLOT_HEAD | SLOT_CONTENT | SLOT_ANSWERING | SLOT_POD_FIN | SLOT_POD_FIN_ACKED |
				SLOT_CLIENT_FIN }),
		  DOWN(POD_ISN + 23, ISN + 5, ACK, NO_BYTES, NO_BYTES, .events = EVENT(EVENT_END), .after = { .pod_ack = ISN + 5,
			  .flags = TAKEN | SLOT_HEAD | SLOT_CONTENT | SLOT_ANSWERING | SLOT_POD_FIN | SLOT_POD_FIN_ACKED |
				SLOT_CLIENT_FIN | SLOT_CLIENT_FIN_ACKED | SLOT_ENDED }) } },
	{ .name = "straight, IPv6", .straight = STRAIGHT_KNOWN, .affinity = AFFINITY_REFRESHED, .entries_add = 2,
	  .step = { { .in = C6(ISN, 0, SYN, .window = 64000), .out = TCP(STRAIGHT6, POD6, .seq = ISN, .flags = SYN,
		.window = 64000), .verdict = SEND, .why = { REASON_AFFINITY_STRAIGHT } },
		  { .in = TCP(POD6, STRAIGHT6, .seq = POD_ISN, .ack = ISN + 1, .flags = SYN_ACK),
			.out = TCP(FRONT6, CLIENT6, .seq = POD_ISN, .ack = ISN + 1, .flags = SYN_ACK),
			  .verdict = SEND, .why = { REASON_FORWARDED_DOWN },
				.after = { .pod_start = POD_ISN + 1, .pod_next = POD_ISN + 1, .pod_ack = ISN + 1 } } } },
	{ .name = "straight: timestamps and SACK stay, numbers do not move", .straight = STRAIGHT_KNOWN,
		.affinity = AFFINITY_REFRESHED, .entries_add = 2,
	  .step = { SENT_SYN, SYN_TAKEN, UP(REASON_FORWARDED_UP, ISN + 1, POD_ISN + 1, ACK, BYTES(TIMES, SACK), NO_BYTES, .after = { .flags = TAKEN }),
		  DOWN(POD_ISN + 1, ISN + 1, ACK, BYTES(SACK, TIMES), NO_BYTES) } },
	{ .name = "straight: a repeated SYN goes the same way, its answers too", .straight = STRAIGHT_KNOWN,
		.affinity = AFFINITY_REFRESHED, .entries_add = 2,
	  .step = { SENT_SYN, UP(REASON_FORWARDED_UP, ISN, 0, SYN, BYTES(TIMES), NO_BYTES), SYN_TAKEN,
		DOWN(POD_ISN, ISN + 1, SYN_ACK, NO_BYTES, NO_BYTES),
		  UP(REASON_FORWARDED_UP, ISN, 0, SYN, BYTES(TIMES), NO_BYTES) } },
	{ .name = "straight: a late copy of the SYN-ACK takes no number back", .straight = STRAIGHT_KNOWN,
		.affinity = AFFINITY_REFRESHED, .entries_add = 2,
	  .step = { SENT_SYN, SYN_TAKEN,
		  DOWN(POD_ISN + 1, ISN + 1, ACK, NO_BYTES, TEXT("x"), .ttft_ago_us = GAP_US, .ttft_bucket = GAP_BUCKET,
			.events = EVENT(EVENT_FIRST),
			  .after = { .flags = OPEN | SLOT_HEAD | SLOT_CONTENT | SLOT_ANSWERING, .pod_next = POD_ISN + 2 }),
		  DOWN(POD_ISN, ISN + 1, SYN_ACK, NO_BYTES, NO_BYTES) } },
	{ .name = "straight: another SYN-ACK counts until the client has taken one", .straight = STRAIGHT_KNOWN,
		.affinity = AFFINITY_REFRESHED, .entries_add = 2,
	  .step = { SENT_SYN, SYN_TAKEN,
		  DOWN(77, ISN + 1, SYN_ACK, NO_BYTES, NO_BYTES, .after = { .pod_start = 78, .pod_next = 78 }),
		  UP(REASON_FORWARDED_UP, ISN + 1, 77, ACK, NO_BYTES, NO_BYTES),
		  UP(REASON_FORWARDED_UP, ISN + 1, 78, ACK, NO_BYTES, TEXT("POST"), .after = { .flags = TAKEN, .client_next = ISN + 5 }),
		  DOWN(POD_ISN, ISN + 5, SYN_ACK, NO_BYTES, NO_BYTES) } },
	CLAMPED("straight: the MSS is clamped both ways, all else stays", BYTES(TIMES, MSS(0xff, 0xff)),
		BYTES(TIMES, MSS(0xff, 0xd8)), BYTES(MSS(5, 0xb4), TIMES), BYTES(MSS(5, 0x78), TIMES)),
	CLAMPED("straight: an MSS that fits stays", BYTES(MSS(5, 0xb4)), BYTES(MSS(5, 0xb4)), BYTES(MSS(5, 0x78)),
		BYTES(MSS(5, 0x78))),
	CLAMPED("straight: an MSS of a wrong length is none", BYTES(2, 3, 0xff, 1), BYTES(2, 3, 0xff, 1),
		BYTES(2, 3, 0xff, 1), BYTES(2, 3, 0xff, 1)),
	{ .name = "straight: the MSS is clamped both ways, IPv6", .straight = STRAIGHT_KNOWN, .affinity = AFFINITY_REFRESHED,
		.entries_add = 2, .pod_mss = 1400,
	  .step = { { .in = C6(ISN, 0, SYN, .options = BYTES(MSS(0xff, 0xff))),
		.out = TCP(STRAIGHT6, POD6, .seq = ISN, .flags = SYN, .options = BYTES(MSS(0xff, 0xc4))), .verdict = SEND,
			.why = { REASON_AFFINITY_STRAIGHT } },
		  { .in = TCP(POD6, STRAIGHT6, .seq = POD_ISN, .ack = ISN + 1, .flags = SYN_ACK, .options = BYTES(MSS(5, 0xb4))),
			.out = TCP(FRONT6, CLIENT6, .seq = POD_ISN, .ack = ISN + 1, .flags = SYN_ACK, .options = BYTES(MSS(5, 0x78))),
			  .verdict = SEND, .why = { REASON_FORWARDED_DOWN },
				.after = { .pod_start = POD_ISN + 1, .pod_next = POD_ISN + 1, .pod_ack = ISN + 1 } } } },
	{ .name = "straight: the hold does not matter, the agent is not needed", .straight = STRAIGHT_KNOWN, .hold = true,
		.affinity = AFFINITY_REFRESHED, .entries_add = 2, .step = { SENT_SYN } },
	{ .name = "straight: payload in the SYN", .straight = STRAIGHT_KNOWN, .affinity = AFFINITY_REFRESHED, .entries_add = 2,
	  .step = { UP(REASON_AFFINITY_STRAIGHT, ISN, 0, SYN, BYTES(34, 4, 1, 2), TEXT("POST")),
		  DOWN(POD_ISN, ISN + 5, SYN_ACK, NO_BYTES, NO_BYTES, .after = { .pod_start = POD_ISN + 1,
			.pod_next = POD_ISN + 1, .pod_ack = ISN + 5 }) } },
	{ .name = "straight: the pod refuses", .straight = STRAIGHT_KNOWN, .affinity = AFFINITY_REFRESHED, .entries_add = 2,
	  .step = { SENT_SYN, DOWN(0, ISN + 1, RST_ACK, NO_BYTES, NO_BYTES, .events = EVENT(EVENT_END),
		.after = { .flags = OPEN | SLOT_RESET | SLOT_POD_RESET | SLOT_ENDED }) } },
	{ .name = "straight: the pod refuses, with a number of its own", .straight = STRAIGHT_KNOWN,
		.affinity = AFFINITY_REFRESHED, .entries_add = 2,
	  .step = { SENT_SYN, DOWN(77, ISN + 1, RST_ACK, NO_BYTES, NO_BYTES, .events = EVENT(EVENT_END),
		.after = { .flags = OPEN | SLOT_RESET | SLOT_POD_RESET | SLOT_ENDED }) } },
	{ .name = "straight: RSTs that do not answer the SYN", .straight = STRAIGHT_KNOWN, .affinity = AFFINITY_REFRESHED,
		.entries_add = 2,
	  .step = { SENT_SYN, DOWN(77, ISN, RST_ACK, NO_BYTES, NO_BYTES), DOWN(77, ISN + 2, RST_ACK, NO_BYTES, NO_BYTES),
		DOWN(77, ISN + 1, WIRE_RST, NO_BYTES, NO_BYTES),
		  DOWN(0, ISN, RST_ACK, NO_BYTES, NO_BYTES) } },
	{ .name = "straight: the pod's RST at its next number, one off", .straight = STRAIGHT_KNOWN,
		.affinity = AFFINITY_REFRESHED, .entries_add = 2,
	  .step = { SENT_SYN, SYN_TAKEN, DOWN(POD_ISN + 2, 0, WIRE_RST, NO_BYTES, NO_BYTES),
		DOWN(0, ISN + 1, RST_ACK, NO_BYTES, NO_BYTES),
		  DOWN(POD_ISN + 1, 0, WIRE_RST, NO_BYTES, NO_BYTES, .events = EVENT(EVENT_END),
			.after = { .flags = OPEN | SLOT_RESET | SLOT_POD_RESET | SLOT_ENDED }) } },
	{ .name = "straight: the client's RST", .straight = STRAIGHT_KNOWN, .affinity = AFFINITY_REFRESHED, .entries_add = 2,
	  .step = { SENT_SYN, SYN_TAKEN, UP(REASON_FORWARDED_UP, ISN + 1, POD_ISN + 1, RST_ACK, NO_BYTES, NO_BYTES,
		.events = EVENT(EVENT_END), .after = { .flags = OPEN | SLOT_RESET | SLOT_ENDED }) } },
	{ .name = "straight: a late SYN-ACK of an earlier connection says nothing", .straight = STRAIGHT_KNOWN,
		.affinity = AFFINITY_REFRESHED, .entries_add = 2,
	  .step = { SENT_SYN, DOWN(0x1234, ISN + 999, SYN_ACK, NO_BYTES, NO_BYTES), SYN_TAKEN } },
	{ .name = "straight: on the address of an ended connection", .conn = &conn4, .straight = STRAIGHT_KNOWN,
		.affinity = AFFINITY_REFRESHED, .entries_add = 1,
	  .slot = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_ENDED },
	  .step = { { .in = C4(77000, 0, SYN), .out = TCP(STRAIGHT, POD, .seq = 77000, .flags = SYN), .verdict = SEND,
		.why = { REASON_SYN_REUSED, REASON_AFFINITY_STRAIGHT },
		  .after = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_ENDED | SLOT_ORPHAN } } } },
	{ .name = "straight: another SYN on a live one goes on", .straight = STRAIGHT_KNOWN, .affinity = AFFINITY_REFRESHED,
		.entries_add = 2,
	  .step = { SENT_SYN, SYN_TAKEN, { .in = C4(5000, 0, SYN), .out = TCP(STRAIGHT, POD, .seq = 5000, .flags = SYN),
		.verdict = SEND, .why = { REASON_SYN_LIVE, REASON_FORWARDED_UP } } } },

	TO_AGENT("a new client", STRAIGHT_NEW_CLIENT, AFFINITY_NONE, REASON_NONE),
	TO_AGENT("an expired entry", STRAIGHT_EXPIRED, AFFINITY_NONE, REASON_AFFINITY_EXPIRED),
	TO_AGENT("the pod is down", STRAIGHT_DOWN, AFFINITY_NONE, REASON_AFFINITY_POD_GONE),
	TO_AGENT("the pod is draining", STRAIGHT_DRAINING, AFFINITY_NONE, REASON_AFFINITY_POD_GONE),
	TO_AGENT("the endpoint is another pod by now", STRAIGHT_RENEWED, AFFINITY_NONE, REASON_AFFINITY_POD_GONE),
	TO_AGENT("the pod has no route", STRAIGHT_NO_ROUTE, AFFINITY_NONE, REASON_AFFINITY_POD_GONE),
	TO_AGENT("no slot is free", STRAIGHT_NO_SLOT, AFFINITY_REFRESHED, REASON_AFFINITY_FULL),
	TO_AGENT("the flow table is full: the slot goes back", STRAIGHT_TABLE_FULL, AFFINITY_REFRESHED, REASON_AFFINITY_FULL),
	TO_AGENT("the flow table takes but one entry: that goes again", STRAIGHT_TABLE_NEARLY_FULL, AFFINITY_REFRESHED,
		REASON_AFFINITY_FULL),
	TO_AGENT("the node has a socket of these addresses", STRAIGHT_TAKEN, AFFINITY_REFRESHED, REASON_AFFINITY_TAKEN),
	{ .name = "the node has a socket of these addresses, IPv6", .straight = STRAIGHT_TAKEN, .affinity = AFFINITY_REFRESHED,
	  .noted = { .isn_in = ISN, .ifindex_in = true }, .step = { { .in = C6(ISN, 0, SYN), .verdict = PASS,
		.why = { REASON_AFFINITY_TAKEN, REASON_SYN_CLEANED } } } },
	TO_AGENT("a client over IPv4 whose pod has an IPv6 address", STRAIGHT_OTHER_FAMILY, AFFINITY_SAME, REASON_NONE),
	{ .name = "a client over IPv6 whose pod has an IPv4 address", .straight = STRAIGHT_OTHER_FAMILY,
		.affinity = AFFINITY_SAME,
	  .noted = { .isn_in = ISN, .ifindex_in = true }, .step = { { .in = C6(ISN, 0, SYN), .verdict = PASS,
		.why = { REASON_SYN_CLEANED } } } },
	{ .name = "a SYN to another port of the node", .straight = STRAIGHT_KNOWN, .affinity = AFFINITY_SAME,
	  .step = { { .in = TCP(CLIENT, "8.0.1.1:81", .seq = ISN, .flags = SYN), .verdict = PASS } } },
};

FIXTURES(fixtures_straight, cases);
