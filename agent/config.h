/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration of llmd-agent: what the command line and LLMD_* variables say, checked. */
#ifndef LLMD_AGENT_CONFIG_H
#define LLMD_AGENT_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/attach.h"
#include "agent/datapath.h"
#include "agent/decide.h"
#include "agent/endpoint.h"
#include "lib/address.h"
#include "lib/option.h"
#include "lib/redis_conn.h"

enum { CONFIG_LISTEN_MAX = 16, CONFIG_SESSION_HEADERS_MAX = 32, CONFIG_DISCOVER_MAX = 8 };

struct config_listen {
	uint32_t n;
	struct address at[CONFIG_LISTEN_MAX];
};

struct config_endpoints {
	uint32_t n;
	struct endpoint_config at[ENDPOINT_MAX];
};

struct config_names {
	uint32_t n;
	const char *at[CONFIG_DISCOVER_MAX];
};

struct config_headers {
	uint32_t n;
	const char *name[CONFIG_SESSION_HEADERS_MAX];
};

/* Host order, both included. */
struct config_ports {
	uint16_t low, high;
};

/* What happens to streams in the kernel whose pod is ejected. */
enum on_eject { ON_EJECT_KEEP, ON_EJECT_RESET };

struct config_weights {
	double cache, load;
};

/** struct config - durations in milliseconds, sizes in bytes. */
struct config {
	struct config_listen listen;
	struct config_endpoints endpoints;
	const char *endpoints_file;
	struct config_names discover_dns, discover_k8s;
	const char *k8s_api, *k8s_service_account;
	struct address dns_server; /* port 0: those of /etc/resolv.conf */
	int policy; /* enum policy */
	struct config_weights weight;
	double affinity_threshold;
	struct config_headers session_headers;
	uint64_t session_ttl_ms, sessions_max, prefix_blocks_max;
	uint64_t prefix_block, endpoint_blocks;
	double bytes_per_token;
	const char *session_secret_file;
	struct redis_config redis;
	uint64_t redis_stream_max;
	struct address admin, metrics_listen; /* the latter with port 0: none */
	uint64_t max_body, request_buffer, max_connections;
	uint64_t head_timeout_ms, body_timeout_ms, keepalive_timeout_ms, connect_timeout_ms, drain_timeout_ms;
	uint64_t retries;
	double retry_budget;
	uint64_t max_inflight, max_inflight_total;
	const char *health_path;
	uint64_t health_interval_ms, health_timeout_ms, health_fall, health_rise;
	uint64_t eject_after, eject_time_ms;
	int on_eject; /* enum on_eject */
	uint64_t scrape_interval_ms;
	uint64_t pool_idle, pool_timeout_ms;
	int datapath, handoff, keepalive, affinity, attach; /* enums of datapath.h and attach.h */
	const char *pin_dir;
	struct config_ports port_range, affinity_ports;
	uint64_t flows_max, prefix_map_max, idle_timeout_ms, fin_timeout_ms;
	bool cleanup, standby;
	uint64_t cleanup_on_term_ms; /* 0: not a keeper */
	int log_level, log_format;
	uint64_t access_log; /* one of so many requests; 0: none */
	bool check_config, metrics_doc;
};

/**
 * config_load() - fills @config. Return: 0, or -EINVAL after a line on standard error that names the option, the value
 * and what is allowed. Exits 0 for --help, --version and --man.
 */
int config_load(struct config *config, int argc, char **argv);

#endif
