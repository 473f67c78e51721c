/* SPDX-License-Identifier: Apache-2.0 */
/* Asks the pods: whether they are well (health.h judges), and what their engines tell (engine.h). */
#ifndef LLMD_AGENT_PROBER_H
#define LLMD_AGENT_PROBER_H

#include <stdint.h>

struct agent;
struct prober;

/** prober_new() - from the next turn of the loop on. */
struct prober *prober_new(struct agent *agent);
void prober_free(struct prober *prober);

/** prober_suspect() - something the agent took no part in did not reach it: asks it now, whatever its state. */
void prober_suspect(struct prober *prober, uint32_t index);

#endif
