/* SPDX-License-Identifier: Apache-2.0 */
/* What a program says on standard output has been written when it ends well. */
#ifndef LLMD_LIB_OUTPUT_H
#define LLMD_LIB_OUTPUT_H

/**
 * output_check_at_exit() - from now on the program, @name, ends with status 1 and a line on standard error when not all of its output
 * could be written (a full disk), whatever status it was about to end with. options_parse() calls it, hence each program.
 */
void output_check_at_exit(const char *name);

#endif
