// SPDX-License-Identifier: Apache-2.0
/* The TLS side of a connection to Redis: the server's certificate must be of a known authority and name the host. */
#include "lib/redis_tls.h"

#include <event2/util.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#include "lib/small_file.h"

/* OpenSSL would wait for a FIFO's writer. */
static int load_files(SSL_CTX *ctx, const struct redis_config *config, const char **what)
{
	*what = "--redis-ca-file";
	if (small_file_is_other(config->ca_file) || (*config->ca_file ? !SSL_CTX_load_verify_locations(ctx, config->ca_file, NULL) : !SSL_CTX_set_default_verify_paths(ctx)))
		return -1;
	*what = "--redis-cert-file";
	if (small_file_is_other(config->cert_file) || (*config->cert_file && SSL_CTX_use_certificate_chain_file(ctx, config->cert_file) != 1))
		return -1;
	*what = "--redis-key-file";
	if (small_file_is_other(config->key_file) || (*config->key_file && SSL_CTX_use_PrivateKey_file(ctx, config->key_file, SSL_FILETYPE_PEM) != 1))
		return -1;
	return 0;
}

static int expect_host(SSL *ssl, const char *host)
{
	unsigned char ip[16];

	if (evutil_inet_pton(AF_INET, host, ip) == 1 || evutil_inet_pton(AF_INET6, host, ip) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host);
	return SSL_set1_host(ssl, host) && SSL_set_tlsext_host_name(ssl, host);
}

SSL *redis_tls_new(const struct redis_config *config, char *why, size_t size)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	const char *what = "library";
	SSL *ssl = NULL;

	if (ctx && SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) && !load_files(ctx, config, &what)) {
		SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
		ssl = SSL_new(ctx);
	}
	if (ssl && !expect_host(ssl, config->url.host)) {
		SSL_free(ssl);
		ssl = NULL;
	}
	if (!ssl) {
		char text[128] = "must be a regular file, it is read at each connect";
		unsigned long err = ERR_get_error();

		if (err)
			ERR_error_string_n(err, text, sizeof(text));
		snprintf(why, size, "TLS %s: %s", what, text);
	}
	SSL_CTX_free(ctx); /* @ssl holds it */
	return ssl;
}
