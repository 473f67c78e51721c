/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The life of a handed-over connection, as its packets show it.
 *
 * How it works
 *
 * The agent inserts both entries, then sends the last bytes of the request on its own connection to the pod. Until the pod
 * has acknowledged them (agent_end), that connection's socket needs the pure ACKs, so they are passed to it. The ACK that
 * covers everything goes to the client: it stands in for the one that the agent's other socket, muted since the insert,
 * never sent. Everything else of the pod goes to the client from the insert on, but for a FIN or RST of a pod that has said
 * nothing yet (it closed an idle connection just when it was used): the client has seen nothing, and the agent can try
 * another pod.
 *
 * A side's FIN counts as acknowledged when the other side's ACK covers it; both done, or a valid RST (RFC 5961: exactly
 * the expected number; or that of the sender's own FIN), end the connection. Packets of both directions may be on different
 * CPUs at the same time: flags change atomically, and numbers only grow, by compare and exchange.
 *
 * Anybody may send packets with the client's addresses and ports, and a stream must not end by what he makes up. What he says can at
 * most raise @client_next, with luck. So what ends a client's side is held against @pod_ack: only the pod tells that.
 */
#ifndef LLMD_BPF_SLOT_H
#define LLMD_BPF_SLOT_H

#include "packet.h"

/*
 * SLOT_WINDOW: more than is under way at a time on any connection here (net.ipv4.tcp_rmem lets windows grow to 32 MiB in recent kernels).
 * SLOT_UNSENT: the same of what the agent may still have.
 */
enum { SLOT_GROW_TRIES = 4, SLOT_WINDOW = 1 << 26, SLOT_UNSENT = 1 << 30 };

/* Two CPUs at most compete for a number: one direction's packets come in order on one CPU but for reordering. */
static __always_inline void slot_grow(__u32 *number, __u32 value)
{
	for (int i = 0; i < SLOT_GROW_TRIES; i++) {
		__u32 old = *(volatile __u32 *)number;

		if (!seq_after(value, old) || __sync_val_compare_and_swap(number, old, value) == old)
			return;
	}
}

/** slot_raise() - sets a flag. Return: whether it was not set before. */
static __always_inline bool slot_raise(struct slot *slot, __u32 flag)
{
	if (slot->flags & flag)
		return false;
	return !(__sync_fetch_and_or(&slot->flags, flag) & flag);
}

static __always_inline bool slot_is_over(const struct slot *slot)
{
	const __u32 both = SLOT_CLIENT_FIN_ACKED | SLOT_POD_FIN_ACKED;

	return (slot->flags & both) == both || slot->flags & (SLOT_RESET | SLOT_ORPHAN);
}

/** slot_is_quiet() - the client may use its address again: the pod has its FIN, and has sent its own. */
static __always_inline bool slot_is_quiet(const struct slot *slot)
{
	const __u32 both = SLOT_CLIENT_FIN_ACKED | SLOT_POD_FIN;

	return (slot->flags & both) == both || slot->flags & SLOT_RESET;
}

static __always_inline bool slot_has_acked(const struct slot *slot)
{
	return slot->flags & SLOT_ACKED || seq_at_or_after(slot->pod_ack, slot->agent_end);
}

/* A valid one, of the side that @flags name. */
static __always_inline void slot_note_reset(struct slot *slot, __u32 flags)
{
	if (slot->flags & SLOT_DOUBTED)
		__sync_fetch_and_and(&slot->flags, ~(__u32)SLOT_DOUBTED);
	slot_raise(slot, flags);
}

/*
 * Any other packet. Who goes on behind an RST may have refused it: forged, or overtaken by a FIN that its sender had sent
 * before. Whether that is so the agent finds by the time; and what the next valid RST ends has ended all the same.
 */
static __always_inline void slot_note_life(struct slot *slot)
{
	if (slot->flags & SLOT_RESET)
		slot_raise(slot, SLOT_DOUBTED);
}

/*
 * Whether a packet may be its sender's, as far as both of its numbers tell (RFC 5961, 5): else it is sent on, for the receiver
 * to refuse, and changes nothing here.
 * @next, @peer_next: the end of what the sender and the other side have sent. @behind: how far @ack may be behind; the one
 * more before is the FIN of an agent that has died.
 */
static __always_inline bool slot_is_plausible(const struct packet *packet, __u32 end, __u32 next, __u32 ack, __u32 peer_next, __u32 behind)
{
	return packet->flags & TCP_ACK && !seq_after(end, next + SLOT_WINDOW) && !seq_after(next, end + SLOT_WINDOW) &&
	       !seq_after(ack, peer_next + 1) && !seq_after(peer_next, ack + behind);
}

static __always_inline void slot_note_client_ack(struct slot *slot, __u32 ack)
{
	if (seq_after(ack, slot->client_ack))
		slot->client_ack = ack;
	if (slot->flags & SLOT_POD_FIN && seq_at_or_after(ack, slot->pod_fin))
		slot_raise(slot, SLOT_POD_FIN_ACKED);
}

/* A payload at or past the request's end, after the pod has answered: another request on a pinned connection. */
static __always_inline void slot_note_request(struct slot *slot, const struct packet *packet)
{
	if (seq_at_or_after(packet->seq, slot->request_end) && slot->flags & SLOT_ANSWERING) {
		__sync_fetch_and_and(&slot->flags, ~(__u32)SLOT_ANSWERING);
		slot->requests++;
	}
}

/* Nobody but who has seen the pod's SYN-ACK can acknowledge it. */
static __always_inline void slot_note_opened(struct slot *slot, const struct packet *packet)
{
	if (slot->flags & SLOT_AFFINITY && slot->pod_start && packet->flags & TCP_ACK && packet->ack == slot->pod_start)
		slot_raise(slot, SLOT_OPENED);
}

static __always_inline enum reason slot_client_syn(struct slot *slot, const struct packet *packet)
{
	if (packet->seq == slot->client_isn)
		return slot->flags & SLOT_AFFINITY ? REASON_NONE : REASON_SYN_REPEATED;
	return slot_is_quiet(slot) ? REASON_SYN_REUSED : REASON_SYN_LIVE;
}

/*
 * Who has sent FIN and is gone answers what was under way with an RST whose number is the one that was acknowledged there, that of
 * the FIN. Linux takes it. Whoever refuses it goes on, see slot_note_life().
 *
 * At the end of what the client has sent, but not of what the pod has acknowledged, it may be true: data of the client was under way.
 * Or whoever sent it has sent that data, too. The silence that follows a true one will tell.
 */
static __always_inline enum reason slot_client_reset(struct slot *slot, __u32 seq)
{
	if (seq == slot->pod_ack || (slot->flags & SLOT_CLIENT_FIN_ACKED && seq + 1 == slot->pod_ack))
		slot_note_reset(slot, SLOT_RESET);
	else if (seq == slot->client_next)
		slot_raise(slot, SLOT_CLIENT_LEFT);
	return REASON_NONE;
}

/* A true one is behind what the pod has acknowledged, until that acknowledges it. */
static __always_inline void slot_note_client_fin(struct slot *slot, __u32 end)
{
	if (!seq_after(end, slot->pod_ack))
		return;
	slot->client_fin = end;
	slot_raise(slot, SLOT_CLIENT_FIN);
}

/**
 * slot_from_client() - @flow: the entry of this direction.
 * Return: REASON_NONE or REASON_SYN_LIVE: translate; REASON_SYN_REUSED: the entry is in the way; else what to do instead.
 */
SUBPROGRAM enum reason slot_from_client(struct slot *slot, const struct packet *packet, const struct flow *flow)
{
	__u32 end, ack;

	if (!slot || !packet || !flow)
		return REASON_MALFORMED;
	end = packet_end(packet) + flow->seq_add;
	ack = packet->ack - flow->ack_sub;
	if (packet->flags & TCP_SYN)
		return slot_client_syn(slot, packet);
	if (packet->flags & TCP_RST)
		return slot_client_reset(slot, packet->seq + flow->seq_add);
	slot_note_life(slot);
	slot_note_opened(slot, packet);
	if (!slot_is_plausible(packet, end, slot->client_next, ack, slot->pod_next, SLOT_WINDOW))
		return REASON_NONE;
	slot_note_client_ack(slot, ack);
	if (packet->len)
		slot_note_request(slot, packet);
	slot_grow(&slot->client_next, end);
	if (packet->flags & TCP_FIN)
		slot_note_client_fin(slot, end);
	return REASON_NONE;
}

/** slot_is_repeated() - the pod has sent it before, or asks whether the client is still there. Before slot_from_pod(). */
static __always_inline bool slot_is_repeated(const struct slot *slot, const struct packet *packet)
{
	return seq_after(slot->pod_next, packet->seq) && !seq_after(packet_end(packet), slot->pod_next);
}

static __always_inline void slot_note_pod_ack(struct slot *slot, __u32 ack)
{
	slot_grow(&slot->pod_ack, ack);
	if (slot->flags & SLOT_CLIENT_FIN && seq_at_or_after(ack, slot->client_fin))
		slot_raise(slot, SLOT_CLIENT_FIN_ACKED);
}

/* Of a straight connection, which the programs see from its SYN on: an answer to that, not a stray of an earlier one. */
static __always_inline bool slot_syn_is_acked(const struct slot *slot, const struct packet *packet)
{
	return (slot->flags & (SLOT_AFFINITY | SLOT_OPENED)) == SLOT_AFFINITY && packet->flags & TCP_ACK &&
	       seq_after(packet->ack, slot->client_isn) && !seq_after(packet->ack, slot->client_next);
}

/*
 * The pod's SYN-ACK: a copy is for the agent's socket to answer, and stale once that is gone. On a straight connection it is
 * what the client waits for, and the first that is known of the pod's numbers: before it there is nothing to compare with. There may
 * be several with different numbers (SYN cookies), until the client has taken one.
 */
static __always_inline enum reason slot_pod_synack(struct slot *slot, const struct packet *packet)
{
	if (slot_syn_is_acked(slot, packet) && slot->pod_start != packet->seq + 1) {
		slot->pod_start = packet->seq + 1;
		slot->client_start = packet->seq + 1;
		slot->client_ack = packet->seq + 1;
		slot->pod_next = packet->seq + 1;
		slot_grow(&slot->pod_ack, packet->ack);
	}
	if (slot->flags & SLOT_AFFINITY)
		return REASON_NONE;
	return slot_has_acked(slot) ? REASON_SYNACK_STALE : REASON_ACK_TO_AGENT;
}

/* The request is not acknowledged, and nothing has come back: the client knows nothing of this pod yet. */
static __always_inline bool slot_pod_gives_up(const struct slot *slot, const struct packet *packet)
{
	if (packet->flags & TCP_ACK && seq_at_or_after(packet->ack, slot->agent_end))
		return false;
	return packet->flags & (TCP_RST | TCP_FIN) && !packet->len && !slot_has_acked(slot) && slot->pod_next == slot->pod_start;
}

/* While a SYN is unanswered the pod's number means nothing, and only the acknowledgment tells (RFC 9293, 3.10.7.3). */
static __always_inline enum reason slot_pod_reset(struct slot *slot, const struct packet *packet)
{
	bool opening = slot->flags & SLOT_AFFINITY && !slot->pod_start;

	if (opening ? slot_syn_is_acked(slot, packet) : packet->seq == slot->pod_next ||
		    (slot->flags & SLOT_POD_FIN && packet->seq + 1 == slot->pod_fin))
		slot_note_reset(slot, SLOT_RESET | SLOT_POD_RESET);
	return REASON_NONE;
}

/** slot_from_pod() - Return: REASON_NONE: translate; else what to do instead. */
SUBPROGRAM enum reason slot_from_pod(struct slot *slot, const struct packet *packet)
{
	bool acked, is_fin;

	if (!slot || !packet)
		return REASON_MALFORMED;
	acked = slot_has_acked(slot);
	if (slot->flags & SLOT_ORPHAN)
		return REASON_ORPHAN;
	if (packet->flags & TCP_SYN)
		return slot_pod_synack(slot, packet);
	if (slot_pod_gives_up(slot, packet))
		return REASON_CLOSE_TO_AGENT;
	if (packet->flags & TCP_RST)
		return slot_pod_reset(slot, packet);
	slot_note_life(slot);
	if (!slot_is_plausible(packet, packet_end(packet), slot->pod_next, packet->ack, slot->client_next, acked ? SLOT_WINDOW : SLOT_UNSENT))
		return REASON_NONE;
	is_fin = packet->flags & TCP_FIN && seq_at_or_after(packet_end(packet), slot->pod_next);
	slot_note_pod_ack(slot, packet->ack);
	slot_grow(&slot->pod_next, packet_end(packet));
	if (is_fin) {
		slot->pod_fin = packet_end(packet);
		slot_raise(slot, SLOT_POD_FIN);
	} else if (!packet->len && !acked && !seq_at_or_after(packet->ack, slot->agent_end)) {
		return REASON_ACK_TO_AGENT;
	}
	return REASON_NONE;
}

/*
 * A process that dies ends its sockets: the one towards the client with RST and ACK at the number that it stood at. (What
 * the stack says to packets without a socket has no ACK, or the number 0.) Return: REASON_NONE: to be heard.
 */
static __always_inline enum reason slot_from_agent_to_client(struct slot *slot, const struct packet *packet)
{
	if ((packet->flags & (TCP_RST | TCP_ACK)) != (TCP_RST | TCP_ACK) || packet->seq != slot->client_start || slot_has_acked(slot) ||
		slot->pod_next != slot->pod_start)
		return REASON_MUTED_CLIENT_SIDE;
	slot_raise(slot, SLOT_RESET);
	return REASON_NONE;
}

/* The FIN of a process that has died before it had sent the whole request. */
static __always_inline bool slot_is_abandoned(struct slot *slot, const struct packet *packet)
{
	return !packet->len && seq_after(slot->agent_end, packet->seq) && slot->pod_next == slot->pod_start &&
	       slot_raise(slot, SLOT_RESET);
}

/**
 * slot_from_agent_to_pod() - what the agent's own socket towards the pod may say once the entries are there.
 * @strip_fin: its FIN is not the client's, but that of a process that has died: to be taken off.
 * Return: REASON_ABANDONED: the client is to be reset in its place; when the FIN comes again, the pod may have it.
 */
static __always_inline enum reason slot_from_agent_to_pod(struct slot *slot, const struct packet *packet, bool *strip_fin)
{
	bool is_fin = packet->flags & TCP_FIN && !(slot->flags & (SLOT_AGENT_FIN | SLOT_RESET));

	if (is_fin && !slot_has_acked(slot) && slot_is_abandoned(slot, packet))
		return REASON_ABANDONED;
	*strip_fin = is_fin && packet->len;
	if (slot_has_acked(slot) || packet->flags & TCP_RST || (is_fin && !packet->len))
		return REASON_MUTED_POD_SIDE;
	return REASON_NONE;
}

#endif
