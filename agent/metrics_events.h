/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics of what agents share through Redis. */
#ifndef LLMD_AGENT_METRICS_EVENTS_H
#define LLMD_AGENT_METRICS_EVENTS_H

#include <stdio.h>

struct scrape;

void metrics_events_print(struct scrape *scrape);
void metrics_events_print_markdown(FILE *out);

#endif
