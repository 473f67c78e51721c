// SPDX-License-Identifier: Apache-2.0
/* What --discover-dns says: see dns_spec.h. */
#include "agent/dns_spec.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int dns_spec_parse(struct dns_spec *out, const char *text)
{
	const char *colon = strrchr(text, ':');
	size_t len = colon ? (size_t)(colon - text) : strlen(text);
	char *end;
	unsigned long port;

	*out = (struct dns_spec){ .is_srv = *text == '_' };
	if (!len || len >= sizeof(out->name) || (out->is_srv ? colon != NULL : colon == NULL))
		return -EINVAL;
	memcpy(out->name, text, len);
	if (strspn(out->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != len)
		return -EINVAL;
	if (out->is_srv)
		return 0;
	port = strtoul(colon + 1, &end, 10);
	if (colon[1] < '0' || colon[1] > '9' || *end || !port || port > UINT16_MAX)
		return -EINVAL;
	out->port_be = htons((uint16_t)port);
	return 0;
}
