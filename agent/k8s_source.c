// SPDX-License-Identifier: Apache-2.0
/*
 * --discover-k8s: the endpoints of a Service's EndpointSlices, and what their Pods' labels and annotations say of them.
 *
 * Two collections are followed: the slices, and the pods of the namespace, of these the metadata only. The set is published
 * once both have been listed, and PUBLISH_MS after each change, so that what belongs together is seen together. Pods that
 * may not be read (RBAC) are done without.
 *
 * When an endpoint moves from one slice to another, that is two writes, and for a moment it may stand in none: hence
 * GRACE_MS.
 */
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/discovery.h"
#include "agent/discovery_sources.h"
#include "agent/http_fetch.h"
#include "agent/k8s_model.h"
#include "agent/k8s_watch.h"
#include "lib/log.h"

enum { PUBLISH_MS = 20, GRACE_MS = 1000 };

struct collection {
	struct k8s_source *source;
	enum k8s_kind kind;
	struct k8s_watch *watch;
	bool is_known; /* listed once; of pods also: cannot be */
	bool is_full;  /* that objects do not fit was logged */
};

struct k8s_source {
	struct discovery_source *source;
	struct k8s_spec spec;
	struct k8s_api api;
	struct k8s_model *model;
	struct event *publish;
	struct collection collection[K8S_KIND_N];
};

/* ---- what changes ---- */

static void on_publish(evutil_socket_t fd, short what, void *arg)
{
	struct k8s_source *source = arg;
	const struct discovered *items;
	uint32_t n;

	(void)fd, (void)what;
	if (k8s_model_list(source->model, &items, &n))
		discovery_failed(source->source);
	else
		discovery_publish(source->source, items, n);
}

static void publish_soon(struct k8s_source *source)
{
	const struct timeval soon = { .tv_usec = PUBLISH_MS * 1000 };

	if (source->collection[K8S_SLICES].is_known && source->collection[K8S_PODS].is_known &&
		!event_pending(source->publish, EV_TIMEOUT, NULL))
		event_add(source->publish, &soon);
}

static void on_begin(void *ctx)
{
	struct collection *collection = ctx;

	k8s_model_begin(collection->source->model, collection->kind);
}

static void on_put(void *ctx, struct json_object *json)
{
	struct collection *collection = ctx;
	int err = k8s_model_put(collection->source->model, collection->kind, json);

	if (err == -ENOSPC && !collection->is_full) {
		collection->is_full = true;
		log_warn("kubernetes objects do not fit", "namespace=%s kept=%u", collection->source->spec.namespace,
			k8s_model_count(collection->source->model, collection->kind));
	}
	if (collection->is_known)
		publish_soon(collection->source);
}

static void on_delete(void *ctx, struct json_object *json)
{
	struct collection *collection = ctx;

	k8s_model_delete(collection->source->model, collection->kind, json);
	publish_soon(collection->source);
}

static void on_end(void *ctx)
{
	struct collection *collection = ctx;

	k8s_model_end(collection->source->model, collection->kind);
	collection->is_known = true;
	publish_soon(collection->source);
}

static void on_failed(void *ctx)
{
	struct collection *collection = ctx;

	discovery_failed(collection->source->source);
	if (collection->kind == K8S_PODS && !collection->is_known) {
		collection->is_known = true;
		publish_soon(collection->source);
	}
}

/* ---- start and end ---- */

static void source_reload(void *ctx)
{
	struct k8s_source *source = ctx;

	for (enum k8s_kind kind = 0; kind < K8S_KIND_N; kind++)
		k8s_watch_hurry(source->collection[kind].watch);
}

static void source_free(void *ctx)
{
	struct k8s_source *source = ctx;

	for (enum k8s_kind kind = 0; kind < K8S_KIND_N; kind++)
		k8s_watch_free(source->collection[kind].watch);
	http_client_free(source->api.http);
	k8s_model_free(source->model);
	if (source->publish)
		event_free(source->publish);
	free(source);
}

static int find_api(const struct config *config, char *url, size_t size)
{
	const char *host = getenv("KUBERNETES_SERVICE_HOST"), *port = getenv("KUBERNETES_SERVICE_PORT");
	size_t len = strlen(config->k8s_api);

	if (len) {
		snprintf(url, size, "%.*s", (int)(config->k8s_api[len - 1] == '/' ? len - 1 : len), config->k8s_api);
		return 0;
	}
	if (!host || !*host || !port || !*port) {
		log_error("no Kubernetes API", "why=\"this is no pod (KUBERNETES_SERVICE_HOST), and --k8s-api is not given\"");
		return -ENOENT;
	}
	snprintf(url, size, strchr(host, ':') ? "https://[%s]:%s" : "https://%s:%s", host, port);
	return 0;
}

static int follow(struct k8s_source *source, enum k8s_kind kind)
{
	static const struct k8s_watch_ops ops = { on_begin, on_put, on_delete, on_end, on_failed };
	struct collection *collection = &source->collection[kind];
	char path[256];

	snprintf(path, sizeof(path),
		kind == K8S_SLICES ? "/apis/discovery.k8s.io/v1/namespaces/%s/endpointslices" : "/api/v1/namespaces/%s/pods",
		source->spec.namespace);
	collection->source = source;
	collection->kind = kind;
	collection->watch = k8s_watch_new(&source->api, path, kind == K8S_SLICES ? source->spec.selector : "", kind == K8S_PODS, &ops,
		collection);
	return collection->watch ? 0 : -ENOMEM;
}

static int start_one(struct discovery *discovery, struct agent *agent, const char *text)
{
	static const struct discovery_ops ops = { DISCOVERY_K8S, false, GRACE_MS, source_reload, source_free };
	struct k8s_source *source = calloc(1, sizeof(*source));
	int err;

	if (!source)
		return -ENOMEM;
	source->source = discovery_register(discovery, &ops, source);
	if (!source->source) {
		source_free(source);
		return -ENOSPC;
	}
	k8s_spec_parse(&source->spec, text); /* was checked with the options */
	source->api = (struct k8s_api){ .base = agent->base, .service_account = agent->config.k8s_service_account,
		.http = http_client_new(agent->base) };
	source->model = k8s_model_new(&source->spec);
	source->publish = evtimer_new(agent->base, on_publish, source);
	if (!source->api.http || !source->model || !source->publish)
		return -ENOMEM;
	err = find_api(&agent->config, source->api.url, sizeof(source->api.url));
	for (enum k8s_kind kind = 0; !err && kind < K8S_KIND_N; kind++)
		err = follow(source, kind);
	return err;
}

int k8s_source_start(struct discovery *discovery, struct agent *agent)
{
	const struct config_names *names = &agent->config.discover_k8s;
	int err = 0;

	for (uint32_t i = 0; !err && i < names->n; i++)
		err = start_one(discovery, agent, names->at[i]);
	return err;
}
