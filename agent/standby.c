// SPDX-License-Identifier: Apache-2.0
/*
 * See standby.h. An agent that is started before the earlier one ends is ready to follow it within milliseconds: the time that a
 * container takes to start is over then, and clients whose SYNs are held meanwhile do not notice it. The admin address alone tells of
 * an agent that relays; with the kernel data path the pin directory is let go after it.
 */
#include "agent/standby.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "agent/datapath.h"
#include "agent/pins.h"
#include "lib/log.h"

enum { LOOK_MS = 20 };

static bool is_taken(const struct address *address)
{
	struct sockaddr_storage sa;
	socklen_t len = address_to_sockaddr(address, &sa);
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const int on = 1;
	bool taken;

	if (fd < 0)
		return false;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	taken = bind(fd, (struct sockaddr *)&sa, len) && errno == EADDRINUSE;
	close(fd);
	return taken;
}

/* What is taken, or NULL. */
static const char *obstacle(const struct config *config)
{
	if (is_taken(&config->admin))
		return "the admin address";
	return config->datapath != DATAPATH_RELAY && pins_held(config->pin_dir) ? "the pin directory" : NULL;
}

int standby_wait(const struct config *config)
{
	const struct timespec look = { .tv_nsec = LOOK_MS * 1000000 };
	const char *taken = obstacle(config);
	int signal = -1;
	sigset_t set;

	if (!taken)
		return 0;
	log_info("standing by", "taken=\"%s\"", taken);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	/* Both are blocked until the agent handles them. */
	while (obstacle(config) && (signal = sigtimedwait(&set, NULL, &look)) < 0)
		;
	return signal < 0 ? 0 : -EINTR;
}
