/* SPDX-License-Identifier: Apache-2.0 */
/* What matters of Kubernetes' EndpointSlices and Pods. Objects may have any shape: what is not as expected is not there. */
#ifndef LLMD_AGENT_K8S_OBJECT_H
#define LLMD_AGENT_K8S_OBJECT_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/discovery.h"

enum { K8S_ENDPOINTS_MAX = 1000 }; /* of a slice; the API's own limit */

/** struct k8s_spec - what --discover-k8s says. @selector: of EndpointSlices. @port: 0: by @port_name; "": to be guessed. */
struct k8s_spec {
	char namespace[64], selector[512], port_name[64];
	uint16_t port;
};

/** k8s_spec_parse() - "NAMESPACE/SERVICE[:PORT]" or "NAMESPACE?LABEL-SELECTOR[:PORT]". Return: 0 or -EINVAL. */
int k8s_spec_parse(struct k8s_spec *out, const char *text);

/** struct k8s_endpoint - @pod: hash of its UID; 0 when the slice names none. @why: as in struct discovered. */
struct k8s_endpoint {
	struct address address;
	uint64_t pod;
	enum discovery_condition condition;
	const char *why;
};

/** k8s_slice_read() - at most K8S_ENDPOINTS_MAX. Return: how many were written to @out. */
uint32_t k8s_slice_read(struct json_object *json, const struct k8s_spec *spec, struct k8s_endpoint *out);

/** struct k8s_pod - what labels and annotations say. */
struct k8s_pod {
	uint64_t uid; /* hash, as in struct k8s_endpoint */
	enum endpoint_role role;
	enum endpoint_engine engine;
	bool drains;
	char model[ENDPOINT_MODEL_MAX];
};

/** k8s_pod_read() - Return: whether it says anything that is not the default; @out->uid is 0 without a UID. */
bool k8s_pod_read(struct json_object *json, struct k8s_pod *out);

/** k8s_get() - a member by its path ("metadata", "name", NULL); NULL when there is none. */
struct json_object *k8s_get(struct json_object *json, ...) __attribute__((sentinel));

/** k8s_text() - of a string; "" of anything else. */
const char *k8s_text(struct json_object *json);

/** k8s_hash() - of a name or UID; 0 of "" alone. */
uint64_t k8s_hash(const char *text);

#endif
