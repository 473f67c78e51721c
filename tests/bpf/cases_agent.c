// SPDX-License-Identifier: Apache-2.0
/*
 * The agent's own sockets while and after it hands over: which of the pod's packets they still get, and which of theirs
 * still leave.
 */
#include "tests/bpf/fixture.h"

enum { ACK = WIRE_ACK, FIN_ACK = WIRE_FIN | WIRE_ACK, RST = WIRE_RST, RST_ACK = WIRE_RST | WIRE_ACK,
	SYN_ACK = WIRE_SYN | WIRE_ACK };
enum { POD_ISN = ANSWER_POD - 1, HALF = REQUEST_END_POD - 250, STREAM = SLOT_HEAD | SLOT_CONTENT | SLOT_ANSWERING };

#define TO_AGENT(in_, why_, ...) { .in = in_, .verdict = PASS, .why = { why_ }, __VA_ARGS__ }
#define DOWN(in_, out_, ...)	 { .in = in_, .out = out_, .verdict = SEND, .why = { REASON_FORWARDED_DOWN }, __VA_ARGS__ }
#define LEAVES(...)		 { .program = EGRESS, .in = __VA_ARGS__, .verdict = PASS }
#define MUTED(why_, ...)	 { .program = EGRESS, .in = __VA_ARGS__, .verdict = DROP, .why = { why_ } }
#define MUTED_C(...)		 MUTED(REASON_MUTED_CLIENT_SIDE, __VA_ARGS__)
#define MUTED_P(...)		 MUTED(REASON_MUTED_POD_SIDE, __VA_ARGS__)
#define STRIPPED(in_, out_)	 { .program = EGRESS, .in = in_, .out = out_, .verdict = PASS, .why = { REASON_FIN_STRIPPED } }

/* The pod acknowledges up to @to; the client is told the same in its numbers. */
#define POD_ACKS(to, ...)   DOWN(P4(ANSWER_POD, to, ACK), PC4(ANSWER, (to) - E, ACK), __VA_ARGS__)
#define AGENT_IS_ACKED(to, ...) TO_AGENT(P4(ANSWER_POD, to, ACK), REASON_ACK_TO_AGENT, __VA_ARGS__)

static const struct fixture cases[] = {
	/* Without its ACKs the agent's socket would stop after its first window. */
	{ .name = "ACKs below the end of the request are the agent's, the last one goes to the client", .conn = &fresh4,
	  .step = { AGENT_IS_ACKED(HALF, .after = { .pod_ack = HALF }),
		  AGENT_IS_ACKED(REQUEST_END_POD - 1, .after = { .pod_ack = REQUEST_END_POD - 1 }),
		  AGENT_IS_ACKED(HALF),
		  POD_ACKS(REQUEST_END_POD, .after = { .flags = SLOT_ACKED, .pod_ack = REQUEST_END_POD },
			.events = EVENT(EVENT_ACKED)),
		  POD_ACKS(REQUEST_END_POD) } },
	{ .name = "the same over IPv6", .conn = &fresh6,
	  .step = { TO_AGENT(P6(ANSWER_POD, REQUEST_END_POD - 1, ACK), REASON_ACK_TO_AGENT,
		.after = { .pod_ack = REQUEST_END_POD - 1 }),
		  DOWN(P6(ANSWER_POD, REQUEST_END_POD, ACK), PC6(ANSWER, REQUEST_END, ACK),
			  .after = { .flags = SLOT_ACKED, .pod_ack = REQUEST_END_POD }, .events = EVENT(EVENT_ACKED)) } },
	{ .name = "the end of the request lies past 2^32", .conn = &fresh4,
		.slot = { .agent_end = 0x10, .pod_ack = 0xfffffff0, .client_next = 0x10 },
	  .step = { TO_AGENT(P4(ANSWER_POD, 0xfffffff8, ACK), REASON_ACK_TO_AGENT, .after = { .pod_ack = 0xfffffff8 }),
		  POD_ACKS(0x10u, .after = { .flags = SLOT_ACKED, .pod_ack = 0x10 }, .events = EVENT(EVENT_ACKED)) } },
	{ .name = "an ACK past the end, of what the client has sent since", .conn = &fresh4, .slot = { .client_next = REQUEST_END_POD + 7 },
	  .step = { POD_ACKS(REQUEST_END_POD + 7, .after = { .flags = SLOT_ACKED, .pod_ack = REQUEST_END_POD + 7 },
		.events = EVENT(EVENT_ACKED)) } },
	{ .name = "after the last ACK an old one is the client's, too", .conn = &conn4, .step = { POD_ACKS(HALF) } },
	{ .name = "the agent's ACKs keep their SACK blocks", .conn = &fresh4,
	  .step = { TO_AGENT(P4(ANSWER_POD, HALF, ACK, .options = BYTES(1, 1, 5, 10, 0, 1, 0x8c, 0, 0, 1, 0x8c, 0x10)),
		REASON_ACK_TO_AGENT,
		  .after = { .pod_ack = HALF }) } },
	/* Highest acknowledgment is where the agent's socket stands, not what it has written: else this would close it. */
	{ .name = "an answer before the request is acknowledged goes to the client, and does not count as acknowledgment",
		.conn = &fresh4,
	  .step = { DOWN(P4(ANSWER_POD, HALF, ACK, .payload = TEXT("x")), PC4(ANSWER, HALF - E, ACK, .payload = TEXT("x")),
		.ttft_ago_us = GAP_US,
			    .ttft_bucket = GAP_BUCKET, .events = EVENT(EVENT_FIRST),
				.after = { .flags = STREAM, .pod_ack = HALF, .pod_next = ANSWER_POD + 1 }),
		  AGENT_IS_ACKED(HALF + 1, .after = { .pod_ack = HALF + 1 }),
		  DOWN(P4(ANSWER_POD + 1, REQUEST_END_POD, ACK), PC4(ANSWER + 1, REQUEST_END, ACK), .events = EVENT(EVENT_ACKED),
			  .after = { .flags = STREAM | SLOT_ACKED, .pod_ack = REQUEST_END_POD }) } },
	{ .name = "the last ACK came before the entries: any packet of the pod tells so", .conn = &fresh4,
		.slot = { .pod_ack = REQUEST_END_POD },
	  .step = { { .in = C4(REQUEST_END, ANSWER, ACK), .out = CP4(REQUEST_END_POD, ANSWER_POD, ACK), .verdict = SEND,
		.why = { REASON_FORWARDED_UP } },
		  DOWN(P4(ANSWER_POD, REQUEST_END_POD, ACK, .payload = TEXT("x")),
			PC4(ANSWER, REQUEST_END, ACK, .payload = TEXT("x")), .ttft_ago_us = GAP_US,
			  .ttft_bucket = GAP_BUCKET, .events = EVENT(EVENT_FIRST) | EVENT(EVENT_ACKED),
			  .after = { .flags = STREAM | SLOT_ACKED, .pod_next = ANSWER_POD + 1 }) } },
	{ .name = "the client's FIN before the hand-off: the agent's socket repeats it, and needs its ACK", .conn = &fresh4,
	  .slot = { .flags = SLOT_AGENT_FIN | SLOT_CLIENT_FIN, .client_fin = REQUEST_END_POD + 1,
		.agent_end = REQUEST_END_POD + 1,
		  .client_next = REQUEST_END_POD + 1 },
	  .step = { LEAVES(CP4(REQUEST_END_POD, ANSWER_POD, FIN_ACK)),
		  LEAVES(CP4(REQUEST_END_POD - 500, ANSWER_POD, FIN_ACK, .payload = TEXT("request"))),
		  AGENT_IS_ACKED(REQUEST_END_POD, .after = { .pod_ack = REQUEST_END_POD }),
		  MUTED_P(CP4(REQUEST_END_POD, ANSWER_POD, RST_ACK)),
		  POD_ACKS(REQUEST_END_POD + 1, .events = EVENT(EVENT_ACKED), .after = { .pod_ack = REQUEST_END_POD + 1,
			  .flags = SLOT_ACKED | SLOT_AGENT_FIN | SLOT_CLIENT_FIN | SLOT_CLIENT_FIN_ACKED }),
		  MUTED_P(CP4(REQUEST_END_POD, ANSWER_POD, FIN_ACK)) } },

	/* A full backlog at the pod answers with a cookie, whose copies come until the agent's socket is heard. */
	{ .name = "a copy of the SYN-ACK is the agent's as long as it has a socket", .conn = &fresh4,
	  .step = { TO_AGENT(P4(POD_ISN, 101001, SYN_ACK), REASON_ACK_TO_AGENT) } },
	{ .name = "a copy of the SYN-ACK afterwards is dropped", .conn = &conn4,
	  .step = { { .in = P4(POD_ISN, 101001, SYN_ACK), .verdict = DROP, .why = { REASON_SYNACK_STALE } } } },
	{ .name = "a copy of the SYN-ACK afterwards is dropped, IPv6", .conn = &conn6,
	  .step = { { .in = P6(POD_ISN, 101001, SYN_ACK), .verdict = DROP, .why = { REASON_SYNACK_STALE } } } },
	{ .name = "a pod that resets before it has said anything: the agent's matter, whatever the number", .conn = &fresh4,
	  .step = { TO_AGENT(P4(ANSWER_POD, 0, RST), REASON_CLOSE_TO_AGENT),
		TO_AGENT(P4(ANSWER_POD + 5, HALF, RST_ACK), REASON_CLOSE_TO_AGENT) } },
	{ .name = "a pod that closes before it has said anything: the agent's matter", .conn = &fresh6,
	  .step = { TO_AGENT(P6(ANSWER_POD, 101001, FIN_ACK), REASON_CLOSE_TO_AGENT),
		TO_AGENT(P6(ANSWER_POD, 0, RST), REASON_CLOSE_TO_AGENT) } },
	{ .name = "a pod that answers and closes in one packet has answered", .conn = &fresh4,
	  .step = { DOWN(P4(ANSWER_POD, 101001, FIN_ACK, .payload = TEXT("x")),
		PC4(ANSWER, 1001, FIN_ACK, .payload = TEXT("x")), .ttft_ago_us = GAP_US,
		  .ttft_bucket = GAP_BUCKET, .events = EVENT(EVENT_FIRST),
		  .after = { .flags = STREAM | SLOT_POD_FIN, .pod_next = ANSWER_POD + 2, .pod_fin = ANSWER_POD + 2 }) } },
	{ .name = "a pod that resets after its answer began: the client's matter", .conn = &fresh4,
		.slot = { .flags = STREAM, .pod_next = ANSWER_POD + 9 },
	  .step = { DOWN(P4(ANSWER_POD + 9, 0, RST), PC4(ANSWER + 9, 0, RST),
		.after = { .flags = STREAM | SLOT_RESET | SLOT_POD_RESET | SLOT_ENDED }, .events = EVENT(EVENT_END)) } },

	{ .name = "the agent's socket of the client is mute", .conn = &fresh4,
	  .step = { MUTED_C(PC4(ANSWER, REQUEST_END, ACK)), MUTED_C(PC4(ANSWER, REQUEST_END, ACK, .payload = TEXT("x"))),
		  MUTED_C(PC4(ANSWER, REQUEST_END, FIN_ACK)), MUTED_C(PC4(ANSWER, 0, RST)),
			MUTED_C(PC4(ANSWER, REQUEST_END, SYN_ACK)) } },
	{ .name = "the agent's socket of the client is mute, IPv6", .conn = &conn6,
		.step = { MUTED_C(PC6(ANSWER, REQUEST_END, ACK)) } },
	/* A veth keeps the sender's socket: only the device it came by tells that a packet is not the agent's. */
	{ .name = "what is only forwarded is not the agent's", .conn = &fresh4,
	  .step = { { .program = EGRESS, .forwarded = true, .in = PC4(ANSWER, REQUEST_END, ACK, .payload = TEXT("x")),
		.verdict = PASS },
		  { .program = EGRESS, .forwarded = true, .in = CP4(REQUEST_END_POD, ANSWER_POD, FIN_ACK,
			.payload = TEXT("x")), .verdict = PASS },
		  { .program = EGRESS, .forwarded = true, .in = CP4(REQUEST_END_POD, ANSWER_POD, RST), .verdict = PASS } } },
	{ .name = "the agent's socket of the pod may send the request", .conn = &fresh4,
	  .step = { LEAVES(CP4(REQUEST_END_POD - 500, ANSWER_POD, ACK, .payload = TEXT("request"))),
		LEAVES(CP4(REQUEST_END_POD, ANSWER_POD, ACK)) } },
	{ .name = "the agent dies while it sends: its RST and bare FIN are dropped", .conn = &fresh4,
	  .step = { MUTED_P(CP4(REQUEST_END_POD, 0, RST)), MUTED_P(CP4(REQUEST_END_POD, ANSWER_POD, RST_ACK,
		.payload = TEXT("x"))),
		  MUTED_P(CP4(REQUEST_END_POD, ANSWER_POD, FIN_ACK)) } },
	{ .name = "the agent dies before it has sent all: its bare FIN becomes an RST for the client, the next one goes to the pod",
	  .conn = &fresh4,
	  .step = { { .program = EGRESS, .in = CP4(HALF, ANSWER_POD, FIN_ACK), .out = PC4(ANSWER, REQUEST_END, RST_ACK), .verdict = SEND,
		.why = { REASON_ABANDONED }, .after = { .flags = SLOT_RESET } },
		  LEAVES(CP4(HALF, ANSWER_POD, FIN_ACK)) } },
	{ .name = "the agent dies before it has sent all, IPv6", .conn = &fresh6,
	  .step = { { .program = EGRESS, .in = CP6(HALF, ANSWER_POD, FIN_ACK), .out = PC6(ANSWER, REQUEST_END, RST_ACK), .verdict = SEND,
		.why = { REASON_ABANDONED }, .after = { .flags = SLOT_RESET } } } },
	{ .name = "the agent dies before it has left the client: its RST is heard, not that of a stack without a socket", .conn = &fresh4,
	  .step = { MUTED_C(PC4(ANSWER, 0, RST)), MUTED_C(PC4(0, REQUEST_END, RST_ACK)), MUTED_C(PC4(ANSWER, REQUEST_END, FIN_ACK)),
		  { .program = EGRESS, .in = PC4(ANSWER, REQUEST_END, RST_ACK), .verdict = PASS, .after = { .flags = SLOT_RESET } } } },
	{ .name = "the agent dies while it sends: the FIN behind the request's last bytes is taken off", .conn = &fresh4,
	  .step = { STRIPPED(CP4(REQUEST_END_POD - 5, ANSWER_POD, FIN_ACK | WIRE_PSH | WIRE_ECE, .payload = TEXT("bytes")),
			    CP4(REQUEST_END_POD - 5, ANSWER_POD, ACK | WIRE_PSH | WIRE_ECE, .payload = TEXT("bytes"))) } },
	{ .name = "the agent dies while it sends, IPv6", .conn = &fresh6,
	  .step = { STRIPPED(CP6(REQUEST_END_POD - 5, ANSWER_POD, FIN_ACK, .options = BYTES(1, 1, 1, 1),
		.payload = TEXT("bytes")),
			    CP6(REQUEST_END_POD - 5, ANSWER_POD, ACK, .options = BYTES(1, 1, 1, 1), .payload = TEXT("bytes"))),
		  MUTED_P(CP6(REQUEST_END_POD, 0, RST)) } },
	{ .name = "the agent's socket of the pod is mute once all is acknowledged", .conn = &conn4,
	  .step = { MUTED_P(CP4(REQUEST_END_POD, ANSWER_POD, ACK)), MUTED_P(CP4(REQUEST_END_POD - 5, ANSWER_POD, ACK,
		.payload = TEXT("again"))),
		  MUTED_P(CP4(REQUEST_END_POD, ANSWER_POD, FIN_ACK)), MUTED_P(CP4(REQUEST_END_POD, 0, RST)),
		  MUTED_P(CP4(REQUEST_END_POD - 5, ANSWER_POD, FIN_ACK, .payload = TEXT("again"))) } },
	{ .name = "that holds from the ACK on, before anybody has noted it", .conn = &fresh4,
		.slot = { .pod_ack = REQUEST_END_POD },
	  .step = { MUTED_P(CP4(REQUEST_END_POD, ANSWER_POD, ACK)) } },
	{ .name = "entries of another connection mute nobody", .conn = &fresh4, .stale = STALE_SLOT,
	  .step = { LEAVES(PC4(ANSWER, REQUEST_END, ACK)), LEAVES(CP4(REQUEST_END_POD, 0, RST)) } },
	{ .name = "who has no entries is not muted",
	  .step = { LEAVES(PC4(ANSWER, REQUEST_END, ACK)), LEAVES(CP4(REQUEST_END_POD, 0, RST)),
		LEAVES(CP6(REQUEST_END_POD, ANSWER_POD, FIN_ACK)) } },
};

FIXTURES(fixtures_agent, cases);
