/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Incremental internet checksums (RFC 1071, RFC 1624). Sums are kept in 64 bits and folded once. */
#ifndef LLMD_BPF_CHECKSUM_H
#define LLMD_BPF_CHECKSUM_H

#include "compat.h"

/** checksum_exchange() - adds what it does to a sum that a 32-bit word of the packet, as stored, changes. */
static __always_inline __u64 checksum_exchange(__u64 sum, __u32 from, __u32 to)
{
	return sum + (__u32)~from + to;
}

/** checksum_diff() - a sum as the kernel's __wsum, for bpf_l4_csum_replace(). */
static __always_inline __u32 checksum_diff(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (__u32)sum;
}

/** checksum_update() - a stored checksum after a change. */
static __always_inline __u16 checksum_update(__u16 old, __u64 sum)
{
	sum += (__u16)~old;
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

#endif
