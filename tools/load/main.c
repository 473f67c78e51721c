// SPDX-License-Identifier: Apache-2.0
/* llmd-load: load generator and trace replayer for OpenAI-style servers. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "lib/log.h"
#include "tools/load/dry_run.h"
#include "tools/load/load.h"

enum { EXIT_USAGE = 2 };

#define FIELD(name) offsetof(struct load_config, name)
#define NUMBER	    "a number"
static const struct option_range any = { 0, 1e12 }, some = { 1, 1e9 };
static const struct option_name session_names[] = { { "infer", SESSION_INFER }, { "none", SESSION_NONE }, { "trace", SESSION_TRACE }, { 0 } };
static const struct option_name policy_names[] = { { "prefix-cache-aware", POLICY_PREFIX_CACHE_AWARE },
	{ "session", POLICY_SESSION }, { "least-load", POLICY_LEAST_LOAD }, { "round-robin", POLICY_ROUND_ROBIN }, { 0 } };

/* clang-format off */
static const struct option_row rows[] = {
	{ .help = "What to load" },
	{ "target", "http://ADDR:PORT", NULL, "http://ADDR:PORT", "Where requests go; of several each takes a random one, with a connection of its own.",
	  option_parse_list, FIELD(targets), .repeat = true },
	{ "path", "PATH", "/v1/chat/completions", "a path", "What they ask for, something that takes chat completions.", option_parse_string, FIELD(path) },
	{ "model", "NAME", "sim", "a name", "Model they name.", option_parse_string, FIELD(model) },
	{ "stream", NULL, NULL, "given without a value", "Ask for streams.", option_parse_flag, FIELD(stream) },
	{ "prompt-bytes", "N", "200", NUMBER, "Size of a prompt (without a trace).", option_parse_u64, FIELD(prompt_bytes), &any },
	{ "output-tokens", "N", "1", NUMBER, "Tokens of an answer (without a trace).", option_parse_u64, FIELD(output_tokens), &any },
	{ .help = "How much, how fast" },
	{ "concurrency", "N", "1", NUMBER, "Requests at a time (closed loop).", option_parse_u64, FIELD(concurrency), &some },
	{ "rate", "R", "0", NUMBER, "Requests a second, with exponential gaps (open loop).", option_parse_double, FIELD(rate), &any },
	{ "requests", "N", "0", NUMBER, "End after that many.", option_parse_u64, FIELD(requests), &any },
	{ "duration", "DURATION", "0", "a duration", "Start no more after that; span of sessions for --synth.", option_parse_duration, FIELD(duration_ms) },
	{ "warmup", "N", "0", NUMBER, "Requests before those that count.", option_parse_u64, FIELD(warmup), &any },
	{ "new-connection", NULL, NULL, "given without a value", "A connection for each request.", option_parse_flag, FIELD(new_connection) },
	{ "timeout", "DURATION", "120s", "a duration", "For a whole request.", option_parse_duration, FIELD(timeout_ms) },
	{ .help = "Traces (JSON lines as the Mooncake project publishes them)" },
	{ "trace", "FILE", "", "a file", "Replay it.", option_parse_string, FIELD(trace) },
	{ "time-scale", "X", "1", NUMBER, "Replay X times as fast; 0: as fast as --concurrency allows.", option_parse_double, FIELD(time_scale), &any },
	{ "limit", "N", "0", NUMBER, "Only its first N requests.", option_parse_u64, FIELD(limit), &any },
	{ "output-max", "N", "0", NUMBER, "Cut its answers to N tokens; 0: as long as they are.", option_parse_u64, FIELD(output_max), &any },
	{ "block-bytes", "N", "2048", "a number above 0", "Text of a block of 512 tokens.", option_parse_u64, FIELD(block_bytes), &some },
	{ "session", "MODE", "infer", "infer, none or trace", "Session keys: inferred from shared blocks, none, or those of the trace.", option_parse_enum, FIELD(session), session_names },
	{ "session-header", "NAME", "X-Session-ID", "a header name", "Where the key goes.", option_parse_string, FIELD(session_header) },
	{ "synth", "FILE", "", "a file", "Write a trace of synthetic sessions and end.", option_parse_string, FIELD(synth) },
	{ "synth-sessions", "N", "200", NUMBER, "How many.", option_parse_u64, FIELD(synth_sessions), &some },
	{ "seed", "N", "1", NUMBER, "For all that is random.", option_parse_u64, FIELD(seed), &any },
	{ .help = "Without a network" },
	{ "dry-run", NULL, NULL, "given without a value", "Run the trace through the agent's decision code.", option_parse_flag, FIELD(dry_run) },
	{ "policy", "NAME", "prefix-cache-aware", "prefix-cache-aware, session, least-load or round-robin", "Its policy.", option_parse_enum, FIELD(policy), policy_names },
	{ "endpoints", "N", "8", "a number from 1 to 1024", "Its endpoints.", option_parse_u64, FIELD(endpoints), &(const struct option_range){ 1, 1024 } },
	{ "blocks", "N", "0", NUMBER, "Capacity of each one's cache in blocks of 512 tokens; 0: no bound.", option_parse_u64, FIELD(blocks), &any },
	{ "untold", NULL, NULL, "given without a value", "It is not told that capacity, but only how many tokens hit.", option_parse_flag, FIELD(untold) },
	{ "slow", "N", "0", NUMBER, "Endpoints that compute half as fast.", option_parse_u64, FIELD(slow), &any },
	{ "prefill-rate", "TOK/S", "20000", "a number above 0", "Prompt tokens that each computes a second.", option_parse_double, FIELD(prefill_rate), &some },
	{ "itl", "MS", "20", NUMBER, "Time for an output token.", option_parse_double, FIELD(itl_ms), &any },
	{ .help = "Result" },
	{ "pod-metrics", "ADDR:PORT", NULL, "ADDR:PORT or a URL", "Pod whose /metrics tell the hits.", option_parse_list, FIELD(pod_metrics), .repeat = true },
	{ "json", "FILE", "", "a file or -", "Result as JSON; - instead of the table.", option_parse_string, FIELD(json) },
	{ "progress", NULL, NULL, "given without a value", "A line a second even if standard error is no terminal.", option_parse_flag, FIELD(progress) },
	{ "allow-failures", NULL, NULL, "given without a value", "Exit 0 in spite of failures.", option_parse_flag, FIELD(allow_failures) },
};
/* clang-format on */

static const struct program program = {
	.name = "llmd-load",
	.section = "1",
	.summary = "load generator and trace replayer for LLM servers",
	.usage = "--target http://ADDR:PORT [OPTION ...]",
	.description = "llmd-load sends OpenAI-style requests, checks every answer (status, framing, events, number of tokens, [DONE]) and "
		       "reports latencies (within 0.4 %), throughput, stickiness and, from the pods' metrics, hit rate and hot spot "
		       "(the largest pod's share of uncached prompt tokens over the mean). Standard error shows progress.",
	.sections = ".SH EXIT STATUS\n0 if all requests succeeded, 1 if some failed, 2 for options that are not valid.\n",
	.rows = rows,
	.n_rows = sizeof(rows) / sizeof(rows[0]),
};

static void cut_answers(struct trace *trace, uint64_t max)
{
	for (size_t i = 0; max && i < trace->n; i++)
		if (trace->at[i].output_tokens > max)
			trace->at[i].output_tokens = (uint32_t)max;
}

static int read_trace(const struct load_config *config, struct trace **out)
{
	char error[256];

	if (trace_read(out, config->trace, config->limit, error, sizeof(error))) {
		fprintf(stderr, "llmd-load: --trace: %s: %s\n", config->trace, error);
		return -EINVAL;
	}
	cut_answers(*out, config->output_max);
	if (config->session == SESSION_TRACE && !(*out)->n_sessions) {
		fprintf(stderr, "llmd-load: --session: \"trace\": this trace has no session_id\n");
		return -EINVAL;
	}
	return config->session == SESSION_TRACE ? 0 : trace_infer_sessions(*out);
}

static int run_dry(const struct load_config *config, const struct trace *trace)
{
	struct dry_run_config dry = {
		.decide = { .policy = (enum policy)config->policy, .weight_cache = 0.7, .weight_load = 0.3, .affinity_threshold = 0.6,
			.session_ttl_ms = 7200000, .sessions_max = 1 << 20, .prefix_blocks_max = 4 << 20,
			.prefix_block_bytes = (uint32_t)config->block_bytes, .bytes_per_token = (double)config->block_bytes / TRACE_BLOCK_TOKENS,
			.default_capacity_blocks = 4 << 20, .seed = config->seed },
		.endpoints = (uint32_t)config->endpoints,
		.blocks = (uint32_t)config->blocks,
		.slow = (uint32_t)config->slow,
		.untold = config->untold,
		.sessions = config->session != SESSION_NONE,
		.time_scale = config->time_scale > 0 ? config->time_scale : 1,
		.prefill_rate = config->prefill_rate,
		.itl_ms = config->itl_ms,
	};
	struct dry_run_result result;
	int err = dry_run(&dry, trace, &result);

	if (err) {
		fprintf(stderr, "llmd-load: --dry-run: %s\n", strerror(-err));
		return err;
	}
	printf("policy %s, %u endpoints, %s, %s: %lu requests, %lu blocks\n", policy_name(dry.decide.policy), dry.endpoints,
		dry.sessions ? "sessions" : "no sessions", dry.blocks ? "bounded caches" : "unbounded caches",
		(unsigned long)result.requests, (unsigned long)result.blocks);
	printf("hit rate    %.2f %% of blocks\nhot spot    %.3f\nstickiness  %.2f %% of later turns\n", 100 * result.hit_rate,
		result.hot_spot, result.later_turns ? 100.0 * (double)result.sticky / (double)result.later_turns : 0);
	printf("TTFT        p50 %.3f s, p95 %.3f s (computed)\ndecision    %.2f us of CPU\n", result.ttft_p50_s, result.ttft_p95_s,
		result.decide_s * 1e6 / (double)result.requests);
	return 0;
}

static int run_load(struct load *load)
{
	const struct string_list *targets = &load->config->targets;

	for (size_t i = 0; i < targets->n || !i; i++) {
		const char *target = i < targets->n ? targets->item[i] : "";

		if (strncmp(target, "http://", 7) || address_parse(&load->target[i], target + 7)) {
			fprintf(stderr, "llmd-load: --target: \"%s\" is not valid: must be http://ADDR:PORT\n", target);
			return EXIT_USAGE;
		}
	}
	load->random = load->config->seed * 2 + 1;
	if (load->trace)
		load->last_pod = calloc(load->trace->n_sessions + 1, sizeof(*load->last_pod));
	if (pods_read(load->config, &load->stats.before) || load_run(load) || pods_read(load->config, &load->stats.after))
		return EXIT_FAILURE;
	return report_print(load);
}

int main(int argc, char **argv)
{
	static struct load_config config;
	static struct load load;
	struct rlimit limit;
	int status;

	if (options_parse(&program, argc, argv, &config, NULL))
		return EXIT_USAGE;
	config.new_connection |= config.targets.n > 1;
	log_setup(LOG_LEVEL_WARN, LOG_FORMAT_TEXT);
	if (*config.synth)
		return synth_write(&config) ? EXIT_FAILURE : EXIT_SUCCESS;
	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	load.config = &config;
	if (*config.trace && read_trace(&config, &load.trace))
		return EXIT_USAGE;
	if (config.dry_run && !load.trace) {
		fprintf(stderr, "llmd-load: --dry-run: needs --trace\n");
		return EXIT_USAGE;
	}
	status = config.dry_run ? run_dry(&config, load.trace) != 0 : run_load(&load);
	trace_free(load.trace);
	free(load.last_pod);
	return status;
}
