// SPDX-License-Identifier: Apache-2.0
/* What matters of EndpointSlices and Pods: see k8s_object.h. */
#include "agent/k8s_object.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define SERVICE_LABEL "kubernetes.io/service-name="

/* ---- --discover-k8s ---- */

static int copy_name(char *out, size_t size, const char *text, size_t len, const char *allowed)
{
	if (!len || len >= size || strspn(text, allowed) < len)
		return -EINVAL;
	memcpy(out, text, len);
	out[len] = '\0';
	return 0;
}

static int parse_port(struct k8s_spec *out, const char *text)
{
	unsigned long port;
	char *end;

	if (*text < '0' || *text > '9')
		return copy_name(out->port_name, sizeof(out->port_name), text, strlen(text), "abcdefghijklmnopqrstuvwxyz0123456789-");
	port = strtoul(text, &end, 10);
	if (*end || !port || port > UINT16_MAX)
		return -EINVAL;
	out->port = (uint16_t)port;
	return 0;
}

int k8s_spec_parse(struct k8s_spec *out, const char *text)
{
	static const char name[] = "abcdefghijklmnopqrstuvwxyz0123456789-";
	static const char selector[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=!,() ";
	size_t namespace = strcspn(text, "/?"), len;
	const char *what = text + namespace + 1, *colon;
	int err;

	*out = (struct k8s_spec){ 0 };
	if (!text[namespace] || copy_name(out->namespace, sizeof(out->namespace), text, namespace, name))
		return -EINVAL;
	colon = strchr(what, ':'); /* is in no selector */
	len = colon ? (size_t)(colon - what) : strlen(what);
	if (text[namespace] == '?') {
		err = copy_name(out->selector, sizeof(out->selector), what, len, selector);
	} else {
		strcpy(out->selector, SERVICE_LABEL);
		err = len > 63 ? -EINVAL : copy_name(out->selector + strlen(SERVICE_LABEL), 64, what, len, name);
	}
	return !err && colon ? parse_port(out, colon + 1) : err;
}

/* ---- JSON ---- */

struct json_object *k8s_get(struct json_object *json, ...)
{
	const char *key;
	va_list keys;

	va_start(keys, json);
	while (json && (key = va_arg(keys, const char *)))
		if (!json_object_is_type(json, json_type_object) || !json_object_object_get_ex(json, key, &json))
			json = NULL;
	va_end(keys);
	return json;
}

const char *k8s_text(struct json_object *json)
{
	return json_object_is_type(json, json_type_string) ? json_object_get_string(json) : "";
}

uint64_t k8s_hash(const char *text)
{
	return *text ? XXH3_64bits(text, strlen(text)) | 1 : 0;
}

static size_t length(struct json_object *json)
{
	return json_object_is_type(json, json_type_array) ? json_object_array_length(json) : 0;
}

/* Conditions are true, false, or not there, which the API leaves to the reader: @otherwise. */
static bool is_true(struct json_object *json, bool otherwise)
{
	return json_object_is_type(json, json_type_boolean) ? json_object_get_boolean(json) : otherwise;
}

/* ---- EndpointSlice ---- */

static bool is_tcp(struct json_object *port)
{
	const char *protocol = k8s_text(k8s_get(port, "protocol", NULL));

	return !*protocol || !strcmp(protocol, "TCP");
}

static uint16_t number_of(struct json_object *port)
{
	struct json_object *number = k8s_get(port, "port", NULL);
	int64_t value = json_object_is_type(number, json_type_int) ? json_object_get_int64(number) : 0;

	return value > 0 && value <= UINT16_MAX && is_tcp(port) ? (uint16_t)value : 0;
}

/* The port that was asked for; else the only one, the one named http, or the first. 0: none. */
static uint16_t choose_port(struct json_object *slice, const struct k8s_spec *spec)
{
	struct json_object *ports = k8s_get(slice, "ports", NULL);
	const char *wanted = *spec->port_name ? spec->port_name : "http";
	uint16_t first = 0;

	for (size_t i = 0; i < length(ports) && !spec->port; i++) {
		struct json_object *port = json_object_array_get_idx(ports, i);
		uint16_t number = number_of(port);

		if (number && !strcmp(k8s_text(k8s_get(port, "name", NULL)), wanted))
			return number;
		first = first ? first : number;
	}
	return spec->port ? spec->port : *spec->port_name ? 0 : first;
}

/* A pod that is not ready gets nothing new, but what it has begun may well go on; readiness may come back. */
static void read_condition(struct json_object *endpoint, struct k8s_endpoint *out)
{
	if (is_true(k8s_get(endpoint, "conditions", "terminating", NULL), false))
		out->why = "the pod is terminating";
	else if (!is_true(k8s_get(endpoint, "conditions", "ready", NULL), true))
		out->why = "the pod is not ready";
	out->condition = out->why ? DISCOVERY_DRAINING : DISCOVERY_READY;
}

uint32_t k8s_slice_read(struct json_object *json, const struct k8s_spec *spec, struct k8s_endpoint *out)
{
	struct json_object *endpoints = k8s_get(json, "endpoints", NULL);
	uint16_t port = choose_port(json, spec);
	uint32_t n = 0;

	for (size_t i = 0; port && i < length(endpoints) && n < K8S_ENDPOINTS_MAX; i++) {
		struct json_object *endpoint = json_object_array_get_idx(endpoints, i);
		struct json_object *addresses = k8s_get(endpoint, "addresses", NULL);
		struct k8s_endpoint read = { 0 };

		/* Of several the first one counts, says the API; names (addressType FQDN) are none. */
		if (!length(addresses) || address_parse_ip(&read.address, k8s_text(json_object_array_get_idx(addresses, 0))))
			continue;
		read.address.port_be = htons(port);
		read.pod = k8s_hash(k8s_text(k8s_get(endpoint, "targetRef", "uid", NULL)));
		read_condition(endpoint, &read);
		out[n++] = read;
	}
	return n;
}

/* ---- Pod ---- */

/* The first of a label and an annotation of that name. */
static const char *mark(struct json_object *pod, const char *name)
{
	const char *label = k8s_text(k8s_get(pod, "metadata", "labels", name, NULL));

	return *label ? label : k8s_text(k8s_get(pod, "metadata", "annotations", name, NULL));
}

static enum endpoint_role role_of(const char *text)
{
	if (!strcmp(text, "prefill"))
		return ENDPOINT_ROLE_PREFILL;
	return strcmp(text, "decode") ? ENDPOINT_ROLE_BOTH : ENDPOINT_ROLE_DECODE;
}

static enum endpoint_engine engine_of(const char *text)
{
	if (!strcmp(text, "vllm"))
		return ENDPOINT_ENGINE_VLLM;
	return strcmp(text, "sglang") ? ENDPOINT_ENGINE_UNKNOWN : ENDPOINT_ENGINE_SGLANG;
}

bool k8s_pod_read(struct json_object *json, struct k8s_pod *out)
{
	const char *model = k8s_text(k8s_get(json, "metadata", "annotations", "llm-d.ai/model", NULL));
	const char *engine = mark(json, "llm-d.ai/engine-type");

	*out = (struct k8s_pod){ .uid = k8s_hash(k8s_text(k8s_get(json, "metadata", "uid", NULL))) };
	out->role = role_of(mark(json, "llm-d.ai/role"));
	out->engine = engine_of(*engine ? engine : mark(json, "inference.networking.k8s.io/engine-type"));
	out->drains = !strcmp(mark(json, "llm-d.ai/drain"), "true");
	if (strlen(model) < sizeof(out->model))
		strcpy(out->model, model);
	return out->role != ENDPOINT_ROLE_BOTH || out->engine != ENDPOINT_ENGINE_UNKNOWN || out->drains || *out->model;
}
