// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* sockops, on the agent's cgroup: what the kernel knows of the agent's connections. */
#include "maps.h"

#include <bpf/bpf_core_read.h>

/* What is read of the kernel's structures, found by these names when the program is loaded. */
struct tcp_options_received {
	__u16 tstamp_ok : 1, sack_ok : 3, snd_wscale : 4, rcv_wscale : 4;
	__u16 mss_clamp;
} __attribute__((preserve_access_index));

struct inet_connection_sock {
	__u32 icsk_pmtu_cookie;
} __attribute__((preserve_access_index));

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	struct tcp_options_received rx_opt;
	__u16 advmss;
	__u32 rcv_nxt, write_seq;
} __attribute__((preserve_access_index));

enum { HEADERS_IPV4 = 40, HEADERS_IPV6 = 60 };

/* Each field is read by its own offset: the verifier allows no arithmetic on the context. */
#define OWN_READ(field) ({ __u32 value = (field); asm volatile("" : "+r"(value)); value; })

static __always_inline struct endpoint_stats *stats_of(struct bpf_sock_ops *ops)
{
	struct front pod = { .port = bpf_htons((__u16)bpf_ntohl(OWN_READ(ops->remote_port))) };
	__u32 *index;

	if (ops->family == FAMILY_IPV4) {
		address_from_ipv4(pod.addr, OWN_READ(ops->remote_ip4));
	} else {
		pod.addr[0] = OWN_READ(ops->remote_ip6[0]);
		pod.addr[1] = OWN_READ(ops->remote_ip6[1]);
		pod.addr[2] = OWN_READ(ops->remote_ip6[2]);
		pod.addr[3] = OWN_READ(ops->remote_ip6[3]);
	}
	index = bpf_map_lookup_elem(&endpoint_index, &pod);
	return index ? bpf_map_lookup_elem(&endpoint_stats, index) : NULL;
}

static __always_inline void read_key(struct bpf_sock_ops *ops, struct flow_key *arriving)
{
	arriving->sport = bpf_htons((__u16)bpf_ntohl(OWN_READ(ops->remote_port)));
	arriving->dport = bpf_htons((__u16)OWN_READ(ops->local_port));
	if (ops->family == FAMILY_IPV4) {
		address_from_ipv4(arriving->saddr, OWN_READ(ops->remote_ip4));
		address_from_ipv4(arriving->daddr, OWN_READ(ops->local_ip4));
		return;
	}
	arriving->saddr[0] = OWN_READ(ops->remote_ip6[0]);
	arriving->saddr[1] = OWN_READ(ops->remote_ip6[1]);
	arriving->saddr[2] = OWN_READ(ops->remote_ip6[2]);
	arriving->saddr[3] = OWN_READ(ops->remote_ip6[3]);
	arriving->daddr[0] = OWN_READ(ops->local_ip6[0]);
	arriving->daddr[1] = OWN_READ(ops->local_ip6[1]);
	arriving->daddr[2] = OWN_READ(ops->local_ip6[2]);
	arriving->daddr[3] = OWN_READ(ops->local_ip6[3]);
}

/* The numbers of a socket that has sent and received nothing yet: they spare the agent a score of system calls. */
static __always_inline void note_numbers(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct handshake *handshake;
	struct flow_key arriving = {};
	struct tcp_sock *tp;
	__u32 way;

	read_key(ops, &arriving);
	handshake = bpf_map_lookup_elem(&handshakes, &arriving);
	tp = sk && handshake ? bpf_skc_to_tcp_sock(sk) : NULL;
	if (!tp)
		return;
	/* The family of a socket that was accepted by a listener of both is IPv6, whatever it speaks. */
	way = tp->inet_conn.icsk_pmtu_cookie - (address_is_ipv6(arriving.saddr) ? HEADERS_IPV6 : HEADERS_IPV4);
	handshake->socket.write_seq = tp->write_seq;
	handshake->socket.rcv_nxt = tp->rcv_nxt;
	handshake->socket.peer_mss = tp->rx_opt.mss_clamp > way ? way : tp->rx_opt.mss_clamp;
	handshake->socket.own_mss = tp->advmss;
	handshake->socket.peer_scale = BPF_CORE_READ_BITFIELD(tp, rx_opt.snd_wscale);
	handshake->socket.own_scale = BPF_CORE_READ_BITFIELD(tp, rx_opt.rcv_wscale);
	handshake->socket.sack = BPF_CORE_READ_BITFIELD(tp, rx_opt.sack_ok);
	handshake->socket.timestamps = BPF_CORE_READ_BITFIELD(tp, rx_opt.tstamp_ok);
	handshake->established = 1;
}

/* A cgroup may hold processes of several network namespaces, in which the same addresses mean other hosts. */
SEC("sockops")
int llmd_sockops(struct bpf_sock_ops *ops)
{
	const struct control *settings;
	struct endpoint_stats *stats;
	__u32 zero = 0;

	settings = bpf_map_lookup_elem(&control, &zero);
	if (!settings || (settings->netns_cookie && settings->netns_cookie != bpf_get_netns_cookie(ops)))
		return 1;
	if (settings->netns_cookie &&
		(ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB || ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB))
		note_numbers(ops);
	if (ops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && ops->op != BPF_SOCK_OPS_RETRANS_CB && ops->op != BPF_SOCK_OPS_RTT_CB)
		return 1;
	stats = stats_of(ops);
	if (!stats)
		return 1;
	switch (ops->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG);
		stats->connects++;
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		stats->retransmits++;
		break;
	case BPF_SOCK_OPS_RTT_CB:
		stats->rtt_samples++;
		stats->rtt_sum_us += ops->srtt_us >> 3;
		break;
	}
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
