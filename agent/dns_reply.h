/* SPDX-License-Identifier: Apache-2.0 */
/* Reads DNS messages: the records that discovery is about. */
#ifndef LLMD_AGENT_DNS_REPLY_H
#define LLMD_AGENT_DNS_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/address.h"

enum dns_type { DNS_A = 1, DNS_AAAA = 28, DNS_SRV = 33 };
enum { DNS_NAME_MAX = 1025 };

/**
 * struct dns_record - @name: owner. @address: of A and AAAA, port 0. @target, @port_be, @priority: of SRV.
 * @additional: stands in the additional section.
 */
struct dns_record {
	enum dns_type type;
	bool additional;
	struct address address;
	uint16_t priority, port_be;
	char name[DNS_NAME_MAX], target[DNS_NAME_MAX];
};

/**
 * dns_reply_read() - calls @each for the A, AAAA and SRV records of the answer and additional sections.
 * @ttl: the least of the answer section, aliases (CNAME) among them; unchanged without records.
 * Return: 0, or -EPROTO for what is no whole message; @each was then called for what came before.
 */
int dns_reply_read(const uint8_t *message, size_t len, uint32_t *ttl, void (*each)(void *ctx, const struct dns_record *record),
	void *ctx);

#endif
