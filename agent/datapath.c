// SPDX-License-Identifier: Apache-2.0
/*
 * The kernel's part: see datapath.h.
 *
 * How it works
 *
 * --pin-dir holds the maps under their names and, in links/, what is attached. It is locked (flock) by the agent that
 * serves it; the lock goes with the process, the pins stay. A start opens the maps that are there, with the sizes that
 * they have, and replaces the programs where they are attached, so that no packet meets none.
 */
#include "agent/datapath.h"

#include <assert.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/conntrack.h"
#include "agent/devices.h"
#include "agent/endpoint.h"
#include "agent/flow_cleanup.h"
#include "agent/flow_table.h"
#include "agent/kernel_features.h"
#include "agent/netlink.h"
#include "agent/older.h"
#include "agent/pins.h"
#include "agent/sockops.h"
#include "agent/upstream.h"
#include "build/bpf/llmd.skel.h"
#include "lib/log.h"

static const char *const map_names[] = { "control", "endpoints", "endpoint_index", "fronts", "flows", "slots", "handshakes",
	"affinity", "affinity_slots", "endpoint_stats", "counters", "events", "sessions", "prefixes" };
static_assert(sizeof(map_names) / sizeof(map_names[0]) == MAP_N, "a name for each map");

struct datapath {
	struct agent *agent;
	struct llmd_bpf *bpf;
	int lock;
	struct control *control;
	struct bpf_map *map[MAP_N];
	struct flow_table *flows;
	struct devices *devices;
	struct netlink *netlink;
	struct conntrack *conntrack;
	struct sockops *sockops;
	struct older *older;
	bool leaving; /* nothing more is handed over */
};

enum { RELEASE_TRY_MS = 5, LOCK_TRIES = 10, LOCK_PAUSE_US = 5000 };

int datapath_map_fd(const struct datapath *datapath, enum datapath_map map)
{
	return bpf_map__fd(datapath->map[map]);
}

uint32_t datapath_map_size(const struct datapath *datapath, enum datapath_map map)
{
	return bpf_map__max_entries(datapath->map[map]);
}

struct control *datapath_control(const struct datapath *datapath)
{
	return datapath->control;
}

struct flow_table *datapath_flows(const struct datapath *datapath)
{
	return datapath->flows;
}

struct devices *datapath_devices(const struct datapath *datapath)
{
	return datapath->devices;
}

struct netlink *datapath_netlink(const struct datapath *datapath)
{
	return datapath->netlink;
}

struct conntrack *datapath_conntrack(const struct datapath *datapath)
{
	return datapath->conntrack;
}

/* ---- maps ---- */

/* One port each, and no more than a quarter of the slots. */
static uint32_t affinity_slots(const struct config *config)
{
	uint32_t ports = (uint32_t)config->affinity_ports.high - config->affinity_ports.low + 1;

	return ports < config->flows_max / 4 ? ports : (uint32_t)config->flows_max / 4;
}

static uint32_t wanted_size(const struct config *config, enum datapath_map map)
{
	switch (map) {
	case MAP_AFFINITY_SLOTS:
		return affinity_slots(config);
	case MAP_FLOWS:
		return (uint32_t)(2 * config->flows_max);
	case MAP_SLOTS:
		return (uint32_t)config->flows_max;
	case MAP_SESSIONS:
		return (uint32_t)config->sessions_max;
	case MAP_PREFIXES:
		return (uint32_t)config->prefix_map_max;
	case MAP_COUNTERS:
		return REASON_N;
	default:
		return 0;
	}
}

/* Counters of fewer reasons begin anew. Of any other map a new size takes effect after --cleanup. Return: whether there is one to take. */
static bool takes_pinned(enum datapath_map map, const char *path, uint32_t wanted, uint32_t *size)
{
	struct bpf_map_info info;
	int fd = pin_open_map(path, &info);

	if (fd < 0)
		return false;
	close(fd);
	*size = info.max_entries;
	return map != MAP_COUNTERS || *size >= wanted || unlink(path);
}

static int prepare_map(struct datapath *datapath, enum datapath_map map)
{
	const struct config *config = &datapath->agent->config;
	uint32_t size = wanted_size(config, map), present;
	char path[PIN_PATH_MAX];

	datapath->map[map] = bpf_object__find_map_by_name(datapath->bpf->obj, map_names[map]);
	if (!datapath->map[map])
		return -ENOENT;
	pin_path(path, config->pin_dir, map_names[map]);
	if (takes_pinned(map, path, size, &present)) {
		if (size && present != size)
			log_warn("map keeps its size", "map=%s entries=%u wanted=%u cure=--cleanup", map_names[map], present, size);
		size = present;
	}
	if (size)
		bpf_map__set_max_entries(datapath->map[map], size);
	return bpf_map__set_pin_path(datapath->map[map], path);
}

static int load(struct datapath *datapath)
{
	int err;

	datapath->bpf = llmd_bpf__open();
	if (!datapath->bpf)
		return -errno;
	for (enum datapath_map map = 0; map < MAP_N; map++) {
		err = prepare_map(datapath, map);
		if (err)
			return err;
	}
	err = llmd_bpf__load(datapath->bpf);
	if (err == -EINVAL)
		log_error("maps of another layout are pinned", "dir=%s cure=\"llmd-agent --cleanup\"", datapath->agent->config.pin_dir);
	return err;
}

static uint64_t own_netns_cookie(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len))
		cookie = 0;
	if (fd >= 0)
		close(fd);
	return cookie;
}

static int map_control(struct datapath *datapath)
{
	const struct config *config = &datapath->agent->config;
	void *control = mmap(NULL, sizeof(*datapath->control), PROT_READ | PROT_WRITE, MAP_SHARED,
		datapath_map_fd(datapath, MAP_CONTROL), 0);
	uint32_t slots = datapath_map_size(datapath, MAP_SLOTS), straight = datapath_map_size(datapath, MAP_AFFINITY_SLOTS);

	if (control == MAP_FAILED)
		return -errno;
	datapath->control = control;
	datapath->control->schema = LLMD_SCHEMA;
	datapath->control->netns_cookie = own_netns_cookie();
	datapath->control->port_low = config->port_range.low;
	datapath->control->port_high = config->port_range.high;
	datapath->control->affinity_port_low = config->affinity_ports.low;
	datapath->control->affinity_slot = slots - straight;
	datapath->control->affinity_ttl_ns = config->affinity == AFFINITY_NONE ? 0 : config->session_ttl_ms * 1000000;
	return 0;
}

/* ---- open and close ---- */

/* Made anew if somebody has just removed it, or the directory above. */
static int make_and_lock(const char *dir)
{
	int err = pins_make_dir(dir);

	return err ? err : pins_lock(dir);
}

/* Whoever only asks whether an agent is here (llmd-maps) holds it for a moment. */
static int take_lock(struct datapath *datapath)
{
	const char *dir = datapath->agent->config.pin_dir;
	int lock = make_and_lock(dir);

	for (int i = 1; i < LOCK_TRIES && (lock == -EBUSY || lock == -ENOENT); i++) {
		usleep(LOCK_PAUSE_US);
		lock = make_and_lock(dir);
	}
	datapath->lock = lock;
	if (lock == -EBUSY)
		log_error("another agent has the pin directory", "dir=%s", dir);
	else if (lock < 0)
		log_warn("no pin directory", "dir=%s error=\"%s\"", dir, strerror(-lock));
	return lock < 0 ? lock : 0;
}

static int open_parts(struct datapath *datapath)
{
	struct agent *agent = datapath->agent;
	int err = take_lock(datapath);

	err = err ? err : load(datapath);
	err = err ? err : map_control(datapath);
	err = err ? err : netlink_new(agent->base, devices_changed, datapath, &datapath->netlink);
	if (err)
		return err;
	if (conntrack_new(&datapath->conntrack))
		log_info("no connection tracking to clean up", NULL);
	return devices_new(agent, datapath, datapath->bpf, &datapath->devices);
}

static int say_nothing(enum libbpf_print_level level, const char *format, va_list args)
{
	if (level == LIBBPF_WARN && log_enabled(LOG_LEVEL_DEBUG))
		vfprintf(stderr, format, args);
	return 0;
}

int datapath_open(struct agent *agent, struct datapath **out)
{
	bool must = agent->config.datapath == DATAPATH_KERNEL;
	struct datapath *datapath;
	int err;

	*out = NULL;
	if (agent->config.datapath == DATAPATH_RELAY)
		return 0;
	libbpf_set_print(say_nothing);
	err = kernel_features_check(&agent->config);
	if (err) {
		log_event(must ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO, "no kernel data path", "datapath=relay");
		return must ? err : 0;
	}
	datapath = calloc(1, sizeof(*datapath));
	if (!datapath)
		return -ENOMEM;
	datapath->agent = agent;
	datapath->lock = -1;
	err = open_parts(datapath);
	if (!err) {
		*out = datapath;
		return 0;
	}
	datapath_close(datapath);
	log_event(must ? LOG_LEVEL_ERROR : LOG_LEVEL_WARN, "no kernel data path", "errno=%d", -err);
	return must || err == -EBUSY ? err : 0;
}

/* The kernel does not know that a port is in use once its connection has been handed over. */
static void warn_of_overlap(const struct config *config)
{
	FILE *file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
	unsigned low, high;

	if (file && fscanf(file, "%u %u", &low, &high) == 2 && config->port_range.low <= high && low <= config->port_range.high)
		log_warn("ports overlap", "port_range=%u-%u ip_local_port_range=%u-%u", config->port_range.low, config->port_range.high,
			low, high);
	if (file)
		fclose(file);
}

int datapath_start(struct datapath *datapath)
{
	int err = flow_table_new(datapath->agent, datapath, &datapath->flows);

	if (err)
		return err;
	err = upstream_pool_use_ports(datapath->agent->upstreams, datapath->agent->config.port_range.low,
		datapath->agent->config.port_range.high);
	if (err)
		return err;
	warn_of_overlap(&datapath->agent->config);
	devices_watch_endpoints(datapath->devices);
	devices_refresh(datapath->devices);
	flow_table_adopt(datapath->flows);
	err = older_new(datapath->agent, &datapath->older);
	if (err)
		return err;
	err = sockops_attach(datapath->bpf, &datapath->sockops);
	if (err)
		log_warn("no sockops on the agent's cgroup", "errno=%d", -err);
	log_info("kernel data path", "pin_dir=%s flows_max=%u", datapath->agent->config.pin_dir,
		datapath_map_size(datapath, MAP_SLOTS));
	return 0;
}

/* From here on a successor may look after all this. */
static void stop_serving(struct datapath *datapath)
{
	older_free(datapath->older);
	sockops_free(datapath->sockops);
	flow_table_free(datapath->flows);
	devices_free(datapath->devices);
	datapath->older = NULL;
	datapath->sockops = NULL;
	datapath->flows = NULL;
	datapath->devices = NULL;
	if (datapath->lock >= 0)
		close(datapath->lock);
	datapath->lock = -1;
}

void datapath_close(struct datapath *datapath)
{
	if (!datapath)
		return;
	stop_serving(datapath);
	conntrack_free(datapath->conntrack);
	netlink_free(datapath->netlink);
	if (datapath->control)
		munmap(datapath->control, sizeof(*datapath->control));
	llmd_bpf__destroy(datapath->bpf);
	free(datapath);
}

bool datapath_is_open(const struct datapath *datapath)
{
	return datapath && !datapath->leaving;
}

static void try_release(evutil_socket_t fd, short what, void *arg)
{
	const struct timeval again = { .tv_usec = RELEASE_TRY_MS * 1000 };
	struct datapath *datapath = arg;

	(void)fd, (void)what;
	if (flow_table_has_owned(datapath->flows)) {
		event_base_once(datapath->agent->base, -1, EV_TIMEOUT, try_release, datapath, &again);
		return;
	}
	stop_serving(datapath);
	log_info("pin directory released", "dir=%s", datapath->agent->config.pin_dir);
}

void datapath_release(struct datapath *datapath)
{
	if (!datapath || datapath->leaving)
		return;
	datapath->leaving = true;
	try_release(-1, 0, datapath);
}

void datapath_hold_syns(struct datapath *datapath, uint64_t ms)
{
	datapath->control->hold_until_ns = ms ? (agent_now_ms() + ms) * 1000000 : 0;
}

void datapath_listening(struct datapath *datapath)
{
	datapath_hold_syns(datapath, 0);
	devices_drop_old_fronts(datapath->devices);
}

/* ---- what an earlier agent knew ---- */

void datapath_read_endpoints(struct datapath *datapath, struct endpoint_entry entries[LLMD_ENDPOINT_MAX])
{
	int fd = datapath_map_fd(datapath, MAP_ENDPOINTS);

	for (uint32_t i = 0; i < LLMD_ENDPOINT_MAX; i++)
		if (bpf_map_lookup_elem(fd, &i, &entries[i]))
			memset(&entries[i], 0, sizeof(entries[i]));
}

static bool is_ours(const char *name)
{
	for (enum datapath_map map = 0; map < MAP_N; map++)
		if (!strcmp(name, map_names[map]))
			return true;
	return !strcmp(name, "links") || !strcmp(name, ".") || !strcmp(name, "..");
}

/* --pin-dir /sys/fs/bpf is soon written, and then all that others have pinned would go. Return: 0 if there is nothing else. */
static int find_others(const char *dir)
{
	DIR *entries = opendir(dir);
	const struct dirent *entry;
	int err = entries ? 0 : -errno;

	while (!err && (entry = readdir(entries)))
		if (!is_ours(entry->d_name)) {
			log_error("the pin directory has what is not llmd's", "dir=%s name=%s", dir, entry->d_name);
			err = -ENOTEMPTY;
		}
	if (entries)
		closedir(entries);
	return err;
}

static int cleanup(struct datapath *datapath)
{
	const char *dir = datapath->agent->config.pin_dir;
	int err = find_others(dir);

	err = err ? err : take_lock(datapath);
	err = err ? err : devices_cleanup(datapath->agent);
	if (err)
		return err;
	flow_cleanup(dir);
	return pins_remove(dir);
}

int datapath_cleanup(struct agent *agent)
{
	struct datapath datapath = { .agent = agent, .lock = -1 };
	const char *dir = agent->config.pin_dir;
	int err = access(dir, F_OK) ? -errno : cleanup(&datapath);

	if (err == -ENOENT)
		return 0;
	if (datapath.lock >= 0)
		close(datapath.lock);
	if (err)
		log_error("not all removed", "dir=%s error=\"%s\"", dir, strerror(-err));
	return err;
}
