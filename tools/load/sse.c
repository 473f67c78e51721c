// SPDX-License-Identifier: Apache-2.0
/* Server-sent events (WHATWG HTML 9.2) as LLM servers send them: lines "event: ", "data: " with JSON or [DONE], comments. */
#include <stdlib.h>
#include <string.h>

#include "tools/load/load.h"

static bool starts(const struct sse *sse, const char *text)
{
	return sse->len >= strlen(text) && !memcmp(sse->line, text, strlen(text));
}

static uint64_t data_line(struct sse *sse)
{
	const char *stamp;

	if (sse->done) {
		sse->malformed = true; /* nothing may follow [DONE] */
		return 0;
	}
	if (!strcmp(sse->line + 6, "[DONE]")) {
		sse->done = true;
		return 0;
	}
	if (sse->line[6] != '{' || sse->line[sse->len - 1] != '}') {
		sse->malformed = true;
		return 0;
	}
	stamp = strstr(sse->line, "\"t_ns\":");
	sse->stamp_ns = stamp ? strtoull(stamp + 7, NULL, 10) : 0;
	sse->done = strstr(sse->line, "\"type\":\"response.completed\"") || strstr(sse->line, "\"type\":\"message_stop\"");
	sse->events++;
	return 1;
}

static uint64_t end_line(struct sse *sse)
{
	uint64_t events = 0;

	if (sse->len && sse->line[sse->len - 1] == '\r')
		sse->len--;
	sse->line[sse->len] = '\0';
	if (starts(sse, "data: "))
		events = data_line(sse);
	else if (sse->len && sse->line[0] != ':' && !starts(sse, "event: ") && !starts(sse, "id: ") && !starts(sse, "retry: "))
		sse->malformed = true;
	sse->len = 0;
	return events;
}

uint64_t sse_feed(struct sse *sse, const char *data, size_t len)
{
	uint64_t events = 0;

	while (len) {
		const char *end = memchr(data, '\n', len);
		size_t n = end ? (size_t)(end - data) : len;

		if (n > sizeof(sse->line) - 1 - sse->len) {
			sse->malformed = true;
			return events;
		}
		memcpy(sse->line + sse->len, data, n);
		sse->len += (uint32_t)n;
		if (end)
			events += end_line(sse);
		n += end != NULL;
		data += n;
		len -= n;
	}
	return events;
}
