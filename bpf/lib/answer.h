/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is read of an answer, and where a time is counted. */
#ifndef LLMD_BPF_ANSWER_H
#define LLMD_BPF_ANSWER_H

#include "../../include/llmd/abi.h"
#include "compat.h"

enum { STATUS_LINE_MIN = 12 /* "HTTP/1.1 200" */, STATUS_LINE_CODE = 9, HEAD_END = 0x0d0a0d0a };

/** answer_status() - of the first bytes of an answer. Return: the status code, 0 if they are no status line. */
static __always_inline __u32 answer_status(const __u8 line[STATUS_LINE_MIN])
{
	__u32 code = 0;

	if (line[0] != 'H' || line[STATUS_LINE_CODE - 1] != ' ')
		return 0;
	for (int i = STATUS_LINE_CODE; i < STATUS_LINE_MIN; i++) {
		if (line[i] < '0' || line[i] > '9')
			return 0;
		code = code * 10 + (line[i] - '0');
	}
	return code;
}

/** histogram_bucket() - floor(log2(us)), bounded: without loops. */
static __always_inline __u32 histogram_bucket(__u64 ns)
{
	__u64 us = ns / 1000;
	__u32 bucket = 0;

	if (us >> 16) {
		bucket += 16;
		us >>= 16;
	}
	if (us >> 8) {
		bucket += 8;
		us >>= 8;
	}
	if (us >> 4) {
		bucket += 4;
		us >>= 4;
	}
	if (us >> 2) {
		bucket += 2;
		us >>= 2;
	}
	bucket += us >> 1 != 0;
	return bucket < LLMD_HISTOGRAM_N ? bucket : LLMD_HISTOGRAM_N - 1;
}

#endif
