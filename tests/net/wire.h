/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What netclient and netpod send each other, so that each can check every byte it gets.
 *
 * A byte depends on the stream's seed and on its place in the stream: bytes that are lost, repeated, swapped
 * or of another stream show. They are letters, so that they can stand in a JSON string.
 */
#ifndef LLMD_TESTS_NET_WIRE_H
#define LLMD_TESTS_NET_WIRE_H

#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The request's body: BODY_HEAD, letters, BODY_TAIL. A pod's answer: letters only. */
#define BODY_HEAD "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\""
#define BODY_TAIL "\"}]}"

struct wire {
	const char *head, *tail;
	uint64_t seed, letters;
};

static inline struct wire wire_request(uint64_t seed, uint64_t letters)
{
	return (struct wire){ BODY_HEAD, BODY_TAIL, ~seed, letters };
}

static inline struct wire wire_answer(uint64_t seed, uint64_t letters)
{
	return (struct wire){ "", "", seed, letters };
}

static inline uint64_t wire_size(const struct wire *wire)
{
	return strlen(wire->head) + wire->letters + strlen(wire->tail);
}

/* Eight letters 'a'..'p'; splitmix64 with its low bits of each byte. */
static inline uint64_t wire_word(uint64_t seed, uint64_t k)
{
	uint64_t z = seed * 0xd1342543de82ef95 + (k + 1) * 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return ((z ^ z >> 31) & 0x0f0f0f0f0f0f0f0f) + 0x6161616161616161;
}

static inline void wire_fill_letters(uint64_t seed, uint64_t offset, char *out, size_t len)
{
	while (len) {
		const uint64_t word = wire_word(seed, offset / 8);
		size_t skip = offset % 8, n = 8 - skip < len ? 8 - skip : len;

		memcpy(out, (const char *)&word + skip, n);
		out += n, offset += n, len -= n;
	}
}

/* Copies the part of @text that stands at @at of the stream into what is wanted: [offset, offset + len). */
static inline void wire_fill_text(const char *text, uint64_t at, uint64_t offset, char *out, size_t len)
{
	for (uint64_t i = at > offset ? at : offset; i < at + strlen(text) && i < offset + len; i++)
		out[i - offset] = text[i - at];
}

/** wire_fill() - writes bytes [offset, offset + len) of a stream. */
static inline void wire_fill(const struct wire *wire, uint64_t offset, char *out, size_t len)
{
	const uint64_t from = strlen(wire->head), to = from + wire->letters;
	const uint64_t a = offset > from ? offset : from, b = offset + len < to ? offset + len : to;

	if (a < b)
		wire_fill_letters(wire->seed, a - from, out + (a - offset), b - a);
	wire_fill_text(wire->head, 0, offset, out, len);
	wire_fill_text(wire->tail, to, offset, out, len);
}

/** wire_check() - where the first wrong byte of @data, which starts at @offset, stands in the stream; -1: all
 * are right. */
static inline int64_t wire_check(const struct wire *wire, uint64_t offset, const char *data, size_t len)
{
	static char want[1 << 16];

	for (size_t done = 0; done < len;) {
		const size_t n = len - done < sizeof(want) ? len - done : sizeof(want);

		wire_fill(wire, offset + done, want, n);
		for (size_t i = 0; memcmp(data + done, want, n) && i < n; i++)
			if (data[done + i] != want[i])
				return (int64_t)(offset + done + i);
		done += n;
	}
	return -1;
}

static inline uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/** header_find() - the value of "\r\nname" in a head that ends with a NUL; names are written as netclient and
 * netpod do. */
static inline const char *header_find(const char *head, const char *name)
{
	const char *at = strcasestr(head, name);

	return at && at > head && at[-1] == '\n' ? at + strlen(name) : NULL;
}

/** number_of() - the number after "key" in @text up to the end of the line; 0 if there is none. */
static inline uint64_t number_of(const char *text, const char *key)
{
	const char *at = text ? strstr(text, key) : NULL, *end = text ? strchr(text, '\r') : NULL;

	return at && end && at < end ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/** parse_address() - "a.b.c.d:port" or "[v6]:port"; exits if it is neither. */
static inline struct sockaddr_storage parse_address(const char *text, socklen_t *len)
{
	struct sockaddr_storage sa = { 0 };
	struct sockaddr_in *v4 = (void *)&sa;
	struct sockaddr_in6 *v6 = (void *)&sa;
	const char *colon = strrchr(text, ':');
	char host[64] = "";
	int ok = 0;

	if (colon && text[0] == '[') {
		snprintf(host, sizeof(host), "%.*s", (int)(colon - text - 2), text + 1);
		ok = inet_pton(v6->sin6_family = AF_INET6, host, &v6->sin6_addr);
		v6->sin6_port = htons((uint16_t)atoi(colon + 1));
		*len = sizeof(*v6);
	} else if (colon) {
		snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
		ok = inet_pton(v4->sin_family = AF_INET, host, &v4->sin_addr);
		v4->sin_port = htons((uint16_t)atoi(colon + 1));
		*len = sizeof(*v4);
	}
	if (ok != 1) {
		fprintf(stderr, "%s: no address\n", text);
		exit(2);
	}
	return sa;
}

#endif
