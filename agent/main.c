// SPDX-License-Identifier: Apache-2.0
/*
 * llmd-agent: start, signals, drain, end. Where a request is decided: exchange_route() in reach.c, decide() in decide.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "agent/admin.h"
#include "agent/agent.h"
#include "agent/client.h"
#include "agent/datapath.h"
#include "agent/decision_log.h"
#include "agent/discovery.h"
#include "agent/endpoints_file.h"
#include "agent/engine.h"
#include "agent/events.h"
#include "agent/exchange.h"
#include "agent/keeper.h"
#include "agent/health.h"
#include "agent/listener.h"
#include "agent/metrics.h"
#include "agent/mirror.h"
#include "agent/prober.h"
#include "agent/session_key.h"
#include "agent/standby.h"
#include "agent/upstream.h"
#include "lib/log.h"
#include "lib/small_file.h"
#include "lib/version.h"

/* Of a drain: connections that are being opened end within GRACE_MS; a successor should listen within HOLD_MS. */
enum { GRACE_MS = 20, HOLD_MS = 3000 };
enum { EXIT_USAGE = 2, LINGER_MS = 2000, ALLOC_THRESHOLD = 4 << 20 };

/* What only main() holds. */
struct process {
	struct agent agent;
	struct admin *admin;
	struct listeners *listeners;
	struct event *term, *interrupt, *hangup, *drain_timer;
	bool terminating;
};

struct prompt_scanner *agent_take_scanner(struct agent *agent)
{
	if (agent->n_scanners)
		return agent->scanners[--agent->n_scanners];
	return prompt_scanner_new((uint32_t)agent->config.prefix_block);
}

void agent_give_scanner(struct agent *agent, struct prompt_scanner *scanner)
{
	if (agent->n_scanners < AGENT_SCANNERS_KEPT)
		agent->scanners[agent->n_scanners++] = scanner;
	else
		prompt_scanner_free(scanner);
}

void agent_client_gone(struct agent *agent)
{
	struct process *process = (struct process *)agent;

	if (!agent->draining)
		listeners_resume(process->listeners);
	else if (!agent->n_clients)
		event_base_loopexit(agent->base, NULL);
}

/* ---- signals ---- */

static void on_drain_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct process *process = arg;

	(void)fd, (void)what;
	log_warn("drain timed out", "connections=%lu", (unsigned long)process->agent.n_clients);
	event_base_loopbreak(process->agent.base);
}

static void close_mirror(struct agent *agent)
{
	if (agent->mirror)
		mirror_flush(agent->mirror);
	mirror_free(agent->mirror);
	agent->mirror = NULL;
}

/* Clients whose SYN was answered are accepted by now; others' SYNs are dropped and come again, perhaps to a successor. */
static void drain(evutil_socket_t fd, short what, void *arg)
{
	struct process *process = arg;
	struct agent *agent = &process->agent;
	struct timeval timeout = { .tv_sec = (time_t)(agent->config.drain_timeout_ms / 1000),
		.tv_usec = (suseconds_t)(agent->config.drain_timeout_ms % 1000 * 1000) };

	(void)fd, (void)what;
	agent->draining = true;
	log_info("draining", "connections=%lu", (unsigned long)agent->n_clients);
	listeners_close(process->listeners);
	if (agent->datapath || agent->config.standby) { /* a successor may start from now on */
		admin_free(process->admin);
		process->admin = NULL;
	}
	close_mirror(agent);
	datapath_release(agent->datapath);
	clients_close_idle(agent);
	event_add(process->drain_timer, &timeout);
	if (!agent->n_clients)
		event_base_loopexit(agent->base, NULL);
}

static void on_terminate(evutil_socket_t fd, short what, void *arg)
{
	const struct timeval grace = { .tv_usec = GRACE_MS * 1000 };
	struct process *process = arg;
	struct agent *agent = &process->agent;

	(void)fd, (void)what;
	if (process->terminating) {
		event_base_loopbreak(agent->base);
		return;
	}
	process->terminating = true;
	listeners_hold(process->listeners);
	if (agent->datapath)
		datapath_hold_syns(agent->datapath, HOLD_MS);
	event_base_once(agent->base, -1, EV_TIMEOUT, drain, process, &grace);
}

/* What stood in a pipe was read at start, and the loop does not wait for more. */
static void on_hangup(evutil_socket_t fd, short what, void *arg)
{
	struct agent *agent = &((struct process *)arg)->agent;
	const char *path = agent->config.session_secret_file;
	uint8_t secret[sizeof(agent->session_secret)];
	bool again = *path && !small_file_is_other(path);

	(void)fd, (void)what;
	if (!again || !session_secret_load(secret, path)) {
		if (again)
			memcpy(agent->session_secret, secret, sizeof(secret));
		log_info("files read again", NULL);
	}
	discovery_reload(agent->discovery);
}

/* What comes before there is a handler waits for it, or an agent that is told to end or to read its files again would just die. */
static void mask_signals(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(how, &set, NULL);
}

static int watch_signals(struct process *process)
{
	struct event_base *base = process->agent.base;

	signal(SIGPIPE, SIG_IGN);
	process->term = evsignal_new(base, SIGTERM, on_terminate, process);
	process->interrupt = evsignal_new(base, SIGINT, on_terminate, process);
	process->hangup = evsignal_new(base, SIGHUP, on_hangup, process);
	process->drain_timer = evtimer_new(base, on_drain_timeout, process);
	if (!process->term || !process->interrupt || !process->hangup || !process->drain_timer)
		return -ENOMEM;
	event_add(process->term, NULL);
	event_add(process->interrupt, NULL);
	event_add(process->hangup, NULL);
	mask_signals(SIG_UNBLOCK);
	return 0;
}

/* ---- start ---- */

static const struct timeval *shared_timeout(struct event_base *base, uint64_t ms)
{
	struct timeval tv = { .tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000 * 1000) };

	return event_base_init_common_timeout(base, &tv);
}

static int init_loop(struct agent *agent)
{
	struct event_config *config = event_config_new();
	const struct config *options = &agent->config;

	if (!config)
		return -ENOMEM;
	/* Safe here: no descriptor that is watched has a duplicate. */
	event_config_set_flag(config, EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST | EVENT_BASE_FLAG_NOLOCK);
	agent->base = event_base_new_with_config(config);
	event_config_free(config);
	if (!agent->base)
		return -ENOMEM;
	agent->timeouts.head = shared_timeout(agent->base, options->head_timeout_ms);
	agent->timeouts.body = shared_timeout(agent->base, options->body_timeout_ms);
	agent->timeouts.keepalive = shared_timeout(agent->base, options->keepalive_timeout_ms);
	agent->timeouts.connect = shared_timeout(agent->base, options->connect_timeout_ms);
	agent->timeouts.pool = shared_timeout(agent->base, options->pool_timeout_ms);
	agent->timeouts.linger = shared_timeout(agent->base, LINGER_MS);
	return agent->timeouts.linger ? 0 : -ENOMEM;
}

static int init_secret(struct agent *agent)
{
	if (*agent->config.session_secret_file)
		return session_secret_load(agent->session_secret, agent->config.session_secret_file);
	session_secret_random(agent->session_secret);
	return 0;
}

/* A random secret lives as long as the sessions that were hashed with it: with the pinned maps. */
static int settle_secret(struct agent *agent)
{
	static const uint8_t none[SESSION_SECRET_BYTES];
	struct control *control = agent->datapath ? datapath_control(agent->datapath) : NULL;
	uint64_t pseudonym;
	int err;

	randombytes_buf(&agent->request_ids, sizeof(agent->request_ids));
	randombytes_buf(&pseudonym, sizeof(pseudonym));
	snprintf(agent->pseudonym, sizeof(agent->pseudonym), "llmd-%016" PRIx64, pseudonym);
	if (control && !*agent->config.session_secret_file && memcmp(control->session_secret, none, sizeof(none))) {
		memcpy(agent->session_secret, control->session_secret, sizeof(agent->session_secret));
		return 0;
	}
	err = init_secret(agent);
	if (!err && control)
		memcpy(control->session_secret, agent->session_secret, sizeof(control->session_secret));
	return err;
}

static int init_decision(struct agent *agent)
{
	const struct config *options = &agent->config;
	const struct decide_config config = {
		.policy = (enum policy)options->policy,
		.weight_cache = options->weight.cache,
		.weight_load = options->weight.load,
		.affinity_threshold = options->affinity_threshold,
		.session_ttl_ms = options->session_ttl_ms,
		.sessions_max = options->sessions_max,
		.prefix_blocks_max = options->prefix_blocks_max,
		.prefix_block_bytes = (uint32_t)options->prefix_block,
		.bytes_per_token = options->bytes_per_token,
		.default_capacity_blocks = (uint32_t)options->endpoint_blocks,
		.max_inflight = options->max_inflight,
	};

	agent->endpoints = calloc(1, sizeof(*agent->endpoints));
	if (!agent->endpoints)
		return -ENOMEM;
	agent->endpoints->now_us = agent_now_us;
	agent->decider = decider_new(&config, agent->endpoints);
	return agent->decider ? discovery_new(agent, &agent->discovery) : -ENOMEM;
}

static void gauges(void *ctx, struct metrics_gauges *out)
{
	const struct agent *agent = ctx;

	out->clients = agent->n_clients;
	out->draining = agent->draining;
	out->decider = agent->decider;
	out->engines = agent->engines;
	out->engine_state = engine_state;
	out->health = health_counts(agent->health);
	upstream_pool_counts(agent->upstreams, &out->upstreams_open, &out->upstreams_idle);
	discovery_get_stats(agent->discovery, &out->discovery);
	metrics_kernel_collect(agent, &out->kernel);
	out->has_events = agent->events;
	events_get_stats(agent->events, &out->events);
}

/* A mirror that cannot be read is no reason not to serve. */
static int init_mirror(struct agent *agent)
{
	int err = agent->datapath ? mirror_new(agent, agent->datapath, &agent->mirror) : 0;

	if (!err && agent->mirror)
		mirror_load(agent->mirror, agent_now_ms());
	return err;
}

static int init_parts(struct process *process)
{
	struct agent *agent = &process->agent;
	int err = init_loop(agent);

	if (!err)
		err = datapath_open(agent, &agent->datapath);
	if (!err)
		err = settle_secret(agent);
	if (!err)
		err = init_decision(agent);
	if (err)
		return err;
	agent->metrics = metrics_new(agent->endpoints, agent->decider, gauges, agent);
	agent->decisions = decision_log_new(agent->endpoints, DECISION_LOG_DEFAULT);
	agent->upstreams = upstream_pool_new(agent, &exchange_upstream_callbacks);
	agent->engines = engines_new(agent);
	agent->health = health_new(agent);
	agent->prober = prober_new(agent);
	retry_budget_init(&agent->retry_budget, agent->config.retry_budget);
	if (!agent->metrics || !agent->decisions || !agent->upstreams || !agent->engines || !agent->health || !agent->prober)
		return -ENOMEM;
	handoff_stats_init(&agent->handoffs);
	err = agent->datapath ? datapath_start(agent->datapath) : 0;
	if (!err)
		err = init_mirror(agent);
	if (!err && agent->config.redis.url.is_set)
		err = redis_password_keep(&agent->config.redis);
	if (!err && agent->config.redis.url.is_set)
		err = events_new(agent, &agent->events);
	if (!err)
		err = admin_new(agent, &process->admin);
	if (!err)
		err = watch_signals(process);
	err = err ? err : listeners_new(agent, &process->listeners);
	if (!err && agent->datapath)
		datapath_listening(agent->datapath);
	return err;
}

/* One that was closed at the start would be given to a socket or pipe, and log lines would go there. */
static void open_standard_files(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

/* A client and its pod need two descriptors: clients that were let in and cannot be served would only keep others out. */
static void raise_limits(struct config *config)
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
		if (limit.rlim_cur / 2 < config->max_connections) {
			config->max_connections = limit.rlim_cur / 2;
			log_warn("the limit of open files allows fewer connections", "limit=%llu max-connections=%llu",
				(unsigned long long)limit.rlim_cur, (unsigned long long)config->max_connections);
		}
	}
	/* Request buffers come and go: keep them on the heap rather than map and fault each anew. */
	mallopt(M_MMAP_THRESHOLD, ALLOC_THRESHOLD);
	mallopt(M_TRIM_THRESHOLD, 4 * ALLOC_THRESHOLD);
}

static void free_event(struct event *event)
{
	if (event)
		event_free(event);
}

static void finish(struct process *process)
{
	struct agent *agent = &process->agent;

	while (agent->clients)
		client_close(agent->clients, true);
	if (agent->base)
		event_base_loop(agent->base, EVLOOP_NONBLOCK); /* what was put off to the end of the turn */
	events_free(agent->events);
	agent->events = NULL;
	close_mirror(agent);
	datapath_close(agent->datapath);
	agent->datapath = NULL;
	listeners_free(process->listeners);
	admin_free(process->admin);
	discovery_free(agent->discovery);
	prober_free(agent->prober);
	health_free(agent->health);
	engines_free(agent->engines);
	upstream_pool_free(agent->upstreams);
	pipe_pool_close(&agent->pipes);
	decision_log_free(agent->decisions);
	metrics_free(agent->metrics);
	decider_free(agent->decider);
	free(agent->endpoints);
	while (agent->n_scanners)
		prompt_scanner_free(agent->scanners[--agent->n_scanners]);
	free_event(process->term);
	free_event(process->interrupt);
	free_event(process->hangup);
	free_event(process->drain_timer);
	if (agent->base)
		event_base_free(agent->base);
}

static int run_cleanup(struct agent *agent)
{
	int err = init_loop(agent);

	err = err ? err : datapath_cleanup(agent);
	if (agent->base)
		event_base_free(agent->base);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	static struct process process;
	struct agent *agent = &process.agent;
	int err;

	mask_signals(SIG_BLOCK);
	open_standard_files();
	if (config_load(&agent->config, argc, argv))
		return EXIT_USAGE;
	if (agent->config.metrics_doc) {
		metrics_print_markdown(stdout);
		return 0;
	}
	log_setup((enum log_level)agent->config.log_level, (enum log_format)agent->config.log_format);
	if (sodium_init() < 0)
		return EXIT_FAILURE;
	if (agent->config.check_config)
		return init_secret(agent) || redis_config_check(&agent->config.redis) ||
				       (*agent->config.endpoints_file && endpoints_file_check(agent->config.endpoints_file))
			? EXIT_USAGE
			: 0;
	if (agent->config.cleanup_on_term_ms && keeper_wait(agent->config.pin_dir, agent->config.cleanup_on_term_ms))
		return EXIT_SUCCESS;
	if (agent->config.cleanup || agent->config.cleanup_on_term_ms) {
		mask_signals(SIG_UNBLOCK);
		return run_cleanup(agent);
	}
	raise_limits(&agent->config);
	if (agent->config.standby && standby_wait(&agent->config))
		return EXIT_SUCCESS;
	err = init_parts(&process);
	if (!err) {
		log_info("started", "version=%s endpoints=%u policy=%s", LLMD_VERSION, agent->endpoints->n,
			policy_name((enum policy)agent->config.policy));
		event_base_dispatch(agent->base);
		log_info("stopped", NULL);
	} else {
		log_error("start failed", "error=\"%s\"", strerror(-err));
	}
	finish(&process);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
