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

/** conntrack_new() - for the caller's network namespace. Return: 0, -EPROTONOSUPPORT without ctnetlink, or another -errno. */
int conntrack_new(struct conntrack **out);
void conntrack_free(struct conntrack *conntrack);

/**
 * conntrack_is_active() - whether the kernel has entries in this network namespace (nf_conntrack_count). True is good for
 * a second; false is looked up each time (a read of about 1 us), or the first connection after a pause would be missed.
 */
bool conntrack_is_active(struct conntrack *conntrack);

/** conntrack_forget() - removes the entry of a TCP connection whose first packets went from @key's source to its
 * destination: before any translation, as the key of what arrives is. Not waited for; that there was none is no error.
 * Does nothing while nothing is tracked. */
void conntrack_forget(struct conntrack *conntrack, const struct flow_key *key);

/** conntrack_errors() - removals that failed for another reason than that there was nothing, up to now. */
unsigned long conntrack_errors(struct conntrack *conntrack);

#endif
