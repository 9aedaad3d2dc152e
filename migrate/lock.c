/* SPDX-License-Identifier: PostgreSQL */
/*
 * One operator at a time: the advisory lock on the source that the mover's session there holds for
 * the whole move.  It keeps out who works from another machine or with another journal; those on
 * this machine meet the lock of the journal directory first (migrate/journal.h).
 *
 * The session says in its application_name who holds the lock.  It ends with its process, with its
 * machine (the server probes the connection, migrate/link.c), and what is left of a process of this
 * machine that has died is ended here; nobody else's session ever is.
 */
#include "migrate/lock.h"

#include "base/mem.h"
#include "migrate/move.h"
#include "migrate/watch.h"

#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "pgshunt" as a number. */
#define LOCK_KEY "31640438183880308"
#define LOCK_SQL_MAX 2048
/* A mover that was just killed still has its session on the source for a moment. */
#define LOCK_PATIENCE (3 * USEC_PER_SEC)
#define LOCK_POLL (100 * USEC_PER_MSEC)
/* What PostgreSQL keeps of an application_name. */
#define NAME_MAX_LEN 63

static const char holder_sql[] =
    "SELECT a.pid, a.application_name AS name, coalesce(host(a.client_addr), 'a local socket')"
    " AS address, date_trunc('second', a.backend_start)::text AS since FROM pg_locks l JOIN"
    " pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted AND"
    " l.objsubid = 1 AND (l.classid::bigint << 32 | l.objid::bigint) = " LOCK_KEY
    " AND a.pid <> pg_backend_pid()";

/* An advisory lock is one of a database, and another operator's admin_dbname may be another one:
 * whoever has taken it looks whether somebody has it there, and gives it back.  Two who see each
 * other both do, and try again at different moments. */
static const char elsewhere_sql[] =
    "SELECT count(*) AS others, pg_advisory_unlock(" LOCK_KEY ") AS given_back FROM pg_locks l"
    " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND"
    " (l.classid::bigint << 32 | l.objid::bigint) = " LOCK_KEY " AND l.pid <> pg_backend_pid()"
    " HAVING count(*) > 0";

/* Process numbers mean something only within their namespace: a container has its own. */
static unsigned long pid_namespace(void)
{
	char text[64];
	ssize_t len = readlink("/proc/self/ns/pid", text, sizeof(text) - 1);
	const char *number;

	if (len <= 0)
		return 0;
	text[len] = '\0';
	number = strchr(text, '[');
	return number == NULL ? 0 : strtoul(number + 1, NULL, 10);
}

void lock_name(char *name, size_t size)
{
	const struct passwd *passwd = getpwuid(getuid());
	const char *user = passwd == NULL ? "?" : passwd->pw_name;
	char host[65] = "?";
	char tail[48];
	int room;

	if (getenv(WATCH_ENV) != NULL)
		user = LOCK_WATCH;
	if (gethostname(host, sizeof(host) - 1) != 0)
		(void)snprintf(host, sizeof(host), "?");
	/* Long names are cut in their middle: the numbers are what a lock is judged by. */
	(void)snprintf(tail, sizeof(tail), " pid %ld/%lx", (long)getpid(), pid_namespace());
	room = (int)(NAME_MAX_LEN - strlen("pgshunt @") - strlen(tail) - strlen(host));
	if (room < 4) {
		host[strlen(host) - (size_t)(4 - room)] = '\0';
		room = 4;
	}
	(void)snprintf(name, size, "pgshunt %.*s@%s%s", room, user, host, tail);
}

bool lock_is_dead(const char *theirs, const char *mine)
{
	const char *their_host = strchr(theirs, '@');
	const char *my_host = strchr(mine, '@');
	const char *their_pid = their_host == NULL ? NULL : strstr(their_host, " pid ");
	const char *my_pid = my_host == NULL ? NULL : strstr(my_host, " pid ");
	long pid;
	char *end;

	if (their_pid == NULL || my_pid == NULL || their_pid - their_host != my_pid - my_host ||
	    strncmp(their_host, my_host, (size_t)(my_pid - my_host)) != 0)
		return false;
	pid = strtol(their_pid + 5, &end, 10);
	if (pid <= 0 || *end != '/' || strcmp(end, strchr(my_pid + 5, '/')) != 0)
		return false;
	/* Our own number: a session that we lost, for the one that asks does not hold it. */
	return pid == (long)getpid() || (kill((pid_t)pid, 0) != 0 && errno == ESRCH);
}

/* Ends the session of a dead process of this machine.  *who: who holds the lock otherwise. */
static void look_at_holder(struct move *move, const char *mine, char **who)
{
	struct link *link = &move->source.link;
	const char *name;
	char sql[64];

	free(*who);
	*who = NULL;
	if (!link_run(&move->loop, link, move->config->mover.connect_timeout, holder_sql) ||
	    link_rows(link) == 0)
		return;
	name = link_value(link, 0, "name");
	*who =
	    mem_must_printf("%s, from %s since %s, is process %s of %s", name == NULL ? "?" : name,
	                    link_value(link, 0, "address"), link_value(link, 0, "since"),
	                    link_value(link, 0, "pid"), link->name);
	if (name == NULL || !lock_is_dead(name, mine))
		return;
	ui_error(move->ui, "%s: the lock of a mover that died is taken over: %s", link->name, name);
	(void)snprintf(sql, sizeof(sql), "SELECT pg_terminate_backend(%" PRId64 ")",
	               link_number(link, 0, "pid", 0));
	(void)!link_run(&move->loop, link, move->config->mover.connect_timeout, sql);
}

static bool lock_try(struct move *move, const char *sql, bool *locked)
{
	struct link *link = &move->source.link;

	*locked = link_run(&move->loop, link, move->config->mover.connect_timeout, sql) &&
	          link_true(link, 0, "locked");
	if (*locked) {
		*locked = link_run(&move->loop, link, move->config->mover.connect_timeout,
		                   elsewhere_sql) &&
		          link_rows(link) == 0;
	}
	return link_ok(link) || move_fail(move, "%s: %s", link->name, link_error(link));
}

bool move_lock_source(struct move *move)
{
	usec_t deadline = clock_now() + LOCK_PATIENCE;
	struct link *link = &move->source.link;
	char name[NAME_MAX_LEN + 1];
	char *who = NULL;
	struct sbuf sql;
	bool locked = false;
	bool ok;

	lock_name(name, sizeof(name));
	sbuf_init(&sql, LOCK_SQL_MAX);
	sbuf_add_str(&sql, "SELECT set_config('application_name', ");
	sql_literal(&sql, name);
	sbuf_add_str(&sql, ", false), pg_try_advisory_lock(" LOCK_KEY ") AS locked");
	while ((ok = lock_try(move, sbuf_text(&sql), &locked)) && !locked) {
		look_at_holder(move, name, &who);
		if (clock_now() >= deadline || move_stopped(move))
			break;
		loop_sleep(&move->loop, LOCK_POLL + getpid() % 50 * USEC_PER_MSEC);
	}
	sbuf_free(&sql);
	if (locked)
		move->locked = true;
	else if (ok)
		(void)move_fail(move,
		                "another pgshunt is at work on %s: %s; if it is dead and its "
		                "machine cannot be reached, end that process with "
		                "pg_terminate_backend",
		                link->name, who == NULL ? "it does not show itself" : who);
	free(who);
	return locked;
}

void move_unlock_source(struct move *move)
{
	struct link *link = &move->source.link;

	move->locked = false;
	if (!link_run(&move->loop, link, move->config->mover.connect_timeout,
	              "SELECT pg_advisory_unlock(" LOCK_KEY ")"))
		link_close(link);
}
