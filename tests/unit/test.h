/* SPDX-License-Identifier: Apache-2.0 */
/* What every unit test includes, in the order that cmocka wants. */
#ifndef LLMD_TESTS_UNIT_TEST_H
#define LLMD_TESTS_UNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* For tests whose setup leaves *state NULL without the rights that it needs. */
#define ROOT_OR_SKIP(state) \
	do { \
		if (!*(state)) { \
			print_message("needs root\n"); \
			skip(); \
		} \
	} while (0)

#endif
