// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * TC egress, on the same devices: the agent's SYNs and SYN-ACKs are made fit for a hand-off, and its sockets are muted once
 * their connection has been handed over. Should the agent die in between, its client gets an RST.
 *
 * Only what the local stack sends matters. skb->sk does not tell: it survives veth. No ingress device does.
 */
#include "rewrite.h"
#include "lib/slot.h"

/* Each field is read by its own offset: the verifier allows no arithmetic on the socket. */
#define OWN_READ(field) ({ __u32 value = (field); asm volatile("" : "+r"(value)); value; })

/* Address translation between the socket and the device would make the keys wrong: then the SYN stays as it is. */
static __always_inline bool is_translated(struct __sk_buff *skb, const struct packet *packet)
{
	struct bpf_sock *sk = skb->sk;
	__u32 differs;

	if (!sk)
		return true;
	sk = bpf_sk_fullsock(sk);
	if (!sk || OWN_READ(sk->src_port) != bpf_ntohs(packet->key.sport))
		return true;
	if (!packet->ipv6)
		return OWN_READ(sk->src_ip4) != packet->key.saddr[3];
	differs = OWN_READ(sk->src_ip6[0]) ^ packet->key.saddr[0];
	differs |= OWN_READ(sk->src_ip6[1]) ^ packet->key.saddr[1];
	differs |= OWN_READ(sk->src_ip6[2]) ^ packet->key.saddr[2];
	differs |= OWN_READ(sk->src_ip6[3]) ^ packet->key.saddr[3];
	return differs;
}

static __always_inline enum reason syn_to_pod(struct __sk_buff *skb, const struct packet *packet, const struct flow_key *arriving)
{
	struct handshake handshake = { .isn_out = packet->seq, .ifindex_out = skb->ifindex };
	const struct control *settings = hook_control();
	struct front pod = { .port = packet->key.dport };
	__u32 port = bpf_ntohs(packet->key.sport);
	enum reason why;

	if (!settings || port < settings->port_low || port > settings->port_high)
		return REASON_NOT_OURS;
	address_copy(pod.addr, packet->key.daddr);
	if (!bpf_map_lookup_elem(&endpoint_index, &pod) || is_translated(skb, packet))
		return REASON_NOT_OURS;
	why = hook_clean_syn(skb, packet, 0);
	if (why == REASON_SYN_CLEANED)
		bpf_map_update_elem(&handshakes, arriving, &handshake, BPF_ANY);
	return why;
}

/* To a client whose SYN came by here: it must not send more at once than the way to any pod can carry. */
static __always_inline enum reason synack_to_client(struct __sk_buff *skb, const struct packet *packet, const struct flow_key *arriving)
{
	struct handshake *handshake = bpf_map_lookup_elem(&handshakes, arriving);
	const struct control *settings = hook_control();
	__u32 mss_max;

	if (!handshake || !settings)
		return REASON_NOT_OURS;
	mss_max = packet->ipv6 ? settings->mss6 : settings->mss4;
	if (!handshake->ifindex_out)
		handshake->told_mss = (__u16)mss_max;
	/* Of a SYN cookie there may be several, and only the client knows which one it took. */
	handshake->ifindex_out = handshake->ifindex_out && handshake->isn_out != packet->seq ? 0 : skb->ifindex;
	handshake->isn_out = packet->seq;
	return hook_clean_syn(skb, packet, mss_max);
}

/* The agent's FIN towards the pod becomes the RST that its socket towards the client can no longer send. @down: to the client. */
static __always_inline bool tell_client(struct __sk_buff *skb, struct packet *packet, const struct slot *slot,
	const struct flow *down)
{
	__u16 word = (packet->flags_word & bpf_htons(0xffff & ~TCP_FIN)) | bpf_htons(TCP_RST);
	struct flow to = *down;

	to.seq_add = slot->client_start - packet->seq;
	to.ack_sub = packet->ack - slot->request_end;
	to.scale_in = to.scale_out;
	if (!hook_store_flags(skb, packet, word))
		return false;
	packet->flags_word = word;
	return rewrite(skb, packet, &to) && rewrite_make_room(skb, packet->l3);
}

static __always_inline enum reason mute(struct __sk_buff *skb, struct packet *packet, const struct flow *flow, __u32 *ifindex)
{
	struct slot *slot = bpf_map_lookup_elem(&slots, &flow->slot);
	bool strip_fin = false;
	enum reason why;

	if (!slot || slot->gen != flow->gen_head)
		return REASON_NOT_OURS;
	why = flow->from_pod ? slot_from_agent_to_pod(slot, packet, &strip_fin) : slot_from_agent_to_client(slot, packet);
	if (why == REASON_ABANDONED) {
		*ifindex = flow->ifindex;
		return tell_client(skb, packet, slot, flow) ? REASON_ABANDONED : REASON_REWRITE_FAILED;
	}
	if (why == REASON_NONE && strip_fin) {
		__u16 word = packet->flags_word & bpf_htons(0xffff & ~TCP_FIN);

		return hook_store_flags(skb, packet, word) ? REASON_FIN_STRIPPED : REASON_REWRITE_FAILED;
	}
	return why == REASON_NONE ? REASON_NOT_OURS : why;
}

static __always_inline enum reason handle(struct __sk_buff *skb, struct packet *packet, __u32 *ifindex)
{
	struct flow_key arriving;
	const struct flow *flow;

	flow_key_reverse(&arriving, &packet->key);
	if ((packet->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return syn_to_pod(skb, packet, &arriving);
	flow = bpf_map_lookup_elem(&flows, &arriving);
	if (flow)
		return mute(skb, packet, flow, ifindex);
	return packet->flags & TCP_SYN ? synack_to_client(skb, packet, &arriving) : REASON_NOT_OURS;
}

static __always_inline int verdict(enum reason why, __u32 ifindex)
{
	if (why == REASON_NOT_OURS || why == REASON_NONE)
		return TC_ACT_UNSPEC;
	hook_count(why);
	switch (why) {
	case REASON_ABANDONED:
		return (int)bpf_redirect_neigh(ifindex, NULL, 0, 0);
	case REASON_MUTED_CLIENT_SIDE:
	case REASON_MUTED_POD_SIDE:
	case REASON_REWRITE_FAILED:
		return TC_ACT_SHOT;
	default:
		return TC_ACT_UNSPEC;
	}
}

static __always_inline int egress(struct __sk_buff *skb, __u32 l3)
{
	struct packet packet = {};
	__u32 ifindex = 0;
	enum reason why;

	if (skb->ingress_ifindex)
		return TC_ACT_UNSPEC;
	why = hook_parse(skb, &packet, l3);
	if (why == REASON_NONE)
		why = handle(skb, &packet, &ifindex);
	return verdict(why, ifindex);
}

SEC("tc")
int llmd_egress(struct __sk_buff *skb)
{
	return egress(skb, HOOK_ETHERNET);
}

SEC("tc")
int llmd_egress_l3(struct __sk_buff *skb)
{
	return egress(skb, HOOK_L3);
}

char _license[] SEC("license") = "Dual BSD/GPL";
