// SPDX-License-Identifier: Apache-2.0
/* Every type of option value, of any bytes. The first byte chooses the type. */
#include <stdlib.h>
#include <string.h>

#include "lib/option.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct option_name names[] = { { "a", 1 }, { 0 } };
	static const struct option_range range = { 0, 1000 };
	static int (*const parsers[])(void *, const char *, const void *) = { option_parse_flag, option_parse_u64, option_parse_double,
		option_parse_duration, option_parse_size, option_parse_string };
	union {
		uint64_t number;
		double share;
		const char *text;
		int mode;
	} field;
	char *text;

	if (!size)
		return 0;
	text = malloc(size);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	parsers[data[0] % 6](&field, text, data[0] % 6 == 1 || data[0] % 6 == 2 ? (const void *)&range : NULL);
	option_parse_enum(&field, text, names);
	free(text);
	return 0;
}
