/* SPDX-License-Identifier: Apache-2.0 */
/* A client's connection: reads request heads, hands each request to an exchange, answers what is refused. */
#ifndef LLMD_AGENT_CLIENT_H
#define LLMD_AGENT_CLIENT_H

#include <stdbool.h>
#include <sys/queue.h>

#include "agent/http_head.h"
#include "agent/peer.h"
#include "lib/address.h"

struct agent;
struct exchange;

enum client_state {
	CLIENT_IDLE,   /* between requests */
	CLIENT_HEAD,   /* a head has begun */
	CLIENT_ACTIVE, /* an exchange is running */
	CLIENT_LINGER, /* the last answer is out; what still comes is thrown away until the client closes */
	CLIENT_CLOSED,
	CLIENT_STATE_N
};

/**
 * struct client - @in: what was read and not yet passed on; in CLIENT_ACTIVE it begins with what the exchange keeps of
 * the body, followed by the bytes of the next requests. @eof: the client has said that it sends no more.
 * @served: it has had a request. @received: bytes read into @in, ever.
 * @tracked: the kernel tracks connections, as seen when client_front() was last asked.
 */
struct client {
	struct peer peer;
	struct event timer;
	struct client *next, **link;
	struct agent *agent;
	struct exchange *exchange;
	struct buffer in;
	uint64_t received;
	struct http_head_scan scan;
	struct address address;
	char ip[ADDRESS_TEXT_MAX]; /* of @address, textual */
	enum client_state state;
	bool eof, served, tracked;
};

/** client_accept() - takes over the accepted, non-blocking @fd. Return: 0 or -ENOMEM (then it is closed). */
int client_accept(struct agent *agent, int fd, const struct address *address);

/** client_close() - @reset: tell the client that what it got is not all. Ends a running exchange, too. */
void client_close(struct client *client, bool reset);

/** client_adopt() - @fd is the client's connection from now on, after peer_release() of an earlier one. */
void client_adopt(struct client *client, int fd);

/** client_front() - the address that the client has connected to, from its point of view. Return: 0 or -errno. */
int client_front(struct client *client, struct address *out);

/** client_next() - the exchange is over and the connection goes on: the next request, if it is there already. */
void client_next(struct client *client);

/** client_linger() - sends FIN and throws away what comes, so that an RST does not overtake the answer. */
void client_linger(struct client *client);

/**
 * client_refuse() - answers with an OpenAI-style error and ends the connection.
 * @extra: field lines, or "". @type, @message: of the error object. @to_head: the request was HEAD, which gets no body.
 */
void client_refuse(struct client *client, unsigned status, const char *type, const char *message, const char *extra,
	bool to_head);

/** client_arm() - (re)starts the connection's one timer; NULL stops it. */
void client_arm(struct client *client, const struct timeval *timeout);

/** client_await_gone() - after its FIN, with the whole request here: notices when nobody is left to get the answer. */
void client_await_gone(struct client *client);

/** client_in_max() - the bound of client->in. */
size_t client_in_max(const struct client *client);

/** clients_close_idle() - at the begin of a drain. */
void clients_close_idle(struct agent *agent);

#endif
