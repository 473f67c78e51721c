/* SPDX-License-Identifier: Apache-2.0 */
/* Waits for an earlier agent to leave: --standby. */
#ifndef LLMD_AGENT_STANDBY_H
#define LLMD_AGENT_STANDBY_H

#include "agent/config.h"

/**
 * standby_wait() - returns once no other agent has the admin address or the pin directory of @config.
 * Return: 0, or -EINTR when SIGTERM or SIGINT came before.
 */
int standby_wait(const struct config *config);

#endif
