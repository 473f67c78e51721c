// SPDX-License-Identifier: Apache-2.0
/*
 * What is known of one --discover-k8s: see k8s_model.h.
 *
 * Objects are kept by the hash of their name. A pod of a Service with two IP families stands in two slices, once with each
 * address; it is one endpoint, for it has one cache. It keeps the address that it was published with, else IPv4 wins.
 */
#include "agent/k8s_model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

enum { BUCKETS = 1024, OBJECTS_MAX = 16384, ENDPOINTS_MAX = 2 * DISCOVERY_ITEMS_MAX };

LIST_HEAD(object_list, object);

struct object {
	LIST_ENTRY(object) link;
	uint64_t key;
	uint32_t stamp, n;
	union {
		struct k8s_pod pod;
		struct k8s_endpoint endpoint[0]; /* @n of a slice */
	};
};

struct store {
	uint32_t stamp, n;
	struct object_list bucket[BUCKETS];
};

struct choice {
	struct k8s_endpoint endpoint;
	bool was_published;
};

struct k8s_model {
	struct k8s_spec spec;
	struct store store[K8S_KIND_N];
	uint32_t n_endpoints, n_items;
	struct discovered *items; /* as published last, sorted by address */
	struct k8s_endpoint read[K8S_ENDPOINTS_MAX];
};

struct k8s_model *k8s_model_new(const struct k8s_spec *spec)
{
	struct k8s_model *model = calloc(1, sizeof(*model));

	if (model)
		model->spec = *spec;
	return model;
}

/* ---- objects ---- */

static struct object *find(const struct store *store, uint64_t key)
{
	struct object *object;

	LIST_FOREACH(object, &store->bucket[key % BUCKETS], link)
		if (object->key == key)
			return object;
	return NULL;
}

static void drop(struct k8s_model *model, enum k8s_kind kind, struct object *object)
{
	model->store[kind].n--;
	model->n_endpoints -= object->n;
	LIST_REMOVE(object, link);
	free(object);
}

static void insert(struct k8s_model *model, enum k8s_kind kind, struct object *object)
{
	struct store *store = &model->store[kind];

	object->stamp = store->stamp;
	store->n++;
	model->n_endpoints += object->n;
	LIST_INSERT_HEAD(&store->bucket[object->key % BUCKETS], object, link);
}

void k8s_model_begin(struct k8s_model *model, enum k8s_kind kind)
{
	model->store[kind].stamp++;
}

void k8s_model_end(struct k8s_model *model, enum k8s_kind kind)
{
	struct store *store = &model->store[kind];

	for (unsigned i = 0; i < BUCKETS; i++) {
		struct object *object, *following;

		for (object = LIST_FIRST(&store->bucket[i]); object; object = following) {
			following = LIST_NEXT(object, link);
			if (object->stamp != store->stamp)
				drop(model, kind, object);
		}
	}
}

static struct object *new_slice(struct k8s_model *model, struct json_object *json)
{
	uint32_t n = k8s_slice_read(json, &model->spec, model->read);
	size_t size = offsetof(struct object, endpoint) + n * sizeof(model->read[0]);
	struct object *object = calloc(1, size > sizeof(*object) ? size : sizeof(*object));

	if (!object)
		return NULL;
	object->n = n;
	object->key = k8s_hash(k8s_text(k8s_get(json, "metadata", "name", NULL)));
	memcpy(object->endpoint, model->read, n * sizeof(model->read[0]));
	return object;
}

static struct object *new_pod(struct json_object *json)
{
	struct object *object = calloc(1, sizeof(*object));

	if (!object)
		return NULL;
	k8s_pod_read(json, &object->pod);
	object->key = object->pod.uid;
	return object;
}

int k8s_model_put(struct k8s_model *model, enum k8s_kind kind, struct json_object *json)
{
	struct store *store = &model->store[kind];
	struct k8s_pod pod;
	struct object *object, *old;

	if (kind == K8S_PODS && !k8s_pod_read(json, &pod)) {
		k8s_model_delete(model, kind, json);
		return pod.uid ? 0 : -EPROTO;
	}
	object = kind == K8S_SLICES ? new_slice(model, json) : new_pod(json);
	if (!object)
		return -ENOMEM;
	old = object->key ? find(store, object->key) : NULL;
	if (old)
		drop(model, kind, old);
	if (object->key && store->n < OBJECTS_MAX && model->n_endpoints + object->n <= ENDPOINTS_MAX) {
		insert(model, kind, object);
		return 0;
	}
	old = object->key ? object : NULL;
	free(object);
	return old ? -ENOSPC : -EPROTO;
}

void k8s_model_delete(struct k8s_model *model, enum k8s_kind kind, struct json_object *json)
{
	const char *member = kind == K8S_SLICES ? "name" : "uid";
	uint64_t key = k8s_hash(k8s_text(k8s_get(json, "metadata", member, NULL)));
	struct object *old = key ? find(&model->store[kind], key) : NULL;

	if (old)
		drop(model, kind, old);
}

uint32_t k8s_model_count(const struct k8s_model *model, enum k8s_kind kind)
{
	return model->store[kind].n;
}

/* ---- one endpoint for each pod ---- */

static int compare_items(const void *one, const void *other)
{
	const struct discovered *a = one, *b = other;
	int order = memcmp(a->config.address.ip, b->config.address.ip, sizeof(a->config.address.ip));

	return order ? order : memcmp(&a->config.address.port_be, &b->config.address.port_be, sizeof(a->config.address.port_be));
}

static bool was_published(const struct k8s_model *model, const struct k8s_endpoint *endpoint)
{
	struct discovered key = { .config.address = endpoint->address };
	const struct discovered *found =
		model->n_items ? bsearch(&key, model->items, model->n_items, sizeof(key), compare_items) : NULL;

	return found && found->identity == endpoint->pod;
}

/* Of one pod the address to take first, and of one address the condition that lets it serve. */
static int compare_choices(const void *one, const void *other)
{
	const struct choice *a = one, *b = other;
	const struct address *x = &a->endpoint.address, *y = &b->endpoint.address;
	int order = a->endpoint.pod < b->endpoint.pod ? -1 : a->endpoint.pod > b->endpoint.pod;

	order = order ? order : (int)b->was_published - (int)a->was_published;
	order = order ? order : (int)address_is_ipv4(y) - (int)address_is_ipv4(x);
	order = order ? order : memcmp(x->ip, y->ip, sizeof(x->ip));
	return order ? order : (int)a->endpoint.condition - (int)b->endpoint.condition;
}

static uint32_t collect(const struct k8s_model *model, struct choice *out)
{
	const struct object *object;
	uint32_t n = 0;

	for (unsigned i = 0; i < BUCKETS; i++)
		LIST_FOREACH(object, &model->store[K8S_SLICES].bucket[i], link)
			for (uint32_t k = 0; k < object->n; k++, n++)
				out[n] = (struct choice){ object->endpoint[k], was_published(model, &object->endpoint[k]) };
	qsort(out, n, sizeof(out[0]), compare_choices);
	return n;
}

static struct discovered item_of(const struct k8s_model *model, const struct k8s_endpoint *endpoint)
{
	const struct object *object = endpoint->pod ? find(&model->store[K8S_PODS], endpoint->pod) : NULL;
	struct discovered item = { .config = { .address = endpoint->address, .role = ENDPOINT_ROLE_BOTH },
		.identity = endpoint->pod, .condition = endpoint->condition, .why = endpoint->why };

	if (!object)
		return item;
	item.config.role = object->pod.role;
	item.config.engine = object->pod.engine;
	memcpy(item.config.model, object->pod.model, sizeof(item.config.model));
	if (object->pod.drains && item.condition == DISCOVERY_READY) {
		item.condition = DISCOVERY_DRAINING;
		item.why = "the pod is marked llm-d.ai/drain";
	}
	return item;
}

int k8s_model_list(struct k8s_model *model, const struct discovered **out, uint32_t *n)
{
	struct choice *choices = calloc(model->n_endpoints + 1, sizeof(choices[0]));
	struct discovered *items = calloc(model->n_endpoints + 1, sizeof(items[0]));
	uint32_t n_choices, n_items = 0;

	if (!choices || !items) {
		free(choices);
		free(items);
		return -ENOMEM;
	}
	n_choices = collect(model, choices);
	for (uint32_t i = 0; i < n_choices; i++)
		if (!i || !choices[i].endpoint.pod || choices[i].endpoint.pod != choices[i - 1].endpoint.pod)
			items[n_items++] = item_of(model, &choices[i].endpoint);
	free(choices);
	qsort(items, n_items, sizeof(items[0]), compare_items);
	free(model->items);
	model->items = items;
	model->n_items = n_items;
	*out = items;
	*n = n_items;
	return 0;
}

void k8s_model_free(struct k8s_model *model)
{
	if (!model)
		return;
	for (enum k8s_kind kind = 0; kind < K8S_KIND_N; kind++) {
		k8s_model_begin(model, kind);
		k8s_model_end(model, kind); /* nothing was put */
	}
	free(model->items);
	free(model);
}
