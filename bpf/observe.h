/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is measured of a handed-over connection, and what the agent is told. */
#ifndef LLMD_BPF_OBSERVE_H
#define LLMD_BPF_OBSERVE_H

#include "hook.h"
#include "lib/answer.h"
#include "lib/slot.h"

/*
 * @wake: the agent is waiting for it; the others it takes when it next looks. Forced: by itself the kernel wakes only for a
 * record with nothing unread before it, and the others lie there.
 */
static __always_inline void tell(const struct slot *slot, __u32 index, enum event_type type, __u64 now_ns, bool wake)
{
	struct event_record record = { .type = type, .slot = index, .gen = slot->gen, .status = slot->status, .ns = now_ns };

	bpf_ringbuf_output(&events, &record, sizeof(record), wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

static __always_inline __u32 read_status(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 offset = packet->l4 + sizeof(struct tcphdr) + packet->options;
	__u8 line[STATUS_LINE_MIN];

	if (packet->len < sizeof(line) || bpf_skb_load_bytes(skb, offset, line, sizeof(line)))
		return 0;
	return answer_status(line);
}

/* Engines send the head of a stream before they have computed anything: what is more than a head is content. */
static __always_inline bool is_head_only(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 end = packet->l4 + sizeof(struct tcphdr) + packet->options + packet->len;
	__u32 tail = 0;

	return packet->len >= 4 && !bpf_skb_load_bytes(skb, end - 4, &tail, 4) && tail == bpf_htonl(HEAD_END);
}

static __always_inline void observe_content(struct endpoint_stats *stats, struct slot *slot, __u32 index, __u64 now_ns)
{
	__u64 ttft_ns = now_ns - slot->begun_ns;
	__u32 bucket = histogram_bucket(ttft_ns);

	slot->first_ns = now_ns;
	stats->ttft_sum_ns += ttft_ns;
	stats->ttft[bucket]++;
	tell(slot, index, EVENT_FIRST, now_ns, false);
}

static __always_inline void observe_gap(struct endpoint_stats *stats, __u64 gap_ns)
{
	__u32 bucket = histogram_bucket(gap_ns);

	stats->itl_sum_ns += gap_ns;
	stats->itl[bucket]++;
}

static __always_inline void observe_payload(struct __sk_buff *skb, struct endpoint_stats *stats, struct slot *slot,
	const struct packet *packet, __u32 index)
{
	__u64 now_ns = bpf_ktime_get_ns();
	bool is_first = !(slot->flags & SLOT_HEAD);

	if (is_first) {
		slot->status = (__u16)read_status(skb, packet);
		slot_raise(slot, SLOT_HEAD);
	}
	if (!(slot->flags & SLOT_ANSWERING))
		slot_raise(slot, SLOT_ANSWERING);
	if (slot->flags & SLOT_CONTENT)
		observe_gap(stats, now_ns - slot->last_data_ns);
	else if (!(is_first && is_head_only(skb, packet)) && slot_raise(slot, SLOT_CONTENT))
		observe_content(stats, slot, index, now_ns);
	slot->last_data_ns = now_ns;
}

static __always_inline void observe_down(struct __sk_buff *skb, struct endpoint_stats *stats, struct slot *slot,
	const struct packet *packet, __u32 index)
{
	stats->flows += !slot->packets_down;
	slot->packets_down++;
	slot->bytes_down += packet->len;
	stats->packets_down++;
	stats->bytes_down += packet->len;
	if (packet->len)
		observe_payload(skb, stats, slot, packet, index);
}

static __always_inline void observe_up(struct endpoint_stats *stats, struct slot *slot, const struct packet *packet)
{
	slot->packets_up++;
	slot->bytes_up += packet->len;
	stats->packets_up++;
	stats->bytes_up += packet->len;
}

/* Return: whether the connection is over, at this very packet. */
static __always_inline bool note_end(struct slot *slot, __u32 index)
{
	if (!slot_is_over(slot) || !slot_raise(slot, SLOT_ENDED))
		return false;
	tell(slot, index, EVENT_END, slot->last_ns, false);
	return true;
}

/** observe() - one packet of a handed-over connection, after its slot has been brought up to date. Return: 0. */
SUBPROGRAM int observe(struct __sk_buff *skb, struct slot *slot, const struct packet *packet, __u32 index, bool from_pod)
{
	struct endpoint_stats *stats;
	__u32 endpoint;

	if (!slot || !packet)
		return 0;
	endpoint = slot->endpoint;
	stats = bpf_map_lookup_elem(&endpoint_stats, &endpoint);
	slot->last_ns = bpf_ktime_get_coarse_ns();
	if (!stats)
		return 0;
	if (from_pod)
		observe_down(skb, stats, slot, packet, index);
	else
		observe_up(stats, slot, packet);
	if (from_pod && !(slot->flags & SLOT_ACKED) && slot_has_acked(slot) && slot_raise(slot, SLOT_ACKED))
		tell(slot, index, EVENT_ACKED, slot->last_ns, true);
	if (from_pod && slot->flags & SLOT_POD_FIN && slot_raise(slot, SLOT_ANSWERED))
		tell(slot, index, EVENT_ANSWERED, slot->last_ns, false);
	if (note_end(slot, index))
		stats->resets += slot->flags & SLOT_RESET ? 1 : 0;
	return 0;
}

#endif
