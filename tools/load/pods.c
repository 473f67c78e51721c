// SPDX-License-Identifier: Apache-2.0
/* The pods' own count of cached prompt tokens, from their /metrics (vLLM's names), by libcurl. */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/load/load.h"

enum { METRICS_MAX = 4 << 20, TIMEOUT_S = 5 };

static size_t on_data(char *data, size_t size, size_t n, void *ctx)
{
	return buffer_append(ctx, data, size * n, METRICS_MAX) ? 0 : size * n;
}

/* The first sample of a family. */
static double sample(const char *text, const char *name)
{
	size_t len = strlen(name);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, name, len) && (line[len] == '{' || line[len] == ' ')) {
			const char *space = strchr(line + len, ' ');

			return space ? strtod(space, NULL) : 0;
		}
	}
	return 0;
}

static int read_one(const char *pod, double *queries, double *hits)
{
	struct buffer text = { 0 };
	char url[256];
	CURL *curl = curl_easy_init();
	CURLcode code;

	if (!curl)
		return -1;
	snprintf(url, sizeof(url), strncmp(pod, "http", 4) ? "http://%s/metrics" : "%s", pod);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &text);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
	code = curl_easy_perform(curl);
	curl_easy_cleanup(curl);
	if (code || buffer_append(&text, "", 1, METRICS_MAX + 1)) {
		fprintf(stderr, "llmd-load: %s: %s\n", url, curl_easy_strerror(code));
		buffer_free(&text);
		return -1;
	}
	*queries = sample(buffer_head(&text), "vllm:prefix_cache_queries_total");
	*hits = sample(buffer_head(&text), "vllm:prefix_cache_hits_total");
	buffer_free(&text);
	return 0;
}

int pods_read(const struct load_config *config, struct pod_totals *out)
{
	for (size_t i = 0; i < config->pod_metrics.n; i++)
		if (read_one(config->pod_metrics.item[i], &out->queries[i], &out->hits[i]))
			return -1;
	return 0;
}
