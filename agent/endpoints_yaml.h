/* SPDX-License-Identifier: Apache-2.0 */
/* The text of --endpoints-file: YAML, and so JSON. */
#ifndef LLMD_AGENT_ENDPOINTS_YAML_H
#define LLMD_AGENT_ENDPOINTS_YAML_H

#include <stddef.h>
#include <stdint.h>

#include "agent/discovery.h"

/** struct endpoints_yaml_error - why a text was refused; line and column count from 1. */
struct endpoints_yaml_error {
	unsigned line, column;
	char what[192];
};

/**
 * endpoints_yaml_parse() - a sequence of endpoints, by itself or under the key "endpoints" of a mapping. An endpoint is a
 * mapping (address, model, role, engine, blocks, drain) or a text like that of --endpoint.
 * @out: to be freed by the caller; in the order of the text. Return: 0, or -EINVAL with @error filled, or -ENOMEM.
 */
int endpoints_yaml_parse(const char *text, size_t len, struct discovered **out, uint32_t *n, struct endpoints_yaml_error *error);

#endif
