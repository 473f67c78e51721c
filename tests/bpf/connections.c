// SPDX-License-Identifier: Apache-2.0
/* The connections of the fixtures. */
#include "tests/bpf/fixture.h"

#define ACKED	{ .flags = SLOT_ACKED, .pod_ack = REQUEST_END_POD, .pod_start = ANSWER_POD, .pod_next = ANSWER_POD, \
		  .client_next = REQUEST_END_POD, .agent_end = REQUEST_END_POD }
#define SENDING { .pod_ack = REQUEST_END_POD - 500, .pod_start = ANSWER_POD, .pod_next = ANSWER_POD, \
		  .client_next = REQUEST_END_POD, .agent_end = REQUEST_END_POD }
#define CONNECTION(version, slot_) \
	{ .client = CLIENT##version, .front = FRONT##version, .node = NODE##version, .pod = POD##version, .e = E, .d = D, \
	  .client_isn = 1000, .request_end = REQUEST_END, .up_in = 7, .up_out = 7, .down_in = 7, .down_out = 7, .sack = true, \
	  .slot = slot_ }

const struct connection conn4 = CONNECTION(, ACKED);
const struct connection conn6 = CONNECTION(6, ACKED);
const struct connection fresh4 = CONNECTION(, SENDING);
const struct connection fresh6 = CONNECTION(6, SENDING);
