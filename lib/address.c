// SPDX-License-Identifier: Apache-2.0
/* A transport address: see address.h. */
#include "lib/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t mapped_prefix[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

static int parse_port(const char *text, uint16_t *port_be)
{
	unsigned long port = 0;

	if (!*text || strlen(text) > 5)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		port = port * 10 + (unsigned long)(*text - '0');
	}
	if (port > UINT16_MAX)
		return -EINVAL;
	*port_be = htons((uint16_t)port);
	return 0;
}

static int parse_ip(const char *text, size_t len, bool v6, uint8_t ip[16])
{
	char buf[INET6_ADDRSTRLEN];

	if (!len || len >= sizeof(buf))
		return -EINVAL;
	memcpy(buf, text, len);
	buf[len] = '\0';
	if (v6)
		return inet_pton(AF_INET6, buf, ip) == 1 ? 0 : -EINVAL;
	memcpy(ip, mapped_prefix, sizeof(mapped_prefix));
	return inet_pton(AF_INET, buf, ip + 12) == 1 ? 0 : -EINVAL;
}

int address_parse(struct address *out, const char *text)
{
	struct address parsed = { 0 };
	bool v6 = *text == '[';
	const char *colon = strrchr(text, ':');
	const char *end = colon;

	if (!colon)
		return -EINVAL;
	if (v6) {
		text++;
		end = colon - 1;
		if (end < text || *end != ']')
			return -EINVAL;
	}
	if (parse_ip(text, (size_t)(end - text), v6, parsed.ip) || parse_port(colon + 1, &parsed.port_be))
		return -EINVAL;
	*out = parsed;
	return 0;
}

int address_parse_ip(struct address *out, const char *text)
{
	struct address parsed = { 0 };

	if (parse_ip(text, strlen(text), strchr(text, ':') != NULL, parsed.ip))
		return -EINVAL;
	*out = parsed;
	return 0;
}

const char *address_format_ip(const struct address *address, char text[ADDRESS_TEXT_MAX])
{
	bool v4 = address_is_ipv4(address);

	inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? address->ip + 12 : address->ip, text, ADDRESS_TEXT_MAX);
	return text;
}

const char *address_format(const struct address *address, char text[ADDRESS_TEXT_MAX])
{
	char ip[ADDRESS_TEXT_MAX];

	address_format_ip(address, ip);
	snprintf(text, ADDRESS_TEXT_MAX, address_is_ipv4(address) ? "%s:%u" : "[%s]:%u", ip, ntohs(address->port_be));
	return text;
}

bool address_equal(const struct address *a, const struct address *b)
{
	return a->port_be == b->port_be && !memcmp(a->ip, b->ip, sizeof(a->ip));
}

bool address_is_ipv4(const struct address *address)
{
	return !memcmp(address->ip, mapped_prefix, sizeof(mapped_prefix));
}

static bool address_is_loopback(const struct address *address)
{
	if (address_is_ipv4(address))
		return address->ip[12] == 127;
	return IN6_IS_ADDR_LOOPBACK((const struct in6_addr *)address->ip);
}

bool address_is_local(const struct address *address)
{
	return address_is_loopback(address) || (address->ip[0] == 0xfe && (address->ip[1] & 0xc0) == 0x80);
}

int address_from_sockaddr(struct address *out, const struct sockaddr *sa)
{
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;

	*out = (struct address){ 0 };
	if (sa->sa_family == AF_INET) {
		memcpy(&v4, sa, sizeof(v4));
		memcpy(out->ip, mapped_prefix, sizeof(mapped_prefix));
		memcpy(out->ip + 12, &v4.sin_addr, 4);
		out->port_be = v4.sin_port;
		return 0;
	}
	if (sa->sa_family != AF_INET6)
		return -EAFNOSUPPORT;
	memcpy(&v6, sa, sizeof(v6));
	memcpy(out->ip, &v6.sin6_addr, 16);
	out->port_be = v6.sin6_port;
	return 0;
}

socklen_t address_to_sockaddr(const struct address *address, struct sockaddr_storage *out)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = address->port_be };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = address->port_be };

	memset(out, 0, sizeof(*out));
	if (address_is_ipv4(address)) {
		memcpy(&v4.sin_addr, address->ip + 12, 4);
		memcpy(out, &v4, sizeof(v4));
		return sizeof(v4);
	}
	memcpy(&v6.sin6_addr, address->ip, 16);
	memcpy(out, &v6, sizeof(v6));
	return sizeof(v6);
}

int option_parse_address(void *field, const char *value, const void *data)
{
	(void)data;
	return address_parse(field, value);
}
