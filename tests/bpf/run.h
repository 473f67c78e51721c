/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fixture, as a cmocka test. */
#ifndef LLMD_TESTS_BPF_RUN_H
#define LLMD_TESTS_BPF_RUN_H

#include "tests/bpf/fixture.h"

/** fixture_run() - in every framing that it is for; fails the test with what differs. */
void fixture_run(const struct fixture *fixture);

/** fixture_has_met() - whether some fixture so far expected @why. */
bool fixture_has_met(enum reason why);

#endif
