/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of one --discover-k8s: its EndpointSlices and the Pods that say something of themselves. */
#ifndef LLMD_AGENT_K8S_MODEL_H
#define LLMD_AGENT_K8S_MODEL_H

#include "agent/k8s_object.h"

struct k8s_model;

enum k8s_kind { K8S_SLICES, K8S_PODS, K8S_KIND_N };

struct k8s_model *k8s_model_new(const struct k8s_spec *spec);
void k8s_model_free(struct k8s_model *model);

/** k8s_model_begin(), k8s_model_end() - of a list: what was not put between the two is gone. */
void k8s_model_begin(struct k8s_model *model, enum k8s_kind kind);
void k8s_model_end(struct k8s_model *model, enum k8s_kind kind);

/** k8s_model_put() - an object as it is now. Return: 0, -EPROTO without a name, -ENOSPC, -ENOMEM. */
int k8s_model_put(struct k8s_model *model, enum k8s_kind kind, struct json_object *json);
void k8s_model_delete(struct k8s_model *model, enum k8s_kind kind, struct json_object *json);

/** k8s_model_list() - the endpoints, one for each pod; valid until the next call. Return: 0 or -ENOMEM. */
int k8s_model_list(struct k8s_model *model, const struct discovered **out, uint32_t *n);

/** k8s_model_count() - objects kept. */
uint32_t k8s_model_count(const struct k8s_model *model, enum k8s_kind kind);

#endif
