/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics of pods: state, load, what their engines tell and what was learnt of them. */
#ifndef LLMD_AGENT_METRICS_ENDPOINT_H
#define LLMD_AGENT_METRICS_ENDPOINT_H

#include <stdio.h>

struct scrape;

void metrics_endpoint_print(struct scrape *scrape);
void metrics_endpoint_print_markdown(FILE *out);

#endif
