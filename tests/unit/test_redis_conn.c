// SPDX-License-Identifier: Apache-2.0
/*
 * When a lost connection to Redis is made again. Nothing is waited for: event_add() stands in front of libevent's, notes how long
 * the connection wants to wait, and lets the time be over at once; the clock is the test's, too.
 */
#include "tests/unit/test.h"

#include <dlfcn.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/redis_conn.h"

enum { WAIT_MIN_MS = 100, WAIT_MAX_MS = 5000, LOSSES = 200, STEEP = 6 /* doublings from the one to the other, nearly */ };

/* ---- time ---- */

static struct {
	struct event *timer; /* that of the next try: the first one that a connection sets */
	unsigned ms;
	time_t clock_s;
} wait_for = { .clock_s = 1000000 };

int event_add(struct event *event, const struct timeval *delay)
{
	static int (*next)(struct event *, const struct timeval *);
	const struct timeval none = { 0 };

	if (!next)
		*(void **)&next = dlsym(RTLD_NEXT, "event_add");
	if (!wait_for.timer && delay)
		wait_for.timer = event;
	if (event != wait_for.timer)
		return next(event, delay);
	wait_for.ms = (unsigned)(delay->tv_sec * 1000 + delay->tv_usec / 1000);
	return next(event, &none);
}

int event_base_gettimeofday_cached(struct event_base *base, struct timeval *now)
{
	(void)base;
	*now = (struct timeval){ .tv_sec = wait_for.clock_s };
	return 0;
}

/* ---- a connection ---- */

struct client {
	struct event_base *base;
	struct redis_config config;
	struct redis_conn *conn;
	unsigned ready, lost, end_at; /* the loop ends with that loss */
	unsigned waits[LOSSES];
};

static void on_ready(void *ctx)
{
	struct client *client = ctx;

	client->ready++;
	event_base_loopbreak(client->base);
}

static void on_lost(void *ctx, const char *why)
{
	struct client *client = ctx;

	(void)why;
	if (client->lost < LOSSES)
		client->waits[client->lost] = wait_for.ms;
	if (++client->lost == client->end_at)
		event_base_loopbreak(client->base);
}

/* @port: of the loopback; 0: nobody is where it connects to. */
static void client_init(struct client *client, struct event_base *base, uint16_t port)
{
	const struct redis_callbacks callbacks = { on_ready, on_lost, client };
	struct redis_url *url = &client->config.url;

	*client = (struct client){ .base = base, .config = { .password_file = "", .ca_file = "", .cert_file = "", .key_file = "" } };
	url->port = port;
	url->is_unix = !port;
	strcpy(url->host, port ? "127.0.0.1" : "/nonexistent/redis");
	wait_for.timer = NULL;
	assert_int_equal(redis_conn_new(client->base, &client->config, "test", &callbacks, &client->conn), 0);
}

static void client_fini(struct client *client)
{
	redis_conn_free(client->conn);
	event_base_free(client->base);
}

/* Runs until the connection could not be made, or was lost, @n times in all. */
static void lose(struct client *client, unsigned n)
{
	client->end_at = n;
	event_base_dispatch(client->base);
	assert_int_equal(client->lost, n);
}

/* ---- nobody listens ---- */

/* In a process of its own, as agents are: numbers that only differ within one process would not keep agents apart. */
static void waits_of_an_agent(unsigned waits[LOSSES])
{
	struct client client;
	int pipes[2], status;
	pid_t child;

	assert_int_equal(pipe(pipes), 0);
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		client_init(&client, event_base_new(), 0);
		lose(&client, LOSSES);
		_exit(write(pipes[1], client.waits, sizeof(client.waits)) == sizeof(client.waits) ? 0 : 1);
	}
	close(pipes[1]);
	assert_int_equal(read(pipes[0], waits, sizeof(unsigned[LOSSES])), sizeof(unsigned[LOSSES]));
	close(pipes[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static unsigned longest(unsigned i)
{
	return i < STEEP ? WAIT_MIN_MS << i : WAIT_MAX_MS;
}

static void tries_become_rarer_up_to_a_bound(void **state)
{
	unsigned waits[LOSSES], least = WAIT_MAX_MS, most = 0;

	(void)state;
	waits_of_an_agent(waits);
	for (unsigned i = 0; i < LOSSES; i++)
		assert_in_range(waits[i], longest(i) / 2, longest(i));
	for (unsigned i = STEEP; i < LOSSES; i++) {
		least = waits[i] < least ? waits[i] : least;
		most = waits[i] > most ? waits[i] : most;
	}
	assert_true(least < WAIT_MAX_MS * 6 / 10); /* all of the random half is used: 1 in 10^18 that it only seems not to be */
	assert_true(most > WAIT_MAX_MS * 9 / 10);
}

static void agents_do_not_come_back_together(void **state)
{
	unsigned one[LOSSES], other[LOSSES], same = 0;

	(void)state;
	waits_of_an_agent(one);
	waits_of_an_agent(other);
	for (unsigned i = 0; i < LOSSES; i++)
		same += one[i] == other[i];
	assert_in_range(same, 0, LOSSES / 10);
}

/* ---- a Redis that lets everybody in ---- */

static int served; /* its connection */

static void on_asked(evutil_socket_t fd, short what, void *arg)
{
	char name[256];

	(void)what, (void)arg;
	assert_true(read(fd, name, sizeof(name)) > 0);
	assert_int_equal(write(fd, "+OK\r\n", 5), 5);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int len, void *arg)
{
	(void)address, (void)len, (void)arg;
	served = fd;
	event_base_once(evconnlistener_get_base(listener), fd, EV_READ, on_asked, NULL, NULL);
}

/* On a free port. */
static struct evconnlistener *listen_in(struct event_base *base, uint16_t *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(address);
	struct evconnlistener *listener = evconnlistener_new_bind(base, on_accept, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC,
		8, (struct sockaddr *)&address, sizeof(address));

	assert_non_null(listener);
	assert_int_equal(getsockname(evconnlistener_get_fd(listener), (struct sockaddr *)&address, &len), 0);
	*port = ntohs(address.sin_port);
	return listener;
}

/* The connection is made, and lasts @seconds. Return: what the client waits for then, in ms. */
static unsigned wait_after(struct client *client, time_t seconds)
{
	unsigned ready = client->ready;

	event_base_dispatch(client->base);
	assert_int_equal(client->ready, ready + 1);
	wait_for.clock_s += seconds;
	close(served);
	lose(client, client->lost + 1);
	return wait_for.ms;
}

static void only_a_connection_that_lasts_ends_the_waiting(void **state)
{
	struct event_base *base = event_base_new();
	struct evconnlistener *listener;
	struct client client;
	uint16_t port;

	(void)state;
	listener = listen_in(base, &port);
	client_init(&client, base, port);
	for (unsigned i = 0; i < STEEP + 2; i++) /* one that breaks right after each login is not made again at once */
		assert_in_range(wait_after(&client, 0), longest(i) / 2, longest(i));
	assert_in_range(wait_after(&client, WAIT_MAX_MS / 1000 - 1), WAIT_MAX_MS / 2, WAIT_MAX_MS);
	for (unsigned i = 0; i < 3; i++)
		assert_in_range(wait_after(&client, i ? 0 : WAIT_MAX_MS / 1000), longest(i) / 2, longest(i));
	evconnlistener_free(listener);
	client_fini(&client);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tries_become_rarer_up_to_a_bound),
		cmocka_unit_test(agents_do_not_come_back_together),
		cmocka_unit_test(only_a_connection_that_lasts_ends_the_waiting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
