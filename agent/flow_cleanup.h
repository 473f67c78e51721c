/* SPDX-License-Identifier: Apache-2.0 */
/* Connections that end with all that llmd has on the node. */
#ifndef LLMD_AGENT_FLOW_CLEANUP_H
#define LLMD_AGENT_FLOW_CLEANUP_H

/** flow_cleanup() - resets both sides of each connection that the maps in @pin_dir know. After the programs are detached, so that none is new. */
void flow_cleanup(const char *pin_dir);

#endif
