// SPDX-License-Identifier: Apache-2.0
/*
 * --discover-dns: the addresses of a name.
 *
 * How it works
 *
 * A round asks for the name's A records, and for AAAA if there are none: of a pod that has an address of each family only
 * one is used, or its cache would be counted twice. For a name that begins with "_" a round asks for SRV records first; the
 * targets of the least priority are looked up in the additional section, else asked for one by one.
 *
 * A round is good when every question of it was answered, and some address was found. Then the set is published, and the
 * next round begins when the least TTL is over. Otherwise what was published last stays, and the next round comes after a
 * growing, jittered pause. That a name has no address at all counts as a failure, too: a resolver that lost its zone looks
 * the same, and pods that are gone are found out by connecting.
 *
 * Each round has a channel of its own, so that a changed /etc/resolv.conf is followed.
 */

#include <ares.h>
#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "agent/agent.h"
#include "agent/discovery.h"
#include "agent/discovery_sources.h"
#include "agent/dns_reply.h"
#include "agent/dns_spec.h"
#include "lib/log.h"

enum { SOCKETS_MAX = 16, TARGETS_MAX = 1024, CLASS_IN = 1, TTL_MIN_S = 1, TTL_MAX_S = 3600, RETRY_MIN_MS = 1000, RETRY_MAX_MS = 30000,
	QUERY_MS = 2000, QUERY_TRIES = 3, UDP_BYTES = 1232 };

struct target {
	struct dns_source *source;
	char name[DNS_NAME_MAX];
	uint16_t priority, port_be;
	bool resolved;
};

struct dns_socket {
	ares_socket_t fd;
	struct event *event; /* NULL: free */
};

/* @problem: why the round is bad; NULL: it is not, so far. */
struct dns_source {
	struct discovery_source *source;
	struct agent *agent;
	struct dns_spec spec;
	ares_channel channel;
	bool has_channel;
	struct dns_socket socket[SOCKETS_MAX];
	struct event *timeout, *round;
	struct target *target;
	uint32_t n_targets, n_pending, n_found, ttl_s, pause_ms;
	struct discovered *found;
	const char *problem;
};

/* What one answer is read into. */
struct question {
	struct dns_source *source;
	struct target *target; /* NULL: the name itself */
	enum dns_type type;
	uint32_t n;
};

/* ---- c-ares on the event loop ---- */

static void arm_timeout(struct dns_source *source)
{
	struct timeval wait;

	if (source->has_channel && ares_timeout(source->channel, NULL, &wait))
		event_add(source->timeout, &wait);
	else
		event_del(source->timeout);
}

static void end_round(struct dns_source *source);

static void look_for_end(struct dns_source *source)
{
	arm_timeout(source);
	if (source->has_channel && !source->n_pending)
		end_round(source);
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
	struct dns_source *source = arg;

	ares_process_fd(source->channel, what & EV_READ ? fd : ARES_SOCKET_BAD, what & EV_WRITE ? fd : ARES_SOCKET_BAD);
	look_for_end(source);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct dns_source *source = arg;

	(void)fd, (void)what;
	ares_process_fd(source->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	look_for_end(source);
}

static struct dns_socket *find_socket(struct dns_source *source, ares_socket_t fd)
{
	struct dns_socket *unused = NULL;

	for (unsigned i = 0; i < SOCKETS_MAX; i++) {
		if (source->socket[i].event && source->socket[i].fd == fd)
			return &source->socket[i];
		if (!source->socket[i].event)
			unused = &source->socket[i];
	}
	return unused;
}

static void on_socket_state(void *arg, ares_socket_t fd, int readable, int writable)
{
	struct dns_source *source = arg;
	struct dns_socket *entry = find_socket(source, fd);
	short what = (short)((readable ? EV_READ : 0) | (writable ? EV_WRITE : 0));

	if (!entry)
		return; /* its questions time out */
	if (entry->event)
		event_free(entry->event);
	entry->fd = fd;
	entry->event = what ? event_new(source->agent->base, fd, what | EV_PERSIST, on_socket, source) : NULL;
	if (entry->event)
		event_add(entry->event, NULL);
}

static int use_server(struct dns_source *source)
{
	const struct address *server = &source->agent->config.dns_server;
	char text[ADDRESS_TEXT_MAX];

	if (!server->port_be)
		return 0;
	return ares_set_servers_ports_csv(source->channel, address_format(server, text)) ? -EINVAL : 0;
}

static int open_channel(struct dns_source *source)
{
	struct ares_options options = { .flags = ARES_FLAG_EDNS, .timeout = QUERY_MS, .tries = QUERY_TRIES, .ednspsz = UDP_BYTES,
		.sock_state_cb = on_socket_state, .sock_state_cb_data = source };

	if (ares_init_options(&source->channel, &options,
		    ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_EDNSPSZ | ARES_OPT_SOCK_STATE_CB))
		return -ENOMEM;
	source->has_channel = true;
	return use_server(source);
}

static void close_channel(struct dns_source *source)
{
	if (!source->has_channel)
		return;
	source->has_channel = false; /* what is pending is told as destroyed */
	ares_destroy(source->channel);
	event_del(source->timeout);
}

/* ---- a round ---- */

static void ask(struct dns_source *source, struct target *target, enum dns_type type);

/* A resolver that hides a name says 0.0.0.0 or ::, and who connects to those gets this very node. */
static bool is_of_a_host(const struct address *address)
{
	const uint8_t *ip = address->ip;

	if (address_is_ipv4(address))
		return ip[12] != 0 && ip[12] < 224; /* from there on multicast, and what is no address */
	return ip[0] != 0xff && !IN6_IS_ADDR_UNSPECIFIED((const struct in6_addr *)ip);
}

static void add_address(struct dns_source *source, const struct address *address, uint16_t port_be)
{
	struct discovered item = { .config = { .role = ENDPOINT_ROLE_BOTH, .address = *address } };

	item.config.address.port_be = port_be;
	if (source->n_found < DISCOVERY_ITEMS_MAX && is_of_a_host(address))
		source->found[source->n_found++] = item;
}

static void take_address(void *ctx, const struct dns_record *record)
{
	struct question *question = ctx;

	if (record->type != question->type || record->additional)
		return;
	question->n++;
	add_address(question->source, &record->address, question->target ? question->target->port_be : question->source->spec.port_be);
}

static void take_target(void *ctx, const struct dns_record *record)
{
	struct dns_source *source = ((struct question *)ctx)->source;
	struct target *target = &source->target[source->n_targets];

	if (record->type != DNS_SRV || record->additional || source->n_targets == TARGETS_MAX || !strcmp(record->target, ".") ||
		!*record->target || !record->port_be)
		return;
	source->n_targets++;
	*target = (struct target){ .source = source, .priority = record->priority, .port_be = record->port_be };
	memcpy(target->name, record->target, sizeof(target->name));
}

static void keep_least_priority(struct dns_source *source)
{
	uint32_t kept = 0;
	uint16_t least = UINT16_MAX;

	for (uint32_t i = 0; i < source->n_targets; i++)
		least = source->target[i].priority < least ? source->target[i].priority : least;
	for (uint32_t i = 0; i < source->n_targets; i++)
		if (source->target[i].priority == least)
			source->target[kept++] = source->target[i];
	source->n_targets = kept;
}

/* As in a round of its own, A before AAAA. */
static void take_additional(void *ctx, const struct dns_record *record)
{
	struct question *question = ctx;
	struct dns_source *source = question->source;

	for (uint32_t i = 0; i < source->n_targets && record->additional && record->type == question->type; i++) {
		struct target *target = &source->target[i];

		if (strcasecmp(target->name, record->name) || (target->resolved && record->type == DNS_AAAA))
			continue;
		target->resolved = true;
		add_address(source, &record->address, target->port_be);
	}
}

static void take_srv(struct dns_source *source, const uint8_t *message, size_t len)
{
	struct question question = { .source = source };

	if (dns_reply_read(message, len, &source->ttl_s, take_target, &question)) {
		source->problem = "an answer that is no DNS message";
		return;
	}
	keep_least_priority(source);
	question.type = DNS_A;
	dns_reply_read(message, len, &source->ttl_s, take_additional, &question);
	for (uint32_t i = 0; i < source->n_targets; i++)
		if (!source->target[i].resolved)
			ask(source, &source->target[i], DNS_A);
}

static void take_answer(struct question *question, const uint8_t *message, size_t len)
{
	struct dns_source *source = question->source;

	if (question->type == DNS_SRV)
		take_srv(source, message, len);
	else if (dns_reply_read(message, len, &source->ttl_s, take_address, question))
		source->problem = "an answer that is no DNS message";
	else if (!question->n && question->type == DNS_A)
		ask(source, question->target, DNS_AAAA);
}

static void on_answer(void *arg, int status, int timeouts, unsigned char *message, int len)
{
	struct question *question = arg;
	struct dns_source *source = question->source;

	(void)timeouts;
	source->n_pending--;
	if (!source->has_channel)
		; /* the source is being freed */
	else if (status == ARES_SUCCESS)
		take_answer(question, message, (size_t)len);
	else if (status == ARES_ENODATA && question->type == DNS_A)
		ask(source, question->target, DNS_AAAA);
	else if (status != ARES_ENODATA)
		source->problem = ares_strerror(status);
	free(question);
}

/* Names of targets are whole; the name of the option may be completed by the domains of /etc/resolv.conf. */
static void ask(struct dns_source *source, struct target *target, enum dns_type type)
{
	struct question *question = malloc(sizeof(*question));

	if (!question) {
		source->problem = "no memory";
		return;
	}
	*question = (struct question){ .source = source, .target = target, .type = type };
	source->n_pending++;
	if (target)
		ares_query(source->channel, target->name, CLASS_IN, (int)type, on_answer, question);
	else
		ares_search(source->channel, source->spec.name, CLASS_IN, (int)type, on_answer, question);
}

static void begin_after(struct dns_source *source, uint64_t ms)
{
	struct timeval wait = { .tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000 * 1000) };

	event_add(source->round, &wait);
}

static void round_failed(struct dns_source *source)
{
	char quoted[128];

	log_warn("name not resolved", "name=%s error=%s kept=\"what was found last\"", source->spec.name,
		log_quote(source->problem, quoted, sizeof(quoted)));
	discovery_failed(source->source);
	source->pause_ms = source->pause_ms ? source->pause_ms * 2 : RETRY_MIN_MS;
	if (source->pause_ms > RETRY_MAX_MS)
		source->pause_ms = RETRY_MAX_MS;
	begin_after(source, source->pause_ms / 2 + randombytes_uniform(source->pause_ms / 2 + 1));
}

static void end_round(struct dns_source *source)
{
	uint32_t ttl_s = source->ttl_s < TTL_MIN_S ? TTL_MIN_S : source->ttl_s > TTL_MAX_S ? TTL_MAX_S : source->ttl_s;

	if (!source->problem && !source->n_found)
		source->problem = "no address";
	if (source->problem) {
		round_failed(source);
	} else {
		log_debug("name resolved", "name=%s addresses=%u ttl=%u", source->spec.name, source->n_found, ttl_s);
		source->pause_ms = 0;
		begin_after(source, (uint64_t)ttl_s * 1000);
		discovery_publish(source->source, source->found, source->n_found);
	}
	close_channel(source);
}

static void on_round(evutil_socket_t fd, short what, void *arg)
{
	struct dns_source *source = arg;

	(void)fd, (void)what;
	if (source->has_channel)
		return; /* one is under way */
	source->n_targets = 0;
	source->n_found = 0;
	source->ttl_s = UINT32_MAX;
	source->problem = NULL;
	if (open_channel(source))
		source->problem = "no resolver";
	else
		ask(source, NULL, source->spec.is_srv ? DNS_SRV : DNS_A);
	if (!source->has_channel)
		round_failed(source);
	else
		look_for_end(source);
}

/* ---- start and end ---- */

static void source_reload(void *ctx)
{
	on_round(-1, 0, ctx);
}

static void free_event(struct event *event)
{
	if (event)
		event_free(event);
}

static void source_free(void *ctx)
{
	struct dns_source *source = ctx;

	if (source->timeout)
		close_channel(source);
	for (unsigned i = 0; i < SOCKETS_MAX; i++)
		free_event(source->socket[i].event);
	free_event(source->timeout);
	free_event(source->round);
	free(source->target);
	free(source->found);
	free(source);
}

static int start_one(struct discovery *discovery, struct agent *agent, const char *text)
{
	static const struct discovery_ops ops = { DISCOVERY_DNS, true, 0, source_reload, source_free };
	struct dns_source *source = calloc(1, sizeof(*source));

	if (!source)
		return -ENOMEM;
	source->agent = agent;
	source->source = discovery_register(discovery, &ops, source);
	if (!source->source) {
		source_free(source);
		return -ENOSPC;
	}
	dns_spec_parse(&source->spec, text); /* was checked with the options */
	source->timeout = evtimer_new(agent->base, on_timeout, source);
	source->round = evtimer_new(agent->base, on_round, source);
	source->target = source->spec.is_srv ? calloc(TARGETS_MAX, sizeof(source->target[0])) : NULL;
	source->found = calloc(DISCOVERY_ITEMS_MAX, sizeof(source->found[0]));
	if (!source->timeout || !source->round || !source->found || (source->spec.is_srv && !source->target))
		return -ENOMEM;
	begin_after(source, 0);
	return 0;
}

int dns_source_start(struct discovery *discovery, struct agent *agent)
{
	const struct config_names *names = &agent->config.discover_dns;
	int err = names->n && ares_library_init(ARES_LIB_INIT_ALL) ? -ENOMEM : 0;

	for (uint32_t i = 0; !err && i < names->n; i++)
		err = start_one(discovery, agent, names->at[i]);
	return err;
}
