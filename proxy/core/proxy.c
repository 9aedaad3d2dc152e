/* SPDX-License-Identifier: PostgreSQL */
#include "core/proxy.h"

#include "auth/cache.h"
#include "auth/crypto.h"
#include "auth/hba.h"
#include "auth/ident.h"
#include "auth/ldap.h"
#include "auth/tokens.h"
#include "auth/userlist.h"
#include "auth/pam.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/notify.h"
#include "conf/show.h"
#include "core/address.h"
#include "core/admin.h"
#include "core/compute.h"
#include "core/handover.h"
#include "core/secure.h"
#include "core/takeover.h"
#include "core/told.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define AUTH_CACHE_USERS 50000 /* answers of auth_query that are kept */

/* ---- letters of workers ---- */

static void proxy_worker_stopped(struct proxy *proxy)
{
	proxy->stopped++;
	if (proxy->stopped == proxy->worker_count)
		(void)event_base_loopbreak(proxy->base);
}

/* A session of the console may have the number of a client of the process before. */
static void proxy_cancel_former(struct proxy *proxy, struct mail_cancel *mail)
{
	handover_cancel(proxy->handover, &mail->ask);
	free(mail);
}

static void proxy_cancel_console(struct proxy *proxy, const struct cancel_ask *ask)
{
	uint32_t slot;

	if (proxy->console_cancel != NULL && cancel_slot(proxy, ask->pid, &slot))
		proxy->console_cancel(slot + 1, &ask->key);
}

static void proxy_receive(void *owner, struct letter *letter)
{
	struct proxy *proxy = owner;

	switch ((enum mail_type)letter->type) {
	case MAIL_CONSOLE:
		proxy->console(proxy, (struct mail_console *)letter);
		break;
	case MAIL_CANCEL:
		proxy_cancel_console(proxy, &((struct mail_cancel *)letter)->ask);
		proxy_cancel_former(proxy, (struct mail_cancel *)letter);
		break;
	case MAIL_CANCEL_FORMER:
		proxy_cancel_former(proxy, (struct mail_cancel *)letter);
		break;
	case MAIL_STOPPED:
		free(letter);
		proxy_worker_stopped(proxy);
		break;
	default:
		admin_receive(proxy->admin, letter);
		break;
	}
}

void proxy_tell_workers(struct proxy *proxy, struct letter *(*make)(void *arg), void *arg)
{
	for (unsigned i = 0; i < proxy->worker_count; i++)
		mailbox_post(&proxy->workers[i].mailbox, make(arg));
}

static struct letter *make_plain(void *arg)
{
	return mail_must_new(sizeof(struct letter), *(enum mail_type *)arg);
}

static void proxy_tell_plain(struct proxy *proxy, enum mail_type type)
{
	proxy_tell_workers(proxy, make_plain, &type);
}

static struct letter *make_routes(void *arg)
{
	struct mail_routes *mail = mail_must_new(sizeof(*mail), MAIL_ROUTES);

	mail->routes = route_table_ref(arg);
	return &mail->letter;
}

void proxy_set_routes(struct proxy *proxy, struct route_table *routes)
{
	route_table_unref(proxy->routes);
	proxy->routes = routes;
	proxy_tell_workers(proxy, make_routes, routes);
}

/* ---- listening ---- */

static bool proxy_open_listeners(struct proxy *proxy)
{
	struct sock_given *given = proxy->takeover == NULL ? NULL : &proxy->takeover->sockets;
	struct sbuf error;
	bool good;

	sbuf_init(&error, 1024);
	good = listeners_open_web(&proxy->web, &proxy->config->proxy, &proxy->inherited, given,
	                          &error) &&
	       listeners_open(&proxy->listeners, &proxy->config->proxy, &proxy->inherited, given,
	                      &error);
	if (!good) {
		log_error("%s", error.len > 0 ? sbuf_text(&error) : "out of memory");
		listeners_close(&proxy->web);
	}
	sbuf_free(&error);
	return good;
}

/* The first worker accepts (core/accept.h): a hop over this thread would cost more than the rest of
 * a login. */
static bool proxy_listen(struct proxy *proxy)
{
	for (int i = 0; i < proxy->listeners.count; i++) {
		struct mail_fd *mail = mail_must_new(sizeof(*mail), MAIL_LISTEN);

		mail->fd = proxy->listeners.fds[i];
		mailbox_post(&proxy->workers[0].mailbox, &mail->letter);
	}
	return true;
}

/* ---- shutdown ---- */

static void proxy_stop(struct proxy *proxy)
{
	if (proxy->stop_sent)
		return;
	proxy->stop_sent = true;
	if (proxy->listeners.unix_path[0] != '\0')
		(void)unlink(proxy->listeners.unix_path);
	proxy_tell_plain(proxy, MAIL_STOP);
}

/* Whether a client has a server, as far as workers have said. */
static bool proxy_has_linked(const struct proxy *proxy)
{
	for (unsigned i = 0; i < proxy->worker_count; i++)
		if (atomic_load(&proxy->workers[i].linked) > 0)
			return true;
	return false;
}

/* Every 50 ms of a graceful shutdown: are all clients gone, is the time over? */
static void proxy_shutdown_tick(evutil_socket_t fd, short what, void *arg)
{
	struct proxy *proxy = arg;
	const usec_t limit = proxy->config->proxy.shutdown_timeout;

	(void)fd;
	(void)what;
	if (atomic_load(&proxy->client_count) == 0 ||
	    (proxy->config->proxy.as_pgbouncer && !proxy_has_linked(proxy)) ||
	    (limit > 0 && clock_now() - proxy->shutdown_began > limit))
		proxy_stop(proxy);
}

/* Transactions may take until shutdown_timeout: the service manager is not to end them earlier. */
static void proxy_notify_stopping(const struct proxy *proxy)
{
	const usec_t limit = proxy->config->proxy.shutdown_timeout;

	notify_send("STOPPING=1\nSTATUS=Shutting down: transactions may finish.\n"
	            "EXTEND_TIMEOUT_USEC=%lld\n",
	            (long long)((limit > 0 ? limit : (usec_t)24 * 3600 * USEC_PER_SEC) +
	                        5 * USEC_PER_SEC));
}

void proxy_shutdown(struct proxy *proxy, bool immediate)
{
	const struct timeval interval = {0, 50000};

	if (proxy->waits_clients) {
		proxy->waits_clients = false;
		proxy->shutting_down = false;
		if (proxy->shutdown_timer != NULL)
			event_free(proxy->shutdown_timer);
		proxy->shutdown_timer = NULL;
	}
	if (!proxy->shutting_down) {
		log_info("shutting down%s", immediate ? " at once" : ": transactions may finish");
		proxy->shutting_down = true;
		proxy->shutdown_began = clock_now();
		proxy_notify_stopping(proxy);
		if (!handover_gone(proxy->handover))
			handover_withdraw(proxy->handover);
		proxy_tell_plain(proxy, MAIL_SHUTDOWN);
		proxy->shutdown_timer =
		    event_new(proxy->base, -1, EV_PERSIST, proxy_shutdown_tick, proxy);
		if (proxy->shutdown_timer == NULL ||
		    event_add(proxy->shutdown_timer, &interval) != 0)
			immediate = true;
	}
	handover_end_former(proxy->handover, immediate);
	if (immediate)
		proxy_stop(proxy);
}

void proxy_leave(struct proxy *proxy)
{
	proxy_tell_plain(proxy, MAIL_REFUSE);
	proxy->listeners.count = 0;
	proxy->listeners.unix_path[0] = '\0';
	if (proxy->left != NULL)
		proxy->left();
	proxy->web.count = 0;
	proxy->web.unix_path[0] = '\0';
	proxy->pid_written = false;
	notify_close();
}

static void proxy_later_tick(evutil_socket_t fd, short what, void *arg)
{
	struct proxy *proxy = arg;

	(void)fd;
	(void)what;
	if (atomic_load(&proxy->client_count) == 0)
		proxy_shutdown(proxy, false);
}

void proxy_shutdown_later(struct proxy *proxy)
{
	const struct timeval interval = {0, 50000};

	if (proxy->shutting_down)
		return;
	log_info("shutting down when all clients have gone; no new connections are taken");
	proxy->shutting_down = true;
	proxy->waits_clients = true;
	notify_send("STOPPING=1\nSTATUS=Shutting down when all clients have gone.\n");
	proxy_tell_plain(proxy, MAIL_CONSOLE_ONLY);
	proxy->shutdown_timer = event_new(proxy->base, -1, EV_PERSIST, proxy_later_tick, proxy);
	if (proxy->shutdown_timer == NULL || event_add(proxy->shutdown_timer, &interval) != 0)
		proxy_shutdown(proxy, false);
}

/* ---- reload ---- */

/* Who may log in and how: what the files say, read together. */
struct access {
	enum config_auth_type auth_type;
	struct userlist *users;
	struct hba *hba;
	struct ident *ident;
	struct auth_ldap *ldap;
};

static struct userlist *access_load_users(const struct config_proxy *conf,
                                          struct userlist *previous, struct sbuf *error)
{
	struct userlist *users;
	const bool needed =
	    conf->auth_type != CONFIG_AUTH_TRUST && conf->auth_type != CONFIG_AUTH_ANY &&
	    conf->auth_type != CONFIG_AUTH_CERT;

	/* What needs no secrets needs no file either. */
	if (conf->users_file[0] == '\0' || (!needed && access(conf->users_file, F_OK) != 0))
		return userlist_empty();
	if (!conf->as_pgbouncer)
		return userlist_load(conf->users_file, previous, false, error);
	/* pgbouncer starts without it, for auth_query may know all users, or with what comes before a
	 * wrong line; and keeps those that it has. */
	users = userlist_load(conf->users_file, previous, true, error);
	if (error->len > 0)
		log_warning("auth_file: %s%s", sbuf_text(error),
		            users == NULL ? "" : "; what follows in the file is not read");
	sbuf_reset(error);
	if (users != NULL)
		return users;
	return previous == NULL ? userlist_empty() : userlist_ref(previous);
}

static void access_free(struct access *access)
{
	userlist_unref(access->users);
	hba_unref(access->hba);
	ident_unref(access->ident);
	auth_ldap_unref(access->ldap);
	*access = (struct access){0};
}

/* NULL: `error` says why. */
static struct hba *access_load_hba(const struct config_proxy *conf, struct sbuf *error)
{
	struct sbuf wrong;
	struct hba *hba;

	sbuf_init(&wrong, TOKENS_ERRORS_MAX);
	hba = hba_load(conf->auth_hba_file, conf->as_pgbouncer, &wrong);
	if (hba == NULL) {
		sbuf_add_str(error, sbuf_text(&wrong));
	} else {
		const char *line = sbuf_text(&wrong);

		for (size_t n; (n = strcspn(line, "\n")) > 0; line += n + (line[n] != '\0'))
			log_warning("%.*s: the line is passed over", (int)n, line);
	}
	sbuf_free(&wrong);
	return hba;
}

static bool access_load(struct access *access, const struct config *config,
                        struct userlist *previous, struct sbuf *error)
{
	const struct config_proxy *conf = &config->proxy;
	bool good = true;

	*access = (struct access){.auth_type = conf->auth_type,
	                          .users = access_load_users(conf, previous, error)};
	if (conf->auth_type == CONFIG_AUTH_HBA) {
		access->hba = access_load_hba(conf, error);
		good = access->hba != NULL;
		if (conf->auth_ident_file[0] != '\0') {
			access->ident = ident_load(conf->auth_ident_file, error);
			good = good && access->ident != NULL;
		}
	}
	if (conf->auth_type == CONFIG_AUTH_LDAP) {
		access->ldap = auth_ldap_parse(conf->auth_ldap_options, error);
		good = access->ldap != NULL;
	}
	if (conf->auth_type == CONFIG_AUTH_PAM && !pam_is_available()) {
		sbuf_add_str(error, "proxy.auth_type: this pgshuntd was built without PAM");
		good = false;
	}
	if (good && access->users != NULL)
		return true;
	access_free(access);
	return false;
}

/* From now on these hold; workers fetch them when they are told to (MAIL_USERS). */
static void proxy_set_access(struct proxy *proxy, const struct access *access)
{
	struct access old = {.users = proxy->users,
	                     .hba = proxy->hba,
	                     .ident = proxy->ident,
	                     .ldap = proxy->ldap};

	(void)pthread_mutex_lock(&proxy->users_lock);
	proxy->auth_type = (int)access->auth_type;
	proxy->users = access->users;
	proxy->hba = access->hba;
	proxy->ident = access->ident;
	proxy->ldap = access->ldap;
	(void)pthread_mutex_unlock(&proxy->users_lock);
	access_free(&old);
}

bool proxy_check_files(const struct config *config, struct sbuf *error)
{
	struct access access;
	struct secure *secure;

	if (!access_load(&access, config, NULL, error))
		return false;
	access_free(&access);
	secure = secure_load(config, NULL, error);
	secure_unref(secure);
	return secure != NULL;
}

static void proxy_apply_log(const struct config *config)
{
	const struct config_proxy *conf = &config->proxy;

	log_set_level(conf->log_level);
	log_set_format(conf->log_format);
	log_set_limit((unsigned)conf->log_rate_limit);
	if (conf->log_file[0] == '\0') {
		if (conf->log_destination == CONFIG_LOG_SYSLOG)
			log_to_syslog(conf->syslog_ident, conf->syslog_facility);
		else
			log_to_stderr();
	} else if (!log_to_file(conf->log_file)) {
		log_error("log_file \"%s\" cannot be opened: %s", conf->log_file, strerror(errno));
	}
}

static void *proxy_warm(void *arg)
{
	struct proxy *proxy = arg;
	struct userlist *users;

	(void)pthread_mutex_lock(&proxy->users_lock);
	users = userlist_ref(proxy->users);
	(void)pthread_mutex_unlock(&proxy->users_lock);
	userlist_warm(users, &proxy->stop_warming);
	userlist_unref(users);
	return NULL;
}

static void proxy_stop_warming(struct proxy *proxy)
{
	if (!proxy->warming)
		return;
	proxy->stop_warming = true;
	(void)pthread_join(proxy->warm_thread, NULL);
	proxy->warming = false;
	proxy->stop_warming = false;
}

/* The first SCRAM login of a user with a plain password would take a millisecond of a worker's time,
 * and tell by it that there is such a user. */
static void proxy_start_warming(struct proxy *proxy)
{
	sigset_t all;
	sigset_t before;

	proxy_stop_warming(proxy);
	if (proxy->config->proxy.auth_type == CONFIG_AUTH_TRUST ||
	    proxy->config->proxy.auth_type == CONFIG_AUTH_ANY)
		return;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	proxy->warming = pthread_create(&proxy->warm_thread, NULL, proxy_warm, proxy) == 0;
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Takes `fresh` (a reference, taken over) for the present configuration.  With `kept` TLS that
 * cannot be set up is no error: it stays as it was, and `kept` says why. */
static bool proxy_adopt(struct proxy *proxy, struct config *fresh, struct sbuf *errors,
                        struct sbuf *notes, struct sbuf *kept)
{
	struct route_table *routes = NULL;
	struct secure *secure;
	struct access access;
	const bool good = access_load(&access, fresh, proxy->users, errors);

	/* Both are read: what is wrong is told all at once. */
	secure = secure_load(fresh, proxy->routes->secure, errors);
	if (!good) {
		secure_unref(secure);
		config_unref(fresh);
		return false;
	}
	if (secure == NULL)
		log_error("TLS setup failed: %s", sbuf_text(errors));
	if (secure == NULL && kept != NULL) {
		sbuf_printf(kept, "TLS stays as it was: %s", sbuf_text(errors));
		sbuf_reset(errors);
		secure = secure_ref(proxy->routes->secure);
	}
	if (secure != NULL) {
		(void)config_compare_reload(proxy->config, fresh, notes);
		config_keep_fixed(proxy->config, fresh);
		routes = admin_routes(proxy->admin, fresh, errors);
	}
	if (routes == NULL) {
		secure_unref(secure);
		access_free(&access);
		config_unref(fresh);
		return false;
	}
	routes->secure = secure;
	routes->version = proxy->routes->version + 1;
	proxy_set_access(proxy, &access);
	auth_cache_expire_all(proxy->auth_cache);
	config_unref(proxy->config);
	proxy->config = fresh;
	proxy_apply_log(fresh);
	proxy_start_warming(proxy);
	proxy_tell_plain(proxy, MAIL_USERS);
	proxy_set_routes(proxy, routes);
	admin_configured(proxy->admin);
	return true;
}

bool proxy_reload(struct proxy *proxy, struct sbuf *errors, struct sbuf *notes)
{
	struct config *fresh;
	bool good;

	notify_send("RELOADING=1\nMONOTONIC_USEC=%lld\n", (long long)clock_now());
	good = config_load(proxy->config_path, &fresh, errors) &&
	       proxy_adopt(proxy, fresh, errors, notes, NULL);
	notify_send("READY=1\n");
	proxy->reload_failed = !good;
	if (good) {
		proxy->loaded = clock_wall();
		log_info("configuration read again");
	} else {
		log_error("reload failed, nothing was changed: %s", sbuf_text(errors));
	}
	return good;
}

/* In our words, or in those of a system call that read a file. */
static bool tells_of_memory(const struct sbuf *errors)
{
	return strstr(sbuf_text(errors), "out of memory") != NULL ||
	       strstr(sbuf_text(errors), strerror(ENOMEM)) != NULL;
}

bool proxy_set(struct proxy *proxy, const char *name, const char *value, char *sqlstate,
               struct sbuf *errors, struct sbuf *notes)
{
	struct config *fresh;
	struct sbuf unused;
	bool good;

	if (!config_with(proxy->config, name, value, &fresh, notes, sqlstate, errors))
		return false;
	sbuf_init(&unused, 1024);
	/* What belongs together is set one by one. */
	good = proxy_adopt(proxy, fresh, errors, &unused, notes);
	sbuf_free(&unused);
	if (!good)
		(void)snprintf(sqlstate, 6, "%s", tells_of_memory(errors) ? "53200" : "22023");
	else
		log_info("%s set from the console", name);
	return good;
}

/* ---- signals ---- */

static void proxy_signal_reload(struct proxy *proxy)
{
	struct sbuf errors;
	struct sbuf notes;

	sbuf_init(&errors, (size_t)64 * 1024);
	sbuf_init(&notes, 4096);
	/* Whatever is in the configuration: the file may have been moved away. */
	proxy_apply_log(proxy->config);
	if (proxy_reload(proxy, &errors, &notes) && notes.len > 0)
		log_warning("these settings need a restart: %s", sbuf_text(&notes));
	sbuf_free(&errors);
	sbuf_free(&notes);
}

static void proxy_signal(evutil_socket_t sig, short what, void *arg)
{
	struct proxy *proxy = arg;
	const bool theirs = proxy->config->proxy.as_pgbouncer;

	(void)what;
	switch (sig) {
	case SIGHUP:
		proxy_signal_reload(proxy);
		break;
	case SIGINT:
		proxy->interrupts++;
		proxy_shutdown(proxy, proxy->interrupts > 1 || (theirs && proxy->shutting_down));
		break;
	case SIGTERM:
		if (!theirs)
			proxy_shutdown(proxy, false);
		else if (proxy->shutting_down)
			proxy_shutdown(proxy, true);
		else
			proxy_shutdown_later(proxy);
		break;
	case SIGQUIT:
		proxy_shutdown(proxy, true);
		break;
	case SIGUSR1:
		admin_request_abandon(admin_pause(proxy->admin, NULL, 0, NULL, NULL));
		break;
	case SIGUSR2:
		if (proxy->shutting_down && !proxy->waits_clients)
			log_info("got SIGUSR2 while shutting down, ignoring");
		else
			admin_request_abandon(admin_resume(proxy->admin, NULL, NULL, NULL));
		break;
	default:
		break;
	}
}

static bool proxy_catch_signals(struct proxy *proxy)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

	(void)signal(SIGPIPE, SIG_IGN);
	/* A file that may not grow is an error like a full disk. */
	(void)signal(SIGXFSZ, SIG_IGN);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
		/* What libevent restores when the event is freed: a second SIGINT that comes while
		 * the process is ending must not kill it. */
		(void)signal(signals[i], SIG_IGN);
		proxy->signals[i] = evsignal_new(proxy->base, signals[i], proxy_signal, proxy);
		if (proxy->signals[i] == NULL || event_add(proxy->signals[i], NULL) != 0)
			return false;
	}
	return true;
}

/* ---- life ---- */

static void proxy_tell_left_out(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	log_tell_left_out();
}

static bool proxy_start_log_timer(struct proxy *proxy)
{
	const struct timeval second = {1, 0};

	proxy->log_timer = event_new(proxy->base, -1, EV_PERSIST, proxy_tell_left_out, proxy);
	return proxy->log_timer != NULL && event_add(proxy->log_timer, &second) == 0;
}

/* The process that pid_file names; 0: none. */
static pid_t proxy_read_pid(const struct config *config)
{
	FILE *file = fopen(config->proxy.pid_file, "re");
	char line[32] = "";
	long pid;

	if (file == NULL)
		return 0;
	(void)fgets(line, sizeof(line), file);
	(void)fclose(file);
	pid = strtol(line, NULL, 10);
	return pid <= 0 || pid > INT_MAX ? 0 : (pid_t)pid;
}

/* As pgbouncer: whoever stops and reloads by the file must not be led to another process. */
static bool proxy_check_pid(const struct proxy *proxy)
{
	const pid_t pid = proxy->config->proxy.pid_file[0] == '\0' ? 0 : proxy_read_pid(proxy->config);

	if (pid == 0 || pid == getpid() || (kill(pid, 0) != 0 && errno == ESRCH))
		return true;
	log_error("cannot start: pid_file \"%s\" is of process %d, which runs; stop it, or remove the "
	          "file if that is another program",
	          proxy->config->proxy.pid_file, (int)pid);
	return false;
}

static bool proxy_write_pid(struct proxy *proxy)
{
	const struct config *config = proxy->config;
	FILE *file;

	if (config->proxy.pid_file[0] == '\0')
		return true;
	file = fopen(config->proxy.pid_file, "we");
	if (file == NULL || fprintf(file, "%d\n", (int)getpid()) < 0 || fclose(file) != 0) {
		log_error("cannot write pid_file \"%s\": %s", config->proxy.pid_file,
		          strerror(errno));
		return false;
	}
	proxy->pid_written = true;
	return true;
}

/* How many there may be in the end. */
static unsigned proxy_count_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > UINT_MAX)
		return 0;
	return (unsigned)limit.rlim_cur;
}

/* How many are open now. */
static unsigned proxy_count_open(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	while (dir != NULL && readdir(dir) != NULL)
		count++;
	if (dir != NULL)
		(void)closedir(dir);
	return count > 3 ? count - 3 : 0; /* ".", ".." and that of the folder */
}

/* Every client and every server needs one, and some are for files. */
static void proxy_raise_descriptors(const struct config *config)
{
	struct rlimit limit;
	rlim_t wanted = (rlim_t)config->proxy.max_client_connections * 2 + 256;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
		return;
	limit.rlim_cur =
	    limit.rlim_max == RLIM_INFINITY || wanted < limit.rlim_max ? wanted : limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < wanted)
		log_warning("only %llu file descriptors are allowed: fewer than %d clients and "
		            "their servers may need",
		            (unsigned long long)limit.rlim_cur,
		            config->proxy.max_client_connections);
}

static unsigned proxy_count_workers(const struct config *config)
{
	long cpus =
	    config->proxy.workers > 0 ? config->proxy.workers : sysconf(_SC_NPROCESSORS_ONLN);

	return cpus < 1 ? 1 : cpus > WORKERS_MAX ? WORKERS_MAX : (unsigned)cpus;
}

static bool proxy_start_workers(struct proxy *proxy)
{
	proxy->workers = calloc(proxy->worker_count, sizeof(*proxy->workers));
	if (proxy->workers == NULL)
		return false;
	for (unsigned i = 0; i < proxy->worker_count; i++) {
		if (!worker_start(&proxy->workers[i], proxy, i, proxy->routes))
			return false;
	}
	return true;
}

bool proxy_init(struct proxy *proxy, struct config *config, const char *config_path,
                proxy_console_fn console)
{
	struct secure *secure = NULL;
	struct access access;
	struct sbuf error;
	bool good;

	proxy->config = config;
	proxy->config_path = mem_must_strdup(config_path);
	proxy->peer_id = (unsigned)config->proxy.peer_id;
	proxy->console = console;
	proxy->started = clock_now();
	proxy->loaded = clock_wall();
	proxy_apply_log(config);
	if (geteuid() == 0)
		log_warning("running as root, whom nothing here needs: let the setting user, --user or "
		            "the service manager choose another user");
	proxy_raise_descriptors(config);
	proxy->descriptors = proxy_count_descriptors();
	proxy->base = event_base_new();
	proxy->shares = share_registry_new(proxy_count_workers(config));
	proxy->told = told_table_new();
	proxy->worker_count = proxy_count_workers(config);
	if (proxy->base == NULL || proxy->shares == NULL || proxy->told == NULL ||
	    !crypto_random(proxy->cancel_secret, sizeof(proxy->cancel_secret)) ||
	    pthread_mutex_init(&proxy->users_lock, NULL) != 0 ||
	    !mailbox_open(&proxy->mailbox, proxy->base, proxy_receive, proxy) ||
	    !proxy_catch_signals(proxy) || !proxy_start_log_timer(proxy)) {
		log_error("cannot start: out of memory or descriptors");
		return false;
	}
	sbuf_init(&error, (size_t)16 * 1024);
	good = access_load(&access, config, NULL, &error);
	if (good)
		proxy_set_access(proxy, &access);
	if (good)
		proxy->admin = admin_create(proxy, &error);
	if (proxy->admin != NULL)
		secure = secure_load(config, NULL, &error);
	if (secure != NULL)
		proxy->routes = admin_routes(proxy->admin, config, &error);
	good = proxy->routes != NULL;
	if (good)
		proxy->routes->secure = secure;
	else
		secure_unref(secure);
	if (good)
		share_apply(proxy->shares, config);
	else
		log_error("cannot start: %s", sbuf_text(&error));
	sbuf_free(&error);
	if (!good || (proxy->takeover == NULL &&
	              (!proxy_check_pid(proxy) || !proxy_write_pid(proxy))))
		return false;
	proxy->auth_cache = auth_cache_new(AUTH_CACHE_USERS);
	proxy->addresses = address_table_new();
	if (proxy->auth_cache != NULL && proxy->addresses != NULL)
		proxy->compute = compute_start(proxy);
	if (proxy->compute != NULL)
		proxy->asking = compute_start(proxy);
	if (proxy->asking == NULL || !proxy_start_workers(proxy))
		return false;
	proxy_start_warming(proxy);
	return true;
}

static void proxy_free(struct proxy *proxy)
{
	proxy_stop_warming(proxy);
	for (unsigned i = 0; i < proxy->worker_count; i++)
		worker_join(&proxy->workers[i]);
	compute_stop(proxy->compute);
	compute_stop(proxy->asking);
	for (unsigned i = 0; i < proxy->worker_count; i++)
		worker_close(&proxy->workers[i]);
	mailbox_close(&proxy->mailbox);
	handover_free(proxy->handover);
	admin_free(proxy->admin);
	for (size_t i = 0; i < ARRAY_LEN(proxy->signals); i++) {
		if (proxy->signals[i] != NULL)
			event_free(proxy->signals[i]);
	}
	if (proxy->shutdown_timer != NULL)
		event_free(proxy->shutdown_timer);
	if (proxy->log_timer != NULL)
		event_free(proxy->log_timer);
	if (proxy->web.unix_path[0] != '\0')
		(void)unlink(proxy->web.unix_path);
	if (proxy->pid_written && proxy_read_pid(proxy->config) == getpid())
		(void)unlink(proxy->config->proxy.pid_file);
	route_table_unref(proxy->routes);
	proxy_set_access(proxy, &(struct access){0});
	config_unref(proxy->config);
	auth_cache_free(proxy->auth_cache);
	address_table_free(proxy->addresses);
	share_registry_free(proxy->shares);
	told_table_free(proxy->told);
	event_base_free(proxy->base);
	(void)pthread_mutex_destroy(&proxy->users_lock);
	free(proxy->workers);
	free(proxy->config_path);
	mem_spare_free();
}

/* From here on this process serves, not the one that did. */
static bool proxy_take_over(struct proxy *proxy)
{
	struct sbuf error;
	bool good;

	sbuf_init(&error, 1024);
	good = takeover_commit(proxy->takeover, &error);
	if (good) {
		log_info("took over from pid %d (pgshuntd %s)", (int)proxy->takeover->pid,
		         proxy->takeover->version);
		sock_close_given(&proxy->takeover->sockets);
		if (!proxy_write_pid(proxy))
			log_warning("the pid file still names the former process");
	} else {
		log_error("cannot take over: %s", sbuf_text(&error));
		/* All of these are the other's. */
		admin_leave_state(proxy->admin);
		proxy->listeners.unix_path[0] = '\0';
		proxy->web.unix_path[0] = '\0';
	}
	sbuf_free(&error);
	return good;
}

int proxy_run(struct proxy *proxy)
{
	bool good;

	/* Holds that outlived the last process come first: no client must slip through. */
	admin_start(proxy->admin);
	good = proxy_open_listeners(proxy);
	if (proxy->takeover != NULL)
		good = good && proxy_take_over(proxy);
	good = good && (proxy->before_listen == NULL || proxy->before_listen(proxy));
	if (good)
		proxy->handover = handover_start(proxy, proxy->takeover);
	if (good && proxy_listen(proxy)) {
		proxy->listening = true;
		mem_be_patient();
		proxy->descriptors_own = proxy_count_open();
		log_info("pgshuntd %s is ready: %u workers, port %d", PGSHUNT_VERSION,
		         proxy->worker_count, proxy->config->proxy.port);
		/* After a takeover the service has another main process. */
		notify_send("READY=1\nMAINPID=%d\nSTATUS=Ready: %u workers.\n", (int)getpid(),
			    proxy->worker_count);
	} else {
		good = false;
		proxy_shutdown(proxy, true);
	}
	(void)event_base_dispatch(proxy->base);
	if (proxy->before_free != NULL)
		proxy->before_free();
	proxy_free(proxy);
	log_tell_left_out();
	log_info("pgshuntd has ended");
	return good ? 0 : 1;
}
