// SPDX-License-Identifier: Apache-2.0
/*
 * The decision: which endpoint gets a request.
 *
 * How it works
 *
 * Everything is counted in prompt tokens that have to be computed. The cost of an endpoint for a request is what it has
 * still to compute for others (tokens in flight) plus what it would have to compute of this prompt (tokens not cached).
 *
 * 1. Candidates are the endpoints that are ready, serve the model, decode, and have not failed this request.
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
 * Tokens placed lately are kept as they were worth at a common epoch (forward decay, Cormode et al., ICDE 2009), so that
 * nothing has to be decayed when time passes.
 */
#include "agent/decide.h"

#include <errno.h>
#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "agent/prefix.h"
#include "agent/session.h"

/*
 * A move makes the prompt's cached part be computed again now, takes cache from others, and is paid once more when the
 * session's other blocks are missed: hence the weight. The slack is eight steps of vLLM's default --max-num-batched-tokens
 * (8192): a queue that is gone within seconds is no reason to move. On the Mooncake conversation trace (docs/testing.md
 * has the command) weight 1 without slack moves a quarter of all turns and loses 3 points of hits; near saturation that
 * costs more time to first token than the waiting it avoids.
 */
enum { RECOMPUTE_WEIGHT = 4, SATURATION_TOKENS = 8 * 8192 };
enum { LOAD_HALF_LIFE_MS = 600000, EPOCH_HALF_LIVES = 500, EXPIRE_STEPS = 4 };

struct decider {
	struct decide_config config;
	struct endpoint_table *endpoints;
	struct session_table *sessions;
	struct prefix_index *prefixes;
	uint64_t random, round, epoch_ms;
	uint64_t queried_blocks, hit_blocks;
	double placed[ENDPOINT_MAX]; /* tokens, in the worth of the epoch */
	uint32_t seen_changes;
	struct decider_listener listener;
	uint32_t generation[ENDPOINT_MAX]; /* that the prefixes and @placed belong to */
	uint16_t depth[ENDPOINT_MAX];
	/* Of the present request's candidates, side by side: a decision goes over them several times. */
	uint16_t candidate[ENDPOINT_MAX];
	double inflight[ENDPOINT_MAX], load[ENDPOINT_MAX]; /* by endpoint */
};

struct decider *decider_new(const struct decide_config *config, struct endpoint_table *endpoints)
{
	struct decider *decider = calloc(1, sizeof(*decider));

	if (!decider)
		return NULL;
	decider->config = *config;
	decider->endpoints = endpoints;
	decider->random = config->seed;
	if (!config->seed)
		randombytes_buf(&decider->random, sizeof(decider->random));
	decider->random |= 1; /* xorshift stays at 0 */
	decider->sessions = session_table_new(config->sessions_max, config->session_ttl_ms);
	decider->prefixes = prefix_index_new(config->prefix_blocks_max);
	if (decider->sessions && decider->prefixes)
		return decider;
	decider_free(decider);
	return NULL;
}

void decider_free(struct decider *decider)
{
	if (!decider)
		return;
	session_table_free(decider->sessions);
	prefix_index_free(decider->prefixes);
	free(decider);
}

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
 * @full_load: the largest load of all candidates, or 1; @per_full_load and @per_block are one by it and by the blocks.
 */
struct choice {
	struct decider *decider;
	const struct decide_request *request;
	uint64_t model_hash;
	double worth, full_load, per_full_load, per_block, tokens_per_block;
	uint32_t prompt_tokens, n_usable;
	bool knows_prompt;
};

static inline bool is_candidate(const struct choice *choice, uint32_t i)
{
	const uint8_t *excluded = choice->request->excluded;

	return endpoint_is_usable(&choice->decider->endpoints->at[i], choice->model_hash) &&
	       !(excluded && excluded[i / 8] >> i % 8 & 1);
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

static double cost_of(const struct choice *choice, uint32_t i)
{
	return choice->decider->inflight[i] + uncached_tokens(choice, i);
}

static double score_of(const struct choice *choice, uint32_t i)
{
	const struct decide_config *config = &choice->decider->config;
	double cached = choice->decider->depth[i] * choice->per_block;

	return config->weight_cache * cached + config->weight_load * (1 - load_of(choice, i) * choice->per_full_load);
}

/* For requests that say nothing about tokens: those in flight count. */
static double idleness_of(const struct choice *choice, uint32_t i)
{
	const struct endpoint *endpoint = &choice->decider->endpoints->at[i];

	return -((double)endpoint->inflight_requests + (double)endpoint->remote_requests +
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

static void survey(struct choice *choice)
{
	struct decider *decider = choice->decider;

	choice->full_load = 1;
	for (uint32_t i = 0; i < decider->endpoints->n; i++) {
		if (!is_candidate(choice, i))
			continue;
		decider->candidate[choice->n_usable++] = (uint16_t)i;
		decider->inflight[i] = (double)(decider->endpoints->at[i].inflight_tokens + decider->endpoints->at[i].remote_tokens);
		decider->load[i] = decider->inflight[i] + decider->placed[i] * choice->worth;
		if (decider->load[i] > choice->full_load)
			choice->full_load = decider->load[i];
	}
	choice->per_full_load = 1 / choice->full_load;
	choice->per_block = choice->request->n_blocks ? 1.0 / choice->request->n_blocks : 0;
}

void decider_follow_endpoints(struct decider *decider)
{
	if (decider->seen_changes == decider->endpoints->changes)
		return;
	decider->seen_changes = decider->endpoints->changes;
	for (uint32_t i = 0; i < decider->endpoints->n; i++) {
		const struct endpoint *endpoint = &decider->endpoints->at[i];

		if (decider->generation[i] == endpoint->generation)
			continue;
		decider->generation[i] = endpoint->generation;
		decider_forget_endpoint(decider, i);
		prefix_set_capacity(decider->prefixes, i,
			endpoint->config.blocks ? endpoint->config.blocks : decider->config.default_capacity_blocks);
	}
}

static int round_robin(struct choice *choice)
{
	struct decider *decider = choice->decider;

	for (uint32_t n = 0; n < decider->endpoints->n; n++) {
		uint32_t i = (uint32_t)(decider->round++ % decider->endpoints->n);

		if (is_candidate(choice, i))
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
		!is_candidate(choice, session->endpoint))
		return -ENOENT;
	return (int)session->endpoint;
}

/* Unless what is ahead there weighs more than what a move would make others compute again. */
static int unless_saturated(struct choice *choice, int preferred, enum decision_reason then, enum decision_reason *reason)
{
	double inflight = choice->decider->inflight[preferred], uncached = uncached_tokens(choice, (uint32_t)preferred);
	double ahead, recompute;
	int cheapest;

	/* Then not even one with nothing in flight and all cached would be cheaper by enough: it is not looked for. */
	if (inflight + RECOMPUTE_WEIGHT * uncached <= SATURATION_TOKENS)
		return preferred;
	cheapest = best_of(choice, cheapness_of, 0);
	ahead = inflight - choice->decider->inflight[cheapest];
	recompute = uncached_tokens(choice, (uint32_t)cheapest) - uncached;
	if (ahead <= RECOMPUTE_WEIGHT * recompute + SATURATION_TOKENS)
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
	const struct decider_listener *listener = &decider->listener;
	uint32_t i = (uint32_t)decision->endpoint;
	bool is_new = request->has_session &&
		      session_bind(decider->sessions, request->session, i, decider->endpoints->at[i].generation, now_ms);

	if (request->has_session && listener->bound)
		listener->bound(listener->ctx, request->session, i, is_new);
	if (request->n_blocks && listener->stored)
		listener->stored(listener->ctx, i, request->blocks, request->n_blocks, decision->uncached_tokens);
	session_expire(decider->sessions, now_ms, EXPIRE_STEPS);
	prefix_insert(decider->prefixes, i, request->blocks, request->n_blocks, now_ms);
	decider_note_placed(decider, i, decision->uncached_tokens, now_ms);
	decider->queried_blocks += request->n_blocks;
	decider->hit_blocks += decision->cached_blocks;
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
	survey(&choice);
	prefix_match(decider->prefixes, request->blocks, request->n_blocks, decider->endpoints->n, decider->depth);
	endpoint = choose(&choice, now_ms, &reason);
	if (endpoint < 0) {
		*out = (struct decision){ .endpoint = -ENOENT, .reason = DECISION_NONE };
		return -ENOENT;
	}
	describe(&choice, endpoint, reason, out);
	remember(&choice, out, now_ms);
	endpoint_claim_take(decider->endpoints, (uint32_t)endpoint, out->uncached_tokens, claim);
	return 0;
}

void decider_forget_endpoint(struct decider *decider, uint32_t index)
{
	prefix_clear(decider->prefixes, index);
	decider->placed[index] = 0;
}

void decider_listen(struct decider *decider, const struct decider_listener *listener)
{
	decider->listener = *listener;
}

struct session_table *decider_sessions(const struct decider *decider)
{
	return decider->sessions;
}

struct prefix_index *decider_prefixes(const struct decider *decider)
{
	return decider->prefixes;
}

int decider_session_get(const struct decider *decider, uint64_t session, uint64_t now_ms, uint32_t *index, uint64_t *uses,
	uint64_t *idle_ms)
{
	const struct session *found = session_find(decider->sessions, session, now_ms);

	if (!found || decider->endpoints->at[found->endpoint].generation != found->generation)
		return -ENOENT;
	*index = found->endpoint;
	*uses = found->uses;
	*idle_ms = now_ms > found->last_used_ms ? now_ms - found->last_used_ms : 0;
	return 0;
}

void decider_get_stats(const struct decider *decider, struct decider_stats *out)
{
	struct session_stats sessions;
	struct prefix_stats prefixes;

	session_get_stats(decider->sessions, &sessions);
	prefix_get_stats(decider->prefixes, &prefixes);
	*out = (struct decider_stats){
		.sessions = sessions.n,
		.sessions_max = sessions.max,
		.sessions_evicted = sessions.evicted,
		.sessions_expired = sessions.expired,
		.prefix_blocks = prefixes.pairs,
		.prefix_blocks_distinct = prefixes.blocks,
		.prefix_blocks_max = prefixes.max,
		.prefix_evicted = prefixes.evicted,
		.queried_blocks = decider->queried_blocks,
		.hit_blocks = decider->hit_blocks,
		.bytes = sessions.bytes + prefixes.bytes,
	};
}

uint64_t decider_endpoint_blocks(const struct decider *decider, uint32_t index)
{
	return prefix_count(decider->prefixes, index);
}
