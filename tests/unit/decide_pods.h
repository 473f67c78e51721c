/* SPDX-License-Identifier: Apache-2.0 */
/* Pods and a decider for a test of the decision, as cmocka's setup and teardown. */
#ifndef LLMD_TESTS_UNIT_DECIDE_PODS_H
#define LLMD_TESTS_UNIT_DECIDE_PODS_H

#include "tests/unit/test.h"

#include "agent/decide.h"
#include "lib/log.h"

enum { PODS = 4, PROMPT = 10 };

static struct endpoint_table *pods;
static struct decider *decider;

/* @options: of each endpoint, behind its address. */
static inline int decide_pods_new(const struct decide_config *config, const char *options)
{
	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
	pods = calloc(1, sizeof(*pods));
	for (int i = 0; i < PODS; i++) {
		struct endpoint_config endpoint;
		char text[64];

		snprintf(text, sizeof(text), "10.0.0.%d:80,%s", i + 1, options);
		assert_int_equal(endpoint_config_parse(&endpoint, text), 0);
		assert_int_equal(endpoint_add(pods, &endpoint), i);
	}
	decider = decider_new(config, pods);
	return decider ? 0 : -1;
}

static inline int teardown(void **state)
{
	(void)state;
	decider_free(decider);
	free(pods);
	return 0;
}

/* A prompt of PROMPT blocks that begins with @shared blocks of family @family and goes on with its own. */
static inline void blocks_of(uint64_t family, uint32_t shared, uint64_t own, uint64_t *out)
{
	for (uint32_t i = 0; i < PROMPT; i++)
		out[i] = (i < shared ? family * 1000 + i : own * 1000 + 500 + i) * 0x9e3779b97f4a7c15ull;
}

#endif
