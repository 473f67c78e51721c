// SPDX-License-Identifier: Apache-2.0
/* What is measured: status, time to the first content, gaps, requests on a pinned connection. Times lie in buckets' middles. */
#include "tests/bpf/fixture.h"

enum { ACK = WIRE_ACK, ANSWERED = SLOT_ACKED | SLOT_HEAD | SLOT_ANSWERING, STREAM = ANSWERED | SLOT_CONTENT };
#define HEAD	 "HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
#define HEAD_LEN (sizeof(HEAD) - 1)

#define DOWN(at, text_, ...) \
	{ .in = P4(ANSWER_POD + (at), REQUEST_END_POD, ACK, .payload = TEXT(text_)), \
		.out = PC4(ANSWER + (at), REQUEST_END, ACK, .payload = TEXT(text_)), \
	  .verdict = SEND, .why = { REASON_FORWARDED_DOWN }, __VA_ARGS__ }
#define UP(at, text_, ...) \
	{ .in = C4(REQUEST_END + (at), ANSWER, ACK, .payload = TEXT(text_)), \
		.out = CP4(REQUEST_END_POD + (at), ANSWER_POD, ACK, .payload = TEXT(text_)), \
	  .verdict = SEND, .why = { REASON_FORWARDED_UP }, __VA_ARGS__ }
#define FIRST .ttft_ago_us = GAP_US, .ttft_bucket = GAP_BUCKET, .events = EVENT(EVENT_FIRST)

/* The first packet of an answer, with content; what is read as its status. */
#define STATUS(title, text_, status_) \
	{ .name = title, .conn = &conn4, \
	  .step = { DOWN(0, text_, FIRST, .after = { .flags = STREAM, .pod_next = ANSWER_POD + sizeof(text_) - 1, \
		.status = status_ }) } }
#define TTFT(title, ago_us, bucket) \
	{ .name = title, .conn = &conn4, \
	  .step = { DOWN(0, "x", .ttft_ago_us = ago_us, .ttft_bucket = bucket, .events = EVENT(EVENT_FIRST), \
		.after = { .flags = STREAM, .pod_next = ANSWER_POD + 1 }) } }
#define ITL(title, ago_us, bucket) \
	{ .name = title, .conn = &conn4, .slot = { .flags = STREAM }, \
	  .step = { DOWN(0, "x", .gap_us = ago_us, .itl_bucket = bucket, .after = { .pod_next = ANSWER_POD + 1 }) } }

static const struct fixture cases[] = {
	STATUS("status: 200 with content", "HTTP/1.1 200 OK\r\n\r\nhello", 200),
	STATUS("status: 404", "HTTP/1.1 404 Not Found\r\n\r\n{}", 404),
	STATUS("status: HTTP/1.0", "HTTP/1.0 503 x", 503),
	STATUS("status: not a byte more than needed", "HTTP/1.1 429", 429),
	STATUS("status: a byte too few", "HTTP/1.1 42", 0),
	STATUS("status: no digits", "HTTP/1.1 2x0 OK", 0),
	STATUS("status: a colon follows the nine", "HTTP/1.1 :00 OK", 0),
	STATUS("status: no space before it", "HTTP/1.10 200 OK", 0),
	STATUS("status: no space, but digits", "HTTP/1.12200 OK", 0),
	STATUS("status: no status line", "data: {}\n\n  200", 0),
	{ .name = "status: of the first packet only", .conn = &conn4,
	  .step = { DOWN(0, "xx", FIRST, .after = { .flags = STREAM, .pod_next = ANSWER_POD + 2 }),
		  DOWN(2, "HTTP/1.1 200 OK", .gap_us = GAP_US, .itl_bucket = GAP_BUCKET,
			.after = { .pod_next = ANSWER_POD + 17 }) } },
	/* Engines send the head of a stream before they have computed anything. */
	{ .name = "a head alone is no content: the next packet is", .conn = &conn4,
	  .step = { DOWN(0, HEAD, .after = { .flags = ANSWERED, .pod_next = ANSWER_POD + HEAD_LEN, .status = 200 }),
		  DOWN(HEAD_LEN, "data: 1\n\n", FIRST, .after = { .flags = STREAM, .pod_next = ANSWER_POD + HEAD_LEN + 9 }),
		  DOWN(HEAD_LEN + 9, "data: 2\n\n", .gap_us = GAP_US, .itl_bucket = GAP_BUCKET,
			.after = { .pod_next = ANSWER_POD + HEAD_LEN + 18 }) } },
	{ .name = "a head alone, IPv6, behind options", .conn = &conn6,
	  .step = { { .in = P6(ANSWER_POD, REQUEST_END_POD, ACK, .options = BYTES(1, 1, 1, 1), .payload = TEXT(HEAD)),
		.out = PC6(ANSWER, REQUEST_END, ACK, .options = BYTES(1, 1, 1, 1), .payload = TEXT(HEAD)),
			    .verdict = SEND, .why = { REASON_FORWARDED_DOWN },
				.after = { .flags = ANSWERED, .pod_next = ANSWER_POD + HEAD_LEN, .status = 200 } },
		  { .in = P6(ANSWER_POD + HEAD_LEN, REQUEST_END_POD, ACK, .payload = TEXT("x")),
			.out = PC6(ANSWER + HEAD_LEN, REQUEST_END, ACK, .payload = TEXT("x")),
			  .verdict = SEND, .why = { REASON_FORWARDED_DOWN }, FIRST,
				.after = { .flags = STREAM, .pod_next = ANSWER_POD + HEAD_LEN + 1 } } } },
	{ .name = "the end of a head with padding behind the packet", .conn = &conn4,
	  .step = { { .in = P4(ANSWER_POD, REQUEST_END_POD, ACK, .payload = TEXT("\r\n\r\n"), .padding = 2),
		.out = PC4(ANSWER, REQUEST_END, ACK, .payload = TEXT("\r\n\r\n"), .padding = 2),
		  .verdict = SEND, .why = { REASON_FORWARDED_DOWN }, .after = { .flags = ANSWERED,
			.pod_next = ANSWER_POD + 4 } } } },
	{ .name = "a second packet that looks like the end of a head is content", .conn = &conn4, .slot = { .flags = ANSWERED },
	  .step = { DOWN(0, "0\r\n\r\n", FIRST, .after = { .flags = STREAM, .pod_next = ANSWER_POD + 5 }) } },
	{ .name = "ACKs are no content", .conn = &conn4, .slot = { .flags = ANSWERED },
	  .step = { { .in = P4(ANSWER_POD, REQUEST_END_POD, ACK), .out = PC4(ANSWER, REQUEST_END, ACK), .verdict = SEND,
		.why = { REASON_FORWARDED_DOWN } } } },
	TTFT("TTFT: 6 s", 6000000, 22),
	TTFT("TTFT: 24 s", 24000000, 24),
	TTFT("TTFT: the last bucket holds all above", 1000000000, 25),
	ITL("gap: 3 s", 3000000, 21),
	ITL("gap: 12 s", 12000000, 23),
	ITL("gap: the last bucket holds all above", 200000000, 25),

	{ .name = "the next request on a pinned connection is counted once, when its first payload comes", .conn = &conn4,
		.slot = { .flags = STREAM, .requests = 1 },
	  .step = { UP(0, "POST", .after = { .client_next = REQUEST_END_POD + 4, .requests = 2 }, .cut_flags = SLOT_ANSWERING),
		  UP(4, "more", .after = { .client_next = REQUEST_END_POD + 8 }),
		  DOWN(0, "x", .gap_us = GAP_US, .itl_bucket = GAP_BUCKET,
			.after = { .flags = STREAM, .pod_next = ANSWER_POD + 1 }),
		  UP(8, "POST", .after = { .client_next = REQUEST_END_POD + 12, .requests = 3 }, .cut_flags = SLOT_ANSWERING) } },
	{ .name = "the rest of a request that is answered early is no new one", .conn = &conn4,
		.slot = { .flags = STREAM, .requests = 1 },
	  .step = { UP(-1, "y"), UP(-4, "body") } },
	{ .name = "ACKs are no request", .conn = &conn4, .slot = { .flags = STREAM, .requests = 1 },
	  .step = { { .in = C4(REQUEST_END, ANSWER, ACK), .out = CP4(REQUEST_END_POD, ANSWER_POD, ACK), .verdict = SEND,
		.why = { REASON_FORWARDED_UP } } } },
};

FIXTURES(fixtures_observe, cases);
