// SPDX-License-Identifier: Apache-2.0
/*
 * Answers in the formats of the APIs, streamed (server-sent events as vLLM and the original APIs send them) or whole.
 * A token is the text "tok ". Heads of streams go out with the first token.
 */
#include <inttypes.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/sim/sim.h"

enum { EVENT_MAX = 4096 };

static const char token_text[] = "tok ";

/* One HTTP chunk that holds @text. */
static void send_chunk(struct sequence *sequence, const char *text, size_t len)
{
	char out[EVENT_MAX + 32];
	int n = snprintf(out, sizeof(out), "%zx\r\n%.*s\r\n", len, (int)len, text);

	conn_send(sequence->conn, out, (size_t)n);
}

/* "event: NAME" is there in the APIs that name their events. */
static void send_event(struct sequence *sequence, const char *name, const char *data)
{
	char out[EVENT_MAX];
	int n = name ? snprintf(out, sizeof(out), "event: %s\ndata: %s\n\n", name, data)
		     : snprintf(out, sizeof(out), "data: %s\n\n", data);

	send_chunk(sequence, out, (size_t)n);
}

static void usage_text(const struct sequence *sequence, char *out, size_t size)
{
	const char *prompt = "prompt_tokens", *output = "completion_tokens", *details = "prompt_tokens_details";

	if (sequence->api == API_RESPONSES || sequence->api == API_MESSAGES) {
		prompt = "input_tokens";
		output = "output_tokens";
		details = "input_tokens_details";
	}
	snprintf(out, size, "{\"%s\":%u,\"%s\":%u,\"total_tokens\":%u,\"%s\":{\"cached_tokens\":%u}}", prompt,
		sequence->prompt_tokens, output, sequence->emitted, sequence->prompt_tokens + sequence->emitted, details,
		sequence->cached_tokens);
}

static char *whole_text(const struct sequence *sequence)
{
	size_t n = sizeof(token_text) - 1;
	char *text = malloc(sequence->emitted * n + 1);

	if (!text)
		abort();
	for (uint32_t i = 0; i < sequence->emitted; i++)
		memcpy(text + i * n, token_text, n);
	text[sequence->emitted * n] = '\0';
	return text;
}

static void begin_stream(struct sequence *sequence)
{
	char out[512];
	int n = snprintf(out, sizeof(out),
		"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-sim-pod: %s\r\n"
		"transfer-encoding: chunked\r\n%s\r\n", sequence->pod->name, sequence->conn->keep_alive ? "" : "connection: close\r\n");

	conn_send(sequence->conn, out, (size_t)n);
}

/* ---- /v1/responses: a response holds an item, the item a part, the part the text; each is announced and then closed ---- */

enum { RESPONSES_BEFORE = 4 /* events before the first token */ };

#define RESPONSES_ITEM(status, content) \
	"{\"type\":\"message\",\"id\":\"msg_1\",\"status\":\"" status "\",\"role\":\"assistant\",\"content\":[" content "]}"
#define RESPONSES_PART(text) "{\"type\":\"output_text\",\"text\":\"" text "\",\"annotations\":[],\"logprobs\":[]}"
#define RESPONSES_PLACE "\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0"

/* Of any length: the last events repeat the whole text. @format: of what follows type and number. */
__attribute__((format(printf, 4, 5))) static void responses_event(struct sequence *sequence, const char *type, uint32_t number,
	const char *format, ...)
{
	char *text, *rest, size[32];
	va_list args;
	int n;

	va_start(args, format);
	n = vasprintf(&rest, format, args);
	va_end(args);
	if (n < 0)
		abort();
	n = asprintf(&text, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%u,%s}\n\n\r\n", type, type, number, rest);
	if (n < 0)
		abort();
	snprintf(size, sizeof(size), "%x\r\n", (unsigned)n - 2);
	conn_send2(sequence->conn, size, strlen(size), text, (size_t)n);
	free(text);
	free(rest);
}

/* @output, @usage: JSON. */
static void responses_state(struct sequence *sequence, const char *type, uint32_t number, const char *status, const char *output,
	const char *usage)
{
	responses_event(sequence, type, number, "\"response\":{\"id\":\"resp_%" PRIu64 "\",\"object\":\"response\",\"created_at\":%ld,"
		"\"status\":\"%s\",\"model\":\"%s\",\"output\":[%s],\"parallel_tool_calls\":true,\"tool_choice\":\"auto\",\"tools\":[],"
		"\"usage\":%s}", sequence->id, (long)time(NULL), status, sequence->model, output, usage);
}

static void begin_responses(struct sequence *sequence)
{
	responses_state(sequence, "response.created", 0, "in_progress", "", "null");
	responses_state(sequence, "response.in_progress", 1, "in_progress", "", "null");
	responses_event(sequence, "response.output_item.added", 2, "\"output_index\":0,\"item\":" RESPONSES_ITEM("in_progress", ""));
	responses_event(sequence, "response.content_part.added", 3, RESPONSES_PLACE ",\"part\":" RESPONSES_PART(""));
}

static void end_responses(struct sequence *sequence, const char *usage)
{
	uint32_t number = sequence->emitted + RESPONSES_BEFORE;
	char *text = whole_text(sequence), *item;

	if (asprintf(&item, RESPONSES_ITEM("completed", RESPONSES_PART("%s")), text) < 0)
		abort();
	responses_event(sequence, "response.output_text.done", number, RESPONSES_PLACE ",\"text\":\"%s\",\"logprobs\":[]", text);
	responses_event(sequence, "response.content_part.done", number + 1, RESPONSES_PLACE ",\"part\":" RESPONSES_PART("%s"), text);
	responses_event(sequence, "response.output_item.done", number + 2, "\"output_index\":0,\"item\":%s", item);
	responses_state(sequence, "response.completed", number + 3, "completed", item, usage);
	free(item);
	free(text);
}

static void begin_messages(struct sequence *sequence)
{
	char data[EVENT_MAX];

	snprintf(data, sizeof(data), "{\"type\":\"message_start\",\"message\":{\"id\":\"msg_%" PRIu64
		"\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"%s\",\"content\":[],\"stop_reason\":null,"
		"\"usage\":{\"input_tokens\":%u,\"output_tokens\":0}}}",
		sequence->id, sequence->model, sequence->prompt_tokens);
	send_event(sequence, "message_start", data);
	send_event(sequence, "content_block_start",
		"{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}");
}

void answer_begin(struct sequence *sequence)
{
	if (!sequence->stream)
		return;
	begin_stream(sequence);
	if (sequence->api == API_RESPONSES)
		begin_responses(sequence);
	else if (sequence->api == API_MESSAGES)
		begin_messages(sequence);
}

/* What brings a chunk to --chunk-bytes, and the stamp that a load generator on this machine measures delays by. */
static void extras(const struct sequence *sequence, size_t base, char *out, size_t size)
{
	const struct sim_config *config = sequence->pod->config;
	struct timespec now;
	int n = 0;

	out[0] = '\0';
	if (config->stamp) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		n = snprintf(out, size, ",\"t_ns\":%" PRIu64, (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec);
	}
	if (config->chunk_bytes > base + (size_t)n + 20 && config->chunk_bytes < size)
		snprintf(out + n, size - (size_t)n, ",\"pad\":\"%0*d\"", (int)(config->chunk_bytes - base - (size_t)n - 9), 0);
}

static void chunk_text(const struct sequence *sequence, const char *pad, char *out, size_t size)
{
	bool last = sequence->emitted + 1 == sequence->max_tokens;
	const char *reason = last ? "\"length\"" : "null";

	switch (sequence->api) {
	case API_RESPONSES:
		snprintf(out, size, "{\"type\":\"response.output_text.delta\",\"sequence_number\":%u,\"item_id\":\"msg_1\",\"output_index\":0,"
			"\"content_index\":0,\"delta\":\"%s\",\"logprobs\":[]%s}", sequence->emitted + RESPONSES_BEFORE, token_text, pad);
		return;
	case API_MESSAGES:
		snprintf(out, size, "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"%s\"}%s}",
			token_text, pad);
		return;
	case API_COMPLETIONS:
		snprintf(out, size, "{\"id\":\"cmpl-%" PRIu64 "\",\"object\":\"text_completion\",\"created\":1,\"model\":\"%s\",\"choices\":"
			"[{\"index\":0,\"text\":\"%s\",\"logprobs\":null,\"finish_reason\":%s}]%s}",
			sequence->id, sequence->model, token_text, reason, pad);
		return;
	default:
		snprintf(out, size, "{\"id\":\"chatcmpl-%" PRIu64 "\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"%s\","
			"\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"%s\"},\"finish_reason\":%s}]%s}",
			sequence->id, sequence->model, sequence->emitted ? "" : "\"role\":\"assistant\",", token_text, reason, pad);
	}
}

bool answer_token(struct sequence *sequence)
{
	char data[EVENT_MAX - 64], pad[2048];

	if (!sequence->stream)
		return true;
	if (peer_is_blocked(&sequence->conn->peer))
		return false;
	chunk_text(sequence, "", data, sizeof(data));
	extras(sequence, strlen(data) + sizeof("data: \n\n") - 1, pad, sizeof(pad));
	if (*pad)
		chunk_text(sequence, pad, data, sizeof(data));
	send_event(sequence,
		sequence->api == API_RESPONSES ? "response.output_text.delta" :
		sequence->api == API_MESSAGES  ? "content_block_delta" :
						 NULL,
		data);
	return true;
}

static void end_stream(struct sequence *sequence)
{
	char usage[256], data[1024];

	usage_text(sequence, usage, sizeof(usage));
	if (sequence->api == API_RESPONSES) {
		end_responses(sequence, usage);
	} else if (sequence->api == API_MESSAGES) {
		send_event(sequence, "content_block_stop", "{\"type\":\"content_block_stop\",\"index\":0}");
		snprintf(data, sizeof(data), "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\"},\"usage\":%s}", usage);
		send_event(sequence, "message_delta", data);
		send_event(sequence, "message_stop", "{\"type\":\"message_stop\"}");
	} else {
		if (sequence->include_usage) {
			bool is_chat = sequence->api != API_COMPLETIONS;

			snprintf(data, sizeof(data), "{\"id\":\"%s-%" PRIu64 "\",\"object\":\"%s\",\"created\":1,\"model\":\"%s\","
				"\"choices\":[],\"usage\":%s}", is_chat ? "chatcmpl" : "cmpl", sequence->id,
				is_chat ? "chat.completion.chunk" : "text_completion", sequence->model, usage);
			send_event(sequence, NULL, data);
		}
		send_event(sequence, NULL, "[DONE]");
	}
	conn_send(sequence->conn, "0\r\n\r\n", 5);
}

static void end_whole(struct sequence *sequence)
{
	static const char *const formats[API_N] = {
		[API_CHAT_COMPLETIONS] = "{\"id\":\"chatcmpl-%" PRIu64 "\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"%s\","
			"\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"finish_reason\":\"length\"}],"
			"\"usage\":%s}",
		[API_COMPLETIONS] = "{\"id\":\"cmpl-%" PRIu64 "\",\"object\":\"text_completion\",\"created\":1,\"model\":\"%s\","
			"\"choices\":[{\"index\":0,\"text\":\"%s\",\"logprobs\":null,\"finish_reason\":\"length\"}],\"usage\":%s}",
		[API_RESPONSES] = "{\"id\":\"resp_%" PRIu64 "\",\"object\":\"response\",\"created_at\":1,\"status\":\"completed\",\"model\":\"%s\","
			"\"output\":[{\"type\":\"message\",\"id\":\"msg_1\",\"status\":\"completed\",\"role\":\"assistant\",\"content\":"
			"[{\"type\":\"output_text\",\"text\":\"%s\",\"annotations\":[]}]}],\"parallel_tool_calls\":true,"
			"\"tool_choice\":\"auto\",\"tools\":[],\"usage\":%s}",
		[API_MESSAGES] = "{\"id\":\"msg_%" PRIu64 "\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"%s\",\"content\":"
			"[{\"type\":\"text\",\"text\":\"%s\"}],\"stop_reason\":\"max_tokens\",\"usage\":%s}",
	};
	char *text = whole_text(sequence), *body, head[256], usage[256];
	int n;

	usage_text(sequence, usage, sizeof(usage));
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	n = asprintf(&body, formats[sequence->api], sequence->id, sequence->model, text, usage);
#pragma GCC diagnostic pop
	if (n < 0)
		abort();
	snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-sim-pod: %s\r\n%s\r\n", n,
		sequence->pod->name, sequence->conn->keep_alive ? "" : "connection: close\r\n");
	conn_send2(sequence->conn, head, strlen(head), body, (size_t)n);
	free(body);
	free(text);
}

void answer_end(struct sequence *sequence)
{
	struct conn *conn = sequence->conn;

	if (sequence->stream)
		end_stream(sequence);
	else
		end_whole(sequence);
	conn->sequence = NULL;
	conn_done(conn);
}
