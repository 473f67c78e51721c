// SPDX-License-Identifier: Apache-2.0
/* Packets of a handed-over connection: addresses, numbers, windows, SACK, both ways, both versions. */
#include "tests/bpf/fixture.h"

enum { ACK = WIRE_ACK, PSH_ACK = WIRE_PSH | WIRE_ACK };

#define STREAM SLOT_ACKED | SLOT_HEAD | SLOT_CONTENT | SLOT_ANSWERING

#define UP_4(text, packet, result, ...) \
	{ .name = text, .conn = &conn4, \
	  .step = { { .in = packet, .out = result, .verdict = SEND, .why = { REASON_FORWARDED_UP }, __VA_ARGS__ } } }
#define UP_6(text, packet, result, ...) \
	{ .name = text, .conn = &conn6, \
	  .step = { { .in = packet, .out = result, .verdict = SEND, .why = { REASON_FORWARDED_UP }, __VA_ARGS__ } } }
/* In the middle of an answer: @gap_us stands for the chunk before. */
#define DOWN_4(text, packet, result, ...) \
	{ .name = text, .conn = &conn4, .slot = { .flags = STREAM }, \
	  .step = { { .in = packet, .out = result, .verdict = SEND, .why = { REASON_FORWARDED_DOWN }, __VA_ARGS__ } } }
#define DOWN_6(text, packet, result, ...) \
	{ .name = text, .conn = &conn6, .slot = { .flags = STREAM }, \
	  .step = { { .in = packet, .out = result, .verdict = SEND, .why = { REASON_FORWARDED_DOWN }, __VA_ARGS__ } } }
#define CHUNK "data: {\"x\":1}\n\n" /* an odd number of bytes */
enum { CHUNK_LEN = sizeof(CHUNK) - 1 };
#define AFTER_CHUNK .gap_us = GAP_US, .itl_bucket = GAP_BUCKET, .after = { .pod_next = ANSWER_POD + CHUNK_LEN }

/* ---- sequence numbers past 2^32, each of the four sums ---- */

#define WRAPPING(e_, d_, seq_, next_) \
	{ .client = CLIENT, .front = FRONT, .node = NODE, .pod = POD, .e = (e_), .d = (d_), .sack = true, \
	  .request_end = (seq_) - (e_) + 1, .slot = { .flags = STREAM, .client_next = (seq_), .pod_ack = (seq_), \
		.agent_end = (seq_), .pod_next = (next_), \
		  .pod_start = (next_) } }

static const struct connection wrapping = WRAPPING(0xfffffff0u, 0xffffff00u, 0x7u, 0x10u);
/* What the client sends next begins just below 2^32, on the pod's connection. */
static const struct connection near_end = WRAPPING(0x10u, 0x20u, 0xfffffff8u, 0xfffffffcu);

/* ---- windows ---- */

#define SCALED(in_, out_) \
	{ .client = CLIENT, .front = FRONT, .node = NODE, .pod = POD, .e = E, .d = D, .up_in = (in_), .up_out = (out_), \
	  .down_in = (out_), .down_out = (in_), .sack = true, \
	  .slot = { .flags = STREAM, .client_next = REQUEST_END_POD, .pod_ack = REQUEST_END_POD, \
		  .agent_end = REQUEST_END_POD, .pod_next = ANSWER_POD, .pod_start = ANSWER_POD } }

static const struct connection scale_7_9 = SCALED(7, 9), scale_0_7 = SCALED(0, 7), scale_14_0 = SCALED(14, 0);

/* Both ways: @from is what the client says, @to what the pod is told; then the other way round. */
#define WINDOWS(text, connection, from, to, back_from, back_to) \
	{ .name = text, .conn = connection, \
	  .step = { { .in = C4(REQUEST_END, ANSWER, ACK, .window = from), \
		.out = CP4(REQUEST_END_POD, ANSWER_POD, ACK, .window = to), \
			    .verdict = SEND, .why = { REASON_FORWARDED_UP } }, \
		  { .in = P4(ANSWER_POD, REQUEST_END_POD, ACK, .window = back_from), \
			  .out = PC4(ANSWER, REQUEST_END, ACK, .window = back_to), .verdict = SEND, \
				.why = { REASON_FORWARDED_DOWN } } } }

/* ---- SACK: from the client the blocks lie in the agent's numbers, from the pod in those of the agent's other socket ---- */

static const struct connection no_sack = { .client = CLIENT, .front = FRONT, .node = NODE, .pod = POD, .e = E, .d = D,
	.slot = { .flags = STREAM, .client_next = REQUEST_END_POD, .pod_ack = REQUEST_END_POD, .agent_end = REQUEST_END_POD,
		.pod_next = ANSWER_POD, .pod_start = ANSWER_POD } };

/* 700101 and 700201, less D; 1601 and 1701, plus E. */
#define LOW_C  0x00, 0x0a, 0xae, 0xc5
#define HIGH_C 0x00, 0x0a, 0xaf, 0x29
#define LOW_P  0x00, 0x00, 0x08, 0x35
#define HIGH_P 0x00, 0x00, 0x08, 0x99
#define LOW_E  0x00, 0x00, 0x06, 0x41
#define HIGH_E 0x00, 0x00, 0x06, 0xa5
#define LOW_EP 0x00, 0x01, 0x8c, 0xe1
#define HIGH_EP 0x00, 0x01, 0x8d, 0x45
#define NOPS8  1, 1, 1, 1, 1, 1, 1, 1
#define SACKED_UP(text, connection, from, to) \
	{ .name = text, .conn = connection, \
	  .step = { { .in = C4(REQUEST_END, ANSWER, ACK, .options = from), \
		.out = CP4(REQUEST_END_POD, ANSWER_POD, ACK, .options = to), \
		  .verdict = SEND, .why = { REASON_FORWARDED_UP } } } }

static const struct fixture cases[] = {
	UP_4("client to pod: ACK", C4(REQUEST_END, ANSWER, ACK, .window = 500),
		CP4(REQUEST_END_POD, ANSWER_POD, ACK, .window = 500)),
	UP_6("client to pod: ACK, IPv6", C6(REQUEST_END, ANSWER, ACK, .window = 500),
		CP6(REQUEST_END_POD, ANSWER_POD, ACK, .window = 500)),
	UP_4("client to pod: payload", C4(REQUEST_END, ANSWER, PSH_ACK, .window = 500, .payload = TEXT("odd")),
		CP4(REQUEST_END_POD, ANSWER_POD, PSH_ACK, .window = 500, .payload = TEXT("odd")),
		.after = { .client_next = REQUEST_END_POD + 3 }),
	UP_6("client to pod: payload, IPv6", C6(REQUEST_END, ANSWER, PSH_ACK, .window = 500, .payload = TEXT("odd")),
		CP6(REQUEST_END_POD, ANSWER_POD, PSH_ACK, .window = 500, .payload = TEXT("odd")),
		.after = { .client_next = REQUEST_END_POD + 3 }),
	UP_4("a repeated payload takes no number back", C4(REQUEST_END - 100, ANSWER, ACK, .payload = TEXT("again")),
		CP4(REQUEST_END_POD - 100, ANSWER_POD, ACK, .payload = TEXT("again"))),
	DOWN_4("pod to client: chunk", P4(ANSWER_POD, REQUEST_END_POD, PSH_ACK, .window = 502, .payload = TEXT(CHUNK)),
		PC4(ANSWER, REQUEST_END, PSH_ACK, .window = 502, .payload = TEXT(CHUNK)), AFTER_CHUNK),
	DOWN_6("pod to client: chunk, IPv6", P6(ANSWER_POD, REQUEST_END_POD, PSH_ACK, .window = 502, .payload = TEXT(CHUNK)),
		PC6(ANSWER, REQUEST_END, PSH_ACK, .window = 502, .payload = TEXT(CHUNK)), AFTER_CHUNK),
	DOWN_4("pod to client: ACK", P4(ANSWER_POD, REQUEST_END_POD + 1, ACK), PC4(ANSWER, REQUEST_END + 1, ACK),
		.after = { .pod_ack = REQUEST_END_POD + 1 }),
	DOWN_4("an old ACK takes no number back", P4(ANSWER_POD, REQUEST_END_POD - 40, ACK), PC4(ANSWER, REQUEST_END - 40, ACK)),
	DOWN_4("a repeated chunk takes no number back", P4(ANSWER_POD - 16, REQUEST_END_POD, ACK, .payload = TEXT("x")),
		PC4(ANSWER - 16, REQUEST_END, ACK, .payload = TEXT("x")), .gap_us = GAP_US, .itl_bucket = GAP_BUCKET),
	DOWN_4("all flags, the reserved bits and the urgent pointer go along",
		P4(ANSWER_POD, REQUEST_END_POD, 0xe00 | WIRE_AE | WIRE_URG | WIRE_ECE | WIRE_CWR | ACK, .urgent = 9,
			.payload = TEXT(CHUNK)),
		PC4(ANSWER, REQUEST_END, 0xe00 | WIRE_AE | WIRE_URG | WIRE_ECE | WIRE_CWR | ACK, .urgent = 9,
			.payload = TEXT(CHUNK)), AFTER_CHUNK),
	UP_4("without ACK flag the acknowledgment number stays", C4(REQUEST_END, 12345, WIRE_PSH, .payload = TEXT("x")),
		CP4(REQUEST_END_POD, 12345, WIRE_PSH, .payload = TEXT("x"))),

	{ .name = "client to pod: both numbers wrap", .conn = &wrapping, .slot = { .pod_next = 0x20 },
	  .step = { { .in = C4(0x17, 0xffffff20, ACK, .payload = TEXT("xyz")),
		.out = CP4(0x7, 0x20, ACK, .payload = TEXT("xyz")), .verdict = SEND,
		  .why = { REASON_FORWARDED_UP }, .after = { .client_next = 0xa } } } },
	{ .name = "pod to client: both numbers wrap", .conn = &wrapping,
	  .step = { { .in = P4(0x110, 0x7, ACK), .out = PC4(0x10, 0x17, ACK), .verdict = SEND, .why = { REASON_FORWARDED_DOWN },
		  .after = { .pod_next = 0x110 } } } },
	{ .name = "the client's numbers in the slot grow past 2^32", .conn = &near_end,
	  .step = { { .in = C4(0xffffffe8, 0x1c, ACK, .payload = TEXT("0123456789")),
		.out = CP4(0xfffffff8, 0xfffffffc, ACK, .payload = TEXT("0123456789")),
		  .verdict = SEND, .why = { REASON_FORWARDED_UP }, .after = { .client_next = 2 } } } },
	{ .name = "the pod's numbers in the slot grow past 2^32", .conn = &near_end, .slot = { .client_next = 3 },
	  .step = { { .gap_us = GAP_US, .in = P4(0xfffffffc, 0x3, ACK, .payload = TEXT("01234567")),
		.out = PC4(0x1c, 0xfffffff3, ACK, .payload = TEXT("01234567")),
		  .verdict = SEND, .why = { REASON_FORWARDED_DOWN }, .after = { .pod_ack = 3, .pod_next = 4 },
			.itl_bucket = GAP_BUCKET } } },

	WINDOWS("windows: to a coarser scale, and back", &scale_7_9, 1000, 250, 250, 1000),
	WINDOWS("windows: rounded down, and never up past what the field holds", &scale_7_9, 1003, 250, 0x4000, 0xffff),
	WINDOWS("windows: too small for the scale", &scale_0_7, 127, 0, 0x1ff, 0xff80),
	WINDOWS("windows: the largest scale against none", &scale_14_0, 1, 0x4000, 0xffff, 3),
	{ .name = "windows: a SYN's is never scaled, nor are its options read as SACK", .conn = &scale_7_9,
	  .step = { { .in = C4(77000, 0, WIRE_SYN, .window = 64000, .options = BYTES(1, 1, 5, 10, LOW_C, HIGH_C)),
		  .out = CP4(77000 + E, 0, WIRE_SYN, .window = 64000, .options = BYTES(1, 1, 5, 10, LOW_C, HIGH_C)),
		  .verdict = SEND, .why = { REASON_SYN_LIVE, REASON_FORWARDED_UP } } } },
	WINDOWS("windows: closed ones stay closed", &scale_14_0, 0, 0, 0, 0),
	WINDOWS("windows: the largest of all", &scale_14_0, 0xffff, 0xffff, 0x4000, 1),

	SACKED_UP("SACK: a block behind two NOPs", &conn4, BYTES(1, 1, 5, 10, LOW_C, HIGH_C), BYTES(1, 1, 5, 10, LOW_P, HIGH_P)),
	SACKED_UP("SACK: a block behind one NOP, padded", &conn4, BYTES(1, 5, 10, LOW_C, HIGH_C, 0),
		BYTES(1, 5, 10, LOW_P, HIGH_P, 0)),
	SACKED_UP("SACK: two blocks", &conn4, BYTES(1, 1, 5, 18, LOW_C, HIGH_C, HIGH_C, LOW_C),
		BYTES(1, 1, 5, 18, LOW_P, HIGH_P, HIGH_P, LOW_P)),
	SACKED_UP("SACK: four blocks first of all", &conn4,
		BYTES(5, 34, LOW_C, HIGH_C, LOW_C, LOW_C, HIGH_C, HIGH_C, LOW_C, HIGH_C, 1, 1),
		BYTES(5, 34, LOW_P, HIGH_P, LOW_P, LOW_P, HIGH_P, HIGH_P, LOW_P, HIGH_P, 1, 1)),
	SACKED_UP("SACK: not agreed to: blanked", &no_sack, BYTES(1, 1, 5, 10, LOW_C, HIGH_C), BYTES(1, 1, 1, 1, NOPS8)),
	SACKED_UP("SACK: not agreed to, behind another option: only SACK is blanked", &no_sack,
		BYTES(3, 3, 7, 5, 10, LOW_C, HIGH_C, 1, 1, 1),
		BYTES(3, 3, 7, 1, 1, NOPS8, 1, 1, 1)),
	SACKED_UP("SACK: a length that runs past the options is left alone", &conn4, BYTES(5, 18, LOW_C, HIGH_C, 1, 1),
		BYTES(5, 18, LOW_C, HIGH_C, 1, 1)),
	SACKED_UP("SACK: behind the end of the list is none", &conn4, BYTES(1, 0, 5, 10, LOW_C, HIGH_C),
		BYTES(1, 0, 5, 10, LOW_C, HIGH_C)),
	SACKED_UP("SACK: half a block is none", &conn4, BYTES(5, 14, LOW_C, HIGH_C, LOW_C, 1, 1),
		BYTES(5, 14, LOW_P, HIGH_P, LOW_C, 1, 1)),
	SACKED_UP("SACK: without blocks", &conn4, BYTES(5, 2, 1, 1), BYTES(5, 2, 1, 1)),
	SACKED_UP("other options on data are left alone", &conn4, BYTES(1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8),
		BYTES(1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8)),
	DOWN_4("SACK: the pod's, of the agent's numbers", P4(ANSWER_POD, REQUEST_END_POD, ACK,
		.options = BYTES(1, 1, 5, 10, LOW_EP, HIGH_EP)),
		PC4(ANSWER, REQUEST_END, ACK, .options = BYTES(1, 1, 5, 10, LOW_E, HIGH_E))),
	DOWN_6("SACK: the pod's, IPv6", P6(ANSWER_POD, REQUEST_END_POD, ACK, .options = BYTES(1, 1, 5, 10, LOW_EP, HIGH_EP)),
		PC6(ANSWER, REQUEST_END, ACK, .options = BYTES(1, 1, 5, 10, LOW_E, HIGH_E))),
	DOWN_4("SACK and payload", P4(ANSWER_POD, REQUEST_END_POD, ACK, .options = BYTES(1, 1, 5, 10, LOW_EP, HIGH_EP),
		.payload = TEXT(CHUNK)),
		PC4(ANSWER, REQUEST_END, ACK, .options = BYTES(1, 1, 5, 10, LOW_E, HIGH_E), .payload = TEXT(CHUNK)), AFTER_CHUNK),

	{ .name = "no route to the pod: dropped", .conn = &conn4, .no_route = true,
	  .step = { { .in = C4(REQUEST_END, ANSWER, ACK), .verdict = DROP, .why = { REASON_NO_ROUTE } } } },
	{ .name = "no route to the pod: what comes from it still goes to the client", .conn = &conn4, .no_route = true,
	  .step = { { .in = P4(ANSWER_POD, REQUEST_END_POD, ACK), .out = PC4(ANSWER, REQUEST_END, ACK), .verdict = SEND,
		  .why = { REASON_FORWARDED_DOWN } } } },

	{ .name = "an entry whose slot has another generation", .conn = &conn4, .stale = STALE_SLOT,
	  .step = { { .in = C4(REQUEST_END, ANSWER, ACK, .payload = TEXT("x")), .verdict = PASS, .why = { REASON_STALE_ENTRY } },
		  { .in = P4(ANSWER_POD, REQUEST_END_POD, ACK), .verdict = PASS, .why = { REASON_STALE_ENTRY } } } },
	{ .name = "an entry that was replaced while it was read: new head", .conn = &conn4, .stale = STALE_TAIL,
	  .step = { { .in = C4(REQUEST_END, ANSWER, ACK), .verdict = PASS, .why = { REASON_STALE_ENTRY } },
		  { .in = P4(ANSWER_POD, REQUEST_END_POD, ACK), .verdict = PASS, .why = { REASON_STALE_ENTRY } } } },
	{ .name = "an entry that was replaced while it was read: new tail", .conn = &conn4, .stale = STALE_HEAD,
	  .step = { { .in = C4(REQUEST_END, ANSWER, ACK), .verdict = PASS, .why = { REASON_STALE_ENTRY } },
		  { .in = P4(ANSWER_POD, REQUEST_END_POD, ACK), .verdict = PASS, .why = { REASON_STALE_ENTRY } } } },
	{ .name = "a SYN on such an entry is as of a new connection", .conn = &conn4, .stale = STALE_SLOT,
	  .noted = { .isn_in = 5, .ifindex_in = true },
	  .step = { { .in = C4(5, 0, WIRE_SYN), .verdict = PASS, .why = { REASON_STALE_ENTRY, REASON_SYN_CLEANED } } } },
};

FIXTURES(fixtures_translate, cases);
