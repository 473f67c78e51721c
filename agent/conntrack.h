/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connection tracking sees the beginning of a connection that is handed over, and never its end: what it keeps would stay
 * for days (nf_conntrack_tcp_timeout_established). So the agent removes it.
 */
#ifndef LLMD_AGENT_CONNTRACK_H
#define LLMD_AGENT_CONNTRACK_H

#include <stdbool.h>

#include "llmd/abi.h"

struct conntrack;

/** conntrack_new() - Return: 0 or -errno; without ctnetlink in the kernel -EPROTONOSUPPORT. */
int conntrack_new(struct conntrack **out);
void conntrack_free(struct conntrack *conntrack);

/**
 * conntrack_is_active() - whether the kernel tracks anything in this network namespace, looked up once a second at most
 * (/proc/sys/net/netfilter/nf_conntrack_count). While it does not, conntrack_forget() costs nothing.
 */
bool conntrack_is_active(struct conntrack *conntrack);

/** conntrack_forget() - removes the entry of a TCP connection whose first packets went from @key's source to its
 * destination. Not waited for; that there was none is no error. */
void conntrack_forget(struct conntrack *conntrack, const struct flow_key *key);

/** conntrack_errors() - removals that failed for another reason than that there was nothing. */
unsigned long conntrack_errors(const struct conntrack *conntrack);

#endif
