// SPDX-License-Identifier: Apache-2.0
/* What command lines say of a Redis, looked at before there is a connection: see redis_conn.h. */
#include <errno.h>
#include <openssl/ssl.h>
#include <sodium.h>
#include <string.h>

#include "lib/log.h"
#include "lib/redis_conn.h"
#include "lib/redis_tls.h"
#include "lib/small_file.h"

enum { WHY_MAX = 160 };

static int load_password(const struct redis_config *config, char password[REDIS_URL_SECRET_MAX])
{
	int err = redis_password_read(config->password_file, password);
	char quoted[512];

	if (err)
		log_error("password not loaded", "option=--redis-password-file file=%s error=\"%s\"",
			log_quote(config->password_file, quoted, sizeof(quoted)), strerror(-err));
	return err;
}

int redis_password_keep(struct redis_config *config)
{
	int err;

	if (!small_file_is_other(config->password_file))
		return 0;
	err = load_password(config, config->url.password);
	config->password_file = "";
	return err;
}

static int check_password(struct redis_config *config)
{
	char password[REDIS_URL_SECRET_MAX];
	int err = redis_password_keep(config);

	if (!err && *config->password_file)
		err = load_password(config, password);
	sodium_memzero(password, sizeof(password));
	return err;
}

int redis_config_check(struct redis_config *config)
{
	char why[WHY_MAX], quoted[512];
	int err = check_password(config);
	SSL *ssl;

	if (err || !config->url.is_tls)
		return err;
	ssl = redis_tls_new(config, why, sizeof(why));
	if (!ssl)
		log_error("cannot use TLS", "error=%s", log_quote(why, quoted, sizeof(quoted)));
	SSL_free(ssl);
	return ssl ? 0 : -EINVAL;
}
