// SPDX-License-Identifier: Apache-2.0
/* Draining a pod: a request to the agent's admin port, for a pod's state is the agent's to set. See maps.h. */
#include "tools/maps/maps.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { TIMEOUT_S = 5, ANSWER_MAX = 16384 };

struct answer {
	size_t len;
	char text[ANSWER_MAX];
};

static size_t take_answer(char *data, size_t size, size_t n, void *ctx)
{
	struct answer *answer = ctx;
	size_t room = sizeof(answer->text) - 1 - answer->len;

	n *= size;
	memcpy(answer->text + answer->len, data, n < room ? n : room);
	answer->len += n < room ? n : room;
	return n;
}

static void set_options(CURL *curl, const char *url, struct answer *answer)
{
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_POST, 1L);
	curl_easy_setopt(curl, CURLOPT_POSTFIELDS, "");
	curl_easy_setopt(curl, CURLOPT_PROXY, ""); /* the agent is on this node, whatever http_proxy says */
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http");
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_answer);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
}

/* The agent's own words are in error.message. */
static int refused(const char *url, long status, struct json_object *json)
{
	struct json_object *error = NULL, *message = NULL;
	struct json_object *row = json_object_new_object();

	if (json_object_is_type(json, json_type_object) && json_object_object_get_ex(json, "error", &error) &&
		json_object_is_type(error, json_type_object) && json_object_object_get_ex(error, "message", &message))
		row_add_raw_text(row, "message", json_object_get_string(message), CELL_MAX);
	message = json_object_object_get(row, "message");
	fprintf(stderr, "llmd-maps: %s answered %ld: %s\n", url, status, message ? json_object_get_string(message) : "no reason given");
	json_object_put(row);
	return -EIO;
}

static int post(CURL *curl, const char *url, bool print_json)
{
	struct answer answer = { 0 };
	struct json_object *json;
	CURLcode code;
	long status = 0;
	int err = 0;

	set_options(curl, url, &answer);
	code = curl_easy_perform(curl);
	if (code != CURLE_OK) {
		fprintf(stderr, "llmd-maps: %s: %s: is the agent running, and --admin its address?\n", url, curl_easy_strerror(code));
		return -EIO;
	}
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	json = json_tokener_parse(answer.text);
	if (status != 200 || !json)
		err = refused(url, status, json);
	else if (print_json)
		json_print(stdout, json);
	else
		table_print_row(stdout, NULL, 0, json);
	json_object_put(json);
	return err;
}

static int ask_agent(const struct request *request, const char *what)
{
	struct address endpoint;
	char admin[ADDRESS_TEXT_MAX], name[ADDRESS_TEXT_MAX], url[4 * ADDRESS_TEXT_MAX];
	CURL *curl;
	char *escaped;
	int err;

	if (address_parse(&endpoint, request->key[0]))
		return key_invalid(request, request->key[0]);
	curl = curl_easy_init();
	escaped = curl ? curl_easy_escape(curl, address_format(&endpoint, name), 0) : NULL;
	if (escaped) {
		snprintf(url, sizeof(url), "http://%s/v1/endpoints/%s/%s", address_format(&request->config->admin, admin), escaped, what);
		err = post(curl, url, request->config->json);
	} else {
		err = -EIO;
	}
	curl_free(escaped);
	curl_easy_cleanup(curl);
	return err;
}

static int run_drain(struct maps *maps, const struct request *request)
{
	(void)maps;
	return ask_agent(request, "drain");
}

static int run_undrain(struct maps *maps, const struct request *request)
{
	(void)maps;
	return ask_agent(request, "undrain");
}

const struct verb verb_drain = { "drain", "Ask the agent at --admin to give it no new sessions.", true, true, run_drain };
const struct verb verb_undrain = { "undrain", "Take that back.", true, true, run_undrain };
