// SPDX-License-Identifier: Apache-2.0
/* --endpoint values of any bytes. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "agent/endpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct endpoint_config endpoint;
	char *text = malloc(size + 1), back[ADDRESS_TEXT_MAX];
	struct address address;

	memcpy(text, data, size);
	text[size] = '\0';
	if (!endpoint_config_parse(&endpoint, text)) {
		assert(!address_parse(&address, address_format(&endpoint.address, back)));
		assert(address_equal(&address, &endpoint.address));
	}
	free(text);
	return 0;
}
