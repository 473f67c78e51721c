// SPDX-License-Identifier: Apache-2.0
/* See sockets.h. */
#include "tests/bpf/sockets.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/address.h"
#include "tests/bpf/fixture.h"

/* Both ends' addresses are the node's own there. */
static const char set_up[] = "ip link set lo up && ip addr add 8.0.1.1/24 dev lo && ip addr add 8.0.1.2/24 dev lo && "
			     "ip addr add 2001:db8:86dd:1::1/64 dev lo nodad && ip addr add 2001:db8:86dd:1::2/64 dev lo nodad";

static int listening[2] = { -1, -1 };
static int connected = -1, accepted = -1;

static int bound(const char *text)
{
	struct sockaddr_storage own;
	struct address address;
	const int on = 1;
	socklen_t len;
	int fd;

	if (address_parse(&address, text))
		return -EINVAL;
	len = address_to_sockaddr(&address, &own);
	fd = socket(own.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	return bind(fd, (struct sockaddr *)&own, len) ? -errno : fd;
}

int sockets_open(void)
{
	static const char *const fronts[] = { FRONT, FRONT6 };

	if (unshare(CLONE_NEWNET))
		return -errno;
	if (system(set_up))
		return -EIO;
	for (size_t i = 0; i < 2; i++) {
		listening[i] = bound(fronts[i]);
		if (listening[i] < 0 || listen(listening[i], 1))
			return listening[i] < 0 ? listening[i] : -errno;
	}
	return 0;
}

static void give_back(int *fd)
{
	const struct linger at_once = { .l_onoff = 1, .l_linger = 0 };

	if (*fd < 0)
		return;
	setsockopt(*fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(*fd);
	*fd = -1;
}

void sockets_close(void)
{
	sockets_disconnect();
	give_back(&listening[0]);
	give_back(&listening[1]);
}

void sockets_connect(const char *from, const char *to)
{
	struct sockaddr_storage front;
	struct address address;
	socklen_t len;

	connected = bound(from);
	if (connected >= 0 && !address_parse(&address, to)) {
		len = address_to_sockaddr(&address, &front);
		if (!connect(connected, (struct sockaddr *)&front, len))
			accepted = accept(listening[front.ss_family == AF_INET6], NULL, NULL);
	}
	if (accepted >= 0)
		return;
	fprintf(stderr, "%s to %s: %s\n", from, to, strerror(errno));
	abort();
}

void sockets_disconnect(void)
{
	give_back(&connected);
	give_back(&accepted);
}
