/* SPDX-License-Identifier: Apache-2.0 */
/* llmd-sim: what the files of the simulated vLLM pod share. */
#ifndef LLMD_TOOLS_SIM_H
#define LLMD_TOOLS_SIM_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "agent/http_body.h"
#include "agent/peer.h"
#include "agent/prompt.h"
#include "lib/address.h"
#include "lib/histogram.h"
#include "lib/option.h"

struct evbuffer;
struct json_object;
struct kv_cache;
struct conn;

/** struct sim_config - rates in tokens per second, times in milliseconds; 0 is "costs nothing". */
struct sim_config {
	struct string_list listen, models;
	uint64_t kv_blocks, block_size, max_num_seqs, max_batched_tokens, chunk_bytes, max_tokens;
	double prefill_rate, itl_ms, itl_per_seq_ms, bytes_per_token;
	bool old_metric_names, stamp, skim;
};

/* What --skim reads at each end of a body. */
enum { SKIM_BYTES = 512 };

enum fault { FAULT_NONE, FAULT_REFUSE, FAULT_HANG, FAULT_503, FAULT_DIE };

TAILQ_HEAD(sequence_list, sequence);

/** struct pod - one simulated pod: its cache, its scheduler, its numbers. */
struct pod {
	const struct sim_config *config;
	struct event_base *base;
	struct event *listener;
	struct event *step;
	int fd;
	struct address address;
	char name[ADDRESS_TEXT_MAX];
	struct kv_cache *cache;
	struct sequence_list waiting, running;
	uint64_t n_waiting, n_running;
	uint64_t step_decodes, step_prefill_tokens;
	bool step_armed;
	enum fault fault;
	uint64_t fault_after;
	double slow;
	uint64_t queries, hits, prompt_tokens, generated, finished, aborted;
	struct histogram ttft, itl, e2e;
	double started_s;
};

/** struct sequence - one request being computed. */
struct sequence {
	TAILQ_ENTRY(sequence) link;
	struct pod *pod;
	struct conn *conn; /* NULL once the client is gone */
	enum api api;
	bool stream, include_usage, is_running;
	char *prompt;
	size_t prompt_len;
	uint32_t prompt_tokens, cached_tokens, to_prefill, prefill_now;
	uint32_t max_tokens, emitted;
	uint32_t *blocks; /* in use, prompt order */
	uint32_t n_blocks;
	uint64_t arrived_us, last_us, due_us;
	uint64_t id;
	const char *model;
};

/** struct conn - a connection to one pod. */
struct conn {
	struct peer peer;
	struct pod *pod;
	struct buffer in, body;
	struct http_head_scan scan;
	struct http_body framing;
	struct sequence *sequence;
	enum api api;
	enum http_method method;
	char path[256];
	bool in_body, keep_alive, http10, closing, broken, dead;
};

/* cache.c */
struct kv_cache *kv_cache_new(uint32_t n_blocks);
void kv_cache_free(struct kv_cache *cache);
/** kv_cache_match() - leading blocks that are cached; they are not taken. */
uint32_t kv_cache_match(const struct kv_cache *cache, const uint64_t *hashes, uint32_t n);
/** kv_cache_take() - @n blocks, the first @n_hashes of them known by content. Return: 0 or -ENOSPC, nothing taken. */
int kv_cache_take(struct kv_cache *cache, const uint64_t *hashes, uint32_t n_hashes, uint32_t n, uint32_t *blocks);
/** kv_cache_give() - the last block becomes evictable first. */
void kv_cache_give(struct kv_cache *cache, const uint32_t *blocks, uint32_t n);
void kv_cache_reset(struct kv_cache *cache);
uint32_t kv_cache_in_use(const struct kv_cache *cache);

/* scheduler.c */
void scheduler_init(struct pod *pod);
void scheduler_add(struct pod *pod, struct sequence *sequence);
/** scheduler_abort() - the client is gone. Frees @sequence. */
void scheduler_abort(struct sequence *sequence);
uint64_t sim_now_us(void);

/* answer.c */
/** answer_token() - one more token of @sequence. Return: false when the connection does not take it now. */
bool answer_token(struct sequence *sequence);
void answer_begin(struct sequence *sequence);
void answer_end(struct sequence *sequence);

/* request.c */
void request_serve(struct conn *conn);
void reply_json(struct conn *conn, unsigned status, struct json_object *json);
void reply_error(struct conn *conn, unsigned status, const char *message);

/* conn.c */
void conn_accept(struct pod *pod, int fd);
/** conn_skims() - of the body of this request only the ends matter. */
bool conn_skims(const struct conn *conn);
void conn_send(struct conn *conn, const void *data, size_t len);
void conn_send2(struct conn *conn, const void *head, size_t head_len, const void *body, size_t body_len);
/** conn_done() - the answer is out: next request or close. */
void conn_done(struct conn *conn);
void conn_close(struct conn *conn, bool reset);

/* pod_metrics.c */
void pod_print_metrics(struct pod *pod, struct evbuffer *out);

/* main.c */
int pod_set_fault(struct pod *pod, enum fault fault, uint64_t after, double slow);

#endif
