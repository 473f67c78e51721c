/* SPDX-License-Identifier: Apache-2.0 */
/* Real sockets of the node, for programs that look for them: in a network namespace of the test's own. */
#ifndef LLMD_TESTS_BPF_SOCKETS_H
#define LLMD_TESTS_BPF_SOCKETS_H

/** sockets_open() - enters the namespace and listens on the fronts there. Return: 0 or -errno. */
int sockets_open(void);
void sockets_close(void);

/** sockets_connect() - a connection of the node's: @from, @to: as in struct wire. Until sockets_disconnect(), which leaves no trace. */
void sockets_connect(const char *from, const char *to);
void sockets_disconnect(void);

#endif
