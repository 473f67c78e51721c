// SPDX-License-Identifier: Apache-2.0
/*
 * The loop over a fixture's packets.
 *
 * How it works
 *
 * For each packet the whole state that programs write is read before and after, and what the fixture says is applied to
 * the state before: everything else must be as it was. That a packet belongs to a connection, and so is counted in its
 * slot, follows from map "flows".
 */
#include "tests/bpf/run.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>

#include "tests/bpf/world.h"
#include "tests/unit/test.h"

enum { ROOM_MAX = 256 };

/*
 * @owner: number of the slot whose connection the packet belongs to; @opened: of the slot of the straight connection that
 * it opens. WORLD_SLOTS: none.
 */
struct run {
	const struct fixture *fixture;
	const struct step *step;
	bool ethernet;
	struct slot before[WORLD_SLOTS];
	uint32_t owner, opened;
	bool from_pod;
};

static bool has_met[REASON_N];

static const char *const reason_names[REASON_N] = {
#define REASON_NAME(name, text, meaning) [REASON_##name] = text,
	LLMD_REASONS(REASON_NAME)
#undef REASON_NAME
};

bool fixture_has_met(enum reason why)
{
	return has_met[why];
}

#define FAIL(run, format, ...) \
	fail_msg("%s, %s, packet %d: " format, (run)->fixture->name, (run)->ethernet ? "Ethernet" : "L3", \
		(int)((run)->step - (run)->fixture->step) + 1, __VA_ARGS__)
#define EXPECT(run, what, got, expected) do { \
	if ((got) != (expected)) \
		FAIL(run, "%s is %lld, not %lld", what, (long long)(got), (long long)(expected)); \
} while (0)

static bool is_expected(const struct step *step, enum reason why)
{
	for (size_t i = 0; i < REASONS_MAX; i++)
		if (step->why[i] == why)
			return true;
	return false;
}

/* ---- one packet through the program ---- */

static void check_bytes(const struct run *run, const uint8_t *got, size_t n)
{
	const struct step *step = run->step;
	/* For the redirect: it replaces what is in an Ethernet header. */
	size_t room = !run->ethernet && step->verdict == SEND ? WIRE_ETHERNET : 0;
	uint8_t expected[WIRE_ETHERNET + WIRE_MAX] = { 0 };
	size_t length = room + wire_build(expected + room, step->out.from ? &step->out : &step->in, run->ethernet);

	if (n == length && !memcmp(got, expected, n))
		return;
	wire_print("expected", expected, length);
	wire_print("got", got, n);
	FAIL(run, "%s", "another packet comes out");
}

static void run_packet(const struct run *run)
{
	const struct step *step = run->step;
	uint8_t in[WIRE_MAX], out[WIRE_MAX + ROOM_MAX];
	struct __sk_buff ctx = { .ingress_ifindex = step->forwarded ? CLIENT_IFINDEX : 0 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = in, .data_out = out, .data_size_out = sizeof(out), .ctx_in = &ctx,
		.ctx_size_in = sizeof(ctx), .repeat = 1);

	opts.data_size_in = (uint32_t)wire_build(in, &step->in, run->ethernet);
	/* Of a packet that begins with the IP header the kernel would take the sum from somewhere within. */
	if (run->ethernet && world_has_complete())
		opts.flags = BPF_F_TEST_SKB_CHECKSUM_COMPLETE;
	if (bpf_prog_test_run_opts(world_program(step->program, run->ethernet), &opts))
		FAIL(run, "%s", errno == EBADMSG ? "the device's checksum is not kept up to date" : strerror(errno));
	EXPECT(run, "the verdict", (int)opts.retval, step->verdict);
	check_bytes(run, out, opts.data_size_out);
}

/* ---- whose it is ---- */

/* Before the keys of a connection are looked at, or without a look at them. */
static bool is_seen(enum reason why)
{
	return why != REASON_TOO_BIG && why != REASON_TOO_NARROW && why != REASON_VLAN && why != REASON_FRAGMENT &&
	       why != REASON_IP_OPTIONS && why != REASON_MALFORMED &&
	       why != REASON_STALE_ENTRY && why != REASON_NOT_OURS;
}

static void find_owner(struct run *run)
{
	const struct step *step = run->step;
	struct flow_key key;
	struct flow flow;

	run->owner = WORLD_SLOTS;
	run->opened = is_expected(step, REASON_AFFINITY_STRAIGHT) ? STRAIGHT_SLOT : WORLD_SLOTS;
	run->from_pod = false;
	world_slots(run->before);
	world_key(&key, step->in.from, step->in.to);
	if (step->program != INGRESS || !is_seen(step->why[0]) || !world_flow(&key, &flow))
		return;
	run->owner = flow.slot;
	run->from_pod = flow.from_pod;
}

/* ---- slots ---- */

static void apply(struct slot *slot, const struct step *step)
{
#define APPLY(field) slot->field = step->after.field ? (__typeof__(slot->field))step->after.field : slot->field
	APPLY(flags);
	APPLY(pod_ack);
	APPLY(pod_start);
	APPLY(pod_next);
	APPLY(pod_fin);
	APPLY(client_ack);
	APPLY(client_next);
	APPLY(client_fin);
	APPLY(agent_end);
	APPLY(status);
	APPLY(requests);
#undef APPLY
	slot->flags &= ~step->cut_flags;
	if (slot->flags & SLOT_AFFINITY)
		slot->client_start = slot->pod_start; /* numbers do not move */
}

static void expect_traffic(const struct run *run, struct slot *slot)
{
	if (run->from_pod) {
		slot->packets_down++;
		slot->bytes_down += run->step->in.payload.n;
	} else {
		slot->packets_up++;
		slot->bytes_up += run->step->in.payload.n;
	}
}

static bool is_ipv6(const struct step *step)
{
	return step->in.from[0] == '[';
}

/* A slot that a SYN has opened. */
static void expect_straight(const struct step *step, struct slot *slot)
{
	bool ipv6 = is_ipv6(step);

	slot->state = SLOT_HANDED;
	slot->flags = SLOT_AFFINITY | SLOT_ACKED;
	slot->pod_ack = step->in.seq;
	slot->client_isn = step->in.seq;
	slot->client_next = step->in.seq + 1 + (uint32_t)step->in.payload.n;
	slot->request_end = step->in.seq + 1;
	slot->endpoint = ipv6 ? ENDPOINT6 : ENDPOINT;
	slot->generation = ENDPOINT_GENERATION;
	world_key(&slot->client, step->in.from, step->in.to);
	world_key(&slot->pod, ipv6 ? POD6 : POD, ipv6 ? STRAIGHT6 : STRAIGHT);
}

/* Times differ from run to run: whether they were set is what counts. */
static void check_times(const struct run *run, const struct slot *got, const struct slot *before)
{
	bool is_answer = run->from_pod && run->step->in.payload.n;
	uint64_t now_ns = world_now_ns();

	if (got->last_ns > now_ns || got->first_ns > now_ns || got->last_data_ns > now_ns)
		FAIL(run, "%s", "a time lies ahead");
	if (!got->last_ns)
		FAIL(run, "%s", "the packet's time is not noted");
	if (is_answer != (got->last_data_ns > before->last_data_ns))
		FAIL(run, "%s", "the payload's time is not noted, or that of something else");
	if (!got->first_ns != !(got->flags & SLOT_CONTENT))
		FAIL(run, "%s", "the first content's time does not agree with its flag");
}

static void copy_times(struct slot *to, const struct slot *from)
{
	to->last_ns = from->last_ns;
	to->first_ns = from->first_ns;
	to->last_data_ns = from->last_data_ns;
	to->begun_ns = from->begun_ns;
}

static void check_slot(const struct run *run, const struct slot *got, const struct slot *expected)
{
	struct slot rest = *expected;

#define CHECK(field) EXPECT(run, "slot." #field, got->field, expected->field)
	CHECK(state);
	EXPECT(run, "slot.flags", got->flags & ~(__u32)SLOT_ANSWERED, expected->flags & ~(__u32)SLOT_ANSWERED); /* see is_answered() */
	CHECK(gen);
	CHECK(pod_ack);
	CHECK(pod_next);
	CHECK(pod_fin);
	if (run->step->after.client_ack)
		CHECK(client_ack);
	CHECK(client_next);
	CHECK(client_fin);
	CHECK(status);
	CHECK(requests);
	CHECK(packets_up);
	CHECK(packets_down);
	CHECK(bytes_up);
	CHECK(bytes_down);
	CHECK(pod_start);
	CHECK(client_start);
	CHECK(client_isn);
#undef CHECK
	rest.flags = got->flags;
	rest.client_ack = got->client_ack; /* each of the client's packets has one */
	if (memcmp(got, &rest, sizeof(*got)))
		FAIL(run, "%s", "another field of a slot has changed");
}

static void check_slots(const struct run *run)
{
	struct slot after[WORLD_SLOTS], expected;

	world_slots(after);
	for (uint32_t i = 0; i < WORLD_SLOTS; i++) {
		expected = run->before[i];
		if (i == run->owner || i == run->opened) {
			check_times(run, &after[i], &run->before[i]);
			copy_times(&expected, &after[i]);
			expect_traffic(run, &expected);
		}
		if (i == run->owner || (i == SLOT && run->step->program == EGRESS))
			apply(&expected, run->step);
		if (i == run->opened)
			expect_straight(run->step, &expected);
		/* It was filled in before there turned out to be no room: what is in a free slot does not matter. */
		if (i == STRAIGHT_SLOT && is_expected(run->step, REASON_AFFINITY_FULL)) {
			EXPECT(run, "the slot's state", after[i].state, SLOT_FREE);
			continue;
		}
		check_slot(run, &after[i], &expected);
	}
}

/* ---- entries of a straight connection ---- */

static void check_straight_entry(const struct run *run, const struct flow_key *key, const struct flow *expected)
{
	struct flow flow;

	if (!world_flow(key, &flow))
		FAIL(run, "%s", "an entry of the straight connection is missing");
	if (memcmp(&flow, expected, sizeof(flow)))
		FAIL(run, "%s", "an entry of the straight connection differs");
}

static void check_straight(const struct run *run)
{
	const struct wire *in = &run->step->in;
	bool ipv6 = is_ipv6(run->step);
	struct flow up = { .gen_head = STRAIGHT_GEN, .gen_tail = STRAIGHT_GEN, .slot = STRAIGHT_SLOT, .sack = 1 };
	struct flow down = up;
	struct flow_key key;

	down.from_pod = 1;
	down.ifindex = TEST_IFINDEX;
	world_key(&up.to, ipv6 ? STRAIGHT6 : STRAIGHT, ipv6 ? POD6 : POD);
	world_key(&down.to, in->to, in->from);
	world_key(&key, in->from, in->to);
	check_straight_entry(run, &key, &up);
	world_key(&key, ipv6 ? POD6 : POD, ipv6 ? STRAIGHT6 : STRAIGHT);
	check_straight_entry(run, &key, &down);
}

/* ---- what is counted and told ---- */

static void check_reasons(const struct run *run, const struct world_counts *counts)
{
	for (uint32_t why = REASON_NONE; why < REASON_N; why++) {
		bool expected = is_expected(run->step, why) && why != REASON_NONE && why != REASON_NOT_OURS;

		if (counts->reason[why] != expected)
			FAIL(run, "reason %s is counted %llu times, not %d", reason_names[why],
				(unsigned long long)counts->reason[why], expected);
		has_met[why] = has_met[why] || expected;
	}
}

static void expect_histograms(const struct run *run, struct endpoint_stats *expected, const struct endpoint_stats *got)
{
	const struct step *step = run->step;

	if (step->ttft_bucket) {
		expected->ttft[step->ttft_bucket] = 1;
		expected->ttft_sum_ns = got->ttft_sum_ns;
		if (got->ttft_sum_ns < step->ttft_ago_us * 1000ull)
			FAIL(run, "%s", "the time to the first content is too short");
	}
	if (step->itl_bucket) {
		expected->itl[step->itl_bucket] = 1;
		expected->itl_sum_ns = got->itl_sum_ns;
		if (got->itl_sum_ns < step->gap_us * 1000ull)
			FAIL(run, "%s", "the gap is too short");
	}
}

static void check_histogram(const struct run *run, const char *what, const __u64 *got, const __u64 *expected)
{
	for (int i = 0; i < LLMD_HISTOGRAM_N; i++)
		if (got[i] != expected[i])
			FAIL(run, "%s: bucket %d counts %llu, not %llu", what, i, (unsigned long long)got[i],
				(unsigned long long)expected[i]);
}

static void expect_stats(const struct run *run, struct endpoint_stats *expected)
{
	expected->packets_up += !run->from_pod;
	expected->packets_down += run->from_pod;
	expected->bytes_up += run->from_pod ? 0 : run->step->in.payload.n;
	expected->bytes_down += run->from_pod ? run->step->in.payload.n : 0;
}

/* @slots: as they are now. */
static void check_stats(const struct run *run, const struct world_counts *counts, const struct slot slots[WORLD_SLOTS])
{
	for (uint32_t i = 0; i < sizeof(counts->endpoint) / sizeof(counts->endpoint[0]); i++) {
		const struct endpoint_stats *got = &counts->endpoint[i];
		struct endpoint_stats expected = { 0 };

		if (run->opened < WORLD_SLOTS && slots[run->opened].endpoint == i)
			expect_stats(run, &expected);
		if (run->owner < WORLD_SLOTS && slots[run->owner].endpoint == i) {
			expect_stats(run, &expected);
			expected.flows = run->from_pod && !run->before[run->owner].packets_down;
			expected.resets = run->step->events & EVENT(EVENT_END) && slots[run->owner].flags & SLOT_RESET;
			expect_histograms(run, &expected, got);
		}
		check_histogram(run, "TTFT", got->ttft, expected.ttft);
		check_histogram(run, "ITL", got->itl, expected.itl);
		if (memcmp(got, &expected, sizeof(expected)))
			FAIL(run, "the statistics of endpoint %u differ", i);
	}
}

/* The pod's FIN is told once, whatever else the step is about. */
static bool is_answered(const struct run *run, const struct slot *slot)
{
	return run->owner < WORLD_SLOTS && run->from_pod && slot->flags & SLOT_ANSWERED &&
	       !(run->before[run->owner].flags & SLOT_ANSWERED);
}

static void check_events(const struct run *run, const struct slot *slot)
{
	struct event_record events[WORLD_EVENTS];
	uint32_t told = 0;
	size_t n = world_events(events);

	for (size_t i = 0; i < n; i++) {
		EXPECT(run, "the event's slot", events[i].slot, run->owner);
		EXPECT(run, "the event's generation", events[i].gen, slot->gen);
		EXPECT(run, "the event's status", events[i].status, slot->status);
		if (told & EVENT(events[i].type) || !events[i].ns || events[i].ns > world_now_ns())
			FAIL(run, "event %u is told twice or at no time", events[i].type);
		told |= EVENT(events[i].type);
	}
	if (run->owner < WORLD_SLOTS && run->from_pod && slot->flags & SLOT_POD_FIN && !(slot->flags & SLOT_ANSWERED))
		FAIL(run, "%s", "the pod's FIN is not noted as the end of the answer");
	EXPECT(run, "the set of events", told, run->step->events | (is_answered(run, slot) ? EVENT(EVENT_ANSWERED) : 0));
}

/* ---- the loop ---- */

/* Times that the packet is measured against; the last thing before it, so that they hold on a busy machine. */
static void set_times(struct run *run)
{
	struct slot *slot = &run->before[run->owner];

	if (run->step->ttft_ago_us)
		slot->begun_ns = world_now_ns() - run->step->ttft_ago_us * 1000ull;
	if (run->step->gap_us)
		slot->last_data_ns = world_now_ns() - run->step->gap_us * 1000ull;
	if (slot->flags & SLOT_CONTENT && !slot->first_ns)
		slot->first_ns = slot->begun_ns;
	world_store_slot(run->owner, slot);
}

static void run_step(struct run *run)
{
	struct world_counts counts;
	struct slot slots[WORLD_SLOTS];

	find_owner(run);
	world_forget_counts();
	if (run->owner < WORLD_SLOTS)
		set_times(run);
	run_packet(run);
	world_counts(&counts);
	world_slots(slots);
	check_reasons(run, &counts);
	check_slots(run);
	check_events(run, &slots[run->owner % WORLD_SLOTS]);
	check_stats(run, &counts, slots);
	if (run->opened < WORLD_SLOTS)
		check_straight(run);
}

static void check_handshake(const struct run *run, const struct flow_key *key)
{
	const struct noted *noted = &run->fixture->noted;
	struct handshake got = { 0 };

	if (world_handshake(key, &got) != (noted->isn_in || noted->isn_out))
		FAIL(run, "%s", "a handshake is noted and should not be, or the other way round");
	EXPECT(run, "isn_in", got.isn_in, noted->isn_in);
	EXPECT(run, "isn_out", got.isn_out, noted->isn_out);
	EXPECT(run, "ifindex_in", got.ifindex_in, noted->ifindex_in ? TEST_IFINDEX : 0u);
	EXPECT(run, "told_mss", got.told_mss, noted->told_mss);
	EXPECT(run, "ifindex_out", got.ifindex_out, noted->ifindex_out ? TEST_IFINDEX : 0u);
}

static void check_affinity(const struct run *run, const struct flow_key *key)
{
	const uint64_t soon_ns = world_now_ns() + 60 * UINT64_C(1000000000);
	struct affinity_entry entry;

	if (world_affinity(key, &entry) != (run->fixture->affinity != AFFINITY_NONE))
		FAIL(run, "%s", "the client's affinity is there and should not be, or the other way round");
	if (run->fixture->affinity == AFFINITY_NONE)
		return;
	EXPECT(run, "refreshed", entry.expires_ns > soon_ns, run->fixture->affinity == AFFINITY_REFRESHED);
	EXPECT(run, "uses", entry.uses, run->fixture->affinity == AFFINITY_REFRESHED ? 2u : 1u);
}

static void run_framed(const struct fixture *fixture, bool ethernet)
{
	struct run run = { .fixture = fixture, .step = fixture->step, .ethernet = ethernet };
	const struct wire *in = &run.step->in;
	struct flow_key key;
	size_t entries;

	world_set_up(fixture);
	entries = world_flow_count();
	for (int i = 0; i < STEPS_MAX && fixture->step[i].in.from; i++) {
		run.step = &fixture->step[i];
		run_step(&run);
	}
	if (fixture->step->program == INGRESS)
		world_key(&key, in->from, in->to);
	else
		world_key(&key, in->to, in->from);
	check_handshake(&run, &key);
	check_affinity(&run, &key);
	EXPECT(&run, "a free slot in the queue", world_takes_slot(),
		fixture->straight && fixture->straight != STRAIGHT_NO_SLOT && fixture->entries_add <= 0);
	EXPECT(&run, "entries added", (int)(world_flow_count() - entries), fixture->entries_add);
}

void fixture_run(const struct fixture *fixture)
{
	if (fixture->framing != L3)
		run_framed(fixture, true);
	if (fixture->framing != ETHERNET)
		run_framed(fixture, false);
}
