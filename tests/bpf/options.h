/* SPDX-License-Identifier: Apache-2.0 */
/* Fixtures that are made, not written down: every kind of option at every offset. Each a cmocka test. */
#ifndef LLMD_TESTS_BPF_OPTIONS_H
#define LLMD_TESTS_BPF_OPTIONS_H

void options_of_syn_everywhere(void **state);
void options_of_synack_everywhere(void **state);
void options_sack_everywhere(void **state);
void options_sack_blanked_everywhere(void **state);

#endif
