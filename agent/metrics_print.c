// SPDX-License-Identifier: Apache-2.0
/*
 * How samples are written: see metrics_print.h. A scrape of a thousand pods has some hundred thousand lines, so they are put
 * together by hand: printf() takes several times as long.
 */
#include "agent/metrics_print.h"

#include <assert.h>
#include <string.h>

static_assert((int)SCRAPE_BOUNDS_MAX > HISTOGRAM_BUCKETS_MAX, "room for the bounds of any histogram");

enum { LINE_MAX_BYTES = 512, LINES_BYTES = 8 * LINE_MAX_BYTES, DIGITS_MAX = 20 };

/** struct line - one, or some that are added together. */
struct line {
	size_t n;
	char text[LINES_BYTES];
};

static void put_bytes(struct line *line, const char *text, size_t n)
{
	if (n > sizeof(line->text) - line->n)
		n = sizeof(line->text) - line->n;
	memcpy(line->text + line->n, text, n);
	line->n += n;
}

static void put(struct line *line, const char *text)
{
	put_bytes(line, text, strlen(text));
}

static void put_number(struct line *line, uint64_t number)
{
	char digits[DIGITS_MAX];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	put_bytes(line, digits + at, sizeof(digits) - at);
}

static void put_label(struct line *line, const char *label, const char *value)
{
	put(line, label);
	put(line, "=\"");
	put(line, value);
	put(line, "\"");
}

static void put_name(struct line *line, const struct scrape *scrape, const char *suffix)
{
	put(line, scrape->family->name);
	put(line, suffix);
}

/* As "%.6f". */
static void put_micros(struct line *line, double number)
{
	uint64_t micros = (uint64_t)((number < 0 ? -number : number) * 1e6 + 0.5);
	char digits[7] = ".";

	for (int i = 6; i > 0; i--, micros /= 10)
		digits[i] = (char)('0' + micros % 10);
	if (number < 0)
		put(line, "-");
	put_number(line, micros);
	put_bytes(line, digits, sizeof(digits));
}

static void end_number(struct line *line, struct scrape *scrape, uint64_t number)
{
	put(line, " ");
	put_number(line, number);
	put(line, "\n");
	evbuffer_add(scrape->out, line->text, line->n);
}

static void begin(struct line *line, const struct scrape *scrape, const char *suffix, const char *labels)
{
	line->n = 0; /* the text is not worth clearing */
	put_name(line, scrape, suffix);
	if (*labels) {
		put(line, "{");
		put(line, labels);
		put(line, "}");
	}
}

void sample(struct scrape *scrape, const char *suffix, const char *labels, uint64_t number)
{
	struct line line;

	begin(&line, scrape, suffix, labels);
	end_number(&line, scrape, number);
}

void sample_double(struct scrape *scrape, const char *suffix, const char *labels, double number)
{
	struct line line;

	begin(&line, scrape, suffix, labels);
	put(&line, " ");
	put_micros(&line, number);
	put(&line, "\n");
	evbuffer_add(scrape->out, line.text, line.n);
}

void sample_u64(struct scrape *scrape, uint64_t number)
{
	sample(scrape, "", "", number);
}

void sample_label(struct scrape *scrape, const char *label, const char *value, uint64_t number)
{
	struct line line;

	line.n = 0;
	put_name(&line, scrape, "{");
	put_label(&line, label, value);
	put(&line, "}");
	end_number(&line, scrape, number);
}

void sample_pod_double(struct scrape *scrape, const struct endpoint *pod, double number)
{
	struct line line;

	line.n = 0;
	put_name(&line, scrape, "{");
	put_label(&line, "pod", pod->name);
	put(&line, "} ");
	put_micros(&line, number);
	put(&line, "\n");
	evbuffer_add(scrape->out, line.text, line.n);
}

void sample_pod(struct scrape *scrape, const struct endpoint *pod, const char *label, const char *value, uint64_t number)
{
	struct line line;

	line.n = 0;
	put_name(&line, scrape, "{");
	put_label(&line, "pod", pod->name);
	if (label) {
		put(&line, ",");
		put_label(&line, label, value);
	}
	put(&line, "}");
	end_number(&line, scrape, number);
}

/* ---- histograms ---- */

static void format_bounds(struct scrape *scrape, const struct buckets *buckets)
{
	if (scrape->bounds == buckets->bounds)
		return;
	for (size_t i = 0; i < buckets->n_bounds; i++)
		snprintf(scrape->le[i], sizeof(scrape->le[i]), "%.9g", buckets->bounds[i]);
	scrape->bounds = buckets->bounds;
}

/* What all buckets of a histogram begin with. */
static void bucket_head(struct line *head, const struct scrape *scrape, const char *labels)
{
	head->n = 0;
	put_name(head, scrape, "_bucket{");
	put(head, labels);
	put(head, *labels ? ",le=\"" : "le=\"");
}

static void put_bucket(struct line *out, struct scrape *scrape, const struct line *head, const char *le, uint64_t number)
{
	if (out->n > sizeof(out->text) - LINE_MAX_BYTES) {
		evbuffer_add(scrape->out, out->text, out->n);
		out->n = 0;
	}
	put_bytes(out, head->text, head->n);
	put(out, le);
	put(out, "\"} ");
	put_number(out, number);
	put(out, "\n");
}

void print_buckets(struct scrape *scrape, const struct buckets *buckets, const struct endpoint *pod)
{
	char labels[SCRAPE_LABELS_MAX] = "";
	struct line head, lines;
	uint64_t below = 0;

	format_bounds(scrape, buckets);
	if (pod)
		snprintf(labels, sizeof(labels), "pod=\"%s\"", pod->name);
	bucket_head(&head, scrape, labels);
	lines.n = 0;
	for (size_t i = 0; i < buckets->n_bounds; i++) {
		below += buckets->count[i];
		put_bucket(&lines, scrape, &head, scrape->le[i], below);
	}
	below += buckets->count[buckets->n_bounds];
	put_bucket(&lines, scrape, &head, "+Inf", below);
	evbuffer_add(scrape->out, lines.text, lines.n);
	sample_double(scrape, "_sum", labels, buckets->sum);
	sample(scrape, "_count", labels, below);
}

void print_histogram(struct scrape *scrape, const struct histogram *histogram, const struct endpoint *pod)
{
	const struct buckets buckets = { histogram->bounds, histogram->n_bounds, histogram->count, histogram->sum };

	print_buckets(scrape, &buckets, pod);
}

/* ---- families ---- */

void each_pod(struct scrape *scrape, void (*print)(struct scrape *, uint32_t, const struct endpoint *))
{
	for (uint32_t i = 0; i < scrape->endpoints->n; i++)
		if (scrape->endpoints->at[i].state != ENDPOINT_FREE)
			print(scrape, i, &scrape->endpoints->at[i]);
}

void print_families(struct scrape *scrape, const struct family *families, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		scrape->family = &families[i];
		evbuffer_add_printf(scrape->out, "# HELP %s %s\n# TYPE %s %s\n", families[i].name, families[i].help, families[i].name,
			families[i].type);
		families[i].print(scrape);
	}
}

/* By its name, as Prometheus asks of names; what counts something else than these is a plain number. */
static const char *family_unit(const char *name)
{
	static const char *const units[] = { "seconds", "bytes", "tokens", "blocks", "packets", "requests", "sessions", "connections",
		"decisions", "prompts", "flows", "entries", "segments" };
	const char *best = "1", *last = name;

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		const char *at = strstr(name, units[i]);

		if (at && at >= last) {
			best = units[i];
			last = at;
		}
	}
	return best;
}

void print_families_markdown(FILE *out, const struct family *families, size_t n)
{
	for (size_t i = 0; i < n; i++)
		fprintf(out, "| `%s` | %s | %s | %s | %s | `%s` |\n", families[i].name, families[i].type, family_unit(families[i].name),
			families[i].labels, families[i].help, families[i].query);
}
