/* SPDX-License-Identifier: Apache-2.0 */
/* The hand-off of a request's two connections to the kernel. How and when: handoff.c. */
#ifndef LLMD_AGENT_HANDOFF_H
#define LLMD_AGENT_HANDOFF_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/tcp_repair.h"
#include "lib/histogram.h"

struct exchange;

/* What became of a request that was to be handed over, or why it was relayed; a metrics label. X(NAME, "text", "meaning") */
#define HANDOFF_RESULTS(X) \
	X(HANDED, "handed", "handed over") \
	X(OFF, "off", "no kernel data path, or --handoff never") \
	X(NOT_STREAMED, "not_streamed", "a short answer is expected (--handoff auto)") \
	X(HTTP10, "http10", "HTTP/1.0 or HEAD: the answer's framing is changed") \
	X(PIPELINED, "pipelined", "the next request is here already") \
	X(LOOPBACK, "loopback", "the client or the pod is on the loopback, or has a link-local address of IPv6") \
	X(FAMILY, "family", "IPv4 on one side, IPv6 on the other") \
	X(UNSEEN_CLIENT, "unseen_client", "no program saw the client's connection open; the next one from there will be seen") \
	X(UNSEEN_POD, "unseen_pod", "no program saw the pod's connection open") \
	X(UNACKED, "unacked", "an earlier answer is not acknowledged yet") \
	X(MSS, "mss", "one side may send more at once than the other can take") \
	X(POD_SPOKE, "pod_spoke", "the pod answered before the request was complete") \
	X(POD_CLOSED, "pod_closed", "the pod had just closed the connection; another one is taken") \
	X(CUT, "cut", "the pod answered in the middle of the hand-off; the client is reset") \
	X(TABLE_FULL, "table_full", "no free slot (--flows-max)") \
	X(KERNEL, "kernel", "a system call failed") \
	X(FAILED, "failed", "the pod did not take the request; it was tried again elsewhere or refused")

enum handoff_result {
#define HANDOFF_RESULT_ENUM(name, text, meaning) HANDOFF_##name,
	HANDOFF_RESULTS(HANDOFF_RESULT_ENUM)
#undef HANDOFF_RESULT_ENUM
	HANDOFF_RESULT_N
};

/** struct handoff_stats - @duration: from the choice of a connected pod connection to both entries in. */
struct handoff_stats {
	uint64_t result[HANDOFF_RESULT_N];
	uint64_t unseen_ms[LLMD_ENDPOINT_MAX]; /* when even a fresh connection to the endpoint was not seen by the programs */
	uint64_t long_answers; /* relayed, and longer than HANDOFF_LONG_ANSWER */
	struct histogram duration;
};
enum { HANDOFF_LONG_ANSWER = 64 * 1024 };

void handoff_stats_init(struct handoff_stats *stats);

/** struct handoff - of one exchange. @planned: the head on its way says that the connection ends with the answer. */
struct handoff {
	bool planned, redialled;
	uint32_t flow;
	struct tcp_numbers pod; /* before anything was sent */
	struct tcp_frozen client; /* while the kernel carries it */
	uint64_t sent_before;	/* exchange->bytes_up then */
	uint32_t seen_ack;
	uint64_t begun_us;
};

/**
 * handoff_begin() - the pod's connection is there, nothing was sent on it, and the whole request is at hand.
 * Return: 0: handed over, all that remains is to send the request (state HANDOFF); -EAGAIN: on a fresh connection it
 * would work; -ECONNRESET: the pod has just closed this one; -EPIPE: the client cannot be helped; -ENOTSUP: to be relayed.
 */
int handoff_begin(struct exchange *exchange);

/** handoff_plan() - the same for a request of which only a part is at hand: it is sent, and handoff_complete() follows. */
void handoff_plan(struct exchange *exchange);

/** handoff_complete() - the request's last bytes are in client->in, kept and unsent. Return: as handoff_begin(), but for -EAGAIN. */
int handoff_complete(struct exchange *exchange);

/** handoff_sent() - the pod's socket has taken all. */
void handoff_sent(struct exchange *exchange);

/** handoff_acked() - the pod has acknowledged all: the exchange and its client are gone afterwards, or as after handoff_failed(). */
void handoff_acked(struct exchange *exchange);

/** handoff_leave() - the kernel needs nobody any more, or the connection has ended already: the exchange and its client go. */
void handoff_leave(struct exchange *exchange);

/** handoff_failed() - the pod's connection broke, or is silent: takes the connections back, tries elsewhere. */
void handoff_failed(struct exchange *exchange, int err);
void handoff_pod_gone(struct exchange *exchange);

/** handoff_abort() - takes the entries out and resets the client, which has no socket here any more. */
void handoff_abort(struct exchange *exchange);
void handoff_timeout(struct exchange *exchange);

#endif
