// SPDX-License-Identifier: Apache-2.0
/*
 * Openings: the client's SYN, the agent's SYN-ACK to it, the agent's SYN to the pod, the pod's SYN-ACK. Layouts of options
 * as systems send them, and as nobody should; every kind at every offset is in options.c.
 */
#include "tests/bpf/fixture.h"

enum { ACK = WIRE_ACK, SYN = WIRE_SYN, SYN_ACK = WIRE_SYN | WIRE_ACK, ECN = WIRE_ECE | WIRE_CWR };

/* The socket that BPF_PROG_TEST_RUN lends to a packet has the packet's source address and port 0. */
#define OWN	   "8.0.2.1:0"
#define OWN6	   "[2001:db8:86dd:2::1]:0"
#define OTHER_OWN  "8.0.2.1:15000"

#define MSS(high, low)	2, 4, high, low
#define MSS1460		MSS(0x05, 0xb4)
#define SCALE7		3, 3, 7
#define SACK_PERMITTED	4, 2
#define TIMES		8, 10, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0
#define TIMES_GONE	1, 1, 1, 1, 1, 1, 1, 1, 1, 1
#define LINUX(times)	MSS1460, SACK_PERMITTED, times, 1, SCALE7

/* From the client to the front. */
#define CLEANED(text, from_, to_) \
	{ .name = text, .noted = { .isn_in = 1000, .ifindex_in = true }, \
	  .step = { { .in = C4(1000, 0, SYN, .window = 64240, .options = from_), \
		.out = C4(1000, 0, SYN, .window = 64240, .options = to_), \
		  .verdict = PASS, .why = { REASON_SYN_CLEANED } } } }
#define KEPT(text, ...) \
	{ .name = text, .noted = { .isn_in = 1000, .ifindex_in = true }, \
	  .step = { { .in = C4(1000, 0, SYN, .options = BYTES(__VA_ARGS__)), .verdict = PASS, .why = { REASON_SYN_CLEANED } } } }
#define SIGNED(text, ...) \
	{ .name = text, .step = { { .in = C4(1000, 0, SYN | ECN, .options = BYTES(__VA_ARGS__)), .verdict = PASS, \
		.why = { REASON_SYN_SIGNED } } } }
/* ECN bits of a SYN without options. */
#define WITHOUT_ECN(text, flags_) \
	{ .name = text, .noted = { .isn_in = 1000, .ifindex_in = true }, \
	  .step = { { .in = C4(1000, 0, SYN | (flags_)), .out = C4(1000, 0, SYN), .verdict = PASS, \
		.why = { REASON_SYN_CLEANED } } } }
/* The agent's SYN-ACK, where the least way carries 1400. */
#define ANSWERED(text, from_, to_) \
	{ .name = text, .mss = 1400, .noted_before = { .isn_in = 1000, .ifindex_in = true }, \
	  .noted = { .isn_in = 1000, .isn_out = 5000, .ifindex_in = true, .ifindex_out = true, .told_mss = 1400 }, \
	  .step = { { .program = EGRESS, .in = PC4(5000, 1001, SYN_ACK, .options = from_), \
		.out = PC4(5000, 1001, SYN_ACK, .options = to_), \
		  .verdict = PASS, .why = { REASON_SYN_CLEANED } } } }

static const struct fixture cases[] = {
	{ .name = "a SYN without options", .noted = { .isn_in = 1000, .ifindex_in = true },
	  .step = { { .in = C4(1000, 0, SYN), .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },
	{ .name = "a SYN without options, IPv6", .noted = { .isn_in = 1000, .ifindex_in = true },
	  .step = { { .in = C6(1000, 0, SYN), .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },
	CLEANED("as Linux sends it", BYTES(LINUX(TIMES)), BYTES(LINUX(TIMES_GONE))),
	{ .name = "as Linux sends it, IPv6", .noted = { .isn_in = 0xffffffff, .ifindex_in = true },
	  .step = { { .in = C6(0xffffffff, 0, SYN | ECN, .options = BYTES(LINUX(TIMES))),
		.out = C6(0xffffffff, 0, SYN, .options = BYTES(LINUX(TIMES_GONE))),
		  .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },
	CLEANED("as macOS sends it", BYTES(MSS1460, 1, SCALE7, 1, 1, TIMES, SACK_PERMITTED, 0, 0),
		BYTES(MSS1460, 1, SCALE7, 1, 1, TIMES_GONE, SACK_PERMITTED, 0, 0)),
	KEPT("as Windows sends it", MSS1460, 1, SCALE7, 1, 1, SACK_PERMITTED),
	CLEANED("multipath TCP", BYTES(LINUX(TIMES), 30, 4, 1, 0x81), BYTES(LINUX(TIMES_GONE), 1, 1, 1, 1)),
	CLEANED("a request for a fast-open cookie", BYTES(LINUX(TIMES), 34, 2, 1, 1), BYTES(LINUX(TIMES_GONE), 1, 1, 1, 1)),
	{ .name = "a fast-open cookie and payload: the payload is not taken then, and comes again",
		.noted = { .isn_in = 1000, .ifindex_in = true },
	  .step = { { .in = C4(1000, 0, SYN, .options = BYTES(MSS1460, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1),
		.payload = TEXT("POST")),
		  .out = C4(1000, 0, SYN, .options = BYTES(MSS1460, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1), .payload = TEXT("POST")),
		  .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },
	CLEANED("unknown kinds, the largest length too", BYTES(MSS1460, 253, 4, 0xca, 0xfe, 255, 32, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
		BYTES(MSS1460, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
			1, 1, 1, 1, 1)),
	CLEANED("40 bytes of one option", BYTES(200, 40, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
		20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38),
		BYTES(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
			1, 1, 1, 1, 1, 1)),
	CLEANED("40 bytes of twenty options", BYTES(99, 2, 99, 2, 99, 2, 99, 2, 99, 2, 99, 2, 99, 2, 99, 2, 99, 2, 99, 2,
		99, 2, 99, 2, 99, 2, 99, 2, 99, 2, 99, 2, 99, 2, 99, 2, 99, 2, 99, 2),
		BYTES(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
			1, 1, 1, 1, 1, 1)),
	KEPT("40 NOPs", 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
		1, 1, 1, 1, 1, 1, 1),
	CLEANED("the last option ends with the header", BYTES(MSS1460, 1, 1, TIMES), BYTES(MSS1460, 1, 1, TIMES_GONE)),
	KEPT("nothing behind the end of the list is read", MSS1460, 0, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8),
	KEPT("a length of 0 ends the list", 8, 0, 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1),
	KEPT("a length of 1 ends the list", 8, 1, 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1),
	KEPT("a length past the header ends the list", MSS1460, 253, 9, 2, 2, 8, 10, 1, 2),
	KEPT("a kind without a length at the very end", MSS1460, 1, 1, 1, 8),
	CLEANED("timestamps of a wrong length go as well", BYTES(8, 6, 1, 2, 3, 4, 1, 1), BYTES(1, 1, 1, 1, 1, 1, 1, 1)),
	CLEANED("a SACK block has no place here", BYTES(5, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1),
		BYTES(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)),
	SIGNED("TCP-MD5: not a bit changes", 19, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 1),
	SIGNED("TCP-AO behind timestamps: not a bit changes", TIMES, 29, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 1, 1),
	SIGNED("a signature of the least length", MSS1460, 29, 2, 1, 1),
	WITHOUT_ECN("ECN is not offered", ECN),
	WITHOUT_ECN("accurate ECN is not offered", WIRE_AE | ECN),
	WITHOUT_ECN("AE alone", WIRE_AE),
	WITHOUT_ECN("ECE alone", WIRE_ECE),
	WITHOUT_ECN("CWR alone", WIRE_CWR),
	{ .name = "other flags and reserved bits of a SYN stay", .noted = { .isn_in = 1000, .ifindex_in = true },
	  .step = { { .in = C4(1000, 0, 0xe00 | ECN | SYN | WIRE_PSH | WIRE_URG),
		.out = C4(1000, 0, 0xe00 | SYN | WIRE_PSH | WIRE_URG),
		  .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },
	{ .name = "the client's own MSS is not changed", .mss = 1000, .noted = { .isn_in = 1000, .ifindex_in = true }, 
	  .step = { { .in = C4(1000, 0, SYN, .options = BYTES(MSS1460)), .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },
	{ .name = "a repeated SYN is a new beginning", .noted_before = { .isn_in = 1000, .isn_out = 5000,
		.ifindex_in = true, .ifindex_out = true },
	  .noted = { .isn_in = 1000, .ifindex_in = true }, 
	  .step = { { .in = C4(1000, 0, SYN, .options = BYTES(MSS1460)), .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },
	{ .name = "a SYN to another port", .step = { { .in = TCP(CLIENT, "8.0.1.1:81", .flags = SYN | ECN,
		.options = BYTES(LINUX(TIMES))), .verdict = PASS } } },
	{ .name = "a SYN to another address", .step = { { .in = TCP(CLIENT6, "[2001:db8:86dd:1::3]:80", .flags = SYN | ECN),
		.verdict = PASS } } },
	{ .name = "a SYN is dropped while the agent is being replaced", .hold = true,
	  .step = { { .in = C4(1000, 0, SYN), .verdict = DROP, .why = { REASON_SYN_HELD } },
		{ .in = C6(1000, 0, SYN), .verdict = DROP, .why = { REASON_SYN_HELD } },
		  { .in = TCP(CLIENT, "8.0.1.1:81", .flags = SYN), .verdict = PASS },
			{ .in = C4(1001, 1, ACK), .verdict = PASS } } },
	{ .name = "the hold ends by itself", .hold_over = true, .noted = { .isn_in = 1000, .ifindex_in = true },
	  .step = { { .in = C4(1000, 0, SYN), .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },

	ANSWERED("SYN-ACK: a larger MSS becomes what the way to the pods carries",
		BYTES(MSS1460, SACK_PERMITTED, 1, SCALE7, 1, 1), BYTES(MSS(0x05, 0x78), SACK_PERMITTED, 1, SCALE7, 1, 1)),
	ANSWERED("SYN-ACK: the very MSS stays", BYTES(MSS(0x05, 0x78)), BYTES(MSS(0x05, 0x78))),
	ANSWERED("SYN-ACK: one more does not", BYTES(MSS(0x05, 0x79)), BYTES(MSS(0x05, 0x78))),
	ANSWERED("SYN-ACK: one less stays", BYTES(MSS(0x05, 0x77)), BYTES(MSS(0x05, 0x77))),
	ANSWERED("SYN-ACK: a smaller MSS stays", BYTES(MSS(0x02, 0x18)), BYTES(MSS(0x02, 0x18))),
	ANSWERED("SYN-ACK: the largest MSS, at an odd offset", BYTES(1, MSS(0xff, 0xff), 1, 1, 1),
		BYTES(1, MSS(0x05, 0x78), 1, 1, 1)),
	ANSWERED("SYN-ACK: two MSS options", BYTES(MSS1460, MSS(0xff, 0xff)), BYTES(MSS(0x05, 0x78), MSS(0x05, 0x78))),
	ANSWERED("SYN-ACK: an MSS of a wrong length is none, and its neighbour stays",
		BYTES(2, 3, 0xff, 253, 3, 0, 2, 2, 1, 1, 1, 1), BYTES(2, 3, 0xff, 1, 1, 1, 2, 2, 1, 1, 1, 1)),
	ANSWERED("SYN-ACK: timestamps go here, too", BYTES(LINUX(TIMES)),
		BYTES(MSS(0x05, 0x78), SACK_PERMITTED, TIMES_GONE, 1, SCALE7)),
	{ .name = "SYN-ACK: IPv6 has its own limit", .mss = 1400, .noted_before = { .isn_in = 1000, .ifindex_in = true },
	  .noted = { .isn_in = 1000, .isn_out = 5000, .ifindex_in = true, .ifindex_out = true, .told_mss = 1380 },
	  .step = { { .program = EGRESS, .in = PC6(5000, 1001, SYN_ACK | WIRE_ECE, .options = BYTES(MSS1460)),
		.out = PC6(5000, 1001, SYN_ACK, .options = BYTES(MSS(0x05, 0x64))),
		  .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },
	{ .name = "SYN-ACK: without a limit the MSS stays", .noted_before = { .isn_in = 1000, .ifindex_in = true },
	  .noted = { .isn_in = 1000, .isn_out = 5000, .ifindex_in = true, .ifindex_out = true },
	  .step = { { .program = EGRESS, .in = PC4(5000, 1001, SYN_ACK, .options = BYTES(MSS1460)), .verdict = PASS,
		.why = { REASON_SYN_CLEANED } } } },
	{ .name = "SYN-ACK: a copy changes nothing", .noted_before = { .isn_in = 1000, .isn_out = 5000, .ifindex_in = true,
		.ifindex_out = true },
	  .noted = { .isn_in = 1000, .isn_out = 5000, .ifindex_in = true, .ifindex_out = true },
	  .step = { { .program = EGRESS, .in = PC4(5000, 1001, SYN_ACK), .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },
	{ .name = "SYN-ACK: a copy after the limit has changed: the first one counts", .mss = 1400,
		.noted_before = { .isn_in = 1000, .isn_out = 5000, .ifindex_in = true, .ifindex_out = true },
	  .noted = { .isn_in = 1000, .isn_out = 5000, .ifindex_in = true, .ifindex_out = true },
	  .step = { { .program = EGRESS, .in = PC4(5000, 1001, SYN_ACK), .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },
	{ .name = "SYN-ACK: another number (a cookie): nobody knows which one the client takes",
		.noted_before = { .isn_in = 1000, .isn_out = 5000, .ifindex_in = true, .ifindex_out = true },
	  .noted = { .isn_in = 1000, .isn_out = 6000, .ifindex_in = true },
	  .step = { { .program = EGRESS, .in = PC4(6000, 1001, SYN_ACK), .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },
	{ .name = "SYN-ACK: to one whose SYN came another way", .mss = 1400,
	  .step = { { .program = EGRESS, .in = PC4(5000, 1001, SYN_ACK, .options = BYTES(LINUX(TIMES))), .verdict = PASS } } },
	{ .name = "SYN-ACK: only forwarded", .mss = 1400, .noted_before = { .isn_in = 1000, .ifindex_in = true },
		.noted = { .isn_in = 1000, .ifindex_in = true },
	  .step = { { .program = EGRESS, .forwarded = true, .in = PC4(5000, 1001, SYN_ACK, .options = BYTES(LINUX(TIMES))),
		.verdict = PASS } } },

	{ .name = "SYN to the pod", .framing = ETHERNET, .any_port = true, .mss = 1000,
		.noted = { .isn_out = 7000, .ifindex_out = true },
	  .step = { { .program = EGRESS, .in = TCP(OWN, POD, .seq = 7000, .flags = SYN | ECN, .options = BYTES(LINUX(TIMES))),
		  .out = TCP(OWN, POD, .seq = 7000, .flags = SYN, .options = BYTES(LINUX(TIMES_GONE))), .verdict = PASS,
			.why = { REASON_SYN_CLEANED } } } },
	{ .name = "SYN to the pod, IPv6", .framing = ETHERNET, .any_port = true,
		.noted = { .isn_out = 7000, .ifindex_out = true },
	  .step = { { .program = EGRESS, .in = TCP(OWN6, POD6, .seq = 7000, .flags = SYN | ECN, .options = BYTES(LINUX(TIMES))),
		  .out = TCP(OWN6, POD6, .seq = 7000, .flags = SYN, .options = BYTES(LINUX(TIMES_GONE))), .verdict = PASS,
			.why = { REASON_SYN_CLEANED } } } },
	/* There the kernel takes the socket's address from 14 bytes further on: half of seq and half of ack. */
	{ .name = "SYN to the pod, on a device without Ethernet", .framing = L3, .any_port = true,
		.noted = { .isn_out = 0x70000800, .ifindex_out = true },
	  .step = { { .program = EGRESS, .in = TCP(OWN, POD, .seq = 0x70000800, .ack = 0x02010000, .flags = SYN | ECN,
		.options = BYTES(LINUX(TIMES))),
		  .out = TCP(OWN, POD, .seq = 0x70000800, .ack = 0x02010000, .flags = SYN, .options = BYTES(LINUX(TIMES_GONE))),
		  .verdict = PASS, .why = { REASON_SYN_CLEANED } } } },
	{ .name = "SYN to the pod, signed", .framing = ETHERNET, .any_port = true,
	  .step = { { .program = EGRESS, .in = TCP(OWN, POD, .seq = 7000, .flags = SYN,
		.options = BYTES(TIMES, 29, 4, 0, 0, 1, 1)), .verdict = PASS, .why = { REASON_SYN_SIGNED } } } },
	{ .name = "SYN to a pod from another port than its socket's: translated on the way, left alone",
	  .step = { { .program = EGRESS, .in = TCP(OTHER_OWN, POD, .seq = 7000, .flags = SYN,
		.options = BYTES(LINUX(TIMES))), .verdict = PASS } } },
	{ .name = "SYN to a pod from outside the agent's ports: a probe's", .framing = ETHERNET,
	  .step = { { .program = EGRESS, .in = TCP(OWN, POD, .seq = 7000, .flags = SYN, .options = BYTES(LINUX(TIMES))),
		.verdict = PASS } } },
	{ .name = "SYN to a pod's other port", .framing = ETHERNET, .any_port = true,
	  .step = { { .program = EGRESS, .in = TCP(OWN, "8.0.2.2:8001", .seq = 7000, .flags = SYN,
		.options = BYTES(LINUX(TIMES))), .verdict = PASS } } },
	{ .name = "SYN to a pod, only forwarded", .framing = ETHERNET, .any_port = true,
	  .step = { { .program = EGRESS, .forwarded = true, .in = TCP(OWN, POD, .seq = 7000, .flags = SYN,
		.options = BYTES(LINUX(TIMES))), .verdict = PASS } } },
	{ .name = "the pod's SYN-ACK is noted", .noted_before = { .isn_out = 7000, .ifindex_out = true },
		.noted = { .isn_in = 8000, .isn_out = 7000, .ifindex_in = true, .ifindex_out = true },
	  .step = { { .in = P4(8000, 7001, SYN_ACK, .options = BYTES(MSS1460)), .verdict = PASS } } },
	{ .name = "the pod's SYN-ACK is noted, IPv6", .noted_before = { .isn_out = 7000, .ifindex_out = true },
		.noted = { .isn_in = 8000, .isn_out = 7000, .ifindex_in = true, .ifindex_out = true },
	  .step = { { .in = P6(8000, 7001, SYN_ACK), .verdict = PASS } } },
	{ .name = "a SYN-ACK to somebody else", .step = { { .in = P4(8000, 7001, SYN_ACK, .options = BYTES(LINUX(TIMES))),
		.verdict = PASS } } },
};

FIXTURES(fixtures_syn, cases);
