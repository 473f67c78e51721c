// SPDX-License-Identifier: Apache-2.0
/* The maps on disk: see maps.h. Nothing here needs an agent that runs. */
#include "tools/maps/maps.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { BATCH_START = 4096, BATCH_MAX = 1 << 20 };

/* As in bpf/maps.h. @value: of one CPU, without the rounding that per-CPU values get. */
static const struct map_shape {
	const char *name;
	uint32_t type, key, value;
} shapes[] = {
	[MAP_CONTROL] = { "control", BPF_MAP_TYPE_ARRAY, 4, sizeof(struct control) },
	[MAP_ENDPOINTS] = { "endpoints", BPF_MAP_TYPE_ARRAY, 4, sizeof(struct endpoint_entry) },
	[MAP_ENDPOINT_INDEX] = { "endpoint_index", BPF_MAP_TYPE_HASH, sizeof(struct front), 4 },
	[MAP_FRONTS] = { "fronts", BPF_MAP_TYPE_HASH, sizeof(struct front), sizeof(struct front_info) },
	[MAP_FLOWS] = { "flows", BPF_MAP_TYPE_HASH, sizeof(struct flow_key), sizeof(struct flow) },
	[MAP_SLOTS] = { "slots", BPF_MAP_TYPE_ARRAY, 4, sizeof(struct slot) },
	[MAP_HANDSHAKES] = { "handshakes", BPF_MAP_TYPE_LRU_HASH, sizeof(struct flow_key), sizeof(struct handshake) },
	[MAP_AFFINITY] = { "affinity", BPF_MAP_TYPE_LRU_HASH, sizeof(struct affinity_key), sizeof(struct affinity_entry) },
	[MAP_AFFINITY_SLOTS] = { "affinity_slots", BPF_MAP_TYPE_QUEUE, 0, 4 },
	[MAP_ENDPOINT_STATS] = { "endpoint_stats", BPF_MAP_TYPE_PERCPU_ARRAY, 4, sizeof(struct endpoint_stats) },
	[MAP_COUNTERS] = { "counters", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8 },
	[MAP_SESSIONS] = { "sessions", BPF_MAP_TYPE_LRU_HASH, 8, sizeof(struct session_entry) },
	[MAP_PREFIXES] = { "prefixes", BPF_MAP_TYPE_LRU_HASH, 8, sizeof(struct prefix_entry) },
	[MAP_EVENTS] = { "events", BPF_MAP_TYPE_RINGBUF, 0, 0 },
};
static_assert(COUNT(shapes) == MAP_N, "each map has a shape");

const char *maps_name(enum map_id id)
{
	return shapes[id].name;
}

/* Valid until the next call. */
static const char *maps_path(const struct maps *maps, enum map_id id)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", maps->dir, shapes[id].name);
	return path;
}

int maps_fail(const struct maps *maps, enum map_id id, const char *what, int err)
{
	fprintf(stderr, "llmd-maps: %s: %s: %s\n", maps_path(maps, id), what, strerror(-err));
	return -EIO;
}

static int obj_get(const char *path, bool write)
{
	LIBBPF_OPTS(bpf_obj_get_opts, options, .file_flags = write ? 0 : BPF_F_RDONLY);
	int fd = bpf_obj_get_opts(path, &options);

	return fd < 0 ? -errno : fd;
}

static const char *why_not_open(int err)
{
	switch (-err) {
	case ENOENT:
		return "is not pinned: no agent that hands over to the kernel has run here";
	case EACCES:
	case EPERM:
		return "permission denied: run as root";
	default:
		return strerror(-err);
	}
}

/* A map of another shape was made by another version: reading it as ours would show nonsense, or overrun our buffers. */
static int check_shape(enum map_id id, int fd, uint32_t *max, char *why, size_t size)
{
	const struct map_shape *shape = &shapes[id];
	struct bpf_map_info info = { 0 };
	uint32_t len = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &len)) {
		snprintf(why, size, "is not a map: %s", strerror(errno));
		return -EINVAL;
	}
	*max = info.max_entries;
	if (info.type == shape->type && info.key_size == shape->key && info.value_size == shape->value)
		return 0;
	snprintf(why, size, "has another schema: type %u with keys of %u and values of %u bytes, where schema %d has type %u, %u and %u",
		info.type, info.key_size, info.value_size, LLMD_SCHEMA, shape->type, shape->key, shape->value);
	return -EINVAL;
}

static size_t slots_size(const struct maps *maps)
{
	return (size_t)maps->max[MAP_SLOTS] * sizeof(struct slot);
}

static int copy_slot(void *ctx, const void *key, const void *value)
{
	struct maps *maps = ctx;
	uint32_t index;

	memcpy(&index, key, sizeof(index));
	if (index < maps->max[MAP_SLOTS])
		memcpy((struct slot *)maps->slots + index, value, sizeof(struct slot));
	return 0;
}

/* The kernel maps an array only for those who may also write it; who may not, gets a copy, which takes ten times as long. */
static int show_slots(struct maps *maps, char *why, size_t size)
{
	bool copied = !maps->writable[MAP_SLOTS];
	void *at = copied ? mmap(NULL, slots_size(maps), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) :
			    mmap(NULL, slots_size(maps), PROT_READ, MAP_SHARED, maps->fd[MAP_SLOTS], 0);
	int64_t n;

	if (at == MAP_FAILED) {
		snprintf(why, size, "cannot be mapped: %s", strerror(errno));
		return -EIO;
	}
	maps->slots = at;
	n = copied ? maps_walk(maps, MAP_SLOTS, copy_slot, maps) : 0;
	if (n < 0)
		snprintf(why, size, "cannot be read: %s", strerror((int)-n));
	return n < 0 ? -EIO : 0;
}

static void close_map(struct maps *maps, enum map_id id)
{
	if (id == MAP_SLOTS && maps->slots) {
		munmap((void *)maps->slots, slots_size(maps));
		maps->slots = NULL;
	}
	if (maps->fd[id] >= 0)
		close(maps->fd[id]);
	maps->fd[id] = -1;
}

/* Maps that are looked at through memory are opened for writing, too, if that is allowed. */
static int open_fd(struct maps *maps, enum map_id id, bool write)
{
	bool mapped = id == MAP_SLOTS || id == MAP_EVENTS;
	int fd = obj_get(maps_path(maps, id), write || mapped);

	maps->writable[id] = fd >= 0 && (write || mapped);
	if (fd == -EACCES && mapped && !write)
		fd = obj_get(maps_path(maps, id), false);
	return fd;
}

int maps_try(struct maps *maps, enum map_id id, bool write, char *why, size_t size)
{
	int fd, err;

	if (maps->fd[id] >= 0 && (maps->writable[id] || !write))
		return 0;
	close_map(maps, id);
	fd = open_fd(maps, id, write);
	if (fd < 0) {
		snprintf(why, size, "%s", why_not_open(fd));
		return fd;
	}
	maps->fd[id] = fd;
	err = check_shape(id, fd, &maps->max[id], why, size);
	if (!err && id == MAP_SLOTS)
		err = show_slots(maps, why, size);
	if (err)
		close_map(maps, id);
	return err;
}

int maps_open(struct maps *maps, enum map_id id, bool write)
{
	char why[256];

	if (!maps_try(maps, id, write, why, sizeof(why)))
		return 0;
	fprintf(stderr, "llmd-maps: %s %s\n", maps_path(maps, id), why);
	return -EIO;
}

/* ---- the directory ---- */

static int check_dir(const struct maps *maps)
{
	int fd = open(maps->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0) {
		close(fd);
		return 0;
	}
	if (errno == ENOENT)
		fprintf(stderr, "llmd-maps: %s: no such directory: no agent that hands over to the kernel has run here with this "
				"--pin-dir since the node started, or the BPF file system is not mounted here\n", maps->dir);
	else
		fprintf(stderr, "llmd-maps: %s: %s%s\n", maps->dir, strerror(errno), errno == EACCES ? ": run as root" : "");
	return -EIO;
}

static int check_schema(struct maps *maps)
{
	uint32_t zero = 0;

	if (maps_open(maps, MAP_CONTROL, false))
		return -EIO;
	if (bpf_map_lookup_elem(maps->fd[MAP_CONTROL], &zero, &maps->control))
		return maps_fail(maps, MAP_CONTROL, "cannot be read", -errno);
	if (maps->control.schema == LLMD_SCHEMA)
		return 0;
	fprintf(stderr, "llmd-maps: %s says schema %u, but this llmd-maps knows schema %d only\n", maps_path(maps, MAP_CONTROL),
		maps->control.schema, LLMD_SCHEMA);
	return -EIO;
}

int maps_init(struct maps *maps, const char *dir)
{
	memset(maps, 0, sizeof(*maps));
	maps->dir = dir;
	for (enum map_id id = 0; id < MAP_N; id++)
		maps->fd[id] = -1;
	return check_dir(maps) ? -EIO : check_schema(maps);
}

void maps_close(struct maps *maps)
{
	for (enum map_id id = 0; id < MAP_N; id++)
		close_map(maps, id);
}

static int copy_endpoint(void *ctx, const void *key, const void *value)
{
	struct maps *maps = ctx;
	uint32_t index;

	memcpy(&index, key, sizeof(index));
	if (index < COUNT(maps->endpoints))
		memcpy(&maps->endpoints[index], value, sizeof(maps->endpoints[0]));
	return 0;
}

int maps_refresh(struct maps *maps)
{
	struct timespec now;
	int64_t n;

	clock_gettime(CLOCK_MONOTONIC, &now);
	maps->now_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	if (maps_open(maps, MAP_ENDPOINTS, false))
		return -EIO;
	n = maps_walk(maps, MAP_ENDPOINTS, copy_endpoint, maps);
	if (n < 0)
		return maps_fail(maps, MAP_ENDPOINTS, "cannot be read", (int)n);
	maps->n_endpoints = (uint32_t)(n < LLMD_ENDPOINT_MAX ? n : LLMD_ENDPOINT_MAX);
	return 0;
}

/* An agent holds an exclusive lock on its directory as long as it lives, however it ends. Ours is let go at once. */
bool maps_agent_runs(const struct maps *maps)
{
	int fd = open(maps->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool held = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;

	if (fd >= 0)
		close(fd);
	return held;
}

/* ---- walking ---- */

struct batch {
	uint32_t room;
	char *keys, *values;
	uint32_t from[16], to[16]; /* where the kernel goes on: a bucket, or a key of an array */
	bool started;
};

static int batch_resize(struct batch *batch, const struct map_shape *shape, uint32_t room)
{
	free(batch->keys);
	free(batch->values);
	batch->keys = calloc(room, shape->key);
	batch->values = calloc(room, shape->value);
	batch->room = room;
	return batch->keys && batch->values ? 0 : -ENOMEM;
}

/* One call. A hash bucket that does not fit whole is refused with ENOSPC: then with more room. Return: 1 at the end. */
static int batch_next(struct batch *batch, int fd, const struct map_shape *shape, uint32_t *n)
{
	LIBBPF_OPTS(bpf_map_batch_opts, options);
	int err;

	for (;;) {
		*n = batch->room;
		err = bpf_map_lookup_batch(fd, batch->started ? batch->from : NULL, batch->to, batch->keys, batch->values, n, &options);
		if (err != -ENOSPC || *n)
			break;
		if (batch->room >= BATCH_MAX)
			return -ENOSPC;
		err = batch_resize(batch, shape, 2 * batch->room);
		if (err)
			return err;
	}
	if (err && err != -ENOENT && err != -ENOSPC)
		return err;
	memcpy(batch->from, batch->to, sizeof(batch->from));
	batch->started = true;
	return err == -ENOENT;
}

static int batch_visit(const struct batch *batch, const struct map_shape *shape, uint32_t n, maps_visit *visit, void *ctx)
{
	int err = 0;

	for (uint32_t i = 0; visit && i < n && !err; i++)
		err = visit(ctx, batch->keys + (size_t)i * shape->key, batch->values + (size_t)i * shape->value);
	return err;
}

int64_t maps_walk(struct maps *maps, enum map_id id, maps_visit *visit, void *ctx)
{
	const struct map_shape *shape = &shapes[id];
	struct batch batch = { 0 };
	int64_t total = 0;
	int err = batch_resize(&batch, shape, BATCH_START), stop = 0;
	uint32_t n;

	while (!stop && err >= 0) {
		err = stop = batch_next(&batch, maps->fd[id], shape, &n);
		if (err < 0)
			break;
		total += n;
		err = batch_visit(&batch, shape, n, visit, ctx);
		if (err)
			break;
	}
	free(batch.keys);
	free(batch.values);
	return err < 0 ? err : total;
}

int maps_collect(struct maps *maps, enum map_id id, maps_visit *visit, struct records *out)
{
	int64_t n;

	if (maps_open(maps, id, false))
		return -EIO;
	n = maps_walk(maps, id, visit, out);
	return n < 0 ? maps_fail(maps, id, "cannot be read", (int)n) : 0;
}

int maps_remove(struct maps *maps, enum map_id id, const void *key)
{
	if (maps_open(maps, id, true))
		return -EIO;
	return bpf_map_delete_elem(maps->fd[id], key) ? maps_fail(maps, id, "cannot delete", -errno) : 0;
}
