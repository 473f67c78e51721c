// SPDX-License-Identifier: Apache-2.0
/* See output.h. Buffered output meets its errors only when the buffer is written, which is mostly after main() has returned. */
#include "lib/output.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *program_name;

static void close_output(void)
{
	bool failed = ferror(stdout); /* earlier: what errno said then is gone */

	errno = 0;
	if (!fclose(stdout) && !failed)
		return;
	fprintf(stderr, "%s: standard output: %s\n", program_name, errno ? strerror(errno) : "not all was written");
	_exit(EXIT_FAILURE);
}

void output_check_at_exit(const char *name)
{
	if (!program_name)
		atexit(close_output);
	program_name = name;
}
