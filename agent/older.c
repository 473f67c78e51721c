// SPDX-License-Identifier: Apache-2.0
/*
 * See older.h. Of another schema's maps only what llmd/abi.h promises is used: the keys of "flows", and of "slots" the
 * head: state, flags, time of the last packet.
 */
#include "agent/older.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/attach.h"
#include "agent/datapath.h"
#include "agent/endpoint.h"
#include "agent/pins.h"
#include "agent/upstream.h"
#include "lib/log.h"

enum { LOOK_S = 5, PORTS_MAX = 65536, SLOT_BYTES_MAX = 4096 };

struct used_port {
	uint32_t endpoint;
	uint16_t port;
};

struct older {
	struct agent *agent;
	struct event *timer;
	uint32_t n;
	struct used_port *ports;
};

/* The head of struct slot, the same in every schema. */
struct slot_head {
	uint32_t state, flags;
	uint64_t last_ns;
	uint32_t gen;
};

static bool is_live(const struct older *older, const struct slot_head *head)
{
	uint64_t idle_ns = older->agent->config.idle_timeout_ms * 1000000;

	return head->state != SLOT_FREE && !(head->flags & SLOT_ENDED) && agent_now_us() * 1000 < head->last_ns + idle_ns;
}

/* Return: 1 when a connection lives, 0, or -errno when the map is not what it should be. */
static int has_live_slots(const struct older *older, const char *dir)
{
	struct bpf_map_info info;
	char path[PIN_PATH_MAX], value[SLOT_BYTES_MAX];
	int fd = pin_open_map(pin_path(path, dir, "slots"), &info), found = 0;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	if (info.value_size > sizeof(value) || info.value_size < sizeof(struct slot_head))
		found = -EINVAL;
	for (uint32_t i = 0; !found && i < info.max_entries; i++) {
		struct slot_head head;

		if (bpf_map_lookup_elem(fd, &i, value))
			break;
		memcpy(&head, value, sizeof(head));
		found = is_live(older, &head);
	}
	close(fd);
	return found;
}

static void reserve_port(struct older *older, const struct flow_key *key)
{
	struct agent *agent = older->agent;
	struct address pod = { .port_be = key->sport };
	int endpoint;

	memcpy(pod.ip, key->saddr, sizeof(pod.ip));
	endpoint = endpoint_find(agent->endpoints, &pod);
	if (endpoint < 0 || older->n == PORTS_MAX)
		return;
	upstream_reserve_port(agent->upstreams, (uint32_t)endpoint, be16toh(key->dport));
	older->ports[older->n++] = (struct used_port){ (uint32_t)endpoint, be16toh(key->dport) };
}

static void reserve_ports(struct older *older, const char *dir)
{
	struct bpf_map_info info;
	char path[PIN_PATH_MAX];
	struct flow_key key, *last = NULL;
	int fd = pin_open_map(pin_path(path, dir, "flows"), &info);

	if (fd < 0)
		return;
	if (info.key_size == sizeof(key)) {
		while (!bpf_map_get_next_key(fd, last, &key)) {
			reserve_port(older, &key);
			last = &key;
		}
	}
	close(fd);
}

/* Not while its agent is at work still, nor may one begin meanwhile. */
static void remove_if_done(struct older *older, const char *dir)
{
	int lock = pins_lock(dir), err;

	if (lock < 0)
		return;
	if (!has_live_slots(older, dir)) {
		err = attach_cleanup(dir, datapath_netlink(older->agent->datapath));
		err = err ? err : pins_remove(dir);
		log_info("another schema's state removed", "dir=%s errno=%d", dir, -err);
	}
	close(lock);
}

/* Calls @visit for each directory beside --pin-dir whose name is a version. Return: how many there are. */
static unsigned each_sibling(struct older *older, void (*visit)(struct older *, const char *dir))
{
	char own[PIN_PATH_MAX], parent[PIN_PATH_MAX], path[PIN_PATH_MAX];
	struct dirent *entry;
	const char *name;
	unsigned n = 0;
	DIR *dir;

	snprintf(own, sizeof(own), "%s", older->agent->config.pin_dir);
	snprintf(parent, sizeof(parent), "%s", own);
	name = basename(own);
	dir = *name == 'v' ? opendir(dirname(parent)) : NULL;
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] != 'v' || !strcmp(entry->d_name, name) || strspn(entry->d_name + 1, "0123456789") != strlen(entry->d_name + 1))
			continue;
		n++;
		visit(older, pin_path(path, parent, entry->d_name));
	}
	if (dir)
		closedir(dir);
	return n;
}

static void give_ports_back(struct older *older)
{
	for (uint32_t i = 0; i < older->n; i++)
		upstream_give_port(older->agent->upstreams, older->ports[i].endpoint, older->ports[i].port);
	older->n = 0;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	const struct timeval again = { .tv_sec = LOOK_S };
	struct older *older = arg;

	(void)fd, (void)what;
	if (each_sibling(older, remove_if_done))
		evtimer_add(older->timer, &again);
	else
		give_ports_back(older);
}

int older_new(struct agent *agent, struct older **out)
{
	const struct timeval soon = { .tv_sec = LOOK_S };
	struct older *older = calloc(1, sizeof(*older));

	*out = older;
	if (!older)
		return -ENOMEM;
	older->agent = agent;
	older->timer = evtimer_new(agent->base, on_timer, older);
	older->ports = calloc(PORTS_MAX, sizeof(older->ports[0]));
	if (!older->timer || !older->ports)
		return -ENOMEM;
	if (each_sibling(older, reserve_ports))
		evtimer_add(older->timer, &soon);
	return 0;
}

void older_free(struct older *older)
{
	if (!older)
		return;
	if (older->timer)
		event_free(older->timer);
	free(older->ports);
	free(older);
}
