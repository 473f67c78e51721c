/* SPDX-License-Identifier: Apache-2.0 */
/* Finds out whether pods that could not be reached are back. */
#ifndef LLMD_AGENT_PROBER_H
#define LLMD_AGENT_PROBER_H

#include <stdint.h>

struct agent;
struct prober;

/** prober_new() - dials every endpoint that is STARTING at once, DOWN ones again with growing, jittered pauses. */
struct prober *prober_new(struct agent *agent);
void prober_free(struct prober *prober);

/** prober_suspect() - something the agent took no part in did not reach it: dials it now, whatever its state. */
void prober_suspect(struct prober *prober, uint32_t index);

/** prober_endpoint_failed() - connecting failed: marks the endpoint down and looks after it. @err: negative errno. */
void prober_endpoint_failed(struct prober *prober, uint32_t index, int err);

#endif
