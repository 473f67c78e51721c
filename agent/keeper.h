/* SPDX-License-Identifier: Apache-2.0 */
/* Waits for the time to remove what agents have left: --cleanup-on-term. */
#ifndef LLMD_AGENT_KEEPER_H
#define LLMD_AGENT_KEEPER_H

#include <stdint.h>

/**
 * keeper_wait() - returns once SIGTERM or SIGINT came and then no agent has held @pin_dir for @quiet_ms.
 * Return: 0, or -EBUSY when an agent holds it all the time: it is needed.
 */
int keeper_wait(const char *pin_dir, uint64_t quiet_ms);

#endif
