/* SPDX-License-Identifier: Apache-2.0 */
/* What llmd-doctor's checks share: the settings, and how a finding is told. */
#ifndef LLMD_TOOLS_DOCTOR_H
#define LLMD_TOOLS_DOCTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/address.h"
#include "lib/option.h"

struct json_object;

/** struct doctor_config - what is not the agent's own option has no LLMD_ variable of the agent's either. */
struct doctor_config {
	const char *pin_dir, *redis, *port_range, *affinity_ports;
	struct string_list endpoints; /* as --endpoint of the agent takes them: what is behind a comma does not matter here */
	struct address admin;
	uint64_t timeout_ms;
	bool json;
};

/* FINDING_BAD: llmd does not do its work so. FINDING_WARN: it does, but less, or something will go wrong some time. */
enum finding_level { FINDING_OK, FINDING_NOTE, FINDING_WARN, FINDING_BAD, FINDING_N };

struct doctor {
	struct doctor_config config;
	struct json_object *findings;
	unsigned count[FINDING_N];
	bool kernel_lacks; /* what follows would fail for the same reason */
};

/** doctor_tell() - @why and @cure: NULL for what is well. */
void doctor_tell(struct doctor *doctor, enum finding_level level, const char *check, const char *why, const char *cure,
	const char *found, ...) __attribute__((format(printf, 6, 7)));

/* Each tells at least one finding. */
void check_kernel(struct doctor *doctor);
void check_capabilities(struct doctor *doctor);
void check_mounts(struct doctor *doctor);
void check_devices(struct doctor *doctor);
void check_sysctls(struct doctor *doctor);
void check_others(struct doctor *doctor);
void check_agent(struct doctor *doctor);
void check_pods(struct doctor *doctor);
void check_redis(struct doctor *doctor);
void check_api_server(struct doctor *doctor);

#endif
