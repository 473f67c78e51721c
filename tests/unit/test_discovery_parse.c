// SPDX-License-Identifier: Apache-2.0
/* What discovery reads: endpoints files, names, DNS messages, Kubernetes objects. */
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <errno.h>

#include "agent/dns_reply.h"
#include "agent/dns_spec.h"
#include "agent/endpoints_yaml.h"
#include "agent/k8s_model.h"
#include "agent/k8s_stream.h"

/* ---- endpoints files ---- */

/* @want: "ADDR:PORT/role/engine/blocks/model[!]" of each, or the place and beginning of the error. */
static const struct {
	const char *text, *want;
} files[] = {
	{ "- 10.0.0.1:80", "10.0.0.1:80/both/unknown/0/" },
	{ "endpoints: [10.0.0.1:80, \"[::1]:81\"]", "10.0.0.1:80/both/unknown/0/ [::1]:81/both/unknown/0/" },
	{ "# nothing\nendpoints: []\n", "" },
	{ "[]", "" },
	{ "{\"endpoints\": [{\"address\": \"10.0.0.1:80\", \"role\": \"decode\", \"engine\": \"vllm\", \"blocks\": 7, \"model\": \"a/b\", "
	  "\"drain\": true}]}",
		"10.0.0.1:80/decode/vllm/7/a/b!" },
	{ "- address: 10.0.0.1:80\n  drain: no\n- 10.0.0.2:80,role=prefill,engine=sglang", "10.0.0.1:80/both/unknown/0/ 10.0.0.2:80/prefill/sglang/0/" },
	{ "- &a 10.0.0.1:80", "10.0.0.1:80/both/unknown/0/" },
	{ "", "1:1: the file is empty" },
	{ "# only a comment\n", "2:1: the file is empty" },
	{ "~", "1:1: expected a list" },
	{ "endpoints:", "1:11: expected a list" },
	{ "pods: []", "1:1: expected the key" },
	{ "endpoints: []\nmore: 1", "2:1: expected the key" },
	{ "[]\n---\n[]", "2:1: more than one document" },
	{ "- 10.0.0.1", "1:3: must be ADDR:PORT" },
	{ "- 10.0.0.1:0", "1:3: must be ADDR:PORT" },
	{ "- [10.0.0.1:80]", "1:3: must be ADDR:PORT" },
	{ "- {}", "1:3: an endpoint without an address" },
	{ "- address: 10.0.0.1:80\n  address: 10.0.0.2:80", "2:3: \"address\" is given twice" },
	{ "- address: name:80", "1:12: address must be" },
	{ "- address: 10.0.0.1:80\n  blocks: -1", "2:11: blocks must be" },
	{ "- address: 10.0.0.1:80\n  role: cook", "2:9: role must be" },
	{ "- address: 10.0.0.1:80\n  engine: steam", "2:11: engine must be" },
	{ "- address: 10.0.0.1:80\n  model: ''", "2:10: model must be" },
	{ "- address: 10.0.0.1:80\n  model: [a]", "2:10: model must be" },
	{ "- address: 10.0.0.1:80\n  drain: 1", "2:10: drain must be" },
	{ "- address: 10.0.0.1:80\n  [a]: b", "2:3: expected a key" },
	{ "- 10.0.0.1:80\n- 10.0.0.2:80\n- 10.0.0.1:80", "3:3: 10.0.0.1:80 is given twice" },
	{ "- 10.0.0.1:80\n- [::ffff:10.0.0.1]:80", "2:" },
	{ "- &a 10.0.0.1:80\n- *a", "2:3: aliases are not supported" },
	{ "{\"endpoints\": [}", "1:16: while parsing" },
	{ "- \"10.0.0.1:80", "1:15: while scanning" },
	{ "- a\tb: \001", "1:8: control characters" },
	{ "-\n\t- 10.0.0.1:80", "2:1: while scanning" },
	{ "- \xff\xfe", "1:3: invalid leading UTF-8" },
};

static void describe_items(const struct discovered *items, uint32_t n, char *text, size_t size)
{
	size_t len = 0;
	char address[ADDRESS_TEXT_MAX];

	*text = '\0';
	for (uint32_t i = 0; i < n; i++) {
		const struct endpoint_config *config = &items[i].config;

		len += (size_t)snprintf(text + len, size - len, "%s%s/%s/%s/%u/%s%s", i ? " " : "", address_format(&config->address, address),
			endpoint_role_name(config->role), endpoint_engine_name(config->engine), config->blocks, config->model,
			items[i].condition == DISCOVERY_DRAINING ? "!" : "");
	}
}

static void test_endpoints_files(void **state)
{
	unsigned bad = 0;

	(void)state;
	for (unsigned i = 0; i < COUNT(files); i++) {
		struct endpoints_yaml_error error;
		struct discovered *items = NULL;
		char got[1024];
		uint32_t n;
		int err = endpoints_yaml_parse(files[i].text, strlen(files[i].text), &items, &n, &error);

		if (err)
			snprintf(got, sizeof(got), "%u:%u: %s", error.line, error.column, error.what);
		else
			describe_items(items, n, got, sizeof(got));
		free(items);
		if (err ? strncmp(got, files[i].want, strlen(files[i].want)) : strcmp(got, files[i].want)) {
			print_error("%s: \"%s\", not \"%s\"\n", files[i].text, got, files[i].want);
			bad++;
		}
	}
	assert_int_equal(bad, 0);
}

/* ---- what options say ---- */

static void test_dns_names_to_discover(void **state)
{
	static const struct {
		const char *text, *name;
		uint16_t port;
	} dns[] = {
		{ "vllm.default.svc:8000", "vllm.default.svc", 8000 },
		{ "a:1", "a", 1 },
		{ "_http._tcp.vllm.default.svc.cluster.local.", "_http._tcp.vllm.default.svc.cluster.local.", 0 },
		{ "", NULL },
		{ "a", NULL },
		{ ":80", NULL },
		{ "a:", NULL },
		{ "a:0", NULL },
		{ "a:65536", NULL },
		{ "a:80x", NULL },
		{ "a b:80", NULL },
		{ "_http._tcp.a:80", NULL },
	};

	(void)state;
	for (unsigned i = 0; i < COUNT(dns); i++) {
		struct dns_spec spec;

		assert_int_equal(dns_spec_parse(&spec, dns[i].text), dns[i].name ? 0 : -EINVAL);
		if (!dns[i].name)
			continue;
		assert_string_equal(spec.name, dns[i].name);
		assert_int_equal(ntohs(spec.port_be), dns[i].port);
		assert_int_equal(spec.is_srv, !dns[i].port);
	}
}

static void test_kubernetes_names_to_discover(void **state)
{
	static const struct {
		const char *text, *namespace, *selector, *port_name;
		uint16_t port;
	} k8s[] = {
		{ "default/vllm", "default", "kubernetes.io/service-name=vllm", "", 0 },
		{ "default/vllm:8000", "default", "kubernetes.io/service-name=vllm", "", 8000 },
		{ "a-1/b:http-2", "a-1", "kubernetes.io/service-name=b", "http-2", 0 },
		{ "ml?app=vllm,tier in (a, b),!old", "ml", "app=vllm,tier in (a, b),!old", "", 0 },
		{ "ml?app.kubernetes.io/name=x:9", "ml", "app.kubernetes.io/name=x", "", 9 },
		{ "", NULL },
		{ "default", NULL },
		{ "/vllm", NULL },
		{ "default/", NULL },
		{ "default/a/b", NULL },
		{ "default/vllm:", NULL },
		{ "default/vllm:0", NULL },
		{ "default/vllm:99999", NULL },
		{ "Default/vllm", NULL },
		{ "default?a=b&watch=0", NULL },
		{ "default?", NULL },
	};

	(void)state;
	for (unsigned i = 0; i < COUNT(k8s); i++) {
		struct k8s_spec spec;

		assert_int_equal(k8s_spec_parse(&spec, k8s[i].text), k8s[i].namespace ? 0 : -EINVAL);
		if (!k8s[i].namespace)
			continue;
		assert_string_equal(spec.namespace, k8s[i].namespace);
		assert_string_equal(spec.selector, k8s[i].selector);
		assert_string_equal(spec.port_name, k8s[i].port_name);
		assert_int_equal(spec.port, k8s[i].port);
	}
}

/* ---- DNS ---- */

#define HEADER(answers, additional) "\0\1\x81\x80\0\1\0" answers "\0\0\0" additional
#define QUESTION(type)	      "\1a\0\0" type "\0\1"
#define RECORD(type, ttl, len) "\xc0\x0c\0" type "\0\1\0\0\0" ttl "\0" len
#define MESSAGE(text)	      text, sizeof(text) - 1

static const struct {
	const char *name, *message;
	size_t len;
	const char *want; /* "type address-or-target ..." and the TTL, NULL: refused */
} replies[] = {
	{ "two addresses, the least TTL", MESSAGE(HEADER("\2", "\0") QUESTION("\1") RECORD("\1", "\x3c", "\4") "\x0a\0\0\1" RECORD("\1", "\5", "\4") "\x0a\0\0\2"),
		"10.0.0.1 10.0.0.2 5" },
	{ "IPv6", MESSAGE(HEADER("\1", "\0") QUESTION("\x1c") RECORD("\x1c", "\1", "\x10") "\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1"), "fd00::1 1" },
	{ "a service with its target's address",
		MESSAGE(HEADER("\1", "\1") QUESTION("\x21") RECORD("\x21", "\7", "\x09") "\0\1\0\2\x1f\x40\1b\0" "\1b\0\0\1\0\1\0\0\0\3\0\4\x0a\0\0\3"),
		"b:8000/1 +10.0.0.3 7" },
	{ "an alias, whose TTL counts", MESSAGE(HEADER("\2", "\0") QUESTION("\1") RECORD("\5", "\2", "\3") "\1b\0" "\1b\0\0\1\0\1\0\0\0\x3c\0\4\x0a\0\0\4"),
		"10.0.0.4 2" },
	{ "no records", MESSAGE(HEADER("\0", "\0") QUESTION("\1")), "4294967295" },
	{ "another class", MESSAGE(HEADER("\1", "\0") QUESTION("\1") "\xc0\x0c\0\1\0\3\0\0\0\1\0\4\x0a\0\0\1"), "1" },
	{ "an address of three bytes", MESSAGE(HEADER("\1", "\0") QUESTION("\1") RECORD("\1", "\1", "\3") "\x0a\0\0"), NULL },
	{ "a service without a target", MESSAGE(HEADER("\1", "\0") QUESTION("\x21") RECORD("\x21", "\1", "\6") "\0\1\0\2\x1f\x40"), NULL },
	{ "a target that points to itself", MESSAGE(HEADER("\1", "\0") QUESTION("\x21") RECORD("\x21", "\1", "\x08") "\0\1\0\2\x1f\x40\xc0\x25"), NULL },
	{ "fewer records than announced", MESSAGE(HEADER("\2", "\0") QUESTION("\1") RECORD("\1", "\1", "\4") "\x0a\0\0\1"), NULL },
	{ "cut in a record", MESSAGE(HEADER("\1", "\0") QUESTION("\1") RECORD("\1", "\1", "\4") "\x0a\0"), NULL },
	{ "half a header", MESSAGE("\0\1\x81"), NULL },
	{ "nothing", "", 0, NULL },
};

static void note_record(void *ctx, const struct dns_record *record)
{
	char *text = (char *)ctx + strlen(ctx), address[ADDRESS_TEXT_MAX];

	if (record->type == DNS_SRV)
		sprintf(text, "%s%s:%u/%u ", record->additional ? "+" : "", record->target, ntohs(record->port_be), record->priority);
	else
		sprintf(text, "%s%s ", record->additional ? "+" : "", address_format_ip(&record->address, address));
}

static void test_dns_replies(void **state)
{
	(void)state;
	for (unsigned i = 0; i < COUNT(replies); i++) {
		char got[512] = "";
		uint32_t ttl = UINT32_MAX;
		int err = dns_reply_read((const uint8_t *)replies[i].message, replies[i].len, &ttl, note_record, got);

		if (err != (replies[i].want ? 0 : -EPROTO))
			fail_msg("%s: %d", replies[i].name, err);
		sprintf(got + strlen(got), "%u", ttl);
		if (replies[i].want)
			assert_string_equal(got, replies[i].want);
	}
}

/* ---- Kubernetes' JSON, cut into objects ---- */

/* @want: the objects, then for a list what is around them, or "!" when it is refused. */
static const struct {
	enum k8s_stream_kind kind;
	const char *text, *want;
} streams[] = {
	{ K8S_WATCH, "{\"a\":1}\n{\"b\":\"}{\"}", "{\"a\":1} {\"b\":\"}{\"} " },
	{ K8S_WATCH, " \n", "" },
	{ K8S_WATCH, "{\"a\":{\"b\":[{},{\"c\":\"\\\"]\"}]}}{}", "{\"a\":{\"b\":[{},{\"c\":\"\\\"]\"}]}} {} " },
	{ K8S_WATCH, "{\"a\":\"\\ud83d\\ude00\\u0000\"}", "{\"a\":\"\xf0\x9f\x98\x80\\u0000\"} " },
	{ K8S_WATCH, "{\"a\":1} x", "{\"a\":1} !" },
	{ K8S_WATCH, "[]", "!" },
	{ K8S_WATCH, "{]}", "!" },
	{ K8S_WATCH, "{\"a\":1,}", "!" },
	{ K8S_WATCH, "{\"a\" 1}", "!" },
	{ K8S_WATCH, "}", "!" },
	{ K8S_LIST, "{\"metadata\":{\"resourceVersion\":\"7\"},\"items\":[{\"a\":[1]} , {\"b\":{}}]}\n",
		"{\"a\":[1]} {\"b\":{}} {\"metadata\":{\"resourceVersion\":\"7\"},\"items\":[]}" },
	{ K8S_LIST, "{\"items\":[],\"metadata\":{\"items\":[{\"a\":1}]}}", "{\"items\":[],\"metadata\":{\"items\":[{\"a\":1}]}}" },
	{ K8S_LIST, "{\"items\":null}", "{\"items\":null}" },
	{ K8S_LIST, "{\"kind\":\"items\",\"x\":[{\"a\":1}]}", "{\"kind\":\"items\",\"x\":[{\"a\":1}]}" },
	{ K8S_LIST, "{\"items\":[{\"a\":1}", "{\"a\":1} !" },
	{ K8S_LIST, "{\"items\":[{\"a\":1},2]}", "{\"a\":1} !" },
	{ K8S_LIST, "{\"items\":[{\"a\":1]]}", "!" },
	{ K8S_LIST, "{} {}", "!" },
	{ K8S_LIST, "[]", "!" },
	{ K8S_LIST, "", "!" },
};

static int note_object(void *ctx, struct json_object *json)
{
	sprintf((char *)ctx + strlen(ctx), "%s ", json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	return 0;
}

static void cut_into_objects(enum k8s_stream_kind kind, const char *text, size_t step, char *got)
{
	struct k8s_stream *stream = k8s_stream_new(kind, note_object, got);
	size_t len = strlen(text);
	struct json_object *around;
	int err = 0;

	*got = '\0';
	for (size_t i = 0; i < len && !err; i += step)
		err = k8s_stream_feed(stream, text + i, step < len - i ? step : len - i);
	around = !err && kind == K8S_LIST ? k8s_stream_end(stream) : NULL;
	if (err || (kind == K8S_LIST && !around))
		strcat(got, "!");
	else if (around)
		strcat(got, json_object_to_json_string_ext(around, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(around);
	k8s_stream_free(stream);
}

static void test_streams_at_every_cut(void **state)
{
	char got[1024];

	(void)state;
	for (unsigned i = 0; i < COUNT(streams); i++) {
		for (size_t step = 1; step <= strlen(streams[i].text) + 1; step++) {
			cut_into_objects(streams[i].kind, streams[i].text, step, got);
			assert_string_equal(got, streams[i].want);
		}
	}
}

static void test_an_object_without_end_is_given_up(void **state)
{
	static char blanks[65536];
	struct k8s_stream *stream = k8s_stream_new(K8S_WATCH, note_object, NULL);
	unsigned n = 0;
	int err = k8s_stream_feed(stream, "{\"a\":\"", 6);

	(void)state;
	memset(blanks, ' ', sizeof(blanks));
	while (!err && n++ < 1000)
		err = k8s_stream_feed(stream, blanks, sizeof(blanks));
	assert_int_equal(err, -EFBIG);
	assert_in_range(n, 60, 70);
	k8s_stream_free(stream);
}

/* ---- Kubernetes' objects ---- */

#define ENDPOINT(ip, rest) "{\"addresses\":[\"" ip "\"]" rest "}"
#define UID(uid)	   ",\"targetRef\":{\"kind\":\"Pod\",\"uid\":\"" uid "\"}"

static const struct {
	const char *spec, *slice, *want;
} slices[] = {
	{ "a/b", "{\"ports\":[{\"port\":80}],\"endpoints\":[" ENDPOINT("10.0.0.1", "") "," ENDPOINT("fd00::1", "") "]}", "10.0.0.1:80 [fd00::1]:80 " },
	{ "a/b", "{\"ports\":[{\"port\":1,\"name\":\"x\"},{\"port\":2,\"name\":\"http\"}],\"endpoints\":[" ENDPOINT("10.0.0.1", "") "]}", "10.0.0.1:2 " },
	{ "a/b", "{\"ports\":[{\"port\":1,\"name\":\"x\"},{\"port\":2,\"name\":\"y\"}],\"endpoints\":[" ENDPOINT("10.0.0.1", "") "]}", "10.0.0.1:1 " },
	{ "a/b:y", "{\"ports\":[{\"port\":1,\"name\":\"x\"},{\"port\":2,\"name\":\"y\"}],\"endpoints\":[" ENDPOINT("10.0.0.1", "") "]}", "10.0.0.1:2 " },
	{ "a/b:z", "{\"ports\":[{\"port\":1,\"name\":\"x\"}],\"endpoints\":[" ENDPOINT("10.0.0.1", "") "]}", "" },
	{ "a/b:9", "{\"endpoints\":[" ENDPOINT("10.0.0.1", "") "]}", "10.0.0.1:9 " },
	{ "a/b", "{\"ports\":[{\"port\":1,\"protocol\":\"UDP\"}],\"endpoints\":[" ENDPOINT("10.0.0.1", "") "]}", "" },
	{ "a/b", "{\"ports\":[{\"port\":70000}],\"endpoints\":[" ENDPOINT("10.0.0.1", "") "]}", "" },
	{ "a/b:1", "{\"endpoints\":[" ENDPOINT("10.0.0.1", ",\"conditions\":{\"ready\":false}") "," ENDPOINT("10.0.0.2", ",\"conditions\":{\"ready\":true}") ","
		ENDPOINT("10.0.0.3", ",\"conditions\":{\"ready\":true,\"terminating\":true}") "," ENDPOINT("10.0.0.4", ",\"conditions\":{\"ready\":null}") "]}",
		"10.0.0.1:1! 10.0.0.2:1 10.0.0.3:1! 10.0.0.4:1 " },
	{ "a/b:1", "{\"addressType\":\"FQDN\",\"endpoints\":[" ENDPOINT("pod.example", "") ",{},[],7,{\"addresses\":\"10.0.0.1\"},{\"addresses\":[]}]}", "" },
	{ "a/b:1", "{\"endpoints\":7}", "" },
	{ "a/b:1", "[]", "" },
};

static void test_slices(void **state)
{
	static struct k8s_endpoint endpoints[K8S_ENDPOINTS_MAX];

	(void)state;
	for (unsigned i = 0; i < COUNT(slices); i++) {
		struct json_object *json = json_tokener_parse(slices[i].slice);
		char got[512] = "", address[ADDRESS_TEXT_MAX];
		struct k8s_spec spec;
		uint32_t n;

		assert_non_null(json);
		assert_int_equal(k8s_spec_parse(&spec, slices[i].spec), 0);
		n = k8s_slice_read(json, &spec, endpoints);
		for (uint32_t k = 0; k < n; k++)
			sprintf(got + strlen(got), "%s%s ", address_format(&endpoints[k].address, address),
				endpoints[k].condition == DISCOVERY_DRAINING ? "!" : "");
		assert_string_equal(got, slices[i].want);
		json_object_put(json);
	}
}

static void test_pods(void **state)
{
	static const struct {
		const char *metadata;
		bool says;
		enum endpoint_role role;
		enum endpoint_engine engine;
		bool drains;
		const char *model;
	} pods[] = {
		{ "{}", false, ENDPOINT_ROLE_BOTH, 0, false, "" },
		{ "{\"labels\":{\"llm-d.ai/role\":\"prefill\"}}", true, ENDPOINT_ROLE_PREFILL, 0, false, "" },
		{ "{\"annotations\":{\"llm-d.ai/role\":\"decode\"}}", true, ENDPOINT_ROLE_DECODE, 0, false, "" },
		{ "{\"labels\":{\"llm-d.ai/role\":\"decode\"},\"annotations\":{\"llm-d.ai/role\":\"prefill\"}}", true, ENDPOINT_ROLE_DECODE, 0, false, "" },
		{ "{\"labels\":{\"llm-d.ai/role\":\"both\"}}", false, ENDPOINT_ROLE_BOTH, 0, false, "" },
		{ "{\"labels\":{\"llm-d.ai/engine-type\":\"vllm\",\"inference.networking.k8s.io/engine-type\":\"sglang\"}}", true,
			ENDPOINT_ROLE_BOTH, ENDPOINT_ENGINE_VLLM, false, "" },
		{ "{\"labels\":{\"inference.networking.k8s.io/engine-type\":\"sglang\"}}", true, ENDPOINT_ROLE_BOTH, ENDPOINT_ENGINE_SGLANG, false, "" },
		{ "{\"annotations\":{\"llm-d.ai/drain\":\"true\"}}", true, ENDPOINT_ROLE_BOTH, 0, true, "" },
		{ "{\"annotations\":{\"llm-d.ai/drain\":\"false\"}}", false, ENDPOINT_ROLE_BOTH, 0, false, "" },
		{ "{\"annotations\":{\"llm-d.ai/model\":\"org/name\"}}", true, ENDPOINT_ROLE_BOTH, 0, false, "org/name" },
		{ "{\"labels\":{\"llm-d.ai/model\":\"name\"}}", false, ENDPOINT_ROLE_BOTH, 0, false, "" },
		{ "{\"labels\":[],\"annotations\":7}", false, ENDPOINT_ROLE_BOTH, 0, false, "" },
	};

	(void)state;
	for (unsigned i = 0; i < COUNT(pods); i++) {
		struct json_object *json = json_object_new_object();
		struct k8s_pod pod;

		json_object_object_add(json, "metadata", json_tokener_parse(pods[i].metadata));
		assert_int_equal(k8s_pod_read(json, &pod), pods[i].says);
		assert_int_equal(pod.role, pods[i].role);
		assert_int_equal(pod.engine, pods[i].engine);
		assert_int_equal(pod.drains, pods[i].drains);
		assert_string_equal(pod.model, pods[i].model);
		json_object_put(json);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_endpoints_files),
		cmocka_unit_test(test_dns_names_to_discover),
		cmocka_unit_test(test_kubernetes_names_to_discover),
		cmocka_unit_test(test_dns_replies),
		cmocka_unit_test(test_streams_at_every_cut),
		cmocka_unit_test(test_an_object_without_end_is_given_up),
		cmocka_unit_test(test_slices),
		cmocka_unit_test(test_pods),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
