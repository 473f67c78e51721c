/* SPDX-License-Identifier: Apache-2.0 */
/* Cuts the JSON of a Kubernetes list or watch into objects, as it comes, whatever its length. */
#ifndef LLMD_AGENT_K8S_STREAM_H
#define LLMD_AGENT_K8S_STREAM_H

#include <json-c/json.h>
#include <stddef.h>

/* K8S_LIST: one document, whose "items" are the objects. K8S_WATCH: one document after the other. */
enum k8s_stream_kind { K8S_LIST, K8S_WATCH };

struct k8s_stream;

/** k8s_stream_new() - @object: called for each; a result that is not 0 ends the stream. NULL without memory. */
struct k8s_stream *k8s_stream_new(enum k8s_stream_kind kind, int (*object)(void *ctx, struct json_object *json), void *ctx);
void k8s_stream_free(struct k8s_stream *stream);

/**
 * k8s_stream_feed() - the next bytes. Memory is bounded: one object at a time, of at most 4 MiB (the API server stores none
 * above 1.5 MiB). Return: 0, -EPROTO (not such JSON), -EFBIG, -ENOMEM, or what @object returned; the stream is then of no more use.
 */
int k8s_stream_feed(struct k8s_stream *stream, const char *data, size_t len);

/** k8s_stream_end() - of a list: the document without its items, for the caller to put. Return: NULL if it is not whole. */
struct json_object *k8s_stream_end(struct k8s_stream *stream);

#endif
