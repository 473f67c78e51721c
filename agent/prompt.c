// SPDX-License-Identifier: Apache-2.0
/*
 * What the decision needs of an OpenAI-style request body: see prompt.h.
 *
 * How it works
 *
 * The model sees tools, then the system text, then the messages, in whatever order the keys come. So each of the three
 * is a section, cut into pieces that are hashed on their own as they pass; at the end the pieces are chained in the
 * model's order, seeded by model and cache salt (so a "model" behind the messages does no harm). Nothing is buffered.
 *
 * Within a section a value is in text position if it is the section's value, an element of an array in text position, or
 * the member "content", "text" or "output" of an object in text position. Strings there are the text; numbers are token
 * ids. All else of an object in text position (role, tool_calls, an image's URL ...) folds into a digest that does not
 * depend on the order of its keys; it follows the object's text as 8 bytes. So a text part and a plain string give the
 * same stream, and each message only appends: the blocks of a turn are a prefix of the blocks of the next.
 *
 * "cache_control" is left out everywhere: the model does not see it, and clients move it from turn to turn.
 */
#include "agent/prompt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "agent/json.h"
#include "agent/prefix_hash.h"

enum section { SECTION_SYSTEM, SECTION_CONTENT, SECTION_STREAMED, SECTION_TOOLS = SECTION_STREAMED, SECTION_N };

/* What to do with a value. */
enum use { USE_IGNORE, USE_TEXT, USE_DIGEST, USE_FIELD };

/* Strings of the top level that are kept. */
enum field { FIELD_MODEL, FIELD_SESSION_ID, FIELD_USER, FIELD_SALT, FIELD_N };

struct frame {
	enum use use;
	bool object, text_key;
	uint64_t digest; /* of the members or elements so far */
	uint64_t key;	 /* of the present member */
};

struct captured {
	uint32_t len;
	bool too_long;
	char text[PROMPT_KEY_MAX];
};

struct prompt_scanner {
	struct json json;
	enum api api;
	enum section section;
	enum field field;
	enum use member_use, string_use; /* of the value to come; of the present string */
	bool in_metadata, saw_content, shape_is_wrong;
	unsigned depth;
	struct frame frame[JSON_DEPTH_MAX + 1];
	XXH3_state_t *string_state;
	struct prefix_pieces pieces[SECTION_STREAMED];
	uint64_t tools_digest, tools_bytes;
	uint64_t text_part[3]; /* digests of { "type": "text" } and its kin */
	struct captured captured[FIELD_N];
	struct prompt_facts facts;
	uint64_t blocks[PROMPT_BLOCKS_MAX];
	uint64_t storage[SECTION_STREAMED][PROMPT_BLOCKS_MAX];
};

static const struct {
	const char *path, *name;
} apis[API_N] = {
	[API_OTHER] = { "", "other" },
	[API_CHAT_COMPLETIONS] = { "/v1/chat/completions", "chat_completions" },
	[API_COMPLETIONS] = { "/v1/completions", "completions" },
	[API_RESPONSES] = { "/v1/responses", "responses" },
	[API_MESSAGES] = { "/v1/messages", "messages" },
	[API_EMBEDDINGS] = { "/v1/embeddings", "embeddings" },
	[API_TOKENIZE] = { "/tokenize", "tokenize" },
};

enum api prompt_api(const char *target, size_t len)
{
	const char *query = memchr(target, '?', len);

	if (query)
		len = (size_t)(query - target);
	for (enum api api = API_OTHER + 1; api < API_N; api++)
		if (strlen(apis[api].path) == len && !memcmp(apis[api].path, target, len))
			return api;
	return API_OTHER;
}

const char *prompt_api_name(enum api api)
{
	return apis[api].name;
}

const char *prompt_state_name(enum prompt_state state)
{
	static const char *const names[PROMPT_N] = { "reading", "complete", "not_json", "unknown_shape", "too_deep" };

	return names[state];
}

/* ---- digests ---- */

static uint64_t mix(uint64_t a, uint64_t b)
{
	return prefix_chain(a, b);
}

static uint64_t hash_text(const char *data, size_t len)
{
	return XXH3_64bits(data, len);
}

static struct frame *top(struct prompt_scanner *scanner)
{
	return &scanner->frame[scanner->depth];
}

/* A sum over an object's members does not depend on their order. */
static void fold(struct prompt_scanner *scanner, uint64_t value)
{
	struct frame *frame = top(scanner);

	if (frame->object)
		frame->digest += mix(frame->key, value);
	else
		frame->digest = mix(frame->digest, value);
}

/* ---- keys: what to do with the value that follows ---- */

static bool is_key(const char *data, size_t len, const char *name)
{
	return strlen(name) == len && !memcmp(data, name, len);
}

static enum use use_field(struct prompt_scanner *scanner, enum field field)
{
	scanner->field = field;
	scanner->captured[field].len = 0;
	scanner->captured[field].too_long = false;
	return USE_FIELD;
}

static enum use use_section(struct prompt_scanner *scanner, enum section section)
{
	scanner->section = section;
	if (section == SECTION_TOOLS) {
		scanner->tools_digest = scanner->tools_bytes = 0;
		return USE_DIGEST;
	}
	if (section == SECTION_CONTENT)
		scanner->saw_content = true;
	prefix_pieces_reset(&scanner->pieces[section]);
	return USE_TEXT;
}

static const char *content_key(enum api api)
{
	switch (api) {
	case API_CHAT_COMPLETIONS:
	case API_MESSAGES:
		return "messages";
	case API_RESPONSES:
	case API_EMBEDDINGS:
		return "input";
	case API_COMPLETIONS:
	case API_TOKENIZE:
	case API_OTHER:
	case API_N:
		break;
	}
	return "prompt";
}

/* Elsewhere the system text is one of the messages, and a member of that name is not looked at by servers. */
static const char *system_key(enum api api)
{
	switch (api) {
	case API_MESSAGES:
		return "system";
	case API_RESPONSES:
		return "instructions";
	case API_CHAT_COMPLETIONS:
	case API_EMBEDDINGS:
	case API_COMPLETIONS:
	case API_TOKENIZE:
	case API_OTHER:
	case API_N:
		break;
	}
	return NULL;
}

/* vLLM renders a chat for these, too. */
static bool also_takes_messages(enum api api)
{
	return api == API_TOKENIZE || api == API_EMBEDDINGS;
}

static enum use use_of_top_member(struct prompt_scanner *scanner, const char *key, size_t len)
{
	const char *system = system_key(scanner->api);

	scanner->in_metadata = is_key(key, len, "metadata");
	if (is_key(key, len, content_key(scanner->api)) ||
		(also_takes_messages(scanner->api) && is_key(key, len, "messages")))
		return use_section(scanner, SECTION_CONTENT);
	if (system && is_key(key, len, system))
		return use_section(scanner, SECTION_SYSTEM);
	if (is_key(key, len, "tools"))
		return use_section(scanner, SECTION_TOOLS);
	if (is_key(key, len, "model"))
		return use_field(scanner, FIELD_MODEL);
	if (is_key(key, len, "session_id"))
		return use_field(scanner, FIELD_SESSION_ID);
	if (is_key(key, len, "user"))
		return use_field(scanner, FIELD_USER);
	if (is_key(key, len, "cache_salt"))
		return use_field(scanner, FIELD_SALT);
	if (is_key(key, len, "stream"))
		scanner->facts.stream = false;
	return USE_IGNORE;
}

static enum use use_of_member(struct prompt_scanner *scanner, const char *key, size_t len)
{
	struct frame *frame = top(scanner);

	if (scanner->depth == 1)
		return use_of_top_member(scanner, key, len);
	/* Where Anthropic's API has the user. */
	if (scanner->depth == 2 && scanner->in_metadata && scanner->api == API_MESSAGES && is_key(key, len, "user_id"))
		return use_field(scanner, FIELD_USER);
	if (frame->use == USE_IGNORE || is_key(key, len, "cache_control"))
		return USE_IGNORE;
	frame->key = hash_text(key, len);
	scanner->tools_bytes += scanner->section == SECTION_TOOLS ? len : 0;
	if (frame->use == USE_TEXT && (is_key(key, len, "content") || is_key(key, len, "text") || is_key(key, len, "output")))
		return USE_TEXT;
	return USE_DIGEST;
}

static void on_key(struct prompt_scanner *scanner, const char *key, size_t len)
{
	scanner->member_use = use_of_member(scanner, key, len);
	top(scanner)->text_key = scanner->depth == 1 && is_key(key, len, "stream");
}

/* ---- values ---- */

static enum use use_of_value(struct prompt_scanner *scanner)
{
	return top(scanner)->object ? scanner->member_use : top(scanner)->use;
}

static void on_begin(struct prompt_scanner *scanner, bool object)
{
	enum use use = scanner->depth ? use_of_value(scanner) : USE_IGNORE;

	if (!scanner->depth && !object)
		scanner->shape_is_wrong = true;
	if (use == USE_FIELD)
		use = USE_IGNORE;
	scanner->depth++;
	*top(scanner) = (struct frame){ .use = use, .object = object };
}

static bool is_text_part(const struct prompt_scanner *scanner, uint64_t digest)
{
	return digest == 0 || digest == scanner->text_part[0] || digest == scanner->text_part[1] ||
	       digest == scanner->text_part[2];
}

static void on_end(struct prompt_scanner *scanner)
{
	struct frame ended = *top(scanner);

	scanner->depth--;
	if (ended.use == USE_TEXT && ended.object && !is_text_part(scanner, ended.digest))
		prefix_pieces_add(&scanner->pieces[scanner->section], &ended.digest, sizeof(ended.digest));
	if (ended.use != USE_DIGEST)
		return;
	if (scanner->depth == 1)
		scanner->tools_digest = ended.digest;
	else
		fold(scanner, ended.digest);
}

static void capture(struct captured *captured, const char *data, size_t len)
{
	size_t room = sizeof(captured->text) - captured->len;

	/* The first bytes are kept all the same: they seed the hashes, which must not depend on how a body was cut. */
	if (len > room) {
		captured->too_long = true;
		len = room;
	}
	memcpy(captured->text + captured->len, data, len);
	captured->len += (uint32_t)len;
}

static void on_string_part(struct prompt_scanner *scanner, const char *data, size_t len)
{
	switch (scanner->string_use) {
	case USE_IGNORE:
		break;
	case USE_TEXT:
		prefix_pieces_add(&scanner->pieces[scanner->section], data, len);
		break;
	case USE_DIGEST:
		XXH3_64bits_update(scanner->string_state, data, len);
		scanner->tools_bytes += scanner->section == SECTION_TOOLS ? len : 0;
		break;
	case USE_FIELD:
		capture(&scanner->captured[scanner->field], data, len);
		break;
	}
}

/* A number, true, false or null. */
static void on_scalar(struct prompt_scanner *scanner, enum json_event event, const char *data, size_t len)
{
	enum use use = scanner->depth ? use_of_value(scanner) : USE_IGNORE;
	uint64_t value = event == JSON_NUMBER ? hash_text(data, len) : event;

	if (scanner->depth == 1 && top(scanner)->text_key)
		scanner->facts.stream = event == JSON_TRUE;
	if (use == USE_TEXT && scanner->depth == 1)
		scanner->shape_is_wrong |= scanner->section == SECTION_CONTENT;
	else if (use == USE_TEXT && event == JSON_NUMBER)
		prefix_pieces_add(&scanner->pieces[scanner->section], &value, sizeof(value));
	else if (use == USE_DIGEST && scanner->depth > 1)
		fold(scanner, value);
}

static void on_event(void *ctx, enum json_event event, const char *data, size_t len)
{
	struct prompt_scanner *scanner = ctx;

	switch (event) {
	case JSON_OBJECT_BEGIN:
	case JSON_ARRAY_BEGIN:
		on_begin(scanner, event == JSON_OBJECT_BEGIN);
		break;
	case JSON_OBJECT_END:
	case JSON_ARRAY_END:
		on_end(scanner);
		break;
	case JSON_KEY:
		on_key(scanner, data, len);
		break;
	case JSON_STRING_BEGIN:
		scanner->string_use = scanner->depth ? use_of_value(scanner) : USE_IGNORE;
		if (scanner->string_use == USE_DIGEST)
			XXH3_64bits_reset(scanner->string_state);
		break;
	case JSON_STRING_PART:
		on_string_part(scanner, data, len);
		break;
	case JSON_STRING_END:
		if (scanner->string_use == USE_DIGEST && scanner->depth > 1)
			fold(scanner, XXH3_64bits_digest(scanner->string_state));
		break;
	case JSON_NUMBER:
	case JSON_TRUE:
	case JSON_FALSE:
	case JSON_NULL:
		on_scalar(scanner, event, data, len);
		break;
	}
}

/* ---- life ---- */

static void settle_text_parts(struct prompt_scanner *scanner)
{
	static const char *const types[] = { "text", "input_text", "output_text" };

	for (size_t i = 0; i < 3; i++)
		scanner->text_part[i] = mix(hash_text("type", 4), hash_text(types[i], strlen(types[i])));
}

struct prompt_scanner *prompt_scanner_new(uint32_t block_bytes)
{
	struct prompt_scanner *scanner = calloc(1, sizeof(*scanner));

	if (!scanner)
		return NULL;
	scanner->string_state = XXH3_createState();
	for (int i = 0; i < SECTION_STREAMED; i++)
		scanner->pieces[i] = (struct prefix_pieces){ .block_bytes = block_bytes, .max = PROMPT_BLOCKS_MAX,
			.piece = scanner->storage[i], .partial = XXH3_createState() };
	settle_text_parts(scanner);
	if (scanner->string_state && scanner->pieces[0].partial && scanner->pieces[1].partial)
		return scanner;
	prompt_scanner_free(scanner);
	return NULL;
}

void prompt_scanner_free(struct prompt_scanner *scanner)
{
	if (!scanner)
		return;
	for (int i = 0; i < SECTION_STREAMED; i++)
		XXH3_freeState(scanner->pieces[i].partial);
	XXH3_freeState(scanner->string_state);
	free(scanner);
}

void prompt_scanner_reset(struct prompt_scanner *scanner, enum api api)
{
	scanner->json = (struct json){ .on = on_event, .ctx = scanner };
	scanner->api = api;
	scanner->depth = 0;
	scanner->member_use = scanner->string_use = USE_IGNORE;
	scanner->in_metadata = scanner->saw_content = scanner->shape_is_wrong = false;
	scanner->tools_digest = scanner->tools_bytes = 0;
	for (int i = 0; i < SECTION_STREAMED; i++)
		prefix_pieces_reset(&scanner->pieces[i]);
	for (int i = 0; i < FIELD_N; i++)
		scanner->captured[i].len = scanner->captured[i].too_long = 0;
	scanner->facts.state = PROMPT_READING;
	scanner->facts.stream = false;
}

void prompt_scanner_feed(struct prompt_scanner *scanner, const char *data, size_t len)
{
	json_feed(&scanner->json, data, len);
}

/* What does not fit, or would end at a NUL within, is no value: a part of it could be another's. */
static void copy_field(const struct captured *captured, char *out, size_t size)
{
	bool fits = !captured->too_long && captured->len < size && !memchr(captured->text, '\0', captured->len);
	size_t len = fits ? captured->len : 0;

	memcpy(out, captured->text, len);
	out[len] = '\0';
}

static void chain(struct prompt_scanner *scanner, uint64_t *hash, uint64_t piece)
{
	struct prompt_facts *facts = &scanner->facts;

	if (facts->n_blocks == PROMPT_BLOCKS_MAX)
		return;
	*hash = prefix_chain(*hash, piece);
	scanner->blocks[facts->n_blocks++] = *hash;
}

static void chain_sections(struct prompt_scanner *scanner)
{
	const struct captured *model = &scanner->captured[FIELD_MODEL], *salt = &scanner->captured[FIELD_SALT];
	uint32_t block = scanner->pieces[0].block_bytes;
	uint64_t hash = mix(hash_text(model->text, model->len), hash_text(salt->text, salt->len));

	scanner->facts.n_blocks = 0;
	scanner->facts.blocks = scanner->blocks;
	for (uint64_t i = 0; i * block < scanner->tools_bytes && i < PROMPT_BLOCKS_MAX; i++)
		chain(scanner, &hash, mix(scanner->tools_digest, i));
	prefix_pieces_close(&scanner->pieces[SECTION_SYSTEM]);
	for (int s = 0; s < SECTION_STREAMED; s++)
		for (uint32_t i = 0; i < scanner->pieces[s].n; i++)
			chain(scanner, &hash, scanner->pieces[s].piece[i]);
}

static enum prompt_state final_state(const struct prompt_scanner *scanner)
{
	if (scanner->json.error == -E2BIG)
		return PROMPT_TOO_DEEP;
	if (scanner->json.error || (!json_is_complete(&scanner->json) && !scanner->saw_content))
		return PROMPT_NOT_JSON;
	return scanner->saw_content && !scanner->shape_is_wrong ? PROMPT_COMPLETE : PROMPT_UNKNOWN_SHAPE;
}

const struct prompt_facts *prompt_scanner_finish(struct prompt_scanner *scanner)
{
	struct prompt_facts *facts = &scanner->facts;
	enum field key = FIELD_SESSION_ID;

	facts->state = final_state(scanner);
	copy_field(&scanner->captured[FIELD_MODEL], facts->model, sizeof(facts->model));
	copy_field(&scanner->captured[key], facts->session_key, sizeof(facts->session_key));
	facts->session_from_user = !*facts->session_key;
	if (facts->session_from_user)
		copy_field(&scanner->captured[FIELD_USER], facts->session_key, sizeof(facts->session_key));
	chain_sections(scanner);
	facts->prompt_bytes =
		scanner->tools_bytes + scanner->pieces[SECTION_SYSTEM].bytes + scanner->pieces[SECTION_CONTENT].bytes;
	if (facts->state == PROMPT_UNKNOWN_SHAPE) /* tools or a system text of no known request: no prefix of anything */
		facts->n_blocks = facts->prompt_bytes = 0;
	return facts;
}
