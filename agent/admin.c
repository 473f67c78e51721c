// SPDX-License-Identifier: Apache-2.0
/* The admin port: see admin.h. Routes are a table; every error has the same JSON shape. */
#include "agent/admin.h"

#include <errno.h>
#include <event2/buffer.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/admin_server.h"
#include "agent/decision_log.h"
#include "agent/discovery.h"
#include "agent/endpoint.h"
#include "agent/engine.h"
#include "agent/events.h"
#include "agent/metrics.h"
#include "agent/session_key.h"
#include "agent/status.h"
#include "lib/log.h"

enum { DECISIONS_SHOWN = 20, PATH_ARG_MAX = 1024 };

/* @open: what --metrics-listen serves, or NULL. */
struct admin {
	struct agent *agent;
	struct admin_server *all, *open;
};

/* @arg: the decoded part of the path that stands for "*" in the route. */
struct admin_call {
	struct agent *agent;
	struct evhttp_request *request;
	const char *query;
	char arg[PATH_ARG_MAX];
};

/* libevent would send the content to HEAD, too, and the next answer on that connection would begin with it. */
static void send_reply(struct admin_call *call, int status, const char *type, struct evbuffer *out)
{
	struct evkeyvalq *headers = evhttp_request_get_output_headers(call->request);
	char length[24];

	evhttp_add_header(headers, "Content-Type", type);
	if (evhttp_request_get_command(call->request) == EVHTTP_REQ_HEAD) {
		snprintf(length, sizeof(length), "%zu", evbuffer_get_length(out));
		evhttp_add_header(headers, "Content-Length", length);
		evbuffer_drain(out, evbuffer_get_length(out));
	}
	evhttp_send_reply(call->request, status, status == 200 ? "OK" : status_reason((unsigned)status), out);
}

static void reply_json(struct admin_call *call, int status, struct json_object *json)
{
	struct evbuffer *out = evbuffer_new();

	if (out && json) {
		evbuffer_add_printf(out, "%s\n", json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN));
		send_reply(call, status, "application/json", out);
	} else {
		evhttp_send_error(call->request, 500, NULL);
	}
	if (out)
		evbuffer_free(out);
	json_object_put(json);
}

static void reply_error(struct admin_call *call, int status, const char *message)
{
	struct json_object *json = json_object_new_object(), *error = json_object_new_object();

	json_object_object_add(error, "message", json_object_new_string(message));
	json_object_object_add(error, "type", json_object_new_string(status == 404 ? "not_found" : "invalid_request_error"));
	json_object_object_add(error, "code", json_object_new_int(status));
	json_object_object_add(json, "error", error);
	reply_json(call, status, json);
}

static void reply_text(struct admin_call *call, int status, const char *text)
{
	struct evbuffer *out = evbuffer_new();

	if (!out) {
		evhttp_send_error(call->request, 500, NULL);
		return;
	}
	evbuffer_add_printf(out, "%s\n", text);
	send_reply(call, status, "text/plain", out);
	evbuffer_free(out);
}

/* ---- routes ---- */

static void get_metrics(struct admin_call *call)
{
	struct evbuffer *out = evbuffer_new();

	if (!out) {
		evhttp_send_error(call->request, 500, NULL);
		return;
	}
	metrics_print(call->agent->metrics, out);
	send_reply(call, 200, "text/plain; version=0.0.4; charset=utf-8", out);
	evbuffer_free(out);
}

static void get_healthz(struct admin_call *call)
{
	reply_text(call, 200, "ok");
}

static void get_readyz(struct admin_call *call)
{
	struct json_object *json = json_object_new_object();
	uint32_t usable = 0;
	bool ready;

	for (uint32_t i = 0; i < call->agent->endpoints->n; i++)
		usable += endpoint_is_usable(&call->agent->endpoints->at[i], 0);
	ready = usable && !call->agent->draining;
	json_object_object_add(json, "ready", json_object_new_boolean(ready));
	json_object_object_add(json, "draining", json_object_new_boolean(call->agent->draining));
	json_object_object_add(json, "usable_endpoints", json_object_new_int((int)usable));
	if (call->agent->events)
		json_object_object_add(json, "redis", events_json(call->agent->events));
	reply_json(call, ready ? 200 : 503, json);
}

/* What the engine said last; @is_fresh: it counts. */
static struct json_object *engine_json(const struct engine_state *engine)
{
	static const char *const names[ENGINE_NUMBER_N] = { [ENGINE_RUNNING] = "running", [ENGINE_WAITING] = "waiting",
		[ENGINE_KV_USAGE] = "kv_usage", [ENGINE_CAPACITY] = "capacity_tokens", [ENGINE_STARTED] = "started" };
	struct json_object *json = json_object_new_object();

	for (int i = 0; i < ENGINE_NUMBER_N; i++) {
		unsigned n = engine->sample.n[i];

		if (names[i] && n)
			json_object_object_add(json, names[i], json_object_new_double(engine->sample.number[i] / (i == ENGINE_KV_USAGE ? n : 1)));
	}
	json_object_object_add(json, "adapters", json_object_new_int((int)engine->sample.n_adapters));
	json_object_object_add(json, "age_seconds", json_object_new_double((double)(agent_now_ms() - engine->at_ms) / 1000));
	json_object_object_add(json, "fresh", json_object_new_boolean(engine->is_fresh));
	json_object_object_add(json, "restarts", json_object_new_uint64(engine->restarts));
	return json;
}

static struct json_object *endpoint_json(const struct agent *agent, uint32_t i)
{
	const struct endpoint *endpoint = &agent->endpoints->at[i];
	struct discovery_view view = discovery_view(agent->discovery, i);
	const struct engine_state *engine = engine_state(agent->engines, i);
	struct json_object *json = json_object_new_object();

	json_object_object_add(json, "address", json_object_new_string(endpoint->name));
	json_object_object_add(json, "model", json_object_new_string(endpoint->config.model));
	json_object_object_add(json, "role", json_object_new_string(endpoint_role_name(endpoint->role)));
	json_object_object_add(json, "state", json_object_new_string(endpoint_state_name(endpoint->state)));
	json_object_object_add(json, "engine_type", json_object_new_string(endpoint_engine_name(endpoint->config.engine)));
	json_object_object_add(json, "source", json_object_new_string(view.source));
	json_object_object_add(json, "condition", json_object_new_string(view.condition));
	json_object_object_add(json, "drained", json_object_new_boolean(view.drained));
	json_object_object_add(json, "index", json_object_new_int64(i));
	json_object_object_add(json, "why", json_object_new_string(endpoint->why));
	json_object_object_add(json, "state_seconds", json_object_new_double((double)(agent_now_ms() - endpoint->since_ms) / 1000));
	json_object_object_add(json, "generation", json_object_new_int64(endpoint->generation));
	json_object_object_add(json, "inflight_requests", json_object_new_int64(endpoint->inflight_requests));
	json_object_object_add(json, "inflight_tokens", json_object_new_uint64(endpoint->inflight_tokens));
	json_object_object_add(json, "remote_inflight_tokens", json_object_new_uint64(endpoint->remote_tokens));
	json_object_object_add(json, "requests", json_object_new_uint64(endpoint->requests));
	json_object_object_add(json, "prefix_blocks", json_object_new_uint64(decider_endpoint_blocks(agent->decider, i)));
	json_object_object_add(json, "prefix_blocks_capacity",
		json_object_new_uint64(decider_capacity(agent->decider, i)));
	json_object_object_add(json, "hit_drift", json_object_new_double(decider_drift(agent->decider, i)));
	json_object_object_add(json, "slowness", json_object_new_double(pace_slowness(pace_mean_rate(&agent->endpoints->pace_sum), endpoint->token_us)));
	if (endpoint->token_us > 0)
		json_object_object_add(json, "prefill_tokens_per_second", json_object_new_double(1e6 / endpoint->token_us));
	if (engine->is_known)
		json_object_object_add(json, "engine", engine_json(engine));
	return json;
}

static void get_endpoints(struct admin_call *call)
{
	struct json_object *json = json_object_new_array();

	for (uint32_t i = 0; i < call->agent->endpoints->n; i++)
		if (call->agent->endpoints->at[i].state != ENDPOINT_FREE)
			json_object_array_add(json, endpoint_json(call->agent, i));
	reply_json(call, 200, json);
}

static void get_session(struct admin_call *call)
{
	uint64_t hash = session_key_hash(call->agent->session_secret, call->arg, strlen(call->arg));
	uint64_t uses, idle_ms;
	struct json_object *json;
	uint32_t index;
	char text[32];

	if (decider_session_get(call->agent->decider, hash, agent_now_ms(), &index, &uses, &idle_ms)) {
		reply_error(call, 404, "no such session");
		return;
	}
	json = json_object_new_object();
	snprintf(text, sizeof(text), "%016lx", (unsigned long)hash);
	json_object_object_add(json, "session_hash", json_object_new_string(text));
	json_object_object_add(json, "endpoint", json_object_new_string(call->agent->endpoints->at[index].name));
	json_object_object_add(json, "uses", json_object_new_uint64(uses));
	json_object_object_add(json, "idle_seconds", json_object_new_double((double)idle_ms / 1000));
	reply_json(call, 200, json);
}

static int parse_last(const char *query, uint32_t *out)
{
	char *end;
	unsigned long n;

	*out = DECISIONS_SHOWN;
	if (!query || !*query)
		return 0;
	if (strncmp(query, "last=", 5) || query[5] < '0' || query[5] > '9')
		return -EINVAL;
	n = strtoul(query + 5, &end, 10);
	if (*end || !n || n > DECISION_LOG_DEFAULT)
		return -EINVAL;
	*out = (uint32_t)n;
	return 0;
}

static void get_decisions(struct admin_call *call)
{
	uint32_t n;

	if (parse_last(call->query, &n))
		reply_error(call, 400, "last must be a number from 1 to 1024");
	else
		reply_json(call, 200, decision_log_json(call->agent->decisions, n));
}

static void drain(struct admin_call *call, bool on)
{
	struct endpoint_table *endpoints = call->agent->endpoints;
	struct address address;
	int i = address_parse(&address, call->arg) ? -EINVAL : endpoint_find(endpoints, &address);

	if (i < 0) {
		reply_error(call, i == -EINVAL ? 400 : 404, i == -EINVAL ? "not an ADDR:PORT" : "no such endpoint");
		return;
	}
	discovery_drain(call->agent->discovery, (uint32_t)i, on);
	if (call->agent->events)
		events_publish_drain(call->agent->events, (uint32_t)i, on);
	reply_json(call, 200, endpoint_json(call->agent, (uint32_t)i));
}

static void post_drain(struct admin_call *call)
{
	drain(call, true);
}

static void post_undrain(struct admin_call *call)
{
	drain(call, false);
}

static const struct route {
	enum evhttp_cmd_type method;
	const char *before, *after; /* of the argument; @after NULL: the path has none */
	void (*serve)(struct admin_call *call);
	bool open; /* to everybody: changes nothing, and tells nothing of sessions or requests */
} routes[] = {
	{ EVHTTP_REQ_GET, "/metrics", NULL, get_metrics, true },
	{ EVHTTP_REQ_GET, "/healthz", NULL, get_healthz, true },
	{ EVHTTP_REQ_GET, "/readyz", NULL, get_readyz, true },
	{ EVHTTP_REQ_GET, "/v1/endpoints", NULL, get_endpoints },
	{ EVHTTP_REQ_GET, "/v1/sessions/", "", get_session },
	{ EVHTTP_REQ_GET, "/v1/decisions", NULL, get_decisions },
	{ EVHTTP_REQ_POST, "/v1/endpoints/", "/drain", post_drain },
	{ EVHTTP_REQ_POST, "/v1/endpoints/", "/undrain", post_undrain },
};

static int decode_arg(struct admin_call *call, const char *text, size_t len)
{
	char encoded[PATH_ARG_MAX];
	size_t n;
	char *decoded;

	if (!len || len >= sizeof(encoded))
		return -EINVAL;
	memcpy(encoded, text, len);
	encoded[len] = '\0';
	decoded = evhttp_uridecode(encoded, 0, &n);
	if (!decoded || strlen(decoded) != n) { /* a NUL within is in no session key */
		free(decoded);
		return -EINVAL;
	}
	strcpy(call->arg, decoded); /* decoding only shortens */
	free(decoded);
	return 0;
}

static bool route_matches(const struct route *route, struct admin_call *call, const char *path)
{
	size_t len = strlen(path), before = strlen(route->before), after = route->after ? strlen(route->after) : 0;

	if (!route->after)
		return !strcmp(path, route->before);
	return len > before + after && !strncmp(path, route->before, before) && !strcmp(path + len - after, route->after) &&
	       !decode_arg(call, path + before, len - before - after);
}

static void serve(struct admin *admin, struct evhttp_request *request, bool open)
{
	const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(request);
	const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
	struct admin_call call = { .agent = admin->agent, .request = request, .query = uri ? evhttp_uri_get_query(uri) : NULL };
	enum evhttp_cmd_type method = evhttp_request_get_command(request);
	const char *allow = NULL;

	if (method == EVHTTP_REQ_HEAD)
		method = EVHTTP_REQ_GET;
	for (size_t i = 0; path && i < sizeof(routes) / sizeof(routes[0]); i++) {
		if ((open && !routes[i].open) || !route_matches(&routes[i], &call, path))
			continue;
		if (routes[i].method == method) {
			routes[i].serve(&call);
			return;
		}
		allow = routes[i].method == EVHTTP_REQ_GET ? "GET, HEAD" : "POST";
	}
	if (allow)
		evhttp_add_header(evhttp_request_get_output_headers(request), "Allow", allow);
	reply_error(&call, allow ? 405 : 404, allow ? "method not allowed" : "no such path");
}

static void on_request(struct evhttp_request *request, void *arg)
{
	serve(arg, request, false);
}

static void on_open_request(struct evhttp_request *request, void *arg)
{
	serve(arg, request, true);
}

int admin_new(struct agent *agent, struct admin **out)
{
	struct admin *admin = calloc(1, sizeof(*admin));
	int err;

	*out = NULL;
	if (!admin)
		return -ENOMEM;
	admin->agent = agent;
	json_c_set_serialization_double_format("%.15g", JSON_C_OPTION_GLOBAL); /* 5.958, where 17 digits would say 5.9580000000000002 */
	err = admin_server_new(agent->base, &agent->config.admin, on_request, admin, &admin->all);
	if (!err && agent->config.metrics_listen.port_be)
		err = admin_server_new(agent->base, &agent->config.metrics_listen, on_open_request, admin, &admin->open);
	if (err) {
		admin_free(admin);
		return err;
	}
	*out = admin;
	return 0;
}

void admin_free(struct admin *admin)
{
	if (!admin)
		return;
	admin_server_free(admin->all);
	admin_server_free(admin->open);
	free(admin);
}
