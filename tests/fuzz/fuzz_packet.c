// SPDX-License-Identifier: Apache-2.0
/*
 * Packets of any bytes through all that the TC programs do with them: parsed, translated there and back, options of a SYN
 * cleaned, SACK blocks moved, and what is quoted of a packet that was too big. The first bytes say how; the rest is the packet.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bpf/lib/answer.h"
#include "bpf/lib/options.h"
#include "bpf/lib/packet.h"
#include "bpf/lib/slot.h"
#include "bpf/lib/too_big.h"
#include "bpf/lib/translate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TCP_CHECK = 16 };

struct how {
	struct flow flow;
	struct slot slot;
	uint16_t protocol;
	uint8_t ethernet, keep;
	uint32_t mss;
};

/* One's complement sum of @n bytes, from scratch. */
static uint32_t sum(const uint8_t *bytes, size_t n)
{
	uint64_t total = 0;

	for (size_t i = 0; i < n; i++)
		total += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint32_t)total;
}

/* Of what a TCP checksum covers, less the lengths, which do not change. */
static uint32_t tcp_sum(const uint8_t *at, const struct packet *packet)
{
	const uint8_t *ip = at + packet->l3;
	uint32_t total = packet->ipv6 ? sum(ip + 8, 32) : sum(ip + 12, 8);

	total += sum(at + packet->l4, sizeof(struct tcphdr) + packet->options + packet->len);
	return (total & 0xffff) + (total >> 16);
}

static void rewrite(uint8_t *at, const struct packet *packet, const struct flow *flow)
{
	uint8_t *l3 = at + packet->l3;
	struct rewrite_sums sums = { 0 };
	struct rewrite_ipv6 to6;
	struct rewrite_ipv4 to4;
	uint16_t check;

	if (packet->ipv6) {
		translate_ipv6(&to6, packet, flow, &sums);
		memcpy(l3 + REWRITE_IPV6_OFFSET, &to6, sizeof(to6));
	} else {
		translate_ipv4(&to4, packet, flow, &sums);
		memcpy(l3 + REWRITE_IPV4_OFFSET, (uint8_t *)&to4 + REWRITE_IPV4_SKIP, sizeof(to4) - REWRITE_IPV4_SKIP);
	}
	memcpy(&check, at + packet->l4 + TCP_CHECK, sizeof(check));
	check = checksum_update(check, (uint64_t)checksum_diff(sums.pseudo) + checksum_diff(sums.rest));
	memcpy(at + packet->l4 + TCP_CHECK, &check, sizeof(check));
}

static bool parse(struct packet *packet, const uint8_t *at, size_t n, const struct how *how)
{
	memset(packet, 0, sizeof(*packet));
	return packet_parse(packet, at, at + n, how->ethernet & 1 ? ETH_HLEN : 0, how->protocol, (uint32_t)n) == REASON_NONE;
}

/* Sums modulo 0xffff: 0 and 0xffff are the same. */
static void there_and_back(uint8_t *at, size_t n, const struct how *how, const struct packet *from)
{
	uint32_t tcp_before = tcp_sum(at, from), ip_before = sum(at + from->l3, sizeof(struct iphdr));
	struct flow down = { .to = from->key, .seq_add = -how->flow.seq_add, .ack_sub = -how->flow.ack_sub };
	struct packet to, back;

	rewrite(at, from, &how->flow);
	assert(parse(&to, at, n, how) && to.len == from->len && to.options == from->options && to.flags == from->flags);
	assert(tcp_sum(at, &to) % 0xffff == tcp_before % 0xffff);
	assert(to.ipv6 || sum(at + to.l3, sizeof(struct iphdr)) % 0xffff == ip_before % 0xffff);
	assert(to.seq == from->seq + how->flow.seq_add && to.key.sport == how->flow.to.sport);
	rewrite(at, &to, &down);
	assert(parse(&back, at, n, how) && !memcmp(&back.key, &from->key, sizeof(back.key)));
	assert(back.seq == from->seq && back.ack == from->ack && tcp_sum(at, &back) % 0xffff == tcp_before % 0xffff);
}

static void clean(const uint8_t *at, const struct packet *packet, uint32_t mss)
{
	struct tcp_options options = { 0 }, again;
	enum reason why;

	memcpy(options.at, at, packet->options);
	why = syn_clean(&options, packet->options, mss);
	if (why != REASON_SYN_CLEANED)
		return;
	again = options;
	assert(syn_clean(&again, packet->options, mss) == REASON_SYN_CLEANED && !memcmp(&again, &options, sizeof(again)));
	for (size_t i = packet->options; i < sizeof(options.at); i++)
		assert(!options.at[i]);
}

static void move_sack(const uint8_t *at, const struct packet *packet, const struct how *how)
{
	struct tcp_options options = { 0 }, original;
	bool keep = how->keep & 1;

	memcpy(options.at, at, packet->options);
	original = options;
	sack_translate(&options, packet->options, how->flow.ack_sub, keep);
	for (size_t i = packet->options; i < sizeof(options.at); i++)
		assert(!options.at[i]);
	if (!keep)
		return;
	sack_translate(&options, packet->options, -how->flow.ack_sub, keep);
	assert(!memcmp(&options, &original, sizeof(options)));
}

/* Flags only come, but for one, and one that a reset takes; numbers only grow. */
static void note(const struct how *how, const struct packet *packet)
{
	const uint32_t may_go = SLOT_ANSWERING | (packet->flags & TCP_RST ? SLOT_DOUBTED : 0);
	struct slot slot = how->slot;
	bool strip;

	if (how->keep & 2)
		slot_from_pod(&slot, packet);
	else
		slot_from_client(&slot, packet, &how->flow);
	slot_from_agent_to_pod(&slot, packet, &strip);
	assert(!(how->slot.flags & ~slot.flags & ~may_go));
	assert(how->slot.flags & SLOT_AFFINITY || seq_at_or_after(slot.pod_next, how->slot.pod_next));
	assert(seq_at_or_after(slot.pod_ack, how->slot.pod_ack) && seq_at_or_after(slot.client_next, how->slot.client_next));
}

/* The entry of what answers the quoted packet, and the one that undoes it: from there it would be found as @answers. */
static void quoted_and_back(const struct how *how, const struct flow_key *answers, struct flow *back)
{
	*back = (struct flow){ .ack_sub = -how->flow.ack_sub };
	address_copy(back->to.saddr, answers->saddr);
	address_copy(back->to.daddr, answers->daddr);
	back->to.sport = answers->sport;
	back->to.dport = answers->dport;
}

static void too_big_4(const uint8_t *at, const struct how *how)
{
	struct too_big_ipv4 from, to;
	struct flow_key answers;
	struct flow back;
	uint32_t before;

	memcpy(&from, at, sizeof(from));
	if (!too_big_key_ipv4(&from, &answers))
		return;
	to = from;
	before = sum((uint8_t *)&from.icmp, sizeof(from) - sizeof(from.ip));
	too_big_translate_ipv4(&to, &how->flow);
	assert(sum((uint8_t *)&to.icmp, sizeof(to) - sizeof(to.ip)) % 0xffff == before % 0xffff);
	assert(to.tcp.sport == how->flow.to.dport && to.quoted.saddr == to.ip.daddr && to.ip.daddr == how->flow.to.daddr[3]);
	quoted_and_back(how, &answers, &back);
	too_big_translate_ipv4(&to, &back);
	assert(!memcmp(&to.tcp, &from.tcp, sizeof(to.tcp)) && to.quoted.saddr == from.quoted.saddr && to.quoted.daddr == from.quoted.daddr);
}

static void too_big_6(const uint8_t *at, const struct how *how)
{
	struct too_big_ipv6 from, to;
	struct flow_key answers;
	struct flow back;
	uint32_t before;

	memcpy(&from, at, sizeof(from));
	if (!too_big_key_ipv6(&from, &answers))
		return;
	to = from;
	before = sum((uint8_t *)&from.ip.saddr, sizeof(from) - 8);
	too_big_translate_ipv6(&to, &how->flow);
	assert(sum((uint8_t *)&to.ip.saddr, sizeof(to) - 8) % 0xffff == before % 0xffff);
	quoted_and_back(how, &answers, &back);
	too_big_translate_ipv6(&to, &back);
	assert(!memcmp(&to.tcp, &from.tcp, sizeof(to.tcp)) && !memcmp(&to.quoted, &from.quoted, sizeof(to.quoted)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct packet packet;
	struct how how;
	size_t n, skip, l3;
	uint8_t *copy, *at;

	if (size < sizeof(how))
		return 0;
	memcpy(&how, data, sizeof(how));
	n = size - sizeof(how);
	/* So that the IP header is aligned, as in the kernel. */
	skip = how.ethernet & 1 ? 2 : 0;
	copy = malloc(n + skip);
	at = copy + skip;
	memcpy(at, data + sizeof(how), n);
	l3 = how.ethernet & 1 ? ETH_HLEN : 0;
	if (n >= l3 + sizeof(struct too_big_ipv4))
		too_big_4(at + l3, &how);
	if (n >= l3 + sizeof(struct too_big_ipv6))
		too_big_6(at + l3, &how);
	if (parse(&packet, at, n, &how)) {
		const uint8_t *options = at + packet.l4 + sizeof(struct tcphdr);

		clean(options, &packet, how.mss & 0xffff);
		move_sack(options, &packet, &how);
		note(&how, &packet);
		if (packet.len >= STATUS_LINE_MIN)
			assert(answer_status(options + packet.options) <= 999);
		there_and_back(at, n, &how, &packet);
	}
	free(copy);
	return 0;
}
