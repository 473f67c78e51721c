/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many tries elsewhere are allowed: a share of all requests, so that an outage is not made worse by its retries. A
 * bucket: each request puts the share in, and so does time, for an agent with little to do; each try takes one out.
 */
#ifndef LLMD_AGENT_RETRY_BUDGET_H
#define LLMD_AGENT_RETRY_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

/** struct retry_budget - @share: what each request puts in. */
struct retry_budget {
	double share, tries;
	uint64_t filled_ms;
};

void retry_budget_init(struct retry_budget *budget, double share);

/** retry_budget_request() - a request begins. */
void retry_budget_request(struct retry_budget *budget);

/** retry_budget_take() - Return: whether one more try is allowed; it is then taken. */
bool retry_budget_take(struct retry_budget *budget, uint64_t now_ms);

#endif
