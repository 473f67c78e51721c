/* SPDX-License-Identifier: Apache-2.0 */
/* What the decision needs of an OpenAI-style request body: model, session, prompt prefix blocks. See prompt.c. */
#ifndef LLMD_AGENT_PROMPT_H
#define LLMD_AGENT_PROMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum api {
	API_OTHER, /* any other path: routed by load */
	API_CHAT_COMPLETIONS,
	API_COMPLETIONS,
	API_RESPONSES,
	API_MESSAGES,
	API_EMBEDDINGS,
	API_TOKENIZE,
	API_N
};

enum { PROMPT_MODEL_MAX = 256, PROMPT_KEY_MAX = 1024, PROMPT_BLOCKS_MAX = 2048 };

enum prompt_state {
	PROMPT_READING,
	PROMPT_COMPLETE,    /* a whole JSON object of a known shape */
	PROMPT_NOT_JSON,    /* counted; routed by load */
	PROMPT_UNKNOWN_SHAPE, /* valid JSON, but no prompt where one belongs; counted; routed by load */
	PROMPT_TOO_DEEP,    /* bound of depth reached; counted; what was found so far stands */
	PROMPT_N
};

/** prompt_api() - from a request target ("/v1/chat/completions?x=y"); the query does not count. */
enum api prompt_api(const char *target, size_t len);
const char *prompt_api_name(enum api api);	       /* "chat_completions" */
const char *prompt_state_name(enum prompt_state state); /* "not_json" */

/** struct prompt_facts - the result; valid for the life of the scanner. */
struct prompt_facts {
	enum prompt_state state;
	bool stream;		      /* "stream": true */
	char model[PROMPT_MODEL_MAX]; /* "" if none, or longer than fits */
	char session_key[PROMPT_KEY_MAX]; /* body session_id, else user; "" if none or longer than fits */
	bool session_from_user;
	uint64_t prompt_bytes;	      /* decoded prompt content, all of it */
	uint32_t n_blocks;	      /* full prefix blocks, at most PROMPT_BLOCKS_MAX */
	const uint64_t *blocks;	      /* chained hashes, in prompt order */
};

/**
 * prompt_scanner_new() - for one request at a time; ~50 KiB, of which what is used gets touched; meant to be pooled and reset.
 * @block_bytes: --prefix-block. Return: NULL without memory.
 */
struct prompt_scanner *prompt_scanner_new(uint32_t block_bytes);
void prompt_scanner_free(struct prompt_scanner *scanner);
void prompt_scanner_reset(struct prompt_scanner *scanner, enum api api);

/** prompt_scanner_feed() - the next bytes of the body (content, no chunked framing), cut anywhere. */
void prompt_scanner_feed(struct prompt_scanner *scanner, const char *data, size_t len);

/**
 * prompt_scanner_finish() - after the last byte, or when the caller will not wait for more. Closes the sections in
 * model order, chains the hashes. Return: the facts.
 */
const struct prompt_facts *prompt_scanner_finish(struct prompt_scanner *scanner);

#endif
