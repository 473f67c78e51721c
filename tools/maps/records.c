// SPDX-License-Identifier: Apache-2.0
/* Growing arrays of records: see maps.h. What they may grow to is bounded by the size of the map that they come from. */
#include "tools/maps/maps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { RECORDS_START = 64 };

int records_add(struct records *records, const void *record)
{
	if (records->n == records->room) {
		size_t room = records->room ? 2 * records->room : RECORDS_START;
		char *at = reallocarray(records->at, room, records->size);

		if (!at)
			return -ENOMEM;
		records->at = at;
		records->room = room;
	}
	memcpy(records->at + records->n++ * records->size, record, records->size);
	return 0;
}

void *records_get(const struct records *records, size_t i)
{
	return records->at + i * records->size;
}

void records_free(struct records *records)
{
	free(records->at);
	records->at = NULL;
	records->n = records->room = 0;
}
