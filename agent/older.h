/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an agent of another schema has left in a directory beside --pin-dir: its programs go on serving its connections, and
 * are removed once these have ended.
 */
#ifndef LLMD_AGENT_OLDER_H
#define LLMD_AGENT_OLDER_H

struct agent;
struct older;

/** older_new() - looks now, takes the ports that are still in use there out of the pool, and looks again every 5 s. */
int older_new(struct agent *agent, struct older **out);
void older_free(struct older *older);

#endif
