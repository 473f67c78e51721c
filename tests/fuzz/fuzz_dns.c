// SPDX-License-Identifier: Apache-2.0
/* DNS messages of any bytes. */
#include <assert.h>
#include <string.h>

#include "agent/dns_reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look(void *ctx, const struct dns_record *record)
{
	++*(unsigned *)ctx;
	assert(record->type == DNS_A || record->type == DNS_AAAA || record->type == DNS_SRV);
	assert(strlen(record->name) < DNS_NAME_MAX && strlen(record->target) < DNS_NAME_MAX);
	assert(record->type != DNS_A || address_is_ipv4(&record->address));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t ttl = UINT32_MAX;
	unsigned n = 0;

	dns_reply_read(data, size, &ttl, look, &n);
	assert(n <= size);
	return 0;
}
