/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP server for the node's operators and scrapers, with a bound on its connections. */
#ifndef LLMD_AGENT_ADMIN_SERVER_H
#define LLMD_AGENT_ADMIN_SERVER_H

#include <event2/event.h>
#include <event2/http.h>

#include "lib/address.h"

struct admin_server;

/** admin_server_new() - listens; @handler answers each request at once, @arg is its own. Return: 0 or -errno, which is logged. */
int admin_server_new(struct event_base *base, const struct address *address, void (*handler)(struct evhttp_request *, void *),
	void *arg, struct admin_server **out);

void admin_server_free(struct admin_server *server);

#endif
