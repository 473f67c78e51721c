// SPDX-License-Identifier: Apache-2.0
/*
 * Entries of the stream of events, values of the snapshot's keys, ids, and URLs of a Redis, of any bytes. An entry is a list of
 * fields, each a byte for its length and that many bytes; a length of 255 takes two more bytes. What was understood is the same
 * once it was written and read again.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cache_event.h"
#include "lib/redis_url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct cache_event event, again;
static struct cache_event_args args;

static const uint8_t *next_field(const uint8_t **at, const uint8_t *end, size_t *len)
{
	const uint8_t *field;

	*len = *(*at)++;
	if (*len == 255 && end - *at >= 2) {
		*len = (size_t)(*at)[0] << 8 | (*at)[1];
		*at += 2;
	}
	if (*len > (size_t)(end - *at))
		*len = (size_t)(end - *at);
	field = *at;
	*at += *len;
	return field;
}

/* Of exactly its size, so that a byte read too far is seen. */
static char *copy_of(const uint8_t *data, size_t len)
{
	char *copy = malloc(len ? len : 1);

	memcpy(copy, data, len);
	return copy;
}

static void read_entry(const uint8_t *at, const uint8_t *end)
{
	cache_event_begin(&event);
	for (bool is_value = false; at < end; is_value = !is_value) {
		size_t len;
		const uint8_t *field = next_field(&at, end, &len);
		char *text = copy_of(field, len);

		if (is_value)
			cache_event_value(&event, text, len);
		else
			cache_event_name(&event, text, len);
		free(text);
	}
}

static void write_and_read_again(void)
{
	cache_event_encode(&event, &args);
	cache_event_begin(&again);
	for (int i = 0; i < args.n; i += 2) {
		cache_event_name(&again, args.at[i], args.len[i]);
		cache_event_value(&again, args.at[i + 1], args.len[i + 1]);
	}
	assert(cache_event_finish(&again) == CACHE_EVENT_OK);
	assert(again.kind == event.kind && again.has == event.has && again.agent == event.agent && again.key == event.key);
	assert(again.session == event.session && again.seq == event.seq && address_equal(&again.pod, &event.pod));
	assert(again.block == event.block && again.depth == event.depth && again.tokens == event.tokens && again.on == event.on);
	assert(again.every_ms == event.every_ms && again.n_hashes == event.n_hashes && again.n_loads == event.n_loads);
	assert(!memcmp(again.hash, event.hash, event.n_hashes * sizeof(event.hash[0])));
	for (uint32_t i = 0; i < event.n_loads; i++)
		assert(address_equal(&again.load[i].pod, &event.load[i].pod) && again.load[i].tokens == event.load[i].tokens);
}

static void read_others(const uint8_t *data, size_t size)
{
	char *text = copy_of(data, size), *line = malloc(size + 1), back[STREAM_ID_TEXT_MAX];
	struct stream_id id, same;
	struct redis_url url;
	struct address pod;
	uint64_t key;

	cache_event_parse_bound(text, size, &pod, &key);
	if (!stream_id_parse(&id, text, size)) {
		stream_id_format(&id, back);
		assert(!stream_id_parse(&same, back, strlen(back)) && same.ms == id.ms && same.n == id.n);
	}
	memcpy(line, data, size);
	line[size] = '\0';
	if (!redis_url_parse(&url, line))
		assert(*url.host && (url.is_unix || url.port));
	free(line);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	read_entry(data, data + size);
	if (cache_event_finish(&event) == CACHE_EVENT_OK)
		write_and_read_again();
	read_others(data, size);
	return 0;
}
