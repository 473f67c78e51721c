/* SPDX-License-Identifier: Apache-2.0 */
/* A transport address: 16-byte IP (IPv4 mapped, RFC 4291 section 2.5.5.2) and port. */
#ifndef LLMD_LIB_ADDRESS_H
#define LLMD_LIB_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define ADDRESS_TEXT_MAX 64 /* "[full IPv6]:65535" and its NUL fit */

struct address {
	uint8_t ip[16];
	uint16_t port_be;
};

/** address_parse() - "1.2.3.4:80" or "[::1]:80"; no names. Return: 0 or -EINVAL, @out then unchanged. */
int address_parse(struct address *out, const char *text);

/** address_parse_ip() - "1.2.3.4" or "::1", port 0. Return: 0 or -EINVAL, @out then unchanged. */
int address_parse_ip(struct address *out, const char *text);

/** address_format() - writes the form that address_parse() reads. Return: @text. */
const char *address_format(const struct address *address, char text[ADDRESS_TEXT_MAX]);

/** address_format_ip() - without the port and brackets. Return: @text. */
const char *address_format_ip(const struct address *address, char text[ADDRESS_TEXT_MAX]);

bool address_equal(const struct address *a, const struct address *b);
bool address_is_ipv4(const struct address *address);
/** address_is_local() - of the loopback, or link-local of IPv6: without a device it does not say whose it is. */
bool address_is_local(const struct address *address);

/** address_from_sockaddr() - Return: 0, or -EAFNOSUPPORT. */
int address_from_sockaddr(struct address *out, const struct sockaddr *sa);

/** address_to_sockaddr() - AF_INET for a mapped address, else AF_INET6. Return: the length for bind(), connect(). */
socklen_t address_to_sockaddr(const struct address *address, struct sockaddr_storage *out);

/** option_parse_address() - for option tables (see option.h); field: struct address. */
int option_parse_address(void *field, const char *value, const void *data);

#endif
