// SPDX-License-Identifier: Apache-2.0
/*
 * Kubernetes' JSON of any bytes. The first byte says whether it is a list and how it is cut; in pieces and at once it must
 * be cut into the same objects. These go into a model, whose endpoints must be in order, each pod once.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "agent/k8s_model.h"
#include "agent/k8s_stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct sum {
	struct k8s_model *model;
	uint64_t n, bytes;
};

static int take(void *ctx, struct json_object *json)
{
	struct json_object *object = k8s_get(json, "object", NULL);
	struct sum *sum = ctx;

	sum->n++;
	sum->bytes += strlen(json_object_to_json_string(json));
	object = object ? object : json;
	k8s_model_put(sum->model, K8S_SLICES, object);
	k8s_model_put(sum->model, K8S_PODS, object);
	if (!strcmp(k8s_text(k8s_get(json, "type", NULL)), "DELETED"))
		k8s_model_delete(sum->model, K8S_SLICES, object);
	return 0;
}

static void check(struct k8s_model *model)
{
	const struct discovered *items;
	uint32_t n;

	assert(!k8s_model_list(model, &items, &n));
	for (uint32_t i = 1; i < n; i++)
		assert(memcmp(items[i - 1].config.address.ip, items[i].config.address.ip, 16) <= 0);
	for (uint32_t i = 0; i < n && i < 64; i++)
		for (uint32_t k = 0; k < i; k++)
			assert(!items[i].identity || items[i].identity != items[k].identity);
}

static int run(enum k8s_stream_kind kind, const char *text, size_t len, size_t step, struct sum *sum)
{
	const struct k8s_spec spec = { .port = 80 };
	struct k8s_stream *stream = k8s_stream_new(kind, take, sum);
	int err = 0;

	sum->model = k8s_model_new(&spec);
	for (size_t i = 0; i < len && !err; i += step)
		err = k8s_stream_feed(stream, text + i, step < len - i ? step : len - i);
	json_object_put(k8s_stream_end(stream));
	check(sum->model);
	k8s_model_free(sum->model);
	k8s_stream_free(stream);
	return err;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sum whole = { 0 }, cut = { 0 };
	enum k8s_stream_kind kind;
	int err;

	if (!size)
		return 0;
	kind = data[0] & 1 ? K8S_LIST : K8S_WATCH;
	err = run(kind, (const char *)data + 1, size - 1, size, &whole);
	assert(run(kind, (const char *)data + 1, size - 1, 1 + (data[0] >> 1) % 16, &cut) == err);
	assert(whole.n == cut.n && whole.bytes == cut.bytes);
	return 0;
}
