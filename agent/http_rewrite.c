// SPDX-License-Identifier: Apache-2.0
/*
 * Heads as they are passed on: hop-by-hop fields stay behind (RFC 9110 7.6.1), the agent's own names are not taken from
 * clients. Fields that Connection nominates go, too, unless they frame the message, authorize it or route it: else a
 * client could make the agent strip what the pod relies on.
 */
#include "agent/http_head.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

struct writer {
	char *out;
	size_t len, size;
};

/* What does not fit makes the length exceed the size for good: see result(). */
static void put(struct writer *writer, const char *data, size_t len)
{
	if (writer->len <= writer->size && len <= writer->size - writer->len)
		memcpy(writer->out + writer->len, data, len);
	writer->len += len;
}

static inline void put_text(struct writer *writer, const char *text)
{
	put(writer, text, strlen(text));
}

static void put_part(struct writer *writer, struct http_text text)
{
	put(writer, text.at, text.len);
}

static long result(const struct writer *writer)
{
	return writer->len <= writer->size ? (long)writer->len : -ENOBUFS;
}

/* Names with their lengths, ended by an empty one. */
#define NAME(text) { text, sizeof(text) - 1 }

static bool in_table(struct http_text name, const struct http_text *table)
{
	for (; table->len; table++)
		if (name.len == table->len && !strncasecmp(name.at, table->at, name.len))
			return true;
	return false;
}

/* CGI-style back ends take x_forwarded_for for X-Forwarded-For. */
static bool begins_folded(struct http_text name, const char *with)
{
	for (size_t i = 0; with[i]; i++) {
		char c;

		if (i == name.len)
			return false;
		c = name.at[i] == '_' ? '-' : name.at[i];
		if (strncasecmp(&c, &with[i], 1))
			return false;
	}
	return true;
}

static bool is_hop_by_hop(struct http_text name)
{
	static const struct http_text names[] = { NAME("Connection"), NAME("Keep-Alive"), NAME("Proxy-Connection"),
		NAME("Proxy-Authenticate"), NAME("Proxy-Authorization"), NAME("TE"), NAME("Upgrade"), { 0 } };

	return in_table(name, names);
}

static bool is_nominated(const struct http_head *head, struct http_text name)
{
	static const struct http_text kept[] = { NAME("Host"), NAME("Content-Length"), NAME("Transfer-Encoding"), NAME("Trailer"),
		NAME("Content-Type"), NAME("Authorization"), NAME("Cookie"), NAME("X-Session-ID"), NAME("x-request-id"), { 0 } };
	char text[128];

	if (name.len >= sizeof(text) || in_table(name, kept))
		return false;
	memcpy(text, name.at, name.len);
	text[name.len] = '\0';
	for (unsigned i = 0; i < head->n_fields; i++)
		if (http_text_equal_nocase(head->field[i].name, "Connection") && http_list_has(head->field[i].value, text))
			return true;
	return false;
}

static bool is_folded(struct http_text name, const char *const *table)
{
	for (; *table; table++)
		if (name.len == strlen(*table) && begins_folded(name, *table))
			return true;
	return false;
}

static bool is_own_name(struct http_text name)
{
	static const char *const own[] = { "x-prefiller-host-port", "Forwarded", "X-Real-IP", NULL };

	return is_folded(name, own) || begins_folded(name, "X-Forwarded-");
}

static bool is_framing(struct http_text name)
{
	static const char *const names[] = { "Content-Length", "Transfer-Encoding", "Host", NULL };

	return is_folded(name, names);
}

bool http_may_not_trail(struct http_text name)
{
	return is_own_name(name) || is_framing(name) || is_hop_by_hop(name);
}

/* Content_Length says nothing here, but would to a back end that folds names. Host is written apart. */
static bool is_for_pods(struct http_text name)
{
	bool disguised = is_framing(name) && memchr(name.at, '_', name.len);
	bool is_host = http_text_equal_nocase(name, "Host");

	return !disguised && !is_host && !is_hop_by_hop(name) && !is_own_name(name) && !http_text_equal_nocase(name, "Expect");
}

static void put_field(struct writer *writer, const struct http_field *field)
{
	put_part(writer, field->name);
	put_text(writer, ": ");
	put_part(writer, field->value);
	put_text(writer, "\r\n");
}

/* absolute-form goes to an origin server as origin-form. */
static void put_target(struct writer *writer, struct http_text target)
{
	struct http_text path = http_target_path(target);

	if (!path.len || *path.at == '?')
		put_text(writer, "/");
	put_part(writer, path);
}

/*
 * The pod gets HTTP/1.1, where Host is never missing, though a client that speaks 1.0 need not send one: then it is empty (RFC 9112
 * 3.2). An absolute-form names the host, whatever Host says (3.2.2).
 */
static void put_host(struct writer *writer, const struct http_head *head)
{
	const struct http_field *field = http_field_find(head, "Host");
	struct http_text authority = http_target_authority(head->target);

	if (!authority.len && field)
		authority = field->value;
	put_field(writer, &(struct http_field){ { "Host", 4 }, authority });
}

long http_request_rewrite(const struct http_head *head, const char *forwarded_for, const char *extra, bool close, char *out,
	size_t size)
{
	struct writer writer = { .out = out, .size = size };
	const struct http_field *own_id = strncmp(extra, "x-request-id:", 13) ? NULL : http_field_find(head, "x-request-id");
	bool nominates = http_field_find(head, "Connection");

	put_part(&writer, head->method_text);
	put_text(&writer, " ");
	put_target(&writer, head->target);
	put_text(&writer, " HTTP/1.1\r\n");
	put_host(&writer, head);
	for (unsigned i = 0; i < head->n_fields; i++) {
		struct http_text name = head->field[i].name;

		if (is_for_pods(name) && !(own_id && http_text_equal_nocase(name, "x-request-id")) &&
			!(nominates && is_nominated(head, name)))
			put_field(&writer, &head->field[i]);
	}
	put_text(&writer, "X-Forwarded-For: ");
	put_text(&writer, forwarded_for);
	put_text(&writer, "\r\n");
	put_text(&writer, extra);
	put_text(&writer, close ? "Connection: close\r\n\r\n" : "\r\n");
	return result(&writer);
}

static void put_status_line(struct writer *writer, const struct http_head *head)
{
	char status[] = { 'H', 'T', 'T', 'P', '/', '1', '.', '1', ' ', (char)('0' + head->status / 100),
		(char)('0' + head->status / 10 % 10), (char)('0' + head->status % 10), ' ' };

	put(writer, status, sizeof(status));
	put_part(writer, head->reason);
	put_text(writer, "\r\n");
}

/* Some servers frame a body where none may be, and some clients wait for it; after 304 and to HEAD the fields only tell (RFC 9110 8.6). */
static bool frames_nothing(const struct http_head *head, struct http_text name)
{
	return head->no_body && head->status != 304 &&
	       (http_text_equal_nocase(name, "Content-Length") || http_text_equal_nocase(name, "Transfer-Encoding"));
}

long http_response_rewrite(const struct http_head *head, bool close, bool say_keep_alive, const char *extra, char *out,
	size_t size)
{
	struct writer writer = { .out = out, .size = size };
	bool nominates = http_field_find(head, "Connection");

	put_status_line(&writer, head);
	for (unsigned i = 0; i < head->n_fields; i++)
		if (!is_hop_by_hop(head->field[i].name) && !frames_nothing(head, head->field[i].name) &&
			!(nominates && is_nominated(head, head->field[i].name)))
			put_field(&writer, &head->field[i]);
	put_text(&writer, extra);
	if (close)
		put_text(&writer, "Connection: close\r\n");
	else if (say_keep_alive)
		put_text(&writer, "Connection: keep-alive\r\n");
	put_text(&writer, "\r\n");
	return result(&writer);
}
