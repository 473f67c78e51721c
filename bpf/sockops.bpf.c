// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* sockops, on the agent's cgroup: what the kernel knows of the agent's connections to pods. */
#include "maps.h"

enum { FAMILY_IPV4 = 2 };

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

SEC("sockops")
int llmd_sockops(struct bpf_sock_ops *ops)
{
	struct endpoint_stats *stats;

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
