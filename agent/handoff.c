// SPDX-License-Identifier: Apache-2.0
/*
 * The hand-off: see handoff.h.
 *
 * How it works
 *
 * A is the client's connection, B the pod's. Both are open, and the request, or its last bytes, is in memory here:
 *
 *   1 read both connections' numbers. What the client will send next on A continues B's stream behind the request, so
 *     seq_add = B's next + bytes of the request - A's next; the answer continues A's: ack_sub = A's next - B's expected.
 *   2 insert both entries. From here on the programs translate, and A is mute (bpf/egress.bpf.c).
 *   3 read A dry: what it has acknowledged the client will not repeat. There should be nothing, or a FIN.
 *   4 send the request on B. Its ACKs come to B, everything else of the pod goes to the client.
 *   5 the pod has acknowledged all (EVENT_ACKED): close A and B without a packet. Nobody is needed any more.
 *
 * Until 5 nothing is lost by going back: the entries are removed, A speaks again, and the request is still at hand for
 * another pod (handoff_failed()). That is why A is kept open so long. What a program has not seen open (no handshake
 * recorded on the way in and out), or what differs in family, segment size or timing, is relayed.
 */
#include "agent/handoff.h"

#include <assert.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "agent/agent.h"
#include "agent/client.h"
#include "agent/conntrack.h"
#include "agent/datapath.h"
#include "agent/devices.h"
#include "agent/exchange.h"
#include "agent/flow_table.h"
#include "agent/upstream.h"

enum { MSS_LEAST = 1220, LARGE_REQUEST = 32 * 1024 };

static const char *const result_names[] = {
#define HANDOFF_RESULT_NAME(name, text, meaning) text,
	HANDOFF_RESULTS(HANDOFF_RESULT_NAME)
#undef HANDOFF_RESULT_NAME
};
static_assert(sizeof(result_names) / sizeof(result_names[0]) == HANDOFF_RESULT_N, "a name for each result");

const char *handoff_result_name(enum handoff_result result)
{
	return result_names[result];
}

void handoff_stats_init(struct handoff_stats *stats)
{
	static const double bounds[] = { 10e-6, 20e-6, 30e-6, 40e-6, 60e-6, 80e-6, 120e-6, 200e-6, 500e-6, 1e-3, 5e-3, 20e-3, 0.1 };

	memset(stats, 0, sizeof(*stats));
	histogram_init(&stats->duration, bounds, sizeof(bounds) / sizeof(bounds[0]));
}

/* ---- whether ---- */

static bool answer_streams(const struct exchange *exchange)
{
	const struct prompt_facts *facts = exchange->facts;

	if (exchange->client->agent->config.handoff == HANDOFF_ALWAYS)
		return true;
	if (exchange->api == API_OTHER || exchange->api == API_EMBEDDINGS || exchange->api == API_TOKENIZE)
		return false;
	/* Of a body that is too large to be held, whether it streams is perhaps not known yet; one more hand-off is cheap there. */
	return (facts && facts->stream) || !exchange->request_body.done;
}

static enum handoff_result is_wanted(const struct exchange *exchange)
{
	const struct agent *agent = exchange->client->agent;

	if (!datapath_is_open(agent->datapath) || agent->config.handoff == HANDOFF_NEVER)
		return HANDOFF_OFF;
	if (!answer_streams(exchange))
		return HANDOFF_NOT_STREAMED;
	if (exchange->http10 || exchange->to_head)
		return HANDOFF_HTTP10;
	if (exchange->client->in.len > exchange->kept)
		return HANDOFF_PIPELINED;
	return HANDOFF_HANDED;
}

/* ---- keys, and what the programs saw of them ---- */

static void key_make(struct flow_key *key, const struct address *from, const struct address *to)
{
	memcpy(key->saddr, from->ip, sizeof(key->saddr));
	memcpy(key->daddr, to->ip, sizeof(key->daddr));
	key->sport = from->port_be;
	key->dport = to->port_be;
}

static bool was_seen(struct agent *agent, const struct flow_key *key, struct handshake *out)
{
	int fd = datapath_map_fd(agent->datapath, MAP_HANDSHAKES);

	return !bpf_map_lookup_elem(fd, key, out) && out->ifindex_in && out->ifindex_out;
}

static enum handoff_result find_client(struct client *client, struct flow_spec *spec, struct handshake *seen)
{
	struct agent *agent = client->agent;
	struct address front;

	if (address_is_loopback(&client->address))
		return HANDOFF_LOOPBACK;
	if (client_front(client, &front))
		return HANDOFF_KERNEL;
	key_make(&spec->client, &client->address, &front);
	if (was_seen(agent, &spec->client, seen))
		return HANDOFF_HANDED;
	devices_learn(datapath_devices(agent->datapath), &client->address, &front);
	return HANDOFF_UNSEEN_CLIENT;
}

static enum handoff_result find_pod(struct exchange *exchange, struct flow_spec *spec, struct handshake *seen)
{
	struct agent *agent = exchange->client->agent;
	const struct address *pod = &agent->endpoints->at[exchange->decision.endpoint].config.address;
	struct address own;

	if (address_is_loopback(pod))
		return HANDOFF_LOOPBACK;
	if (address_is_ipv4(pod) != address_is_ipv4(&exchange->client->address))
		return HANDOFF_FAMILY;
	if (peer_own_address(&exchange->upstream->peer, &own))
		return HANDOFF_KERNEL;
	key_make(&spec->pod, pod, &own);
	return was_seen(agent, &spec->pod, seen) ? HANDOFF_HANDED : HANDOFF_UNSEEN_POD;
}

/* ---- numbers ---- */

static uint32_t told_client(const struct exchange *exchange, uint32_t own_mss)
{
	const struct control *control = datapath_control(exchange->client->agent->datapath);
	uint32_t limit = address_is_ipv4(&exchange->client->address) ? control->mss4 : control->mss6;

	return limit && limit < own_mss ? limit : own_mss;
}

static enum handoff_result read_numbers(const struct exchange *exchange, const struct peer *peer, struct tcp_numbers *out)
{
	int err = tcp_numbers_read(peer->fd, !address_is_ipv4(&exchange->client->address), out);

	return !err ? HANDOFF_HANDED : err == -EBUSY ? HANDOFF_UNACKED : HANDOFF_KERNEL;
}

/* Everything that is decided once: before anything was sent to the pod. */
static enum handoff_result prepare(struct exchange *exchange, struct flow_spec *spec, struct tcp_numbers *client)
{
	struct handoff *handoff = &exchange->handoff;
	struct handshake client_seen, pod_seen;
	enum handoff_result result = find_client(exchange->client, spec, &client_seen);

	if (result == HANDOFF_HANDED)
		result = find_pod(exchange, spec, &pod_seen);
	if (result == HANDOFF_HANDED)
		result = read_numbers(exchange, &exchange->client->peer, client);
	if (result == HANDOFF_HANDED)
		result = read_numbers(exchange, &exchange->upstream->peer, &handoff->pod);
	if (result != HANDOFF_HANDED)
		return result;
	if (client->timestamps || client_seen.isn_in + 1 != client->first_seq)
		return HANDOFF_UNSEEN_CLIENT;
	if (handoff->pod.timestamps || pod_seen.isn_in + 1 != handoff->pod.first_seq)
		return HANDOFF_UNSEEN_POD;
	if (handoff->pod.own_mss > client->peer_mss || told_client(exchange, client->own_mss) > handoff->pod.peer_mss)
		return HANDOFF_MSS;
	handoff->sent_before = exchange->bytes_up;
	spec->client_ifindex = client_seen.ifindex_out;
	spec->client_isn = client_seen.isn_in;
	return HANDOFF_HANDED;
}

/* @request: bytes of it, as the pod gets them. */
static void fill_spec(const struct exchange *exchange, const struct tcp_numbers *client, uint32_t request, struct flow_spec *spec)
{
	const struct tcp_numbers *pod = &exchange->handoff.pod;

	spec->seq_add = pod->write_seq + request - client->read_seq;
	spec->ack_sub = client->write_seq - pod->read_seq;
	spec->client_scale = client->peer_scale;
	spec->told_client = client->own_scale;
	spec->pod_scale = pod->peer_scale;
	spec->told_pod = pod->own_scale;
	spec->sack = client->sack && pod->sack;
	spec->request_end = client->read_seq;
	spec->agent_end = pod->write_seq + request;
	spec->pod_ack = pod->write_seq;
	spec->client_start = client->write_seq;
	spec->pod_start = pod->read_seq;
	spec->endpoint = exchange->claim.index;
	spec->generation = exchange->claim.generation;
	spec->tokens = exchange->claim.holds_tokens ? exchange->claim.tokens : 0;
	spec->api = exchange->api;
	spec->begun_us = exchange->begun_us;
	spec->request_id = exchange->request_id;
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
	peer_watch_readable(&exchange->client->peer, false);
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
		slot->agent_end += (uint32_t)n;
		slot->client_next = slot->agent_end;
	}
}

/* Bytes or a FIN that came before the entries were there. */
static bool pod_has_spoken(const struct exchange *exchange)
{
	char byte;

	return recv(exchange->upstream->peer.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
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

static enum handoff_result insert(struct exchange *exchange, const struct flow_spec *spec)
{
	struct agent *agent = exchange->client->agent;
	struct flow_table *flows = datapath_flows(agent->datapath);
	int err;

	acknowledge_now(exchange);
	err = flow_open(flows, spec, exchange, &exchange->handoff.flow);

	if (err)
		return err == -ENOSPC ? HANDOFF_TABLE_FULL : HANDOFF_KERNEL;
	histogram_observe(&agent->handoffs.duration, (double)(agent_now_us() - exchange->handoff.begun_us) / 1e6);
	if (pod_has_spoken(exchange)) {
		flow_undo(flows, exchange->handoff.flow);
		return HANDOFF_POD_SPOKE;
	}
	if (read_dry(exchange)) {
		flow_undo(flows, exchange->handoff.flow);
		return HANDOFF_KERNEL;
	}
	return HANDOFF_HANDED;
}

static void enter(struct exchange *exchange)
{
	exchange_set_state(exchange, EXCHANGE_HANDOFF);
	exchange->handoff.seen_ack = exchange->handoff.pod.write_seq;
	client_arm(exchange->client, exchange->client->agent->timeouts.connect);
}

static int relayed(struct exchange *exchange, enum handoff_result why)
{
	exchange->client->agent->handoffs.result[why]++;
	return why == HANDOFF_POD_SPOKE ? -ECONNRESET : -ENOTSUP;
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

int handoff_begin(struct exchange *exchange)
{
	enum handoff_result result = is_wanted(exchange);
	struct flow_spec spec = { 0 };
	struct tcp_numbers client;

	if (result != HANDOFF_HANDED)
		return relayed(exchange, result);
	exchange->handoff.begun_us = agent_now_us();
	result = prepare(exchange, &spec, &client);
	if (result == HANDOFF_MSS && redial(exchange, &client))
		return -EAGAIN;
	if (result != HANDOFF_HANDED)
		return relayed(exchange, result);
	end_with_answer(exchange);
	fill_spec(exchange, &client, (uint32_t)(exchange->head_len + exchange->kept), &spec);
	result = insert(exchange, &spec);
	if (result != HANDOFF_HANDED) {
		exchange_close_head(exchange, false);
		return relayed(exchange, result);
	}
	enter(exchange);
	return 0;
}

void handoff_plan(struct exchange *exchange)
{
	enum handoff_result result = is_wanted(exchange);
	struct flow_spec spec = { 0 };
	struct tcp_numbers client;

	if (result == HANDOFF_HANDED)
		result = prepare(exchange, &spec, &client);
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
	struct handshake client_seen, pod_seen;
	struct tcp_numbers client;
	enum handoff_result result;

	handoff->planned = false;
	handoff->begun_us = agent_now_us();
	if (!datapath_is_open(exchange->client->agent->datapath))
		return relayed(exchange, HANDOFF_OFF);
	if (exchange->client->in.len > exchange->kept)
		return relayed(exchange, HANDOFF_PIPELINED);
	if (exchange->status || exchange->upstream->in.len)
		return relayed(exchange, HANDOFF_POD_SPOKE), -ENOTSUP;
	result = find_client(exchange->client, &spec, &client_seen);
	if (result == HANDOFF_HANDED)
		result = find_pod(exchange, &spec, &pod_seen);
	if (result == HANDOFF_HANDED)
		result = read_numbers(exchange, &exchange->client->peer, &client);
	if (result == HANDOFF_HANDED) {
		spec.client_ifindex = client_seen.ifindex_out;
		spec.client_isn = client_seen.isn_in;
		fill_spec(exchange, &client, (uint32_t)(exchange->bytes_up - handoff->sent_before + exchange->kept), &spec);
		result = insert(exchange, &spec);
	}
	if (result != HANDOFF_HANDED)
		return relayed(exchange, result), -ENOTSUP;
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

static void forget_tracking(struct agent *agent, const struct slot *slot)
{
	struct conntrack *conntrack = datapath_conntrack(agent->datapath);
	struct flow_key to_pod = { .sport = slot->pod.dport, .dport = slot->pod.sport };

	if (!conntrack || !conntrack_is_active(conntrack))
		return;
	memcpy(to_pod.saddr, slot->pod.daddr, sizeof(to_pod.saddr));
	memcpy(to_pod.daddr, slot->pod.saddr, sizeof(to_pod.daddr));
	conntrack_forget(conntrack, &slot->client);
	conntrack_forget(conntrack, &to_pod);
}

void handoff_acked(struct exchange *exchange)
{
	struct client *client = exchange->client;
	struct agent *agent = client->agent;
	const struct slot *slot = slot_of(exchange);

	agent->handoffs.result[HANDOFF_HANDED]++;
	flow_disown(datapath_flows(agent->datapath), exchange->handoff.flow, exchange->logged);
	upstream_close_silently(exchange->upstream);
	exchange_hand_over(exchange);
	client_close_silently(client);
	forget_tracking(agent, slot);
}

void handoff_failed(struct exchange *exchange, int err)
{
	struct client *client = exchange->client;
	struct agent *agent = client->agent;
	bool unknown = flow_undo(datapath_flows(agent->datapath), exchange->handoff.flow);

	agent->handoffs.result[HANDOFF_FAILED]++;
	client_arm(client, NULL);
	exchange_close_head(exchange, false);
	exchange_set_state(exchange, EXCHANGE_SEND);
	if (unknown)
		exchange_fail(exchange, err, "the pod did not take the request");
	else
		client_close(client, true); /* it has got a part of an answer that will not go on */
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
