/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TCP socket's numbers, read and set with TCP_REPAIR (CAP_NET_ADMIN; made for checkpoint and restore, Linux 3.5).
 * Sequence numbers count modulo 2^32.
 */
#ifndef LLMD_AGENT_TCP_REPAIR_H
#define LLMD_AGENT_TCP_REPAIR_H

#include <stdbool.h>
#include <stdint.h>

#include "llmd/abi.h"

/**
 * struct tcp_numbers - @write_seq: of the next byte to be written. @read_seq: of the next byte that the application has
 * not read. @first_seq: of the first byte that the peer ever sent. @peer_mss: what the peer and the way to it take;
 * @own_mss: what the peer was told. @peer_scale, @own_scale: window scale that each side announced.
 */
struct tcp_numbers {
	uint32_t write_seq, read_seq, first_seq;
	uint32_t peer_mss, own_mss;
	uint8_t peer_scale, own_scale;
	bool sack, timestamps, has_fin;
};

/**
 * tcp_numbers_read() - of an established connection of which nothing is unsent or unacknowledged: while the send queue
 * is selected in repair mode, an ACK that arrives would mark unsent bytes as sent.
 * @ipv6: what it runs on. Return: 0; -EBUSY: something is unacknowledged; -ENOTCONN; another -errno.
 */
int tcp_numbers_read(int fd, bool ipv6, struct tcp_numbers *out);

/** tcp_close_silently() - no packet tells the peer. */
void tcp_close_silently(int fd);

/**
 * struct tcp_frozen - a connection without a socket. @arriving: key of the peer's packets as a socket here sees them.
 * @numbers: as read before; @numbers.read_seq is where reading goes on.
 */
struct tcp_frozen {
	struct flow_key arriving;
	struct tcp_numbers numbers;
	struct {
		uint32_t snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup;
	} window;
};

/** tcp_freeze() - closes the socket silently; @frozen has key and numbers already. */
void tcp_freeze(int fd, struct tcp_frozen *frozen);

/** tcp_thaw() - Return: a non-blocking socket that goes on where tcp_freeze() ended, or -errno. */
int tcp_thaw(const struct tcp_frozen *frozen);

/**
 * tcp_reset_peer() - sends an RST in the name of a connection that has no socket here.
 * @arriving: key of the peer's packets. @seq: what the peer expects next; @ack: what it has sent.
 * Return: 0 or -errno.
 */
int tcp_reset_peer(const struct flow_key *arriving, uint32_t seq, uint32_t ack);

/** tcp_repair_available() - whether this process may. */
bool tcp_repair_available(void);

#endif
