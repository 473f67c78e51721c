/* SPDX-License-Identifier: Apache-2.0 */
/* Which pods are fit: what checks and requests tell becomes states of endpoints. The rules: health.c. */
#ifndef LLMD_AGENT_HEALTH_H
#define LLMD_AGENT_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

struct agent;
struct health;

enum health_event { HEALTH_CHECK_OK, HEALTH_CHECK_FAILED, HEALTH_REQUEST_FAILED, HEALTH_EJECTED, HEALTH_SPARED, HEALTH_EVENT_N };

struct health *health_new(struct agent *agent);
void health_free(struct health *health);

/** health_check_ok() - the pod has answered a check, or has accepted a connection where that is all that is asked. */
void health_check_ok(struct health *health, uint32_t index);

/** health_check_failed() - @why: a few words. */
void health_check_failed(struct health *health, uint32_t index, const char *why);

/** health_cannot_connect() - no connection to it came about. @err: negative errno. */
void health_cannot_connect(struct health *health, uint32_t index, int err);

/** health_request_failed() - it took a request and broke off, or answered with a server's error. @why: a few words. */
void health_request_failed(struct health *health, uint32_t index, const char *why);

/** health_answered() - a request was answered. @status: 5xx but 501 and 505 is a failure. */
void health_answered(struct health *health, uint32_t index, unsigned status);

/** health_counts() - HEALTH_EVENT_N of them, ever, over all pods. */
const uint64_t *health_counts(const struct health *health);

#endif
