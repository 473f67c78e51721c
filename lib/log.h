/* SPDX-License-Identifier: Apache-2.0 */
/* Structured log lines on standard error: key=value (logfmt) or one JSON object a line. */
#ifndef LLMD_LIB_LOG_H
#define LLMD_LIB_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

void log_setup(enum log_level level, enum log_format format);

/** log_enabled() - lets a caller skip the preparation of fields that nobody will see. */
bool log_enabled(enum log_level level);

/**
 * log_event() - one line: time, level, message, then fields.
 * @message: constant text, what happened ("endpoint state changed").
 * @fields:  format of the fields, pairs "name=%d other=%s"; values that may hold spaces, quotes or control
 *           characters are passed through log_quote() by the caller's format "%s" of its result. NULL: no fields.
 *
 * A line holds at most LOG_LINE_MAX bytes; what is over is cut. Bytes below 0x20 never reach the output.
 */
#define LOG_LINE_MAX 4096
void log_event(enum log_level level, const char *message, const char *fields, ...)
	__attribute__((format(printf, 3, 4)));

/** struct log_pace - of one place from which lines may come faster than anybody reads them. Zero to begin with. */
struct log_pace {
	uint64_t begun_ms;
	unsigned used;
	unsigned long passed_over;
};

/**
 * log_paced() - as log_event(), but at most @lines in @per_ms. The first one after that says how many were passed over
 * ("passed_over=7"). At level debug all are there.
 */
void log_paced(struct log_pace *pace, unsigned lines, unsigned per_ms, enum log_level level, const char *message, const char *fields, ...)
	__attribute__((format(printf, 6, 7)));

/** log_quote() - @text as a double-quoted string with JSON's escapes, cut to fit @size. Return: @out. */
const char *log_quote(const char *text, char *out, unsigned size);

#define log_debug(...) \
	do { \
		if (log_enabled(LOG_LEVEL_DEBUG)) \
			log_event(LOG_LEVEL_DEBUG, __VA_ARGS__); \
	} while (0)
#define log_info(...)  log_event(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_warn(...)  log_event(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_error(...) log_event(LOG_LEVEL_ERROR, __VA_ARGS__)

#endif
