// SPDX-License-Identifier: Apache-2.0
/* /metrics of a simulated pod, with the names of vLLM's (vllm/v1/metrics/loggers.py). */
#include <event2/buffer.h>
#include <inttypes.h>

#include "tools/sim/sim.h"

static void value(struct pod *pod, struct evbuffer *out, const char *name, const char *type, double number)
{
	evbuffer_add_printf(out, "# HELP %s As vLLM has it.\n# TYPE %s %s\n%s{model_name=\"%s\",engine=\"0\"} %.17g\n", name, name, type,
		name, pod->config->models.item[0], number);
}

static void print_histogram(struct pod *pod, struct evbuffer *out, const char *name, const struct histogram *histogram)
{
	const char *model = pod->config->models.item[0];
	uint64_t below = 0;

	evbuffer_add_printf(out, "# HELP %s As vLLM has it.\n# TYPE %s histogram\n", name, name);
	for (size_t i = 0; i < histogram->n_bounds; i++) {
		below += histogram->count[i];
		evbuffer_add_printf(out, "%s_bucket{model_name=\"%s\",engine=\"0\",le=\"%g\"} %" PRIu64 "\n", name, model,
			histogram->bounds[i], below);
	}
	evbuffer_add_printf(out, "%s_bucket{model_name=\"%s\",engine=\"0\",le=\"+Inf\"} %" PRIu64 "\n", name, model, histogram->total);
	evbuffer_add_printf(out, "%s_sum{model_name=\"%s\",engine=\"0\"} %.9g\n%s_count{model_name=\"%s\",engine=\"0\"} %" PRIu64 "\n", name,
		model, histogram->sum, name, model, histogram->total);
}

void pod_print_metrics(struct pod *pod, struct evbuffer *out)
{
	const struct sim_config *config = pod->config;
	double usage = (double)kv_cache_in_use(pod->cache) / (double)config->kv_blocks;

	value(pod, out, "vllm:num_requests_running", "gauge", (double)pod->n_running);
	value(pod, out, "vllm:num_requests_waiting", "gauge", (double)pod->n_waiting);
	value(pod, out, config->old_metric_names ? "vllm:gpu_cache_usage_perc" : "vllm:kv_cache_usage_perc", "gauge", usage);
	value(pod, out, "vllm:prefix_cache_queries_total", "counter", (double)pod->queries);
	value(pod, out, "vllm:prefix_cache_hits_total", "counter", (double)pod->hits);
	value(pod, out, "vllm:prompt_tokens_total", "counter", (double)pod->prompt_tokens);
	value(pod, out, "vllm:generation_tokens_total", "counter", (double)pod->generated);
	evbuffer_add_printf(out, "# HELP vllm:request_success_total As vLLM has it.\n# TYPE vllm:request_success_total counter\n"
		"vllm:request_success_total{model_name=\"%s\",engine=\"0\",finished_reason=\"length\"} %" PRIu64 "\n",
		config->models.item[0], pod->finished);
	evbuffer_add_printf(out, "# HELP vllm:cache_config_info As vLLM has it.\n# TYPE vllm:cache_config_info gauge\n"
		"vllm:cache_config_info{block_size=\"%" PRIu64 "\",num_gpu_blocks=\"%" PRIu64 "\",engine=\"0\"} 1\n",
		config->block_size, config->kv_blocks);
	evbuffer_add_printf(out, "# HELP process_start_time_seconds Start, Unix time.\n# TYPE process_start_time_seconds gauge\n"
		"process_start_time_seconds %.3f\n", pod->started_s);
	print_histogram(pod, out, "vllm:time_to_first_token_seconds", &pod->ttft);
	print_histogram(pod, out, "vllm:inter_token_latency_seconds", &pod->itl);
	print_histogram(pod, out, "vllm:e2e_request_latency_seconds", &pod->e2e);
}
