// SPDX-License-Identifier: Apache-2.0
/* Requests to a simulated pod: the OpenAI-style APIs, what vLLM serves beside them, and the controls of the simulation. */
#include <event2/buffer.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/status.h"
#include "lib/version.h"
#include "tools/sim/sim.h"

enum { EMBEDDING_DIMENSIONS = 8 };

static void reply(struct conn *conn, unsigned status, const char *type, const char *body, size_t len)
{
	char head[512];
	int n = snprintf(head, sizeof(head), "HTTP/1.1 %u %s\r\ncontent-type: %s\r\ncontent-length: %zu\r\nx-sim-pod: %s\r\n%s\r\n", status,
		status == 200 ? "OK" : status_reason(status), type, len, conn->pod->name,
		conn->keep_alive ? "" : "connection: close\r\n");

	conn_send2(conn, head, (size_t)n, body, conn->method == HTTP_HEAD ? 0 : len);
	conn_done(conn);
}

void reply_json(struct conn *conn, unsigned status, struct json_object *json)
{
	const char *text = json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN);

	reply(conn, status, "application/json", text, strlen(text));
	json_object_put(json);
}

void reply_error(struct conn *conn, unsigned status, const char *message)
{
	struct json_object *json = json_object_new_object(), *error = json_object_new_object();

	json_object_object_add(error, "message", json_object_new_string(message));
	json_object_object_add(error, "type", json_object_new_string(status == 404 ? "NotFoundError" : "BadRequestError"));
	json_object_object_add(error, "code", json_object_new_int((int)status));
	json_object_object_add(json, "error", error);
	reply_json(conn, status, json);
}

/* ---- the prompt as text ---- */

static void render(struct buffer *out, struct json_object *value);

static void append(struct buffer *out, const char *text, size_t len)
{
	if (buffer_append(out, text, len, SIZE_MAX / 2))
		abort();
}

/* Role markers as chat templates have them; all other members as they are, in their order. */
static void render_object(struct buffer *out, struct json_object *value)
{
	struct json_object *role = json_object_object_get(value, "role"), *content;

	if (role) {
		append(out, "<|", 2);
		append(out, json_object_get_string(role), (size_t)json_object_get_string_len(role));
		append(out, "|>", 2);
	}
	if (json_object_object_get_ex(value, "content", &content) || json_object_object_get_ex(value, "text", &content))
		render(out, content);
	else
		append(out, json_object_to_json_string(value), strlen(json_object_to_json_string(value)));
}

static void render(struct buffer *out, struct json_object *value)
{
	if (json_object_is_type(value, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(value); i++)
			render(out, json_object_array_get_idx(value, i));
	} else if (json_object_is_type(value, json_type_object)) {
		render_object(out, value);
	} else if (value) {
		append(out, json_object_get_string(value), strlen(json_object_get_string(value)));
	}
}

static int render_prompt(struct buffer *out, enum api api, struct json_object *request)
{
	static const char *const keys[API_N] = { [API_CHAT_COMPLETIONS] = "messages", [API_COMPLETIONS] = "prompt",
		[API_RESPONSES] = "input", [API_MESSAGES] = "messages", [API_EMBEDDINGS] = "input", [API_TOKENIZE] = "prompt" };
	struct json_object *value;

	if (json_object_object_get_ex(request, "tools", &value))
		render(out, value);
	if (json_object_object_get_ex(request, "system", &value) || json_object_object_get_ex(request, "instructions", &value))
		render(out, value);
	if (!json_object_object_get_ex(request, keys[api], &value) && !json_object_object_get_ex(request, "messages", &value))
		return -1;
	render(out, value);
	return 0;
}

static uint32_t count_tokens(const struct conn *conn, size_t bytes)
{
	double tokens = (double)bytes / conn->pod->config->bytes_per_token;

	return tokens < 1 ? 1 : (uint32_t)(tokens + 0.999999);
}

/* ---- the APIs ---- */

static const char *served_model(const struct conn *conn, struct json_object *request)
{
	const struct string_list *models = &conn->pod->config->models;
	struct json_object *model = json_object_object_get(request, "model");

	if (!model)
		return models->item[0];
	for (size_t i = 0; i < models->n; i++)
		if (!strcmp(json_object_get_string(model), models->item[i]))
			return models->item[i];
	return NULL;
}

static uint32_t output_tokens(const struct conn *conn, struct json_object *request)
{
	static const char *const names[] = { "max_completion_tokens", "max_tokens", "max_output_tokens" };
	struct json_object *value;

	for (size_t i = 0; i < 3; i++)
		if (json_object_object_get_ex(request, names[i], &value) && json_object_get_int(value) > 0)
			return (uint32_t)json_object_get_int(value);
	return (uint32_t)conn->pod->config->max_tokens;
}

static bool flag(struct json_object *object, const char *name)
{
	struct json_object *value;

	return object && json_object_object_get_ex(object, name, &value) && json_object_get_boolean(value);
}

static struct sequence *start_sequence(struct conn *conn, const char *model, uint32_t prompt_tokens, uint32_t max_tokens)
{
	static uint64_t next_id = 1;
	struct sequence *sequence = calloc(1, sizeof(*sequence));

	if (!sequence)
		abort();
	*sequence = (struct sequence){
		.pod = conn->pod,
		.conn = conn,
		.api = conn->api,
		.prompt_tokens = prompt_tokens,
		.max_tokens = max_tokens,
		.arrived_us = sim_now_us(),
		.id = next_id++,
		.model = model,
	};
	conn->sequence = sequence;
	return sequence;
}

static void start_generation(struct conn *conn, struct json_object *request, const char *model, struct buffer *prompt)
{
	struct sequence *sequence = start_sequence(conn, model, count_tokens(conn, prompt->len), output_tokens(conn, request));

	sequence->stream = flag(request, "stream");
	sequence->include_usage = flag(json_object_object_get(request, "stream_options"), "include_usage");
	sequence->prompt = prompt->data;
	sequence->prompt_len = prompt->len;
	*prompt = (struct buffer){ 0 };
}

static void serve_embeddings(struct conn *conn, const char *model, uint32_t tokens)
{
	struct json_object *json = json_object_new_object(), *data = json_object_new_array(), *item = json_object_new_object();
	struct json_object *vector = json_object_new_array(), *usage = json_object_new_object();

	for (int i = 0; i < EMBEDDING_DIMENSIONS; i++)
		json_object_array_add(vector, json_object_new_double((double)(tokens % (unsigned)(i + 2)) / (i + 2)));
	json_object_object_add(item, "object", json_object_new_string("embedding"));
	json_object_object_add(item, "index", json_object_new_int(0));
	json_object_object_add(item, "embedding", vector);
	json_object_array_add(data, item);
	json_object_object_add(usage, "prompt_tokens", json_object_new_int((int)tokens));
	json_object_object_add(usage, "total_tokens", json_object_new_int((int)tokens));
	json_object_object_add(json, "object", json_object_new_string("list"));
	json_object_object_add(json, "model", json_object_new_string(model));
	json_object_object_add(json, "data", data);
	json_object_object_add(json, "usage", usage);
	reply_json(conn, 200, json);
}

static void serve_tokenize(struct conn *conn, uint32_t tokens)
{
	struct json_object *json = json_object_new_object(), *ids = json_object_new_array();

	for (uint32_t i = 0; i < tokens; i++)
		json_object_array_add(ids, json_object_new_int((int)i));
	json_object_object_add(json, "count", json_object_new_int((int)tokens));
	json_object_object_add(json, "max_model_len", json_object_new_int(131072));
	json_object_object_add(json, "tokens", ids);
	reply_json(conn, 200, json);
}

static void serve_generation(struct conn *conn, struct json_object *request)
{
	const char *model = served_model(conn, request);
	const struct sim_config *config = conn->pod->config;
	struct buffer prompt = { 0 };
	uint32_t tokens;

	if (!model) {
		reply_error(conn, 404, "The model does not exist.");
		return;
	}
	if (render_prompt(&prompt, conn->api, request)) {
		reply_error(conn, 400, "the prompt is missing");
		return;
	}
	tokens = count_tokens(conn, prompt.len);
	if (conn->api == API_EMBEDDINGS)
		serve_embeddings(conn, model, tokens);
	else if (conn->api == API_TOKENIZE)
		serve_tokenize(conn, tokens);
	else if (tokens + output_tokens(conn, request) > config->kv_blocks * config->block_size)
		reply_error(conn, 400, "the request is longer than the KV cache");
	else
		start_generation(conn, request, model, &prompt);
	buffer_free(&prompt);
	if (conn->sequence)
		scheduler_add(conn->pod, conn->sequence);
}

/* The body is not a C string. Return: NULL if it is not JSON. */
static struct json_object *parse_body(const struct conn *conn)
{
	struct json_tokener *tokener = json_tokener_new();
	struct json_object *json;

	if (!tokener)
		abort();
	json = conn->body.len ? json_tokener_parse_ex(tokener, buffer_head(&conn->body), (int)conn->body.len) : NULL;
	json_tokener_free(tokener);
	return json;
}

/* What follows @member, which stands there without white space, as llmd-load writes it. */
static const char *skim(const struct conn *conn, const char *member)
{
	const char *at = conn->body.len ? memmem(buffer_head(&conn->body), conn->body.len, member, strlen(member)) : NULL;

	return at ? at + strlen(member) : NULL;
}

static uint32_t skim_tokens(const struct conn *conn)
{
	const char *at = skim(conn, "\"max_tokens\":"), *end = at ? buffer_tail(&conn->body) : NULL;
	uint32_t tokens = 0;

	for (; at < end && *at >= '0' && *at <= '9' && tokens < 100000; at++)
		tokens = tokens * 10 + (uint32_t)(*at - '0');
	return tokens ? tokens : (uint32_t)conn->pod->config->max_tokens;
}

static void serve_skimmed(struct conn *conn)
{
	const struct sim_config *config = conn->pod->config;
	uint32_t tokens = skim_tokens(conn);
	struct sequence *sequence;

	if (tokens >= config->kv_blocks * config->block_size) {
		reply_error(conn, 400, "the request is longer than the KV cache");
		return;
	}
	sequence = start_sequence(conn, config->models.item[0], 1, tokens);
	sequence->stream = skim(conn, "\"stream\":true");
	scheduler_add(conn->pod, sequence);
}

static void serve_api(struct conn *conn)
{
	struct json_object *request;

	if (conn_skims(conn)) {
		serve_skimmed(conn);
		return;
	}
	request = parse_body(conn);
	if (conn->pod->fault == FAULT_503)
		reply_error(conn, 503, "overloaded on demand");
	else if (!json_object_is_type(request, json_type_object))
		reply_error(conn, 400, "the body is not a JSON object");
	else if (conn->pod->fault != FAULT_HANG)
		serve_generation(conn, request);
	json_object_put(request);
}

/* ---- the rest ---- */

static void serve_models(struct conn *conn)
{
	struct json_object *json = json_object_new_object(), *data = json_object_new_array();

	for (size_t i = 0; i < conn->pod->config->models.n; i++) {
		struct json_object *model = json_object_new_object();

		json_object_object_add(model, "id", json_object_new_string(conn->pod->config->models.item[i]));
		json_object_object_add(model, "object", json_object_new_string("model"));
		json_object_object_add(model, "created", json_object_new_int(1));
		json_object_object_add(model, "owned_by", json_object_new_string("llmd-sim"));
		json_object_array_add(data, model);
	}
	json_object_object_add(json, "object", json_object_new_string("list"));
	json_object_object_add(json, "data", data);
	reply_json(conn, 200, json);
}

static void serve_metrics(struct conn *conn)
{
	struct evbuffer *out = evbuffer_new();

	if (!out)
		abort();
	pod_print_metrics(conn->pod, out);
	reply(conn, 200, "text/plain; version=0.0.4", (const char *)evbuffer_pullup(out, -1), evbuffer_get_length(out));
	evbuffer_free(out);
}

static void serve_health(struct conn *conn)
{
	if (conn->pod->fault != FAULT_HANG)
		reply(conn, conn->pod->fault == FAULT_503 ? 503 : 200, "text/plain", "", 0);
}

static void serve_version(struct conn *conn)
{
	reply(conn, 200, "application/json", "{\"version\":\"llmd-sim " LLMD_VERSION "\"}", sizeof("{\"version\":\"llmd-sim " LLMD_VERSION "\"}") - 1);
}

static void serve_state(struct conn *conn)
{
	struct json_object *json = json_object_new_object();

	json_object_object_add(json, "running", json_object_new_uint64(conn->pod->n_running));
	json_object_object_add(json, "waiting", json_object_new_uint64(conn->pod->n_waiting));
	json_object_object_add(json, "blocks_in_use", json_object_new_uint64(kv_cache_in_use(conn->pod->cache)));
	json_object_object_add(json, "finished", json_object_new_uint64(conn->pod->finished));
	json_object_object_add(json, "aborted", json_object_new_uint64(conn->pod->aborted));
	json_object_object_add(json, "fault", json_object_new_int((int)conn->pod->fault));
	reply_json(conn, 200, json);
}

static void serve_reset_cache(struct conn *conn)
{
	kv_cache_reset(conn->pod->cache);
	conn->pod->queries = conn->pod->hits = 0;
	reply(conn, 200, "text/plain", "", 0);
}

/* {"fault": "none|refuse|hang|503|die", "after": N chunks, "slow": factor} */
static void serve_fault(struct conn *conn)
{
	static const char *const names[] = { "none", "refuse", "hang", "503", "die" };
	struct json_object *json = parse_body(conn), *value;
	enum fault fault = conn->pod->fault;
	bool known = json_object_is_type(json, json_type_object);
	uint64_t after = 0;
	double slow = 1;

	if (known && json_object_object_get_ex(json, "fault", &value)) {
		known = false;
		for (size_t i = 0; i < 5; i++) {
			if (!strcmp(json_object_get_string(value), names[i])) {
				fault = (enum fault)i;
				known = true;
			}
		}
	}
	if (known && json_object_object_get_ex(json, "after", &value))
		after = json_object_get_uint64(value);
	if (known && json_object_object_get_ex(json, "slow", &value))
		slow = json_object_get_double(value);
	json_object_put(json);
	if (!known || slow <= 0 || pod_set_fault(conn->pod, fault, after, slow))
		reply_error(conn, 400, "fault must be none, refuse, hang, 503 or die; slow above 0");
	else
		reply(conn, 200, "text/plain", "", 0);
}

static const struct {
	const char *path;
	bool post;
	void (*serve)(struct conn *conn);
} routes[] = {
	{ "/v1/chat/completions", true, serve_api },
	{ "/v1/completions", true, serve_api },
	{ "/v1/responses", true, serve_api },
	{ "/v1/messages", true, serve_api },
	{ "/v1/embeddings", true, serve_api },
	{ "/tokenize", true, serve_api },
	{ "/v1/models", false, serve_models },
	{ "/metrics", false, serve_metrics },
	{ "/health", false, serve_health },
	{ "/version", false, serve_version },
	{ "/sim/state", false, serve_state },
	{ "/sim/fault", true, serve_fault },
	{ "/sim/reset-cache", true, serve_reset_cache },
};

void request_serve(struct conn *conn)
{
	for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
		if (strcmp(conn->path, routes[i].path))
			continue;
		if (routes[i].post == (conn->method == HTTP_POST))
			routes[i].serve(conn);
		else
			reply_error(conn, 405, "Method Not Allowed");
		return;
	}
	reply_error(conn, 404, "Not Found");
}
