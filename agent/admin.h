/* SPDX-License-Identifier: Apache-2.0 */
/* The admin port: metrics, health, and what the agent knows (libevent's HTTP server on the agent's own loop). */
#ifndef LLMD_AGENT_ADMIN_H
#define LLMD_AGENT_ADMIN_H

#include "agent/agent.h"

struct admin;

/** admin_new() - Return: 0, or -errno; @out is NULL then. */
int admin_new(struct agent *agent, struct admin **out);
void admin_free(struct admin *admin);

#endif
