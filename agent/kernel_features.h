/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel and this process's rights offer for the kernel data path. */
#ifndef LLMD_AGENT_KERNEL_FEATURES_H
#define LLMD_AGENT_KERNEL_FEATURES_H

#include <stdbool.h>

struct config;

/** kernel_features_each() - probes anew; @visit gets each feature, in the order in which a missing one explains those behind it. */
void kernel_features_each(void (*visit)(void *ctx, const char *name, const char *needs, bool there, bool needed), void *ctx);

/** kernel_features_check() - probes once and logs a table. Return: 0, or -EPERM / -EOPNOTSUPP when something needed is missing. */
int kernel_features_check(const struct config *config);

#endif
