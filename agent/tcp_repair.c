// SPDX-License-Identifier: Apache-2.0
/* See tcp_repair.h. */
#include "agent/tcp_repair.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/address.h"

/* IANA, "TCP Option Kind Numbers". */
enum { OPTION_MSS = 2, OPTION_SCALE = 3, OPTION_SACK = 4 };
enum { STATE_ESTABLISHED = 1, STATE_CLOSE_WAIT = 8, READ_TRIES = 8, HEADERS_IPV4 = 40, HEADERS_IPV6 = 60 };

static int set_int(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) ? -errno : 0;
}

static int get_u32(int fd, int name, uint32_t *out)
{
	socklen_t len = sizeof(*out);

	return getsockopt(fd, IPPROTO_TCP, name, out, &len) ? -errno : 0;
}

static int get_info(int fd, struct tcp_info *out)
{
	socklen_t len = sizeof(*out);

	memset(out, 0, sizeof(*out));
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, out, &len) ? -errno : 0;
}

static int queue_seq(int fd, int queue, uint32_t *out)
{
	int err = set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue);

	return err ? err : get_u32(fd, TCP_QUEUE_SEQ, out);
}

/*
 * rcv_nxt counts data and FIN; the FIN is not read as data. Taken again if something arrived meanwhile.
 */
static int read_receive_side(int fd, struct tcp_numbers *out, struct tcp_info *info)
{
	int err = set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);

	for (int i = 0; !err && i < READ_TRIES; i++) {
		uint32_t before, after;
		int unread;

		err = get_u32(fd, TCP_QUEUE_SEQ, &before);
		err = err ? err : get_info(fd, info);
		if (!err && ioctl(fd, SIOCINQ, &unread))
			err = -errno;
		err = err ? err : get_u32(fd, TCP_QUEUE_SEQ, &after);
		if (err || before != after)
			continue;
		out->has_fin = info->tcpi_state == STATE_CLOSE_WAIT;
		out->read_seq = before - out->has_fin - (uint32_t)unread;
		out->first_seq = before - (uint32_t)info->tcpi_bytes_received;
		return 0;
	}
	return err ? err : -EBUSY;
}

/* In repair mode TCP_MAXSEG is what the peer has announced. */
static int read_mss(int fd, bool ipv6, const struct tcp_info *info, struct tcp_numbers *out)
{
	uint32_t way = info->tcpi_pmtu - (ipv6 ? HEADERS_IPV6 : HEADERS_IPV4);
	int err = get_u32(fd, TCP_MAXSEG, &out->peer_mss);

	if (out->peer_mss > way)
		out->peer_mss = way;
	out->own_mss = info->tcpi_advmss;
	return err;
}

static int read_all(int fd, bool ipv6, struct tcp_numbers *out)
{
	struct tcp_info info;
	int err = read_receive_side(fd, out, &info);

	if (err)
		return err;
	if (info.tcpi_state != STATE_ESTABLISHED && info.tcpi_state != STATE_CLOSE_WAIT)
		return -ENOTCONN;
	out->peer_scale = info.tcpi_snd_wscale;
	out->own_scale = info.tcpi_rcv_wscale;
	out->sack = info.tcpi_options & TCPI_OPT_SACK;
	out->timestamps = info.tcpi_options & TCPI_OPT_TIMESTAMPS;
	err = read_mss(fd, ipv6, &info, out);
	return err ? err : queue_seq(fd, TCP_SEND_QUEUE, &out->write_seq);
}

/*
 * Without a window probe, which plain "off" would send. The kernel takes SO_REUSEADDR away with it (do_tcp_setsockopt()): should
 * this process end, what remains of the socket would keep the next one from listening.
 */
static int leave_repair(int fd)
{
	int err = set_int(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);

	return err ? err : set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
}

int tcp_numbers_read(int fd, bool ipv6, struct tcp_numbers *out)
{
	int unacked, err;

	memset(out, 0, sizeof(*out));
	if (ioctl(fd, SIOCOUTQ, &unacked))
		return -errno;
	if (unacked)
		return -EBUSY;
	err = set_int(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
	if (err)
		return err;
	err = read_all(fd, ipv6, out);
	leave_repair(fd);
	return err;
}

void tcp_close_silently(int fd)
{
	set_int(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
	close(fd);
}

static socklen_t key_sockaddr(const uint32_t ip[4], uint16_t port_be, struct sockaddr_storage *out)
{
	struct address address = { .port_be = port_be };

	memcpy(address.ip, ip, sizeof(address.ip));
	return address_to_sockaddr(&address, out);
}

/* The own address may be one that is translated on its way and no device here has. */
static int bind_any(int fd, const struct flow_key *arriving)
{
	struct sockaddr_storage own;
	socklen_t len = key_sockaddr(arriving->daddr, arriving->dport, &own);
	int err = own.ss_family == AF_INET ? set_int(fd, IPPROTO_IP, IP_TRANSPARENT, 1) : set_int(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1);

	return err ? err : bind(fd, (struct sockaddr *)&own, len) ? -errno : 0;
}

void tcp_freeze(int fd, struct tcp_frozen *frozen)
{
	socklen_t len = sizeof(frozen->window);

	set_int(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
	getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &frozen->window, &len);
	close(fd);
}

static int set_queue_seq(int fd, int queue, uint32_t seq)
{
	int err = set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue);

	if (!err && setsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &seq, sizeof(seq)))
		err = -errno;
	return err;
}

/* In repair mode connecting sends nothing: the socket is established at once. */
static int impersonate(int fd, const struct flow_key *arriving, uint32_t seq, uint32_t ack)
{
	struct sockaddr_storage peer;
	socklen_t len = key_sockaddr(arriving->saddr, arriving->sport, &peer);
	int err = set_int(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);

	err = err ? err : bind_any(fd, arriving);
	err = err ? err : set_queue_seq(fd, TCP_SEND_QUEUE, seq);
	err = err ? err : set_queue_seq(fd, TCP_RECV_QUEUE, ack);
	if (!err && connect(fd, (struct sockaddr *)&peer, len))
		err = -errno;
	return err ? err : leave_repair(fd);
}

/* What the SYNs agreed on; the kernel takes it in repair mode, once the connection is established. */
static int set_options(int fd, const struct tcp_numbers *numbers)
{
	const struct tcp_repair_opt options[] = {
		{ OPTION_MSS, numbers->peer_mss },
		{ OPTION_SCALE, (uint32_t)numbers->peer_scale | (uint32_t)numbers->own_scale << 16 },
		{ OPTION_SACK, 0 },
	};
	socklen_t len = sizeof(options) - (numbers->sack ? 0 : sizeof(options[0]));

	return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options, len) ? -errno : 0;
}

static int thaw_on(int fd, const struct tcp_frozen *frozen)
{
	struct sockaddr_storage peer;
	socklen_t len = key_sockaddr(frozen->arriving.saddr, frozen->arriving.sport, &peer);
	int err = set_int(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);

	err = err ? err : bind_any(fd, &frozen->arriving);
	err = err ? err : set_queue_seq(fd, TCP_SEND_QUEUE, frozen->numbers.write_seq);
	err = err ? err : set_queue_seq(fd, TCP_RECV_QUEUE, frozen->numbers.read_seq);
	if (!err && connect(fd, (struct sockaddr *)&peer, len))
		err = -errno;
	err = err ? err : set_options(fd, &frozen->numbers);
	if (!err && setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &frozen->window, sizeof(frozen->window)))
		err = -errno;
	return err ? err : leave_repair(fd);
}

int tcp_thaw(const struct tcp_frozen *frozen)
{
	struct sockaddr_storage own;
	int err, fd;

	key_sockaddr(frozen->arriving.daddr, frozen->arriving.dport, &own);
	fd = socket(own.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	err = thaw_on(fd, frozen);
	if (!err)
		return fd;
	tcp_close_silently(fd);
	return err;
}

int tcp_reset_peer(const struct flow_key *arriving, uint32_t seq, uint32_t ack)
{
	const struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
	struct sockaddr_storage own;
	int err, fd;

	key_sockaddr(arriving->daddr, arriving->dport, &own);
	fd = socket(own.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	err = impersonate(fd, arriving, seq, ack);
	if (!err)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(fd);
	return err;
}

bool tcp_repair_available(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok = fd >= 0 && !set_int(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);

	if (fd >= 0)
		close(fd);
	return ok;
}
