/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What lets the headers beside this one compile for BPF and, in tests, for the host. */
#ifndef LLMD_BPF_COMPAT_H
#define LLMD_BPF_COMPAT_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef __bpf__
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#define host_from_be16(x) bpf_ntohs(x)
#define host_from_be32(x) bpf_ntohl(x)
#define be16_from_host(x) bpf_htons(x)
#define be32_from_host(x) bpf_htonl(x)
/* Verified once, apart from its callers, which is why it must check its pointers; weak, so that the objects link. */
#define SUBPROGRAM	  __weak __noinline
#define NO_UNROLL	  _Pragma("clang loop unroll(disable)")
#else
#include <endian.h> /* the C library's other headers define what <linux/in.h> does */
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#define host_from_be16(x) be16toh(x)
#define host_from_be32(x) be32toh(x)
#define be16_from_host(x) htobe16(x)
#define be32_from_host(x) htobe32(x)
#define SUBPROGRAM	  static __attribute__((noinline, unused))
#define NO_UNROLL
#endif

/** seq_after() - of two sequence numbers, modulo 2^32 (RFC 9293, 3.4). */
static __always_inline bool seq_after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}

static __always_inline bool seq_at_or_after(__u32 a, __u32 b)
{
	return (__s32)(a - b) >= 0;
}

#endif
