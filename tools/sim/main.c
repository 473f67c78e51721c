// SPDX-License-Identifier: Apache-2.0
/* llmd-sim: simulated vLLM pods, any number in one process. */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "tools/sim/sim.h"

enum { EXIT_USAGE = 2, BACKLOG = 4096, ACCEPT_BURST = 64 };

#define FIELD(name) offsetof(struct sim_config, name)
static const struct option_range positive = { 1, 1e9 }, not_negative = { 0, 1e9 };

/* clang-format off */
static const struct option_row rows[] = {
	{ "listen", "ADDR:PORT", NULL, "ADDR:PORT", "Address of a pod; each one given is a pod of its own.", option_parse_list, FIELD(listen), .repeat = true },
	{ "model", "NAME", NULL, "a name", "Model served; the first is the default. \"sim\" if none is given.", option_parse_list, FIELD(models), .repeat = true },
	{ "kv-blocks", "N", "32768", "a number above 0", "Blocks of the KV cache.", option_parse_u64, FIELD(kv_blocks), &positive },
	{ "block-size", "TOKENS", "16", "a number above 0", "Tokens in a block.", option_parse_u64, FIELD(block_size), &positive },
	{ "bytes-per-token", "N", "4", "a number above 0", "Bytes of prompt text that make a token.", option_parse_double, FIELD(bytes_per_token), &positive },
	{ "prefill-rate", "TOK/S", "0", "a number", "Prompt tokens computed a second; 0: no cost model, see --itl.", option_parse_double, FIELD(prefill_rate), &not_negative },
	{ "itl", "MS", "0", "a number of milliseconds", "Time of a step. Without --prefill-rate: between two tokens of a stream.", option_parse_double, FIELD(itl_ms), &not_negative },
	{ "itl-per-seq", "MS", "0", "a number of milliseconds", "What each further decoding sequence adds to a step.", option_parse_double, FIELD(itl_per_seq_ms), &not_negative },
	{ "max-num-seqs", "N", "256", "a number above 0", "Sequences computed at a time; more wait.", option_parse_u64, FIELD(max_num_seqs), &positive },
	{ "max-num-batched-tokens", "N", "8192", "a number above 0", "Tokens of one step.", option_parse_u64, FIELD(max_batched_tokens), &positive },
	{ "max-tokens", "N", "16", "a number above 0", "Length of an answer whose request does not say.", option_parse_u64, FIELD(max_tokens), &positive },
	{ "chunk-bytes", "N", "0", "a number", "Size that each event of a stream is filled up to.", option_parse_u64, FIELD(chunk_bytes), &not_negative },
	{ "skim", NULL, NULL, "given without a value", "Take stream and max_tokens from the first or the last 512 bytes of a body and look no further: prompts cost nothing.", option_parse_flag, FIELD(skim) },
	{ "stamp", NULL, NULL, "given without a value", "Put the time of sending (t_ns, CLOCK_MONOTONIC) into each event.", option_parse_flag, FIELD(stamp) },
	{ "old-metric-names", NULL, NULL, "given without a value", "gpu_cache_usage_perc instead of kv_cache_usage_perc.", option_parse_flag, FIELD(old_metric_names) },
};
/* clang-format on */

static const struct program program = {
	.name = "llmd-sim",
	.section = "1",
	.summary = "simulated vLLM pods for tests, demos and benchmarks without a GPU",
	.usage = "--listen ADDR:PORT ... [OPTION ...]",
	.description = "llmd-sim answers OpenAI-style requests as vLLM does, with tokens that mean nothing. A prefix cache of token "
		       "blocks and a cost model (prompt tokens a second, time of a step) make time to first token and hit rate depend "
		       "on where requests are sent. POST /sim/fault makes a pod refuse, hang, answer 503, die after N chunks "
		       "or slow down; GET /sim/state and POST /sim/reset-cache serve tests.",
	.rows = rows,
	.n_rows = sizeof(rows) / sizeof(rows[0]),
};

static void on_connection(evutil_socket_t fd, short what, void *arg)
{
	(void)what;
	for (int i = 0; i < ACCEPT_BURST; i++) {
		int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (client < 0)
			return;
		conn_accept(arg, client);
	}
}

static int pod_listen(struct pod *pod)
{
	struct sockaddr_storage sa;
	socklen_t len = address_to_sockaddr(&pod->address, &sa);
	const int on = 1;

	pod->fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (pod->fd < 0)
		return -errno;
	setsockopt(pod->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(pod->fd, (struct sockaddr *)&sa, len) || listen(pod->fd, BACKLOG)) {
		int err = -errno;

		close(pod->fd);
		return err;
	}
	pod->listener = event_new(pod->base, pod->fd, EV_READ | EV_PERSIST, on_connection, pod);
	return pod->listener && !event_add(pod->listener, NULL) ? 0 : -ENOMEM;
}

/* A pod that refuses has no listener; what is connected stays, so that it can be told to go on. */
int pod_set_fault(struct pod *pod, enum fault fault, uint64_t after, double slow)
{
	bool refused = pod->fault == FAULT_REFUSE;

	pod->fault = fault;
	pod->fault_after = after;
	pod->slow = slow;
	if (fault == FAULT_REFUSE && !refused) {
		event_free(pod->listener);
		close(pod->fd);
	}
	return fault != FAULT_REFUSE && refused ? pod_listen(pod) : 0;
}

static int pod_start(struct pod *pod, struct event_base *base, const struct sim_config *config, const char *address)
{
	struct timespec now;
	int err;

	if (address_parse(&pod->address, address))
		return -EINVAL;
	clock_gettime(CLOCK_REALTIME, &now);
	pod->started_s = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
	pod->base = base;
	pod->config = config;
	pod->slow = 1;
	address_format(&pod->address, pod->name);
	histogram_init(&pod->ttft, histogram_bounds_ttft, histogram_n_bounds_ttft);
	histogram_init(&pod->itl, histogram_bounds_itl, histogram_n_bounds_itl);
	histogram_init(&pod->e2e, histogram_bounds_e2e, histogram_n_bounds_e2e);
	pod->cache = kv_cache_new((uint32_t)config->kv_blocks);
	if (!pod->cache)
		return -ENOMEM;
	scheduler_init(pod);
	err = pod_listen(pod);
	if (err)
		fprintf(stderr, "llmd-sim: cannot listen on %s: %s\n", address, strerror(-err));
	return err;
}

static int check_listen(const struct string_list *listen)
{
	struct address address;

	if (!listen->n) {
		fprintf(stderr, "llmd-sim: --listen: at least one is needed\n");
		return -EINVAL;
	}
	for (size_t i = 0; i < listen->n; i++) {
		if (address_parse(&address, listen->item[i])) {
			fprintf(stderr, "llmd-sim: --listen: \"%s\" is not valid: must be ADDR:PORT\n", listen->item[i]);
			return -EINVAL;
		}
	}
	return 0;
}

static void on_signal(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	event_base_loopbreak(arg);
}

/* Timers to the microsecond: tokens that are due in one millisecond would else come in one burst. */
static struct event_base *new_base(void)
{
	struct event_config *config = event_config_new();
	struct event_base *base;

	if (!config)
		return NULL;
	event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER);
	base = event_base_new_with_config(config);
	event_config_free(config);
	return base;
}

int main(int argc, char **argv)
{
	static struct pod *pods[STRING_LIST_MAX]; /* for the life of the process */
	static struct sim_config config;
	struct event_base *base;
	struct event *term, *interrupt;
	struct rlimit limit;

	if (options_parse(&program, argc, argv, &config, NULL))
		return EXIT_USAGE;
	if (check_listen(&config.listen))
		return EXIT_USAGE;
	if (!config.models.n)
		config.models.item[config.models.n++] = "sim";
	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	signal(SIGPIPE, SIG_IGN);
	base = new_base();
	term = base ? evsignal_new(base, SIGTERM, on_signal, base) : NULL;
	interrupt = base ? evsignal_new(base, SIGINT, on_signal, base) : NULL;
	if (!term || !interrupt || event_add(term, NULL) || event_add(interrupt, NULL))
		return EXIT_FAILURE;
	for (size_t i = 0; i < config.listen.n; i++) {
		struct pod *pod = pods[i] = calloc(1, sizeof(*pod));

		if (!pod || pod_start(pod, base, &config, config.listen.item[i]))
			return EXIT_FAILURE;
	}
	event_base_dispatch(base);
	return EXIT_SUCCESS;
}
