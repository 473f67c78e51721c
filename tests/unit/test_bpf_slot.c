// SPDX-License-Identifier: Apache-2.0
/*
 * The life of a handed-over connection (bpf/lib/slot.h), against a model that counts in 64 bits and so never wraps. Lives
 * start at random numbers; their packets come in order, late, twice and from outside any window.
 */
#include "tests/unit/test.h"

#include "bpf/lib/slot.h"

enum { LIVES = 20000, PACKETS = 60, FAR = 4000 };

static uint64_t random_state = 0x2545f4914f6cdd1d;

static uint32_t random_below(uint32_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 16) % n;
}

/* Numbers count from the start of the connection: @base is taken off, so that 0 may lie anywhere. */
struct model {
	uint64_t pod_ack, pod_next, pod_start, client_ack, client_next, agent_end, pod_fin, client_fin;
	uint32_t flags, requests;
	uint64_t request_end;
	uint32_t client_isn;
};

/* What a packet says, in full numbers. */
struct said {
	uint64_t seq, ack;
	uint32_t len;
	uint8_t flags;
};

struct life {
	struct model model;
	struct slot slot;
	struct flow up;
	uint32_t client_base, pod_base; /* on the pod's connection */
};

static uint64_t max(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t end_of(const struct said *said)
{
	return said->seq + said->len + !!(said->flags & TCP_SYN) + !!(said->flags & TCP_FIN);
}

/* @behind: how far what it acknowledges may lie back. */
static bool model_is_plausible(const struct said *said, uint64_t next, uint64_t peer_next, uint64_t behind)
{
	return said->flags & TCP_ACK && end_of(said) <= next + SLOT_WINDOW && next <= end_of(said) + SLOT_WINDOW &&
	       said->ack <= peer_next + 1 && peer_next <= said->ack + behind;
}

static bool model_is_acked(const struct model *model)
{
	return model->flags & SLOT_ACKED || model->pod_ack >= model->agent_end;
}

/* ---- the model ---- */

/* @valid: a RST in order. Any other packet behind one makes it doubtful. */
static void model_reset(struct model *model, bool valid, uint32_t flags)
{
	if (valid && !(model->flags & SLOT_RESET))
		model->flags |= flags;
	if (valid)
		model->flags &= ~(uint32_t)SLOT_DOUBTED;
}

static void model_life(struct model *model)
{
	if (model->flags & SLOT_RESET)
		model->flags |= SLOT_DOUBTED;
}

static enum reason model_client(struct model *model, const struct said *said)
{
	bool closed = model->flags & SLOT_RESET || (model->flags & SLOT_CLIENT_FIN_ACKED && model->flags & SLOT_POD_FIN);
	bool valid;

	if (said->flags & TCP_SYN)
		return said->seq == model->client_isn ? REASON_SYN_REPEATED : closed ? REASON_SYN_REUSED : REASON_SYN_LIVE;
	if (said->flags & TCP_RST) {
		valid = said->seq == model->pod_ack || (model->flags & SLOT_CLIENT_FIN_ACKED && said->seq == model->pod_ack - 1);
		model_reset(model, valid, SLOT_RESET);
		model->flags |= !valid && said->seq == model->client_next ? SLOT_CLIENT_LEFT : 0;
		return REASON_NONE;
	}
	model_life(model);
	if (!model_is_plausible(said, model->client_next, model->pod_next, SLOT_WINDOW))
		return REASON_NONE;
	model->client_ack = max(model->client_ack, said->ack);
	if (model->flags & SLOT_POD_FIN && said->ack >= model->pod_fin)
		model->flags |= SLOT_POD_FIN_ACKED;
	if (said->len && said->seq >= model->request_end && model->flags & SLOT_ANSWERING) {
		model->flags &= ~(uint32_t)SLOT_ANSWERING;
		model->requests++;
	}
	model->client_next = max(model->client_next, end_of(said));
	if (said->flags & TCP_FIN && end_of(said) > model->pod_ack) {
		model->client_fin = end_of(said);
		model->flags |= SLOT_CLIENT_FIN;
	}
	return REASON_NONE;
}

static enum reason model_pod_close(struct model *model, const struct said *said, bool *is_over)
{
	*is_over = true;
	if (said->flags & TCP_SYN)
		return model_is_acked(model) ? REASON_SYNACK_STALE : REASON_ACK_TO_AGENT;
	if (said->flags & (TCP_RST | TCP_FIN) && !said->len && !model_is_acked(model) && model->pod_next == model->pod_start &&
		!(said->flags & TCP_ACK && said->ack >= model->agent_end))
		return REASON_CLOSE_TO_AGENT;
	if (said->flags & TCP_RST)
		model_reset(model, said->seq == model->pod_next || (model->flags & SLOT_POD_FIN && said->seq == model->pod_fin - 1),
			SLOT_RESET | SLOT_POD_RESET);
	*is_over = said->flags & TCP_RST;
	return REASON_NONE;
}

static enum reason model_pod(struct model *model, const struct said *said)
{
	bool was_acked = model_is_acked(model), is_fin, is_over;
	enum reason why;

	if (model->flags & SLOT_ORPHAN)
		return REASON_ORPHAN;
	why = model_pod_close(model, said, &is_over);
	if (is_over)
		return why;
	model_life(model);
	if (!model_is_plausible(said, model->pod_next, model->client_next, was_acked ? SLOT_WINDOW : SLOT_UNSENT))
		return REASON_NONE;
	is_fin = said->flags & TCP_FIN && end_of(said) >= model->pod_next;
	model->pod_ack = max(model->pod_ack, said->ack);
	if (model->flags & SLOT_CLIENT_FIN && said->ack >= model->client_fin)
		model->flags |= SLOT_CLIENT_FIN_ACKED;
	model->pod_next = max(model->pod_next, end_of(said));
	if (is_fin) {
		model->pod_fin = end_of(said);
		model->flags |= SLOT_POD_FIN;
		return REASON_NONE;
	}
	return !said->len && !was_acked && said->ack < model->agent_end ? REASON_ACK_TO_AGENT : REASON_NONE;
}

/* ---- both beside each other ---- */

static void begin(struct life *life)
{
	/* Not 0: packets from before the hand-off exist. */
	const uint64_t now = 4 * (uint64_t)SLOT_WINDOW;
	struct model *model = &life->model;

	memset(life, 0, sizeof(*life));
	life->client_base = random_below(2) ? random_below(UINT32_MAX) : (uint32_t)-(now + random_below(FAR));
	life->pod_base = random_below(2) ? random_below(UINT32_MAX) : (uint32_t)-(now + random_below(FAR));
	*model = (struct model){ .pod_ack = now - random_below(3) * 100, .pod_next = now, .pod_start = now, .client_ack = now,
		.client_next = now, .agent_end = now,
		.request_end = now, .client_isn = (uint32_t)now - 10000 };
	if (model->pod_ack == now && random_below(2))
		model->flags = SLOT_ACKED;
	life->up = (struct flow){ .seq_add = random_below(UINT32_MAX), .ack_sub = random_below(UINT32_MAX) };
	life->slot = (struct slot){ .flags = model->flags, .pod_ack = (uint32_t)model->pod_ack + life->client_base,
		.pod_next = (uint32_t)now + life->pod_base, .pod_start = (uint32_t)now + life->pod_base, .client_ack = (uint32_t)now + life->pod_base,
		.client_next = (uint32_t)now + life->client_base, .agent_end = (uint32_t)now + life->client_base,
		.request_end = (uint32_t)now + life->client_base - life->up.seq_add,
		.client_isn = model->client_isn + life->client_base - life->up.seq_add };
}

/* Near what is expected next, mostly; or near what is too far off to be believed. */
static uint64_t near(uint64_t expected)
{
	if (!random_below(16))
		expected += random_below(2) ? SLOT_WINDOW : -(uint64_t)SLOT_WINDOW;
	return random_below(3) ? expected : expected - FAR + random_below(2 * FAR);
}

static void say(struct said *said, uint64_t own_next, uint64_t other_next, uint32_t isn)
{
	static const uint8_t flags[] = { TCP_ACK, TCP_ACK, TCP_ACK, TCP_ACK, TCP_ACK, TCP_FIN | TCP_ACK, TCP_FIN | TCP_ACK,
		TCP_RST, TCP_RST | TCP_ACK,
		TCP_SYN, 0 };

	*said = (struct said){ .seq = near(own_next), .ack = near(other_next), .len = random_below(2) ? random_below(1500) : 0,
		.flags = flags[random_below(COUNT(flags))] };
	if (said->flags & TCP_RST && random_below(4))
		said->flags = TCP_ACK;
	if (said->flags & TCP_RST && random_below(2))
		said->seq = own_next - 1; /* of the FIN, if it has said one */
	if (said->flags & TCP_SYN && random_below(2))
		said->seq = isn;
}

static enum reason client_says(struct life *life, const struct said *said)
{
	struct packet packet = { .seq = (uint32_t)said->seq + life->client_base - life->up.seq_add,
		.ack = (uint32_t)said->ack + life->pod_base + life->up.ack_sub, .len = said->len, .flags = said->flags };

	return slot_from_client(&life->slot, &packet, &life->up);
}

static enum reason pod_says(struct life *life, const struct said *said)
{
	struct packet packet = { .seq = (uint32_t)said->seq + life->pod_base,
		.ack = (uint32_t)said->ack + life->client_base, .len = said->len,
		.flags = said->flags };

	return slot_from_pod(&life->slot, &packet);
}

static void compare(const struct life *life)
{
	const struct model *model = &life->model;
	const struct slot *slot = &life->slot;

	assert_int_equal(slot->flags, model->flags);
	assert_int_equal(slot->requests, model->requests);
	assert_int_equal(slot->pod_ack, (uint32_t)model->pod_ack + life->client_base);
	assert_int_equal(slot->client_next, (uint32_t)model->client_next + life->client_base);
	assert_int_equal(slot->pod_next, (uint32_t)model->pod_next + life->pod_base);
	assert_int_equal(slot->client_ack, (uint32_t)model->client_ack + life->pod_base);
	if (model->flags & SLOT_CLIENT_FIN)
		assert_int_equal(slot->client_fin, (uint32_t)model->client_fin + life->client_base);
	if (model->flags & SLOT_POD_FIN)
		assert_int_equal(slot->pod_fin, (uint32_t)model->pod_fin + life->pod_base);
	assert_int_equal(slot_has_acked(slot), model_is_acked(model));
}

/* What the programs do beside: they note that the pod answers, and that the client's address is used anew. */
static void note(struct life *life, enum reason why, bool pod, const struct said *said)
{
	uint32_t flag = why == REASON_SYN_REUSED ? SLOT_ORPHAN : pod && said->len ? SLOT_ANSWERING : 0;

	life->model.flags |= flag;
	if (flag)
		slot_raise(&life->slot, flag);
}

static void live(struct life *life, size_t met[REASON_N])
{
	struct model *model = &life->model;
	enum reason why, expected;
	struct said said;

	for (int i = 0; i < PACKETS; i++) {
		bool pod = random_below(2);

		if (pod)
			say(&said, model->pod_next, model->client_next, 0);
		else
			say(&said, model->client_next, model->pod_next, model->client_isn);
		expected = pod ? model_pod(model, &said) : model_client(model, &said);
		why = pod ? pod_says(life, &said) : client_says(life, &said);
		assert_int_equal(why, expected);
		note(life, why, pod, &said);
		compare(life);
		met[why]++;
	}
}

static void lives_agree_with_the_model(void **state)
{
	static const enum reason all[] = { REASON_NONE, REASON_SYN_REPEATED, REASON_SYN_LIVE, REASON_SYN_REUSED,
		REASON_SYNACK_STALE, REASON_ORPHAN,
		REASON_ACK_TO_AGENT, REASON_CLOSE_TO_AGENT };
	size_t met[REASON_N] = { 0 };
	struct life life;

	(void)state;
	for (int i = 0; i < LIVES; i++) {
		begin(&life);
		live(&life, met);
	}
	for (size_t i = 0; i < COUNT(all); i++)
		assert_true(met[all[i]] > LIVES / 100);
}

/* What the agent's socket may send does not depend on numbers, only on flags: all of them. */
static void agent_to_pod(void **state)
{
	(void)state;
	for (uint32_t bits = 0; bits < 32; bits++) {
		bool acked = bits & 1, agent_fin = bits & 2, fin = bits & 4, rst = bits & 8, payload = bits & 16, strip,
			muted, alien_fin = fin && !agent_fin;
		struct slot slot = { .flags = agent_fin ? SLOT_AGENT_FIN : 0, .pod_ack = 7, .agent_end = acked ? 7 : 8 };
		struct packet packet = { .flags = (uint8_t)(TCP_ACK | (fin ? TCP_FIN : 0) | (rst ? TCP_RST : 0)),
			.seq = slot.agent_end, .len = payload };

		muted = slot_from_agent_to_pod(&slot, &packet, &strip) == REASON_MUTED_POD_SIDE;
		assert_int_equal(muted, acked || rst || (alien_fin && !payload));
		if (!muted)
			assert_int_equal(strip, alien_fin);
	}
}

static void over_and_quiet(void **state)
{
	const uint32_t said = SLOT_CLIENT_FIN_ACKED | SLOT_POD_FIN, acks = SLOT_CLIENT_FIN_ACKED | SLOT_POD_FIN_ACKED;

	(void)state;
	for (uint32_t flags = 0; flags < 128; flags++) {
		struct slot slot = { .flags = flags };

		assert_int_equal(slot_is_quiet(&slot), (flags & said) == said || flags & SLOT_RESET);
		assert_int_equal(slot_is_over(&slot), (flags & acks) == acks || flags & SLOT_RESET || flags & SLOT_ORPHAN);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lives_agree_with_the_model),
		cmocka_unit_test(agent_to_pod),
		cmocka_unit_test(over_and_quiet),
	};

	return cmocka_run_group_tests_name("bpf_slot", tests, NULL, NULL);
}
