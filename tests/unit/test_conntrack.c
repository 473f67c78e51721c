// SPDX-License-Identifier: Apache-2.0
/*
 * Removal of connection tracking's entries. Each test makes two network namespaces: a client's, and a node's that tracks;
 * the connections between them are real.
 */
#include "tests/unit/netns.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "agent/conntrack.h"
#include "lib/address.h"

static int node_ns = -1, client_ns = -1;
static struct conntrack *conntrack;

static void in(int ns)
{
	assert_int_equal(setns(ns, CLONE_NEWNET), 0);
}

static void begin(void **state)
{
	ROOT_OR_SKIP(state);
	node_ns = netns_open();
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	client_ns = netns_open();
	in(node_ns);
	run("ip link set dev lo up && ip link add name node type veth peer name client netns /proc/%d/fd/%d &&"
	    "ip address add 10.1.0.1/24 dev node && ip address add fd00:1::1/64 dev node nodad && ip link set dev node up",
		getpid(), client_ns);
	in(client_ns);
	run("ip link set dev lo up && ip address add 10.1.0.2/24 dev client && ip address add fd00:1::2/64 dev client nodad &&"
	    "ip link set dev client up && ip route add default via 10.1.0.1 && ip -6 route add default via fd00:1::1");
	in(node_ns);
	assert_int_equal(conntrack_new(&conntrack), 0);
}

static void end(void)
{
	conntrack_free(conntrack);
	close(node_ns);
	close(client_ns);
}

/* Rules that look at connections make the kernel track them; service addresses are translated to the node's. */
static void track(void)
{
	run("nft 'table inet t { chain c { type filter hook prerouting priority filter; ct state new counter; }; }; "
	    "table inet n { chain c { type nat hook prerouting priority dstnat; "
	    "ip daddr 10.9.0.1 tcp dport 8080 dnat ip to 10.1.0.1:80; "
	    "ip6 daddr fd00:9::1 tcp dport 8080 dnat ip6 to [fd00:1::1]:80; }; };'");
}

struct connection {
	int listener, client, server;
	struct flow_key key; /* of the client's packets as they arrive at the node */
};

static void set_end(uint32_t ip[4], uint16_t *port, const struct address *address)
{
	memcpy(ip, address->ip, 16);
	*port = address->port_be;
}

static void open_connection(struct connection *connection, const char *server, const char *dialled)
{
	struct sockaddr_storage sa;
	struct address at;
	socklen_t len;
	int one = 1;

	assert_int_equal(address_parse(&at, server), 0);
	len = address_to_sockaddr(&at, &sa);
	connection->listener = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(connection->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	assert_int_equal(bind(connection->listener, (struct sockaddr *)&sa, len), 0);
	assert_int_equal(listen(connection->listener, 1), 0);
	assert_int_equal(address_parse(&at, dialled), 0);
	set_end(connection->key.daddr, &connection->key.dport, &at);
	in(client_ns);
	connection->client = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	in(node_ns);
	len = address_to_sockaddr(&at, &sa);
	assert_int_equal(connect(connection->client, (struct sockaddr *)&sa, len), 0);
	connection->server = accept(connection->listener, NULL, NULL);
	assert_true(connection->server >= 0);
	len = sizeof(sa);
	assert_int_equal(getsockname(connection->client, (struct sockaddr *)&sa, &len), 0);
	assert_int_equal(address_from_sockaddr(&at, (struct sockaddr *)&sa), 0);
	set_end(connection->key.saddr, &connection->key.sport, &at);
	close(connection->listener); /* so that the next may listen there */
}

static void close_connection(struct connection *connection)
{
	close(connection->client);
	close(connection->server);
}

/* What conntrack(8) finds of a connection, by its first packet's addresses. */
static int entries_of(const struct flow_key *key)
{
	char command[512], source[ADDRESS_TEXT_MAX], destination[ADDRESS_TEXT_MAX];
	struct address from = { 0 }, to = { 0 };
	FILE *pipe;
	int n;

	memcpy(from.ip, key->saddr, 16);
	memcpy(to.ip, key->daddr, 16);
	snprintf(command, sizeof(command), "conntrack -L -f %s -p tcp -s %s -d %s --sport %u --dport %u 2>/dev/null | wc -l",
		address_is_ipv4(&from) ? "ipv4" : "ipv6", address_format_ip(&from, source), address_format_ip(&to, destination),
		ntohs(key->sport), ntohs(key->dport));
	pipe = popen(command, "r");
	assert_non_null(pipe);
	assert_int_equal(fscanf(pipe, "%d", &n), 1);
	pclose(pipe);
	return n;
}

static const struct {
	const char *server, *dialled;
} cases[] = {
	{ "10.1.0.1:80", "10.1.0.1:80" },
	{ "[fd00:1::1]:80", "[fd00:1::1]:80" },
	{ "10.1.0.1:80", "10.9.0.1:8080" },
	{ "[fd00:1::1]:80", "[fd00:9::1]:8080" },
};

static void forgets_a_connection(void **state)
{
	struct connection connection, other;

	begin(state);
	track();
	for (size_t i = 0; i < COUNT(cases); i++) {
		open_connection(&other, cases[i].server, cases[i].dialled);
		open_connection(&connection, cases[i].server, cases[i].dialled);
		assert_int_equal(entries_of(&connection.key), 1);
		conntrack_forget(conntrack, &connection.key);
		if (entries_of(&connection.key) != 0)
			fail_msg("%s is still there", cases[i].dialled);
		assert_int_equal(entries_of(&other.key), 1);
		conntrack_forget(conntrack, &connection.key);
		assert_int_equal(conntrack_errors(conntrack), 0);
		close_connection(&connection);
		close_connection(&other);
	}
	end();
}

/* Answers that nobody reads, a thousand and more, neither block nor count. */
static void forgets_after_many_misses(void **state)
{
	struct connection connection;
	struct flow_key missing;

	begin(state);
	track();
	open_connection(&connection, "10.1.0.1:80", "10.1.0.1:80");
	missing = connection.key;
	missing.dport = htons(81);
	for (uint16_t i = 0; i < 5000; i++) {
		missing.sport = htons(i);
		conntrack_forget(conntrack, &missing);
	}
	assert_int_equal(entries_of(&connection.key), 1);
	conntrack_forget(conntrack, &connection.key);
	assert_int_equal(entries_of(&connection.key), 0);
	assert_int_equal(conntrack_errors(conntrack), 0);
	close_connection(&connection);
	end();
}

static void knows_whether_anything_is_tracked(void **state)
{
	struct connection connection;

	begin(state);
	open_connection(&connection, "10.1.0.1:80", "10.1.0.1:80");
	assert_false(conntrack_is_active(conntrack));
	conntrack_forget(conntrack, &connection.key);
	close_connection(&connection);
	track();
	assert_false(conntrack_is_active(conntrack));
	open_connection(&connection, "10.1.0.1:80", "10.1.0.1:80");
	assert_true(conntrack_is_active(conntrack)); /* at once: the first connection after a pause must not stay */
	conntrack_forget(conntrack, &connection.key);
	assert_int_equal(entries_of(&connection.key), 0);
	run("nft flush ruleset && conntrack -F 2>/dev/null");
	assert_true(conntrack_is_active(conntrack)); /* for a second */
	usleep(1100000);
	assert_false(conntrack_is_active(conntrack));
	close_connection(&connection);
	end();
}

static void counts_errors(void **state)
{
	struct conntrack *denied = NULL;
	struct connection connection;

	begin(state);
	track();
	open_connection(&connection, "10.1.0.1:80", "10.1.0.1:80");
	assert_int_equal(seteuid(65534), 0);
	conntrack_forget(conntrack, &connection.key);
	assert_int_equal(conntrack_new(&denied), -EPERM);
	assert_int_equal(seteuid(0), 0);
	assert_int_equal(conntrack_errors(conntrack), 1);
	assert_int_equal(conntrack_errors(conntrack), 1);
	assert_int_equal(entries_of(&connection.key), 1);
	close_connection(&connection);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		netns_test(forgets_a_connection),
		netns_test(forgets_after_many_misses),
		netns_test(knows_whether_anything_is_tracked),
		netns_test(counts_errors),
	};

	return cmocka_run_group_tests_name("conntrack", tests, NULL, NULL);
}
