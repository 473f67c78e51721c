// SPDX-License-Identifier: Apache-2.0
/* Session keys: order of places, exact values, SipHash. */
#include "tests/unit/test.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/session_key.h"

static const char *const names[] = { "X-Session-ID", "session-id" };

static const struct {
	const char *fields, *key, *source; /* key NULL: none */
} cases[] = {
	{ "", NULL, NULL },
	{ "x-session-id: u 1\r\n", "u 1", "X-Session-ID" },
	{ "session-id: b\r\nX-SESSION-ID: a\r\n", "a", "X-Session-ID" },
	{ "X-Session-ID: \r\nsession-id: b\r\n", "b", "session-id" },
	{ "Cookie: a=1; session=abc; b=2\r\n", "abc", "cookie" },
	{ "Cookie: session-id=x\r\n", "x", "cookie" },
	{ "Cookie: session-id=x\r\nCookie: session=y\r\n", "y", "cookie" },
	{ "Cookie: xsession=1; session=\r\n", NULL, NULL },
	{ "Cookie: session=a=b\r\nsession-id: h\r\n", "h", "session-id" },
};

static void finds_the_key(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct http_head_scan scan = { 0 };
		struct http_head head;
		struct http_text key;
		enum http_rule rule;
		const char *source = NULL;
		char text[512];
		int err;

		sprintf(text, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", cases[i].fields);
		assert_int_equal(http_request_head_parse(&head, text, strlen(text), &scan, &rule), 0);
		err = session_key_from_head(&head, names, COUNT(names), &key, &source);
		if (err != (cases[i].key ? 0 : -ENOENT) || (!err && !http_text_equal(key, cases[i].key)))
			fail_msg("%s: error %d", cases[i].fields, err);
		if (!err)
			assert_string_equal(source, cases[i].source);
	}
}

/* The paper's test vectors: key 00..0f, input 00, 00 01, ... */
static void hashes_as_the_paper_says(void **state)
{
	static const uint64_t expected[] = { 0x726fdb47dd0e0e31, 0x74f839c593dc67fd, 0x0d6c8009d9a94f5a, 0x85676696d7fb7e2d };
	uint8_t secret[SESSION_SECRET_BYTES];
	char input[16];

	(void)state;
	for (int i = 0; i < 16; i++)
		secret[i] = (uint8_t)(input[i] = (char)i);
	for (size_t i = 0; i < COUNT(expected); i++)
		assert_true(session_key_hash(secret, input, i) == expected[i]);
	assert_true(session_key_hash(secret, input, 15) == 0xa129ca6149be45e5);
}

static void loads_secrets(void **state)
{
	static const struct {
		const char *text;
		int err;
	} files[] = { { "000102030405060708090a0b0c0d0e0f\n", 0 }, { "000102030405060708090A0B0C0D0E0F", 0 }, { "00", -EINVAL },
		{ "", -EINVAL }, { "000102030405060708090a0b0c0d0e0f00", -EINVAL }, { "g00102030405060708090a0b0c0d0e0f", -EINVAL } };
	uint8_t secret[SESSION_SECRET_BYTES];
	int fd = memfd_create("secret", MFD_CLOEXEC);
	char path[64];

	(void)state;
	assert_true(fd >= 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	for (size_t i = 0; i < COUNT(files); i++) {
		FILE *file = fopen(path, "w");

		fputs(files[i].text, file);
		fclose(file);
		assert_int_equal(session_secret_load(secret, path), files[i].err);
	}
	close(fd);
	assert_int_equal(session_secret_load(secret, path), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_the_key),
		cmocka_unit_test(hashes_as_the_paper_says),
		cmocka_unit_test(loads_secrets),
	};

	return cmocka_run_group_tests_name("session_key", tests, NULL, NULL);
}
