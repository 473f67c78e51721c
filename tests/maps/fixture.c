// SPDX-License-Identifier: Apache-2.0
/* Pinned maps with known contents: see fixture.h. */
#include "tests/maps/fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/session_hash.h"

#define SECOND 1000000000ull

static void set_ip(uint32_t out[4], const char *text)
{
	uint8_t *bytes = (uint8_t *)out;

	memset(out, 0, 16);
	if (strchr(text, ':')) {
		assert_int_equal(inet_pton(AF_INET6, text, bytes), 1);
		return;
	}
	bytes[10] = bytes[11] = 0xff;
	assert_int_equal(inet_pton(AF_INET, text, bytes + 12), 1);
}

static uint64_t ago(uint64_t seconds)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec - seconds * SECOND;
}

static void put(struct bpf_map *map, const void *key, const void *value)
{
	if (bpf_map_update_elem(bpf_map__fd(map), key, value, BPF_ANY))
		fail_msg("%s: %s", bpf_map__name(map), strerror(errno));
}

/* ---- contents ---- */

static void fill_control(struct fixture *fixture)
{
	struct control control = { .schema = LLMD_SCHEMA, .port_low = 15000, .port_high = 29999, .affinity_ttl_ns = 7200 * SECOND };
	struct front front = { .port = htons(8080) };
	struct front_info info = { 0 };
	uint32_t zero = 0;

	for (uint8_t i = 0; i < sizeof(control.session_secret); i++)
		control.session_secret[i] = i;
	put(fixture->maps->maps.control, &zero, &control);
	set_ip(front.addr, "192.0.2.1");
	put(fixture->maps->maps.fronts, &front, &info);
}

static void put_endpoint(struct fixture *fixture, uint32_t index, const char *ip, uint32_t state, uint32_t generation)
{
	struct endpoint_entry entry = { .port = htons(8000), .mss = 1460, .state = state, .generation = generation, .ifindex = 1 };
	struct front key = { .port = entry.port };

	set_ip(entry.addr, ip);
	set_ip(entry.local, strchr(ip, ':') ? "2001:db8::1" : "192.0.2.1");
	set_ip(key.addr, ip);
	put(fixture->maps->maps.endpoints, &index, &entry);
	put(fixture->maps->maps.endpoint_index, &key, &index);
}

/* Pod 0 has 90 first bytes in [131, 262) ms on one CPU and 10 in [524, 1049) ms on another (the same, if there is but one). */
static void fill_stats(struct fixture *fixture)
{
	int n = libbpf_num_possible_cpus();
	struct endpoint_stats *stats = calloc((size_t)n, sizeof(*stats)), *last = stats + n - 1;
	uint32_t zero = 0;

	stats->ttft[17] += 90;
	last->ttft[19] += 10;
	stats->ttft_sum_ns += 20 * SECOND;
	stats->itl[14] += 1000;
	stats->itl_sum_ns = 20 * SECOND;
	stats->flows += 60;
	last->flows += 40;
	stats->bytes_down = 5 << 20;
	stats->bytes_up = 2048;
	stats->rtt_samples = 4;
	stats->rtt_sum_us = 1000;
	put(fixture->maps->maps.endpoint_stats, &zero, stats);
	free(stats);
}

static void fill_endpoints(struct fixture *fixture)
{
	put_endpoint(fixture, 0, "10.1.0.4", ENDPOINT_MAP_READY, 1);
	put_endpoint(fixture, 1, "2001:db8::5", ENDPOINT_MAP_DRAINING, 3);
	put_endpoint(fixture, 2, "10.1.0.6", ENDPOINT_MAP_EJECTED, 7);
	put_endpoint(fixture, 5, "10.1.0.9", 9, 1); /* a state that there is not */
	fill_stats(fixture);
}

static void put_session(struct fixture *fixture, const char *key, uint32_t endpoint, uint32_t generation, uint64_t idle)
{
	struct session_entry entry = { endpoint, generation, ago(idle), 3, 0 };
	uint8_t secret[SESSION_SECRET_BYTES];
	uint64_t hash;

	for (uint8_t i = 0; i < sizeof(secret); i++)
		secret[i] = i;
	hash = session_key_hash(secret, key, strlen(key));
	put(fixture->maps->maps.sessions, &hash, &entry);
}

static void fill_hints(struct fixture *fixture)
{
	struct prefix_entry prefix = { .n = 3, .depth = 12, .last_used_ns = ago(4), .holder = { { 0, 1 }, { 1, 3 }, { 2, 6 } } };
	struct prefix_entry broken = { .n = UINT32_MAX, .depth = 1, .holder = { { UINT16_MAX, UINT16_MAX } } };
	uint64_t hash = 0x0123456789abcdef, other = 1;

	put_session(fixture, "user-42", 0, 1, 10);
	put_session(fixture, "moved", 1, 2, 20); /* its pod's place was given to another one */
	put_session(fixture, "wild", 4000000000u, 1, 30);
	put(fixture->maps->maps.prefixes, &hash, &prefix);
	put(fixture->maps->maps.prefixes, &other, &broken);
}

static void put_affinity(struct fixture *fixture, const char *client, const char *front, uint32_t endpoint, uint64_t expires_ns)
{
	struct affinity_key key = { .front_port = htons(8080) };
	struct affinity_entry entry = { .endpoint = endpoint, .generation = 1, .expires_ns = expires_ns, .uses = 5 };

	set_ip(key.client, client);
	set_ip(key.front, front);
	put(fixture->maps->maps.affinity, &key, &entry);
}

static void put_slot(struct fixture *fixture, uint32_t index, struct slot *slot, const char *const ends[4])
{
	set_ip(slot->client.saddr, ends[0]);
	set_ip(slot->client.daddr, ends[1]);
	set_ip(slot->pod.daddr, ends[2]);
	set_ip(slot->pod.saddr, ends[3]);
	slot->client.sport = htons((uint16_t)(40000 + index));
	slot->client.dport = htons(8080);
	slot->pod.dport = htons((uint16_t)(15000 + index));
	slot->pod.sport = htons(8000);
	put(fixture->maps->maps.slots, &index, slot);
}

static void put_flow(struct fixture *fixture, uint32_t index, const struct slot *slot)
{
	struct flow up = { .gen_head = slot->gen, .slot = index, .to = slot->pod, .seq_add = 11, .ack_sub = 22, .gen_tail = slot->gen };
	struct flow down = up;

	down.from_pod = 1;
	put(fixture->maps->maps.flows, &slot->client, &up);
	put(fixture->maps->maps.flows, &slot->pod, &down);
}

/* Slot 1 streams, slot 2 is still sent, slot 3 holds nonsense, all others are free. */
static void fill_flows(struct fixture *fixture)
{
	static const char *const v4[] = { "198.51.100.9", "192.0.2.1", "192.0.2.1", "10.1.0.4" };
	static const char *const v6[] = { "2001:db8::99", "2001:db8::1", "2001:db8::1", "2001:db8::5" };
	struct slot streams = { .state = SLOT_HANDED, .flags = SLOT_ACKED | SLOT_HEAD | SLOT_CONTENT, .gen = 8, .status = 200,
		.last_ns = ago(1), .begun_ns = ago(90), .handed_ns = ago(89), .first_ns = ago(88), .bytes_up = 1200,
		.bytes_down = 3 << 20, .packets_up = 20, .packets_down = 3000, .requests = 1, .endpoint = 0, .generation = 1,
		.request_id = "req-7" };
	struct slot sent = { .state = SLOT_SENDING, .gen = 9, .last_ns = ago(2), .begun_ns = ago(2), .endpoint = 1, .generation = 3 };
	struct slot nonsense;

	put_slot(fixture, 1, &streams, v4);
	put_flow(fixture, 1, &streams);
	put_slot(fixture, 2, &sent, v6);
	memset(&nonsense, 0xff, sizeof(nonsense));
	nonsense.last_ns = 1;
	memset(nonsense.request_id, '\033', sizeof(nonsense.request_id));
	put_slot(fixture, 3, &nonsense, v4);
}

static void fill_counters(struct fixture *fixture)
{
	uint64_t *values = calloc((size_t)libbpf_num_possible_cpus(), sizeof(*values));
	uint32_t up = REASON_FORWARDED_UP, vlan = REASON_VLAN;

	values[0] = 1000;
	values[libbpf_num_possible_cpus() - 1] += 234;
	put(fixture->maps->maps.counters, &up, values);
	put(fixture->maps->maps.counters, &vlan, values);
	free(values);
}

void fixture_fill(struct fixture *fixture)
{
	fill_control(fixture);
	fill_endpoints(fixture);
	fill_hints(fixture);
	fill_flows(fixture);
	put_affinity(fixture, "198.51.100.9", "192.0.2.1", 0, ago(0) + 3600 * SECOND);
	put_affinity(fixture, "198.51.100.9", "192.0.2.2", 0, ago(0) + 1800 * SECOND);
	put_affinity(fixture, "2001:db8::99", "2001:db8::1", 0, ago(60));
	fill_counters(fixture);
}

/* ---- maps on disk ---- */

static void needs_root(void **state)
{
	(void)state;
	print_message("SKIPPED: no mount namespace of its own (%s): needs root\n", strerror(errno));
	skip();
}

int fixture_run_tests(const char *name, const struct CMUnitTest *tests, size_t n)
{
	const struct CMUnitTest none[] = { cmocka_unit_test(needs_root) };

	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return _cmocka_run_group_tests(name, none, COUNT(none), NULL, NULL);
	return _cmocka_run_group_tests(name, tests, n, NULL, NULL);
}

static void load_maps(struct fixture *fixture)
{
	struct bpf_program *program;

	fixture->maps = llmd_bpf__open();
	assert_non_null(fixture->maps);
	bpf_object__for_each_program(program, fixture->maps->obj)
		bpf_program__set_autoload(program, false);
	bpf_map__set_max_entries(fixture->maps->maps.flows, FLOW_ENTRIES);
	bpf_map__set_max_entries(fixture->maps->maps.slots, SLOT_ENTRIES);
	bpf_map__set_max_entries(fixture->maps->maps.handshakes, 1024);
	bpf_map__set_max_entries(fixture->maps->maps.affinity, 1024);
	bpf_map__set_max_entries(fixture->maps->maps.sessions, SESSION_ENTRIES);
	bpf_map__set_max_entries(fixture->maps->maps.prefixes, 4096);
	bpf_map__set_max_entries(fixture->maps->maps.events, 4096);
	assert_int_equal(llmd_bpf__load(fixture->maps), 0);
	assert_int_equal(bpf_object__pin_maps(fixture->maps->obj, fixture->dir), 0);
}

/* The program of the same build as the test. */
static void find_program(char *out, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", out, size - 16);

	assert_true(n > 0);
	out[n] = '\0';
	*strrchr(out, '/') = '\0';
	strcpy(strrchr(out, '/'), "/llmd-maps");
}

struct fixture *fixture_new(void)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	assert_non_null(fixture);
	strcpy(fixture->root, "/mnt"); /* in this mount namespace only */
	if (mount("tmpfs", fixture->root, "tmpfs", 0, "mode=700"))
		fail_msg("cannot mount a file system: %s", strerror(errno));
	snprintf(fixture->dir, sizeof(fixture->dir), "%s/bpf", fixture->root);
	assert_int_equal(mkdir(fixture->dir, 0700), 0);
	if (mount("bpf", fixture->dir, "bpf", 0, NULL))
		fail_msg("cannot mount a BPF file system: %s", strerror(errno));
	strcat(fixture->dir, "/llmd");
	find_program(fixture->program, sizeof(fixture->program));
	load_maps(fixture);
	fixture_fill(fixture);
	return fixture;
}

void fixture_as_nobody(struct fixture *fixture)
{
	char command[1024];

	/* A copy, for the build's own directory may be closed to others. */
	snprintf(command, sizeof(command), "cp %s %s/llmd-maps", fixture->program, fixture->root);
	assert_int_equal(system(command), 0);
	snprintf(fixture->program, sizeof(fixture->program), "setpriv --reuid=65534 --regid=65534 --clear-groups %s/llmd-maps",
		fixture->root);
}

void fixture_free(struct fixture *fixture)
{
	llmd_bpf__destroy(fixture->maps);
	umount2(fixture->root, MNT_DETACH); /* and what is mounted in it */
	free(fixture);
}

/* ---- runs ---- */

static char *read_file(const char *path)
{
	FILE *file = fopen(path, "r");
	char *text = NULL;
	size_t size = 0;

	assert_non_null(file);
	if (getdelim(&text, &size, '\0', file) < 0) {
		free(text);
		text = strdup("");
	}
	fclose(file);
	return text;
}

struct output run_maps(const struct fixture *fixture, const char *arguments)
{
	struct output output;
	char command[1024], path[128];
	int status;

	snprintf(command, sizeof(command), "LLMD_PIN_DIR=%s %s %s </dev/null >%s/out 2>%s/err", fixture->dir, fixture->program, arguments,
		fixture->root, fixture->root);
	status = system(command);
	assert_true(WIFEXITED(status));
	output.status = WEXITSTATUS(status);
	snprintf(path, sizeof(path), "%s/out", fixture->root);
	output.out = read_file(path);
	snprintf(path, sizeof(path), "%s/err", fixture->root);
	output.err = read_file(path);
	if (strstr(output.err, "Sanitizer") || strstr(output.err, "runtime error"))
		fail_msg("%s: %s", arguments, output.err);
	return output;
}

void output_free(struct output *output)
{
	free(output->out);
	free(output->err);
}

struct json_object *run_json(const struct fixture *fixture, const char *arguments)
{
	struct json_object *json;
	struct output output;
	char with_json[512];

	snprintf(with_json, sizeof(with_json), "-j %s", arguments);
	output = run_maps(fixture, with_json);
	json = json_tokener_parse(output.out);
	if (output.status || !json)
		fail_msg("%s: exit %d: %s%s", with_json, output.status, output.out, output.err);
	output_free(&output);
	return json;
}

struct json_object *member(struct json_object *object, const char *name)
{
	struct json_object *value = NULL;

	if (!json_object_object_get_ex(object, name, &value))
		fail_msg("no %s in %s", name, json_object_to_json_string(object));
	return value;
}

const char *member_text(struct json_object *object, const char *name)
{
	return json_object_get_string(member(object, name));
}

struct json_object *row_where(struct json_object *array, const char *name, const char *value)
{
	for (size_t i = 0; i < json_object_array_length(array); i++) {
		struct json_object *row = json_object_array_get_idx(array, i);
		const char *text = member_text(row, name);

		if (text && !strcmp(text, value))
			return row;
	}
	fail_msg("no %s %s in %s", name, value, json_object_to_json_string(array));
	return NULL;
}
