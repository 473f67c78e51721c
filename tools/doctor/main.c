// SPDX-License-Identifier: Apache-2.0
/* llmd-doctor: looks at a node as the agent will find it. See doctor.h; the checks are in the other files. */
#include "tools/doctor/doctor.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "include/llmd/abi.h"

enum { EXIT_USAGE = 2, TEXT_MAX = 512 };

static const char *const level_names[FINDING_N] = { "ok", "note", "warn", "bad" };
static const struct option_range timeout_range = { 10, 60000 };

#define FIELD(name) offsetof(struct doctor_config, name)
/* clang-format off */
static const struct option_row rows[] = {
	{ .help = "Options, the agent's among them with its own names: in its container they come from the same environment" },
	{ "pin-dir", "DIR", LLMD_PIN_DIR, "a directory", "Where the agent pins its maps.", option_parse_string, FIELD(pin_dir) },
	{ "endpoint", "ADDR:PORT", NULL, "ADDR:PORT", "A pod that must be reached. Without any: those in the pinned maps.",
	  option_parse_list, FIELD(endpoints), .repeat = true },
	{ "port-range", "LOW-HIGH", "15000-29999", "two ports", "The agent's ports towards pods.", option_parse_string, FIELD(port_range) },
	{ "affinity-ports", "LOW-HIGH", "10000-14999", "two ports", "Its ports of straight connections.", option_parse_string, FIELD(affinity_ports) },
	{ "redis", "URL", "", "redis://HOST:PORT", "The Redis of the agents, if there is one.", option_parse_string, FIELD(redis) },
	{ "admin", "ADDR:PORT", "127.0.0.1:9470", "an IP address and port", "The agent's admin port.", option_parse_address, FIELD(admin) },
	{ "timeout", "DURATION", "2s", "a duration from 10ms to 1m", "For each connection.", option_parse_duration, FIELD(timeout_ms), &timeout_range },
	{ "json", NULL, NULL, "given without a value", "An array of objects: level, check, found, why, cure.", option_parse_flag, FIELD(json), .letter = 'j' },
};
/* clang-format on */

static const struct program program = {
	.name = "llmd-doctor",
	.section = "8",
	.summary = "tells whether a node has what llmd-agent needs",
	.usage = "[OPTION ...]",
	.description = "llmd-doctor checks kernel features, rights, mounts, devices, sysctls, other programs on the devices, and whether "
		       "the agent, the pods, Redis and the API server can be reached. It changes nothing. What is not well comes with why it "
		       "matters and the cure. In a container it sees what the agent in the same container sees.",
	.sections = ".SH EXIT STATUS\n0 when nothing is bad (there may be warnings), 1 when something is, 2 for options that are not valid.\n"
		    ".SH SEE ALSO\nllmd\\-agent(8), llmd\\-maps(8)\n",
	.rows = rows,
	.n_rows = sizeof(rows) / sizeof(rows[0]),
};

static void add(struct json_object *object, const char *key, const char *text)
{
	json_object_object_add(object, key, text ? json_object_new_string(text) : NULL);
}

void doctor_tell(struct doctor *doctor, enum finding_level level, const char *check, const char *why, const char *cure, const char *found, ...)
{
	struct json_object *object = json_object_new_object();
	char text[TEXT_MAX];
	va_list args;

	va_start(args, found);
	vsnprintf(text, sizeof(text), found, args);
	va_end(args);
	doctor->count[level]++;
	if (!doctor->config.json) {
		printf("%-4s  %-14s  %s\n", level_names[level], check, text);
		if (why)
			printf("      why:  %s\n", why);
		if (cure)
			printf("      cure: %s\n", cure);
	}
	add(object, "level", level_names[level]);
	add(object, "check", check);
	add(object, "found", text);
	add(object, "why", why);
	add(object, "cure", cure);
	json_object_array_add(doctor->findings, object);
}

int main(int argc, char **argv)
{
	static void (*const checks[])(struct doctor *) = { check_kernel, check_capabilities, check_mounts, check_devices, check_sysctls,
		check_others, check_agent, check_pods, check_redis, check_api_server };
	static struct doctor doctor;

	if (options_parse(&program, argc, argv, &doctor.config, NULL))
		return EXIT_USAGE;
	doctor.findings = json_object_new_array();
	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
		checks[i](&doctor);
	if (doctor.config.json)
		puts(json_object_to_json_string_ext(doctor.findings, JSON_C_TO_STRING_PLAIN));
	else
		printf("\n%u ok, %u notes, %u warnings, %u bad\n", doctor.count[FINDING_OK], doctor.count[FINDING_NOTE], doctor.count[FINDING_WARN],
			doctor.count[FINDING_BAD]);
	json_object_put(doctor.findings);
	return doctor.count[FINDING_BAD] ? EXIT_FAILURE : EXIT_SUCCESS;
}
