// SPDX-License-Identifier: Apache-2.0
/* Traces of any bytes, through a file in memory. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/load/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("trace", 0);
	struct trace *trace = NULL;
	char path[64], error[200];

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!trace_read(&trace, path, 0, error, sizeof(error)))
		trace_infer_sessions(trace);
	trace_free(trace);
	close(fd);
	return 0;
}
