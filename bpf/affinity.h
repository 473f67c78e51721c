/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * L4 affinity: the SYN of a client that the agent has met before goes straight to its pod.
 *
 * Both directions get entries as after a hand-off, with numbers that do not move. The source port towards the pod comes
 * with the slot: the agent fills a queue of slots, each of which stands for one port, so that no port is used twice.
 * Options stay as they are, but for the MSS.
 */
#ifndef LLMD_BPF_AFFINITY_H
#define LLMD_BPF_AFFINITY_H

#include <bpf/bpf_core_read.h>

#include "hook.h"
#include "lib/slot.h"

static __always_inline struct endpoint_entry *affinity_endpoint(const struct packet *packet, const struct front *front,
	const struct control *settings, __u32 *index)
{
	struct affinity_key key = { .front_port = front->port };
	struct affinity_entry *entry;
	struct endpoint_entry *endpoint;
	__u64 now_ns = bpf_ktime_get_ns();

	address_copy(key.client, packet->key.saddr);
	address_copy(key.front, front->addr);
	entry = bpf_map_lookup_elem(&affinity, &key);
	if (!entry)
		return NULL;
	if (entry->expires_ns < now_ns) {
		hook_count(REASON_AFFINITY_EXPIRED);
		bpf_map_delete_elem(&affinity, &key);
		return NULL;
	}
	*index = entry->endpoint;
	endpoint = bpf_map_lookup_elem(&endpoints, index);
	if (!endpoint || endpoint->state != ENDPOINT_MAP_READY || endpoint->generation != entry->generation || !endpoint->ifindex) {
		hook_count(REASON_AFFINITY_POD_GONE);
		bpf_map_delete_elem(&affinity, &key);
		return NULL;
	}
	/* Addresses are exchanged, not headers. */
	if (address_is_ipv6(endpoint->addr) != packet->ipv6)
		return NULL;
	entry->expires_ns = now_ns + settings->affinity_ttl_ns;
	entry->uses++;
	return endpoint;
}

static __always_inline void affinity_fill(struct slot *slot, const struct packet *packet, const struct flow *up, __u32 index,
	const struct endpoint_entry *endpoint)
{
	slot->flags = SLOT_AFFINITY | SLOT_ACKED;
	slot->begun_ns = bpf_ktime_get_ns();
	slot->last_ns = slot->begun_ns;
	slot->pod_ack = packet->seq;
	slot->client_next = packet_end(packet);
	slot->client_isn = packet->seq;
	slot->request_end = packet->seq + 1;
	slot->pod_start = 0;
	slot->pod_next = 0;
	slot->endpoint = index;
	slot->generation = endpoint->generation;
	slot->client = packet->key;
	flow_key_reverse(&slot->pod, &up->to);
}

/* Entries of both directions. Return: whether they are there; else nothing has changed. */
static __always_inline bool affinity_insert(struct __sk_buff *skb, const struct packet *packet, struct flow *up,
	const struct endpoint_entry *endpoint, __u32 index)
{
	struct slot *slot = bpf_map_lookup_elem(&slots, &up->slot);
	struct flow down = { .slot = up->slot, .ifindex = skb->ifindex, .from_pod = 1, .sack = 1 };

	if (!slot)
		return false;
	up->gen_head = slot->gen;
	up->gen_tail = slot->gen;
	down.gen_head = slot->gen;
	down.gen_tail = slot->gen;
	flow_key_reverse(&down.to, &packet->key);
	affinity_fill(slot, packet, up, index, endpoint);
	if (bpf_map_update_elem(&flows, &slot->pod, &down, BPF_NOEXIST))
		return false;
	if (!bpf_map_update_elem(&flows, &slot->client, up, BPF_NOEXIST)) {
		slot->state = SLOT_HANDED;
		return true;
	}
	bpf_map_delete_elem(&flows, &slot->pod);
	return false;
}

/*
 * A socket of the node has these very addresses, if only in TIME_WAIT: it is for that one to judge the SYN, and the agent could
 * not end a connection in whose place there is another one.
 */
static __always_inline bool affinity_is_taken(struct __sk_buff *skb, const struct packet *packet)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	bool taken;

	if (packet->ipv6) {
		address_copy(tuple.ipv6.saddr, packet->key.saddr);
		address_copy(tuple.ipv6.daddr, packet->key.daddr);
		tuple.ipv6.sport = packet->key.sport;
		tuple.ipv6.dport = packet->key.dport;
	} else {
		tuple.ipv4.saddr = packet->key.saddr[3];
		tuple.ipv4.daddr = packet->key.daddr[3];
		tuple.ipv4.sport = packet->key.sport;
		tuple.ipv4.dport = packet->key.dport;
	}
	socket = bpf_skc_lookup_tcp(skb, &tuple, packet->ipv6 ? sizeof(tuple.ipv6) : sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return false;
	taken = socket->state != BPF_TCP_LISTEN;
	bpf_sk_release(socket);
	return taken;
}

/** affinity_open() - Return: whether the SYN's connection has entries now; else the agent takes it. */
static __always_inline bool affinity_open(struct __sk_buff *skb, const struct packet *packet, const struct front *front,
	const struct control *settings)
{
	__u32 index = 0, number = 0;
	struct endpoint_entry *endpoint = affinity_endpoint(packet, front, settings, &index);
	struct flow up = {};

	if (!endpoint)
		return false;
	if (affinity_is_taken(skb, packet)) {
		hook_count(REASON_AFFINITY_TAKEN);
		return false;
	}
	if (bpf_map_pop_elem(&affinity_slots, &number)) {
		hook_count(REASON_AFFINITY_FULL);
		return false;
	}
	up.slot = number;
	up.sack = 1;
	address_copy(up.to.saddr, endpoint->local);
	address_copy(up.to.daddr, endpoint->addr);
	up.to.sport = bpf_htons((__u16)(settings->affinity_port_low + number - settings->affinity_slot));
	up.to.dport = endpoint->port;
	if (affinity_insert(skb, packet, &up, endpoint, index))
		return true;
	bpf_map_push_elem(&affinity_slots, &number, BPF_EXIST);
	hook_count(REASON_AFFINITY_FULL);
	return false;
}

/* What the device carries that the client's packets come in by; 0: not known (before Linux 5.12). */
static __always_inline __u32 affinity_client_mss(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 headers = (packet->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + sizeof(struct tcphdr), mtu = 0;

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_check_mtu))
		bpf_check_mtu(skb, skb->ifindex, &mtu, 0, 0);
	return mtu > headers ? mtu - headers : 0;
}

/**
 * affinity_clamp() - the MSS that a SYN of a straight connection tells the pod, or a SYN-ACK the client: what is redirected
 * must fit on the other device, since nobody would hear that it does not. @index: of the endpoint.
 * Return: whether the packet is as it should be.
 */
SUBPROGRAM bool affinity_clamp(struct __sk_buff *skb, const struct packet *packet, __u32 index, bool from_pod)
{
	const struct endpoint_entry *endpoint = bpf_map_lookup_elem(&endpoints, &index);
	struct tcp_options from = {}, to;
	__u32 mss_max;

	if (!packet || !packet->options)
		return true;
	mss_max = from_pod ? (endpoint ? endpoint->mss : 0) : affinity_client_mss(skb, packet);
	if (!mss_max)
		return true;
	if (!hook_load_options(skb, packet, &from))
		return false;
	to = from;
	return !syn_clamp(&to, packet->options, mss_max) || hook_store_options(skb, packet, &from, &to);
}

#endif
