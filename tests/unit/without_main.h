/* SPDX-License-Identifier: Apache-2.0 */
/* For tests that link with objects which call the agent's main file: nothing of this is called by them. */
#ifndef LLMD_TESTS_UNIT_WITHOUT_MAIN_H
#define LLMD_TESTS_UNIT_WITHOUT_MAIN_H

#include "agent/agent.h"

/* What main.c has. */
void agent_client_gone(struct agent *agent)
{
	(void)agent;
}

struct prompt_scanner *agent_take_scanner(struct agent *agent)
{
	(void)agent;
	return NULL;
}

void agent_give_scanner(struct agent *agent, struct prompt_scanner *scanner)
{
	(void)agent, (void)scanner;
}

#endif
