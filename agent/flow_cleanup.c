// SPDX-License-Identifier: Apache-2.0
/*
 * See flow_cleanup.h. Without programs the node's stack answers whoever still sends with RST. But of a stream mostly the pod sends,
 * and the client, which has said all, would wait for ever.
 */
#include "agent/flow_cleanup.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/flow_private.h"
#include "agent/pins.h"
#include "lib/log.h"

/* A pinned map whose values are what this build takes them for. Return: its descriptor, or -1. */
static int open_map(const char *pin_dir, const char *name, uint32_t value_size, uint32_t *n)
{
	struct bpf_map_info info;
	char path[PIN_PATH_MAX];
	int fd = pin_open_map(pin_path(path, pin_dir, name), &info);

	if (fd < 0)
		return -1;
	*n = info.max_entries;
	if (info.value_size == value_size)
		return fd;
	close(fd);
	return -1;
}

static uint32_t reset_all(int slots_fd, uint32_t n, int flows_fd)
{
	const struct slot *slots = mmap(NULL, n * sizeof(*slots), PROT_READ, MAP_SHARED, slots_fd, 0);
	uint32_t done = 0;

	if (slots == MAP_FAILED)
		return 0;
	for (uint32_t i = 0; i < n; i++) {
		int err[2];

		if (slots[i].state != SLOT_FREE && !(slots[i].flags & SLOT_ENDED))
			done += flow_end_both(flows_fd, &slots[i], i, err);
	}
	munmap((void *)slots, n * sizeof(*slots));
	return done;
}

void flow_cleanup(const char *pin_dir)
{
	uint32_t n = 0, n_flows = 0, done = 0;
	int slots_fd = open_map(pin_dir, "slots", sizeof(struct slot), &n);
	int flows_fd = open_map(pin_dir, "flows", sizeof(struct flow), &n_flows);

	if (slots_fd >= 0 && flows_fd >= 0)
		done = reset_all(slots_fd, n, flows_fd);
	if (done)
		log_info("flows reset", "flows=%u", done);
	if (slots_fd >= 0)
		close(slots_fd);
	if (flows_fd >= 0)
		close(flows_fd);
}
