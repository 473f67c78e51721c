// SPDX-License-Identifier: Apache-2.0
/*
 * What an entry of the stream changes here: see events.c. Later in the stream wins, which makes all agents agree. The one
 * exception is no exception: while an agent's own word on a session is on its way (session_owed()), it will stand later in
 * the stream than what is read now, so the latter is passed over rather than applied and taken back. That holds only for a
 * word that will be read. It will not when it got lost: so once reading is past the place that Redis gave it, or goes on at
 * another place, all told until then no longer counts (@passed_seq). What was told and is read nevertheless is applied like
 * any other, so to stop waiting too early is only a moment's difference.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "agent/discovery.h"
#include "agent/events_private.h"
#include "agent/prefix.h"
#include "agent/session.h"
#include "lib/log.h"

static void ignore(struct events *events, enum events_ignored why)
{
	events->stats.ignored[why]++;
}

/* Remembers where an address was found: a search through a thousand pods for each event would be most of the work. */
int events_find_endpoint(struct events *events, const struct address *address)
{
	const struct endpoint_table *endpoints = events->agent->endpoints;
	uint16_t *cached = &events->address_cache[XXH3_64bits(address, sizeof(*address)) % EVENTS_ADDRESS_CACHE];
	const struct endpoint *endpoint = &endpoints->at[*cached];
	int found;

	if (*cached < endpoints->n && endpoint->state != ENDPOINT_FREE && address_equal(&endpoint->config.address, address))
		return *cached;
	found = endpoint_find(endpoints, address);
	if (found >= 0)
		*cached = (uint16_t)found;
	else
		ignore(events, EVENTS_IGNORED_POD);
	return found;
}

void events_secret_differs(struct events *events)
{
	ignore(events, EVENTS_IGNORED_SECRET);
	events->stats.secret_differs = true;
	log_paced(&events->other_secret, 1, EVENTS_LOG_MS, LOG_LEVEL_ERROR, "another agent hashes sessions with another secret: its sessions are not taken over",
		"hint=\"give all agents the same --session-secret-file\" ignored=%lu",
		(unsigned long)events->stats.ignored[EVENTS_IGNORED_SECRET]);
}

static bool same_secret(struct events *events, const struct cache_event *event)
{
	if (!cache_event_has(event, CACHE_EVENT_FIELD_KEY) || event->key == events_key(events))
		return true;
	events_secret_differs(events);
	return false;
}

static bool is_mine(const struct events *events, const struct cache_event *event)
{
	return cache_event_has(event, CACHE_EVENT_FIELD_AGENT) && event->agent == events->id;
}

static bool adopt(struct events *events, uint64_t hash, const struct address *pod, uint64_t age, bool is_own)
{
	uint64_t now_ms = agent_now_ms();
	int i = events_find_endpoint(events, pod);
	struct session said = { .hash = hash, .endpoint = (uint32_t)i, .last_used_ms = now_ms > age ? now_ms - age : 0, .is_own = is_own };

	if (i < 0)
		return false;
	said.generation = events->agent->endpoints->at[i].generation;
	session_adopt(decider_sessions(events->agent->decider), &said, (uint32_t)(now_ms / 1000));
	return true;
}

static uint32_t owed(const struct events *events, uint64_t session)
{
	uint32_t seq = session_owed(decider_sessions(events->agent->decider), session);

	return (int32_t)(seq - events->reader.passed_seq) > 0 ? seq : 0;
}

/* Whether an event on that session is to be applied: none is while our own is on its way; our own has been already. */
static bool is_news(struct events *events, const struct cache_event *event)
{
	uint32_t seq = owed(events, event->session);

	if (!seq)
		return true;
	if (is_mine(events, event) && event->seq == seq)
		session_settle(decider_sessions(events->agent->decider), event->session, seq);
	else
		ignore(events, EVENTS_IGNORED_LATER);
	return false;
}

static bool apply_bind(struct events *events, const struct cache_event *event, const struct stream_id *id)
{
	uint64_t age = events_age_ms(events, id);

	if (!same_secret(events, event))
		return false;
	if (!is_news(events, event))
		return is_mine(events, event);
	if (age < events->agent->config.session_ttl_ms)
		return adopt(events, event->session, &event->pod, age, is_mine(events, event));
	ignore(events, EVENTS_IGNORED_OLD);
	return false;
}

void events_apply_bound(struct events *events, uint64_t session, const struct address *pod, uint64_t key)
{
	const struct session *known = session_get(decider_sessions(events->agent->decider), session);
	bool is_own = known && known->is_own && known->endpoint == (uint32_t)endpoint_find(events->agent->endpoints, pod);

	if (key != events_key(events))
		events_secret_differs(events);
	else if (!owed(events, session))
		adopt(events, session, pod, 0, is_own);
}

void events_apply_unbound(struct events *events, uint64_t session)
{
	if (!owed(events, session))
		session_unbind(decider_sessions(events->agent->decider), session);
}

static bool apply_unbind(struct events *events, const struct cache_event *event)
{
	if (!same_secret(events, event) || !is_news(events, event))
		return false;
	session_unbind(decider_sessions(events->agent->decider), event->session);
	return true;
}

/* What was sent there counts once: not when it is read from the snapshot, or once more after a gap. */
static bool is_live(const struct events *events, const struct stream_id *id)
{
	return events->reader.state == EVENTS_LIVE && stream_id_less(&events->reader.live_from, id);
}

static int blocks_endpoint(struct events *events, const struct cache_event *event)
{
	if (event->block == events->agent->config.prefix_block)
		return events_find_endpoint(events, &event->pod);
	ignore(events, EVENTS_IGNORED_BLOCK);
	return -EINVAL;
}

static bool apply_stored(struct events *events, const struct cache_event *event, const struct stream_id *id)
{
	struct decider *decider = events->agent->decider;
	int i = blocks_endpoint(events, event);
	bool mine = is_mine(events, event);

	if (i < 0)
		return false;
	prefix_learn(decider_prefixes(decider), (uint32_t)i, event->depth, event->hash, event->n_hashes, agent_now_ms(), mine);
	if (!mine && event->tokens && is_live(events, id))
		decider_note_placed(decider, (uint32_t)i, event->tokens, agent_now_ms());
	return true;
}

static bool apply_removed(struct events *events, const struct cache_event *event)
{
	int i = blocks_endpoint(events, event);

	for (uint32_t n = 0; i >= 0 && n < event->n_hashes; n++)
		prefix_remove(decider_prefixes(events->agent->decider), (uint32_t)i, event->hash[n]);
	return i >= 0;
}

static bool apply_cleared(struct events *events, const struct cache_event *event)
{
	int i = events_find_endpoint(events, &event->pod);

	if (i >= 0)
		decider_forget_endpoint(events->agent->decider, (uint32_t)i);
	return i >= 0;
}

static bool apply_drain(struct events *events, const struct cache_event *event, const struct stream_id *id)
{
	int i = events_find_endpoint(events, &event->pod);

	if (i < 0)
		return false;
	if (!stream_id_less(&events->reader.live_from, id)) { /* how it is now, the snapshot has told */
		ignore(events, EVENTS_IGNORED_OLD);
		return false;
	}
	discovery_drain(events->agent->discovery, (uint32_t)i, event->on); /* our own, too: another one may have come in between */
	if (!is_mine(events, event))
		events->writer.drain_said[i] = 0;
	return true;
}

static struct events_load_part *parts_of(struct events *events, const struct cache_event *event, uint32_t *n)
{
	struct events_load_part *parts = malloc((event->n_loads + 1) * sizeof(*parts));

	*n = 0;
	for (uint32_t i = 0; parts && i < event->n_loads; i++) {
		int found = events_find_endpoint(events, &event->load[i].pod);

		if (found >= 0)
			parts[(*n)++] = (struct events_load_part){ (uint32_t)found, events->agent->endpoints->at[found].generation,
				event->load[i].requests, event->load[i].tokens };
	}
	return parts;
}

static bool apply_load(struct events *events, const struct cache_event *event, const struct stream_id *id)
{
	uint64_t every = event->every_ms < EVENTS_LOAD_EVERY_MAX_MS ? event->every_ms : EVENTS_LOAD_EVERY_MAX_MS;
	uint64_t age = events_age_ms(events, id);
	struct events_load_part *parts;
	uint32_t n;

	if (is_mine(events, event))
		return true;
	if (age >= EVENTS_LOAD_INTERVALS * every) {
		ignore(events, EVENTS_IGNORED_OLD);
		return false;
	}
	parts = parts_of(events, event, &n);
	if (!parts || events_load_set(&events->loads, events->agent->endpoints, event->agent, parts, n,
			      agent_now_ms() + EVENTS_LOAD_INTERVALS * every - age)) {
		free(parts);
		return false;
	}
	events_expect_silence(events);
	return true;
}

static bool apply(struct events *events, const struct cache_event *event, const struct stream_id *id)
{
	switch (event->kind) {
	case CACHE_EVENT_BIND:
		return apply_bind(events, event, id);
	case CACHE_EVENT_UNBIND:
		return apply_unbind(events, event);
	case CACHE_EVENT_STORED:
		return apply_stored(events, event, id);
	case CACHE_EVENT_REMOVED:
		return apply_removed(events, event);
	case CACHE_EVENT_CLEARED:
		return apply_cleared(events, event);
	case CACHE_EVENT_LOAD:
		return apply_load(events, event, id);
	case CACHE_EVENT_DRAIN:
		return apply_drain(events, event, id);
	case CACHE_EVENT_HELLO:
		return same_secret(events, event);
	case CACHE_EVENT_KIND_N:
		break;
	}
	return false;
}

void events_apply(struct events *events, const struct cache_event *event, const struct stream_id *id)
{
	decider_follow_endpoints(events->agent->decider);
	if (apply(events, event, id))
		events->stats.applied[event->kind]++;
}
