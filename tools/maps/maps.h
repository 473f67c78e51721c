/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of llmd-maps share: pinned maps, the records read from them, and how these are shown.
 *
 * How it works: a noun (endpoint, session ...) collects records, which are raw keys and values as they lie in a map. For
 * output each becomes a row, a JSON object made by the noun's describe(): -j prints it as it is, and a table picks its
 * columns from it. So both show the same, and a map's contents are interpreted in one place only.
 *
 * All that comes from a map is outside input: any bits may be in it.
 */
#ifndef LLMD_TOOLS_MAPS_H
#define LLMD_TOOLS_MAPS_H

#include <assert.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "include/llmd/abi.h"
#include "lib/address.h"
#include "lib/option.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- pin.c: maps on disk ---- */

enum map_id {
	MAP_CONTROL,
	MAP_ENDPOINTS,
	MAP_ENDPOINT_INDEX,
	MAP_FRONTS,
	MAP_FLOWS,
	MAP_SLOTS,
	MAP_HANDSHAKES,
	MAP_AFFINITY,
	MAP_AFFINITY_SLOTS,
	MAP_ENDPOINT_STATS,
	MAP_COUNTERS,
	MAP_SESSIONS,
	MAP_PREFIXES,
	MAP_EVENTS,
	MAP_N
};

/**
 * struct maps - what is open of a pin directory.
 * @fd:        of each map, -1 if not open; @max: its size, in entries (of the ring buffer: in bytes).
 * @writable:  open for more than reading.
 * @slots:     the map of that name, @max[MAP_SLOTS] entries, in memory that others write, or where that needs rights that we
 *             do not have, as it was when it was opened; NULL as long as it is not open.
 * @endpoints: copy of the map of that name: indices in other maps become addresses by it.
 * @now_ns:    when the present output began.
 */
struct maps {
	const char *dir;
	int fd[MAP_N];
	uint32_t max[MAP_N];
	bool writable[MAP_N];
	const struct slot *slots;
	uint32_t n_endpoints;
	struct endpoint_entry endpoints[LLMD_ENDPOINT_MAX];
	struct control control;
	uint64_t now_ns;
};

/**
 * maps_init() - looks for the directory and, if it holds the map "control", checks the schema.
 * Return: 0, or -EIO after a line on standard error. Either way maps_close() is due.
 */
int maps_init(struct maps *maps, const char *dir);
void maps_close(struct maps *maps);

/** maps_refresh() - reads the time and the endpoints. Return: 0, or -EIO after a line on standard error. */
int maps_refresh(struct maps *maps);

/**
 * maps_open() - opens a map, for reading only unless @write, and checks that its shape is that of abi.h.
 * Return: 0, also if it was open before, or -EIO after a line on standard error.
 */
int maps_open(struct maps *maps, enum map_id id, bool write);

/** maps_try() - the same without a word. Return: 0, or -errno with the reason in @why. */
int maps_try(struct maps *maps, enum map_id id, bool write, char *why, size_t size);

/**
 * maps_walk() - calls @visit with each key and value of an open map, until it returns other than 0.
 * @visit: NULL only counts.
 * Return: the number of entries; -errno of the kernel, or what @visit returned if that is negative.
 */
typedef int maps_visit(void *ctx, const void *key, const void *value);
int64_t maps_walk(struct maps *maps, enum map_id id, maps_visit *visit, void *ctx);

/** maps_collect() - opens a map and walks it with @out as context. Return: 0, or -EIO after a line on standard error. */
struct records;
int maps_collect(struct maps *maps, enum map_id id, maps_visit *visit, struct records *out);
/** maps_remove() - Return: 0, or -EIO after a line on standard error. */
int maps_remove(struct maps *maps, enum map_id id, const void *key);

const char *maps_name(enum map_id id);
bool maps_agent_runs(const struct maps *maps);

/** maps_fail() - says "NAME: what: error". Return: -EIO. */
int maps_fail(const struct maps *maps, enum map_id id, const char *what, int err);

/* ---- percpu.c: values with a copy per CPU ---- */

/** percpu_read() - the entry @index, summed over all CPUs as @n_words numbers of 64 bits. Return: 0 or -errno. */
int percpu_read(struct maps *maps, enum map_id id, uint32_t index, __u64 *sum, size_t n_words);
/** percpu_clear() - sets all CPUs' copies to 0. Return: 0 or -errno. */
int percpu_clear(struct maps *maps, enum map_id id, uint32_t index, size_t n_words);
/** percpu_sum() - adds up @n_cpus values of @n_words numbers each. */
void percpu_sum(const __u64 *values, size_t n_cpus, size_t n_words, __u64 *sum);

/**
 * histogram_quantile() - estimates a quantile from the log2 buckets of struct endpoint_stats, evenly spread over a bucket's
 * logarithm; in the last bucket, which has no end, its beginning.
 * Return: seconds, or a negative number if the histogram is empty.
 */
double histogram_quantile(const __u64 buckets[LLMD_HISTOGRAM_N], double q);
uint64_t histogram_count(const __u64 buckets[LLMD_HISTOGRAM_N]);

/* ---- row.c: a record as a JSON object, the row ---- */

void row_add(struct json_object *row, const char *field, struct json_object *value);
void row_add_text(struct json_object *row, const char *field, const char *text); /* NULL: null */
/** row_add_raw_text() - text of at most @size bytes from a map; what is not printable ASCII becomes '?'. */
void row_add_raw_text(struct json_object *row, const char *field, const char *text, size_t size);
void row_add_number(struct json_object *row, const char *field, uint64_t number);
void row_add_seconds(struct json_object *row, const char *field, double seconds); /* negative: null */
/** row_add_since() - seconds from a time of the map's to now; null if there was none, 0 for a time to come. */
void row_add_since(struct json_object *row, const struct maps *maps, const char *field, uint64_t then_ns);
void row_add_hash(struct json_object *row, const char *field, uint64_t hash);
void row_add_address(struct json_object *row, const char *field, const uint32_t ip[4], uint16_t port_be);
void row_add_ip(struct json_object *row, const char *field, const uint32_t ip[4]);
/** row_add_name() - @names[value], or the number as text where it has none. */
void row_add_name(struct json_object *row, const char *field, const char *const *names, size_t n_names, uint32_t value);
/**
 * row_add_endpoint() - "endpoint", its address or null, "endpoint_index", and "endpoint_gone" if the generation is another one
 * by now or the index is none.
 */
void row_add_endpoint(struct json_object *row, const struct maps *maps, uint32_t index, uint32_t generation);

/** hash_parse() - 16 hex digits. Return: 0 or -EINVAL. */
int hash_parse(const char *text, uint64_t *hash);
/** endpoint_text() - the address of an index in use, whichever generation. Return: @text, or NULL. */
const char *endpoint_text(const struct maps *maps, uint32_t index, char text[ADDRESS_TEXT_MAX]);
struct address address_from_map(const uint32_t ip[4], uint16_t port_be);

/* ---- table.c, format.c: rows for people ---- */

enum format {
	FORMAT_TEXT,
	FORMAT_INDENTED, /* apart from the column before */
	FORMAT_NUMBER,
	FORMAT_RATE,
	FORMAT_BYTES,
	FORMAT_SECONDS,
	FORMAT_PERCENT,
	FORMAT_ENDPOINT, /* what "endpoint_index" says, too */
};

/**
 * struct column - a field of a row as people see it.
 * @title:   in the table's head; NULL: only shown by get.
 * @rate_of: a field that counts: this column shows its growth a second, in watch only.
 */
struct column {
	const char *field;
	const char *title;
	enum format format;
	const char *rate_of;
};

enum { CELL_MAX = 256 };

void format_bytes(double bytes, char *out, size_t size);
void format_seconds(double seconds, char *out, size_t size);
/** format_cell() - what a column shows of a row; "-" for null and what is missing. Never a control character. */
void format_cell(struct json_object *row, const struct column *column, char out[CELL_MAX]);

/**
 * struct row_source - rows made as they are needed. @row: the caller owns what it returns; NULL: out of memory.
 */
struct row_source {
	size_t n;
	struct json_object *(*at)(void *ctx, size_t i);
	void *ctx;
};

/** table_print() - head and rows, aligned. @rates: with the columns of growth. */
int table_print(FILE *out, const struct column *columns, size_t n_columns, const struct row_source *rows, bool rates);
/** table_print_row() - one row, a line a field. */
void table_print_row(FILE *out, const struct column *columns, size_t n_columns, struct json_object *row);
/** json_print_rows() - a JSON array; @lines: with a line for each row. */
int json_print_rows(FILE *out, const struct row_source *rows, bool lines);
void json_print(FILE *out, struct json_object *json);

/* ---- records.c ---- */

/** struct records - an array that grows, of what a noun calls its record. */
struct records {
	size_t size, n, room;
	char *at;
};

int records_add(struct records *records, const void *record); /* 0 or -ENOMEM */
void *records_get(const struct records *records, size_t i);
void records_free(struct records *records);

/* ---- the command line ---- */

struct maps_config {
	const char *pin_dir;
	bool json, hash;
	uint64_t limit, count, interval_ms;
	struct address admin;
};

struct noun;
struct request;

/**
 * struct verb - @takes_key: needs the noun's key. @asks_agent: needs no maps.
 * @run: Return: 0, or after a line on standard error -EINVAL for a wrong command line, -EIO for the rest; -ENOMEM without one.
 */
struct verb {
	const char *name;
	const char *help;
	bool takes_key, asks_agent;
	int (*run)(struct maps *maps, const struct request *request);
};

/**
 * struct noun - a kind of record.
 * @key:      placeholder of the operands that name one record; @keys_max: at most so many of them.
 * @verbs:    ended by NULL; without a word for it, the first one is meant if @verb_optional.
 * @collect:  all records. Return: 0, or -EIO after a line.
 * @find:     those that the operands name. Return: also -EINVAL after a line if they name none whatever the map holds.
 * @remove:   takes a found record out of its map; NULL if the verb is not there. Return: 0, or -EIO after a line.
 * @compare:  order for people; NULL: as collected.
 */
struct noun {
	const char *name, *help;
	const char *key, *key_help;
	int keys_max;
	bool verb_optional;
	const struct verb *const *verbs;
	size_t record_size;
	int (*collect)(struct maps *maps, struct records *out);
	int (*find)(struct maps *maps, const struct request *request, struct records *out);
	int (*remove)(struct maps *maps, const void *record);
	int (*compare)(const void *a, const void *b);
	struct json_object *(*describe)(const struct maps *maps, const void *record);
	const struct column *columns;
	size_t n_columns;
};

struct request {
	const struct noun *noun;
	const struct verb *verb;
	const struct maps_config *config;
	char **key;
	int n_keys;
};

/** key_invalid() - says that the operand @key is no key of the noun. Return: -EINVAL. */
int key_invalid(const struct request *request, const char *key);

extern const struct noun noun_endpoint, noun_session, noun_prefix, noun_flow, noun_affinity, noun_counter, noun_summary;
extern const struct verb verb_list, verb_get, verb_delete, verb_watch, verb_drain, verb_undrain;

/* ---- watch.c ---- */

/**
 * struct watch - what lasts from one picture to the next.
 * @before: what the rows of the last picture counted, by their first column's text; @seconds: that it is old; 0: there is none.
 * @rows_max: that fit on the screen; 0: no limit.
 */
struct watch {
	struct json_object *before;
	double seconds;
	size_t rows_max;
};

/**
 * watch_run() - calls @render again and again, on a terminal as a picture that is drawn over, until q, a signal or --count.
 * Where nobody watches (no terminal, no -j, no --count) once is enough.
 */
typedef int watch_render(struct maps *maps, const struct request *request, struct watch *watch, FILE *out);
int watch_run(struct maps *maps, const struct request *request, watch_render *render);
/** watch_add_rates() - adds to the row the columns with rate_of. */
void watch_add_rates(const struct watch *watch, const struct column *columns, size_t n_columns, struct json_object *row);

/* ---- what more than one noun reads ---- */

/** struct flow_record - @has, @entry: of both directions (0: of the client's packets), where they were looked up. */
struct flow_record {
	uint32_t index;
	bool looked_up, has[2];
	struct flow entry[2];
	struct slot slot;
};

/** slot_read() - a copy of one connection's slot, from memory that others write. Return: false if it is free. */
bool slot_read(const struct slot *slot, struct slot *copy);

struct endpoint_record {
	uint32_t index;
	uint64_t flows_now; /* slots in use */
	struct endpoint_entry entry;
	struct endpoint_stats stats;
};

struct counter_record {
	uint32_t reason;
	__u64 count;
};

/* For the summary, which shows what these nouns list. */
int endpoint_collect(struct maps *maps, struct records *out);
int counter_collect(struct maps *maps, struct records *out);

#endif
