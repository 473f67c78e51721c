/* SPDX-License-Identifier: Apache-2.0 */
/* A run of prompt content cut into prefix blocks, each hashed on its own; chained once the order is known. */
#ifndef LLMD_AGENT_PREFIX_HASH_H
#define LLMD_AGENT_PREFIX_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h> /* the library's own choice of what the processor has: AVX2 is twice as fast as the SSE2 of the plain names */
#endif

/**
 * struct prefix_pieces - @bytes: all content; what is past @max pieces is only counted.
 * @partial: state of the piece that is not full, @fill bytes of it.
 */
struct prefix_pieces {
	uint32_t block_bytes, n, max, fill;
	uint64_t bytes;
	uint64_t *piece; /* owned by the caller, @max entries */
	XXH3_state_t *partial;
};

void prefix_pieces_reset(struct prefix_pieces *pieces);
void prefix_pieces_add(struct prefix_pieces *pieces, const void *data, size_t len);

/** prefix_pieces_close() - a last piece that is not full becomes one, told from a full one by its length. */
void prefix_pieces_close(struct prefix_pieces *pieces);

/** prefix_chain() - the hash of a block: of its piece and, through @previous, of all before it. */
uint64_t prefix_chain(uint64_t previous, uint64_t piece);

#endif
