/* SPDX-License-Identifier: PostgreSQL */
/*
 * The middle of a client's login: which method it is asked for (auth_type, or the rule of the HBA
 * file), the exchange, and the steps of it that are done on another thread.  Worker thread.
 */
#include "auth/cache.h"
#include "auth/hba.h"
#include "auth/ident.h"
#include "auth/userlist.h"
#include "base/log.h"
#include "core/auth_query.h"
#include "core/client_login.h"
#include "core/compute.h"
#include "core/named_user.h"
#include "core/proxy.h"
#include "core/replication.h"
#include "core/route.h"
#include "core/worker.h"
#include "net/sock.h"
#include "net/tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Longest name in a certificate that is looked at. */
#define CERT_NAME_MAX 1024

/* ---- the exchange ---- */

static void login_auth_result(struct client *client, enum auth_status status, struct sbuf *out);

static void login_run(struct compute_job *job)
{
	client_auth_compute(job->subject);
}

/* Back in the worker. */
static void login_computed(struct compute_job *job)
{
	struct client *client = job->owner;
	struct sbuf out;

	if (client == NULL) {
		client_auth_free(job->subject);
		free(job);
		return;
	}
	client->login->job = NULL;
	free(job);
	sbuf_init(&out, 4096);
	login_auth_result(client, client_auth_resume(client->login->auth, &out), &out);
	sbuf_free(&out);
	if (!client->doomed)
		login_go_on(client);
}

/* An attacker may bring about any number of costly steps: who comes when too many wait is sent
 * away, so that those who wait have an end. */
static void login_compute(struct client *client)
{
	struct compute_job *job = calloc(1, sizeof(*job));

	if (job == NULL) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return;
	}
	job->worker = client->worker->index;
	job->subject = client->login->auth;
	job->owner = client;
	job->run = login_run;
	job->done = login_computed;
	if (!compute_post(client_auth_asks_others(job->subject) ? client->worker->proxy->asking
	                                                        : client->worker->proxy->compute,
	                  job)) {
		free(job);
		client_doom_fatal(client, CLIENT_CLOSE_LIMIT, "53300", "too many logins at a time",
		                  NULL, "Try again.");
		return;
	}
	client->login->job = job;
}

bool login_busy(const struct client *client)
{
	return client->login != NULL &&
	       (client->login->job != NULL || client->login->waiting_in != NULL ||
	        replication_waits(client));
}

void login_end_auth(struct client *client)
{
	struct client_login *login = client->login;

	if (login->job != NULL)
		login->job->owner = NULL; /* and frees the auth when it comes back */
	else
		client_auth_free(login->auth);
	login->job = NULL;
	login->auth = NULL;
	auth_query_leave(client);
	auth_user_unref(login->found);
	login->found = NULL;
}

static void login_auth_failed(struct client *client)
{
	const struct wire_error *error = client_auth_error(client->login->auth);

	if (client->login->cached && client_auth_is_wrong(client->login->auth)) {
		client->login->cached = false;
		if (auth_query_doubt(client))
			return;
	}
	client_log(client, LOG_LEVEL_WARNING, "authentication failed: %s",
	            client->login->auth == NULL ? "out of memory"
	                                        : client_auth_log_text(client->login->auth));
	if (client_auth_refusal(client->login->auth) != NULL)
		client_doom_words(client, CLIENT_CLOSE_AUTH, error->sqlstate, error->message,
		                  client_auth_refusal(client->login->auth));
	else
		client_doom_fatal(client, CLIENT_CLOSE_AUTH, error->sqlstate, error->message,
		                  error->detail, error->hint);
}

/* The user whom the client's database names may have the same secret. */
static void login_teach(struct client *client)
{
	const struct client_login *login = client->login;
	const struct route *route;

	if (!named_user_learns(client->worker, login->database, client_auth_user(login->auth)))
		return;
	route = route_find(client->worker->routes, login->database);
	pool_secret_learned(client->worker, route->database->user);
}

/* PAM or LDAP knows the user: his password is needed at the server, in whichever worker.  The same holds
 * for a key that this login has revealed: pools may have failed for the want of it. */
static bool login_learn(struct client *client)
{
	struct client_login *login = client->login;
	struct auth_user *before;
	struct auth_user *user;

	if (client_auth_password(login->auth) == NULL) {
		if (client_auth_learned(login->auth))
			pool_secret_learned(client->worker, login->user);
		login_teach(client);
		return true;
	}
	(void)!auth_cache_get(client->worker->proxy->auth_cache, AUTH_CACHE_OTHERS, login->user, 0, 0, 0,
	                      &before);
	if (!auth_cache_put(client->worker->proxy->auth_cache, AUTH_CACHE_OTHERS, login->user,
	                    client_auth_password(login->auth), client->worker->now, &user)) {
		auth_user_unref(before);
		return false;
	}
	auth_user_unref(login->found);
	login->found = user;
	auth_user_unref(before);
	if (user != before)
		pool_secret_learned(client->worker, login->user);
	return true;
}

static void login_auth_ok(struct client *client, const struct sbuf *out)
{
	struct worker *worker = client->worker;

	if (!login_learn(client)) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return;
	}
	/* AuthenticationOk goes out together with what follows. */
	if (!sbuf_ok(out) || conn_send_copy(&worker->to_client, &client->conn, worker,
	                                    sbuf_text(out), out->len) != CONN_IO_OK) {
		client_doom(client, CLIENT_CLOSE_IO);
		return;
	}
	login_after_auth(client);
	if (!client->doomed && (client->state == CLIENT_WELCOME || replication_waits(client)) &&
	    conn_flush(&worker->to_client, worker) != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
}

static void login_auth_result(struct client *client, enum auth_status status, struct sbuf *out)
{
	switch (status) {
	case AUTH_CONTINUE:
		if (!login_send_buf(client, out))
			return;
		break;
	case AUTH_COMPUTE:
		login_compute(client);
		break;
	case AUTH_FAILED:
		login_auth_failed(client);
		break;
	case AUTH_OK:
		login_auth_ok(client, out);
		break;
	}
}

void login_feed_auth(struct client *client, const uint8_t *body, size_t len)
{
	struct sbuf out;

	sbuf_init(&out, 4096);
	login_auth_result(client, client_auth_feed(client->login->auth, body, len, &out), &out);
	sbuf_free(&out);
}

/* ---- the method ---- */

/* Where the client is. */
struct login_peer {
	struct sockaddr_storage name;
	char host[64]; /* as PostgreSQL's errors name it */
};

static void login_find_peer(const struct client *client, struct login_peer *peer)
{
	socklen_t len = sizeof(peer->name);
	struct sock_name name;

	memset(&peer->name, 0, sizeof(peer->name));
	/* A connection that is gone already: fits no rule. */
	if (getpeername(client->conn.fd, (struct sockaddr *)&peer->name, &len) != 0)
		peer->name.ss_family = AF_UNSPEC;
	client_peer(client, &name);
	(void)snprintf(peer->host, sizeof(peer->host), "%s",
	               peer->name.ss_family == AF_UNIX ? "[local]" : name.addr);
}

/* No rule, or one that rejects. */
static void login_reject(struct client *client, const struct login_peer *peer,
                         const struct hba_rule *rule)
{
	const struct client_login *login = client->login;
	char text[512];

	const char *what = rule == NULL ? "no pg_hba.conf entry for" : "pg_hba.conf rejects";
	const char *encryption = client->conn.tls == NULL ? "no encryption" : "SSL encryption";

	if (client->replication == WIRE_REPLICATION_PHYSICAL)
		(void)snprintf(text, sizeof(text),
		               "%s replication connection from host \"%s\", user \"%.128s\", %s", what,
		               peer->host, login->user, encryption);
	else
		(void)snprintf(text, sizeof(text),
		               "%s%s host \"%s\", user \"%.128s\", database \"%.128s\", %s", what,
		               rule == NULL ? "" : " connection for", peer->host, login->user,
		               login->database, encryption);
	if (rule != NULL)
		client_log(client, LOG_LEVEL_WARNING, "rejected by %s:%u", rule->file, rule->line);
	client_doom_fatal(client, CLIENT_CLOSE_AUTH, "28000", text, NULL, NULL);
}

/* The name in the client's certificate; "" if it has shown none that is right. */
static void login_find_certificate(const struct client *client, bool whole, char *name, size_t size)
{
	const struct tls *tls = client->conn.tls;

	if (tls == NULL || !(whole ? tls_peer_distinguished_name(tls, name, size)
	                           : tls_peer_common_name(tls, name, size)))
		name[0] = '\0';
}

/* What a rule demands besides its method. */
static bool login_check_clientcert(struct client *client, const struct hba_rule *rule,
                                   const char *cert_name)
{
	const bool password = rule->method == AUTH_TYPE_PLAIN || rule->method == AUTH_TYPE_MD5 ||
	                      rule->method == AUTH_TYPE_SCRAM;
	char text[192];

	if (rule->clientcert == HBA_CERT_OFF)
		return true;
	if (client->conn.tls == NULL || !tls_peer_verified(client->conn.tls)) {
		client_doom_fatal(client, CLIENT_CLOSE_AUTH, "28000",
		                  "connection requires a valid client certificate", NULL, NULL);
		return false;
	}
	/* The method cert looks at the name itself, through the rule's map. */
	if (rule->clientcert == HBA_CERT_VERIFY_CA || rule->method == AUTH_TYPE_CERT ||
	    strcmp(cert_name, client->login->user) == 0)
		return true;
	client_log(client, LOG_LEVEL_WARNING, "the certificate is of \"%.80s\"", cert_name);
	/* As PostgreSQL, which asks the method first: in the words of its failure. */
	(void)snprintf(text, sizeof(text), "%s authentication failed for user \"%.120s\"",
	               password                          ? "password"
	               : rule->method == AUTH_TYPE_TRUST ? "\"trust\""
	                                                 : "certificate",
	               client->login->user);
	client_doom_fatal(client, CLIENT_CLOSE_AUTH, password ? "28P01" : "28000", text, NULL,
	                  NULL);
	return false;
}

/* The method of the rule that fits; false: the client is doomed.  `cert_name` has room for
 * CERT_NAME_MAX bytes. */
static bool login_ask_hba(struct client *client, struct client_auth_request *request,
                          char *cert_name)
{
	const struct worker *worker = client->worker;
	struct login_peer peer;
	const struct hba_rule *rule;

	login_find_peer(client, &peer);
	rule = hba_match(worker->hba, &(struct hba_request){
	                                  .peer = (const struct sockaddr *)&peer.name,
	                                  .tls = client->conn.tls != NULL,
	                                  .physical_replication =
	                                      client->replication == WIRE_REPLICATION_PHYSICAL,
	                                  .database = client->login->database,
	                                  .user = client->login->user,
	                              });
	if (rule == NULL || rule->method == AUTH_TYPE_REJECT) {
		login_reject(client, &peer, rule);
		return false;
	}
	request->type = rule->method;
	request->map = rule->map;
	request->ldap = rule->ldap;
	request->ident = worker->ident;
	login_find_certificate(client, rule->clientname_dn, cert_name, CERT_NAME_MAX);
	if (!login_check_clientcert(client, rule, cert_name))
		return false;
	if (rule->method == AUTH_TYPE_PEER && !sock_peer_uid(client->conn.fd, &request->peer_uid)) {
		client_doom(client, CLIENT_CLOSE_IO);
		return false;
	}
	return true;
}

/* Trust is for users who exist: those of the users file, of auth_query, and of the configuration
 * (not for pgbouncer, whose section of users only gives them limits).  Where the users file names
 * none, nobody can say who does. */
static bool login_trusts_known_only(const struct client *client)
{
	return userlist_count(client->worker->users) > 0;
}

static bool login_is_named(const struct client *client)
{
	const struct config *config = client->worker->routes->config;

	return !config->proxy.as_pgbouncer &&
	       config_find_user(config, client->login->user) != NULL;
}

/* Whether auth_query has to say who the user is: to prove it, or for the login at the server. */
static bool login_needs_secret(const struct client *client, enum auth_type type)
{
	const struct client_login *login = client->login;
	const struct route *route;

	switch (type) {
	case AUTH_TYPE_PLAIN:
	case AUTH_TYPE_MD5:
	case AUTH_TYPE_SCRAM:
		return true;
	case AUTH_TYPE_TRUST:
		if (login_trusts_known_only(client) && !login_is_named(client))
			return true;
		/* fall through */
	case AUTH_TYPE_CERT:
	case AUTH_TYPE_PEER:
		route = route_find(client->worker->routes, login->database);
		return route != NULL && route->database->user[0] == '\0';
	default:
		return false;
	}
}

/* Finds the user; false: later, or never. */
static bool login_find_user(struct client *client, struct client_auth_request *request)
{
	struct client_login *login = client->login;

	if (config_name_is_long(login->user))
		return true; /* nobody's */
	request->user = userlist_find(client->worker->users, login->user);
	if (request->user != NULL)
		return true;
	if (!login->asked && login_needs_secret(client, request->type)) {
		switch (auth_query_ask(client, &login->found)) {
		case AUTH_QUERY_KNOWN:
			login->absent = login->found == NULL;
			/* fall through */
		case AUTH_QUERY_NOBODY:
			login->asked = true;
			break;
		case AUTH_QUERY_WAIT:
		case AUTH_QUERY_FAILED:
			return false;
		}
	}
	request->user = login->found;
	return true;
}

/* The answer that the proof did not fit has been asked for once more. */
static void login_prove_again(struct client *client, struct auth_user *user)
{
	struct client_login *login = client->login;
	struct sbuf out;

	if (user == NULL || user == login->found) {
		login_auth_failed(client);
		return;
	}
	auth_user_unref(login->found);
	login->found = auth_user_ref(user);
	sbuf_init(&out, 4096);
	login_auth_result(client, client_auth_again(login->auth, user, &out), &out);
	sbuf_free(&out);
}

void login_answered(struct client *client, struct auth_user *user, const char *sqlstate,
                    const char *message, const char *words)
{
	struct client_login *login = client->login;

	if (client->doomed)
		return;
	if (login->auth != NULL) {
		login_prove_again(client, user);
		if (!client->doomed)
			login_go_on(client);
		return;
	}
	if (*sqlstate != '\0') {
		client_doom_words(client, CLIENT_CLOSE_AUTH, sqlstate, message, words);
		return;
	}
	login->asked = true;
	login->absent = user == NULL;
	login->found = auth_user_ref(user);
	login_start_auth(client);
	if (!client->doomed)
		login_go_on(client);
}

/*
 * Who runs this process and calls himself as the console is called may do everything there, without
 * a password: he could read it in our memory.
 */
static bool login_is_owner(const struct client *client)
{
	uid_t uid;

	return config_is_console(client->login->database) &&
	       config_is_console(client->login->user) && sock_is_unix(client->conn.fd) &&
	       sock_peer_uid(client->conn.fd, &uid) && uid == geteuid();
}

/* auth_type any needs to be told as whom to log in to the server: a pgbouncer.ini may lack it. */
static bool login_has_forced_user(struct client *client)
{
	const struct route *route = route_find(client->worker->routes, client->login->database);

	if (route == NULL || route->database->user[0] != '\0' ||
	    config_is_console(client->login->database))
		return true;
	log_warning("client %s/%s: auth_type any requires a user of the database",
	            client_database(client), client_user(client));
	client_doom_fatal(client, CLIENT_CLOSE_AUTH, "28000", "bouncer config error",
	                  "auth_type any asks nobody who it is, and the database has no user.", NULL);
	return false;
}

static void login_refuse_unknown(struct client *client)
{
	log_warning("client %s/%s: authentication failed: there is no such user%s",
	            client_database(client), client_user(client),
	            config_name_is_long(client->login->user)
	                ? ", for names have at most 63 bytes"
	                : "");
	client_doom_fatal(client, CLIENT_CLOSE_AUTH, "28000",
	                  client->login->absent ? "no such user" : "\"trust\" authentication failed",
	                  NULL, NULL);
}

/* A name that the server would cut: with passwords as one of nobody; others, too, ask nobody.
 * False: the client is doomed. */
static bool login_take_long_name(struct client *client, struct client_auth_request *request)
{
	switch (request->type) {
	case AUTH_TYPE_PAM:
	case AUTH_TYPE_LDAP:
		request->type = AUTH_TYPE_PLAIN;
		return true;
	case AUTH_TYPE_TRUST:
	case AUTH_TYPE_ANY:
	case AUTH_TYPE_CERT:
	case AUTH_TYPE_PEER:
		login_refuse_unknown(client);
		return false;
	default:
		return true;
	}
}

void login_start_auth(struct client *client)
{
	struct worker *worker = client->worker;
	struct client_login *login = client->login;
	static const enum auth_type types[] = {
	    [CONFIG_AUTH_TRUST] = AUTH_TYPE_TRUST, [CONFIG_AUTH_ANY] = AUTH_TYPE_ANY,
	    [CONFIG_AUTH_PLAIN] = AUTH_TYPE_PLAIN, [CONFIG_AUTH_MD5] = AUTH_TYPE_MD5,
	    [CONFIG_AUTH_SCRAM] = AUTH_TYPE_SCRAM, [CONFIG_AUTH_CERT] = AUTH_TYPE_CERT,
	    [CONFIG_AUTH_PAM] = AUTH_TYPE_PAM,     [CONFIG_AUTH_LDAP] = AUTH_TYPE_LDAP,
	};
	const struct config_proxy *conf = &worker->routes->config->proxy;
	const enum config_auth_type type = (enum config_auth_type)worker->auth_type;
	struct client_auth_request request = {
	    .name = login->user,
	    .scram_usual = userlist_scram_usual(worker->users),
	    .scram_iterations = userlist_scram_iterations(worker->users),
	    .pam_service = conf->pam_service[0] != '\0' ? conf->pam_service
	                   : conf->as_pgbouncer         ? "pgbouncer"
	                                                : "pgshunt",
	    .pam_directory = conf->pam_directory,
	    .host = "",
	    .ldap = worker->ldap,
	};
	struct sock_name peer;
	uint8_t binding[TLS_DIGEST_MAX];
	char cert_name[CERT_NAME_MAX];
	struct sbuf out;

	client_set_state(client, CLIENT_AUTH);
	login_find_certificate(client, false, cert_name, sizeof(cert_name));
	client->login->owner = login_is_owner(client);
	if (client->login->owner)
		request.type = AUTH_TYPE_TRUST;
	else if (type != CONFIG_AUTH_HBA)
		request.type = types[type];
	else if (!login_ask_hba(client, &request, cert_name))
		return;
	if (config_name_is_long(login->user) && !login_take_long_name(client, &request))
		return;
	if (request.type == AUTH_TYPE_ANY && !login_has_forced_user(client))
		return;
	if (!client->login->owner && !login_find_user(client, &request))
		return;
	if (request.type == AUTH_TYPE_TRUST && request.user == NULL && !client->login->owner &&
	    login_trusts_known_only(client) && !login_is_named(client)) {
		login_refuse_unknown(client);
		return;
	}
	request.cert_name = cert_name[0] == '\0' ? NULL : cert_name;
	if (request.type == AUTH_TYPE_PAM && !sock_is_unix(client->conn.fd)) {
		client_peer(client, &peer);
		request.host = peer.addr;
	}
	if (client->conn.tls != NULL) {
		request.binding_len = tls_binding(client->conn.tls, binding);
		request.binding = request.binding_len == 0 ? NULL : binding;
	}
	sbuf_init(&out, 4096);
	login_auth_result(client, client_auth_start(&request, &out, &login->auth), &out);
	sbuf_free(&out);
}
