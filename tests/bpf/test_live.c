// SPDX-License-Identifier: Apache-2.0
/*
 * The TC programs on devices: what BPF_PROG_TEST_RUN cannot bring about. Packets whose checksum the device is to complete,
 * packets of several segments, headers in page fragments, tags that the device has taken off, devices without Ethernet
 * headers, the agent's own sockets, and where a redirect leads.
 *
 *   tests' tap - client0 == client1 - programs - pod0 == pod1 - tests' tap
 */
#include "tests/unit/test.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/address.h"
#include "tests/bpf/fixture.h"
#include "tests/bpf/net.h"
#include "tests/bpf/world.h"

enum { ACK = WIRE_ACK, TCP_HEADER = 20, CHECK_AT = 16, SEGMENT = 1000, BIG = 5000 };
enum { STREAM = SLOT_ACKED | SLOT_HEAD | SLOT_CONTENT | SLOT_ANSWERING };

static const char *const why_not_text = "SKIPPED: the programs on devices need these and network namespaces";
static bool is_ready;
static int client, pod; /* taps on the far ends */

#define NEEDS_DEVICES() do { \
	if (!is_ready) \
		skip(); \
} while (0)

static const struct fixture handed4 = { .name = "IPv4", .conn = &conn4, .slot = { .flags = STREAM } };
static const struct fixture handed6 = { .name = "IPv6", .conn = &conn6, .slot = { .flags = STREAM } };
static const struct fixture nothing = { .name = "no connection" };

static void set_up(const struct fixture *fixture)
{
	struct fixture with_packet = *fixture;

	if (!with_packet.step[0].in.from)
		with_packet.step[0].in = (struct wire)C4(0, 0, ACK);
	world_set_up(&with_packet);
	world_forget_counts();
}

static uint64_t counted(enum reason why)
{
	struct world_counts counts;

	world_counts(&counts);
	return counts.reason[why];
}

/* Leaves the checksum to the device: the field holds the pseudo header's sum. Return: where TCP begins. */
static size_t leave_checksum(uint8_t *frame, size_t n, struct virtio_net_hdr *header)
{
	uint8_t *ip = frame + WIRE_ETHERNET;
	size_t l4 = WIRE_ETHERNET + (ip[0] >> 4 == 4 ? 20u : 40u);
	uint32_t sum = ip[0] >> 4 == 4 ? wire_sum(0, ip + 12, 8) : wire_sum(0, ip + 8, 32);

	wire_put16(frame + l4 + CHECK_AT, wire_sum(sum + IPPROTO_TCP + (uint32_t)(n - l4), NULL, 0));
	*header = (struct virtio_net_hdr){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = (uint16_t)l4,
		.csum_offset = CHECK_AT };
	return l4;
}

/* All but the Ethernet addresses. */
static void expect(const uint8_t *frame, size_t n, const struct wire *wire)
{
	uint8_t expected[WIRE_MAX];
	size_t length = wire_build(expected, wire, true);

	if (n == length && !memcmp(frame + 12, expected + 12, n - 12))
		return;
	wire_print("expected", expected, length);
	wire_print("got", frame, n);
	fail_msg("another packet comes out");
}

/* ---- checksums that the device is to complete ---- */

static void send_partial(const struct fixture *fixture, int from, int to, const struct wire *in, const struct wire *out)
{
	uint8_t sent[WIRE_MAX], got[NET_PACKET_MAX];
	size_t n = wire_build(sent, in, true);
	struct virtio_net_hdr header;

	set_up(fixture);
	leave_checksum(sent, n, &header);
	net_send(from, &header, sent, n);
	n = net_receive(to, &header, got);
	assert_int_equal(header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, 0);
	expect(got, n, out);
}

static void partial_checksums(void **state)
{
	const struct wire up4 = C4(REQUEST_END, ANSWER, ACK, .payload = TEXT("odd"),
		.options = BYTES(1, 1, 5, 10, 0, 0x0a, 0xae, 0xc5, 0, 0x0a, 0xaf, 0x29)),
		up4_out = CP4(REQUEST_END_POD, ANSWER_POD, ACK, .payload = TEXT("odd"),
			.options = BYTES(1, 1, 5, 10, 0, 0, 8, 0x35, 0, 0, 8, 0x99)),
		up6 = C6(REQUEST_END, ANSWER, ACK, .payload = TEXT("odd")),
			up6_out = CP6(REQUEST_END_POD, ANSWER_POD, ACK, .payload = TEXT("odd")),
		down4 = P4(ANSWER_POD, REQUEST_END_POD, ACK, .payload = TEXT("x")),
			down4_out = PC4(ANSWER, REQUEST_END, ACK, .payload = TEXT("x")),
		down6 = P6(ANSWER_POD, REQUEST_END_POD, ACK), down6_out = PC6(ANSWER, REQUEST_END, ACK);

	(void)state;
	NEEDS_DEVICES();
	net_complete_checksums("pod0", true);
	net_complete_checksums("client1", true);
	send_partial(&handed4, client, pod, &up4, &up4_out);
	send_partial(&handed6, client, pod, &up6, &up6_out);
	send_partial(&handed4, pod, client, &down4, &down4_out);
	send_partial(&handed6, pod, client, &down6, &down6_out);
	/* On its way out it met the program that mutes the agent: it must not be taken for the agent's. */
	assert_int_equal(counted(REASON_MUTED_CLIENT_SIDE), 0);
	assert_int_equal(counted(REASON_FORWARDED_DOWN), 1);
}

/* ---- several segments in one packet ---- */

static void check_segment(const uint8_t *frame, size_t n, size_t l4, uint32_t seq, const uint8_t *payload)
{
	const uint8_t *ip = frame + WIRE_ETHERNET, *tcp = frame + l4;

	assert_int_equal(n, l4 + TCP_HEADER + SEGMENT);
	assert_int_equal(wire_get32(tcp + 4), seq);
	assert_int_equal(wire_get16(tcp + CHECK_AT), wire_tcp_check(ip, tcp, n - l4));
	if (ip[0] >> 4 == 4)
		assert_int_equal(wire_get16(ip + 10), wire_ipv4_check(ip));
	assert_memory_equal(tcp + TCP_HEADER, payload, SEGMENT);
}

static size_t big_packet(uint8_t out[NET_PACKET_MAX], const struct wire *wire, size_t payload)
{
	size_t l4, n = wire_build(out, wire, true);
	uint8_t *ip = out + WIRE_ETHERNET;

	l4 = n - TCP_HEADER;
	for (size_t i = 0; i < payload; i++)
		out[n + i] = (uint8_t)(i * 7 + i / 256);
	n += payload;
	wire_put16(ip + (ip[0] >> 4 == 4 ? 2 : 4), (uint16_t)(n - (ip[0] >> 4 == 4 ? (size_t)WIRE_ETHERNET : l4)));
	if (ip[0] >> 4 == 4)
		wire_put16(ip + 10, wire_ipv4_check(ip));
	wire_put16(out + l4 + CHECK_AT, wire_tcp_check(ip, out + l4, n - l4));
	return n;
}

static void send_segments(const struct fixture *fixture, const struct wire *in, bool cut)
{
	bool ipv4 = in->from[0] != '[';
	uint8_t sent[NET_PACKET_MAX], got[NET_PACKET_MAX];
	size_t n = big_packet(sent, in, 3 * SEGMENT), l4;
	struct virtio_net_hdr header;

	set_up(fixture);
	net_complete_checksums("client1", cut);
	l4 = leave_checksum(sent, n, &header);
	header.gso_type = ipv4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	header.gso_size = SEGMENT;
	header.hdr_len = (uint16_t)(l4 + TCP_HEADER);
	net_send(pod, &header, sent, n);
	for (uint32_t i = 0; cut && i < 3; i++) {
		n = net_receive(client, &header, got);
		check_segment(got, n, l4, ANSWER + i * SEGMENT, sent + l4 + TCP_HEADER + (size_t)i * SEGMENT);
	}
	if (cut)
		return;
	/* Whole: the pseudo header's sum is there, the rest still the device's to do. */
	assert_int_equal(net_receive(client, &header, got), n);
	assert_int_equal(header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	assert_int_equal(header.gso_size, SEGMENT);
	assert_int_equal(wire_get32(got + l4 + 4), ANSWER);
	memcpy(sent, got, n);
	leave_checksum(sent, n, &header);
	assert_memory_equal(sent, got, n);
}

static void segments(void **state)
{
	const struct wire in4 = P4(ANSWER_POD, REQUEST_END_POD, ACK), in6 = P6(ANSWER_POD, REQUEST_END_POD, ACK);

	(void)state;
	NEEDS_DEVICES();
	send_segments(&handed4, &in4, true);
	send_segments(&handed6, &in6, true);
	send_segments(&handed4, &in4, false);
	send_segments(&handed6, &in6, false);
}

/* ---- headers in page fragments: only Ethernet's lies in the head ---- */

static void send_fragmented(const struct fixture *fixture, const struct wire *in, const struct wire *out)
{
	uint8_t sent[NET_PACKET_MAX], expected[NET_PACKET_MAX], got[NET_PACKET_MAX];
	struct virtio_net_hdr header = { .hdr_len = WIRE_ETHERNET };
	size_t n = big_packet(sent, in, BIG);

	set_up(fixture);
	big_packet(expected, out, BIG);
	net_send(client, &header, sent, n);
	assert_int_equal(net_receive(pod, &header, got), n);
	assert_memory_equal(got + 12, expected + 12, n - 12);
	assert_int_equal(counted(REASON_FORWARDED_UP), 1);
}

static void headers_in_fragments(void **state)
{
	const struct wire in4 = C4(REQUEST_END, ANSWER, ACK), out4 = CP4(REQUEST_END_POD, ANSWER_POD, ACK),
		in6 = C6(REQUEST_END, ANSWER, ACK),
		out6 = CP6(REQUEST_END_POD, ANSWER_POD, ACK);

	(void)state;
	NEEDS_DEVICES();
	send_fragmented(&handed4, &in4, &out4);
	send_fragmented(&handed6, &in6, &out6);
}

/* ---- a tag that the kernel has taken off ---- */

static void vlan_tag_beside_the_packet(void **state)
{
	const struct wire in = C4(REQUEST_END, ANSWER, ACK, .vlan = 5);
	uint8_t sent[WIRE_MAX], got[NET_PACKET_MAX];
	struct virtio_net_hdr header;

	(void)state;
	NEEDS_DEVICES();
	set_up(&handed4);
	net_send(client, NULL, sent, wire_build(sent, &in, true));
	assert_int_equal(net_receive(pod, &header, got), 0);
	assert_int_equal(counted(REASON_VLAN), 1);
}

/* ---- the agent's own sockets ---- */

static void connect_to_pod(const char *from, const char *to, int *fd)
{
	struct sockaddr_storage source, target;
	struct address node, endpoint;
	socklen_t n;

	assert_int_equal(address_parse(&node, from) || address_parse(&endpoint, to), 0);
	n = address_to_sockaddr(&node, &source);
	address_to_sockaddr(&endpoint, &target);
	*fd = socket(source.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(*fd, (struct sockaddr *)&source, n), 0);
	assert_int_equal(connect(*fd, (struct sockaddr *)&target, n), -1);
	assert_int_equal(errno, EINPROGRESS);
}

/* A kernel's SYN: MSS, window scale and SACK are left of its options, and of ECN nothing. */
static void check_syn(const uint8_t *frame, size_t n)
{
	size_t l4 = WIRE_ETHERNET + (frame[WIRE_ETHERNET] >> 4 == 4 ? 20u : 40u);
	const uint8_t *tcp = frame + l4, *option = tcp + TCP_HEADER;

	assert_true(n >= l4 + TCP_HEADER);
	assert_int_equal(wire_get16(tcp + 12) & 0xfff, WIRE_SYN);
	assert_int_equal(wire_get16(tcp + CHECK_AT), wire_tcp_check(frame + WIRE_ETHERNET, tcp, n - l4));
	while (option < frame + n) {
		assert_in_range(*option, 1, 4);
		option += *option == 1 ? 1 : option[1];
	}
}

static void own_syn(const char *from, const char *to)
{
	struct handshake handshake = { 0 };
	uint8_t got[NET_PACKET_MAX];
	struct virtio_net_hdr header;
	struct flow_key key;
	size_t n;
	int fd;

	set_up(&nothing);
	net_complete_checksums("pod0", true);
	connect_to_pod(from, to, &fd);
	n = net_receive(pod, &header, got);
	assert_int_not_equal(n, 0);
	check_syn(got, n);
	world_key(&key, to, from);
	assert_true(world_handshake(&key, &handshake));
	assert_int_equal(handshake.isn_out, wire_get32(got + WIRE_ETHERNET + (from[0] == '[' ? 40 : 20) + 4));
	assert_int_equal(handshake.ifindex_out, net_ifindex("pod0"));
	assert_true(counted(REASON_SYN_CLEANED) >= 1);
	close(fd);
}

static void own_syns(void **state)
{
	(void)state;
	NEEDS_DEVICES();
	net_run("sysctl -qw net.ipv4.tcp_ecn=1 net.ipv4.tcp_timestamps=1");
	own_syn(NODE, POD);
	own_syn(NODE6, POD6);
}

static void own_socket_is_mute(void **state)
{
	const struct wire out = PC4(ANSWER, REQUEST_END, ACK);
	uint8_t sent[WIRE_MAX], got[NET_PACKET_MAX];
	struct virtio_net_hdr header;
	int node;

	(void)state;
	NEEDS_DEVICES();
	node = net_tap("client1");
	set_up(&handed4);
	net_send(node, NULL, sent, wire_build(sent, &out, true));
	assert_int_equal(net_receive(client, &header, got), 0);
	assert_int_equal(counted(REASON_MUTED_CLIENT_SIDE), 1);
	set_up(&nothing);
	net_send(node, NULL, sent, wire_build(sent, &out, true));
	expect(got, net_receive(client, &header, got), &out);
	close(node);
}

/* ---- a device without Ethernet headers, to and from one with them ---- */

static void send_l3(int tun, const struct fixture *fixture, const struct wire *in, const struct wire *out)
{
	uint8_t sent[WIRE_MAX], got[NET_PACKET_MAX];
	struct virtio_net_hdr header;
	size_t n = wire_build(sent, in, false);

	set_up(fixture);
	assert_int_equal(write(tun, sent, n), n);
	n = net_receive(pod, &header, got);
	expect(got, n, out);
}

static void receive_l3(int tun, const struct fixture *fixture, const struct wire *in, const struct wire *out)
{
	uint8_t sent[WIRE_MAX], expected[WIRE_MAX], got[WIRE_MAX];
	ssize_t n;

	world_use_devices(net_ifindex("tun0"), net_ifindex("pod0"));
	set_up(fixture);
	net_send(pod, NULL, sent, wire_build(sent, in, true));
	/* Others: router solicitations. */
	do
		n = read(tun, got, sizeof(got));
	while (n > 0 && got[got[0] >> 4 == 4 ? 9 : 6] != IPPROTO_TCP);
	assert_int_equal(n, wire_build(expected, out, false));
	assert_memory_equal(got, expected, n);
	world_use_devices(net_ifindex("client1"), net_ifindex("pod0"));
}

static void device_without_ethernet(void **state)
{
	const struct wire up4 = C4(REQUEST_END, ANSWER, ACK, .payload = TEXT("x")),
		up4_out = CP4(REQUEST_END_POD, ANSWER_POD, ACK, .payload = TEXT("x")),
		up6 = C6(REQUEST_END, ANSWER, ACK), up6_out = CP6(REQUEST_END_POD, ANSWER_POD, ACK),
		down4 = P4(ANSWER_POD, REQUEST_END_POD, ACK, .payload = TEXT("x")),
			down4_out = PC4(ANSWER, REQUEST_END, ACK, .payload = TEXT("x")),
		down6 = P6(ANSWER_POD, REQUEST_END_POD, ACK), down6_out = PC6(ANSWER, REQUEST_END, ACK);
	int tun;

	(void)state;
	NEEDS_DEVICES();
	tun = net_tun("tun0");
	if (tun < 0) {
		fprintf(stderr, "SKIPPED: no TUN devices: %s\n", strerror(-tun));
		skip();
	}
	net_run("ip link set tun0 up");
	net_attach("tun0", world_program(INGRESS, false), world_program(EGRESS, false));
	send_l3(tun, &handed4, &up4, &up4_out);
	send_l3(tun, &handed6, &up6, &up6_out);
	receive_l3(tun, &handed4, &down4, &down4_out);
	receive_l3(tun, &handed6, &down6, &down6_out);
	close(tun);
}

/* Neighbours are fixed, since nobody answers for them. */
static void make_devices(void)
{
	net_run("ip link add client0 type veth peer name client1 && ip link add pod0 type veth peer name pod1");
	net_run("for d in client0 client1 pod0 pod1; do ip link set $d mtu 9000 up || exit 1; done");
	net_run("ip address add 8.0.1.1/24 dev client1 && ip address add 8.0.2.1/24 dev pod0");
	net_run("ip address add 2001:db8:86dd:1::1/64 dev client1 nodad && ip address add 2001:db8:86dd:2::1/64 dev pod0 nodad");
	net_run("for a in 8.0.1.2 2001:db8:86dd:1::2; do ip neigh add $a lladdr 02:00:00:00:00:09 dev client1 || exit 1; done");
	net_run("for a in 8.0.2.2 2001:db8:86dd:2::2; do ip neigh add $a lladdr 02:00:00:00:00:09 dev pod0 || exit 1; done");
	net_attach("client1", world_program(INGRESS, true), world_program(EGRESS, true));
	net_attach("pod0", world_program(INGRESS, true), world_program(EGRESS, true));
	world_use_devices(net_ifindex("client1"), net_ifindex("pod0"));
	client = net_tap("client0");
	pod = net_tap("pod1");
}

static int open_all(void **state)
{
	(void)state;
	if (!world_is_allowed() || net_enter()) {
		fprintf(stderr, "%s\n", why_not_text);
		return 0;
	}
	if (world_open())
		return -1;
	make_devices();
	is_ready = true;
	return 0;
}

static int close_all(void **state)
{
	(void)state;
	if (is_ready)
		world_close();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(partial_checksums),
		cmocka_unit_test(segments),
		cmocka_unit_test(headers_in_fragments),
		cmocka_unit_test(vlan_tag_beside_the_packet),
		cmocka_unit_test(own_syns),
		cmocka_unit_test(own_socket_is_mute),
		cmocka_unit_test(device_without_ethernet),
	};

	return cmocka_run_group_tests_name("live", tests, open_all, close_all);
}
