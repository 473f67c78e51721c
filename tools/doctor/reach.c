// SPDX-License-Identifier: Apache-2.0
/* The agent, pods, Redis, the API server: can they be reached, and do they answer. See doctor.h. */
#include "tools/doctor/doctor.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "include/llmd/abi.h"

enum { ANSWER_MAX = 4096, PODS_TOLD = 8 };

static int wait_for(int fd, short what, uint64_t timeout_ms)
{
	struct pollfd poll_fd = { .fd = fd, .events = what };
	int n = poll(&poll_fd, 1, (int)timeout_ms);

	return n > 0 ? 0 : n ? -errno : -ETIMEDOUT;
}

/* Return: a connected socket, or -errno. */
static int dial(const struct sockaddr *to, socklen_t len, uint64_t timeout_ms)
{
	int fd = socket(to->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), err = 0;
	socklen_t size = sizeof(err);

	if (fd < 0)
		return -errno;
	if (connect(fd, to, len) && errno != EINPROGRESS)
		err = errno;
	else if (wait_for(fd, POLLOUT, timeout_ms))
		err = ETIMEDOUT;
	else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size))
		err = errno;
	if (!err)
		return fd;
	close(fd);
	return -err;
}

static int dial_address(const struct address *address, uint64_t timeout_ms)
{
	struct sockaddr_storage to;
	socklen_t len = address_to_sockaddr(address, &to);

	return dial((struct sockaddr *)&to, len, timeout_ms);
}

static int dial_name(const char *host, const char *port, uint64_t timeout_ms)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct addrinfo *list;
	int fd = -ENOENT;

	if (getaddrinfo(host, port, &hints, &list))
		return -ENOENT;
	for (struct addrinfo *at = list; at && fd < 0; at = at->ai_next)
		fd = dial(at->ai_addr, at->ai_addrlen, timeout_ms);
	freeaddrinfo(list);
	return fd;
}

/* What came within the timeout, as text; closes @fd. Return: bytes, or -errno. */
static int ask(int fd, const char *question, char out[ANSWER_MAX], uint64_t timeout_ms)
{
	ssize_t n = send(fd, question, strlen(question), MSG_NOSIGNAL);
	int err = n < 0 ? -errno : wait_for(fd, POLLIN, timeout_ms);

	if (!err) {
		n = recv(fd, out, ANSWER_MAX - 1, 0);
		err = n < 0 ? -errno : (int)n;
	}
	out[err > 0 ? err : 0] = '\0';
	close(fd);
	return err;
}

/* ---- the agent ---- */

void check_agent(struct doctor *doctor)
{
	char text[ADDRESS_TEXT_MAX], answer[ANSWER_MAX];
	int fd = dial_address(&doctor->config.admin, doctor->config.timeout_ms), n;

	address_format(&doctor->config.admin, text);
	if (fd < 0) {
		doctor_tell(doctor, FINDING_NOTE, "agent", "streams that the kernel carries go on, but new connections are refused", "start it; its log says why it ended",
			"none at %s: %s", text, strerror(-fd));
		return;
	}
	n = ask(fd, "GET /readyz HTTP/1.0\r\n\r\n", answer, doctor->config.timeout_ms);
	if (n > 12 && !strncmp(answer + 8, " 200", 4))
		doctor_tell(doctor, FINDING_OK, "agent", NULL, NULL, "ready at %s", text);
	else if (n > 12 && !strncmp(answer + 8, " 503", 4))
		doctor_tell(doctor, FINDING_WARN, "agent", "requests are answered 503", "it has no pod that can be used, or is draining: curl http://ADMIN/v1/endpoints",
			"at %s, not ready", text);
	else
		doctor_tell(doctor, FINDING_BAD, "agent", "its loop hangs, or something else has the port", "look who listens there: ss -ltnp", "no answer at %s", text);
}

/* ---- pods ---- */

static void tell_pod(struct doctor *doctor, const struct address *address, unsigned *reached, unsigned *failed)
{
	int fd = dial_address(address, doctor->config.timeout_ms);
	char text[ADDRESS_TEXT_MAX];

	if (fd >= 0) {
		close(fd);
		++*reached;
	} else if ((*failed)++ < PODS_TOLD) {
		doctor_tell(doctor, FINDING_WARN, "pod", "no request goes there until it answers", "the pod's log; ip route get ADDRESS; network policies", "%s: %s",
			address_format(address, text), strerror(-fd));
	}
}

static void each_pinned(struct doctor *doctor, unsigned *reached, unsigned *failed)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/endpoints", doctor->config.pin_dir);
	fd = bpf_obj_get(path);
	for (uint32_t i = 0; fd >= 0 && i < LLMD_ENDPOINT_MAX; i++) {
		struct endpoint_entry entry;
		struct address address;

		if (bpf_map_lookup_elem(fd, &i, &entry) || entry.state == ENDPOINT_MAP_FREE)
			continue;
		memcpy(address.ip, entry.addr, sizeof(address.ip));
		address.port_be = entry.port;
		tell_pod(doctor, &address, reached, failed);
	}
	if (fd >= 0)
		close(fd);
}

/* An option's value, or several separated by white space, as the environment has them. */
static void each_named(struct doctor *doctor, unsigned *reached, unsigned *failed)
{
	for (size_t i = 0; i < doctor->config.endpoints.n; i++) {
		char text[ADDRESS_TEXT_MAX];
		struct address address;

		snprintf(text, sizeof(text), "%.*s", (int)strcspn(doctor->config.endpoints.item[i], ","), doctor->config.endpoints.item[i]);
		if (address_parse(&address, text))
			doctor_tell(doctor, FINDING_BAD, "pod", "the agent does not start so", "ADDR:PORT", "\"%s\" is no address", text);
		else
			tell_pod(doctor, &address, reached, failed);
	}
}

void check_pods(struct doctor *doctor)
{
	unsigned reached = 0, failed = 0;

	if (doctor->config.endpoints.n)
		each_named(doctor, &reached, &failed);
	else
		each_pinned(doctor, &reached, &failed);
	if (failed && !reached)
		doctor_tell(doctor, FINDING_BAD, "pods", "every request is answered 503", "see above", "none of %u can be reached", failed);
	else if (!failed && !reached)
		doctor_tell(doctor, FINDING_NOTE, "pods", "there is nothing to route to", "--endpoint ADDR:PORT here checks one", "none known");
	else
		doctor_tell(doctor, FINDING_OK, "pods", NULL, NULL, "%u of %u can be reached", reached, reached + failed);
}

/* ---- Redis ---- */

/* redis://[USER:PASSWORD@]HOST[:PORT][/DB]. Return: whether there is a host. */
static bool split_url(const char *url, char host[256], char port[8])
{
	const char *at = strstr(url, "://"), *end, *colon;

	at = at ? at + 3 : url;
	end = at + strcspn(at, "/");
	for (const char *c = at; c < end; c++)
		at = *c == '@' ? c + 1 : at;
	colon = *at == '[' ? memchr(at, ']', (size_t)(end - at)) : at;
	colon = colon ? memchr(colon, ':', (size_t)(end - colon)) : NULL;
	snprintf(port, 8, "%.*s", colon ? (int)(end - colon - 1) : 4, colon ? colon + 1 : "6379");
	end = colon ? colon : end;
	if (*at == '[' && end > at + 1) {
		at++;
		end--;
	}
	return end > at && snprintf(host, 256, "%.*s", (int)(end - at), at) < 256;
}

void check_redis(struct doctor *doctor)
{
	const char *why = "agents on other nodes do not learn what this one does; requests are served all the same";
	bool is_tls = !strncmp(doctor->config.redis, "rediss:", 7);
	char host[256], port[8], answer[ANSWER_MAX];
	int fd, n;

	if (!*doctor->config.redis) {
		doctor_tell(doctor, FINDING_OK, "redis", NULL, NULL, "not configured: this node works alone");
		return;
	}
	if (!split_url(doctor->config.redis, host, port)) {
		doctor_tell(doctor, FINDING_BAD, "redis", why, "redis://HOST:PORT", "the URL names no host");
		return;
	}
	fd = dial_name(host, port, doctor->config.timeout_ms);
	n = fd < 0 || is_tls ? fd : ask(fd, "PING\r\n", answer, doctor->config.timeout_ms);
	if (fd >= 0 && is_tls)
		close(fd);
	if (n < 0)
		doctor_tell(doctor, FINDING_WARN, "redis", why, "is it up, and may this node reach it (NetworkPolicy)?", "%s:%s: %s", host, port, strerror(-n));
	else if (is_tls)
		doctor_tell(doctor, FINDING_OK, "redis", NULL, NULL, "%s:%s accepts connections; TLS is not tried here", host, port);
	else if (strncmp(answer, "+PONG", 5) && strncmp(answer, "-NOAUTH", 7))
		doctor_tell(doctor, FINDING_WARN, "redis", why, "another service has the port, or Redis refuses: see its answer", "%s:%s answers \"%.*s\"", host, port,
			(int)strcspn(answer, "\r\n"), answer);
	else
		doctor_tell(doctor, FINDING_OK, "redis", NULL, NULL, "%s:%s answers", host, port);
}

/* ---- the API server ---- */

void check_api_server(struct doctor *doctor)
{
	const char *host = getenv("KUBERNETES_SERVICE_HOST"), *port = getenv("KUBERNETES_SERVICE_PORT");
	const char *token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
	int fd;

	if (!host || !port) {
		doctor_tell(doctor, FINDING_OK, "api server", NULL, NULL, "not in a Kubernetes pod");
		return;
	}
	fd = dial_name(host, port, doctor->config.timeout_ms);
	if (fd < 0)
		doctor_tell(doctor, FINDING_BAD, "api server", "pods that come and go are not noticed", "does kube-proxy run on this node? Network policies?", "%s:%s: %s", host,
			port, strerror(-fd));
	else if (access(token, R_OK))
		doctor_tell(doctor, FINDING_BAD, "api server", "discovery is not allowed to ask", "automountServiceAccountToken: true, and the service account llmd",
			"%s:%s accepts connections, but there is no token at %s", host, port, token);
	else
		doctor_tell(doctor, FINDING_OK, "api server", NULL, NULL, "%s:%s accepts connections, and a token is there", host, port);
	if (fd >= 0)
		close(fd);
}
