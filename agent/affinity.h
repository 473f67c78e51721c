/* SPDX-License-Identifier: Apache-2.0 */
/* --affinity client-ip: what the programs need to send a client's later connections straight to its pod. */
#ifndef LLMD_AGENT_AFFINITY_H
#define LLMD_AGENT_AFFINITY_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/address.h"

struct agent;

/**
 * affinity_note() - @client, which had connected to @front, has been served by @endpoint: from now on its address belongs
 * there. Does nothing when off.
 */
void affinity_note(const struct agent *agent, const struct address *client, const struct address *front, uint32_t endpoint);

/** affinity_is_on() - whether there is anything to note. */
bool affinity_is_on(const struct agent *agent);

#endif
