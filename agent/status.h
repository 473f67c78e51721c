/* SPDX-License-Identifier: Apache-2.0 */
/* Reason phrases of the status codes that the agent itself answers with (RFC 9110 section 15). */
#ifndef LLMD_AGENT_STATUS_H
#define LLMD_AGENT_STATUS_H

const char *status_reason(unsigned status);

#endif
