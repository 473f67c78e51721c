/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * TCP options: those of a SYN are cut down to what can be translated later, the blocks of SACK are translated.
 *
 * What is negotiated on the client's connection must hold on the pod's and the other way round, and the agent cannot know
 * the other side yet. So of a SYN's options only MSS, window scale and SACK remain, and ECN is not offered. An option goes
 * by becoming NOPs: nothing moves.
 *
 * The loops are made for the verifier: one step an option or a byte, an offset that is masked to the array's size.
 */
#ifndef LLMD_BPF_OPTIONS_H
#define LLMD_BPF_OPTIONS_H

#include "checksum.h"
#include "packet.h"

/* IANA, "TCP Option Kind Numbers". */
enum { TCPOPT_KIND_EOL, TCPOPT_KIND_NOP, TCPOPT_KIND_MSS, TCPOPT_KIND_SCALE, TCPOPT_KIND_SACK_PERMITTED, TCPOPT_KIND_SACK,
	TCPOPT_KIND_TIMESTAMPS = 8, TCPOPT_KIND_MD5 = 19, TCPOPT_KIND_AO = 29 };

enum { OPTIONS_ROOM = 64, OPTIONS_MASK = OPTIONS_ROOM - 1, SACK_BLOCK = 8, SACK_BLOCKS_MAX = 4, MSS_LENGTH = 4 };

/** struct tcp_options - @at: as in the packet, zeros behind @n. */
struct tcp_options {
	union {
		__u8 at[OPTIONS_ROOM];
		__u32 word[OPTIONS_ROOM / 4];
	};
};

/**
 * option_length() - of the option at @offset. A NOP is one byte long, and 0 ends the walk: end of list, no room, or a
 * length that makes no sense, where the receiver stops, too (RFC 9293, 3.1).
 */
static __always_inline __u32 option_length(const struct tcp_options *options, __u32 offset, __u32 n)
{
	__u8 kind, length;

	if (offset >= n)
		return 0;
	kind = options->at[offset & OPTIONS_MASK];
	if (kind == TCPOPT_KIND_EOL)
		return 0;
	if (kind == TCPOPT_KIND_NOP)
		return 1;
	length = offset + 1 < n ? options->at[(offset + 1) & OPTIONS_MASK] : 0;
	return length < 2 || offset + length > n ? 0 : length;
}

/* One bit a byte, since the verifier takes a shift far more easily than two comparisons for each byte. */
static __always_inline __u64 option_bits(__u32 offset, __u32 length)
{
	return ((1ull << (length & OPTIONS_MASK)) - 1) << (offset & OPTIONS_MASK);
}

static __always_inline void options_blank(struct tcp_options *options, __u64 bits)
{
	NO_UNROLL
	for (int i = 0; i < TCP_OPTIONS_MAX; i++)
		if (bits >> i & 1)
			options->at[i] = TCPOPT_KIND_NOP;
}

static __always_inline bool syn_option_stays(__u8 kind)
{
	return kind == TCPOPT_KIND_NOP || kind == TCPOPT_KIND_MSS || kind == TCPOPT_KIND_SCALE ||
	       kind == TCPOPT_KIND_SACK_PERMITTED;
}

static __always_inline void syn_clamp_mss(struct tcp_options *options, __u32 offset, __u32 mss_max)
{
	__u32 high = (offset + 2) & OPTIONS_MASK, low = (offset + 3) & OPTIONS_MASK;
	__u32 mss = (__u32)options->at[high] << 8 | options->at[low];

	if (mss_max && mss > mss_max) {
		options->at[high] = (__u8)(mss_max >> 8);
		options->at[low] = (__u8)mss_max;
	}
}

/**
 * syn_clean() - in place. @n: bytes of options, at most TCP_OPTIONS_MAX. @mss_max: clamps the MSS, 0 does not.
 * Return: REASON_SYN_CLEANED, or REASON_SYN_SIGNED: the signature covers all options, so nothing may change.
 */
SUBPROGRAM enum reason syn_clean(struct tcp_options *options, __u32 n, __u32 mss_max)
{
	__u64 blank = 0;
	__u32 offset = 0;

	if (!options)
		return REASON_MALFORMED;
	NO_UNROLL
	for (int i = 0; i < TCP_OPTIONS_MAX; i++) {
		__u32 length = option_length(options, offset, n);
		__u8 kind = options->at[offset & OPTIONS_MASK];

		if (!length)
			break;
		if (kind == TCPOPT_KIND_MD5 || kind == TCPOPT_KIND_AO)
			return REASON_SYN_SIGNED;
		if (kind == TCPOPT_KIND_MSS && length == MSS_LENGTH)
			syn_clamp_mss(options, offset, mss_max);
		if (!syn_option_stays(kind))
			blank |= option_bits(offset, length);
		offset = (offset + length) & OPTIONS_MASK;
	}
	options_blank(options, blank);
	return REASON_SYN_CLEANED;
}

/* Return: offset of the first option of that @kind, with its @length, or @n. */
static __always_inline __u32 option_find(const struct tcp_options *options, __u32 n, __u8 kind, __u32 *length)
{
	__u32 offset = 0;

	NO_UNROLL
	for (int i = 0; i < TCP_OPTIONS_MAX; i++) {
		*length = option_length(options, offset, n);
		if (!*length)
			return n;
		if (options->at[offset & OPTIONS_MASK] == kind)
			return offset;
		offset = (offset + *length) & OPTIONS_MASK;
	}
	return n;
}

/** syn_clamp() - only the MSS of a SYN whose options stay, in place; see syn_clean(). Return: whether there was one. */
SUBPROGRAM bool syn_clamp(struct tcp_options *options, __u32 n, __u32 mss_max)
{
	__u32 length = 0, offset;

	if (!options)
		return false;
	offset = option_find(options, n, TCPOPT_KIND_MSS, &length);
	if (offset >= n || length != MSS_LENGTH)
		return false;
	syn_clamp_mss(options, offset, mss_max);
	return true;
}

/* ---- SACK (RFC 2018): the blocks acknowledge, so they move as the acknowledgment number does ---- */

/* Numbers lie at any alignment. */
static __always_inline void sack_move(struct tcp_options *options, __u32 offset, __u32 ack_sub)
{
	__u32 number = 0;

	for (int i = 0; i < 4; i++)
		number = number << 8 | options->at[(offset + i) & OPTIONS_MASK];
	number -= ack_sub;
	for (int i = 0; i < 4; i++)
		options->at[(offset + i) & OPTIONS_MASK] = (__u8)(number >> (24 - 8 * i));
}

/** sack_translate() - in place; @keep: else the option is blanked: the receiver has not agreed to it. Return: whether there was one. */
SUBPROGRAM bool sack_translate(struct tcp_options *options, __u32 n, __u32 ack_sub, bool keep)
{
	__u32 length = 0, offset;

	if (!options)
		return false;
	offset = option_find(options, n, TCPOPT_KIND_SACK, &length);
	if (offset >= n)
		return false;
	if (!keep) {
		options_blank(options, option_bits(offset, length));
		return true;
	}
	NO_UNROLL
	for (__u32 i = 0; i < SACK_BLOCKS_MAX; i++) {
		__u32 block = offset + 2 + i * SACK_BLOCK;

		if (block + SACK_BLOCK > offset + length)
			break;
		sack_move(options, block, ack_sub);
		sack_move(options, block + SACK_BLOCK / 2, ack_sub);
	}
	return true;
}

/** options_sum() - what the exchange of all options does to the checksum. */
static __always_inline __u64 options_sum(const struct tcp_options *from, const struct tcp_options *to)
{
	__u64 sum = 0;

	for (int i = 0; i < TCP_OPTIONS_MAX / 4; i++)
		sum = checksum_exchange(sum, from->word[i], to->word[i]);
	return sum;
}

#endif
