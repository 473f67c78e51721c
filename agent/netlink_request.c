// SPDX-License-Identifier: Apache-2.0
/* Asks the kernel over rtnetlink: see netlink_request.h. */
#include "agent/netlink_request.h"

#include <errno.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

void netlink_attributes(const struct nlattr **table, uint16_t max, const struct nlmsghdr *nlh, size_t header)
{
	const struct nlattr *attr;

	mnl_attr_for_each(attr, nlh, (unsigned)header)
	{
		if (mnl_attr_get_type(attr) <= max)
			table[mnl_attr_get_type(attr)] = attr;
	}
}

bool netlink_attribute_u32(const struct nlattr *attr, uint32_t *out)
{
	if (!attr || mnl_attr_validate(attr, MNL_TYPE_U32) < 0)
		return false;
	*out = mnl_attr_get_u32(attr);
	return true;
}

bool netlink_attribute_ip(const struct nlattr *attr, int family, uint8_t ip[16])
{
	size_t len = family == AF_INET ? 4 : 16;

	if (!attr || mnl_attr_validate2(attr, MNL_TYPE_BINARY, len) < 0)
		return false;
	memset(ip, 0, 16);
	if (family == AF_INET)
		ip[10] = ip[11] = 0xff;
	memcpy(ip + 16 - len, mnl_attr_get_payload(attr), len);
	return true;
}

bool netlink_message_holds(const struct nlmsghdr *nlh, size_t size)
{
	return mnl_nlmsg_get_payload_len(nlh) >= size;
}

/* The error in the payload of NLMSG_ERROR, which must have one, and of NLMSG_DONE, which may. */
static int error_of(const struct nlmsghdr *nlh)
{
	int err;

	if (!netlink_message_holds(nlh, sizeof(err)))
		return nlh->nlmsg_type == NLMSG_DONE ? 0 : -EPROTO;
	memcpy(&err, mnl_nlmsg_get_payload(nlh), sizeof(err));
	return err;
}

/* Return: whether the reply is complete. */
static bool reply_read(struct netlink_requests *requests, int len, netlink_reply_fn *reply, void *ctx, int *err)
{
	const struct nlmsghdr *nlh = (const struct nlmsghdr *)requests->buffer;

	for (; mnl_nlmsg_ok(nlh, len); nlh = mnl_nlmsg_next(nlh, &len)) {
		bool is_end = nlh->nlmsg_type == NLMSG_ERROR || nlh->nlmsg_type == NLMSG_DONE;
		int one;

		if (nlh->nlmsg_seq != requests->seq || nlh->nlmsg_type == NLMSG_NOOP)
			continue; /* another sequence number: left by a request that failed on the way */
		one = is_end ? error_of(nlh) : reply(nlh, ctx);
		if (!*err)
			*err = one;
		if (!*err && (nlh->nlmsg_flags & NLM_F_DUMP_INTR))
			*err = -EINTR;
		if (is_end || !(nlh->nlmsg_flags & NLM_F_MULTI))
			return true;
	}
	return false;
}

struct nlmsghdr *netlink_request_begin(struct netlink_requests *requests, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(requests->buffer);

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | flags;
	nlh->nlmsg_seq = ++requests->seq;
	return nlh;
}

int netlink_request_send(struct netlink_requests *requests, const struct nlmsghdr *nlh, netlink_reply_fn *reply, void *ctx)
{
	bool complete = false;
	int err = 0;

	if (mnl_socket_sendto(requests->socket, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	while (!complete) {
		ssize_t len = mnl_socket_recvfrom(requests->socket, requests->buffer, sizeof(requests->buffer));

		if (len < 0 && errno == EINTR)
			continue;
		if (len < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		complete = reply_read(requests, (int)len, reply, ctx, &err);
	}
	return err;
}

int netlink_requests_open(struct netlink_requests *requests)
{
	const struct timeval timeout = { .tv_sec = 1 };

	requests->socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (!requests->socket || mnl_socket_bind(requests->socket, 0, MNL_SOCKET_AUTOPID) < 0)
		return -errno;
	if (setsockopt(mnl_socket_get_fd(requests->socket), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)))
		return -errno;
	return 0;
}

void netlink_requests_close(struct netlink_requests *requests)
{
	if (requests->socket)
		mnl_socket_close(requests->socket);
	requests->socket = NULL;
}
