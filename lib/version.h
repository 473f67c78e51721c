/* SPDX-License-Identifier: Apache-2.0 */
/* The version that --version, /metrics and the manual show. */
#ifndef LLMD_LIB_VERSION_H
#define LLMD_LIB_VERSION_H

#define LLMD_VERSION "0.1.0"

#endif
