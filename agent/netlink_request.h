/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to rtnetlink, and the strict reading of what comes back: a message is at least as long as the header that is
 * read from it, an attribute has exactly the length of its type.
 *
 * The kernel answers while the request is being sent, so waiting for the reply takes no time; the receive timeout is
 * there only against a kernel that breaks this.
 */
#ifndef LLMD_AGENT_NETLINK_REQUEST_H
#define LLMD_AGENT_NETLINK_REQUEST_H

#include <libmnl/libmnl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NETLINK_BUFFER_BYTES = 32768 }; /* the largest part of a dump that the kernel makes */

/** struct netlink_requests - @buffer: the request, then the parts of the reply. Free for other use in between. */
struct netlink_requests {
	struct mnl_socket *socket;
	uint32_t seq;
	char buffer[NETLINK_BUFFER_BYTES] __attribute__((aligned(8)));
};

/** netlink_requests_open() - Return: 0 or -errno; to be closed in both cases. */
int netlink_requests_open(struct netlink_requests *requests);
void netlink_requests_close(struct netlink_requests *requests);

/* netlink_reply_fn - takes one message of a reply; it must not begin another request. Return: 0 or -errno. */
typedef int netlink_reply_fn(const struct nlmsghdr *nlh, void *ctx);

/** netlink_request_begin() - a message in the buffer. @flags: NLM_F_DUMP or 0. */
struct nlmsghdr *netlink_request_begin(struct netlink_requests *requests, uint16_t type, uint16_t flags);

/** netlink_request_send() - sends it and reads the whole reply. Return: 0, the first error, or -EINTR: a dump that is torn. */
int netlink_request_send(struct netlink_requests *requests, const struct nlmsghdr *nlh, netlink_reply_fn *reply, void *ctx);

/** netlink_message_holds() - whether the message is long enough for a header of @size. */
bool netlink_message_holds(const struct nlmsghdr *nlh, size_t size);

/** netlink_attributes() - @table by type; an attribute past @max is newer than this code. */
void netlink_attributes(const struct nlattr **table, uint16_t max, const struct nlmsghdr *nlh, size_t header);

/** netlink_attribute_u32(), netlink_attribute_ip() - Return: whether @attr is there (not NULL) and well-formed. */
bool netlink_attribute_u32(const struct nlattr *attr, uint32_t *out);
bool netlink_attribute_ip(const struct nlattr *attr, int family, uint8_t ip[16]);

#endif
