/* SPDX-License-Identifier: PostgreSQL */
#include "core/names.h"

#include "base/log.h"
#include "base/mem.h"
#include "core/pool.h"
#include "core/route.h"
#include "core/server.h"
#include "core/session_move.h"
#include "core/view.h"
#include "core/worker.h"
#include "net/sock.h"

#include <event2/dns.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define HOSTS_FILE "/etc/hosts"
#define RESOLV_CONF "/etc/resolv.conf"

/* Of one name; of more, the others are not watched. */
#define ADDRESSES_MAX 64

/* An address that comes back within this time had not gone. */
#define ROTATION (600 * USEC_PER_SEC)

/* The resolver's files are looked at so often. */
#define LOOK_EVERY USEC_PER_SEC

/* A name that nothing is connected by is forgotten after this time. */
#define FORGET_AFTER (3600 * USEC_PER_SEC)

struct name_address {
	struct sock_address address;
	usec_t gone; /* since when the name does not have it; 0: it does */
	bool left;   /* connections to it have been told */
};

struct name {
	struct list_node node;
	struct worker *worker;
	struct evdns_getaddrinfo_request *lookup; /* of our own */
	usec_t asked;
	bool rotates;
	bool changed;
	size_t count;
	struct name_address at[ADDRESSES_MAX];
	char host[];
};

static bool same_ip(const struct sock_address *a, const struct sock_address *b)
{
	return a->family == b->family && memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
}

/* ---- what look-ups have found ---- */

static struct name *name_find(struct worker *worker, const char *host)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->names, node, tmp)
	{
		struct name *name = CONTAINER_OF(node, struct name, node);

		if (strcmp(name->host, host) == 0)
			return name;
	}
	return NULL;
}

static struct name *name_get(struct worker *worker, const char *host)
{
	struct name *name = name_find(worker, host);
	const size_t len = strlen(host) + 1;

	if (name != NULL)
		return name;
	name = calloc(1, sizeof(*name) + len);
	if (name == NULL) {
		mem_complain("the addresses of a server's name are not watched");
		return NULL;
	}
	memcpy(name->host, host, len);
	name->worker = worker;
	list_append(&worker->names, &name->node);
	return name;
}

static struct name_address *name_has(struct name *name, const struct sock_address *address)
{
	for (size_t i = 0; i < name->count; i++) {
		if (same_ip(&name->at[i].address, address))
			return &name->at[i];
	}
	return NULL;
}

static void name_add(struct name *name, const struct sock_address *address)
{
	struct name_address *at = name_has(name, address);

	if (at == NULL && name->count < ADDRESSES_MAX) {
		name->at[name->count++] = (struct name_address){.address = *address};
	} else if (at != NULL) {
		if (at->gone != 0 && name->worker->now - at->gone < ROTATION && !name->rotates) {
			name->rotates = true;
			log_info(
			    "host name \"%s\": addresses come and go; connections to those that "
			    "it has not at the moment stay",
			    name->host);
		}
		at->gone = 0;
		at->left = false;
	}
}

static bool is_listed(const struct evutil_addrinfo *list, const struct sock_address *address)
{
	struct sock_address listed;

	for (; list != NULL; list = list->ai_next) {
		sock_address_of(list->ai_addr, &listed);
		if (same_ip(&listed, address))
			return true;
	}
	return false;
}

void names_found(struct worker *worker, const char *host, const struct evutil_addrinfo *list)
{
	struct name *name = name_get(worker, host);

	if (name == NULL || list == NULL)
		return;
	name->asked = worker->now;
	for (size_t i = 0; i < name->count; i++) {
		struct name_address *at = &name->at[i];

		if (at->gone == 0 && !is_listed(list, &at->address)) {
			at->gone = worker->now;
			name->changed = true;
		}
	}
	for (; list != NULL; list = list->ai_next) {
		struct sock_address address;

		sock_address_of(list->ai_addr, &address);
		name_add(name, &address);
	}
}

/* ---- connections to addresses that are gone ---- */

static bool server_has_left(const struct server *server, struct name *name)
{
	const struct name_address *at;
	struct sock_address peer;

	if (server->conn.fd < 0 || server->doomed || strcmp(server->host, name->host) != 0)
		return false;
	sock_peer_address(server->conn.fd, &peer);
	at = name_has(name, &peer);
	return at != NULL && at->gone != 0;
}

static void leave_in_pool(struct pool *pool, void *arg)
{
	struct name *name = arg;
	struct database *database = pool->database;
	bool some = false;

	for (int state = 0; state < SERVER_STATE_COUNT; state++) {
		struct list_node *node;
		struct list_node *tmp;

		LIST_FOREACH(&pool->servers[state], node, tmp)
		{
			struct server *server = CONTAINER_OF(node, struct server, node);

			if (!server_has_left(server, name))
				continue;
			server->unlisted = true;
			some = true;
			/* In a hold nothing is closed that its end would have to open. */
			if (state == SERVER_IDLE && !database->held)
				server_doom(server, SERVER_CLOSE_STALE);
		}
	}
	if (some)
		session_leave_outdated(database);
}

static void name_leave(struct name *name)
{
	struct sock_name text;

	name->changed = false;
	if (name->rotates)
		return;
	for (size_t i = 0; i < name->count; i++) {
		struct name_address *at = &name->at[i];

		if (at->gone == 0 || at->left)
			continue;
		at->left = true;
		sock_address_name(&at->address, &text);
		log_info(
		    "host name \"%s\" no longer has the address %s: connections to it are left",
		    name->host, text.addr);
	}
	pool_for_each(name->worker, leave_in_pool, name);
}

/* ---- looking up again ---- */

static void name_looked_up(int result, struct evutil_addrinfo *list, void *arg)
{
	struct name *name = arg;

	name->lookup = NULL;
	/* A resolver that does not answer says nothing about addresses. */
	if (result == 0)
		names_found(name->worker, name->host, list);
	if (list != NULL)
		evutil_freeaddrinfo(list);
}

static void name_look_up(struct name *name)
{
	struct evutil_addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct evdns_getaddrinfo_request *lookup;

	name->asked = name->worker->now;
	lookup =
	    evdns_getaddrinfo(name->worker->dns, name->host, NULL, &hints, name_looked_up, name);
	/* NULL: it was answered at once. */
	name->lookup = lookup;
}

struct search {
	const char *host;
	bool found;
};

static void search_in_pool(struct pool *pool, void *arg)
{
	struct search *search = arg;

	for (int state = 0; !search->found && state < SERVER_STATE_COUNT; state++) {
		struct list_node *node;
		struct list_node *tmp;

		LIST_FOREACH(&pool->servers[state], node, tmp)
		{
			const struct server *server = CONTAINER_OF(node, struct server, node);

			/* It has none if there was no memory. */
			if (server->host != NULL && strcmp(server->host, search->host) == 0) {
				search->found = true;
				break;
			}
		}
	}
}

static void name_free(struct name *name)
{
	list_remove(&name->worker->names, &name->node);
	free(name);
}

/* Addresses that have been gone for long, and a name of which nothing is known then. */
static void name_forget(struct name *name)
{
	const usec_t now = name->worker->now;
	size_t kept = 0;

	for (size_t i = 0; i < name->count; i++) {
		if (name->at[i].gone == 0 || now - name->at[i].gone < ROTATION)
			name->at[kept++] = name->at[i];
	}
	name->count = kept;
}

static void name_tick(struct name *name)
{
	struct worker *worker = name->worker;
	const usec_t interval = worker->routes->config->proxy.dns_check_interval;
	const usec_t age = worker->now - name->asked;
	struct search search = {.host = name->host};

	if (name->changed)
		name_leave(name);
	if (name->lookup != NULL || age < (interval > 0 ? interval : FORGET_AFTER))
		return;
	pool_for_each(worker, search_in_pool, &search);
	name_forget(name);
	if (!search.found)
		name_free(name);
	else if (interval > 0)
		name_look_up(name);
	else
		name->asked = worker->now;
}

/* ---- the resolver ---- */

static const char *resolv_conf(const struct worker *worker)
{
	const char *path = worker->routes->config->proxy.resolv_conf;

	return path[0] == '\0' ? RESOLV_CONF : path;
}

static usec_t changed_at(const char *path)
{
	struct stat st;

	return stat(path, &st) != 0
	           ? 0
	           : (usec_t)st.st_mtim.tv_sec * USEC_PER_SEC + st.st_mtim.tv_nsec / 1000;
}

static void read_files(struct worker *worker)
{
	/* First: a change meanwhile is one. */
	worker->hosts_changed = changed_at(HOSTS_FILE);
	worker->resolv_changed = changed_at(resolv_conf(worker));
	worker->resolver_looked = worker->now;
	/* Without a name server the hosts file still serves; nobody needs to be asked on 127.0.0.1,
	 * which is what libevent makes of that. */
	if (evdns_base_resolv_conf_parse(worker->dns, DNS_OPTIONS_ALL & ~DNS_OPTION_HOSTSFILE,
	                                 resolv_conf(worker)) != 0) {
		(void)evdns_base_clear_nameservers_and_suspend(worker->dns);
		(void)evdns_base_resume(worker->dns);
	}
	(void)evdns_base_load_hosts(worker->dns, HOSTS_FILE);
}

static void read_changed_files(struct worker *worker)
{
	if (worker->now - worker->resolver_looked < LOOK_EVERY)
		return;
	worker->resolver_looked = worker->now;
	if (worker->hosts_changed == changed_at(HOSTS_FILE) &&
	    worker->resolv_changed == changed_at(resolv_conf(worker)))
		return;
	/* What is being looked up waits meanwhile. */
	(void)evdns_base_clear_nameservers_and_suspend(worker->dns);
	evdns_base_clear_host_addresses(worker->dns);
	read_files(worker);
	(void)evdns_base_resume(worker->dns);
	log_info("the resolver's configuration was read again");
}

bool names_open(struct worker *worker)
{
	worker->dns = evdns_base_new(worker->base, 0);
	if (worker->dns == NULL)
		return false;
	read_files(worker);
	return true;
}

void names_tick(struct worker *worker)
{
	struct list_node *node;
	struct list_node *tmp;

	read_changed_files(worker);
	LIST_FOREACH(&worker->names, node, tmp)
	{
		name_tick(CONTAINER_OF(node, struct name, node));
	}
}

/* The addresses that it has, with commas. */
static void name_list(const struct name *name, struct sbuf *list)
{
	struct sock_name text;

	for (size_t i = 0; i < name->count; i++) {
		if (name->at[i].gone != 0)
			continue;
		sock_address_name(&name->at[i].address, &text);
		sbuf_printf(list, "%s%s", list->len == 0 ? "" : ",", text.addr);
	}
}

void names_fill(const struct worker *worker, struct rowset *rows)
{
	const usec_t interval = worker->routes->config->proxy.dns_check_interval;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->names, node, tmp)
	{
		const struct name *name = CONTAINER_OF(node, struct name, node);
		const usec_t age = worker->now - name->asked;
		struct sbuf list;

		sbuf_init(&list, VIEW_CELL_MAX);
		name_list(name, &list);
		rowset_text(rows, name->host);
		rowset_int(rows, interval > age ? (interval - age) / USEC_PER_SEC : 0);
		rowset_text(rows, list.len == 0 ? NULL : sbuf_text(&list));
		rowset_end_row(rows);
		sbuf_free(&list);
	}
}

void names_stop(struct worker *worker)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->names, node, tmp)
	{
		struct name *name = CONTAINER_OF(node, struct name, node);

		if (name->lookup != NULL)
			evdns_getaddrinfo_cancel(name->lookup);
	}
}

void names_close(struct worker *worker)
{
	struct list_node *node;
	struct list_node *tmp;

	if (worker->dns == NULL)
		return;
	evdns_base_free(worker->dns, 0);
	LIST_FOREACH(&worker->names, node, tmp)
	{
		name_free(CONTAINER_OF(node, struct name, node));
	}
}
