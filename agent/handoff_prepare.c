// SPDX-License-Identifier: Apache-2.0
/* Whether a request can be handed over, and with which numbers: see handoff_prepare.h. */
#include "agent/handoff_prepare.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/client.h"
#include "agent/datapath.h"
#include "agent/devices.h"
#include "agent/exchange.h"
#include "agent/upstream.h"

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

enum handoff_result handoff_is_wanted(const struct exchange *exchange)
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

void handoff_key_make(struct flow_key *key, const struct address *from, const struct address *to)
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

	if (address_is_local(&client->address))
		return HANDOFF_LOOPBACK;
	if (client_front(client, &front))
		return HANDOFF_KERNEL;
	handoff_key_make(&spec->client, &client->address, &front);
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

	if (address_is_local(pod))
		return HANDOFF_LOOPBACK;
	if (address_is_ipv4(pod) != address_is_ipv4(&exchange->client->address))
		return HANDOFF_FAMILY;
	if (peer_own_address(&exchange->upstream->peer, &own))
		return HANDOFF_KERNEL;
	handoff_key_make(&spec->pod, pod, &own);
	return was_seen(agent, &spec->pod, seen) ? HANDOFF_HANDED : HANDOFF_UNSEEN_POD;
}

/* ---- numbers ---- */

/* The limit may have changed since. */
static uint32_t told_client(const struct handshake *seen, uint32_t own_mss)
{
	return seen->told_mss && seen->told_mss < own_mss ? seen->told_mss : own_mss;
}

/*
 * Of a socket that has sent nothing, what the programs have read when it was established still holds, but for the bytes
 * that the agent has read since. Return: false: it must be asked.
 */
static bool derive_numbers(const struct peer *peer, uint64_t received, const struct handshake *seen, struct tcp_numbers *out)
{
	const struct socket_numbers *socket = &seen->socket;

	if (!seen->established || peer->has_sent)
		return false;
	*out = (struct tcp_numbers){ .write_seq = socket->write_seq, .read_seq = socket->rcv_nxt + (uint32_t)received,
		.first_seq = socket->rcv_nxt, .peer_mss = socket->peer_mss, .own_mss = socket->own_mss,
		.peer_scale = socket->peer_scale, .own_scale = socket->own_scale, .sack = socket->sack,
		.timestamps = socket->timestamps };
	return true;
}

static enum handoff_result read_numbers(const struct exchange *exchange, const struct peer *peer, struct tcp_numbers *out)
{
	int err = tcp_numbers_read(peer->fd, !address_is_ipv4(&exchange->client->address), out);

	return !err ? HANDOFF_HANDED : err == -EBUSY ? HANDOFF_UNACKED : HANDOFF_KERNEL;
}

/* Everything that is decided once: before anything was sent to the pod. */
enum handoff_result handoff_prepare(struct exchange *exchange, struct flow_spec *spec, struct tcp_numbers *client)
{
	struct handoff *handoff = &exchange->handoff;
	struct handshake client_seen, pod_seen;
	enum handoff_result result = find_client(exchange->client, spec, &client_seen);

	if (result == HANDOFF_HANDED)
		result = find_pod(exchange, spec, &pod_seen);
	if (result == HANDOFF_HANDED && !derive_numbers(&exchange->client->peer, exchange->client->received, &client_seen, client))
		result = read_numbers(exchange, &exchange->client->peer, client);
	if (result == HANDOFF_HANDED && !derive_numbers(&exchange->upstream->peer, 0, &pod_seen, &handoff->pod))
		result = read_numbers(exchange, &exchange->upstream->peer, &handoff->pod);
	if (result != HANDOFF_HANDED)
		return result;
	if (client->timestamps || client_seen.isn_in + 1 != client->first_seq)
		return HANDOFF_UNSEEN_CLIENT;
	if (handoff->pod.timestamps || pod_seen.isn_in + 1 != handoff->pod.first_seq)
		return HANDOFF_UNSEEN_POD;
	if (handoff->pod.own_mss > client->peer_mss || told_client(&client_seen, client->own_mss) > handoff->pod.peer_mss)
		return HANDOFF_MSS;
	handoff->sent_before = exchange->bytes_up;
	spec->client_ifindex = client_seen.ifindex_out;
	spec->client_isn = client_seen.isn_in;
	return HANDOFF_HANDED;
}

enum handoff_result handoff_prepare_rest(struct exchange *exchange, struct flow_spec *spec, struct tcp_numbers *client)
{
	struct handshake client_seen, pod_seen;
	enum handoff_result result;

	if (!datapath_is_open(exchange->client->agent->datapath))
		return HANDOFF_OFF;
	if (exchange->client->in.len > exchange->kept)
		return HANDOFF_PIPELINED;
	if (exchange->status || exchange->upstream->in.len)
		return HANDOFF_POD_SPOKE;
	result = find_client(exchange->client, spec, &client_seen);
	if (result == HANDOFF_HANDED)
		result = find_pod(exchange, spec, &pod_seen);
	if (result == HANDOFF_HANDED)
		result = read_numbers(exchange, &exchange->client->peer, client);
	if (result != HANDOFF_HANDED)
		return result;
	spec->client_ifindex = client_seen.ifindex_out;
	spec->client_isn = client_seen.isn_in;
	return HANDOFF_HANDED;
}

void handoff_fill_spec(const struct exchange *exchange, const struct tcp_numbers *client, uint32_t request, struct flow_spec *spec)
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
