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

enum { CONFIG_LISTEN_MAX = 16, CONFIG_SESSION_HEADERS_MAX = 32 };

struct config_listen {
	uint32_t n;
	struct address at[CONFIG_LISTEN_MAX];
};

struct config_endpoints {
	uint32_t n;
	struct endpoint_config at[ENDPOINT_MAX];
};

struct config_headers {
	uint32_t n;
	const char *name[CONFIG_SESSION_HEADERS_MAX];
};

/* Host order, both included. */
struct config_ports {
	uint16_t low, high;
};

struct config_weights {
	double cache, load;
};

/** struct config - durations in milliseconds, sizes in bytes. */
struct config {
	struct config_listen listen;
	struct config_endpoints endpoints;
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
	struct address admin;
	uint64_t max_body, request_buffer, max_connections;
	uint64_t head_timeout_ms, body_timeout_ms, keepalive_timeout_ms, connect_timeout_ms, drain_timeout_ms;
	uint64_t retries;
	uint64_t pool_idle, pool_timeout_ms;
	int datapath, handoff, keepalive, affinity, attach; /* enums of datapath.h and attach.h */
	const char *pin_dir;
	struct config_ports port_range, affinity_ports;
	uint64_t flows_max, prefix_map_max, idle_timeout_ms;
	bool cleanup;
	int log_level, log_format;
	bool check_config, metrics_doc;
};

/**
 * config_load() - fills @config. Return: 0, or -EINVAL after a line on standard error that names the option, the value
 * and what is allowed. Exits 0 for --help, --version and --man.
 */
int config_load(struct config *config, int argc, char **argv);

#endif
