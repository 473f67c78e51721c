/* SPDX-License-Identifier: Apache-2.0 */
/* The program that watches the agent's own sockets: RTT, retransmissions and connects by endpoint. Goes with the agent. */
#ifndef LLMD_AGENT_SOCKOPS_H
#define LLMD_AGENT_SOCKOPS_H

#include <stddef.h>

struct llmd_bpf;
struct sockops;

/** sockops_attach() - to the cgroup (version 2, or the unified one of a hybrid layout) of this process. Return: 0 or -errno. */
int sockops_attach(struct llmd_bpf *bpf, struct sockops **out);
void sockops_free(struct sockops *sockops);

/** sockops_cgroup_path() - where that cgroup is mounted. Return: 0, -ENOENT without version 2, or another -errno. */
int sockops_cgroup_path(char *out, size_t size);

#endif
