// SPDX-License-Identifier: Apache-2.0
/* How fast a pod computes prompts: see pace.h. */
#include "agent/pace.h"

/*
 * PERIOD_MIN: tokens of a period that counts. PERIOD_MAX: then one that does not end is taken for what it is. KNOWN: tokens
 * before anything is said. WINDOW: tokens that are looked back on, half a minute of a busy GPU. Faster than FASTEST_US a
 * token nothing is told apart: no GPU is, and then network and processor are what is measured.
 */
enum { PERIOD_MIN = 256, PERIOD_MAX = 65536, KNOWN = 4096, WINDOW = 512 * 1024, FASTEST_US = 4 };

void pace_begin(struct pace *pace, uint64_t now_us)
{
	pace->since_us = now_us;
	pace->computed = 0;
}

static void add_period(struct pace *pace, double us)
{
	double keep;

	pace->tokens += (double)pace->computed;
	pace->us += us;
	if (pace->tokens <= WINDOW)
		return;
	keep = WINDOW / pace->tokens;
	pace->tokens *= keep;
	pace->us *= keep;
}

bool pace_computed(struct pace *pace, uint32_t tokens, uint64_t now_us, bool is_last)
{
	bool counts;

	pace->computed += tokens;
	if (!is_last && pace->computed < PERIOD_MAX)
		return false;
	counts = pace->since_us && pace->computed >= PERIOD_MIN;
	if (counts)
		add_period(pace, (double)(now_us - pace->since_us));
	pace_begin(pace, is_last ? 0 : now_us);
	return counts;
}

void pace_disturbed(struct pace *pace, uint64_t now_us)
{
	pace_begin(pace, now_us);
}

float pace_token_us(const struct pace *pace)
{
	double token_us;

	if (pace->tokens < KNOWN)
		return 0;
	token_us = pace->us / pace->tokens;
	return (float)(token_us > FASTEST_US ? token_us : FASTEST_US);
}

void pace_sum_change(struct pace_sum *sum, float before, float now)
{
	if (before > 0) {
		sum->rates -= 1 / before;
		sum->n--;
	}
	if (now > 0) {
		sum->rates += 1 / now;
		sum->n++;
	}
	if (!sum->n)
		sum->rates = 0;
}
