// SPDX-License-Identifier: Apache-2.0
/* --endpoints-file with any bytes: what is taken is sound, what is refused is said why and where. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "agent/endpoints_yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct endpoints_yaml_error error;
	struct discovered *items = NULL;
	uint32_t n = 0;
	int err = endpoints_yaml_parse((const char *)data, size, &items, &n, &error);

	assert(!err == !error.line && !err == !*error.what);
	for (uint32_t i = 0; i < n; i++) {
		assert(items[i].config.address.port_be && items[i].config.role & ENDPOINT_ROLE_BOTH);
		assert((items[i].condition == DISCOVERY_DRAINING) == (items[i].why != NULL));
		for (uint32_t k = 0; k < i && k < 64; k++)
			assert(!address_equal(&items[i].config.address, &items[k].config.address));
	}
	free(items);
	return 0;
}
