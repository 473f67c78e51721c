// SPDX-License-Identifier: Apache-2.0
/* One end of a relayed connection: see peer.h. */
#include "agent/peer.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int pipe_drain(struct peer *peer)
{
	while (peer->pipe && peer->pipe->used) {
		ssize_t n = splice(peer->pipe->fd[0], NULL, peer->fd, NULL, peer->pipe->used,
			SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		peer->pipe->used -= (size_t)n;
	}
	if (peer->pipe) {
		pipe_pool_give(peer->pipes, peer->pipe);
		peer->pipe = NULL;
	}
	return 0;
}

static int out_drain(struct peer *peer)
{
	while (peer->out.len) {
		ssize_t n = send(peer->fd, buffer_head(&peer->out), peer->out.len, MSG_NOSIGNAL);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		buffer_consume(&peer->out, (size_t)n);
	}
	buffer_free(&peer->out);
	return pipe_drain(peer);
}

static void watch_writable(struct peer *peer, bool on)
{
	if (on == peer->writing)
		return;
	peer->writing = on;
	if (on)
		event_add(&peer->write_event, NULL);
	else
		event_del(&peer->write_event);
}

static void write_cb(evutil_socket_t fd, short what, void *arg)
{
	struct peer *peer = arg;
	int err = out_drain(peer);

	(void)fd, (void)what;
	if (err) {
		peer->on_broken(peer, err);
		return;
	}
	if (peer_is_blocked(peer))
		return;
	watch_writable(peer, false);
	peer->on_writable(peer);
}

static void read_cb(evutil_socket_t fd, short what, void *arg)
{
	struct peer *peer = arg;

	(void)fd, (void)what;
	peer->on_readable(peer);
}

void peer_open(struct peer *peer, struct event_base *base, struct pipe_pool *pipes, int fd)
{
	peer->fd = fd;
	peer->pipes = pipes;
	event_assign(&peer->read_event, base, fd, EV_READ | EV_PERSIST, read_cb, peer);
	event_assign(&peer->write_event, base, fd, EV_WRITE | EV_PERSIST, write_cb, peer);
}

void peer_drop_output(struct peer *peer)
{
	watch_writable(peer, false);
	buffer_free(&peer->out);
	if (peer->pipe)
		pipe_pool_give(peer->pipes, peer->pipe);
	peer->pipe = NULL;
}

int peer_release(struct peer *peer)
{
	int fd = peer->fd;

	peer_watch_readable(peer, false);
	peer_drop_output(peer);
	peer->fd = -1;
	return fd;
}

void peer_close(struct peer *peer, bool reset)
{
	const struct linger linger = { .l_onoff = reset, .l_linger = 0 };
	int fd = peer_release(peer);

	if (fd < 0)
		return;
	if (reset != peer->resets_by_default)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(fd);
}

int peer_own_address(struct peer *peer, struct address *out)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	int err = 0;

	if (!peer->own_known)
		err = getsockname(peer->fd, (struct sockaddr *)&sa, &len) ? -errno : address_from_sockaddr(&peer->own, (struct sockaddr *)&sa);
	peer->own_known = !err;
	*out = peer->own;
	return err;
}

void peer_watch_readable(struct peer *peer, bool on)
{
	if (on == peer->reading)
		return;
	peer->reading = on;
	if (on)
		event_add(&peer->read_event, NULL);
	else
		event_del(&peer->read_event);
}

void peer_await_writable(struct peer *peer)
{
	watch_writable(peer, true);
}

bool peer_is_blocked(const struct peer *peer)
{
	return peer->out.len || (peer->pipe && peer->pipe->used);
}

static int hold_back(struct peer *peer, const struct iovec *iov, int n, size_t sent)
{
	for (int i = 0; i < n; i++) {
		size_t skip = sent < iov[i].iov_len ? sent : iov[i].iov_len;
		int err = buffer_append(&peer->out, (const char *)iov[i].iov_base + skip, iov[i].iov_len - skip,
			PEER_OUT_MAX);

		if (err)
			return err;
		sent -= skip;
	}
	if (peer_is_blocked(peer))
		watch_writable(peer, true);
	return 0;
}

int peer_send(struct peer *peer, const struct iovec *iov, int n)
{
	struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n };
	ssize_t sent = 0;

	/* Behind bytes in the pipe nothing may be queued in @out, which goes first. */
	assert(!peer->pipe || !peer->pipe->used);
	peer->has_sent = true;
	if (!peer->out.len)
		sent = sendmsg(peer->fd, &msg, MSG_NOSIGNAL);
	if (sent < 0 && errno != EAGAIN && errno != EINTR)
		return -errno;
	return hold_back(peer, iov, n, sent < 0 ? 0 : (size_t)sent);
}

ssize_t peer_send_some(struct peer *peer, const struct iovec *iov, int n)
{
	struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n };
	size_t total = 0;
	ssize_t sent = 0;

	for (int i = 0; i < n; i++)
		total += iov[i].iov_len;
	peer->has_sent = true;
	if (!peer_is_blocked(peer))
		sent = sendmsg(peer->fd, &msg, MSG_NOSIGNAL);
	if (sent < 0 && errno != EAGAIN && errno != EINTR)
		return -errno;
	if (sent < 0)
		sent = 0;
	if ((size_t)sent < total)
		watch_writable(peer, true);
	return sent;
}

int peer_splice(struct peer *from, struct peer *to, uint64_t max, uint64_t *moved)
{
	ssize_t n;
	int err;

	*moved = 0;
	if (!to->pipe)
		to->pipe = pipe_pool_take(to->pipes);
	if (!to->pipe)
		return -ENOSR;
	assert(!to->pipe->used);
	to->has_sent = true;
	n = splice(from->fd, NULL, to->pipe->fd[1], NULL, max < to->pipe->size ? (size_t)max : to->pipe->size,
		SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	err = n < 0 ? -errno : 0;
	if (n > 0)
		to->pipe->used = (size_t)n;
	*moved = n > 0 ? (uint64_t)n : 0;
	if (err != -EAGAIN && err)
		return err;
	if (out_drain(to))
		return -EPIPE;
	watch_writable(to, peer_is_blocked(to));
	return err;
}
