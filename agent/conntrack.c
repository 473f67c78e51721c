// SPDX-License-Identifier: Apache-2.0
/*
 * Removes entries of the kernel's connection tracking: see conntrack.h.
 *
 * The kernel carries a removal out while it is being sent, and answers only what failed, which mostly is that there was
 * no entry. Those answers are read now and then, without waiting. Entries are looked for in the default zone, where
 * everything is that no rule has put elsewhere. A removal always names a connection: without one, it would flush all.
 */
#include "agent/conntrack.h"

#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define COUNT_PATH "/proc/sys/net/netfilter/nf_conntrack_count"

enum {
	BUFFER_BYTES = 8192,
	UNREAD_MAX = 64, /* removals between two looks at the answers: these fit the socket's queue */
	ACTIVE_MS = 1000,
};

struct conntrack {
	struct mnl_socket *socket;
	int count_fd; /* -1: not open */
	uint64_t active_until_ms;
	unsigned long errors;
	unsigned unread;
	char buffer[BUFFER_BYTES] __attribute__((aligned(8)));
};

static struct nlmsghdr *message_begin(struct conntrack *conntrack, uint8_t what, uint8_t family)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(conntrack->buffer);
	struct nfgenmsg *message;

	nlh->nlmsg_type = (uint16_t)(NFNL_SUBSYS_CTNETLINK << 8 | what);
	nlh->nlmsg_flags = NLM_F_REQUEST;
	message = mnl_nlmsg_put_extra_header(nlh, sizeof(*message));
	message->nfgen_family = family;
	message->version = NFNETLINK_V0;
	return nlh;
}

static bool key_is_ipv4(const struct flow_key *key)
{
	return IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)key->saddr);
}

static void put_tuple(struct nlmsghdr *nlh, const struct flow_key *key)
{
	struct nlattr *tuple = mnl_attr_nest_start(nlh, CTA_TUPLE_ORIG), *nest = mnl_attr_nest_start(nlh, CTA_TUPLE_IP);

	if (key_is_ipv4(key)) {
		mnl_attr_put(nlh, CTA_IP_V4_SRC, 4, &key->saddr[3]);
		mnl_attr_put(nlh, CTA_IP_V4_DST, 4, &key->daddr[3]);
	} else {
		mnl_attr_put(nlh, CTA_IP_V6_SRC, 16, key->saddr);
		mnl_attr_put(nlh, CTA_IP_V6_DST, 16, key->daddr);
	}
	mnl_attr_nest_end(nlh, nest);
	nest = mnl_attr_nest_start(nlh, CTA_TUPLE_PROTO);
	mnl_attr_put_u8(nlh, CTA_PROTO_NUM, IPPROTO_TCP);
	mnl_attr_put_u16(nlh, CTA_PROTO_SRC_PORT, key->sport);
	mnl_attr_put_u16(nlh, CTA_PROTO_DST_PORT, key->dport);
	mnl_attr_nest_end(nlh, nest);
	mnl_attr_nest_end(nlh, tuple);
}

/* The error that a message tells, 0 if it tells none. */
static int error_of(const struct nlmsghdr *nlh)
{
	int err;

	if (nlh->nlmsg_type != NLMSG_ERROR)
		return 0;
	if (mnl_nlmsg_get_payload_len(nlh) < sizeof(err))
		return -EPROTO;
	memcpy(&err, mnl_nlmsg_get_payload(nlh), sizeof(err));
	return err;
}

/* Return: bytes received into the buffer, or -errno. */
static ssize_t receive(struct conntrack *conntrack)
{
	ssize_t len;

	do
		len = mnl_socket_recvfrom(conntrack->socket, conntrack->buffer, sizeof(conntrack->buffer));
	while (len < 0 && errno == EINTR);
	return len < 0 ? -errno : len;
}

static void answers_read(struct conntrack *conntrack)
{
	/* a removal has one answer at most; one more tells that there are no more */
	for (unsigned i = 0; i <= UNREAD_MAX; i++) {
		const struct nlmsghdr *nlh = (const struct nlmsghdr *)conntrack->buffer;
		ssize_t received = receive(conntrack);
		int len = (int)received;

		if (received == -EAGAIN)
			break;
		if (received < 0)
			conntrack->errors++;
		for (; len > 0 && mnl_nlmsg_ok(nlh, len); nlh = mnl_nlmsg_next(nlh, &len))
			if (error_of(nlh) && error_of(nlh) != -ENOENT)
				conntrack->errors++;
	}
	conntrack->unread = 0;
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Return: whether there are entries. The file is there only while the kernel's module is; if it cannot be read, maybe. */
static bool has_entries(struct conntrack *conntrack)
{
	char digit = '0';

	if (conntrack->count_fd < 0)
		conntrack->count_fd = open(COUNT_PATH, O_RDONLY | O_CLOEXEC);
	if (conntrack->count_fd < 0)
		return errno != ENOENT;
	if (pread(conntrack->count_fd, &digit, 1, 0) == 1)
		return digit != '0';
	close(conntrack->count_fd);
	conntrack->count_fd = -1;
	return true;
}

bool conntrack_is_active(struct conntrack *conntrack)
{
	uint64_t now = now_ms();

	if (now < conntrack->active_until_ms)
		return true;
	if (!has_entries(conntrack))
		return false;
	conntrack->active_until_ms = now + ACTIVE_MS;
	return true;
}

void conntrack_forget(struct conntrack *conntrack, const struct flow_key *key)
{
	struct nlmsghdr *nlh;

	if (!conntrack_is_active(conntrack))
		return;
	if (conntrack->unread >= UNREAD_MAX)
		answers_read(conntrack);
	nlh = message_begin(conntrack, IPCTNL_MSG_CT_DELETE, key_is_ipv4(key) ? AF_INET : AF_INET6);
	put_tuple(nlh, key);
	if (mnl_socket_sendto(conntrack->socket, nlh, nlh->nlmsg_len) < 0)
		conntrack->errors++;
	else
		conntrack->unread++;
}

unsigned long conntrack_errors(struct conntrack *conntrack)
{
	answers_read(conntrack);
	return conntrack->errors;
}

/* Asks for something harmless: whether ctnetlink is there, and whether the agent may use it. */
static int probe(struct conntrack *conntrack)
{
	struct nlmsghdr *nlh = message_begin(conntrack, IPCTNL_MSG_CT_GET_STATS, AF_UNSPEC);
	ssize_t len;
	int err;

	if (mnl_socket_sendto(conntrack->socket, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	len = receive(conntrack);
	if (len < 0)
		return (int)len;
	nlh = (struct nlmsghdr *)conntrack->buffer;
	err = mnl_nlmsg_ok(nlh, (int)len) ? error_of(nlh) : -EPROTO;
	return err == -EINVAL || err == -EOPNOTSUPP ? -EPROTONOSUPPORT : err; /* nobody is there for the subsystem */
}

int conntrack_new(struct conntrack **out)
{
	struct conntrack *conntrack = calloc(1, sizeof(*conntrack));
	int err = 0;

	if (!conntrack)
		return -ENOMEM;
	conntrack->count_fd = -1;
	conntrack->socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (!conntrack->socket || mnl_socket_bind(conntrack->socket, 0, MNL_SOCKET_AUTOPID) < 0)
		err = -errno;
	if (!err)
		err = probe(conntrack);
	if (err) {
		conntrack_free(conntrack);
		return err;
	}
	*out = conntrack;
	return 0;
}

void conntrack_free(struct conntrack *conntrack)
{
	if (!conntrack)
		return;
	if (conntrack->socket)
		mnl_socket_close(conntrack->socket);
	if (conntrack->count_fd >= 0)
		close(conntrack->count_fd);
	free(conntrack);
}
