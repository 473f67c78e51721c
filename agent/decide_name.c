// SPDX-License-Identifier: Apache-2.0
/* Names of policies and of the reasons of decisions, for logs, labels and the command line. */
#include "agent/decide.h"

#include <assert.h>

static const char *const reason_names[] = { "session", "session_saturated", "session_lost", "prefix", "prefix_saturated",
	"score", "load", "round_robin", "none" };
static_assert(sizeof(reason_names) / sizeof(reason_names[0]) == DECISION_REASON_N, "a name for each reason");

const char *decision_reason_name(enum decision_reason reason)
{
	return reason_names[reason];
}

const char *policy_name(enum policy policy)
{
	switch (policy) {
	case POLICY_PREFIX_CACHE_AWARE:
		return "prefix-cache-aware";
	case POLICY_SESSION:
		return "session";
	case POLICY_LEAST_LOAD:
		return "least-load";
	case POLICY_ROUND_ROBIN:
		return "round-robin";
	}
	return "unknown";
}
