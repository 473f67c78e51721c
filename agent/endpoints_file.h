/* SPDX-License-Identifier: Apache-2.0 */
/* --endpoints-file, for who only wants to know whether it is right. The source itself: discovery_sources.h. */
#ifndef LLMD_AGENT_ENDPOINTS_FILE_H
#define LLMD_AGENT_ENDPOINTS_FILE_H

#include <stdio.h>

#include "agent/endpoints_yaml.h"

/** endpoints_file_check() - Return: 0, or -EINVAL after a line on standard error that names file, line and column. */
int endpoints_file_check(const char *path);

#endif
