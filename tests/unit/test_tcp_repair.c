// SPDX-License-Identifier: Apache-2.0
/* What repair mode leaves of a socket. */
#include "tests/unit/netns.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "agent/tcp_repair.h"

enum { SERVED = 8080 };

static int listen_on_served(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(SERVED), .sin_addr.s_addr = htonl(INADDR_ANY) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	const int on = 1;

	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

/* A connection that was asked for its numbers and whose client stays is not in the way of the next agent. */
static void its_address_can_be_listened_on(void **state)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(SERVED), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener, client, served;
	struct tcp_numbers numbers;

	ROOT_OR_SKIP(state);
	run("ip link set dev lo up");
	listener = listen_on_served();
	client = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&address, sizeof(address)), 0);
	served = accept(listener, NULL, NULL);
	assert_true(served >= 0);
	assert_int_equal(tcp_numbers_read(served, false, &numbers), 0);
	close(listener);
	close(served); /* its end waits for the client's */
	close(listen_on_served());
	close(client);
}

int main(void)
{
	const struct CMUnitTest tests[] = { netns_test(its_address_can_be_listened_on) };

	return cmocka_run_group_tests_name("tcp_repair", tests, NULL, NULL);
}
