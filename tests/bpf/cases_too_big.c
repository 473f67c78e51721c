// SPDX-License-Identifier: Apache-2.0
/* "Packet too big" of routers on either side, about packets that left here translated. */
#include "tests/bpf/fixture.h"

#define ROUTER	"8.0.9.9:0"
#define ROUTER6 "[2001:db8:86dd:9::9]:0"
#define AT(host) host ":0"

/* What is quoted left for the client, with the client's numbers; the pod is told its own. */
#define OF_ANSWER4(...)	    TOO_BIG(ROUTER, AT("8.0.1.1"), FRONT, CLIENT, .seq = ANSWER + 1400, __VA_ARGS__)
#define OF_ANSWER4_POD(...) TOO_BIG(AT("8.0.2.1"), AT("8.0.2.2"), POD, NODE, .seq = ANSWER_POD + 1400, __VA_ARGS__)
#define OF_ANSWER6(...)	    TOO_BIG(ROUTER6, AT("[2001:db8:86dd:1::1]"), FRONT6, CLIENT6, .seq = ANSWER + 1400, __VA_ARGS__)
#define OF_ANSWER6_POD(...) \
	TOO_BIG(AT("[2001:db8:86dd:2::1]"), AT("[2001:db8:86dd:2::2]"), POD6, NODE6, .seq = ANSWER_POD + 1400, __VA_ARGS__)
/* And of what left for the pod. */
#define OF_REQUEST4(seq_, ...) TOO_BIG(ROUTER, AT("8.0.2.1"), NODE, POD, .seq = (seq_), __VA_ARGS__)
#define OF_REQUEST6(seq_, ...) TOO_BIG(ROUTER6, AT("[2001:db8:86dd:2::1]"), NODE6, POD6, .seq = (seq_), __VA_ARGS__)
#define OF_REQUEST4_CLIENT(seq_, ...) TOO_BIG(AT("8.0.1.1"), AT("8.0.1.2"), CLIENT, FRONT, .seq = (seq_), __VA_ARGS__)
#define OF_REQUEST6_CLIENT(seq_, ...) \
	TOO_BIG(AT("[2001:db8:86dd:1::1]"), AT("[2001:db8:86dd:1::2]"), CLIENT6, FRONT6, .seq = (seq_), __VA_ARGS__)

#define REST BYTES(0, 1, 2, 3, 0x50, 0x10, 1, 0xf5, 0xab, 0xcd, 0, 0, 'd', 'a', 't', 'a', ':')
#define SENT(text, connection, packet, result) \
	{ .name = text, .conn = connection, \
	  .step = { { .in = packet, .out = result, .verdict = SEND, .why = { REASON_TOO_BIG } } } }
#define NARROW(text, connection, packet) \
	{ .name = text, .conn = connection, .step = { { .in = packet, .verdict = PASS, .why = { REASON_TOO_NARROW } } } }
#define PASSED(text, connection, ...) \
	{ .name = text, .conn = connection, .step = { { .in = __VA_ARGS__, .verdict = PASS } } }

static const struct connection wrapping = { .client = CLIENT, .front = FRONT, .node = NODE, .pod = POD, .e = 1, .d = 0x80000000u,
	.slot = { .flags = SLOT_ACKED } };
static const struct wire fragment = { .fragment = 0x0001 }, options = { .ip_options = 1 }, udp = { .protocol = 17 };

static const struct fixture cases[] = {
	SENT("an answer was too big", &conn4, OF_ANSWER4(), OF_ANSWER4_POD()),
	SENT("an answer was too big, IPv6", &conn6, OF_ANSWER6(), OF_ANSWER6_POD()),
	SENT("an answer was too big, more of it is quoted", &conn4, OF_ANSWER4(.payload = REST), OF_ANSWER4_POD(.payload = REST)),
	SENT("an answer was too big, more of it is quoted, IPv6", &conn6, OF_ANSWER6(.payload = REST),
		OF_ANSWER6_POD(.payload = REST)),
	SENT("a request was too big", &conn4, OF_REQUEST4(REQUEST_END_POD), OF_REQUEST4_CLIENT(REQUEST_END)),
	SENT("a request was too big, IPv6", &conn6, OF_REQUEST6(REQUEST_END_POD), OF_REQUEST6_CLIENT(REQUEST_END)),
	SENT("the client's bytes behind the agent's, while those are not acknowledged", &fresh4, OF_REQUEST4(REQUEST_END_POD),
		OF_REQUEST4_CLIENT(REQUEST_END)),
	SENT("a way that carries just enough", &conn4, OF_ANSWER4(.mtu = 1280), OF_ANSWER4_POD(.mtu = 1280)),
	SENT("to the client, which it is all about, whatever it names", &conn4, OF_REQUEST4(REQUEST_END_POD, .mtu = 68),
		OF_REQUEST4_CLIENT(REQUEST_END, .mtu = 68)),
	NARROW("a way that carries too little", &conn4, OF_ANSWER4(.mtu = 1279)),
	NARROW("a way that carries too little, IPv6", &conn6, OF_ANSWER6(.mtu = 1279)),
	NARROW("a router that does not tell its MTU", &conn4, OF_ANSWER4(.no_mtu = true)),
	SENT("numbers past 2^32", &wrapping,
		TOO_BIG(ROUTER, AT("8.0.1.1"), FRONT, CLIENT, .seq = 0x7fffffff),
		TOO_BIG(AT("8.0.2.1"), AT("8.0.2.2"), POD, NODE, .seq = 0xffffffffu)),
	SENT("a wrong checksum stays as wrong", &conn4, OF_ANSWER4(.check_error = 0x1234), OF_ANSWER4_POD(.check_error = 0x1234)),

	PASSED("the agent's bytes were too big", &fresh4, OF_REQUEST4(REQUEST_END_POD - 1)),
	PASSED("the agent's bytes were too big, IPv6", &fresh6, OF_REQUEST6(REQUEST_END_POD - 500)),
	PASSED("of others' connections", NULL, OF_ANSWER4()),
	PASSED("of others' connections, IPv6", NULL, OF_ANSWER6()),
	PASSED("the host is unreachable", &conn4, OF_ANSWER4(.icmp = 0x0301)),
	PASSED("the time is exceeded", &conn4, OF_ANSWER4(.icmp = 0x0b04)),
	PASSED("the destination is unreachable, IPv6", &conn6, OF_ANSWER6(.icmp = 0x0100)),
	PASSED("to another than who sent what is quoted", &conn4,
		TOO_BIG(ROUTER, AT("8.0.1.7"), FRONT, CLIENT, .seq = ANSWER)),
	PASSED("to another than who sent what is quoted, IPv6", &conn6,
		TOO_BIG(ROUTER6, AT("[2001:db8:86dd:1::7]"), FRONT6, CLIENT6, .seq = ANSWER)),
	PASSED("a fragment is quoted", &conn4, OF_ANSWER4(.quoted_odd = &fragment)),
	PASSED("IP options are quoted", &conn4, OF_ANSWER4(.quoted_odd = &options, .payload = REST)),
	PASSED("UDP is quoted", &conn4, OF_ANSWER4(.quoted_odd = &udp)),
	PASSED("UDP is quoted, IPv6", &conn6, OF_ANSWER6(.quoted_odd = &udp)),
	PASSED("cut within the sequence number", &conn4, OF_ANSWER4(.cut = 1)),
	PASSED("cut within the sequence number, IPv6", &conn6, OF_ANSWER6(.cut = 1)),
	PASSED("itself a fragment", &conn4, OF_ANSWER4(.fragment = 0x2000, .payload = REST)),
	PASSED("itself with IP options", &conn4, OF_ANSWER4(.ip_options = 1, .payload = REST)),
	PASSED("another protocol with the same bytes", &conn4, OF_ANSWER4(.protocol = 17)),
	PASSED("another protocol with the same bytes, IPv6", &conn6, OF_ANSWER6(.protocol = 17)),
	{ .name = "the pod has no route", .conn = &conn4, .no_route = true, .step = { { .in = OF_ANSWER4(), .verdict = PASS } } },
	{ .name = "of an entry whose slot is another's", .conn = &conn4, .stale = STALE_SLOT,
	  .step = { { .in = OF_ANSWER4(), .verdict = PASS, .why = { REASON_STALE_ENTRY } } } },
	{ .name = "on its way out it is nobody's business", .conn = &conn4,
	  .step = { { .program = EGRESS, .in = OF_ANSWER4(), .verdict = PASS } } },
};

FIXTURES(fixtures_too_big, cases);
