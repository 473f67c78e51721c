/* SPDX-License-Identifier: Apache-2.0 */
/* Follows one collection of the Kubernetes API: lists it, then watches it, for ever. */
#ifndef LLMD_AGENT_K8S_WATCH_H
#define LLMD_AGENT_K8S_WATCH_H

#include <event2/event.h>
#include <json-c/json.h>
#include <stdbool.h>

struct http_client;
struct k8s_watch;

/** struct k8s_api - where the API is. @service_account: directory with token and ca.crt, read again for each request. */
struct k8s_api {
	struct event_base *base;
	struct http_client *http;
	char url[256];
	const char *service_account;
};

/**
 * struct k8s_watch_ops - what is told of the collection.
 * @begin, @end: of a list; what was not put between is gone. @put, @delete: an object as it is, or was last.
 * @failed: an attempt brought nothing; it is logged, and the next one comes by itself.
 */
struct k8s_watch_ops {
	void (*begin)(void *ctx);
	void (*put)(void *ctx, struct json_object *json);
	void (*delete)(void *ctx, struct json_object *json);
	void (*end)(void *ctx);
	void (*failed)(void *ctx);
};

/**
 * k8s_watch_new() - begins at once.
 * @path: of the collection ("/api/v1/namespaces/x/pods"). @selector: by label; "" for all.
 * @metadata_only: asks for no more than the objects' metadata.
 */
struct k8s_watch *k8s_watch_new(const struct k8s_api *api, const char *path, const char *selector, bool metadata_only,
	const struct k8s_watch_ops *ops, void *ctx);
void k8s_watch_free(struct k8s_watch *watch);

/** k8s_watch_hurry() - if it waits after a failure, tries now. */
void k8s_watch_hurry(struct k8s_watch *watch);

#endif
