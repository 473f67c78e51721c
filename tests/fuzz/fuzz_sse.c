// SPDX-License-Identifier: Apache-2.0
/* Server-sent events: the same for any cut. */
#include <assert.h>

#include "tools/load/load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct sse whole, cut;

	whole = cut = (struct sse){ 0 };
	sse_feed(&whole, (const char *)data, size);
	for (size_t i = 0; i < size && !cut.malformed; i++)
		sse_feed(&cut, (const char *)data + i, 1);
	assert(whole.malformed == cut.malformed || cut.malformed);
	assert(cut.malformed || (whole.events == cut.events && whole.done == cut.done));
	return 0;
}
