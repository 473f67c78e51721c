// SPDX-License-Identifier: Apache-2.0
/* The options of llmd-agent as a table, and the checks between them. */
#include "agent/config.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/dns_spec.h"
#include "agent/k8s_object.h"
#include "agent/pins.h"
#include "lib/log.h"

static const struct option_name policy_names[] = {
	{ "prefix-cache-aware", POLICY_PREFIX_CACHE_AWARE },
	{ "session", POLICY_SESSION },
	{ "least-load", POLICY_LEAST_LOAD },
	{ "round-robin", POLICY_ROUND_ROBIN },
	{ 0 },
};

static const struct option_name level_names[] = {
	{ "debug", LOG_LEVEL_DEBUG },
	{ "info", LOG_LEVEL_INFO },
	{ "warn", LOG_LEVEL_WARN },
	{ "error", LOG_LEVEL_ERROR },
	{ 0 },
};

static const struct option_name datapath_names[] = { { "auto", DATAPATH_AUTO }, { "kernel", DATAPATH_KERNEL },
	{ "relay", DATAPATH_RELAY }, { 0 } };
static const struct option_name handoff_names[] = { { "auto", HANDOFF_AUTO }, { "always", HANDOFF_ALWAYS },
	{ "never", HANDOFF_NEVER }, { 0 } };
static const struct option_name keepalive_names[] = { { "close", KEEPALIVE_CLOSE }, { "pin", KEEPALIVE_PIN }, { 0 } };
static const struct option_name affinity_names[] = { { "none", AFFINITY_NONE }, { "client-ip", AFFINITY_CLIENT_IP }, { 0 } };
static const struct option_name attach_names[] = { { "auto", ATTACH_AUTO }, { "tcx", ATTACH_TCX },
	{ "clsact", ATTACH_CLSACT }, { 0 } };

static const struct option_name on_eject_names[] = { { "keep", ON_EJECT_KEEP }, { "reset", ON_EJECT_RESET }, { 0 } };

static const struct option_name format_names[] = { { "text", LOG_FORMAT_TEXT }, { "json", LOG_FORMAT_JSON }, { 0 } };

static const struct option_range share = { 0, 1 };
static const struct option_range block_range = { 16, 65536 };
static const struct option_range table_range = { 1024, 1 << 28 };
static const struct option_range connection_range = { 16, 1 << 20 };
static const struct option_range retry_range = { 0, 16 };
static const struct option_range count_range = { 1, 1000 }, streak_range = { 0, 1000 };
static const struct option_range inflight_range = { 0, 1e9 };
static const struct option_range pool_range = { 0, 4096 };
static const struct option_range token_range = { 0.1, 64 };
static const struct option_range flow_range = { 1024, 1 << 22 };
static const struct option_range some_time = { 1, 1e12 };
static const struct option_range buffer_range = { 16384, 1 << 30 };

/* In the order in which they are looked for. */
static const char *const default_session_headers[] = { "X-Session-ID", "x-session-token", "x-claude-code-session-id",
	"x-session-affinity", "session-id", "session_id", "X-Correlation-ID" };
enum { N_DEFAULT_SESSION_HEADERS = sizeof(default_session_headers) / sizeof(default_session_headers[0]) };

static int parse_listen(void *field, const char *value, const void *data)
{
	struct config_listen *listen = field;

	(void)data;
	if (listen->n == CONFIG_LISTEN_MAX || address_parse(&listen->at[listen->n], value))
		return -EINVAL;
	listen->n++;
	return 0;
}

static int parse_endpoint(void *field, const char *value, const void *data)
{
	struct config_endpoints *endpoints = field;

	(void)data;
	if (endpoints->n == ENDPOINT_MAX || endpoint_config_parse(&endpoints->at[endpoints->n], value))
		return -EINVAL;
	endpoints->n++;
	return 0;
}

static int add_name(struct config_names *names, const char *value)
{
	if (names->n == CONFIG_DISCOVER_MAX)
		return -EINVAL;
	names->at[names->n++] = value;
	return 0;
}

static int parse_dns(void *field, const char *value, const void *data)
{
	struct dns_spec spec;

	(void)data;
	return dns_spec_parse(&spec, value) ? -EINVAL : add_name(field, value);
}

static int parse_k8s(void *field, const char *value, const void *data)
{
	struct k8s_spec spec;

	(void)data;
	return k8s_spec_parse(&spec, value) ? -EINVAL : add_name(field, value);
}

static int parse_api(void *field, const char *value, const void *data)
{
	(void)data;
	if (*value && strncmp(value, "https://", 8) && strncmp(value, "http://", 7))
		return -EINVAL;
	*(const char **)field = value;
	return 0;
}

/* Its parents are made where they are missing, and other programs look for it, so it depends on no working directory. */
static int parse_pin_dir(void *field, const char *value, const void *data)
{
	(void)data;
	if (*value != '/' || strlen(value) > PIN_DIR_MAX)
		return -EINVAL;
	*(const char **)field = value;
	return 0;
}

static int parse_header(void *field, const char *value, const void *data)
{
	struct config_headers *headers = field;
	size_t len = strlen(value);

	(void)data;
	if (headers->n == CONFIG_SESSION_HEADERS_MAX || !len || len > 128)
		return -EINVAL;
	if (strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~") != len)
		return -EINVAL;
	headers->name[headers->n++] = value;
	return 0;
}

/* What stands in a request line as it is. */
static int parse_path(void *field, const char *value, const void *data)
{
	size_t len = strlen(value);

	(void)data;
	if (*value != '/' || len > 200)
		return -EINVAL;
	for (size_t i = 0; i < len; i++)
		if (value[i] <= ' ' || value[i] >= 127)
			return -EINVAL;
	*(const char **)field = value;
	return 0;
}

static int parse_weight(void *field, const char *value, const void *data)
{
	struct config_weights weights;
	int end = 0;

	(void)data;
	if (sscanf(value, "cache=%lf,load=%lf%n", &weights.cache, &weights.load, &end) != 2 || value[end])
		return -EINVAL;
	if (!isfinite(weights.cache) || !isfinite(weights.load) || weights.cache < 0 || weights.load < 0 ||
		weights.cache + weights.load == 0)
		return -EINVAL;
	*(struct config_weights *)field = weights;
	return 0;
}

static int parse_ports(void *field, const char *value, const void *data)
{
	struct config_ports *ports = field;
	unsigned low, high;
	int end = 0;

	(void)data;
	if (sscanf(value, "%u-%u%n", &low, &high, &end) != 2 || value[end])
		return -EINVAL;
	if (low < 1024 || high > UINT16_MAX || low > high)
		return -EINVAL;
	*ports = (struct config_ports){ (uint16_t)low, (uint16_t)high };
	return 0;
}

#define FIELD(name) offsetof(struct config, name)
#define DURATION    "a duration: 250ms, 30s, 5m, 2h"
#define SOME_TIME   "a duration above 0: 250ms, 30s, 5m, 2h"
#define SIZE	    "a size in bytes: 512, 64K, 16M, 1G"

/* clang-format off */
static const struct option_row rows[] = {
	{ .help = "Serving" },
	{ "listen", "ADDR:PORT", "0.0.0.0:8080", "an IP address and port: 0.0.0.0:8080, [::]:8080 (at most 16)",
	  "Address to accept requests on.", parse_listen, FIELD(listen), .repeat = true },
	{ "endpoint", "ADDR:PORT[,model=M][,role=R][,blocks=N][,engine=E]", NULL,
	  "ADDR:PORT[,model=NAME][,role=decode|prefill|both][,blocks=N][,engine=vllm|sglang], each address once, at most 1024",
	  "A pod to route to. blocks is the capacity of its prefix cache in blocks of --prefix-block bytes.",
	  parse_endpoint, FIELD(endpoints), .repeat = true },
	{ "endpoints-file", "FILE", "", "a YAML or JSON file", "Pods to route to. Followed as it changes; a broken one is logged with line and column,\n"
	  "and what was read last stays.", option_parse_string, FIELD(endpoints_file) },
	{ "discover-dns", "NAME:PORT", NULL, "NAME:PORT, or _SERVICE._PROTOCOL.NAME for SRV records (at most 8)",
	  "Pods are the addresses of a name, asked for again when their TTL is over.", parse_dns, FIELD(discover_dns), .repeat = true },
	{ "dns-server", "ADDR:PORT", NULL, "an IP address and port", "Asked for --discover-dns instead of those in /etc/resolv.conf.",
	  option_parse_address, FIELD(dns_server) },
	{ "discover-k8s", "NAMESPACE/SERVICE[:PORT]", NULL, "NAMESPACE/SERVICE[:PORT] or NAMESPACE?LABEL-SELECTOR[:PORT] (at most 8)",
	  "Pods are those of a Kubernetes Service, or of the EndpointSlices that a label selector chooses. PORT is a port's\n"
	  "name or number; by default the one port there is, else the one named http, else the first.",
	  parse_k8s, FIELD(discover_k8s), .repeat = true },
	{ "k8s-api", "URL", "", "https://HOST:PORT or http://HOST:PORT", "The Kubernetes API; by default what the environment of a pod says.",
	  parse_api, FIELD(k8s_api) },
	{ "k8s-service-account", "DIR", "/var/run/secrets/kubernetes.io/serviceaccount", "a directory",
	  "Has token and ca.crt for the Kubernetes API.", option_parse_string, FIELD(k8s_service_account) },
	{ "max-connections", "N", "32768", "a number from 16 to 1048576",
	  "Client connections at a time; more wait in the listen queue.", option_parse_u64, FIELD(max_connections), &connection_range },
	{ "max-body", "SIZE", "64M", SIZE, "Largest request body; a larger one is answered 413.", option_parse_size, FIELD(max_body) },
	{ "request-buffer", "SIZE", "1M", "a size from 16K to 1G",
	  "How much of a request is held to decide on it and to send it again elsewhere when a pod fails.",
	  option_parse_size, FIELD(request_buffer), &buffer_range },
	{ "head-timeout", "DURATION", "10s", SOME_TIME, "From the first byte of a request head to its last; then 408.",
	  option_parse_duration, FIELD(head_timeout_ms), &some_time },
	{ "body-timeout", "DURATION", "60s", SOME_TIME, "Longest pause within a request body; then 408. A pod that takes none of it for that long has failed.",
	  option_parse_duration, FIELD(body_timeout_ms), &some_time },
	{ "keepalive-timeout", "DURATION", "75s", SOME_TIME, "How long a client connection may be idle between requests.",
	  option_parse_duration, FIELD(keepalive_timeout_ms), &some_time },
	{ "drain-timeout", "DURATION", "30s", DURATION, "After SIGTERM, and at a pod that a file or name no longer lists: how long running requests may take to end.",
	  option_parse_duration, FIELD(drain_timeout_ms) },
	{ .help = "Choosing a pod" },
	{ "policy", "NAME", "prefix-cache-aware", "prefix-cache-aware, session, least-load or round-robin",
	  "How pods are chosen.", option_parse_enum, FIELD(policy), policy_names },
	{ "weight", "cache=W,load=W", "cache=0.7,load=0.3", "cache=W,load=W with weights that are not negative nor both 0",
	  "What counts how much where no pod holds the session.", parse_weight, FIELD(weight) },
	{ "affinity-threshold", "SHARE", "0.6", "a number from 0 to 1",
	  "Share of a prompt's blocks that a pod must hold for the prompt to stick to it.",
	  option_parse_double, FIELD(affinity_threshold), &share },
	{ "session-header", "NAME", NULL, "a header field name (at most 32)",
	  "Header that names the session; the first one found counts. By default X-Session-ID, x-session-token,\n"
	  "x-claude-code-session-id, x-session-affinity, session-id, session_id, X-Correlation-ID. After the headers\n"
	  "the cookies session and session-id are looked at, then session_id and user of the body.",
	  parse_header, FIELD(session_headers), .repeat = true },
	{ "session-ttl", "DURATION", "2h", SOME_TIME, "A session idle for that long is forgotten.",
	  option_parse_duration, FIELD(session_ttl_ms), &some_time },
	{ "session-secret-file", "FILE", "", "a file", "32 hex digits that seed the session hash; random if not given. Agents that\n"
	  "share sessions need the same.", option_parse_string, FIELD(session_secret_file) },
	{ "sessions-max", "N", "1048576", "a number from 1024 to 268435456", "Sessions remembered; the longest unused go first.",
	  option_parse_u64, FIELD(sessions_max), &table_range },
	{ "prefix-block", "BYTES", "512", "a number from 16 to 65536", "Size of a prefix block in bytes of prompt text.",
	  option_parse_u64, FIELD(prefix_block), &block_range },
	{ "prefix-blocks-max", "N", "4194304", "a number from 1024 to 268435456",
	  "(Pod, block) pairs remembered over all pods.", option_parse_u64, FIELD(prefix_blocks_max), &table_range },
	{ "endpoint-blocks", "N", "65536", "a number from 1024 to 268435456",
	  "Capacity assumed of a pod whose --endpoint gives no blocks.", option_parse_u64, FIELD(endpoint_blocks), &table_range },
	{ "bytes-per-token", "N", "4", "a number from 0.1 to 64", "To estimate a prompt's tokens from its bytes.",
	  option_parse_double, FIELD(bytes_per_token), &token_range },
	{ .help = "Pods" },
	{ "connect-timeout", "DURATION", "1s", SOME_TIME, "To connect to a pod; then the next best one is tried.",
	  option_parse_duration, FIELD(connect_timeout_ms), &some_time },
	{ "retries", "N", "2", "a number from 0 to 16",
	  "Other pods tried for a request that failed before anything reached the client.", option_parse_u64, FIELD(retries), &retry_range },
	{ "retry-budget", "SHARE", "0.2", "a number from 0 to 1",
	  "Tries elsewhere, as a share of all requests (and a few a minute), so that an outage is not made worse.",
	  option_parse_double, FIELD(retry_budget), &share },
	{ "max-inflight", "N", "0", "a number; 0: no bound",
	  "Requests at a time that a pod gets; when all pods have that many: 503 with Retry-After.",
	  option_parse_u64, FIELD(max_inflight), &inflight_range },
	{ "max-inflight-total", "N", "0", "a number; 0: no bound", "Requests at a time to all pods; then 429 with Retry-After.",
	  option_parse_u64, FIELD(max_inflight_total), &inflight_range },
	{ "health-path", "PATH", "/health", "a path of at most 200 characters, without white space",
	  "What is asked to see whether a pod is well; any answer below 500 will do.", parse_path, FIELD(health_path) },
	{ "health-interval", "DURATION", "5s", DURATION,
	  "How often each pod is asked. 0: only pods that are out are dialled.", option_parse_duration, FIELD(health_interval_ms) },
	{ "health-timeout", "DURATION", "1s", SOME_TIME, "How long its answer may take.",
	  option_parse_duration, FIELD(health_timeout_ms), &some_time },
	{ "health-fall", "N", "3", "a number from 1 to 1000", "Failed checks in a row that eject a pod.",
	  option_parse_u64, FIELD(health_fall), &count_range },
	{ "health-rise", "N", "2", "a number from 1 to 1000", "Good checks in a row that bring it back.",
	  option_parse_u64, FIELD(health_rise), &count_range },
	{ "eject-after", "N", "5", "a number from 0 to 1000",
	  "Failed requests in a row (reset, cut, answered with 5xx) that eject a pod; 0: never.",
	  option_parse_u64, FIELD(eject_after), &streak_range },
	{ "eject-time", "DURATION", "2s", SOME_TIME, "How long it is out at least; doubles up to 64 times when it is ejected again.",
	  option_parse_duration, FIELD(eject_time_ms), &some_time },
	{ "on-eject", "MODE", "keep", "keep or reset", "What becomes of streams in the kernel whose pod is ejected.",
	  option_parse_enum, FIELD(on_eject), on_eject_names },
	{ "scrape-interval", "DURATION", "1s", DURATION, "How often each pod's /metrics are read; 0: never.",
	  option_parse_duration, FIELD(scrape_interval_ms) },
	{ "pool-idle", "N", "256", "a number from 0 to 4096", "Idle connections kept to each pod.",
	  option_parse_u64, FIELD(pool_idle), &pool_range },
	{ "pool-timeout", "DURATION", "4s", DURATION,
	  "How long a connection to a pod is kept idle. Below vLLM's own 5 s, so that the agent closes first.",
	  option_parse_duration, FIELD(pool_timeout_ms) },
	{ .help = "Kernel data path" },
	{ "datapath", "MODE", "auto", "auto, kernel or relay",
	  "kernel hands connections to BPF programs and does not start without; relay passes all bytes through this\n"
	  "process; auto uses the kernel where it can and relays the rest.", option_parse_enum, FIELD(datapath), datapath_names },
	{ "handoff", "MODE", "auto", "auto, always or never",
	  "What is handed to the kernel: auto takes requests whose answer streams.", option_parse_enum, FIELD(handoff), handoff_names },
	{ "keepalive", "MODE", "close", "close or pin",
	  "What follows on a connection that was handed over: close ends it with the answer, so that each request is\n"
	  "routed on its own; pin leaves it at its pod.", option_parse_enum, FIELD(keepalive), keepalive_names },
	{ "affinity", "MODE", "none", "none or client-ip",
	  "client-ip sends the later connections of a client's address straight to the pod of its first one, unread, for\n"
	  "--session-ttl after the last.", option_parse_enum, FIELD(affinity), affinity_names },
	{ "pin-dir", "DIR", LLMD_PIN_DIR, "a path from / on of at most 400 characters, on a BPF file system",
	  "Where maps and programs stay when the agent ends.", parse_pin_dir, FIELD(pin_dir) },
	{ "port-range", "LOW-HIGH", "15000-29999", "two ports from 1024 to 65535, the lower one first",
	  "Local ports towards pods, the whole range for each pod. Must not overlap net.ipv4.ip_local_port_range nor the\n"
	  "NodePort range.", parse_ports, FIELD(port_range) },
	{ "affinity-ports", "LOW-HIGH", "10000-14999", "two ports from 1024 to 65535, the lower one first",
	  "Local ports of connections that --affinity sends straight to pods.", parse_ports, FIELD(affinity_ports) },
	{ "flows-max", "N", "131072", "a number from 1024 to 4194304", "Connections in the kernel at a time.",
	  option_parse_u64, FIELD(flows_max), &flow_range },
	{ "prefix-map-max", "N", "1048576", "a number from 1024 to 268435456",
	  "Prefix blocks kept in the kernel for the next agent.", option_parse_u64, FIELD(prefix_map_max), &table_range },
	{ "idle-timeout", "DURATION", "30m", SOME_TIME,
	  "A connection in the kernel without a packet for that long is reset. So is a relayed client\n"
	  "that takes nothing of its answer for that long, or 15m.", option_parse_duration, FIELD(idle_timeout_ms), &some_time },
	{ "fin-timeout", "DURATION", "2m", SOME_TIME,
	  "The same for one whose pod has ended its answer: the client has gone without a word, or leaves it half open.",
	  option_parse_duration, FIELD(fin_timeout_ms), &some_time },
	{ "attach", "MODE", "auto", "auto, tcx or clsact", "How the programs are attached: tcx needs Linux 6.6.",
	  option_parse_enum, FIELD(attach), attach_names },
	{ "cleanup", NULL, NULL, "given without a value", "Remove all that is pinned or attached, and end. Streams in the kernel end.",
	  option_parse_flag, FIELD(cleanup) },
	{ "cleanup-on-term", "DURATION", NULL, SOME_TIME,
	  "Serve nothing, but wait for SIGTERM and then, when no agent has used --pin-dir for that long, do as --cleanup.",
	  option_parse_duration, FIELD(cleanup_on_term_ms), &some_time },
	{ .help = "Several agents" },
	{ "redis", "URL", "", "redis://[user:password@]host[:port][/db], rediss://... for TLS, unix://[user:password@]/path[?db=N]",
	  "The Redis through which agents share sessions, prefixes and load. Needs --session-secret-file. Without Redis one\n"
	  "agent works alone; while it is away each goes on with what it knows.", option_parse_redis_url, FIELD(redis.url) },
	{ "redis-password-file", "FILE", "", "a file", "The password, instead of one in the URL; read at each connect, from a pipe at start.",
	  option_parse_string, FIELD(redis.password_file) },
	{ "redis-ca-file", "FILE", "", "a file", "Authorities that may sign the certificate of a rediss:// server; by default the system's.",
	  option_parse_string, FIELD(redis.ca_file) },
	{ "redis-cert-file", "FILE", "", "a file", "Certificate to show to it.", option_parse_string, FIELD(redis.cert_file) },
	{ "redis-key-file", "FILE", "", "a file", "Key of that certificate.", option_parse_string, FIELD(redis.key_file) },
	{ "redis-stream-max", "N", "65536", "a number from 1024 to 268435456",
	  "Entries that the stream of events keeps, about. An agent that falls behind by more reads all anew.",
	  option_parse_u64, FIELD(redis_stream_max), &table_range },
	{ .help = "Operation" },
	{ "admin", "ADDR:PORT", "127.0.0.1:9470", "an IP address and port", "Metrics, health and the admin interface.",
	  option_parse_address, FIELD(admin) },
	{ "metrics-listen", "ADDR:PORT", NULL, "an IP address and port",
	  "Serves /metrics, /healthz and /readyz there, too, for scrapers of other machines, and nothing else of --admin.",
	  option_parse_address, FIELD(metrics_listen) },
	{ "standby", NULL, NULL, "given without a value",
	  "While another agent has --admin or --pin-dir, wait until it leaves them, rather than fail.", option_parse_flag, FIELD(standby) },
	{ "log-level", "LEVEL", "info", "debug, info, warn or error", "debug logs every request.",
	  option_parse_enum, FIELD(log_level), level_names },
	{ "access-log", "N", "0", "a number", "Log one of N requests, with its id, pod, reason, tokens and duration, at level info; 0: none.",
	  option_parse_u64, FIELD(access_log) },
	{ "log-format", "FORMAT", "text", "text or json", "Lines of key=value, or JSON.",
	  option_parse_enum, FIELD(log_format), format_names },
	{ "check-config", NULL, NULL, "given without a value", "Check the options and end: 0 or 2.",
	  option_parse_flag, FIELD(check_config) },
	{ "metrics-doc", NULL, NULL, "given without a value", "Print the documentation of all metrics as Markdown and end.",
	  option_parse_flag, FIELD(metrics_doc) },
};
/* clang-format on */

static const struct program program = {
	.name = "llmd-agent",
	.section = "8",
	.summary = "routes LLM inference requests to the pod that holds their KV cache",
	.usage = "{--endpoint ADDR:PORT | --endpoints-file FILE | --discover-dns NAME:PORT | --discover-k8s SPEC} ... [OPTION ...]",
	.description = "llmd-agent accepts OpenAI-style HTTP requests, looks at the head of each once (model, session key, prompt "
		       "prefix), picks the vLLM pod that already holds the conversation's KV cache and carries the "
		       "request there and the answer back.",
	.sections = ".SH SIGNALS\n.TP\n.B SIGTERM, SIGINT\nStop accepting, let running requests end (at most "
		    "\\-\\-drain\\-timeout), exit. A second one ends at once.\n.TP\n.B SIGHUP\nRead the files named in "
		    "the options again.\n.SH EXIT STATUS\n0 after a regular end, 1 when something failed at start, 2 for "
		    "options that are not valid.\n.SH SEE ALSO\nllmd\\-sim(1), llmd\\-load(1)\n",
	.rows = rows,
	.n_rows = sizeof(rows) / sizeof(rows[0]),
};

static int complain(const char *text)
{
	fprintf(stderr, "llmd-agent: %s\n", text);
	return -EINVAL;
}

static int check_endpoints(const struct config *config)
{
	const struct config_endpoints *endpoints = &config->endpoints;
	char text[ADDRESS_TEXT_MAX];

	for (uint32_t i = 0; i < endpoints->n; i++)
		for (uint32_t k = 0; k < i; k++)
			if (address_equal(&endpoints->at[i].address, &endpoints->at[k].address)) {
				fprintf(stderr, "llmd-agent: --endpoint: \"%s\" is given twice\n",
					address_format(&endpoints->at[i].address, text));
				return -EINVAL;
			}
	if (endpoints->n || *config->endpoints_file || config->discover_dns.n || config->discover_k8s.n)
		return 0;
	return complain("--endpoint: at least one is needed, or --endpoints-file, --discover-dns or --discover-k8s");
}

static int check(const struct config *config)
{
	if (config->prefix_blocks_max < config->endpoint_blocks) {
		fprintf(stderr, "llmd-agent: --endpoint-blocks: \"%" PRIu64 "\" is not valid: must be at most --prefix-blocks-max, %" PRIu64 "\n",
			config->endpoint_blocks, config->prefix_blocks_max);
		return -EINVAL;
	}
	if (config->port_range.low <= config->affinity_ports.high && config->affinity_ports.low <= config->port_range.high)
		return complain("--affinity-ports: must not overlap --port-range");
	if (config->redis.url.is_set && !*config->session_secret_file)
		return complain("--redis: needs --session-secret-file, the same for all agents, or they know sessions by different hashes");
	if (!*config->redis.cert_file != !*config->redis.key_file)
		return complain("--redis-cert-file and --redis-key-file: one is of no use without the other");
	return config->metrics_doc || config->cleanup || config->cleanup_on_term_ms ? 0 : check_endpoints(config);
}

int config_load(struct config *config, int argc, char **argv)
{
	int err;

	memset(config, 0, sizeof(*config));
	err = options_parse(&program, argc, argv, config, NULL);
	if (err)
		return err;
	if (!config->session_headers.n) {
		config->session_headers.n = N_DEFAULT_SESSION_HEADERS;
		memcpy(config->session_headers.name, default_session_headers, sizeof(default_session_headers));
	}
	return check(config);
}
