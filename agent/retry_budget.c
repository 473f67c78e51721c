// SPDX-License-Identifier: Apache-2.0
/* How many tries elsewhere are allowed: see retry_budget.h. */
#include "agent/retry_budget.h"

/* MOST: what a quiet time can save up; FILL_MS: one more in that time. */
enum { FIRST = 10, MOST = 100, FILL_MS = 2000 };

void retry_budget_init(struct retry_budget *budget, double share)
{
	*budget = (struct retry_budget){ .share = share, .tries = share > 0 ? FIRST : 0 };
}

static void put(struct retry_budget *budget, double tries)
{
	budget->tries += tries;
	if (budget->tries > MOST)
		budget->tries = MOST;
}

void retry_budget_request(struct retry_budget *budget)
{
	put(budget, budget->share);
}

/* Time fills up to FIRST only: it shall not let an hour of quiet pay for a storm. */
bool retry_budget_take(struct retry_budget *budget, uint64_t now_ms)
{
	double by_time = (double)(now_ms - budget->filled_ms) / FILL_MS;

	if (budget->share > 0 && budget->filled_ms && budget->tries < FIRST)
		put(budget, by_time < FIRST - budget->tries ? by_time : FIRST - budget->tries);
	budget->filled_ms = now_ms;
	if (budget->tries < 1)
		return false;
	budget->tries--;
	return true;
}
