// SPDX-License-Identifier: Apache-2.0
/*
 * bpf/lib on the host: vectors, and random packets against references that are written otherwise. Numbers come from a
 * fixed seed, so that a failure repeats.
 */
#include "tests/unit/test.h"

#include "bpf/lib/answer.h"
#include "bpf/lib/options.h"
#include "bpf/lib/packet.h"
#include "bpf/lib/slot.h"
#include "bpf/lib/translate.h"
#include "tests/bpf/wire.h"

enum { RANDOM_PACKETS = 1000000, RANDOM_OPTIONS = 1000000, RANDOM_LIVES = 20000, ETHERNET = WIRE_ETHERNET };
enum { AT_ALIGNED = 2 }; /* so that the IP header behind Ethernet's is aligned, as in the kernel */

static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint32_t random32(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 16);
}

static uint32_t random_below(uint32_t n)
{
	return random32() % n;
}

static void random_fill(void *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)out)[i] = (uint8_t)random32();
}

/* Extremes are where sums carry. */
static uint32_t random_number(void)
{
	static const uint32_t extremes[] = { 0, 1, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff };

	return random_below(4) ? random32() : extremes[random_below(COUNT(extremes))];
}

/* ---- translation ---- */

struct raw {
	_Alignas(8) uint8_t bytes[AT_ALIGNED + WIRE_MAX];
	size_t n;
};

static void random_packet(struct raw *raw, bool ipv6)
{
	uint8_t payload[24], options[40];
	struct wire wire = { .from = ipv6 ? "[2001:db8::1]:1" : "1.2.3.4:1", .to = ipv6 ? "[2001:db8::2]:2" : "1.2.3.5:2",
		.seq = random_number(), .ack = random_number(), .flags = (uint16_t)(random32() & 0xfff),
			.window = (uint16_t)random32(),
		.options = { options, random_below(11) * 4 }, .payload = { payload, random_below(sizeof(payload)) } };
	uint8_t *ip = raw->bytes + AT_ALIGNED + ETHERNET, *tcp;

	random_fill(options, sizeof(options));
	random_fill(payload, sizeof(payload));
	raw->n = wire_build(raw->bytes + AT_ALIGNED, &wire, true);
	tcp = ip + (ipv6 ? 40 : 20);
	random_fill(ipv6 ? ip + 8 : ip + 12, ipv6 ? 32 : 8);
	random_fill(tcp, 4);
	wire_put16(tcp + 16, wire_tcp_check(ip, tcp, raw->n - (size_t)(tcp - ip) - ETHERNET));
	if (!ipv6)
		wire_put16(ip + 10, wire_ipv4_check(ip));
}

static enum reason parse(struct packet *packet, const struct raw *raw)
{
	const uint8_t *at = raw->bytes + AT_ALIGNED;
	uint16_t protocol;

	memset(packet, 0, sizeof(*packet));
	memcpy(&protocol, at + 12, sizeof(protocol));
	return packet_parse(packet, at, at + raw->n, ETHERNET, protocol, (uint32_t)raw->n);
}

static void random_flow(struct flow *flow)
{
	random_fill(flow, sizeof(*flow));
	flow->seq_add = random_number();
	flow->ack_sub = random_number();
	flow->scale_in = (uint8_t)random_below(15);
	flow->scale_out = (uint8_t)random_below(15);
}

/* As the program stores it: one run of bytes, and the TCP checksum by its difference. */
static void rewrite(struct raw *raw, const struct packet *packet, const struct flow *flow)
{
	uint8_t *l3 = raw->bytes + AT_ALIGNED + packet->l3, *check = raw->bytes + AT_ALIGNED + packet->l4 + 16;
	struct rewrite_sums sums = { 0 };
	struct rewrite_ipv4 to4;
	struct rewrite_ipv6 to6;
	uint16_t stored;

	if (packet->ipv6) {
		translate_ipv6(&to6, packet, flow, &sums);
		memcpy(l3 + REWRITE_IPV6_OFFSET, &to6, sizeof(to6));
	} else {
		translate_ipv4(&to4, packet, flow, &sums);
		memcpy(l3 + REWRITE_IPV4_OFFSET, (uint8_t *)&to4 + REWRITE_IPV4_SKIP, sizeof(to4) - REWRITE_IPV4_SKIP);
	}
	memcpy(&stored, check, sizeof(stored));
	stored = checksum_update(stored, (uint64_t)checksum_diff(sums.pseudo) + checksum_diff(sums.rest));
	memcpy(check, &stored, sizeof(stored));
}

static void check_sums(const struct raw *raw, const struct packet *packet)
{
	const uint8_t *at = raw->bytes + AT_ALIGNED, *ip = at + packet->l3, *tcp = at + packet->l4;

	assert_int_equal(wire_get16(tcp + 16), wire_tcp_check(ip, tcp, raw->n - packet->l4));
	if (!packet->ipv6)
		assert_int_equal(wire_get16(ip + 10), wire_ipv4_check(ip));
}

static void check_translated(const struct packet *to, const struct packet *from, const struct flow *flow)
{
	assert_memory_equal(to->key.saddr + (to->ipv6 ? 0 : 3), flow->to.saddr + (to->ipv6 ? 0 : 3), to->ipv6 ? 16 : 4);
	assert_memory_equal(to->key.daddr + (to->ipv6 ? 0 : 3), flow->to.daddr + (to->ipv6 ? 0 : 3), to->ipv6 ? 16 : 4);
	assert_int_equal(to->key.sport, flow->to.sport);
	assert_int_equal(to->key.dport, flow->to.dport);
	assert_int_equal(to->seq, (uint32_t)(from->seq + (uint64_t)flow->seq_add));
	assert_int_equal(to->ack, from->flags & TCP_ACK ? (uint32_t)(from->ack - (int64_t)flow->ack_sub) : from->ack);
	assert_int_equal(to->flags_word, from->flags_word);
	assert_int_equal(to->len, from->len);
	assert_int_equal(to->options, from->options);
}

static void translated_checksums_are_right(void **state)
{
	struct packet from, to;
	struct flow flow;
	struct raw raw;

	(void)state;
	for (int i = 0; i < RANDOM_PACKETS; i++) {
		random_packet(&raw, i & 1);
		random_flow(&flow);
		assert_int_equal(parse(&from, &raw), REASON_NONE);
		rewrite(&raw, &from, &flow);
		assert_int_equal(parse(&to, &raw), REASON_NONE);
		check_translated(&to, &from, &flow);
		check_sums(&raw, &to);
	}
}

/* Both directions of a connection undo each other, but for windows, which lose bits. */
static void translation_and_back(void **state)
{
	struct packet from, to;
	struct raw raw, original;
	struct flow up, down;

	(void)state;
	for (int i = 0; i < RANDOM_PACKETS / 10; i++) {
		random_packet(&raw, i & 1);
		random_flow(&up);
		up.scale_out = up.scale_in;
		original = raw;
		assert_int_equal(parse(&from, &raw), REASON_NONE);
		down = (struct flow){ .to = from.key, .seq_add = -up.seq_add, .ack_sub = -up.ack_sub };
		rewrite(&raw, &from, &up);
		assert_int_equal(parse(&to, &raw), REASON_NONE);
		rewrite(&raw, &to, &down);
		assert_memory_equal(raw.bytes + AT_ALIGNED, original.bytes + AT_ALIGNED, original.n);
	}
}

static void windows(void **state)
{
	struct packet packet = { .flags = TCP_ACK };
	struct flow flow = { 0 };

	(void)state;
	for (uint32_t in = 0; in <= 14; in++)
		for (uint32_t out = 0; out <= 14; out++)
			for (uint32_t window = 0; window <= 0xffff; window += window < 0xff00 ? 61 : 1) {
				uint64_t bytes = ((uint64_t)window << in) / (UINT64_C(1) << out);

				packet.window = (uint16_t)window;
				flow.scale_in = (uint8_t)in;
				flow.scale_out = (uint8_t)out;
				packet.flags = TCP_ACK;
				assert_int_equal(window_translate(&packet, &flow), bytes > 0xffff ? 0xffff : bytes);
				packet.flags = TCP_SYN | TCP_ACK;
				assert_int_equal(window_translate(&packet, &flow), window);
			}
}

/* A packet that is cut anywhere is never taken for a whole one; the sanitizer sees what is read past its end. */
static void cut_everywhere(void **state)
{
	struct packet packet;
	struct raw raw;

	(void)state;
	for (int i = 0; i < 200; i++) {
		random_packet(&raw, i & 1);
		for (size_t n = 0; n < raw.n; n++) {
			uint8_t *copy = malloc(AT_ALIGNED + n);
			uint16_t protocol = be16_from_host(i & 1 ? ETH_P_IPV6 : ETH_P_IP);

			memcpy(copy + AT_ALIGNED, raw.bytes + AT_ALIGNED, n);
			memset(&packet, 0, sizeof(packet));
			assert_int_equal(packet_parse(&packet, copy + AT_ALIGNED, copy + AT_ALIGNED + n, ETHERNET, protocol,
				(uint32_t)n),
				n < ETHERNET + (i & 1 ? 40 : 20) ? REASON_NOT_OURS : REASON_MALFORMED);
			free(copy);
		}
	}
}

/* ---- options ---- */

/* RFC 9293, 3.1, once more and plainly: where the list's options lie. Return: how many. */
struct found {
	size_t at, length;
	uint8_t kind;
};

static size_t reference_parse(struct found *out, const uint8_t *options, size_t n)
{
	size_t found = 0, i = 0;

	while (i < n && options[i] != 0) {
		size_t length = 1;

		if (options[i] != 1) {
			if (n - i < 2 || options[i + 1] < 2 || options[i + 1] > n - i)
				break;
			length = options[i + 1];
		}
		out[found++] = (struct found){ i, length, options[i] };
		i += length;
	}
	return found;
}

/* Kinds that mean something, with their right lengths; 0 and 1 have none. */
static const uint8_t kinds[][2] = { { 0, 0 }, { 1, 0 }, { 2, 4 }, { 3, 3 }, { 4, 2 }, { 5, 10 }, { 8, 10 }, { 19, 18 }, { 29, 16 },
	{ 34, 10 }, { 253, 6 } };

/* Mostly right. */
static uint8_t random_length(size_t k)
{
	if (!random_below(10))
		return (uint8_t)random_below(45);
	return kinds[k][0] == 5 ? (uint8_t)(2 + 8 * random_below(5)) : kinds[k][1];
}

/* Return: how many bytes there are of them. */
static size_t random_options(struct tcp_options *options)
{
	size_t n = random_below(11) * 4, at = 0;

	memset(options, 0, sizeof(*options));
	random_fill(options->at, n);
	while (at < n && random_below(20)) {
		size_t k = random_below(4) ? 1 + random_below(COUNT(kinds) - 1) : random_below(COUNT(kinds));
		uint8_t length = random_length(k);

		options->at[at] = kinds[k][0];
		if (kinds[k][0] > 1 && at + 1 < n)
			options->at[at + 1] = length;
		at += kinds[k][0] > 1 && length ? length : 1;
	}
	return n;
}

/* Return: whether the SYN is signed, and so stays as it is. */
static bool reference_clean(uint8_t *options, size_t n, uint32_t mss)
{
	struct found found[40];
	size_t count = reference_parse(found, options, n);

	for (size_t i = 0; i < count; i++)
		if (found[i].kind == 19 || found[i].kind == 29)
			return true;
	for (size_t i = 0; i < count; i++) {
		uint8_t *at = options + found[i].at;

		if (found[i].kind == 2 && found[i].length == 4 && mss && wire_get16(at + 2) > mss)
			wire_put16(at + 2, (uint16_t)mss);
		if (found[i].kind > 4)
			memset(at, 1, found[i].length);
	}
	return false;
}

static void syn_options_agree(void **state)
{
	struct tcp_options options, expected, again;
	size_t counts[2] = { 0 };

	(void)state;
	for (int i = 0; i < RANDOM_OPTIONS; i++) {
		size_t n = random_options(&options);
		uint32_t mss = random_below(3) ? random_below(0x10000) : 0;
		bool is_signed;

		expected = options;
		is_signed = reference_clean(expected.at, n, mss);
		counts[is_signed]++;
		assert_int_equal(syn_clean(&options, (uint32_t)n, mss), is_signed ? REASON_SYN_SIGNED : REASON_SYN_CLEANED);
		if (is_signed)
			continue;
		assert_memory_equal(options.at, expected.at, sizeof(options));
		again = options;
		assert_int_equal(syn_clean(&again, (uint32_t)n, mss), REASON_SYN_CLEANED);
		assert_memory_equal(again.at, options.at, sizeof(options));
	}
	assert_true(counts[0] > RANDOM_OPTIONS / 10 && counts[1] > RANDOM_OPTIONS / 100);
}

/* Return: whether there is a SACK option. */
static bool reference_sack(uint8_t *options, size_t n, uint32_t ack_sub, bool keep)
{
	struct found found[40];
	size_t count = reference_parse(found, options, n), i = 0;

	while (i < count && found[i].kind != 5)
		i++;
	if (i == count)
		return false;
	if (!keep)
		memset(options + found[i].at, 1, found[i].length);
	for (size_t block = 2; keep && block + 8 <= found[i].length && block < 34; block += 8)
		for (size_t at = block; at < block + 8; at += 4)
			wire_put32(options + found[i].at + at, wire_get32(options + found[i].at + at) - ack_sub);
	return true;
}

static void sack_agrees(void **state)
{
	struct tcp_options options, expected, original;
	size_t found = 0;

	(void)state;
	for (int i = 0; i < RANDOM_OPTIONS; i++) {
		size_t n = random_options(&options);
		uint32_t ack_sub = random_number();
		bool keep = random_below(2), is_there;

		expected = original = options;
		is_there = reference_sack(expected.at, n, ack_sub, keep);
		found += is_there;
		assert_int_equal(sack_translate(&options, (uint32_t)n, ack_sub, keep), is_there);
		assert_memory_equal(options.at, expected.at, sizeof(options));
		if (keep)
			sack_translate(&options, (uint32_t)n, -ack_sub, keep);
		if (keep)
			assert_memory_equal(options.at, original.at, sizeof(options));
	}
	assert_true(found > RANDOM_OPTIONS / 20);
}

/* What storing other options does to the checksum of the segment around them. */
static void options_sum_agrees(void **state)
{
	struct tcp_options from, to;

	(void)state;
	for (int i = 0; i < RANDOM_OPTIONS / 10; i++) {
		size_t n = random_options(&from);
		uint16_t rest = (uint16_t)random32(), before, after;

		to = from;
		random_fill(to.at, n);
		before = be16_from_host((uint16_t)~wire_sum(rest, from.at, n));
		after = be16_from_host((uint16_t)~wire_sum(rest, to.at, n));
		assert_int_equal(checksum_update(before, checksum_diff(options_sum(&from, &to))), after);
	}
}

/* ---- answers and histograms ---- */

static void status_lines(void **state)
{
	static const struct {
		const char *line;
		uint32_t status;
	} lines[] = { { "HTTP/1.1 200", 200 }, { "HTTP/1.0 404", 404 }, { "HTTP/1.1 000", 0 }, { "HTTP/1.1 999", 999 },
		{ "HTTP/1.1 20 ", 0 },
		{ "HTTP/1.1 2/0", 0 }, { "HTTP/1.1 20:", 0 }, { "HTTP/1.12200", 0 }, { "TTTP/1.1 200", 0 },
			{ "data: {}\n\n\n", 0 } };

	(void)state;
	for (size_t i = 0; i < COUNT(lines); i++)
		assert_int_equal(answer_status((const uint8_t *)lines[i].line), lines[i].status);
}

static void histogram_buckets(void **state)
{
	(void)state;
	assert_int_equal(histogram_bucket(0), 0);
	assert_int_equal(histogram_bucket(999), 0);
	for (uint32_t i = 0; i < LLMD_HISTOGRAM_N - 1; i++) {
		assert_int_equal(histogram_bucket((UINT64_C(1) << i) * 1000), i);
		assert_int_equal(histogram_bucket((UINT64_C(2) << i) * 1000 - 1), i);
	}
	for (uint32_t i = LLMD_HISTOGRAM_N - 1; i < 54; i++)
		assert_int_equal(histogram_bucket((UINT64_C(1) << i) * 1000), LLMD_HISTOGRAM_N - 1);
	assert_int_equal(histogram_bucket(UINT64_MAX), LLMD_HISTOGRAM_N - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(translated_checksums_are_right),
		cmocka_unit_test(translation_and_back),
		cmocka_unit_test(windows),
		cmocka_unit_test(cut_everywhere),
		cmocka_unit_test(syn_options_agree),
		cmocka_unit_test(sack_agrees),
		cmocka_unit_test(options_sum_agrees),
		cmocka_unit_test(status_lines),
		cmocka_unit_test(histogram_buckets),
	};

	return cmocka_run_group_tests_name("bpf_lib", tests, NULL, NULL);
}
