/* SPDX-License-Identifier: Apache-2.0 */
/* Questions of the agent to a pod: GET over a connection that is kept, one at a time; or only whether it accepts one. */
#ifndef LLMD_AGENT_PROBE_H
#define LLMD_AGENT_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/buffer.h"
#include "agent/http_body.h"
#include "lib/address.h"

enum { PROBE_BODY_MAX = 4 << 20 };

enum probe_state { PROBE_CLOSED, PROBE_CONNECTING, PROBE_WAITING, PROBE_IDLE, PROBE_STATE_N };

/**
 * struct probe - zeroed, then probe_init(). @deadline_ms: when what is asked is given up. @host: as text; stays where it is.
 * @connected: the connection came about. @status: of the answer; 0: none yet.
 * @content: pieces of the answer's body. @done: @err is 0 with the status (0 when it was only dialled), or -errno.
 */
struct probe {
	enum probe_state state;
	int fd;
	bool connected, reused, keeps_alive;
	const char *path; /* NULL: only dial */
	unsigned status;
	uint64_t deadline_ms;
	struct address address;
	const char *host;
	struct http_body body;
	struct buffer head;
	char *scratch; /* of AGENT_SCRATCH bytes, shared */
	void (*content)(void *ctx, const char *data, size_t len);
	void (*done)(void *ctx, int err, unsigned status);
	void *ctx;
};

void probe_init(struct probe *probe, char *scratch, void *ctx);

/** probe_ask() - @path: for GET, or NULL; literal. Not while one is asked. @done may be called before this returns. */
void probe_ask(struct probe *probe, const struct address *address, const char *host, const char *path, uint64_t deadline_ms,
	void (*content)(void *ctx, const char *data, size_t len), void (*done)(void *ctx, int err, unsigned status));

/** probe_is_asking() - an answer is awaited. */
static inline bool probe_is_asking(const struct probe *probe)
{
	return probe->state == PROBE_CONNECTING || probe->state == PROBE_WAITING;
}

/** probe_turn() - while it is asking: takes what has come, if anything has. */
void probe_turn(struct probe *probe, uint64_t now_ms);

/** probe_close() - without a word to the owner. */
void probe_close(struct probe *probe);

#endif
