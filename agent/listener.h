/* SPDX-License-Identifier: Apache-2.0 */
/* The listening sockets: accept, stop at the bound of connections, go on, close for a drain. */
#ifndef LLMD_AGENT_LISTENER_H
#define LLMD_AGENT_LISTENER_H

struct address;
struct agent;
struct config;
struct listeners;

/** listeners_new() - listens on all of --listen. Return: 0, or -errno after a log line that names the address. */
int listeners_new(struct agent *agent, struct listeners **out);

/** listener_set_options() - of a listening socket, for all that it accepts, or of one that stands for an accepted one. */
void listener_set_options(int fd, const struct config *config);

/** listener_open() - a socket that listens at @address. @config: of the options of what it accepts; NULL: the system's. Return: descriptor or -errno. */
int listener_open(const struct address *address, int backlog, const struct config *config);

/** listeners_hold() - new SYNs are dropped, to come again; connections that are being opened still come. */
void listeners_hold(struct listeners *listeners);

/** listeners_close() - accepts what waits in the queue, then no more. */
void listeners_close(struct listeners *listeners);
void listeners_free(struct listeners *listeners);

/** listeners_resume() - after a client has gone: there is room again. */
void listeners_resume(struct listeners *listeners);

#endif
