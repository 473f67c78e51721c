/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a request can be handed over, and with which numbers: the part of the hand-off that changes nothing. */
#ifndef LLMD_AGENT_HANDOFF_PREPARE_H
#define LLMD_AGENT_HANDOFF_PREPARE_H

#include "agent/flow_table.h"
#include "agent/handoff.h"
#include "agent/tcp_repair.h"
#include "lib/address.h"

struct exchange;

/** handoff_is_wanted() - by --handoff, and by what the request is. Return: HANDOFF_HANDED, or why not. */
enum handoff_result handoff_is_wanted(const struct exchange *exchange);

/**
 * handoff_prepare() - before anything was sent to the pod: both connections' keys and numbers.
 * @spec: keys and what the programs saw. @client: the client's numbers; the pod's are in exchange->handoff.
 * Return: HANDOFF_HANDED, or why not.
 */
enum handoff_result handoff_prepare(struct exchange *exchange, struct flow_spec *spec, struct tcp_numbers *client);

/** handoff_prepare_rest() - again, at the end of a body that was sent on the way: the client's numbers have changed. */
enum handoff_result handoff_prepare_rest(struct exchange *exchange, struct flow_spec *spec, struct tcp_numbers *client);

/** handoff_fill_spec() - @request: bytes of it, as the pod gets them. */
void handoff_fill_spec(const struct exchange *exchange, const struct tcp_numbers *client, uint32_t request, struct flow_spec *spec);

void handoff_key_make(struct flow_key *key, const struct address *from, const struct address *to);

#endif
