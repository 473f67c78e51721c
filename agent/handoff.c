// SPDX-License-Identifier: Apache-2.0
/*
 * The hand-off: see handoff.h.
 *
 * How it works
 *
 * A is the client's connection, B the pod's. Both are open, and the request, or its last bytes, is in memory here:
 *
 *   1 learn both connections' numbers (handoff_prepare.c). What the client will send next on A continues B's stream behind the request, so
 *     seq_add = B's next + bytes of the request - A's next; the answer continues A's: ack_sub = A's next - B's expected.
 *   2 insert both entries. From here on the programs translate, and A is mute (bpf/egress.bpf.c).
 *   3 read A dry: what it has acknowledged the client will not repeat. There should be nothing, or a FIN. Then close A
 *     without a packet and keep its numbers: a client that ends and dials again from the same port must not meet it.
 *   4 send the request on B. Its ACKs come to B, everything else of the pod goes to the client.
 *   5 the pod has acknowledged all (EVENT_ACKED): close B without a packet. Nobody is needed any more.
 *
 * Until 5 nothing is lost by going back: the entries are removed, A is made anew from its numbers, and the request is still
 * at hand for another pod (handoff_failed()). What a program has not seen open (no handshake
 * recorded on the way in and out), or what differs in family, segment size or timing, is relayed.
 */
#include "agent/handoff.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "agent/affinity.h"
#include "agent/agent.h"
#include "agent/client.h"
#include "agent/conntrack.h"
#include "agent/datapath.h"
#include "agent/devices.h"
#include "agent/exchange.h"
#include "agent/flow_table.h"
#include "agent/handoff_prepare.h"
#include "agent/upstream.h"

enum { MSS_LEAST = 1220, LARGE_REQUEST = 32 * 1024, UNSEEN_PAUSE_MS = 1000 };

void handoff_stats_init(struct handoff_stats *stats)
{
	static const double bounds[] = { 10e-6, 20e-6, 30e-6, 40e-6, 60e-6, 80e-6, 120e-6, 200e-6, 500e-6, 1e-3, 5e-3, 20e-3, 0.1 };

	memset(stats, 0, sizeof(*stats));
	histogram_init(&stats->duration, bounds, sizeof(bounds) / sizeof(bounds[0]));
}

/* ---- the switch ---- */

static struct slot *slot_of(const struct exchange *exchange)
{
	return flow_slot(datapath_flows(exchange->client->agent->datapath), exchange->handoff.flow);
}

static void note_client_fin(struct exchange *exchange)
{
	struct slot *slot = slot_of(exchange);

	exchange->client->eof = true;
	exchange->handoff.client.numbers.read_seq++;
	slot->agent_end++;
	slot->client_fin = slot->agent_end;
	slot->client_next = slot->agent_end;
	__atomic_fetch_or(&slot->flags, SLOT_AGENT_FIN | SLOT_CLIENT_FIN, __ATOMIC_SEQ_CST);
}

/* What A has acknowledged is for B to say: it joins the request. */
static int read_dry(struct exchange *exchange)
{
	struct client *client = exchange->client;
	struct slot *slot = slot_of(exchange);

	for (;;) {
		ssize_t n = recv(client->peer.fd, client->agent->scratch, AGENT_SCRATCH, MSG_DONTWAIT);

		if (n == 0)
			note_client_fin(exchange);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n == 0 || errno == EAGAIN ? 0 : -errno;
		if (buffer_append(&client->in, client->agent->scratch, (size_t)n, client_in_max(client)))
			return -ENOBUFS;
		exchange->kept += (size_t)n;
		exchange->handoff.client.numbers.read_seq += (uint32_t)n;
		slot->agent_end += (uint32_t)n;
		slot->client_next = slot->agent_end;
	}
}

/* Bytes (>0) or an end (0, -errno) that came before the entries were there; -EAGAIN: nothing. */
static int pod_has_spoken(const struct exchange *exchange)
{
	char byte;
	ssize_t n = recv(exchange->upstream->peer.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	return n < 0 ? -errno : (int)n;
}

/*
 * A's last ACK may be waiting for company, and will not be sent once A is mute. The pod's, which stands in for it, comes
 * when the pod has everything: for a large request later than the client's kernel likes to wait before it repeats itself.
 */
static void acknowledge_now(const struct exchange *exchange)
{
	const int on = 1;

	if (exchange->kept > LARGE_REQUEST || exchange->handoff.sent_before != exchange->bytes_up)
		setsockopt(exchange->client->peer.fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
}

/* From here on A is a set of numbers: a client that ends and comes again from the same port must not meet it. */
static void leave_client(struct exchange *exchange, const struct flow_spec *spec)
{
	struct tcp_frozen *frozen = &exchange->handoff.client;
	struct client *client = exchange->client;
	struct address own;

	frozen->arriving = spec->client;
	if (!peer_own_address(&client->peer, &own))
		handoff_key_make(&frozen->arriving, &client->address, &own);
	tcp_freeze(peer_release(&client->peer), frozen);
}

/* What could not be completed: both connections are as they were. @result: why. */
static enum handoff_result take_back(struct exchange *exchange, enum handoff_result result)
{
	bool unknown = flow_undo(datapath_flows(exchange->client->agent->datapath), exchange->handoff.flow);

	return unknown ? result : HANDOFF_CUT;
}

static enum handoff_result insert(struct exchange *exchange, const struct flow_spec *spec, const struct tcp_numbers *client)
{
	struct agent *agent = exchange->client->agent;
	int err;

	acknowledge_now(exchange);
	exchange->handoff.client.numbers = *client;
	err = flow_open(datapath_flows(agent->datapath), spec, exchange, &exchange->handoff.flow);
	if (err)
		return err == -ENOSPC ? HANDOFF_TABLE_FULL : HANDOFF_KERNEL;
	histogram_observe(&agent->handoffs.duration, (double)(agent_now_us() - exchange->handoff.begun_us) / 1e6);
	err = pod_has_spoken(exchange);
	if (err != -EAGAIN)
		return take_back(exchange, err > 0 ? HANDOFF_POD_SPOKE : HANDOFF_POD_CLOSED);
	if (read_dry(exchange))
		return take_back(exchange, HANDOFF_KERNEL);
	leave_client(exchange, spec);
	return HANDOFF_HANDED;
}

static void enter(struct exchange *exchange)
{
	exchange_set_state(exchange, EXCHANGE_HANDOFF);
	exchange->handoff.seen_ack = exchange->handoff.pod.write_seq;
	client_arm(exchange->client, exchange->client->agent->timeouts.connect);
}

/* The client was told that it may send more at once than the pod takes: this request is relayed, later clients are told less. */
static void note_mss(const struct exchange *exchange)
{
	const struct tcp_numbers *pod = &exchange->handoff.pod;

	if (pod->peer_mss >= MSS_LEAST)
		devices_note_mss(datapath_devices(exchange->client->agent->datapath), exchange->upstream->endpoint, (uint16_t)pod->peer_mss);
}

static int relayed(struct exchange *exchange, enum handoff_result why)
{
	exchange->client->agent->handoffs.result[why]++;
	if (why == HANDOFF_MSS)
		note_mss(exchange);
	return why == HANDOFF_CUT ? -EPIPE : why == HANDOFF_POD_CLOSED ? -ECONNRESET : -ENOTSUP;
}

/* A pod connection that was told a smaller segment size would do; never so small that all suffer for one client. */
static bool redial(struct exchange *exchange, const struct tcp_numbers *client)
{
	struct agent *agent = exchange->client->agent;

	if (exchange->handoff.redialled || client->peer_mss < MSS_LEAST ||
		exchange->handoff.pod.own_mss <= client->peer_mss)
		return false;
	exchange->handoff.redialled = true;
	upstream_pool_limit_mss(agent->upstreams, client->peer_mss);
	return true;
}

/* So that the client's next request is routed on its own. */
static void end_with_answer(struct exchange *exchange)
{
	exchange_close_head(exchange, exchange->client->agent->config.keepalive == KEEPALIVE_CLOSE);
}

/*
 * Kept connections may be from before the programs were attached: then a fresh one will do, and the others are of no use. If
 * that is not seen either (address translation on the way), it is left alone for a while.
 */
static bool redial_unseen(struct exchange *exchange)
{
	struct agent *agent = exchange->client->agent;
	uint32_t endpoint = exchange->upstream->endpoint;
	uint64_t *unseen_ms = &agent->handoffs.unseen_ms[endpoint], now_ms = agent_now_ms();

	if (exchange->handoff.redialled)
		*unseen_ms = now_ms;
	if (*unseen_ms && now_ms - *unseen_ms < UNSEEN_PAUSE_MS)
		return false;
	exchange->handoff.redialled = true;
	upstream_pool_forget(agent->upstreams, endpoint);
	return true;
}

int handoff_begin(struct exchange *exchange)
{
	enum handoff_result result = handoff_is_wanted(exchange);
	struct flow_spec spec = { 0 };
	struct tcp_numbers client;

	if (result != HANDOFF_HANDED)
		return relayed(exchange, result);
	exchange->handoff.begun_us = agent_now_us();
	result = handoff_prepare(exchange, &spec, &client);
	if (result == HANDOFF_MSS && redial(exchange, &client))
		return -EAGAIN;
	if (result == HANDOFF_UNSEEN_POD && redial_unseen(exchange))
		return -EAGAIN;
	if (result != HANDOFF_HANDED)
		return relayed(exchange, result);
	end_with_answer(exchange);
	handoff_fill_spec(exchange, &client, (uint32_t)(exchange->head_len + exchange->kept), &spec);
	result = insert(exchange, &spec, &client);
	if (result != HANDOFF_HANDED) {
		exchange_close_head(exchange, false);
		return relayed(exchange, result);
	}
	enter(exchange);
	return 0;
}

void handoff_plan(struct exchange *exchange)
{
	enum handoff_result result = handoff_is_wanted(exchange);
	struct flow_spec spec = { 0 };
	struct tcp_numbers client;

	if (result == HANDOFF_HANDED)
		result = handoff_prepare(exchange, &spec, &client);
	exchange->handoff.planned = result == HANDOFF_HANDED;
	if (exchange->handoff.planned)
		end_with_answer(exchange);
	else
		relayed(exchange, result);
}

int handoff_complete(struct exchange *exchange)
{
	struct handoff *handoff = &exchange->handoff;
	struct flow_spec spec = { 0 };
	struct tcp_numbers client;
	enum handoff_result result;

	handoff->planned = false;
	handoff->begun_us = agent_now_us();
	result = handoff_prepare_rest(exchange, &spec, &client);
	if (result == HANDOFF_HANDED) {
		handoff_fill_spec(exchange, &client, (uint32_t)(exchange->bytes_up - handoff->sent_before + exchange->kept), &spec);
		result = insert(exchange, &spec, &client);
	}
	if (result != HANDOFF_HANDED)
		return relayed(exchange, result);
	enter(exchange);
	return 0;
}

/* ---- afterwards ---- */

void handoff_sent(struct exchange *exchange)
{
	if (slot_of(exchange)->flags & SLOT_AGENT_FIN)
		shutdown(exchange->upstream->peer.fd, SHUT_WR);
	__atomic_store_n(&slot_of(exchange)->state, SLOT_HANDED, __ATOMIC_RELEASE);
	/* While the pod is at work. */
	upstream_pool_spare(exchange->client->agent->upstreams, exchange->upstream->endpoint);
}

/* The client may have ended by now, and come again from the same port: then what is tracked is not this one's. */
static void forget_client(struct conntrack *conntrack, struct slot *slot)
{
	uint32_t flags = __atomic_fetch_or(&slot->flags, SLOT_FORGETTING, __ATOMIC_SEQ_CST);

	if (!(flags & SLOT_ORPHAN))
		conntrack_forget(conntrack, &slot->client);
	__atomic_fetch_and(&slot->flags, ~(uint32_t)SLOT_FORGETTING, __ATOMIC_SEQ_CST);
}

static void forget_tracking(struct agent *agent, uint32_t index, bool tracked)
{
	struct conntrack *conntrack = datapath_conntrack(agent->datapath);
	struct slot *slot = flow_slot(datapath_flows(agent->datapath), index);
	struct flow_key to_pod = { .sport = slot->pod.dport, .dport = slot->pod.sport };

	if (!tracked)
		return;
	memcpy(to_pod.saddr, slot->pod.daddr, sizeof(to_pod.saddr));
	memcpy(to_pod.daddr, slot->pod.saddr, sizeof(to_pod.daddr));
	conntrack_forget(conntrack, &to_pod);
	forget_client(conntrack, slot);
}

static void note_affinity(const struct exchange *exchange)
{
	const struct flow_key *key = &slot_of(exchange)->client;
	struct address front = { .port_be = key->dport };

	memcpy(front.ip, key->daddr, sizeof(front.ip));
	affinity_note(exchange->client->agent, &exchange->client->address, &front, exchange->upstream->endpoint);
}

void handoff_leave(struct exchange *exchange)
{
	struct client *client = exchange->client;
	struct agent *agent = client->agent;
	uint32_t index = exchange->handoff.flow;
	bool tracked = client->tracked;

	agent->handoffs.result[HANDOFF_HANDED]++;
	flow_disown(datapath_flows(agent->datapath), index, exchange->logged);
	upstream_close_silently(exchange->upstream);
	note_affinity(exchange);
	exchange_hand_over(exchange);
	client_close(client, false); /* its socket is gone since leave_client() */
	forget_tracking(agent, index, tracked);
}

/*
 * An end of the pod that came before its last ACK went to B, and the client has not seen it: nobody would tell it later. The loop may
 * know of the ACK first.
 */
void handoff_acked(struct exchange *exchange)
{
	int err = pod_has_spoken(exchange);

	if (err == -EAGAIN)
		handoff_leave(exchange);
	else
		handoff_failed(exchange, err < 0 ? err : -ECONNRESET);
}

static int return_to_client(struct exchange *exchange)
{
	int fd = tcp_thaw(&exchange->handoff.client);

	if (fd < 0)
		return fd;
	client_adopt(exchange->client, fd);
	return 0;
}

/* @last: the slot as it was at the end. */
static void reset_client(const struct exchange *exchange, const struct slot *last)
{
	const struct tcp_frozen *frozen = &exchange->handoff.client;

	flow_reset_client(last, &frozen->arriving, frozen->numbers.read_seq);
}

void handoff_abort(struct exchange *exchange)
{
	struct slot last = *slot_of(exchange);

	flow_undo(datapath_flows(exchange->client->agent->datapath), exchange->handoff.flow);
	reset_client(exchange, &last);
}

void handoff_failed(struct exchange *exchange, int err)
{
	struct client *client = exchange->client;
	struct agent *agent = client->agent;
	struct slot last = *slot_of(exchange);
	bool unknown = flow_undo(datapath_flows(agent->datapath), exchange->handoff.flow);

	agent->handoffs.result[HANDOFF_FAILED]++;
	client_arm(client, NULL);
	exchange_close_head(exchange, false);
	exchange_set_state(exchange, EXCHANGE_SEND);
	if (unknown && !return_to_client(exchange)) {
		exchange_fail(exchange, err, "the pod did not take the request");
		return;
	}
	/* It has got a part of an answer that will not go on, or there is no other way to tell it anything. */
	reset_client(exchange, &last);
	client_close(client, true);
}

void handoff_pod_gone(struct exchange *exchange)
{
	handoff_failed(exchange, -ENETUNREACH);
}

/* A pod whose listen queue is full lets connections open that it does not have (SYN cookies): it acknowledges nothing. */
void handoff_timeout(struct exchange *exchange)
{
	uint32_t ack = slot_of(exchange)->pod_ack;

	if (ack == exchange->handoff.seen_ack) {
		handoff_failed(exchange, -ETIMEDOUT);
		return;
	}
	exchange->handoff.seen_ack = ack;
	client_arm(exchange->client, exchange->client->agent->timeouts.connect);
}
