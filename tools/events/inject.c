// SPDX-License-Identifier: Apache-2.0
/*
 * llmd-events inject: one event, as an agent would tell it: into the stream, and into the snapshot's keys in the same transaction,
 * so that agents that start later know it, too.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/session_key.h"
#include "tools/events/events.h"

static struct cache_event event;
static struct cache_event_args args;
static uint8_t secret[SESSION_SECRET_BYTES];
static bool has_secret, is_told;

static void has(enum cache_event_field field)
{
	event.has |= 1u << field;
}

static int wrong(const char *name, const char *value, const char *allowed)
{
	fprintf(stderr, "llmd-events: inject: %s: \"%.200s\" is not valid: must be %s\n", name, value, allowed);
	return -EINVAL;
}

/* Through the decoder of the stream: what it refuses, the agents would. */
static int take_as_it_is(const char *field, const char *name, const char *value, const char *allowed)
{
	cache_event_name(&event, field, strlen(field));
	cache_event_value(&event, value, strlen(value));
	return event.fault == CACHE_EVENT_OK ? 0 : wrong(name, value, allowed);
}

static int take_session(const char *value)
{
	if (!has_secret) {
		fprintf(stderr, "llmd-events: inject: session: needs --session-secret-file, or give hash=\n");
		return -EINVAL;
	}
	event.session = session_key_hash(secret, value, strlen(value));
	event.key = cache_event_fingerprint(secret);
	has(CACHE_EVENT_FIELD_SESSION);
	has(CACHE_EVENT_FIELD_KEY);
	return 0;
}

/* "hash,hash,...": 16 hex digits each. */
static int take_hashes(const char *value)
{
	static const char allowed[] = "1 to 512 hashes of 16 hex digits, separated by commas";
	const char *at = value;

	do {
		size_t len = strcspn(at, ",");

		if (event.n_hashes == CACHE_EVENT_HASHES_MAX || cache_event_parse_hex(&event.hash[event.n_hashes++], at, len))
			return wrong("hashes", value, allowed);
		at += len;
	} while (*at++);
	has(CACHE_EVENT_FIELD_HASHES);
	return 0;
}

static const struct {
	const char *name, *field, *allowed;
	int (*take)(const char *value);
} takers[] = {
	{ "session", NULL, NULL, take_session },
	{ "hash", "s", "16 hex digits", NULL },
	{ "pod", "pod", "ADDR:PORT", NULL },
	{ "hashes", NULL, NULL, take_hashes },
	{ "depth", "d", "a number", NULL },
	{ "tokens", "w", "a number", NULL },
	{ "on", "on", "0 or 1", NULL },
	{ "agent", "a", "16 hex digits", NULL },
	{ "load", "load", "\"ADDR:PORT TOKENS REQUESTS\", more of them separated by commas, or nothing", NULL },
	{ "every", "every", "milliseconds", NULL },
};

static int take(char *word)
{
	char *value = strchr(word, '=');

	if (value)
		*value++ = '\0';
	for (size_t i = 0; value && i < sizeof(takers) / sizeof(takers[0]); i++) {
		if (strcmp(takers[i].name, word))
			continue;
		return takers[i].take ? takers[i].take(value) : take_as_it_is(takers[i].field, word, value, takers[i].allowed);
	}
	fprintf(stderr, "llmd-events: inject: \"%.200s\" is not valid: must be FIELD=VALUE with session, hash, pod, hashes, depth, tokens, on, agent, load or every\n", word);
	return -EINVAL;
}

static int check(const char *kind)
{
	if (event.kind == CACHE_EVENT_STORED || event.kind == CACHE_EVENT_REMOVED)
		has(CACHE_EVENT_FIELD_BLOCK);
	event.has |= 1u << CACHE_EVENT_FIELD_VERSION | 1u << CACHE_EVENT_FIELD_KIND;
	if (cache_event_finish(&event) == CACHE_EVENT_OK)
		return 0;
	fprintf(stderr, "llmd-events: inject: %s: a field is missing: bind needs session or hash, and pod; unbind session or hash; stored and "
			"removed pod and hashes; cleared pod; drain pod and on; load agent, load and every\n", kind);
	return -EINVAL;
}

static int prepare(struct tool *tool)
{
	const char *word = tool->n_words ? tool->words[0] : "";
	int kind = cache_event_kind_find(word, strlen(word)), err = 0;

	if (kind < 0 || kind == CACHE_EVENT_HELLO)
		return wrong("kind", word, "bind, unbind, stored, removed, cleared, load or drain");
	if (*tool->config->session_secret_file && session_secret_load(secret, tool->config->session_secret_file))
		return -EINVAL;
	has_secret = *tool->config->session_secret_file;
	cache_event_begin(&event);
	event.kind = (enum cache_event_kind)kind;
	event.block = (uint32_t)tool->config->block;
	for (int i = 1; !err && i < tool->n_words; i++)
		err = take(tool->words[i]);
	return err ? err : check(word);
}

/* ---- one transaction ---- */

static void on_item(void *ctx, const struct redis_item *item)
{
	tool_expect(ctx, item, REDIS_STATUS, REDIS_STATUS);
}

static void on_executed(void *ctx, const struct redis_item *item)
{
	struct stream_id id;
	char text[STREAM_ID_TEXT_MAX];

	tool_expect(ctx, item, REDIS_ARRAY, REDIS_ARRAY);
	if (item->type != REDIS_STRING || item->depth != 1 || item->index[0] || stream_id_parse(&id, item->text, item->len))
		return;
	is_told = true;
	puts(stream_id_format(&id, text));
}

static void on_done(void *ctx)
{
	struct tool *tool = ctx;

	if (!is_told && !tool->status)
		fprintf(stderr, "llmd-events: inject: Redis does not say where it stands in the stream\n");
	tool_end(tool, is_told ? EXIT_SUCCESS : EXIT_FAILURE);
}

static void send_words(struct tool *tool, int n, const char *const *argument)
{
	const struct redis_handler handler = { on_item, NULL, tool };

	tool_send(tool, &handler, n, argument, NULL);
}

static void add_to(struct tool *tool, const char *key, uint64_t max)
{
	const struct redis_handler handler = { on_item, NULL, tool };
	char number[24];
	const char *argument[6 + 2 * CACHE_EVENT_FIELDS_MAX] = { "XADD", key, "MAXLEN", "~", number, "*" };
	size_t length[6 + 2 * CACHE_EVENT_FIELDS_MAX];

	snprintf(number, sizeof(number), "%" PRIu64, max);
	for (int i = 0; i < 6; i++)
		length[i] = strlen(argument[i]);
	memcpy(argument + 6, args.at, (size_t)args.n * sizeof(args.at[0]));
	memcpy(length + 6, args.len, (size_t)args.n * sizeof(args.len[0]));
	tool_send(tool, &handler, 6 + args.n, argument, length);
}

/* An agent knows a bound session by the secret's fingerprint, too; without the secret only those that run now hear of it. */
static void keep_session(struct tool *tool, const char *pod, const char *ttl)
{
	char key[64], value[ADDRESS_TEXT_MAX + 24];
	const char *const set[] = { "SET", key, event.kind == CACHE_EVENT_UNBIND ? "-" : value, "EX", ttl };

	snprintf(key, sizeof(key), SESSION_KEY "%016" PRIx64, event.session);
	snprintf(value, sizeof(value), "%s %016" PRIx64, pod, event.key);
	if (event.kind == CACHE_EVENT_UNBIND || has_secret)
		send_words(tool, 5, set);
}

static void keep_drain(struct tool *tool, const char *pod, const char *ttl)
{
	char key[ADDRESS_TEXT_MAX + 16];
	const char *const set[] = { "SET", key, event.on ? "1" : "0", "EX", ttl };

	snprintf(key, sizeof(key), DRAIN_KEY "%s", pod);
	send_words(tool, 5, set);
}

static void keep_blocks(struct tool *tool, const char *pod, const char *ttl)
{
	char key[ADDRESS_TEXT_MAX + 16];
	const char *const expire[] = { "EXPIRE", key, ttl }, *const del[] = { "DEL", key };

	snprintf(key, sizeof(key), POD_KEY "%s", pod);
	if (event.kind == CACHE_EVENT_CLEARED)
		send_words(tool, 2, del);
	add_to(tool, key, 4096);
	send_words(tool, 3, expire);
}

static void keep(struct tool *tool)
{
	char pod[ADDRESS_TEXT_MAX], ttl[24];

	address_format(&event.pod, pod);
	snprintf(ttl, sizeof(ttl), "%" PRIu64, tool->config->session_ttl_ms / 1000);
	if (event.kind == CACHE_EVENT_BIND || event.kind == CACHE_EVENT_UNBIND)
		keep_session(tool, pod, ttl);
	else if (event.kind == CACHE_EVENT_DRAIN)
		keep_drain(tool, pod, ttl);
	else if (event.kind != CACHE_EVENT_LOAD)
		keep_blocks(tool, pod, ttl);
}

static void start(struct tool *tool)
{
	const struct redis_handler last = { on_executed, on_done, tool };
	static const char *const multi[] = { "MULTI" }, *const exec[] = { "EXEC" };

	cache_event_encode(&event, &args);
	send_words(tool, 1, multi);
	add_to(tool, STREAM, tool->config->stream_max);
	keep(tool);
	tool_send(tool, &last, 1, exec, NULL);
}

const struct command command_inject = { "inject", "KIND FIELD=VALUE ...",
	"Tell all agents; prints the entry's id. Kinds and fields: bind {session=KEY|hash=HEX} pod=ADDR:PORT; unbind {session=KEY|hash=HEX}; "
	"stored pod= hashes=HEX,... [depth=N] [tokens=N]; removed pod= hashes=HEX,...; cleared pod=; drain pod= on={1|0}; load agent=HEX "
	"every=MS load=\"ADDR:PORT TOKENS REQUESTS,...\".",
	prepare, start };
