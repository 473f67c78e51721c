// SPDX-License-Identifier: Apache-2.0
/*
 * The decision: which endpoint gets a request.
 *
 * How it works
 *
 * Everything is counted in prompt tokens that have to be computed, by an endpoint of the mean pace: one that takes twice as
 * long for a token has its tokens counted twice. The cost of an endpoint for a request is what it has still to compute for
 * others (tokens in flight, and what the engine's own queue holds of others) plus what it would have to compute of this
 * prompt (tokens not cached). Divided by the mean pace these are times: waiting is weighed against computing again.
 *
 * 1. Candidates are the endpoints that are up, serve the model, decode, have room, and have not failed this request.
 * 2. Affinity: the endpoint that the session is bound to; without one, of the endpoints that hold at least
 *    --affinity-threshold of the prompt's blocks the one with the least load.
 * 3. Without affinity the best --weight score wins: share of the prompt that is cached, and freedom of load. A short
 *    common head (a system prompt that everybody shares) moves the score little, so new sessions spread.
 * 4. Sticky until saturated: the endpoint from 2 or 3 keeps the request unless the tokens ahead of it, compared with the
 *    cheapest other one, outweigh what would have to be computed again there (RECOMPUTE_WEIGHT, SATURATION_TOKENS).
 *
 * Load is tokens in flight plus what was placed lately, halved every LOAD_HALF_LIFE_MS: at a low load nothing is in
 * flight when the next session comes, and chance alone balances a few long prompts badly; a session also comes back to
 * where it was placed. Ties are broken at random, so that agents which see the same do not all do the same.
 *
 * Tokens placed lately are kept as worth at a common epoch: nothing decays step by step (Cormode et al., ICDE 2009).
 */
#include "agent/decide.h"

#include <errno.h>
#include <math.h>

#include "agent/decide_private.h"
#include "agent/prefix.h"
#include "agent/session.h"

/*
 * A move makes the prompt's cached part be computed again now, takes cache from others, and is paid once more when the
 * session's other blocks are missed: hence the weight. The slack is eight steps of vLLM's default --max-num-batched-tokens
 * (8192): a queue that is gone within seconds is no reason to move. On the Mooncake conversation trace (docs/testing.md
 * has the command) weight 1 without slack moves a quarter of all turns and loses 3 points of hits; near saturation that
 * costs more time to first token than the waiting it avoids. Where the pace of the pods is known, the slack is what the mean
 * one computes in SATURATION_S, if that is less: on the trace with two of eight pods half as fast, the P95 is a sixth
 * lower with it, and none at all (0 s) costs another point of hits for nothing. A prompt that is cached nowhere loses nothing by
 * another pod but evenness: it gets a NEWCOMER_SLACK-th, which takes a third off the P50 there.
 */
enum { RECOMPUTE_WEIGHT = 4, SATURATION_TOKENS = 8 * 8192, SATURATION_S = 2, NEWCOMER_SLACK = 4 };
/* Of a pod that fails at times, and of one that would have to load an adapter first: as if that much were ahead there. */
enum { DEGRADED_TOKENS = SATURATION_TOKENS, ADAPTER_TOKENS = SATURATION_TOKENS / 2 };
enum { LOAD_HALF_LIFE_MS = 600000, EPOCH_HALF_LIVES = 500, EXPIRE_STEPS = 4 };

/* xorshift64* (Marsaglia 2003, Vigna 2016): only ties depend on it. */
static uint32_t next_random(struct decider *decider)
{
	decider->random ^= decider->random >> 12;
	decider->random ^= decider->random << 25;
	decider->random ^= decider->random >> 27;
	return (uint32_t)(decider->random * 0x2545f4914f6cdd1dull >> 32);
}

/* ---- load ---- */

static double half_lives_since_epoch(const struct decider *decider, uint64_t now_ms)
{
	return (double)(now_ms - decider->epoch_ms) / LOAD_HALF_LIFE_MS;
}

void decider_note_placed(struct decider *decider, uint32_t endpoint, double tokens, uint64_t now_ms)
{
	if (!decider->epoch_ms)
		decider->epoch_ms = now_ms;
	if (half_lives_since_epoch(decider, now_ms) > EPOCH_HALF_LIVES) {
		double worth = exp2(-half_lives_since_epoch(decider, now_ms));

		for (uint32_t i = 0; i < ENDPOINT_MAX; i++)
			decider->placed[i] *= worth;
		decider->epoch_ms = now_ms;
	}
	decider->placed[endpoint] += tokens * exp2(half_lives_since_epoch(decider, now_ms));
}

/* ---- one decision ---- */

/**
 * struct choice - what is known while one request is decided.
 * @worth: of a token placed at the epoch, by now.
 * @slack: tokens that may be ahead of a request without a move being thought of.
 * @full_load: the largest load of all candidates, or 1; @per_full_load and @per_block are one by it and by the blocks.
 */
struct choice {
	struct decider *decider;
	const struct decide_request *request;
	uint64_t model_hash;
	double worth, full_load, per_full_load, per_block, tokens_per_block, slack;
	uint32_t prompt_tokens, n_usable, n_full;
	uint64_t must_serve, adapter; /* bits; 0: any will do */
	bool knows_prompt, is_paced;
};

static inline bool is_candidate(const struct choice *choice, uint32_t i)
{
	const struct endpoint *endpoint = &choice->decider->endpoints->at[i];
	const uint8_t *excluded = choice->request->excluded;

	if (!endpoint_is_usable(endpoint, choice->model_hash) || (excluded && excluded[i / 8] >> i % 8 & 1))
		return false;
	return !choice->must_serve || !endpoint->serves || choice->must_serve & endpoint->serves;
}

static double load_of(const struct choice *choice, uint32_t i)
{
	return choice->decider->load[i];
}

static uint32_t uncached_tokens(const struct choice *choice, uint32_t i)
{
	double cached = choice->decider->depth[i] * choice->tokens_per_block;

	return cached < choice->prompt_tokens ? (uint32_t)(choice->prompt_tokens - cached) : 0;
}

/* In the mean endpoint's tokens. */
static double work_of(const struct choice *choice, uint32_t i)
{
	double tokens = uncached_tokens(choice, i);

	return choice->is_paced ? choice->decider->slowness[i] * tokens : tokens;
}

static double cost_of(const struct choice *choice, uint32_t i)
{
	return choice->decider->ahead[i] + work_of(choice, i);
}

static double score_of(const struct choice *choice, uint32_t i)
{
	return choice->decider->score[i];
}

/* For requests that say nothing about tokens: those in flight count. */
static double idleness_of(const struct choice *choice, uint32_t i)
{
	return -((double)endpoint_requests(&choice->decider->endpoints->at[i]) +
		 load_of(choice, i) / (choice->full_load * ENDPOINT_MAX));
}

static double freedom_of(const struct choice *choice, uint32_t i)
{
	return -load_of(choice, i);
}

static double cheapness_of(const struct choice *choice, uint32_t i)
{
	return -cost_of(choice, i);
}

/*
 * The candidate with the highest value among those that hold @min_depth blocks, a random one of equals; -ENOENT. Inline,
 * so that @value_of is no call for each of a thousand.
 */
static inline __attribute__((always_inline)) int best_of(struct choice *choice, double (*value_of)(const struct choice *, uint32_t), uint32_t min_depth)
{
	double best = -INFINITY;
	uint32_t equals = 0;
	int found = -ENOENT;

	for (uint32_t n = 0; n < choice->n_usable; n++) {
		uint32_t i = choice->decider->candidate[n];
		double value;

		if (choice->decider->depth[i] < min_depth)
			continue;
		value = value_of(choice, i);
		if (value < best)
			continue;
		equals = value > best ? 1 : equals + 1;
		if (equals == 1 || next_random(choice->decider) % equals == 0)
			found = (int)i;
		best = value;
	}
	return found;
}

/* What is to be computed there before the request, in tokens of an endpoint of the mean pace. */
static double ahead_of(const struct choice *choice, const struct endpoint *endpoint, float slowness)
{
	double ahead = slowness * (double)endpoint_tokens_ahead(endpoint);

	if (endpoint->state == ENDPOINT_DEGRADED)
		ahead += DEGRADED_TOKENS;
	if (choice->adapter && !(choice->adapter & endpoint->loaded))
		ahead += ADAPTER_TOKENS;
	return ahead;
}

/* A thousand endpoints are gone over here for each request: what is seldom there is asked for once. */
static void survey(struct choice *choice)
{
	struct decider *decider = choice->decider;
	const struct endpoint_table *endpoints = decider->endpoints;
	uint64_t most = decider->config.max_inflight ? decider->config.max_inflight : UINT32_MAX;
	float mean_rate = pace_mean_rate(&endpoints->pace_sum), slowness = 1;
	double full_load = 1, worth = choice->worth;
	uint32_t n = 0;

	for (uint32_t i = 0; i < endpoints->n; i++) {
		const struct endpoint *endpoint = &endpoints->at[i];
		double ahead, load;

		if (!is_candidate(choice, i))
			continue;
		if (endpoint->inflight_requests >= most) {
			choice->n_full++;
			continue;
		}
		if (mean_rate > 0)
			decider->slowness[i] = slowness = pace_slowness(mean_rate, endpoint->token_us);
		ahead = ahead_of(choice, endpoint, slowness);
		load = ahead + slowness * decider->placed[i] * worth;
		if (load > full_load)
			full_load = load;
		decider->candidate[n++] = (uint16_t)i;
		decider->ahead[i] = ahead;
		decider->load[i] = load;
	}
	choice->n_usable = n;
	choice->full_load = full_load;
	choice->is_paced = mean_rate > 0;
	choice->slack = SATURATION_TOKENS;
	if (mean_rate > 0 && mean_rate * 1e6 * SATURATION_S < choice->slack)
		choice->slack = mean_rate * 1e6 * SATURATION_S;
	choice->per_full_load = 1 / choice->full_load;
	choice->per_block = choice->request->n_blocks ? 1.0 / choice->request->n_blocks : 0;
}

/* In one loop without a branch, since others go over the scores. What it says of others than candidates means nothing. */
static void score_all(struct choice *choice)
{
	struct decider *decider = choice->decider;
	const double weight_cache = decider->config.weight_cache, weight_load = decider->config.weight_load;
	const double per_block = choice->per_block, per_full_load = choice->per_full_load;
	const uint32_t n = decider->endpoints->n;

	for (uint32_t i = 0; i < n; i++)
		decider->score[i] = weight_cache * (decider->depth[i] * per_block) + weight_load * (1 - decider->load[i] * per_full_load);
}

/* Where the engine counts fewer hits than were expected, as many fewer are expected. */
static void discount(struct choice *choice)
{
	struct decider *decider = choice->decider;

	for (uint32_t n = 0; decider->n_distrusted && n < choice->n_usable; n++) {
		uint32_t i = decider->candidate[n];

		decider->depth[i] = (uint16_t)(decider->depth[i] * decider->endpoints->at[i].trust);
	}
}

/* A model that some endpoint is known to serve is asked only of those; an adapter rather where it is in memory. */
static void settle_model(struct choice *choice)
{
	const struct endpoint_table *endpoints = choice->decider->endpoints;
	uint64_t bit = endpoint_name_bit(endpoints, choice->model_hash);

	choice->must_serve = bit & endpoints->served;
	choice->adapter = bit & endpoints->loaded;
}

static bool has_room(const struct choice *choice, uint32_t i)
{
	uint64_t most = choice->decider->config.max_inflight;

	return is_candidate(choice, i) && (!most || choice->decider->endpoints->at[i].inflight_requests < most);
}

static int round_robin(struct choice *choice)
{
	struct decider *decider = choice->decider;

	for (uint32_t n = 0; n < decider->endpoints->n; n++) {
		uint32_t i = (uint32_t)(decider->round++ % decider->endpoints->n);

		if (has_room(choice, i))
			return (int)i;
	}
	return -ENOENT;
}

/* The endpoint that the session is bound to, if it can take the request; else -ENOENT and whether it was bound. */
static int bound_endpoint(const struct choice *choice, uint64_t now_ms, bool *was_bound)
{
	const struct decide_request *request = choice->request;
	const struct session *session =
		request->has_session ? session_find(choice->decider->sessions, request->session, now_ms) : NULL;

	*was_bound = session;
	if (!session || choice->decider->endpoints->at[session->endpoint].generation != session->generation ||
		!has_room(choice, session->endpoint))
		return -ENOENT;
	return (int)session->endpoint;
}

/* Unless what is ahead there weighs more than what a move would make others compute again. */
static int unless_saturated(struct choice *choice, int preferred, enum decision_reason then, enum decision_reason *reason)
{
	double there = choice->decider->ahead[preferred], work = work_of(choice, (uint32_t)preferred), ahead, recompute;
	int cheapest;

	/* Then not even one with nothing in flight and all cached would be cheaper by enough: it is not looked for. */
	if (there + RECOMPUTE_WEIGHT * work <= choice->slack)
		return preferred;
	cheapest = best_of(choice, cheapness_of, 0);
	ahead = there - choice->decider->ahead[cheapest];
	recompute = work_of(choice, (uint32_t)cheapest) - work;
	if (ahead <= RECOMPUTE_WEIGHT * recompute + choice->slack)
		return preferred;
	*reason = then;
	return cheapest;
}

static int choose_cache_aware(struct choice *choice, uint64_t now_ms, enum decision_reason *reason)
{
	const struct decide_config *config = &choice->decider->config;
	uint32_t enough = (uint32_t)ceil(config->affinity_threshold * choice->request->n_blocks);
	bool was_bound;
	int found = bound_endpoint(choice, now_ms, &was_bound);

	if (found >= 0) {
		*reason = DECISION_SESSION;
		return unless_saturated(choice, found, DECISION_SESSION_SATURATED, reason);
	}
	if (enough)
		found = best_of(choice, freedom_of, enough);
	if (found >= 0) {
		*reason = was_bound ? DECISION_SESSION_LOST : DECISION_PREFIX;
		return unless_saturated(choice, found, was_bound ? DECISION_SESSION_LOST : DECISION_PREFIX_SATURATED, reason);
	}
	*reason = was_bound ? DECISION_SESSION_LOST : DECISION_SCORE;
	found = best_of(choice, score_of, 0);
	choice->slack /= NEWCOMER_SLACK;
	return found < 0 ? found : unless_saturated(choice, found, *reason, reason);
}

static int choose(struct choice *choice, uint64_t now_ms, enum decision_reason *reason)
{
	bool was_bound;
	int found;

	switch (choice->decider->config.policy) {
	case POLICY_ROUND_ROBIN:
		*reason = DECISION_ROUND_ROBIN;
		return round_robin(choice);
	case POLICY_SESSION:
		found = bound_endpoint(choice, now_ms, &was_bound);
		*reason = found >= 0 ? DECISION_SESSION : was_bound ? DECISION_SESSION_LOST : DECISION_LOAD;
		return found >= 0 ? found : best_of(choice, idleness_of, 0);
	case POLICY_LEAST_LOAD:
		break;
	case POLICY_PREFIX_CACHE_AWARE:
		if (choice->knows_prompt || choice->request->has_session)
			return choose_cache_aware(choice, now_ms, reason);
		break;
	}
	*reason = DECISION_LOAD;
	return best_of(choice, idleness_of, 0);
}

/* ---- what is told of it ---- */

static struct decision_candidate candidate(const struct choice *choice, uint32_t i)
{
	return (struct decision_candidate){
		.index = i,
		.cached_blocks = choice->decider->depth[i],
		.inflight_tokens = choice->decider->endpoints->at[i].inflight_tokens,
		.score = score_of(choice, i),
	};
}

/* The chosen one first, then the best by score. */
static void list_candidates(const struct choice *choice, struct decision *out)
{
	struct decision_candidate *list = out->candidate;

	list[0] = candidate(choice, (uint32_t)out->endpoint);
	out->n_candidates = 1;
	for (uint32_t n = 0; n < choice->n_usable; n++) {
		uint32_t i = choice->decider->candidate[n], at = out->n_candidates;
		double score;

		if ((int)i == out->endpoint)
			continue;
		score = score_of(choice, i);
		if (at == DECISION_CANDIDATES_MAX && score <= list[at - 1].score)
			continue;
		if (at == DECISION_CANDIDATES_MAX)
			at--;
		else
			out->n_candidates++;
		for (; at > 1 && list[at - 1].score < score; at--)
			list[at] = list[at - 1];
		list[at] = candidate(choice, i);
	}
}

static void describe(const struct choice *choice, int endpoint, enum decision_reason reason, struct decision *out)
{
	out->endpoint = endpoint;
	out->reason = reason;
	out->n_blocks = choice->request->n_blocks;
	out->cached_blocks = choice->decider->depth[endpoint];
	out->prompt_tokens = choice->prompt_tokens;
	out->uncached_tokens = uncached_tokens(choice, (uint32_t)endpoint);
	out->n_usable = choice->n_usable;
	list_candidates(choice, out);
}

static void remember(struct choice *choice, const struct decision *decision, uint64_t now_ms)
{
	const struct decide_request *request = choice->request;
	struct decider *decider = choice->decider;
	const struct decider_listener *told = &decider->listener;
	uint32_t i = (uint32_t)decision->endpoint;
	double cached = decision->cached_blocks / decider->endpoints->at[i].trust * choice->tokens_per_block; /* before the discount */
	bool is_new = request->has_session &&
		      session_bind(decider->sessions, request->session, i, decider->endpoints->at[i].generation, now_ms);

	if (request->has_session && told->bound)
		told->bound(told->ctx, request->session, i, is_new);
	if (request->n_blocks && told->stored)
		told->stored(told->ctx, i, request->blocks, request->n_blocks, decision->uncached_tokens);
	session_expire(decider->sessions, now_ms, EXPIRE_STEPS);
	prefix_insert(decider->prefixes, i, request->blocks, request->n_blocks, now_ms);
	decider_note_placed(decider, i, decision->uncached_tokens, now_ms);
	decider->queried_blocks += request->n_blocks;
	decider->hit_blocks += decision->cached_blocks;
	drift_expect(&decider->drift[i], decision->prompt_tokens, decision->prompt_tokens < cached ? decision->prompt_tokens : cached);
}

int decide(struct decider *decider, const struct decide_request *request, uint64_t now_ms, struct decision *out,
	struct endpoint_claim *claim)
{
	double tokens = (double)request->prompt_bytes / decider->config.bytes_per_token;
	struct choice choice = {
		.decider = decider,
		.request = request,
		.model_hash = endpoint_model_hash(request->model),
		.worth = exp2(decider->epoch_ms ? -half_lives_since_epoch(decider, now_ms) : 0),
		.tokens_per_block = decider->config.prefix_block_bytes / decider->config.bytes_per_token,
		.prompt_tokens = tokens < UINT32_MAX ? (uint32_t)ceil(tokens) : UINT32_MAX,
		.knows_prompt = request->prompt_bytes,
	};
	enum decision_reason reason = DECISION_NONE;
	int endpoint;

	decider_follow_endpoints(decider);
	settle_model(&choice);
	survey(&choice);
	prefix_match(decider->prefixes, request->blocks, request->n_blocks, decider->endpoints->n, decider->depth);
	discount(&choice);
	score_all(&choice);
	endpoint = choose(&choice, now_ms, &reason);
	if (endpoint < 0) {
		*out = (struct decision){ .endpoint = -ENOENT, .reason = DECISION_NONE };
		return choice.n_full ? -EBUSY : -ENOENT;
	}
	describe(&choice, endpoint, reason, out);
	remember(&choice, out, now_ms);
	endpoint_claim_take(decider->endpoints, (uint32_t)endpoint, out->uncached_tokens, claim);
	return 0;
}
