// SPDX-License-Identifier: Apache-2.0
/* The agent's clock. */
#include <time.h>

#include "agent/agent.h"

uint64_t agent_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t agent_now_ms(void)
{
	return agent_now_us() / 1000;
}
