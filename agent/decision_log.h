/* SPDX-License-Identifier: Apache-2.0 */
/* The last decisions with their candidates, for GET /v1/decisions. */
#ifndef LLMD_AGENT_DECISION_LOG_H
#define LLMD_AGENT_DECISION_LOG_H

#include <json-c/json.h>
#include <stdint.h>

#include "agent/decide.h"
#include "agent/prompt.h"

enum { DECISION_LOG_DEFAULT = 1024 };

struct decision_log;

/** struct decision_record - what is known when the decision is made. Texts are copied. */
struct decision_record {
	const char *request_id;
	enum api api;
	const char *model;
	const char *session_source; /* of static life: "X-Session-ID", "cookie", "none" */
	uint64_t session;	    /* its hash; the key itself is never kept */
	const struct decision *decision;
};

/** struct decision_ref - names an entry; once that is overwritten, what is said of it is ignored. Zeroed: nothing. */
struct decision_ref {
	uint64_t number;
};

struct decision_log *decision_log_new(const struct endpoint_table *endpoints, uint32_t size);
void decision_log_free(struct decision_log *log);

struct decision_ref decision_log_add(struct decision_log *log, const struct decision_record *record);
void decision_log_first_byte(struct decision_log *log, struct decision_ref ref, double ttft_s);
void decision_log_end(struct decision_log *log, struct decision_ref ref, unsigned status, unsigned retries, double duration_s);

/** decision_log_json() - the last @n, newest first; the caller puts the array. NULL without memory. */
struct json_object *decision_log_json(const struct decision_log *log, uint32_t n);

#endif
