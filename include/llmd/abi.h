/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the BPF programs, the agent and the tools share: the maps pinned below --pin-dir, and the events.
 *
 * Addresses are 16 bytes in network order, IPv4 ones mapped (RFC 4291, 2.5.5.2). Times are CLOCK_MONOTONIC nanoseconds.
 * The name of the pin directory carries LLMD_SCHEMA. Two things are the same in every schema, so that an agent can look
 * after what another one has left: struct flow_key, and the head of struct slot up to @gen, with SLOT_FREE and SLOT_ENDED.
 */
#ifndef LLMD_ABI_H
#define LLMD_ABI_H

#include <linux/types.h>

#define LLMD_SCHEMA	 1
#define LLMD_PIN_DIR	 "/sys/fs/bpf/llmd/v1"
#define LLMD_ENDPOINT_MAX 1024
#define LLMD_HISTOGRAM_N 26 /* bucket i counts [2^i, 2^(i+1)) microseconds, the last one all above */
#define LLMD_HOLDERS_MAX 8

/** struct flow_key - a TCP connection as its packets arrive at ingress. */
struct flow_key {
	__u32 saddr[4], daddr[4];
	__u16 sport, dport; /* network order */
};

/**
 * struct flow - map "flows": how packets that arrive with the key are to leave. Constant once inserted; what changes is
 * in the slot. A value may be replaced while a program copies it, so a copy counts only if both @gen are the slot's.
 * @to:      addresses and ports of what leaves, from the node's point of view: source and destination.
 * @seq_add, @ack_sub: to the sequence number, off the acknowledgment number.
 * @ifindex: where it leaves, unless the slot's @client_way says otherwise; 0: where the endpoint's route leads.
 * @scale_in, @scale_out: window scale that the sender announced, and the one that the receiver was told.
 * @sack:    both sides agreed on SACK: blocks are translated, else blanked.
 */
struct flow {
	__u32 gen_head;
	__u32 slot;
	struct flow_key to;
	__u32 seq_add, ack_sub;
	__u32 ifindex;
	__u8 scale_in, scale_out;
	__u8 from_pod, sack;
	__u32 gen_tail;
};

enum slot_state {
	SLOT_FREE,
	SLOT_SENDING, /* the agent still has bytes of the request that its kernel has not taken: dies with the agent */
	SLOT_HANDED,  /* nobody is needed any more */
	SLOT_STATE_N
};

enum slot_flag {
	SLOT_ACKED = 1,	      /* the pod has acknowledged the whole request: both sockets of the agent are of no more use */
	SLOT_CLIENT_FIN = 2,  /* the client has sent its FIN, to @client_fin */
	SLOT_POD_FIN = 4,
	SLOT_CLIENT_FIN_ACKED = 8,
	SLOT_POD_FIN_ACKED = 16,
	SLOT_RESET = 32,      /* one side has sent a valid RST */
	SLOT_ORPHAN = 64,     /* the client's address was used again: what the pod still says goes nowhere */
	SLOT_ENDED = 128,     /* EVENT_END was sent */
	SLOT_AGENT_FIN = 256, /* the client's FIN came before the hand-off: the agent's socket says it */
	SLOT_HEAD = 512,      /* the head of the answer has passed */
	SLOT_CONTENT = 1024,  /* content, too */
	SLOT_ANSWERING = 2048, /* the last payload was the pod's */
	SLOT_AFFINITY = 4096, /* never met the agent: the SYN was sent straight to the pod */
	SLOT_ANSWERED = 16384, /* EVENT_ANSWERED was sent */
	SLOT_COUNTED = 8192,  /* agent: the request's end is counted, its load released */
	SLOT_FORGETTING = 32768, /* agent: what is tracked of the client's address is being removed: no new connection of it now */
	SLOT_POD_RESET = 65536, /* beside SLOT_RESET: the pod's */
	SLOT_CLIENT_LEFT = 262144, /* a RST that may be the client's: if so, nothing more will come */
	SLOT_OPENED = 524288, /* beside SLOT_AFFINITY: the client has acknowledged the pod's SYN-ACK */
	SLOT_DOUBTED = 131072, /* beside SLOT_RESET: packets have come behind the last valid RST, which was perhaps refused */
};

/**
 * struct slot - map "slots", mapped into the agent: one handed-over connection. Sequence numbers are those on the pod's
 * connection, but for @request_end, which is the client's.
 * @last_ns:  of the last packet, to the accuracy of a tick.
 * @pod_ack:  highest acknowledgment of the pod; @pod_next: end of what it has sent; @client_ack, @client_next: the same of the client.
 * @agent_end: end of what the agent sends on its own connection: below it, ACKs are for the agent.
 * @request_end: where the present request ends: payload at or past it is another one's.
 * @api:      enum api of the request, for the agent; @tokens: that it holds of the endpoint until the first content.
 */
struct slot {
	__u32 state;
	__u32 flags;
	__u64 last_ns;
	__u32 gen;
	/* from here on of this schema; first what the programs write */
	__u32 pod_ack, pod_next, pod_fin;
	__u32 client_next, client_fin;
	__u16 status; /* code of the answer's status line; 0 as long as there is none */
	__u16 requests;
	__u32 client_ack;
	__u64 first_ns, last_data_ns;
	__u64 packets_up, packets_down, bytes_up, bytes_down;
	/* what the agent writes before the entries are there */
	__u64 begun_ns, handed_ns;
	__u32 agent_end, request_end, client_isn;
	__u32 endpoint, generation;
	__u32 tokens;
	__u32 api;
	__u32 client_start; /* where the answer begins, in the client's numbers: what the client has received if nothing */
	__u32 pod_start;    /* the same in the pod's numbers */
	struct flow_key client, pod; /* keys of both directions */
	char request_id[64];
	__u32 client_way; /* programs: the device that leads to the client since its way has changed; 0: as in the entry */
};

/** struct front - a key of map "fronts": an address under which clients reach the agent. Its value is a struct front_info. */
struct front {
	__u32 addr[4];
	__u16 port; /* network order */
	__u16 pad;
};
struct front_info {
	__u32 learnt; /* from a translated connection (a service address), not from an interface */
};

/**
 * struct socket_numbers - of one of the agent's sockets, when it was established.
 * @write_seq, @rcv_nxt: of the next byte in either direction. @peer_mss: what the peer and the way to it take; @own_mss:
 * what the peer was told. @peer_scale, @own_scale: window scale that each side announced.
 */
struct socket_numbers {
	__u32 write_seq, rcv_nxt;
	__u16 peer_mss, own_mss;
	__u8 peer_scale, own_scale;
	__u8 sack, timestamps;
};

/**
 * struct handshake - map "handshakes": what the programs saw of a connection's opening, by the key of what arrives. Both
 * devices set means that both hooks see this very connection. @established: @socket is filled, by the socket itself.
 * @told_mss: limit of the MSS that the client was told; 0: none.
 */
struct handshake {
	__u32 isn_in, isn_out;
	__u32 ifindex_in, ifindex_out;
	struct socket_numbers socket;
	__u16 established, told_mss;
};

enum endpoint_map_state { ENDPOINT_MAP_FREE, ENDPOINT_MAP_READY, ENDPOINT_MAP_EJECTED, ENDPOINT_MAP_DRAINING, ENDPOINT_MAP_DEGRADED };

/** struct endpoint_entry - map "endpoints": an endpoint's index, with its generation, is its identity in all other maps. */
struct endpoint_entry {
	__u32 addr[4];
	__u32 local[4]; /* the node's own address on the way there */
	__u16 port;	/* network order */
	__u16 mss;	/* that the way there can carry */
	__u32 state;	/* enum endpoint_map_state */
	__u32 generation;
	__u32 ifindex; /* where its route leads; 0: none known */
};

/** struct endpoint_stats - map "endpoint_stats", a copy per CPU. */
struct endpoint_stats {
	__u64 packets_up, packets_down, bytes_up, bytes_down;
	__u64 flows, resets;
	__u64 ttft_sum_ns, ttft[LLMD_HISTOGRAM_N];
	__u64 itl_sum_ns, itl[LLMD_HISTOGRAM_N];
	__u64 connects, retransmits;
	__u64 rtt_samples, rtt_sum_us; /* smoothed RTT of the agent's connections */
};

/** struct session_entry - map "sessions", by session hash: a hint. */
struct session_entry {
	__u32 endpoint, generation;
	__u64 last_used_ns;
	__u32 uses, pad;
};

/** struct prefix_entry - map "prefixes", by prefix block hash: a hint; the endpoints that took it last. */
struct prefix_holder {
	__u16 endpoint;
	__u16 generation; /* its low bits */
};
struct prefix_entry {
	struct prefix_holder holder[LLMD_HOLDERS_MAX];
	__u32 n;     /* holders in use */
	__u32 depth; /* blocks from the prompt's start, this one included */
	__u64 last_used_ns;
};

/** struct affinity_key - map "affinity": clients whose SYNs go straight to a pod. */
struct affinity_key {
	__u32 client[4];
	__u32 front[4];
	__u16 front_port, pad;
};
struct affinity_entry {
	__u32 endpoint, generation;
	__u64 expires_ns;
	__u64 uses;
};

/** struct control - map "control", one entry, mapped into the agent. */
struct control {
	__u32 schema;
	__u32 port_low, port_high; /* the agent's own ports towards pods, host order, both included */
	__u32 affinity_port_low;   /* port of the first affinity slot */
	__u32 affinity_slot;	   /* its number */
	__u32 mss4, mss6;	   /* the least that the ways to all pods can carry; 0: no limit */
	__u32 pad;
	__u64 affinity_ttl_ns;	   /* 0: off */
	__u64 netns_cookie;	   /* of the agent's network namespace (SO_NETNS_COOKIE, Linux 5.14); 0: not known */
	__u64 hold_until_ns;	   /* until then SYNs to fronts are dropped, to come again: an agent is being replaced */
	__u8 session_secret[16];
};

enum event_type {
	EVENT_ACKED, /* the pod has the whole request */
	EVENT_FIRST, /* first content of the answer */
	EVENT_END,   /* FIN both ways, or RST */
	EVENT_ANSWERED, /* the pod's FIN: whatever the client still does, the request is over */
	EVENT_TYPE_N
};

/** struct event - ring buffer "events". */
struct event_record {
	__u32 type;
	__u32 slot, gen;
	__u32 status;
	__u64 ns;
};

/*
 * Why a packet was not simply passed: index into map "counters". X(NAME, "text", "meaning")
 */
#define LLMD_REASONS(X) \
	X(NONE, "none", "Not counted: goes on to the next step.") \
	X(NOT_OURS, "not_ours", "Not counted: no TCP, or no connection of the agent's; passed.") \
	X(FORWARDED_UP, "forwarded_up", "Of a handed-over connection, sent on to the pod.") \
	X(FORWARDED_DOWN, "forwarded_down", "Of a handed-over connection, sent on to the client.") \
	X(VLAN, "vlan", "VLAN-tagged; passed.") \
	X(FRAGMENT, "fragment", "An IP fragment of TCP; passed.") \
	X(IP_OPTIONS, "ip_options", "TCP behind IP options or an extension header; passed.") \
	X(MALFORMED, "malformed", "A TCP header that is cut or contradicts its length; passed.") \
	X(SYN_CLEANED, "syn_cleaned", "A SYN without timestamps and other options from here on; passed.") \
	X(SYN_SIGNED, "syn_signed", "A SYN with TCP-MD5 or TCP-AO, left alone; its connection is relayed.") \
	X(SYN_HELD, "syn_held", "A SYN dropped while the agent is being replaced, or its address's last connection forgotten; the client repeats it.") \
	X(SYN_REPEATED, "syn_repeated", "A late copy of a handed-over connection's SYN; dropped.") \
	X(SYN_LIVE, "syn_live", "A SYN on a live handed-over connection, sent on: the pod's challenge ACK decides.") \
	X(SYN_REUSED, "syn_reused", "A SYN on an ended connection: its entry is removed; passed.") \
	X(SYNACK_STALE, "synack_stale", "A late copy of the pod's SYN-ACK; dropped.") \
	X(ORPHAN, "orphan", "From a pod whose client has gone and come anew; dropped.") \
	X(STALE_ENTRY, "stale_entry", "An entry whose slot belongs to another connection by now; passed.") \
	X(ACK_TO_AGENT, "ack_to_agent", "An ACK of the agent's own bytes; passed.") \
	X(CLOSE_TO_AGENT, "close_to_agent", "FIN or RST of a pod that has not answered yet; passed to the agent, which tries another pod.") \
	X(MUTED_CLIENT_SIDE, "muted_client_side", "From the agent's socket of a handed-over client connection; dropped.") \
	X(MUTED_POD_SIDE, "muted_pod_side", "From the agent's socket of a handed-over pod connection; dropped.") \
	X(ABANDONED, "abandoned", "The FIN of an agent that died before it had sent the whole request, made an RST for the client.") \
	X(FIN_STRIPPED, "fin_stripped", "The FIN of an agent that died in a hand-off, taken off its data.") \
	X(NO_ROUTE, "no_route", "The endpoint has no route; dropped.") \
	X(REWRITE_FAILED, "rewrite_failed", "A packet that could not be rewritten; dropped.") \
	X(AFFINITY_STRAIGHT, "affinity_straight", "A known client's SYN, sent straight to its pod.") \
	X(AFFINITY_EXPIRED, "affinity_expired", "A client's affinity was over; passed to the agent.") \
	X(AFFINITY_POD_GONE, "affinity_pod_gone", "A client's pod is not ready or gone; passed to the agent.") \
	X(AFFINITY_FULL, "affinity_full", "No free slot or entry for a straight connection; passed to the agent.") \
	X(TOO_BIG, "too_big", "A router's \"packet too big\" about a handed-over connection, sent on to who sent that packet.") \
	X(TOO_NARROW, "too_narrow", "The same naming less than 1280 bytes, which would slow down all streams of the pod; passed.") \
	X(AFFINITY_TAKEN, "affinity_taken", "The node has a socket with the addresses of a known client's SYN, perhaps in TIME_WAIT; passed to the agent.")

enum reason {
#define LLMD_REASON_ENUM(name, text, meaning) REASON_##name,
	LLMD_REASONS(LLMD_REASON_ENUM)
#undef LLMD_REASON_ENUM
	REASON_N
};

#endif
