// SPDX-License-Identifier: Apache-2.0
/*
 * When a simulated pod computes what.
 *
 * How it works: after vLLM's V1 scheduler (vllm/v1/core/sched/scheduler.py): requests wait in order of arrival until
 * --max-num-seqs and the KV cache admit them; a step gives each decoding sequence one token and what is left of
 * --max-num-batched-tokens to prompts, in order (chunked prefill). A step takes --itl, --itl-per-seq for each decoding
 * sequence, and its prompt tokens at --prefill-rate. At least one prompt token is computed even if all are cached.
 *
 * With --prefill-rate 0 there is no model: each sequence gets a token every --itl on its own clock (all at once if that
 * is 0), so that streams are evenly spread, as a benchmark of what is in front of the pod wants them.
 */
#include <stdlib.h>
#include <time.h>
#include <xxhash.h>

#include "tools/sim/sim.h"

enum { CATCH_UP = 256, BLOCKED_US = 1000 };

uint64_t sim_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void arm(struct pod *pod, double ms)
{
	uint64_t us = ms > 0 ? (uint64_t)(ms * 1000) : 0;
	struct timeval tv = { .tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000) };

	pod->step_armed = true;
	event_add(pod->step, &tv);
}

/* ---- admission ---- */

static uint32_t hash_blocks(const struct sequence *sequence, uint64_t *hashes)
{
	const struct sim_config *config = sequence->pod->config;
	size_t bytes = (size_t)((double)config->block_size * config->bytes_per_token);
	uint32_t n = 0;
	uint64_t hash = 1;

	for (size_t at = 0; at + bytes <= sequence->prompt_len; at += bytes) {
		hash = XXH3_64bits_withSeed(sequence->prompt + at, bytes, hash) | 1; /* 0 stands for "not cached" */
		hashes[n++] = hash;
	}
	return n;
}

static int admit(struct pod *pod, struct sequence *sequence)
{
	uint32_t size = (uint32_t)pod->config->block_size;
	uint32_t n = (sequence->prompt_tokens + sequence->max_tokens + size - 1) / size;
	uint64_t *hashes = calloc(sequence->prompt_tokens / size + 2, sizeof(*hashes));
	uint32_t n_hashes, cached;
	int err;

	sequence->blocks = calloc(n + 1, sizeof(*sequence->blocks));
	if (!hashes || !sequence->blocks)
		abort();
	n_hashes = hash_blocks(sequence, hashes);
	if (n < n_hashes)
		n = n_hashes;
	cached = kv_cache_match(pod->cache, hashes, n_hashes) * size;
	err = kv_cache_take(pod->cache, hashes, n_hashes, n, sequence->blocks);
	free(hashes);
	if (err) {
		free(sequence->blocks);
		sequence->blocks = NULL;
		return err;
	}
	if (cached >= sequence->prompt_tokens)
		cached = sequence->prompt_tokens - 1;
	sequence->n_blocks = n;
	sequence->cached_tokens = cached;
	sequence->to_prefill = sequence->prompt_tokens - cached;
	pod->queries += sequence->prompt_tokens;
	pod->hits += cached;
	pod->prompt_tokens += sequence->prompt_tokens;
	return 0;
}

static void admit_waiting(struct pod *pod)
{
	struct sequence *sequence;

	while ((sequence = TAILQ_FIRST(&pod->waiting)) && pod->n_running < pod->config->max_num_seqs) {
		if (admit(pod, sequence))
			return;
		TAILQ_REMOVE(&pod->waiting, sequence, link);
		pod->n_waiting--;
		TAILQ_INSERT_TAIL(&pod->running, sequence, link);
		pod->n_running++;
		sequence->is_running = true;
		sequence->due_us = sim_now_us();
	}
}

static void leave(struct sequence *sequence)
{
	struct pod *pod = sequence->pod;

	if (sequence->is_running) {
		TAILQ_REMOVE(&pod->running, sequence, link);
		pod->n_running--;
		kv_cache_give(pod->cache, sequence->blocks, sequence->n_blocks);
	} else {
		TAILQ_REMOVE(&pod->waiting, sequence, link);
		pod->n_waiting--;
	}
	free(sequence->blocks);
	free(sequence->prompt);
}

static void finish(struct sequence *sequence)
{
	struct pod *pod = sequence->pod;

	histogram_observe(&pod->e2e, (double)(sim_now_us() - sequence->arrived_us) / 1e6);
	pod->finished++;
	leave(sequence);
	answer_end(sequence);
	free(sequence);
}

void scheduler_abort(struct sequence *sequence)
{
	sequence->pod->aborted++;
	leave(sequence);
	free(sequence);
}

/* Return: whether the sequence is still there. */
static bool emit(struct sequence *sequence)
{
	struct pod *pod = sequence->pod;
	uint64_t now = sim_now_us();

	if (pod->fault == FAULT_DIE && sequence->emitted >= pod->fault_after) {
		conn_close(sequence->conn, true);
		return false;
	}
	if (!sequence->emitted) {
		histogram_observe(&pod->ttft, (double)(now - sequence->arrived_us) / 1e6);
		answer_begin(sequence);
	} else {
		histogram_observe(&pod->itl, (double)(now - sequence->last_us) / 1e6);
	}
	if (!answer_token(sequence)) {
		sequence->due_us = now + BLOCKED_US; /* the client is slow: this token once more, later */
		return true;
	}
	sequence->last_us = now;
	sequence->emitted++;
	pod->generated++;
	if (sequence->emitted < sequence->max_tokens)
		return true;
	finish(sequence);
	return false;
}

/* ---- with the cost model: a step at a time ---- */

static void begin_step(struct pod *pod)
{
	const struct sim_config *config = pod->config;
	uint64_t budget = config->max_batched_tokens, decodes = 0, prefill = 0;
	struct sequence *sequence;

	admit_waiting(pod);
	if (!pod->n_running)
		return;
	TAILQ_FOREACH(sequence, &pod->running, link)
		decodes += !sequence->to_prefill;
	budget -= decodes < budget ? decodes : budget;
	TAILQ_FOREACH(sequence, &pod->running, link) {
		sequence->prefill_now = sequence->to_prefill < budget ? sequence->to_prefill : (uint32_t)budget;
		budget -= sequence->prefill_now;
		prefill += sequence->prefill_now;
	}
	arm(pod, pod->slow * (config->itl_ms + config->itl_per_seq_ms * (double)decodes +
				     (double)prefill * 1000 / config->prefill_rate));
}

static void end_step(struct pod *pod)
{
	for (struct sequence *sequence = TAILQ_FIRST(&pod->running), *next; sequence; sequence = next) {
		next = TAILQ_NEXT(sequence, link);
		sequence->to_prefill -= sequence->prefill_now;
		sequence->prefill_now = 0;
		if (!sequence->to_prefill)
			emit(sequence);
	}
}

/* ---- without: the running list is a queue of due times, since all wait equally long ---- */

static void run_due(struct pod *pod)
{
	uint64_t now = sim_now_us(), interval = (uint64_t)(pod->config->itl_ms * 1000);
	struct sequence *sequence;

	admit_waiting(pod);
	for (int n = 0; (sequence = TAILQ_FIRST(&pod->running)) && sequence->due_us <= now && n < CATCH_UP; n++) {
		TAILQ_REMOVE(&pod->running, sequence, link);
		TAILQ_INSERT_TAIL(&pod->running, sequence, link);
		sequence->due_us += interval;
		emit(sequence);
		admit_waiting(pod);
	}
	if (sequence)
		arm(pod, sequence->due_us > now ? (double)(sequence->due_us - now) / 1000 : 0);
}

static void on_step(evutil_socket_t fd, short what, void *arg)
{
	struct pod *pod = arg;

	(void)fd, (void)what;
	pod->step_armed = false;
	if (pod->config->prefill_rate > 0) {
		end_step(pod);
		begin_step(pod);
	} else {
		run_due(pod);
	}
}

void scheduler_add(struct pod *pod, struct sequence *sequence)
{
	TAILQ_INSERT_TAIL(&pod->waiting, sequence, link);
	pod->n_waiting++;
	if (pod->config->prefill_rate > 0) {
		if (!pod->step_armed)
			begin_step(pod);
		return;
	}
	admit_waiting(pod);
	if (sequence->is_running) { /* the first token at once, the list stays in order */
		TAILQ_REMOVE(&pod->running, sequence, link);
		TAILQ_INSERT_TAIL(&pod->running, sequence, link);
		sequence->due_us += (uint64_t)(pod->config->itl_ms * 1000);
		while (emit(sequence) && pod->config->itl_ms == 0 && !peer_is_blocked(&sequence->conn->peer))
			;
	}
	if (!pod->step_armed && pod->n_running)
		arm(pod, pod->config->itl_ms);
}

void scheduler_init(struct pod *pod)
{
	TAILQ_INIT(&pod->waiting);
	TAILQ_INIT(&pod->running);
	pod->step = evtimer_new(pod->base, on_step, pod);
	if (!pod->step)
		abort();
}
