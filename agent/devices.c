// SPDX-License-Identifier: Apache-2.0
/*
 * See devices.h.
 *
 * Attached are the devices that have an address (uplinks, bridges), those that lead to a pod, and those that an earlier agent
 * has left its programs on; a device of another kind
 * (the veth of a pod that is a client) when the first connection has come in through it. Fronts are the --listen addresses,
 * for a wildcard every address of the node; the address of a service, which is translated before it reaches the agent, is
 * learnt from the first connection that comes that way. The connection that teaches is relayed.
 */
#include "agent/devices.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/attach.h"
#include "agent/datapath.h"
#include "agent/endpoint.h"
#include "agent/flow_table.h"
#include "agent/netlink.h"
#include "lib/log.h"

enum { DEVICES_MAX = 4096, FRONTS_MAX = 512, HEADERS_IPV4 = 40, HEADERS_IPV6 = 60,
	NOTED_S = 600 /* for so long Linux remembers that a way is narrow (net.ipv4.route.mtu_expires) */ };

struct devices {
	struct agent *agent;
	struct datapath *datapath;
	struct attach *attach;
	uint32_t n, n_fronts;
	struct netlink_device at[DEVICES_MAX];
	struct front fronts[FRONTS_MAX]; /* in the map, but for the learnt ones */
	struct front seen[FRONTS_MAX];
	uint32_t n_seen;
	uint16_t mss[ENDPOINT_MAX]; /* as in the map */
	uint16_t noted_mss[ENDPOINT_MAX]; /* what a pod asked for; 0: nothing smaller */
	struct event *forget_noted;
};

/* ---- fronts ---- */

static struct front front_of(const uint8_t ip[16], uint16_t port_be)
{
	struct front front = { .port = port_be };

	memcpy(front.addr, ip, sizeof(front.addr));
	return front;
}

static void want_front(struct devices *devices, const uint8_t ip[16], uint16_t port_be)
{
	if (devices->n_seen < FRONTS_MAX)
		devices->seen[devices->n_seen++] = front_of(ip, port_be);
}

static bool is_wildcard(const struct address *address)
{
	static const uint8_t none[4];

	return !memcmp(address->ip + 12, none, 4) && (address_is_ipv4(address) || !memcmp(address->ip, none, 4));
}

/* A wildcard of IPv6 takes IPv4, too. */
static void want_own_address(void *ctx, uint32_t ifindex, const uint8_t ip[16])
{
	struct devices *devices = ctx;
	const struct config_listen *listen = &devices->agent->config.listen;
	struct address own = { 0 };

	(void)ifindex;
	memcpy(own.ip, ip, sizeof(own.ip));
	for (uint32_t i = 0; i < listen->n; i++)
		if (is_wildcard(&listen->at[i]) && (!address_is_ipv4(&listen->at[i]) || address_is_ipv4(&own)))
			want_front(devices, ip, listen->at[i].port_be);
}

static bool has_front(const struct front *list, uint32_t n, const struct front *front)
{
	for (uint32_t i = 0; i < n; i++)
		if (!memcmp(&list[i], front, sizeof(*front)))
			return true;
	return false;
}

static void refresh_fronts(struct devices *devices)
{
	const struct config_listen *listen = &devices->agent->config.listen;
	int fd = datapath_map_fd(devices->datapath, MAP_FRONTS);
	const struct front_info info = { 0 };

	devices->n_seen = 0;
	for (uint32_t i = 0; i < listen->n; i++)
		if (!is_wildcard(&listen->at[i]))
			want_front(devices, listen->at[i].ip, listen->at[i].port_be);
	netlink_addresses(datapath_netlink(devices->datapath), want_own_address, devices);
	for (uint32_t i = 0; i < devices->n_fronts; i++)
		if (!has_front(devices->seen, devices->n_seen, &devices->fronts[i]))
			bpf_map_delete_elem(fd, &devices->fronts[i]);
	for (uint32_t i = 0; i < devices->n_seen; i++)
		bpf_map_update_elem(fd, &devices->seen[i], &info, BPF_ANY);
	memcpy(devices->fronts, devices->seen, sizeof(devices->seen));
	devices->n_fronts = devices->n_seen;
}

void devices_drop_old_fronts(struct devices *devices)
{
	int fd = datapath_map_fd(devices->datapath, MAP_FRONTS);
	struct front front, old[FRONTS_MAX];
	uint32_t n = 0;

	for (void *at = NULL; n < FRONTS_MAX && !bpf_map_get_next_key(fd, at, &front); at = &front)
		if (!has_front(devices->fronts, devices->n_fronts, &front))
			old[n++] = front;
	while (n)
		bpf_map_delete_elem(fd, &old[--n]);
}

/* ---- ways to the pods ---- */

static const struct netlink_device *find_device(const struct devices *devices, uint32_t ifindex)
{
	for (uint32_t i = 0; i < devices->n; i++)
		if (devices->at[i].ifindex == ifindex)
			return &devices->at[i];
	return NULL;
}

static bool is_of_use(const struct netlink_device *device)
{
	return device && device->is_up && !device->is_loopback && (device->is_ethernet || device->is_l3);
}

static enum endpoint_map_state map_state(enum endpoint_state state)
{
	switch (state) {
	case ENDPOINT_FREE:
		return ENDPOINT_MAP_FREE;
	case ENDPOINT_STARTING:
	case ENDPOINT_READY:
		return ENDPOINT_MAP_READY;
	case ENDPOINT_DRAINING:
		return ENDPOINT_MAP_DRAINING;
	case ENDPOINT_DEGRADED:
		return ENDPOINT_MAP_DEGRADED;
	case ENDPOINT_EJECTED:
	case ENDPOINT_STATE_N:
		break;
	}
	return ENDPOINT_MAP_EJECTED;
}

static void find_way(struct devices *devices, const struct endpoint *endpoint, struct endpoint_entry *entry)
{
	const struct address *address = &endpoint->config.address;
	uint32_t headers = address_is_ipv4(address) ? HEADERS_IPV4 : HEADERS_IPV6;
	const struct netlink_device *device;
	struct netlink_route route;

	if (netlink_route_get(datapath_netlink(devices->datapath), address, &route) || route.is_local)
		return;
	device = find_device(devices, route.ifindex);
	if (!is_of_use(device) || attach_device(devices->attach, device))
		return;
	entry->ifindex = route.ifindex;
	entry->mss = route.mtu > headers ? (uint16_t)(route.mtu - headers < UINT16_MAX ? route.mtu - headers : UINT16_MAX) : 0;
	memcpy(entry->local, route.source, sizeof(entry->local));
}

static void write_endpoint(struct devices *devices, uint32_t index)
{
	const struct endpoint *endpoint = &devices->agent->endpoints->at[index];
	const struct address *address = &endpoint->config.address;
	struct front key = front_of(address->ip, address->port_be);
	struct endpoint_entry entry = { .port = address->port_be, .generation = endpoint->generation,
		.state = map_state(endpoint->state) };
	int index_fd = datapath_map_fd(devices->datapath, MAP_ENDPOINT_INDEX);

	memcpy(entry.addr, address->ip, sizeof(entry.addr));
	if (endpoint->state != ENDPOINT_FREE) {
		find_way(devices, endpoint, &entry);
		bpf_map_update_elem(index_fd, &key, &index, BPF_ANY);
	} else {
		bpf_map_delete_elem(index_fd, &key);
		devices->noted_mss[index] = 0;
	}
	devices->mss[index] = entry.mss;
	bpf_map_update_elem(datapath_map_fd(devices->datapath, MAP_ENDPOINTS), &index, &entry, BPF_ANY);
}

/* What a client may send at once must fit on the way to whichever pod it will get. */
static void clamp_mss(struct devices *devices)
{
	struct control *control = datapath_control(devices->datapath);
	uint32_t least[2] = { 0, 0 };

	for (uint32_t i = 0; i < devices->agent->endpoints->n; i++) {
		const struct endpoint *endpoint = &devices->agent->endpoints->at[i];
		uint32_t *mss = &least[!address_is_ipv4(&endpoint->config.address)];
		uint16_t noted = devices->noted_mss[i], most = noted && noted < devices->mss[i] ? noted : devices->mss[i];

		if (endpoint->state != ENDPOINT_FREE && most && (!*mss || most < *mss))
			*mss = most;
	}
	control->mss4 = least[0];
	control->mss6 = least[1];
}

void devices_note_mss(struct devices *devices, uint32_t index, uint16_t mss)
{
	const struct timeval after = { .tv_sec = NOTED_S };

	if (devices->noted_mss[index] && devices->noted_mss[index] <= mss)
		return;
	devices->noted_mss[index] = mss;
	clamp_mss(devices);
	if (!evtimer_pending(devices->forget_noted, NULL))
		event_add(devices->forget_noted, &after);
}

static void on_forget_noted(evutil_socket_t fd, short what, void *arg)
{
	struct devices *devices = arg;

	(void)fd, (void)what;
	memset(devices->noted_mss, 0, sizeof(devices->noted_mss));
	clamp_mss(devices);
}

static void reset_stats(struct devices *devices, uint32_t index)
{
	int fd = datapath_map_fd(devices->datapath, MAP_ENDPOINT_STATS);
	void *zeros = calloc((size_t)libbpf_num_possible_cpus(), sizeof(struct endpoint_stats));

	if (zeros)
		bpf_map_update_elem(fd, &index, zeros, BPF_ANY);
	free(zeros);
}

/* An endpoint was added, removed or has changed its state. */
static void devices_endpoint_changed(struct devices *devices, uint32_t index)
{
	write_endpoint(devices, index);
	clamp_mss(devices);
	if (devices->agent->endpoints->at[index].state != ENDPOINT_FREE)
		return;
	if (datapath_flows(devices->datapath))
		flow_table_endpoint_gone(datapath_flows(devices->datapath), index);
	reset_stats(devices, index);
}

/* ---- devices ---- */

static void take_device(void *ctx, const struct netlink_device *device)
{
	struct devices *devices = ctx;

	if (devices->n < DEVICES_MAX)
		devices->at[devices->n++] = *device;
	if (is_of_use(device) && (device->has_address || attach_was(devices->attach, device->ifindex)))
		attach_device(devices->attach, device);
}

static bool is_present(void *ctx, uint32_t ifindex)
{
	return find_device(ctx, ifindex);
}

void devices_refresh(struct devices *devices)
{
	int err;

	devices->n = 0;
	err = netlink_devices(datapath_netlink(devices->datapath), take_device, devices);
	if (err) {
		log_warn("devices not listed", "errno=%d", -err);
		return;
	}
	attach_keep_only(devices->attach, is_present, devices);
	refresh_fronts(devices);
	for (uint32_t i = 0; i < devices->agent->endpoints->n; i++)
		if (devices->agent->endpoints->at[i].state != ENDPOINT_FREE)
			write_endpoint(devices, i);
	clamp_mss(devices);
}

void devices_changed(void *datapath)
{
	struct devices *devices = datapath_devices(datapath);

	if (devices)
		devices_refresh(devices);
}

void devices_learn(struct devices *devices, const struct address *client, const struct address *front)
{
	struct front key = front_of(front->ip, front->port_be);
	const struct front_info info = { .learnt = 1 };
	const struct netlink_device *device;
	struct netlink_route route;
	char text[ADDRESS_TEXT_MAX];

	if (netlink_route_get(datapath_netlink(devices->datapath), client, &route) || route.is_local)
		return;
	device = find_device(devices, route.ifindex);
	if (is_of_use(device))
		attach_device(devices->attach, device);
	if (has_front(devices->fronts, devices->n_fronts, &key))
		return;
	if (!bpf_map_update_elem(datapath_map_fd(devices->datapath, MAP_FRONTS), &key, &info, BPF_NOEXIST))
		log_info("front learnt", "address=%s", address_format(front, text));
}

/* ---- start and end ---- */

static void on_endpoint(void *ctx, uint32_t index)
{
	devices_endpoint_changed(ctx, index);
}

/* Endpoints of an earlier agent that are no longer configured. */
static void drop_old_endpoints(struct devices *devices)
{
	int fd = datapath_map_fd(devices->datapath, MAP_ENDPOINTS), index_fd = datapath_map_fd(devices->datapath, MAP_ENDPOINT_INDEX);

	for (uint32_t i = 0; i < LLMD_ENDPOINT_MAX; i++) {
		struct endpoint_entry entry;
		struct front key;

		if (bpf_map_lookup_elem(fd, &i, &entry) || entry.state == ENDPOINT_MAP_FREE)
			continue;
		key = front_of((const uint8_t *)entry.addr, entry.port);
		bpf_map_delete_elem(index_fd, &key);
		if (i < devices->agent->endpoints->n && devices->agent->endpoints->at[i].state != ENDPOINT_FREE &&
			devices->agent->endpoints->at[i].generation == entry.generation)
			continue;
		entry.state = ENDPOINT_MAP_FREE;
		bpf_map_update_elem(fd, &i, &entry, BPF_ANY);
		reset_stats(devices, i);
	}
}

int devices_new(struct agent *agent, struct datapath *datapath, struct llmd_bpf *bpf, struct devices **out)
{
	struct devices *devices = calloc(1, sizeof(*devices));
	int err;

	*out = devices;
	if (!devices)
		return -ENOMEM;
	devices->agent = agent;
	devices->datapath = datapath;
	devices->forget_noted = evtimer_new(agent->base, on_forget_noted, devices);
	err = devices->forget_noted ? 0 : -ENOMEM;
	err = err ? err : attach_new(bpf, &agent->config, &devices->attach);
	return err;
}

void devices_watch_endpoints(struct devices *devices)
{
	drop_old_endpoints(devices);
	devices->agent->endpoints->on_change = on_endpoint;
	devices->agent->endpoints->on_change_ctx = devices;
}

void devices_free(struct devices *devices)
{
	if (!devices)
		return;
	if (devices->agent->endpoints)
		devices->agent->endpoints->on_change = NULL;
	if (devices->forget_noted)
		event_free(devices->forget_noted);
	attach_free(devices->attach);
	free(devices);
}

int devices_cleanup(struct agent *agent)
{
	struct netlink *netlink;
	int err = netlink_new(agent->base, devices_changed, NULL, &netlink);

	if (err)
		return err;
	err = attach_cleanup(agent->config.pin_dir, netlink);
	netlink_free(netlink);
	return err;
}
