// SPDX-License-Identifier: Apache-2.0
/* Reads DNS messages with the C library's parser: see dns_reply.h. c-ares' own parsers keep no TTL of SRV records. */
#include "agent/dns_reply.h"

#include <arpa/nameser.h>
#include <errno.h>
#include <resolv.h>
#include <stdio.h>
#include <string.h>

enum { SRV_FIXED = 6 };

static int read_srv(const ns_msg *message, const ns_rr *rr, struct dns_record *out)
{
	const uint8_t *data = ns_rr_rdata(*rr);
	uint16_t port;

	if (ns_rr_rdlen(*rr) <= SRV_FIXED)
		return -EPROTO;
	out->priority = (uint16_t)ns_get16(data);
	port = (uint16_t)ns_get16(data + 4);
	out->port_be = htons(port);
	if (ns_name_uncompress(ns_msg_base(*message), ns_msg_end(*message), data + SRV_FIXED, out->target, sizeof(out->target)) < 0)
		return -EPROTO;
	return 0;
}

static int read_address(const ns_rr *rr, struct dns_record *out)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	const size_t size = out->type == DNS_A ? 4 : 16;

	if (ns_rr_rdlen(*rr) != size)
		return -EPROTO;
	memcpy(out->address.ip, mapped, sizeof(mapped));
	memcpy(out->address.ip + 16 - size, ns_rr_rdata(*rr), size);
	return 0;
}

/* Return: 1 for a record of ours, 0 for another one, or -EPROTO. */
static int read_record(const ns_msg *message, const ns_rr *rr, struct dns_record *out)
{
	int err;

	if (ns_rr_class(*rr) != ns_c_in)
		return 0;
	switch (ns_rr_type(*rr)) {
	case ns_t_a:
	case ns_t_aaaa:
	case ns_t_srv:
		break;
	default:
		return 0;
	}
	*out = (struct dns_record){ .type = (enum dns_type)ns_rr_type(*rr) };
	snprintf(out->name, sizeof(out->name), "%s", ns_rr_name(*rr));
	err = out->type == DNS_SRV ? read_srv(message, rr, out) : read_address(rr, out);
	return err ? err : 1;
}

static int read_section(ns_msg *message, ns_sect section, uint32_t *ttl, void (*each)(void *ctx, const struct dns_record *record),
	void *ctx)
{
	struct dns_record record;

	for (int i = 0; i < ns_msg_count(*message, section); i++) {
		int found;
		ns_rr rr;

		if (ns_parserr(message, section, i, &rr))
			return -EPROTO;
		if (section == ns_s_an && ns_rr_ttl(rr) < *ttl)
			*ttl = ns_rr_ttl(rr);
		found = read_record(message, &rr, &record);
		if (found < 0)
			return found;
		record.additional = section == ns_s_ar;
		if (found)
			each(ctx, &record);
	}
	return 0;
}

int dns_reply_read(const uint8_t *message, size_t len, uint32_t *ttl, void (*each)(void *ctx, const struct dns_record *record),
	void *ctx)
{
	ns_msg parsed;
	int err;

	if (len > UINT16_MAX || ns_initparse(message, (int)len, &parsed))
		return -EPROTO;
	err = read_section(&parsed, ns_s_an, ttl, each, ctx);
	return err ? err : read_section(&parsed, ns_s_ar, ttl, each, ctx);
}
