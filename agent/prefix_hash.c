// SPDX-License-Identifier: Apache-2.0
/* Prefix blocks: see prefix_hash.h. XXH3 (xxhash.com) at memory speed; blocks are hints, so no keyed hash is needed. */
#include "agent/prefix_hash.h"

void prefix_pieces_reset(struct prefix_pieces *pieces)
{
	pieces->n = pieces->fill = 0;
	pieces->bytes = 0;
}

static void piece_done(struct prefix_pieces *pieces, uint64_t hash)
{
	pieces->piece[pieces->n++] = hash;
	pieces->fill = 0;
}

static size_t add_partial(struct prefix_pieces *pieces, const void *data, size_t len)
{
	size_t room = pieces->block_bytes - pieces->fill;

	if (len > room)
		len = room;
	if (!pieces->fill)
		XXH3_64bits_reset(pieces->partial);
	XXH3_64bits_update(pieces->partial, data, len);
	pieces->fill += (uint32_t)len;
	if (pieces->fill == pieces->block_bytes)
		piece_done(pieces, XXH3_64bits_digest(pieces->partial));
	return len;
}

void prefix_pieces_add(struct prefix_pieces *pieces, const void *data, size_t len)
{
	const char *at = data;

	pieces->bytes += len;
	while (len && pieces->n < pieces->max) {
		size_t n = pieces->block_bytes;

		if (!pieces->fill && len >= n)
			piece_done(pieces, XXH3_64bits(at, n));
		else
			n = add_partial(pieces, at, len);
		at += n;
		len -= n;
	}
}

void prefix_pieces_close(struct prefix_pieces *pieces)
{
	if (pieces->fill && pieces->n < pieces->max)
		piece_done(pieces, XXH3_64bits_digest(pieces->partial) + pieces->fill);
}

uint64_t prefix_chain(uint64_t previous, uint64_t piece)
{
	const uint64_t both[2] = { previous, piece };

	return XXH3_64bits(both, sizeof(both));
}
