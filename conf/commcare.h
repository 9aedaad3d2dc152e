/* SPDX-License-Identifier: PostgreSQL */
/*
 * postgresql.yml of an environment of commcare-cloud: its databases with hosts and endpoints
 * resolved through the inventory, its rules checked, and the smallest edit that puts a database on
 * another host.  The file is never written anew: bytes are exchanged or inserted, all else stays.
 */
#ifndef CONF_COMMCARE_H
#define CONF_COMMCARE_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "conf/arena.h"
#include "conf/inventory.h"
#include "conf/tree.h"

#include <stdbool.h>
#include <stddef.h>

/* The port that applications use where nothing says another one. */
#define COMMCARE_PORT 6432

struct commcare_database {
	const char *alias;     /* key in the file: "p2", "main" */
	const char *name;      /* of the database: "commcarehq_p2" */
	const char *host;      /* of the inventory: where PostgreSQL is */
	const char *endpoint;  /* of the inventory: where applications connect */
	int port;              /* there */
	const char **bouncers; /* pgbouncer hosts */
	size_t bouncer_count;
	long first; /* shards, both inclusive; -1 = it is no partition */
	long last;
	bool inherited;    /* its host is DEFAULT_POSTGRESQL_HOST */
	bool own_endpoint; /* the file gives pgbouncers; otherwise they are on the host */
	const struct node *map;
};

struct commcare {
	char *path;
	char *bytes;
	size_t len;
	char *inventory_text;
	const struct node *root;
	struct inventory inventory;
	struct commcare_database *databases;
	size_t database_count;
	struct config_block *blocks;
};

/* Takes postgresql.yml and the inventory; false: `errors` has all that is wrong, a line each. */
bool commcare_parse(const char *path, const char *yaml, size_t len, const char *inventory_name,
                    const char *inventory, struct commcare *out, struct sbuf *errors) MUST_CHECK;
void commcare_free(struct commcare *commcare);

/* The entry of that database name, NULL if there is none. */
const struct commcare_database *commcare_find(const struct commcare *commcare, const char *name);

/* A host or a group of one host to the host; NULL if it is neither. */
const char *commcare_translate(const struct commcare *commcare, const char *name);

/* The port of applications for databases on that host that give none. */
int commcare_port_at(const struct commcare *commcare, const char *host);

/* How the file should name the machine with this name or address: as a one-host group or host of
 * the inventory.  NULL if the inventory does not have it. */
const char *commcare_spelling(const struct commcare *commcare, const char *name,
                              const char *address);

/*
 * The bytes of the file with the databases of these names on the host `to` (as the inventory spells
 * it).  `keep_endpoint`: where the file gives no pgbouncers, the one of the old host stays the
 * endpoint and forwards; else the endpoint goes along.  The result is read again and must say just
 * that.  NULL: `errors` says why not.
 */
char *commcare_move(const struct commcare *commcare, const char *const *names, size_t count,
                    const char *to, bool keep_endpoint, struct sbuf *errors) MUST_CHECK;

#endif
