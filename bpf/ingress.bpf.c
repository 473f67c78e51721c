// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * TC ingress, on the devices where clients come in and on those that lead to pods: packets of handed-over connections are
 * translated and sent on, and what routers say of these being too big; SYNs to the agent are made fit for that.
 */
#include "rewrite.h"
#include "lib/slot.h"
#include "affinity.h"
#include "observe.h"
#include "too_big.h"
#include "way.h"

SUBPROGRAM bool rewrite_sack(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	struct tcp_options from = {}, to;

	if (!packet || !flow || !hook_load_options(skb, packet, &from))
		return false;
	to = from;
	return !sack_translate(&to, packet->options, flow->ack_sub, flow->sack) || hook_store_options(skb, packet, &from, &to);
}

static __always_inline enum reason forward(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow,
	const struct slot *slot, __u32 *ifindex)
{
	*ifindex = hook_way(flow, slot);
	if (!*ifindex)
		return REASON_NO_ROUTE;
	/* Only SACK comes in options here; the numbers of a connection that never met the agent do not move. */
	if (packet->options && !(packet->flags & TCP_SYN) && !(slot->flags & SLOT_AFFINITY) &&
		!rewrite_sack(skb, packet, flow))
		return REASON_REWRITE_FAILED;
	if (packet->flags & TCP_SYN && slot->flags & SLOT_AFFINITY && !affinity_clamp(skb, packet, slot->endpoint, flow->from_pod))
		return REASON_REWRITE_FAILED;
	if (!rewrite(skb, packet, flow) || !rewrite_make_room(skb, packet->l3))
		return REASON_REWRITE_FAILED;
	return flow->from_pod ? REASON_FORWARDED_DOWN : REASON_FORWARDED_UP;
}

static __always_inline void note_synack(struct __sk_buff *skb, const struct packet *packet)
{
	struct handshake *handshake = bpf_map_lookup_elem(&handshakes, &packet->key);

	if (handshake) {
		handshake->isn_in = packet->seq;
		handshake->ifindex_in = skb->ifindex;
	}
}

/* A client's SYN to the agent. Return: REASON_AFFINITY_STRAIGHT when it has entries now. */
SUBPROGRAM enum reason client_syn(struct __sk_buff *skb, const struct packet *packet)
{
	struct handshake handshake = { .ifindex_in = skb->ifindex };
	const struct control *settings = hook_control();
	struct front front = {};
	enum reason why;

	if (!settings || !packet)
		return REASON_NOT_OURS;
	handshake.isn_in = packet->seq;
	front.port = packet->key.dport;
	address_copy(front.addr, packet->key.daddr);
	if (!bpf_map_lookup_elem(&fronts, &front))
		return REASON_NOT_OURS;
	if (settings->affinity_ttl_ns && affinity_open(skb, packet, &front, settings))
		return REASON_AFFINITY_STRAIGHT;
	if (settings->hold_until_ns && bpf_ktime_get_ns() < settings->hold_until_ns)
		return REASON_SYN_HELD;
	why = hook_clean_syn(skb, packet, 0);
	if (why == REASON_SYN_CLEANED)
		bpf_map_update_elem(&handshakes, &packet->key, &handshake, BPF_ANY);
	return why;
}

/*
 * The slot of the packet's connection, but for one whose client has come anew from the same address. @held: not yet, since
 * the agent is removing what the node tracks of that address: the one flag decides who was first.
 */
static __always_inline struct slot *find_live(struct __sk_buff *skb, const struct packet *packet, struct flow *flow, bool *held)
{
	struct slot *slot = hook_find_flow(&packet->key, flow);

	if (!slot || flow->from_pod || !(packet->flags & TCP_SYN) || slot_client_syn(slot, packet) != REASON_SYN_REUSED)
		return slot;
	*held = __sync_fetch_and_or(&slot->flags, SLOT_ORPHAN) & SLOT_FORGETTING;
	observe(skb, slot, packet, flow->slot, false);
	if (*held)
		return slot;
	bpf_map_delete_elem(&flows, &packet->key);
	hook_count(REASON_SYN_REUSED);
	return NULL;
}

static __always_inline enum reason handle(struct __sk_buff *skb, struct packet *packet, __u32 *ifindex)
{
	struct flow flow;
	bool straight = false, held = false;
	struct slot *slot = find_live(skb, packet, &flow, &held);
	enum reason why;

	if (held)
		return REASON_SYN_HELD;
	if (!slot && (packet->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		why = client_syn(skb, packet);
		if (why != REASON_AFFINITY_STRAIGHT)
			return why;
		straight = true;
		slot = hook_find_flow(&packet->key, &flow);
	} else if (!slot && packet->flags & TCP_SYN) {
		note_synack(skb, packet);
	}
	if (!slot)
		return REASON_NOT_OURS;
	if (flow.from_pod && slot_is_repeated(slot, packet))
		way_follow(skb, &flow, slot);
	why = flow.from_pod ? slot_from_pod(slot, packet) : slot_from_client(slot, packet, &flow);
	observe(skb, slot, packet, flow.slot, flow.from_pod);
	if (why == REASON_SYN_LIVE)
		hook_count(why);
	if (why == REASON_NONE || why == REASON_SYN_LIVE)
		why = forward(skb, packet, &flow, slot, ifindex);
	return straight && why == REASON_FORWARDED_UP ? REASON_AFFINITY_STRAIGHT : why;
}

/* The one place where a reason becomes a verdict: passed means that other programs on the device have their turn. */
static __always_inline int verdict(enum reason why, __u32 ifindex)
{
	if (why == REASON_NOT_OURS || why == REASON_NONE)
		return TC_ACT_UNSPEC;
	hook_count(why);
	switch (why) {
	case REASON_FORWARDED_UP:
	case REASON_FORWARDED_DOWN:
	case REASON_AFFINITY_STRAIGHT:
	case REASON_TOO_BIG:
		return (int)bpf_redirect_neigh(ifindex, NULL, 0, 0);
	case REASON_SYN_HELD:
	case REASON_SYN_REPEATED:
	case REASON_SYNACK_STALE:
	case REASON_ORPHAN:
	case REASON_NO_ROUTE:
	case REASON_REWRITE_FAILED:
		return TC_ACT_SHOT;
	default:
		return TC_ACT_UNSPEC;
	}
}

static __always_inline int ingress(struct __sk_buff *skb, __u32 l3)
{
	struct packet packet = {};
	__u32 ifindex = 0;
	enum reason why = hook_parse(skb, &packet, l3);

	if (why == REASON_NONE)
		why = handle(skb, &packet, &ifindex);
	else if (why == REASON_NOT_OURS)
		why = too_big(skb, l3, &ifindex);
	if (why == REASON_TOO_BIG && !rewrite_make_room(skb, l3))
		why = REASON_REWRITE_FAILED;
	return verdict(why, ifindex);
}

SEC("tc")
int llmd_ingress(struct __sk_buff *skb)
{
	return ingress(skb, HOOK_ETHERNET);
}

SEC("tc")
int llmd_ingress_l3(struct __sk_buff *skb)
{
	return ingress(skb, HOOK_L3);
}

char _license[] SEC("license") = "Dual BSD/GPL";
