// SPDX-License-Identifier: Apache-2.0
/* Structured log lines: see log.h. A line is built in one buffer and leaves in one write(2). */
#include "lib/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static enum log_level threshold = LOG_LEVEL_INFO;
static enum log_format layout = LOG_FORMAT_TEXT;
static const char *const level_names[] = { "debug", "info", "warn", "error" };

struct line {
	size_t len;
	char text[LOG_LINE_MAX];
};

void log_setup(enum log_level level, enum log_format format)
{
	threshold = level;
	layout = format;
}

bool log_enabled(enum log_level level)
{
	return level >= threshold;
}

/* Leaves room for what closes the line. */
static void line_add(struct line *line, const char *text, size_t len)
{
	size_t room = sizeof(line->text) - 4 - line->len;

	if (len > room)
		len = room;
	memcpy(line->text + line->len, text, len);
	line->len += len;
}

static void line_add_text(struct line *line, const char *text)
{
	line_add(line, text, strlen(text));
}

const char *log_quote(const char *text, char *out, unsigned size)
{
	unsigned n = 0;

	if (size < 3)
		return "";
	out[n++] = '"';
	for (; *text && n + 8 < size; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\') {
			out[n++] = '\\';
			out[n++] = (char)c;
		} else if (c < 0x20 || c > 0x7e) { /* nor anything that might not be UTF-8 */
			n += (unsigned)snprintf(out + n, size - n, "\\u%04x", c);
		} else {
			out[n++] = (char)c;
		}
	}
	out[n++] = '"';
	out[n] = '\0';
	return out;
}

static size_t value_length(const char *value)
{
	size_t n = 0;

	if (*value != '"')
		return strcspn(value, " ");
	for (n = 1; value[n] && value[n] != '"'; n++)
		if (value[n] == '\\' && value[n + 1])
			n++;
	return n + (value[n] == '"');
}

static bool value_is_json(const char *value, size_t len)
{
	size_t digits = 0;
	bool dot = false;

	if (*value == '"' || (len == 4 && !memcmp(value, "true", 4)) || (len == 5 && !memcmp(value, "false", 5)))
		return true;
	for (size_t i = *value == '-'; i < len; i++) {
		if (value[i] == '.' && !dot && digits)
			dot = true;
		else if (value[i] >= '0' && value[i] <= '9')
			digits++;
		else
			return false;
	}
	return digits && digits < 16 && value[len - 1] != '.' && !(value[*value == '-'] == '0' && digits > 1 && !dot);
}

/* A value that was cut off, or one that no longer fits, is left out whole: the line stays valid JSON. */
static bool field_fits(const struct line *line, size_t name, const char *value, size_t len)
{
	bool cut = *value == '"' && (len < 2 || value[len - 1] != '"');

	return !cut && line->len + name + len + sizeof(",\"\":\"\"") < sizeof(line->text) - 4;
}

/* "a=1 b=x" becomes ,"a":1,"b":"x": values come unquoted only when they hold neither space nor quote. */
static void line_add_json_fields(struct line *line, const char *fields)
{
	while (*fields) {
		size_t name = strcspn(fields, "=");
		const char *value = fields + name + (fields[name] == '=');
		size_t len = value_length(value);
		bool bare = value_is_json(value, len);

		if (!field_fits(line, name, value, len))
			return;
		line_add_text(line, ",\"");
		line_add(line, fields, name);
		line_add_text(line, bare ? "\":" : "\":\"");
		line_add(line, value, len);
		line_add_text(line, bare ? "" : "\"");
		fields = value + len;
		fields += strspn(fields, " ");
	}
}

static void line_begin(struct line *line, enum log_level level, const char *message)
{
	struct timespec now;
	struct tm tm;
	char stamp[64];
	char head[256];
	size_t n;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	n = strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(stamp + n, sizeof(stamp) - n, ".%03ldZ", now.tv_nsec / 1000000);
	snprintf(head, sizeof(head),
		layout == LOG_FORMAT_JSON ? "{\"time\":\"%s\",\"level\":\"%s\",\"msg\":\"%s\"" : "time=%s level=%s msg=\"%s\"",
		stamp, level_names[level], message);
	line_add_text(line, head);
}

static void write_line(enum log_level level, const char *message, char *text)
{
	struct line line = { 0 };

	for (char *c = text; *c; c++)
		if ((unsigned char)*c < 0x20)
			*c = '?';
	line_begin(&line, level, message);
	if (layout == LOG_FORMAT_JSON) {
		line_add_json_fields(&line, text);
		line_add_text(&line, "}");
	} else if (*text) {
		line_add_text(&line, " ");
		line_add_text(&line, text);
	}
	line.text[line.len++] = '\n';
	if (write(STDERR_FILENO, line.text, line.len) < 0)
		return; /* nowhere left to say so */
}

void log_event(enum log_level level, const char *message, const char *fields, ...)
{
	char text[LOG_LINE_MAX] = "";
	va_list args;

	if (!log_enabled(level))
		return;
	if (fields) {
		va_start(args, fields);
		vsnprintf(text, sizeof(text), fields, args);
		va_end(args);
	}
	write_line(level, message, text);
}

/* Return: whether it is its turn; @passed_over: how many were not since the last one. */
static bool pace_take(struct log_pace *pace, unsigned lines, unsigned per_ms, unsigned long *passed_over)
{
	struct timespec now;
	uint64_t now_ms;

	clock_gettime(CLOCK_MONOTONIC, &now);
	now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
	if (!pace->begun_ms || now_ms - pace->begun_ms >= per_ms) {
		pace->begun_ms = now_ms;
		pace->used = 0;
	}
	if (pace->used == lines) {
		pace->passed_over++;
		return false;
	}
	pace->used++;
	*passed_over = pace->passed_over;
	pace->passed_over = 0;
	return true;
}

void log_paced(struct log_pace *pace, unsigned lines, unsigned per_ms, enum log_level level, const char *message, const char *fields, ...)
{
	char text[LOG_LINE_MAX];
	unsigned long passed_over = 0;
	va_list args;
	size_t n = 0;

	if (!pace_take(pace, lines, per_ms, &passed_over))
		level = LOG_LEVEL_DEBUG;
	if (!log_enabled(level))
		return;
	if (passed_over)
		n = (size_t)snprintf(text, sizeof(text), "passed_over=%lu ", passed_over);
	va_start(args, fields);
	vsnprintf(text + n, sizeof(text) - n, fields, args);
	va_end(args);
	write_line(level, message, text);
}
