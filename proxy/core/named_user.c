/* SPDX-License-Identifier: PostgreSQL */
#include "core/named_user.h"

#include "auth/cache.h"
#include "auth/scram.h"
#include "auth/user.h"
#include "auth/userlist.h"
#include "base/mem.h"
#include "conf/config.h"
#include "conf/secret.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/worker.h"

#include <stdlib.h>
#include <string.h>

/* What is public of a SCRAM secret: all before the keys. */
static char *named_user_scope(const char *secret)
{
	const char *at = strrchr(secret, '$');

	return strndup(secret, at == NULL ? 0 : (size_t)(at - secret));
}

static struct auth_user *named_user_kept(struct worker *worker, const char *name, const char *secret)
{
	struct auth_user *user = NULL;
	char *scope = named_user_scope(secret);

	if (scope != NULL && !auth_cache_put(worker->proxy->auth_cache, scope, name, secret,
	                                     worker->now, &user))
		user = NULL;
	free(scope);
	return user;
}

struct auth_user *named_user(struct worker *worker, const struct config_database *database,
                             struct sbuf *why)
{
	struct auth_user *listed = userlist_find(worker->users, database->user);
	struct auth_user *user;
	const char *secret;
	char *password = NULL;

	if (!config_secret(database->password_file, database->password_env, &password, why))
		return NULL;
	secret = password == NULL ? database->password : password;
	if (secret == NULL && listed != NULL) {
		/* Without a password of its own, the one that the users file has for that user. */
		user = auth_user_ref(listed);
	} else if (secret == NULL || !scram_is_secret(secret)) {
		user = auth_user_new(database->user, secret);
	} else {
		user = named_user_kept(worker, database->user, secret);
		if (user != NULL && listed != NULL)
			(void)auth_user_teach(user, listed);
	}
	mem_free_secret(password);
	return user;
}

bool named_user_learns(struct worker *worker, const char *database, struct auth_user *user)
{
	const struct route *route = route_find(worker->routes, database);
	struct auth_user *named;
	struct sbuf why;
	bool learned;

	if (route == NULL || route->database->user[0] == '\0' || user == NULL ||
	    auth_user_kind(user) != AUTH_SECRET_SCRAM)
		return false;
	sbuf_init(&why, 512);
	named = named_user(worker, route->database, &why);
	sbuf_free(&why);
	learned = named != NULL && named != user && auth_user_teach(named, user);
	auth_user_unref(named);
	return learned;
}
