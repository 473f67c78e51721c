// SPDX-License-Identifier: Apache-2.0
/* Prompt facts: what each API means, and that only what the model sees changes the hashes. */
#include "tests/unit/test.h"

#include "agent/prompt.h"

enum { BLOCK = 16 };

static struct prompt_facts facts;
static uint64_t blocks[PROMPT_BLOCKS_MAX];

static void scan_cut(enum api api, const char *body, size_t step)
{
	struct prompt_scanner *scanner = prompt_scanner_new(BLOCK);
	size_t len = strlen(body);

	assert_non_null(scanner);
	prompt_scanner_reset(scanner, api);
	for (size_t at = 0; at < len; at += step)
		prompt_scanner_feed(scanner, body + at, len - at < step ? len - at : step);
	facts = *prompt_scanner_finish(scanner);
	memcpy(blocks, facts.blocks, facts.n_blocks * sizeof(*blocks));
	prompt_scanner_free(scanner);
}

static void scan(enum api api, const char *body)
{
	scan_cut(api, body, SIZE_MAX);
}

#define TEXT "0123456789abcdef0123456789abcdef"

/* Pairs that the model sees alike. */
static const struct {
	const char *name;
	enum api api;
	const char *a, *b;
} equals[] = {
	{ "key order", API_CHAT_COMPLETIONS, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}",
	  "{\"messages\":[{\"content\":\"" TEXT "\",\"role\":\"user\"}],\"model\":\"m\"}" },
	{ "white space and escapes", API_CHAT_COMPLETIONS, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"A/" TEXT "\"}]}",
	  "{ \"model\" : \"m\" ,\n\"messages\":[ {\"role\":\"user\",\"content\":\"\\u0041\\/" TEXT "\"} ] }" },
	{ "a part of text", API_CHAT_COMPLETIONS, "{\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}",
	  "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"" TEXT "\"}]}]}" },
	{ "cache_control moves", API_MESSAGES, "{\"system\":[{\"type\":\"text\",\"text\":\"" TEXT "\"}],\"messages\":[]}",
	  "{\"messages\":[],\"system\":[{\"type\":\"text\",\"text\":\"" TEXT "\",\"cache_control\":{\"type\":\"ephemeral\"}}]}" },
	{ "tools behind the messages", API_CHAT_COMPLETIONS,
	  "{\"tools\":[{\"a\":1,\"b\":\"" TEXT "\"}],\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}",
	  "{\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}],\"tools\":[{\"b\":\"" TEXT "\",\"a\":1}]}" },
	{ "the last of two keys counts", API_COMPLETIONS, "{\"prompt\":\"" TEXT "\"}", "{\"prompt\":\"x\",\"prompt\":\"" TEXT "\"}" },
	{ "UTF-8 as bytes and as surrogates", API_COMPLETIONS, "{\"prompt\":\"" TEXT "\xf0\x9f\x98\x80\xc3\xa4" TEXT "\"}",
	  "{\"prompt\":\"" TEXT "\\uD83d\\ude00\\u00e4" TEXT "\"}" },
	{ "members of an image", API_CHAT_COMPLETIONS,
	  "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"" TEXT "\",\"detail\":\"low\"}},{\"type\":\"text\",\"text\":\"" TEXT "\"}]}]}",
	  "{\"messages\":[{\"content\":[{\"image_url\":{\"detail\":\"low\",\"url\":\"" TEXT "\"},\"type\":\"image_url\"},{\"text\":\"" TEXT "\",\"type\":\"text\"}],\"role\":\"user\"}]}" },
	{ "a chat to embed", API_EMBEDDINGS, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}",
	  "{\"messages\":[{\"content\":\"" TEXT "\",\"role\":\"user\"}],\"model\":\"m\"}" },
	{ "another API's system text", API_CHAT_COMPLETIONS, "{\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}",
	  "{\"system\":\"x\",\"instructions\":\"y\",\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}" },
	{ "settings", API_RESPONSES, "{\"instructions\":\"" TEXT "\",\"input\":\"" TEXT "\"}",
	  "{\"temperature\":0.5,\"input\":\"" TEXT "\",\"metadata\":{\"x\":\"" TEXT "\"},\"instructions\":\"" TEXT "\"}" },
};

static const struct {
	const char *name;
	enum api api;
	const char *a, *b;
} differs[] = {
	{ "model", API_COMPLETIONS, "{\"model\":\"a\",\"prompt\":\"" TEXT "\"}", "{\"model\":\"b\",\"prompt\":\"" TEXT "\"}" },
	{ "cache salt", API_COMPLETIONS, "{\"cache_salt\":\"a\",\"prompt\":\"" TEXT "\"}", "{\"prompt\":\"" TEXT "\"}" },
	{ "first byte", API_COMPLETIONS, "{\"prompt\":\"x" TEXT "\"}", "{\"prompt\":\"y" TEXT "\"}" },
	{ "system", API_MESSAGES, "{\"system\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}",
	  "{\"system\":\"b\",\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}" },
	{ "an image before the text", API_CHAT_COMPLETIONS,
	  "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"a\"}},{\"type\":\"text\",\"text\":\"" TEXT "\"}]}]}",
	  "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"b\"}},{\"type\":\"text\",\"text\":\"" TEXT "\"}]}]}" },
	{ "an audio clip before the text", API_CHAT_COMPLETIONS,
	  "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\",\"input_audio\":{\"data\":\"a\"}},{\"type\":\"text\",\"text\":\"" TEXT "\"}]}]}",
	  "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\",\"input_audio\":{\"data\":\"b\"}},{\"type\":\"text\",\"text\":\"" TEXT "\"}]}]}" },
	{ "order of tools", API_CHAT_COMPLETIONS, "{\"tools\":[{\"a\":1},{\"a\":2}],\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}",
	  "{\"tools\":[{\"a\":2},{\"a\":1}],\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}" },
	{ "token ids", API_COMPLETIONS, "{\"prompt\":[1,2,3,4]}", "{\"prompt\":[1,3,2,4]}" },
	{ "tools", API_CHAT_COMPLETIONS, "{\"tools\":[{\"a\":1}],\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}",
	  "{\"tools\":[{\"a\":2}],\"messages\":[{\"role\":\"user\",\"content\":\"" TEXT "\"}]}" },
};

static void equal_prompts(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(equals); i++) {
		uint64_t first[PROMPT_BLOCKS_MAX];
		uint32_t n;

		scan(equals[i].api, equals[i].a);
		n = facts.n_blocks;
		memcpy(first, blocks, sizeof(first));
		if (n < 2 || facts.state != PROMPT_COMPLETE)
			fail_msg("%s: %u blocks, state %s", equals[i].name, n, prompt_state_name(facts.state));
		scan(equals[i].api, equals[i].b);
		if (facts.n_blocks != n || memcmp(first, blocks, n * sizeof(*first)))
			fail_msg("%s: %u and %u blocks", equals[i].name, n, facts.n_blocks);
		for (size_t step = 1; step < 20; step++) {
			scan_cut(equals[i].api, equals[i].b, step);
			if (facts.n_blocks != n || memcmp(first, blocks, n * sizeof(*first)))
				fail_msg("%s, cut in %zu", equals[i].name, step);
		}
	}
}

static void different_prompts(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(differs); i++) {
		uint64_t first;

		scan(differs[i].api, differs[i].a);
		assert_true(facts.n_blocks > 0);
		first = blocks[0];
		scan(differs[i].api, differs[i].b);
		if (!facts.n_blocks || blocks[0] == first)
			fail_msg("%s makes no difference", differs[i].name);
	}
}

#define CHAT_1 "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"" TEXT "\"},{\"role\":\"user\",\"content\":\"hello there\"}"
#define CHAT_2 CHAT_1 ",{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}," \
		      "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"" TEXT "\"}"
#define MESSAGES_1 "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"" TEXT TEXT "\"}]}"
#define RESPONSES_1 "{\"instructions\":\"be brief\",\"input\":[{\"role\":\"user\",\"content\":\"" TEXT TEXT "\"}"

static const struct {
	enum api api;
	const char *turn, *next;
} turns[] = {
	{ API_CHAT_COMPLETIONS, CHAT_1 "]}", CHAT_2 "]}" },
	{ API_CHAT_COMPLETIONS, CHAT_2 "]}", CHAT_2 ",{\"role\":\"user\",\"content\":\"and then?\"}],\"stream\":true}" },
	{ API_MESSAGES, MESSAGES_1 "]}", MESSAGES_1 ",{\"role\":\"assistant\",\"content\":\"yes\"}],\"system\":\"\"}" },
	{ API_RESPONSES, RESPONSES_1 "]}", RESPONSES_1 ",{\"type\":\"function_call_output\",\"call_id\":\"c\",\"output\":\"" TEXT "\"}]}" },
};

static void a_turn_is_a_prefix_of_the_next(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(turns); i++) {
		uint64_t first[PROMPT_BLOCKS_MAX];
		uint32_t n;

		scan(turns[i].api, turns[i].turn);
		n = facts.n_blocks;
		memcpy(first, blocks, sizeof(first));
		assert_true(n >= 2);
		scan(turns[i].api, turns[i].next);
		if (facts.n_blocks < n || memcmp(first, blocks, n * sizeof(*first)))
			fail_msg("case %zu: %u, then %u blocks", i, n, facts.n_blocks);
	}
}

static void finds_the_fields(void **state)
{
	(void)state;
	scan(API_CHAT_COMPLETIONS, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"model\":\"m\\u0031\",\"stream\":true,\"user\":\"u\"}");
	assert_string_equal(facts.model, "m1");
	assert_true(facts.stream && facts.session_from_user);
	assert_string_equal(facts.session_key, "u");
	scan(API_CHAT_COMPLETIONS, "{\"user\":\"u\",\"session_id\":\"s\",\"messages\":[],\"stream\":false}");
	assert_string_equal(facts.session_key, "s");
	assert_false(facts.stream || facts.session_from_user);
	scan(API_MESSAGES, "{\"metadata\":{\"user_id\":\"a\"},\"messages\":[]}");
	assert_string_equal(facts.session_key, "a");
	scan(API_CHAT_COMPLETIONS, "{\"session_id\":\"a\\u0000b\",\"messages\":[]}");
	assert_string_equal(facts.session_key, "");
}

/* A name that does not fit is none, but seeds the hashes by what fits, however it comes. */
static void bounds_the_fields(void **state)
{
	static char body[4000];
	uint64_t whole;

	(void)state;
	snprintf(body, sizeof(body), "{\"prompt\":\"" TEXT "\",\"model\":\"%01500d\",\"session_id\":\"%01500d\"}", 7, 7);
	scan(API_COMPLETIONS, body);
	assert_string_equal(facts.model, "");
	assert_string_equal(facts.session_key, "");
	whole = blocks[0];
	for (size_t step = 1; step < 100; step += 7) {
		scan_cut(API_COMPLETIONS, body, step);
		assert_true(facts.n_blocks && blocks[0] == whole);
	}
}

static void says_what_it_did_not_understand(void **state)
{
	char deep[400] = "{\"messages\":";

	(void)state;
	scan(API_CHAT_COMPLETIONS, "not json");
	assert_int_equal(facts.state, PROMPT_NOT_JSON);
	scan(API_CHAT_COMPLETIONS, "{\"prompt\":\"x\"}");
	assert_int_equal(facts.state, PROMPT_UNKNOWN_SHAPE);
	scan(API_CHAT_COMPLETIONS, "{\"system\":\"" TEXT "\",\"tools\":[{\"a\":\"" TEXT "\"}]}");
	assert_int_equal(facts.state, PROMPT_UNKNOWN_SHAPE);
	assert_int_equal(facts.n_blocks + facts.prompt_bytes, 0);
	scan(API_CHAT_COMPLETIONS, "[]");
	assert_int_equal(facts.state, PROMPT_UNKNOWN_SHAPE);
	scan(API_CHAT_COMPLETIONS, "{\"messages\":7}");
	assert_int_equal(facts.state, PROMPT_UNKNOWN_SHAPE);
	memset(deep + strlen(deep), '[', 100);
	scan(API_CHAT_COMPLETIONS, deep);
	assert_int_equal(facts.state, PROMPT_TOO_DEEP);
}

static void knows_the_paths(void **state)
{
	(void)state;
	assert_int_equal(prompt_api("/v1/chat/completions?a=b", 24), API_CHAT_COMPLETIONS);
	assert_int_equal(prompt_api("/tokenize", 9), API_TOKENIZE);
	assert_int_equal(prompt_api("/v1/chat/completions/", 21), API_OTHER);
	assert_int_equal(prompt_api("/", 1), API_OTHER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_prompts),
		cmocka_unit_test(different_prompts),
		cmocka_unit_test(a_turn_is_a_prefix_of_the_next),
		cmocka_unit_test(finds_the_fields),
		cmocka_unit_test(bounds_the_fields),
		cmocka_unit_test(says_what_it_did_not_understand),
		cmocka_unit_test(knows_the_paths),
	};

	return cmocka_run_group_tests_name("prompt", tests, NULL, NULL);
}
