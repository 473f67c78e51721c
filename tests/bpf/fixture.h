/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fixtures: what is in the maps, packets one after the other, and for each its verdict, what leaves, the reasons that are
 * counted, the events, and what the connection's slot says then. The loop over them is in run.c.
 *
 * The addresses serve both variants of a program. BPF_PROG_TEST_RUN takes the protocol from where Ethernet has its type. To
 * a program for devices without Ethernet headers the IP header is given in its place, where its source address must then
 * read 0x0800 (in 8.0.0.0/16) or 0x86dd.
 */
#ifndef LLMD_TESTS_BPF_FIXTURE_H
#define LLMD_TESTS_BPF_FIXTURE_H

#include <linux/pkt_cls.h>

#include "include/llmd/abi.h"
#include "tests/bpf/wire.h"

#define CLIENT	     "8.0.1.2:4000"
#define FRONT	     "8.0.1.1:80"
#define NODE	     "8.0.2.1:15000"
#define POD	     "8.0.2.2:8000"
#define STRAIGHT     "8.0.2.1:20001" /* where the first straight connection comes from */
#define CLIENT6	     "[2001:db8:86dd:1::2]:4000"
#define FRONT6	     "[2001:db8:86dd:1::1]:80"
#define NODE6	     "[2001:db8:86dd:2::1]:15000"
#define POD6	     "[2001:db8:86dd:2::2]:8000"
#define STRAIGHT6    "[2001:db8:86dd:2::1]:20001"

enum { PASS = TC_ACT_UNSPEC, DROP = TC_ACT_SHOT, SEND = TC_ACT_REDIRECT };
enum { STEPS_MAX = 6, REASONS_MAX = 3 };
/* A time between packets, and the bucket that counts it: in its middle, since the test takes time, too. */
enum { GAP_US = 1500000, GAP_BUCKET = 20 };
/* What is where. */
enum { ENDPOINT = 3, ENDPOINT6 = 4, ENDPOINT_GENERATION = 7, POD_IFINDEX = 77, CLIENT_IFINDEX = 66, TEST_IFINDEX = 1 /* lo */,
	SLOT = 5, SLOT_GEN = 41, STRAIGHT_SLOT = 9, STRAIGHT_GEN = 51, STRAIGHT_SLOT_BASE = 8, STRAIGHT_PORT_BASE = 20000 };

enum program { INGRESS, EGRESS, PROGRAM_N };
enum framing { ETHERNET_AND_L3, ETHERNET, L3 };

/** struct numbers - of a slot. 0: the connection's; after a packet: as before. */
struct numbers {
	uint32_t flags, pod_ack, pod_start, pod_next, pod_fin, client_ack, client_next, client_fin, agent_end, status, requests;
};

/**
 * struct connection - a handed-over one.
 * @e, @d: client to pod: seq += e, ack -= d; pod to client: seq += d, ack -= e.
 * @up_in, @up_out, @down_in, @down_out: window scales of both directions.
 */
struct connection {
	const char *client, *front, *node, *pod;
	uint32_t e, d, client_isn, request_end;
	uint8_t up_in, up_out, down_in, down_out;
	bool sack;
	struct numbers slot;
};

/**
 * struct step - one packet.
 * @forwarded:	  to egress: it has come in by some device.
 * @ttft_ago_us:  the request began so long before: @ttft_bucket counts one; @gap_us, @itl_bucket: the same of a gap.
 * @out:	  left out: as @in.
 * @why:	  every reason that is counted, once; others are not.
 * @events:	  one bit for each type that is told, once; others are not.
 * @cut_flags:	  of the slot, that go.
 */
struct step {
	enum program program;
	bool forwarded;
	uint32_t ttft_ago_us, gap_us;
	struct wire in, out;
	int verdict;
	enum reason why[REASONS_MAX];
	uint32_t events;
	struct numbers after;
	uint32_t cut_flags;
	uint32_t ttft_bucket, itl_bucket;
};

#define EVENT(type) (1u << (type))

enum stale { FRESH, STALE_HEAD, STALE_TAIL, STALE_SLOT };
/* STRAIGHT_TABLE_NEARLY_FULL: one of two entries fits. */
enum straight { STRAIGHT_OFF, STRAIGHT_NEW_CLIENT, STRAIGHT_KNOWN, STRAIGHT_EXPIRED, STRAIGHT_DOWN, STRAIGHT_DRAINING,
	STRAIGHT_RENEWED, STRAIGHT_NO_ROUTE, STRAIGHT_NO_SLOT, STRAIGHT_TABLE_FULL, STRAIGHT_TABLE_NEARLY_FULL,
	STRAIGHT_OTHER_FAMILY, STRAIGHT_TAKEN };
enum affinity_end { AFFINITY_NONE, AFFINITY_SAME, AFFINITY_REFRESHED };

/** struct noted - a struct handshake; devices: whether they are set. All zero: there is none. */
struct noted {
	uint32_t isn_in, isn_out;
	bool ifindex_in, ifindex_out;
	uint16_t told_mss;
};

/**
 * struct fixture - what is in the maps, then packets.
 * @conn:	 handed over before the first packet; @slot: what its slot says other than usual; @stale: what of its
 *		 entries belongs to another connection; @no_route: to its pod.
 * @straight:	 affinity of the client of the first packet; @affinity: what has become of it.
 * @hold, @hold_over: SYNs are held; were until a moment ago.
 * @any_port:	 the agent's port range begins at 0, the port of the socket that BPF_PROG_TEST_RUN lends to a packet.
 * @mss:	 the least that the ways to pods can carry; @pod_mss: what the way to each does.
 * @noted_before, @noted: of the first packet's connection, before and at the end.
 * @entries_add: to the number of entries in map "flows", by all packets.
 */
struct fixture {
	const char *name;
	enum framing framing;
	const struct connection *conn;
	struct numbers slot;
	enum stale stale;
	bool no_route;
	enum straight straight;
	enum affinity_end affinity;
	bool hold, hold_over, any_port;
	uint16_t mss, pod_mss;
	struct noted noted_before, noted;
	int entries_add;
	struct step step[STEPS_MAX];
};

/* A part of the tables. */
struct fixtures {
	const struct fixture *at;
	size_t n;
};

extern const struct fixtures fixtures_parse, fixtures_translate, fixtures_close, fixtures_syn, fixtures_straight, fixtures_agent,
	fixtures_observe, fixtures_too_big;

/*
 * The connections that most fixtures use. The client has sent a request of 500 bytes, 1001 to 1500; the agent's first byte
 * to it has the number 700001. To the pod the request has 101001 to 101500, the pod's first byte has 2001.
 * Of conn4 and conn6 the pod has acknowledged the request, of fresh4 and fresh6 it has not.
 */
enum { E = 100000, D = 698000, REQUEST_END = 1501, ANSWER = 700001, REQUEST_END_POD = REQUEST_END + E, ANSWER_POD = ANSWER - D };
extern const struct connection conn4, conn6, fresh4, fresh6;

/* Packets of them: what comes from the client (C), what then goes to the pod (CP); from the pod (P) to the client (PC). */
#define C4(seq_, ack_, flags_, ...)  TCP(CLIENT, FRONT, .seq = (seq_), .ack = (ack_), .flags = (flags_), __VA_ARGS__)
#define CP4(seq_, ack_, flags_, ...) TCP(NODE, POD, .seq = (seq_), .ack = (ack_), .flags = (flags_), __VA_ARGS__)
#define P4(seq_, ack_, flags_, ...)  TCP(POD, NODE, .seq = (seq_), .ack = (ack_), .flags = (flags_), __VA_ARGS__)
#define PC4(seq_, ack_, flags_, ...) TCP(FRONT, CLIENT, .seq = (seq_), .ack = (ack_), .flags = (flags_), __VA_ARGS__)
#define C6(seq_, ack_, flags_, ...)  TCP(CLIENT6, FRONT6, .seq = (seq_), .ack = (ack_), .flags = (flags_), __VA_ARGS__)
#define CP6(seq_, ack_, flags_, ...) TCP(NODE6, POD6, .seq = (seq_), .ack = (ack_), .flags = (flags_), __VA_ARGS__)
#define P6(seq_, ack_, flags_, ...)  TCP(POD6, NODE6, .seq = (seq_), .ack = (ack_), .flags = (flags_), __VA_ARGS__)
#define PC6(seq_, ack_, flags_, ...) TCP(FRONT6, CLIENT6, .seq = (seq_), .ack = (ack_), .flags = (flags_), __VA_ARGS__)

#define FIXTURES(name, table) const struct fixtures name = { (table), sizeof(table) / sizeof((table)[0]) }

#endif
