// SPDX-License-Identifier: Apache-2.0
/* The kernel's routes, devices, addresses and filters, and news of them, in a network namespace that each test makes. */
#include "tests/unit/netns.h"

#include <arpa/inet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <time.h>

#include "agent/netlink.h"
#include "agent/netlink_request.h"

static struct event_base *base;
static struct netlink *netlink;
static unsigned n_changes;

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void on_changed(void *ctx)
{
	assert_ptr_equal(ctx, &n_changes);
	n_changes++;
}

static void end(void)
{
	netlink_free(netlink);
	event_base_free(base);
}

static void loop_for(unsigned ms)
{
	const struct timeval time = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

	event_base_loopexit(base, &time);
	event_base_dispatch(base);
}

static void loop_until_changed(void)
{
	uint64_t end_ms = now_ms() + 5000;

	while (!n_changes && now_ms() < end_ms)
		loop_for(5);
}

/* Nothing is under way any more. */
static void loop_until_quiet(void)
{
	do {
		n_changes = 0;
		loop_for(150);
	} while (n_changes);
}

static void count_running(void *ctx, const struct netlink_device *device)
{
	*(unsigned *)ctx += device->is_ethernet && device->is_up;
}

/*
 * Two devices, joined; "a" has addresses. None comes by itself, and when the carrier is there, which takes the kernel a
 * while, no more news do: so what a test sees is its own doing.
 */
static void begin(void **state)
{
	unsigned n_running = 0;

	ROOT_OR_SKIP(state);
	run("echo 1 >/proc/sys/net/ipv6/conf/default/addr_gen_mode &&"
	    "ip link set dev lo up && ip link add name a type veth peer name b && ip link set dev a up && ip link set dev b up &&"
	    "ip address add 10.1.0.1/24 dev a && ip address add fd00:1::1/64 dev a nodad");
	base = event_base_new();
	assert_int_equal(netlink_new(base, on_changed, &n_changes, &netlink), 0);
	for (int i = 0; i < 500 && n_running != 2; i++) {
		loop_for(10);
		n_running = 0;
		assert_int_equal(netlink_devices(netlink, count_running, &n_running), 0);
	}
	assert_int_equal(n_running, 2);
	loop_until_quiet();
}

static const char *const routes[] = {
	"10.2.0.0/16 via 10.1.0.2 mtu 1400",
	"10.3.0.0/16 via 10.1.0.2 mtu 9000",
	"10.4.0.0/16 via 10.1.0.2 src 10.1.0.9",
	"unreachable 10.5.0.0/16",
	"prohibit 10.6.0.0/16",
	"blackhole 10.7.0.0/16",
	"fd00:2::/64 via fd00:1::2 mtu 1300",
	"unreachable fd00:5::/64",
	"prohibit fd00:6::/64",
	"10.8.0.0/16 via 10.1.0.2 table 100 mtu 1399",
};

static const struct {
	const char *to;
	int err;
	const char *device;
	uint32_t mtu;
	const char *source;
	bool is_local;
} ways[] = {
	{ "10.1.0.2:80", 0, "a", 1500, "10.1.0.1" },
	{ "10.2.0.1:80", 0, "a", 1400, "10.1.0.1" },
	{ "10.3.0.1:80", 0, "a", 1500, "10.1.0.1" }, /* a route cannot give more than its device */
	{ "10.4.0.1:80", 0, "a", 1500, "10.1.0.9" },
	{ "10.5.0.1:80", -EHOSTUNREACH },
	{ "10.6.0.1:80", -EACCES },
	{ "10.7.0.1:80", -EINVAL },
	{ "10.8.0.1:80", -ENETUNREACH },
	{ "10.8.0.1:9000", 0, "a", 1399, "10.1.0.1" }, /* a rule that looks at the port */
	{ "10.1.0.1:80", 0, "lo", 65536, "10.1.0.1", true },
	{ "127.0.0.1:80", 0, "lo", 65536, "127.0.0.1", true },
	{ "192.0.2.1:80", -ENETUNREACH },
	{ "[fd00:1::2]:80", 0, "a", 1500, "fd00:1::1" },
	{ "[fd00:2::1]:80", 0, "a", 1300, "fd00:1::1" },
	{ "[fd00:5::1]:80", -EHOSTUNREACH },
	{ "[fd00:6::1]:80", -EACCES },
	{ "[fd00:1::1]:80", 0, "lo", 65536, "fd00:1::1", true },
	{ "[::1]:80", 0, "lo", 65536, "::1", true },
	{ "[fd00:9::1]:80", -ENETUNREACH },
};

static void check_way(size_t i)
{
	static const struct netlink_route untouched;
	struct netlink_route route = { 0 };
	struct address to, source = { 0 };
	char text[ADDRESS_TEXT_MAX];
	int err;

	assert_int_equal(address_parse(&to, ways[i].to), 0);
	err = netlink_route_get(netlink, &to, &route);
	if (err != ways[i].err)
		fail_msg("%s: error %d", ways[i].to, err);
	if (err) {
		assert_memory_equal(&route, &untouched, sizeof(route));
		return;
	}
	memcpy(source.ip, route.source, 16);
	address_format_ip(&source, text);
	if (route.ifindex != if_nametoindex(ways[i].device) || route.mtu != ways[i].mtu || strcmp(text, ways[i].source) ||
		route.is_local != ways[i].is_local)
		fail_msg("%s: device %u, MTU %u, source %s, local %d", ways[i].to, route.ifindex, route.mtu, text, route.is_local);
}

static void finds_the_way(void **state)
{
	begin(state);
	run("ip address add 10.1.0.9/24 dev a && ip rule add ipproto tcp dport 9000 lookup 100");
	for (size_t i = 0; i < COUNT(routes); i++)
		run("ip %sroute add %s", strchr(routes[i], ':') ? "-6 " : "", routes[i]);
	for (int round = 0; round < 2; round++) /* with and without a device's MTU known */
		for (size_t i = 0; i < COUNT(ways); i++)
			check_way(i);
	end();
}

/* A way without an address to use on it is none. */
static void needs_a_source(void **state)
{
	struct netlink_route route;
	struct address to;

	begin(state);
	run("ip route add 10.2.0.0/16 dev b && ip address del 10.1.0.1/24 dev a");
	assert_int_equal(address_parse(&to, "10.2.0.1:80"), 0);
	assert_int_equal(netlink_route_get(netlink, &to, &route), -EADDRNOTAVAIL);
	end();
}

struct seen {
	unsigned n;
	struct netlink_device devices[8];
};

static void see_device(void *ctx, const struct netlink_device *device)
{
	struct seen *seen = ctx;

	assert_true(seen->n < COUNT(seen->devices));
	assert_int_equal(netlink_has_filters(netlink, device->ifindex), 0); /* a visitor may ask */
	seen->devices[seen->n++] = *device;
}

static void lists_devices(void **state)
{
	static const struct netlink_device expected[] = {
		{ .name = "lo", .mtu = 65536, .is_up = true, .is_loopback = true, .has_address = true },
		{ .name = "a", .mtu = 1500, .is_up = true, .is_ethernet = true, .has_address = true },
		{ .name = "b", .mtu = 1500, .is_up = true, .is_ethernet = true }, /* only a link-local address */
		{ .name = "c", .mtu = 1450, .is_ethernet = true, .has_address = true },
		{ .name = "d", .mtu = 1500, .is_up = true, .is_ethernet = true }, /* without a carrier: the other end is down */
		{ .name = "t", .mtu = 1500, .is_l3 = true },
	};
	struct seen seen = { 0 };

	begin(state);
	run("ip link add name c mtu 1450 type veth peer name d && ip address add 10.2.0.1/24 dev c && ip link set dev d up &&"
	    "ip address add fe80::5/64 dev b && ip tuntap add name t mode tun");
	assert_int_equal(netlink_devices(netlink, see_device, &seen), 0);
	assert_int_equal(seen.n, COUNT(expected));
	for (unsigned i = 0; i < seen.n; i++) {
		struct netlink_device want = { 0 };

		assert_true(!i || seen.devices[i - 1].ifindex < seen.devices[i].ifindex);
		for (size_t k = 0; k < COUNT(expected); k++)
			if (!strcmp(expected[k].name, seen.devices[i].name))
				want = expected[k];
		want.ifindex = if_nametoindex(want.name);
		if (memcmp(&want, &seen.devices[i], sizeof(want)))
			fail_msg("device %s", seen.devices[i].name);
	}
	end();
}

static void count_device(void *ctx, const struct netlink_device *device)
{
	(void)device;
	++*(unsigned *)ctx;
}

/* More than one part of a dump holds. */
static void lists_many_devices(void **state)
{
	unsigned n = 0;

	begin(state);
	run("for i in $(seq 100); do echo link add name x$i type veth peer name y$i; done | ip -batch -");
	assert_int_equal(netlink_devices(netlink, count_device, &n), 0);
	assert_int_equal(n, 203);
	end();
}

static void see_address(void *ctx, uint32_t ifindex, const uint8_t ip[16])
{
	struct address address = { 0 };
	char text[ADDRESS_TEXT_MAX], name[IF_NAMESIZE] = "?", *list = ctx;

	memcpy(address.ip, ip, 16);
	address_format_ip(&address, text);
	if_indextoname(ifindex, name);
	sprintf(list + strlen(list), "%s=%s ", name, text);
}

static void lists_addresses(void **state)
{
	static const char *const expected[] = { "lo=127.0.0.1 ", "lo=::1 ", "a=10.1.0.1 ", "a=fd00:1::1 ", "b=10.5.0.1 ", "b=fd00:5::1 " };
	char list[512] = "";
	size_t len = 0;

	begin(state);
	run("ip address add 10.5.0.1 peer 10.6.0.1/32 dev b && ip address add fd00:5::1 peer fd00:6::1/128 dev b nodad");
	assert_int_equal(netlink_addresses(netlink, see_address, list), 0);
	for (size_t i = 0; i < COUNT(expected); i++) {
		if (!strstr(list, expected[i]))
			fail_msg("no %s in %s", expected[i], list);
		len += strlen(expected[i]);
	}
	assert_int_equal(strlen(list), len);
	end();
}

static void finds_filters(void **state)
{
	static const struct {
		const char *command; /* for tc */
		int found;
	} steps[] = {
		{ "qdisc add dev a clsact", 0 },
		{ "filter add dev a ingress protocol all pref 1 u32 match u32 0 0 classid 1:1", 1 },
		{ "filter del dev a ingress pref 1", 0 },
		{ "filter add dev a egress protocol ip pref 7 u32 match u32 0 0 classid 1:1", 1 },
		{ "qdisc del dev a clsact", 0 },
		{ "qdisc add dev b clsact", 0 },
		{ "filter add dev b ingress protocol all pref 1 u32 match u32 0 0 classid 1:1", 0 }, /* another device's */
	};
	uint32_t ifindex;

	begin(state);
	ifindex = if_nametoindex("a");
	assert_int_equal(netlink_has_filters(netlink, ifindex), 0);
	for (size_t i = 0; i < COUNT(steps); i++) {
		run("tc %s", steps[i].command);
		if (netlink_has_filters(netlink, ifindex) != steps[i].found)
			fail_msg("after tc %s: not %d", steps[i].command, steps[i].found);
	}
	assert_int_equal(netlink_has_filters(netlink, 12345), 0);
	end();
}

static void tells_of_changes(void **state)
{
	/* a changed address leaves its routes as they are; a carrier's news come late, so last */
	static const char *const commands[] = {
		"route add 10.4.0.0/24 via 10.1.0.2", "-6 route add fd00:4::/64 via fd00:1::2", "route del 10.4.0.0/24",
		"-6 route del fd00:4::/64", "address change 10.1.0.1/24 dev a preferred_lft 0",
		"address change fd00:1::1/64 dev a preferred_lft 0", "address add 10.3.0.1/24 dev a",
		"address add fd00:3::1/64 dev a nodad", "address del 10.3.0.1/24 dev a", "address del fd00:3::1/64 dev a",
		"link add name c type veth peer name d", "link set dev c mtu 1400", "link set dev c up", "link del dev c",
	};

	begin(state);
	for (size_t i = 0; i < COUNT(commands); i++) {
		run("ip %s", commands[i]);
		loop_until_changed();
		if (!n_changes)
			fail_msg("not told of: ip %s", commands[i]);
		loop_until_quiet();
	}
	run("ip neighbour add 10.1.0.2 lladdr 02:00:00:00:00:01 dev a && tc qdisc add dev a clsact");
	loop_for(300);
	assert_int_equal(n_changes, 0);
	end();
}

static void tells_of_a_burst_once(void **state)
{
	begin(state);
	run("for i in $(seq 200); do echo route add 10.4.$i.0/24 via 10.1.0.2; done | ip -batch -");
	loop_until_changed();
	assert_int_equal(n_changes, 1);
	loop_for(300);
	assert_int_equal(n_changes, 1);
	end();
}

static void waits_for_the_last_change(void **state)
{
	uint64_t last_ms = 0;
	bool in_time = false;

	begin(state);
	for (int i = 0; i < 20 && !in_time; i++) { /* on a busy machine the second change may come too late to count */
		loop_until_quiet();
		run("ip route add 10.4.%d.0/24 via 10.1.0.2", i);
		loop_for(25);
		last_ms = now_ms();
		run("ip route add 10.5.%d.0/24 via 10.1.0.2", i);
		loop_for(1);
		in_time = !n_changes;
	}
	assert_true(in_time);
	loop_until_changed();
	assert_int_equal(n_changes, 1);
	assert_true(now_ms() - last_ms >= 50);
	end();
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
	unsigned *n = ctx;

	(void)fd, (void)what;
	run("ip link set dev b mtu %u", 1400 + (*n)++ % 2);
}

static void tells_of_an_endless_burst(void **state)
{
	const struct timeval period = { .tv_usec = 15000 };
	struct event *tick;
	uint64_t start_ms;
	unsigned n = 0;

	begin(state);
	tick = event_new(base, -1, EV_PERSIST, on_tick, &n);
	event_add(tick, &period);
	start_ms = now_ms();
	loop_until_changed();
	assert_true(n_changes > 0 && now_ms() - start_ms < 5000);
	event_free(tick);
	end();
}

static uint32_t mtu_to(const char *text)
{
	struct netlink_route route = { 0 };
	struct address to;

	assert_int_equal(address_parse(&to, text), 0);
	assert_int_equal(netlink_route_get(netlink, &to, &route), 0);
	return route.mtu;
}

static void follows_the_mtu(void **state)
{
	begin(state);
	assert_int_equal(mtu_to("10.1.0.2:80"), 1500);
	assert_int_equal(mtu_to("[fd00:1::2]:80"), 1500);
	run("ip link set dev a mtu 1400");
	loop_until_changed();
	assert_int_equal(mtu_to("10.1.0.2:80"), 1400);
	assert_int_equal(mtu_to("[fd00:1::2]:80"), 1400);
	end();
}

static unsigned long dropped_messages(void)
{
	FILE *file = fopen("/proc/net/netlink", "r");
	unsigned long sum = 0, drops;
	char line[512];

	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%*s %*s %*s %*s %*s %*s %*s %*s %lu", &drops) == 1)
			sum += drops;
	fclose(file);
	return sum;
}

/* The kernel has dropped the news of the MTU, because nobody has read the queue: it is seen nevertheless. */
static void survives_an_overrun(void **state)
{
	begin(state);
	assert_int_equal(mtu_to("10.1.0.2:80"), 1500);
	run("for i in $(seq 40); do for j in $(seq 250); do echo route add 10.$((100 + i)).$j.0/24 via 10.1.0.2; done; done |"
	    "ip -batch -");
	assert_true(dropped_messages() > 0);
	run("ip link set dev a mtu 1400");
	loop_until_changed();
	assert_int_equal(mtu_to("10.1.0.2:80"), 1400);
	loop_until_quiet();
	run("ip link set dev a mtu 1300"); /* and it goes on */
	loop_until_changed();
	assert_int_equal(n_changes, 1);
	assert_int_equal(mtu_to("10.1.0.2:80"), 1300);
	end();
}

/* A message with one attribute of @len bytes, which says that it has @said. */
static const struct nlattr *parse_one(char *buffer, size_t len, uint16_t said)
{
	const struct nlattr *table[RTA_METRICS + 1] = { 0 };
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buffer);
	struct nlattr *attr;

	mnl_nlmsg_put_extra_header(nlh, sizeof(struct rtmsg));
	attr = mnl_nlmsg_get_payload_tail(nlh);
	mnl_attr_put(nlh, RTA_OIF, len, "0123456789abcdef");
	attr->nla_len = said;
	netlink_attributes(table, RTA_METRICS, nlh, sizeof(struct rtmsg));
	return table[RTA_OIF];
}

static void reads_strictly(void **state)
{
	static const struct {
		uint16_t len, said;
		bool u32, ip4, ip6;
	} vectors[] = {
		{ 0, 4 }, { 2, 6 }, { 4, 8, true, true }, { 8, 12 }, { 16, 20, false, false, true },
		{ 4, 3 }, { 4, 0 }, { 4, 9 }, { 4, 20 }, { 16, 65535 }, /* lies, towards the end of the message and past it */
	};
	uint32_t value;
	uint8_t ip[16];

	(void)state;
	for (size_t i = 0; i < COUNT(vectors); i++) {
		size_t size = NLMSG_LENGTH(sizeof(struct rtmsg)) + NLA_HDRLEN + vectors[i].len;
		char *buffer = malloc(NLMSG_ALIGN(size)); /* exactly, for the sanitizer */
		const struct nlattr *attr = parse_one(buffer, vectors[i].len, vectors[i].said);

		if (netlink_attribute_u32(attr, &value) != vectors[i].u32 || netlink_attribute_ip(attr, AF_INET, ip) != vectors[i].ip4 ||
			netlink_attribute_ip(attr, AF_INET6, ip) != vectors[i].ip6)
			fail_msg("vector %zu", i);
		((struct nlmsghdr *)buffer)->nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)) - 1;
		assert_false(netlink_message_holds((struct nlmsghdr *)buffer, sizeof(struct rtmsg)));
		free(buffer);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		netns_test(finds_the_way),
		netns_test(needs_a_source),
		netns_test(lists_devices),
		netns_test(lists_many_devices),
		netns_test(lists_addresses),
		netns_test(finds_filters),
		netns_test(tells_of_changes),
		netns_test(tells_of_a_burst_once),
		netns_test(waits_for_the_last_change),
		netns_test(tells_of_an_endless_burst),
		netns_test(follows_the_mtu),
		netns_test(survives_an_overrun),
		cmocka_unit_test(reads_strictly),
	};

	return cmocka_run_group_tests_name("netlink", tests, NULL, NULL);
}
