/* SPDX-License-Identifier: Apache-2.0 */
/* One end of a relayed connection: a socket, its events, and what it has not taken yet. */
#ifndef LLMD_AGENT_PEER_H
#define LLMD_AGENT_PEER_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "agent/buffer.h"
#include "agent/pipe_pool.h"
#include "lib/address.h"

/* The most that one peer holds back for its socket: a read of the other side and a message head. Whoever feeds a peer
 * stops reading while something is held back (peer_is_blocked), so the bound is never reached by design. */
enum { PEER_OUT_MAX = 128 * 1024 };

/**
 * struct peer - embedded in what owns the socket.
 * @on_readable, @on_writable: called from the event loop; the latter only once all that was held back is out.
 * @out, @pipe: held back, in this order.
 * @resets_by_default: the socket was accepted with a linger time of 0, so that the death of this process is an RST: what
 * it leaves unfinished cannot be taken for a regular end. @has_sent: bytes, ever. @own: its address, if @own_known.
 */
struct peer {
	int fd;
	bool reading, writing, resets_by_default, has_sent, own_known;
	struct event read_event, write_event;
	struct address own;
	struct buffer out;
	struct pipe *pipe;
	struct pipe_pool *pipes;
	void (*on_readable)(struct peer *peer);
	void (*on_writable)(struct peer *peer);
	void (*on_broken)(struct peer *peer, int err);
};

/** peer_open() - takes over @fd (non-blocking). Nothing is watched yet. */
void peer_open(struct peer *peer, struct event_base *base, struct pipe_pool *pipes, int fd);

/** peer_close() - closes the socket; @reset: with an RST, so that the other end cannot take it for a regular end. */
void peer_close(struct peer *peer, bool reset);

/** peer_release() - gives the socket up without closing it. Return: it. */
int peer_release(struct peer *peer);

/** peer_own_address() - of this end. Return: 0 or -errno. */
int peer_own_address(struct peer *peer, struct address *out);

void peer_watch_readable(struct peer *peer, bool on);

/** peer_await_writable() - on_writable() comes once the socket can take bytes (a connect has ended). */
void peer_await_writable(struct peer *peer);

/** peer_send() - sends or holds back all of it. Return: 0, or -errno (the connection is broken). */
int peer_send(struct peer *peer, const struct iovec *iov, int n);

/**
 * peer_send_some() - sends what the socket takes now and holds nothing back; on_writable() comes if that was not all.
 * Return: bytes taken, or -errno (the connection is broken).
 */
ssize_t peer_send_some(struct peer *peer, const struct iovec *iov, int n);

/** peer_drop_output() - what is held back need not go out any more. */
void peer_drop_output(struct peer *peer);

/** peer_is_blocked() - something is held back: stop reading what would be sent to it. */
bool peer_is_blocked(const struct peer *peer);

/**
 * peer_splice() - moves up to @max bytes from @from's socket to @to's without copying them to user space.
 * @moved: bytes taken from @from; 0 with a return value of 0 means that it has ended.
 * Return: 0; -EAGAIN: nothing to read; -ENOSR: no pipe to be had, copy instead; other -errno: broken.
 */
int peer_splice(struct peer *from, struct peer *to, uint64_t max, uint64_t *moved);

#endif
