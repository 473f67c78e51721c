/* SPDX-License-Identifier: Apache-2.0 */
/* What --discover-dns says. The source itself: discovery_sources.h. */
#ifndef LLMD_AGENT_DNS_SPEC_H
#define LLMD_AGENT_DNS_SPEC_H

#include <stdbool.h>
#include <stdint.h>

/** struct dns_spec - @name: to ask for. @is_srv: it begins with "_", and its records name the ports. */
struct dns_spec {
	char name[256];
	uint16_t port_be;
	bool is_srv;
};

/** dns_spec_parse() - "NAME:PORT" or "_SERVICE._PROTOCOL.NAME". Return: 0 or -EINVAL. */
int dns_spec_parse(struct dns_spec *out, const char *text);

#endif
