// SPDX-License-Identifier: Apache-2.0
/* How handed-over connections end: FIN and RST of each side, and the client's address used anew. */
#include "tests/bpf/fixture.h"

enum { ACK = WIRE_ACK, FIN_ACK = WIRE_FIN | WIRE_ACK, RST = WIRE_RST, RST_ACK = WIRE_RST | WIRE_ACK, SYN = WIRE_SYN };
enum { CLOSED = SLOT_ACKED | SLOT_CLIENT_FIN | SLOT_POD_FIN, OVER = CLOSED | SLOT_CLIENT_FIN_ACKED | SLOT_POD_FIN_ACKED |
	SLOT_ENDED };

/* One packet of conn4 up or down, with what changes in the slot and what is told. */
#define UP(in_, out_, ...)   { .in = in_, .out = out_, .verdict = SEND, .why = { REASON_FORWARDED_UP }, __VA_ARGS__ }
#define DOWN(in_, out_, ...) { .in = in_, .out = out_, .verdict = SEND, .why = { REASON_FORWARDED_DOWN }, __VA_ARGS__ }

enum { FAR_OFF = 1 << 27 };

/* ACK, FIN and RST of both sides at distance @n of what is expected next. */
#define CLIENT_SAYS(flags, n, acked, ...) \
	UP(C4(REQUEST_END + (n), ANSWER + (acked), flags), CP4(REQUEST_END_POD + (n), ANSWER_POD + (acked), flags), __VA_ARGS__)
#define POD_SAYS(flags, n, acked, ...) \
	DOWN(P4(ANSWER_POD + (n), REQUEST_END_POD + (acked), flags), PC4(ANSWER + (n), REQUEST_END + (acked), flags), __VA_ARGS__)

/* Bare RSTs: without ACK flag there is no acknowledgment to translate. */
#define CLIENT_RESETS(n, ...) UP(C4(REQUEST_END + (n), 0, RST), CP4(REQUEST_END_POD + (n), 0, RST), __VA_ARGS__)
#define POD_RESETS(n, ...)    DOWN(P4(ANSWER_POD + (n), 0, RST), PC4(ANSWER + (n), 0, RST), __VA_ARGS__)

#define CLIENT_FIN \
	CLIENT_SAYS(FIN_ACK, 0, 0, .after = { .flags = SLOT_ACKED | SLOT_CLIENT_FIN, .client_fin = REQUEST_END_POD + 1, \
		.client_next = REQUEST_END_POD + 1 })
#define POD_FIN	   POD_SAYS(FIN_ACK, 0, 0, .after = { .flags = SLOT_ACKED | SLOT_POD_FIN, .pod_fin = ANSWER_POD + 1, \
	.pod_next = ANSWER_POD + 1 })

/* All that an ended connection's slot says. */
#define ENDED_NUMBERS(flags_) { .flags = flags_, .pod_fin = ANSWER_POD + 1, .pod_next = ANSWER_POD + 1, \
	.client_fin = REQUEST_END_POD + 1, \
	.client_next = REQUEST_END_POD + 1, .pod_ack = REQUEST_END_POD + 1 }

static const struct fixture cases[] = {
	{ .name = "the client closes first: the end is told with the last ACK, once", .conn = &conn4,
	  .step = { CLIENT_FIN,
		  POD_SAYS(ACK, 0, 1, .after = { .flags = SLOT_ACKED | SLOT_CLIENT_FIN | SLOT_CLIENT_FIN_ACKED,
			.pod_ack = REQUEST_END_POD + 1 }),
		  POD_SAYS(FIN_ACK, 0, 1, .after = { .flags = CLOSED | SLOT_CLIENT_FIN_ACKED, .pod_fin = ANSWER_POD + 1,
			.pod_next = ANSWER_POD + 1 }),
		  CLIENT_SAYS(ACK, 1, 1, .after = { .flags = OVER }, .events = EVENT(EVENT_END)),
		  CLIENT_SAYS(ACK, 1, 1) } },
	{ .name = "the pod closes first", .conn = &conn4,
	  .step = { POD_FIN,
		  CLIENT_SAYS(ACK, 0, 1, .after = { .flags = SLOT_ACKED | SLOT_POD_FIN | SLOT_POD_FIN_ACKED }),
		  CLIENT_SAYS(FIN_ACK, 0, 1, .after = { .flags = CLOSED | SLOT_POD_FIN_ACKED,
			.client_fin = REQUEST_END_POD + 1, .client_next = REQUEST_END_POD + 1 }),
		  POD_SAYS(ACK, 1, 1, .after = { .flags = OVER, .pod_ack = REQUEST_END_POD + 1 }, .events = EVENT(EVENT_END)) } },
	{ .name = "both close at once", .conn = &conn4,
	  .step = { CLIENT_FIN,
		  POD_SAYS(FIN_ACK, 0, 0, .after = { .flags = CLOSED, .pod_fin = ANSWER_POD + 1, .pod_next = ANSWER_POD + 1 }),
		  CLIENT_SAYS(ACK, 1, 1, .after = { .flags = CLOSED | SLOT_POD_FIN_ACKED }),
		  POD_SAYS(ACK, 1, 1, .after = { .flags = OVER, .pod_ack = REQUEST_END_POD + 1 }, .events = EVENT(EVENT_END)) } },
	{ .name = "FIN and the ACK of the other's FIN in one packet", .conn = &conn4,
	  .step = { CLIENT_FIN,
		  POD_SAYS(FIN_ACK, 0, 1, .after = { .flags = CLOSED | SLOT_CLIENT_FIN_ACKED, .pod_fin = ANSWER_POD + 1,
			  .pod_next = ANSWER_POD + 1, .pod_ack = REQUEST_END_POD + 1 }),
		  CLIENT_SAYS(ACK, 1, 1, .after = { .flags = OVER }, .events = EVENT(EVENT_END)) } },
	{ .name = "both close, IPv6", .conn = &conn6, .slot = { .flags = CLOSED, .pod_fin = ANSWER_POD + 1,
		.pod_next = ANSWER_POD + 1,
	  .client_fin = REQUEST_END_POD + 1, .client_next = REQUEST_END_POD + 1 },
	  .step = { UP(C6(REQUEST_END + 1, ANSWER + 1, ACK), CP6(REQUEST_END_POD + 1, ANSWER_POD + 1, ACK),
		.after = { .flags = CLOSED | SLOT_POD_FIN_ACKED }),
		  DOWN(P6(ANSWER_POD + 1, REQUEST_END_POD + 1, ACK), PC6(ANSWER + 1, REQUEST_END + 1, ACK),
			  .after = { .flags = OVER, .pod_ack = REQUEST_END_POD + 1 }, .events = EVENT(EVENT_END)) } },
	{ .name = "the client's FIN comes with payload", .conn = &conn4,
	  .step = { UP(C4(REQUEST_END, ANSWER, FIN_ACK, .payload = TEXT("bye")),
		CP4(REQUEST_END_POD, ANSWER_POD, FIN_ACK, .payload = TEXT("bye")),
			.after = { .flags = SLOT_ACKED | SLOT_CLIENT_FIN, .client_fin = REQUEST_END_POD + 4,
				.client_next = REQUEST_END_POD + 4 }),
		  POD_SAYS(ACK, 0, 3, .after = { .pod_ack = REQUEST_END_POD + 3 }),
		  POD_SAYS(ACK, 0, 4, .after = { .flags = SLOT_ACKED | SLOT_CLIENT_FIN | SLOT_CLIENT_FIN_ACKED,
			.pod_ack = REQUEST_END_POD + 4 }) } },
	{ .name = "the pod's FIN comes with the last of the answer", .conn = &conn4,
		.slot = { .flags = SLOT_ACKED | SLOT_HEAD | SLOT_CONTENT | SLOT_ANSWERING },
	  .step = { DOWN(P4(ANSWER_POD, REQUEST_END_POD, FIN_ACK, .payload = TEXT("0\r\n\r\n")),
		PC4(ANSWER, REQUEST_END, FIN_ACK, .payload = TEXT("0\r\n\r\n")),
			.gap_us = GAP_US, .itl_bucket = GAP_BUCKET,
			.after = { .flags = SLOT_ACKED | SLOT_HEAD | SLOT_CONTENT | SLOT_ANSWERING | SLOT_POD_FIN,
				.pod_fin = ANSWER_POD + 6, .pod_next = ANSWER_POD + 6 }),
		  CLIENT_SAYS(ACK, 0, 5),
		  CLIENT_SAYS(ACK, 0, 6, .after = { .flags = SLOT_ACKED | SLOT_HEAD | SLOT_CONTENT | SLOT_ANSWERING |
			SLOT_POD_FIN | SLOT_POD_FIN_ACKED }) } },
	{ .name = "a half-closed client still gets the answer", .conn = &conn4,
		.slot = { .flags = SLOT_ACKED | SLOT_CLIENT_FIN | SLOT_CLIENT_FIN_ACKED | SLOT_HEAD | SLOT_CONTENT |
		SLOT_ANSWERING,
	  .client_fin = REQUEST_END_POD + 1, .client_next = REQUEST_END_POD + 1, .pod_ack = REQUEST_END_POD + 1 },
	  .step = { DOWN(P4(ANSWER_POD, REQUEST_END_POD + 1, ACK, .payload = TEXT("x")),
		PC4(ANSWER, REQUEST_END + 1, ACK, .payload = TEXT("x")),
		  .gap_us = GAP_US, .itl_bucket = GAP_BUCKET, .after = { .pod_next = ANSWER_POD + 1 }) } },
	/* An entry must outlive its end: a FIN that the pod overlooked comes again 200 ms later. */
	{ .name = "a repeated FIN on an ended connection goes on, the end is not told again", .conn = &conn4,
		.slot = ENDED_NUMBERS(OVER),
	  .step = { CLIENT_SAYS(FIN_ACK, 0, 1), POD_SAYS(FIN_ACK, 0, 1), CLIENT_SAYS(ACK, 1, 1) } },

	{ .name = "the client's RST at what the pod has acknowledged", .conn = &conn4,
		.slot = { .client_next = REQUEST_END_POD + 100 },
	  .step = { CLIENT_RESETS(0, .after = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_ENDED }, .events = EVENT(EVENT_END)) } },
	{ .name = "the client's RST at the end of what it has sent may be anybody's", .conn = &conn4,
		.slot = { .client_next = REQUEST_END_POD + 100 },
	  .step = { CLIENT_RESETS(100, .after = { .flags = SLOT_ACKED | SLOT_CLIENT_LEFT }),
		  POD_SAYS(ACK, 0, 100, .after = { .pod_ack = REQUEST_END_POD + 100 }),
		  CLIENT_RESETS(100, .after = { .flags = SLOT_ACKED | SLOT_CLIENT_LEFT | SLOT_RESET | SLOT_ENDED }, .events = EVENT(EVENT_END)) } },
	{ .name = "the client's RST one too high, one too low, in between: it goes on, but the pod decides", .conn = &conn4,
		.slot = { .client_next = REQUEST_END_POD + 100 },
	  .step = { CLIENT_RESETS(101), CLIENT_RESETS(-1), CLIENT_RESETS(50) } },
	{ .name = "the client's RST with FIN is an RST", .conn = &conn4,
	  .step = { CLIENT_SAYS(RST_ACK | WIRE_FIN, 1, 0), CLIENT_SAYS(RST_ACK | WIRE_FIN, 0, 0,
		.after = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_ENDED }, .events = EVENT(EVENT_END)) } },
	{ .name = "a client that has closed resets at the number of its FIN", .conn = &conn4,
	  .step = { CLIENT_FIN,
		  POD_SAYS(ACK, 0, 1, .after = { .flags = SLOT_ACKED | SLOT_CLIENT_FIN | SLOT_CLIENT_FIN_ACKED,
			.pod_ack = REQUEST_END_POD + 1 }),
		  CLIENT_RESETS(-1),
		  CLIENT_RESETS(0, .after = { .flags = SLOT_ACKED | SLOT_CLIENT_FIN | SLOT_CLIENT_FIN_ACKED | SLOT_RESET | SLOT_ENDED },
			.events = EVENT(EVENT_END)) } },
	{ .name = "a pod that has closed resets at the number of its FIN", .conn = &conn4,
	  .step = { POD_FIN, POD_RESETS(-1),
		  POD_RESETS(0, .after = { .flags = SLOT_ACKED | SLOT_POD_FIN | SLOT_RESET | SLOT_POD_RESET | SLOT_ENDED },
			.events = EVENT(EVENT_END)) } },
	{ .name = "the pod's RST at the end of what it has sent", .conn = &conn4,
	  .step = { POD_SAYS(RST_ACK, 0, 0, .after = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_POD_RESET | SLOT_ENDED },
		.events = EVENT(EVENT_END)) } },
	{ .name = "the pod's RST one off", .conn = &conn4, .step = { POD_RESETS(1), POD_RESETS(-1) } },
	{ .name = "an RST after the end is not told again", .conn = &conn4, .slot = ENDED_NUMBERS(OVER),
	  .step = { CLIENT_RESETS(1, .after = { .flags = OVER | SLOT_RESET }), POD_RESETS(1) } },
	{ .name = "an RST of each side is told once", .conn = &conn6,
	  .step = { DOWN(P6(ANSWER_POD, REQUEST_END_POD, RST_ACK), PC6(ANSWER, REQUEST_END, RST_ACK),
		.after = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_POD_RESET | SLOT_ENDED }, .events = EVENT(EVENT_END)),
		  UP(C6(REQUEST_END, 0, RST), CP6(REQUEST_END_POD, 0, RST)) } },

	/* Of whoever knows the addresses and ports, but no number. */
	{ .name = "a client's number that somebody made up is no end of a connection", .conn = &conn4,
	  .step = { CLIENT_SAYS(FIN_ACK, FAR_OFF, 0), CLIENT_RESETS(FAR_OFF + 1), CLIENT_RESETS(FAR_OFF),
		  CLIENT_SAYS(FIN_ACK, 0, FAR_OFF), CLIENT_SAYS(FIN_ACK, 0, 2), CLIENT_SAYS(FIN_ACK, 0, -FAR_OFF) } },
	{ .name = "nor is one from long ago, of either", .conn = &conn4,
	  .step = { CLIENT_SAYS(FIN_ACK, -FAR_OFF, 0), CLIENT_SAYS(FIN_ACK, -1000, 0), CLIENT_SAYS(FIN_ACK, -1, 0),
		  POD_SAYS(FIN_ACK, -FAR_OFF, 0), POD_SAYS(FIN_ACK, -1000, 0), POD_SAYS(FIN_ACK, -2, 0) } },
	{ .name = "one that happens to be near is no end either, nor makes it room for a SYN", .conn = &conn4,
		.slot = { .flags = SLOT_ACKED | SLOT_POD_FIN, .pod_fin = ANSWER_POD + 1, .pod_next = ANSWER_POD + 1 },
	  .step = { CLIENT_SAYS(FIN_ACK, 5000, 1, .after = { .flags = CLOSED | SLOT_POD_FIN_ACKED, .client_fin = REQUEST_END_POD + 5001,
			.client_next = REQUEST_END_POD + 5001 }),
		  CLIENT_RESETS(5001, .after = { .flags = CLOSED | SLOT_POD_FIN_ACKED | SLOT_CLIENT_LEFT }),
		  CLIENT_RESETS(5000),
		  { .in = C4(9000, 0, SYN), .out = CP4(9000 + E, 0, SYN), .verdict = SEND, .why = { REASON_SYN_LIVE, REASON_FORWARDED_UP } },
		  CLIENT_SAYS(FIN_ACK, 0, 1, .after = { .client_fin = REQUEST_END_POD + 1 }),
		  POD_SAYS(ACK, 1, 1, .after = { .flags = OVER | SLOT_CLIENT_LEFT, .pod_ack = REQUEST_END_POD + 1 },
			.events = EVENT(EVENT_END)) } },
	{ .name = "nor is a pod's", .conn = &conn4,
	  .step = { POD_SAYS(FIN_ACK, FAR_OFF, 0), POD_RESETS(FAR_OFF + 1), POD_RESETS(FAR_OFF),
		  POD_SAYS(FIN_ACK, 0, FAR_OFF), POD_SAYS(FIN_ACK, 0, 2), POD_SAYS(FIN_ACK, 0, -FAR_OFF) } },
	{ .name = "nor does one acknowledge a FIN", .conn = &conn4, .slot = { .flags = CLOSED, .client_fin = REQUEST_END_POD + 1,
		.client_next = REQUEST_END_POD + 1, .pod_fin = ANSWER_POD + 1, .pod_next = ANSWER_POD + 1 },
	  .step = { CLIENT_SAYS(ACK, 1, FAR_OFF), POD_SAYS(ACK, 1, FAR_OFF) } },

	{ .name = "a pod that goes on behind an RST makes it doubtful, until the next valid one", .conn = &conn4,
	  .step = { CLIENT_RESETS(0, .after = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_ENDED }, .events = EVENT(EVENT_END)),
		  POD_SAYS(ACK, 0, 0, .after = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_ENDED | SLOT_DOUBTED }),
		  CLIENT_RESETS(7), CLIENT_RESETS(0, .after = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_ENDED }) } },
	{ .name = "so does a client", .conn = &conn4, .slot = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_POD_RESET | SLOT_ENDED },
	  .step = { CLIENT_SAYS(ACK, 0, 0, .after = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_POD_RESET | SLOT_ENDED | SLOT_DOUBTED }),
		  POD_RESETS(7), POD_RESETS(0, .after = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_POD_RESET | SLOT_ENDED }) } },

	/* The client's address used again (the old agent's socket is gone, so nobody else would answer). */
	{ .name = "a copy of the SYN that opened the connection: dropped", .conn = &conn4,
	  .step = { { .in = C4(1000, 0, SYN), .verdict = DROP, .why = { REASON_SYN_REPEATED } } } },
	{ .name = "a copy of the SYN of an ended connection: dropped, too", .conn = &conn4, .slot = ENDED_NUMBERS(OVER),
	  .step = { { .in = C4(1000, 0, SYN), .verdict = DROP, .why = { REASON_SYN_REPEATED } } } },
	{ .name = "another SYN on a live connection goes on: challenge ACK, RST, then the SYN is a new connection's",
		.conn = &conn4,
	  .noted = { .isn_in = 9000, .ifindex_in = true }, .entries_add = -1,
	  .step = { { .in = C4(9000, 0, SYN, .window = 64000), .out = CP4(9000 + E, 0, SYN, .window = 64000),
		.verdict = SEND, .why = { REASON_SYN_LIVE, REASON_FORWARDED_UP } },
		  POD_SAYS(ACK, 0, 0),
		  CLIENT_RESETS(0, .after = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_ENDED }, .events = EVENT(EVENT_END)),
		  { .in = C4(9000, 0, SYN, .window = 64000), .verdict = PASS, .why = { REASON_SYN_REUSED, REASON_SYN_CLEANED },
			  .after = { .flags = SLOT_ACKED | SLOT_RESET | SLOT_ENDED | SLOT_ORPHAN } } } },
	{ .name = "another SYN on a half-closed connection goes on", .conn = &conn4,
		.slot = { .flags = SLOT_ACKED | SLOT_POD_FIN | SLOT_POD_FIN_ACKED, .pod_fin = ANSWER_POD + 1,
		.pod_next = ANSWER_POD + 1 },
	  .step = { { .in = C4(9000, 0, SYN), .out = CP4(9000 + E, 0, SYN), .verdict = SEND,
		.why = { REASON_SYN_LIVE, REASON_FORWARDED_UP } } } },
	{ .name = "another SYN after both FINs: the entry goes, the end is told, the pod's late packets are dropped",
		.conn = &conn4, .slot = ENDED_NUMBERS(CLOSED | SLOT_CLIENT_FIN_ACKED),
	  .noted = { .isn_in = 9000, .ifindex_in = true }, .entries_add = -1,
	  .step = { { .in = C4(9000, 0, SYN), .verdict = PASS, .why = { REASON_SYN_REUSED, REASON_SYN_CLEANED },
			    .after = { .flags = CLOSED | SLOT_CLIENT_FIN_ACKED | SLOT_ORPHAN | SLOT_ENDED },
				.events = EVENT(EVENT_END) },
		  { .in = P4(ANSWER_POD, REQUEST_END_POD + 1, FIN_ACK), .verdict = DROP, .why = { REASON_ORPHAN } },
		  { .in = P4(ANSWER_POD + 1, 0, RST), .verdict = DROP, .why = { REASON_ORPHAN } },
		  { .in = C4(9001, 1, ACK), .verdict = PASS } } },
	{ .name = "another SYN while the agent removes what is tracked of the address is held",
		.conn = &conn4, .slot = ENDED_NUMBERS(OVER | SLOT_FORGETTING),
	  .step = { { .in = C4(9000, 0, SYN), .verdict = DROP, .why = { REASON_SYN_HELD },
			    .after = { .flags = OVER | SLOT_FORGETTING | SLOT_ORPHAN } } } },
	{ .name = "another SYN on an ended connection, IPv6", .conn = &conn6, .slot = ENDED_NUMBERS(OVER),
		.noted = { .isn_in = 9000, .ifindex_in = true }, .entries_add = -1,
	  .step = { { .in = C6(9000, 0, SYN), .verdict = PASS, .why = { REASON_SYN_REUSED, REASON_SYN_CLEANED },
		.after = { .flags = OVER | SLOT_ORPHAN } },
		  { .in = P6(ANSWER_POD + 1, REQUEST_END_POD + 1, ACK), .verdict = DROP, .why = { REASON_ORPHAN } } } },
};

FIXTURES(fixtures_close, cases);
