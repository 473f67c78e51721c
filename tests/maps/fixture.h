/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pinned maps with known contents, in a BPF file system that only the test and its children see, and llmd-maps run on them.
 * The maps come from the skeleton that the agent loads, so that what the tool expects and what the programs have is compared, too.
 */
#ifndef LLMD_TESTS_MAPS_FIXTURE_H
#define LLMD_TESTS_MAPS_FIXTURE_H

#include <bpf/bpf.h>
#include <json-c/json.h>

#include "build/bpf/llmd.skel.h"
#include "include/llmd/abi.h"
#include "tests/unit/test.h"

enum { FLOW_ENTRIES = 64, SLOT_ENTRIES = 32, SESSION_ENTRIES = 16384 };

/** struct fixture - @root: a directory of ours; @dir: the pin directory below it; @program: how to run llmd-maps. */
struct fixture {
	char root[64], dir[128], program[512];
	struct llmd_bpf *maps;
};

/** struct output - what a run left; @status: its exit code. */
struct output {
	int status;
	char *out, *err;
};

/** fixture_new() - mounts, makes, pins and fills. Ends the test if it cannot. */
struct fixture *fixture_new(void);
void fixture_free(struct fixture *fixture);
/** fixture_run_tests() - in a mount namespace of their own; if there may be none, they are skipped. Return: for main(). */
int fixture_run_tests(const char *name, const struct CMUnitTest *tests, size_t n);

/** fixture_fill() - the contents that the tests know; see fixture.c. */
void fixture_fill(struct fixture *fixture);

/** fixture_as_nobody() - from now on llmd-maps runs as a user who owns nothing here. */
void fixture_as_nobody(struct fixture *fixture);

/** run_maps() - `llmd-maps ARGUMENTS --pin-dir DIR` through a shell. The caller owns the result. */
struct output run_maps(const struct fixture *fixture, const char *arguments);
void output_free(struct output *output);

/** run_json() - the same with -j; it must succeed and print one JSON document, which the caller owns. */
struct json_object *run_json(const struct fixture *fixture, const char *arguments);

/* Members by name, that have to be there. */
struct json_object *member(struct json_object *object, const char *name);
const char *member_text(struct json_object *object, const char *name);
/** row_where() - the object of an array whose member @name has the text @value; fails if there is none. Borrowed. */
struct json_object *row_where(struct json_object *array, const char *name, const char *value);

#endif
