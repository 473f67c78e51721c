/* SPDX-License-Identifier: Apache-2.0 */
/* --affinity client-ip: what the programs need to send a client's later connections straight to its pod. */
#ifndef LLMD_AGENT_AFFINITY_H
#define LLMD_AGENT_AFFINITY_H

#include <stdint.h>

struct client;

/** affinity_note() - @client has been served by @endpoint: from now on its address belongs there. Does nothing when off. */
void affinity_note(const struct client *client, uint32_t endpoint);

#endif
