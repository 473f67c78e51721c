// SPDX-License-Identifier: Apache-2.0
/* See options.h. What must come out follows from the kind alone, not from a parser like the one under test. */
#include "tests/bpf/options.h"

#include <stdio.h>
#include <string.h>

#include "tests/bpf/run.h"

enum { OPTIONS_MAX = 40, MSS_LIMIT = 1000, NOP = 1 };
enum fate { STAYS, GOES, IS_CLAMPED, IS_SIGNED };

static const struct {
	uint8_t kind, length;
	enum fate fate;
} kinds[] = {
	{ 2, 4, IS_CLAMPED },	/* MSS */
	{ 3, 3, STAYS },	/* window scale */
	{ 4, 2, STAYS },	/* SACK permitted */
	{ 5, 10, GOES },	/* SACK */
	{ 6, 6, GOES }, { 7, 6, GOES }, /* echo, echo reply */
	{ 8, 10, GOES },	/* timestamps */
	{ 9, 2, GOES }, { 10, 3, GOES }, { 11, 6, GOES }, { 14, 3, GOES }, { 18, 3, GOES },
	{ 19, 18, IS_SIGNED },	/* MD5 */
	{ 27, 8, GOES },	/* quick start */
	{ 28, 4, GOES },	/* user timeout */
	{ 29, 16, IS_SIGNED },	/* TCP-AO */
	{ 30, 12, GOES },	/* multipath */
	{ 34, 10, GOES },	/* fast open */
	{ 69, 2, GOES },	/* encryption negotiation */
	{ 172, 3, GOES }, { 174, 2, GOES }, /* accurate ECN */
	{ 253, 6, GOES }, { 254, 6, GOES }, /* experiments */
	{ 255, 2, GOES },
};

/* NOPs, the option at @offset, and behind it what must not be touched: an MSS, if there is room. */
static size_t lay_out(uint8_t options[OPTIONS_MAX], size_t k, size_t offset)
{
	size_t end = offset + kinds[k].length, n = (end + 3) / 4 * 4;

	memset(options, NOP, OPTIONS_MAX);
	options[offset] = kinds[k].kind;
	options[offset + 1] = kinds[k].length;
	for (size_t i = 2; i < kinds[k].length; i++)
		options[offset + i] = (uint8_t)(0xa0 + i);
	if (end + 4 > OPTIONS_MAX)
		return n;
	memcpy(options + end, (const uint8_t[]){ 2, 4, 0x02, 0x18 }, 4);
	return (end + 4 + 3) / 4 * 4;
}

static void change(uint8_t *option, size_t k, bool clamps)
{
	if (kinds[k].fate == GOES)
		memset(option, NOP, kinds[k].length);
	if (kinds[k].fate == IS_CLAMPED && clamps) {
		option[2] = MSS_LIMIT >> 8;
		option[3] = MSS_LIMIT & 0xff;
	}
}

static void run_one(struct fixture fixture, size_t k, size_t offset, bool clamps)
{
	uint8_t from[OPTIONS_MAX], to[OPTIONS_MAX];
	bool is_signed = kinds[k].fate == IS_SIGNED;
	struct step *step = &fixture.step[0];
	char name[64];

	fixture.name = name;
	step->in.options = (struct wire_bytes){ from, lay_out(from, k, offset) };
	memcpy(to, from, sizeof(to));
	change(to + offset, k, clamps);
	step->out = step->in;
	step->out.options.at = to;
	step->why[0] = is_signed ? REASON_SYN_SIGNED : REASON_SYN_CLEANED;
	if (is_signed && step->program == INGRESS)
		fixture.noted = (struct noted){ 0 };
	snprintf(name, sizeof(name), "option %u at offset %zu", kinds[k].kind, offset);
	fixture_run(&fixture);
}

static void run_everywhere(const struct fixture *fixture, bool clamps)
{
	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
		for (size_t offset = 0; offset + kinds[k].length <= OPTIONS_MAX; offset++)
			run_one(*fixture, k, offset, clamps);
}

void options_of_syn_everywhere(void **state)
{
	static const struct fixture fixture = { .noted = { .isn_in = 1000, .ifindex_in = true },
		.step = { { .in = C4(1000, 0, WIRE_SYN), .verdict = PASS } } };

	(void)state;
	run_everywhere(&fixture, false);
}

void options_of_synack_everywhere(void **state)
{
	static const struct fixture fixture = { .mss = MSS_LIMIT + 20, .noted_before = { .isn_in = 1000, .ifindex_in = true },
		.noted = { .isn_in = 1000, .isn_out = 5000, .ifindex_in = true, .ifindex_out = true, .told_mss = MSS_LIMIT },
		.step = { { .program = EGRESS, .in = PC6(5000, 1001, WIRE_SYN | WIRE_ACK), .verdict = PASS } } };

	(void)state;
	run_everywhere(&fixture, true);
}

/* @less: what the numbers of the @blocks become less by; not @kept: all becomes NOPs. */
static size_t lay_out_sack(uint8_t *options, size_t offset, size_t blocks, uint32_t less, bool kept)
{
	size_t length = 2 + 8 * blocks;

	memset(options, NOP, OPTIONS_MAX);
	if (kept) {
		options[offset] = 5;
		options[offset + 1] = (uint8_t)length;
	}
	for (size_t i = 0; kept && i < 2 * blocks; i++)
		wire_put32(options + offset + 2 + 4 * i, (uint32_t)(0x00010203 + i * 0x61a80b07) - less);
	return (offset + length + 3) / 4 * 4;
}

static void run_sack(const struct connection *conn, bool down, size_t blocks, size_t offset)
{
	uint8_t from[OPTIONS_MAX], to[OPTIONS_MAX];
	struct fixture up_fixture = { .conn = conn, .step = { { .in = C4(REQUEST_END, ANSWER, WIRE_ACK),
		.out = CP4(REQUEST_END_POD, ANSWER_POD, WIRE_ACK),
		.verdict = SEND, .why = { REASON_FORWARDED_UP } } } };
	struct fixture down_fixture = { .conn = conn, .step = { { .in = P4(ANSWER_POD, REQUEST_END_POD, WIRE_ACK),
		.out = PC4(ANSWER, REQUEST_END, WIRE_ACK),
		.verdict = SEND, .why = { REASON_FORWARDED_DOWN } } } };
	struct fixture *fixture = down ? &down_fixture : &up_fixture;
	char name[64];
	size_t n;

	n = lay_out_sack(from, offset, blocks, 0, true);
	lay_out_sack(to, offset, blocks, down ? conn->e : conn->d, conn->sack);
	snprintf(name, sizeof(name), "%zu SACK blocks at offset %zu", blocks, offset);
	fixture->name = name;
	fixture->step[0].in.options = (struct wire_bytes){ from, n };
	fixture->step[0].out.options = (struct wire_bytes){ to, n };
	fixture_run(fixture);
}

static void run_sack_everywhere(const struct connection *conn)
{
	for (size_t blocks = 1; blocks <= 4; blocks++)
		for (size_t offset = 0; offset + 2 + 8 * blocks <= OPTIONS_MAX; offset++) {
			run_sack(conn, false, blocks, offset);
			run_sack(conn, true, blocks, offset);
		}
}

void options_sack_everywhere(void **state)
{
	(void)state;
	run_sack_everywhere(&conn4);
}

void options_sack_blanked_everywhere(void **state)
{
	struct connection conn = conn4;

	(void)state;
	conn.sack = false;
	run_sack_everywhere(&conn);
}
