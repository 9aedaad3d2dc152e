/* SPDX-License-Identifier: PostgreSQL */
/*
 * The pgbouncers that stay in the path: which processes there are, which of their entries lead to
 * the shards, how these are paused, changed in pgbouncer.ini, reloaded and resumed.
 *
 * A process is always driven on connections to itself: with so_reuseport a TCP connection reaches
 * any of several processes, so each is told apart by what it says of itself.  Its control
 * connection asks and commands; PAUSE, whose answer may be late for reasons of other databases, has
 * a connection for each entry, and whether an entry is drained is asked, not believed.
 *
 * States of an entry: it stays (change is false), or it goes from running over held (PAUSE sent)
 * and drained to released, after its line was exchanged in the file.
 *
 * PAUSE has no lease: a child process (migrate/guard.h) resumes when the mover has died.
 */
#ifndef MIGRATE_PGBOUNCER_H
#define MIGRATE_PGBOUNCER_H

#include "conf/config.h"
#include "conf/ini.h"
#include "migrate/journal.h"
#include "migrate/link.h"

#include <stdbool.h>
#include <stddef.h>

struct move;
struct shard;

/* What the control connection was asked last. */
enum bouncer_step {
	BOUNCER_NOTHING,
	BOUNCER_WATCH,   /* SHOW DATABASES: still paused? */
	BOUNCER_SERVERS, /* SHOW SERVERS: drained? */
	BOUNCER_CONFIRM, /* SHOW DATABASES, the last time before the promotion */
	BOUNCER_RELOAD,
	BOUNCER_LOOK, /* SHOW DATABASES: did it take the new address over? */
	BOUNCER_RETRY,
	BOUNCER_RESUME,
	BOUNCER_RESTORE,
};

/* One process. */
struct bouncer {
	const struct config_pgbouncer *conf;
	char *label; /* "pgbouncer web1", "pgbouncer web1 (/run/pgbouncer-2)" */
	struct link_target target;
	struct link control;
	bool shared;    /* its address leads to several processes */
	char *identity; /* what tells it from the others; NULL = not asked yet */
	char *ini;      /* its pgbouncer.ini, NULL = unknown */
	char *retry;    /* its server_login_retry, NULL = unknown */
	char *session;  /* what is to be said about its pool_mode, NULL = nothing */
	usec_t query_wait_timeout;
	bool retry_changed;
	enum bouncer_step step;
	size_t resume_next; /* the entry that is resumed, an index of entries */
	bool confirmed;
	bool reloaded;
	usec_t asked_at;
	char *error; /* why the release stopped */
};

/* An entry of [databases] of one process that leads to a shard. */
struct bouncer_entry {
	struct bouncer *bouncer;
	struct shard *shard;
	char *name;
	char *host; /* where it leads, as the process says */
	int port;
	const char *where; /* "pg1", "proxy a" */
	bool change;       /* it leads to the source */
	bool behind;       /* a proxy leads to it: it is paused when the proxies are drained */
	char *new_host;    /* after the move */
	int new_port;
	struct link link; /* of PAUSE */
	bool held;        /* PAUSE was sent, RESUME not yet answered */
	bool drained;
	bool released;
	int64_t servers; /* connections to the source, last seen */
};

/* A value that is exchanged in a file. */
struct bouncer_edit {
	char *name;
	size_t line;
	size_t start;
	size_t end;
	char *old;
	char *new;
};

struct remote;

/* A file with entries that change. */
struct bouncer_file {
	const struct config_pgbouncer *conf; /* NULL = of no pgbouncer (migrate/commcare.h) */
	char *path;
	struct remote *shell; /* on its machine; NULL = this one */
	char *before;
	size_t before_len;
	char *after;
	size_t after_len;
	struct bouncer_edit *edits;
	size_t edit_count;
	bool prepared; /* the new one and the copy are there */
	bool committed;
	char *error;
};

/* ---- pgbouncer.c: finding them ---- */

/* Connects to every process and asks what it is; false if one cannot be reached, the others are. */
bool bouncers_connect(struct move *move, struct sbuf *error) MUST_CHECK;

/* Adds where the entries lead to what plan.c has seen. */
bool bouncers_read_seen(struct move *move, struct sbuf *error) MUST_CHECK;

/* Whether a pgbouncer listens there; its label or NULL. */
const char *bouncer_at(const struct move *move, const char *host, int port);

/* Whether this process is one of those that listen there. */
bool bouncer_listens(const struct move *move, const struct bouncer *bouncer, const char *host,
                     int port);

/* What an entry of this process with that host and port leads to; NULL if it is unknown. */
const char *bouncer_leads_to(const struct move *move, const struct bouncer *bouncer,
                             const char *host, int port);

/* Finds the entries of the shards and what is to be changed in the files. */
bool bouncers_plan(struct move *move, struct sbuf *error) MUST_CHECK;

/* What is worth knowing before the move, as lines. */
void bouncers_check(const struct move *move, struct sbuf *warnings);

/* Whether the process has an entry of that name that is paused for the move. */
bool bouncer_holds(const struct move *move, const struct bouncer *bouncer, const char *name);

/* The entries of processes that do not answer are only in the journal. */
void bouncers_add_missing(struct move *move, const struct journal_records *records);

/* Connects a link to the process, which may take several attempts. */
bool bouncer_link(struct move *move, struct bouncer *bouncer, struct link *link) MUST_CHECK;

void bouncers_json(const struct move *move, struct sbuf *out);
void bouncers_print(struct move *move);
void bouncers_free(struct move *move);

/* Whether there are entries that change. */
bool bouncers_involved(const struct move *move);

/* ---- pgbouncer_file.c ---- */

/* Adds the exchange of one entry; the file is read when it is the first. */
bool bouncer_file_add(struct move *move, struct bouncer_entry *entry,
                      struct sbuf *error) MUST_CHECK;

/* Another file of this machine that changes with them. */
void bouncer_file_add_text(struct move *move, const char *path, const char *before,
                           const char *after);

/* Writes the new file and a copy of the old one next to it. */
bool bouncer_files_prepare(struct move *move) MUST_CHECK;

/* Puts the new files into place, each if it is still what the plan saw; errors stay in the file. */
void bouncer_files_commit(struct move *move);

/* What is not committed is read anew by the next bouncer_file_add(). */
void bouncer_files_forget(struct move *move, const struct config_pgbouncer *conf);

/* On disk, at leisure. */
void bouncer_files_sync(struct move *move);

/* Removes what was prepared and not used. */
void bouncer_files_discard(struct move *move);

void bouncer_files_diff(const struct bouncer_file *file, struct sbuf *out);
void bouncer_files_free(struct move *move);

/* ---- pgbouncer_hold.c ---- */

/* Sends PAUSE; `behind`: of those behind a proxy, else of the others. */
void bouncers_send_pauses(struct move *move, bool behind);

/* Until every entry is drained; false after move_fail(). */
bool bouncers_await_pauses(struct move *move, usec_t deadline) MUST_CHECK;

/* The tick: are they still paused? */
void bouncers_tick(struct move *move);

/* A last look before the promotion. */
bool bouncers_await_confirm(struct move *move, usec_t deadline) MUST_CHECK;

/* Begins RELOAD and RESUME, in one chain for each process; and waits for it. */
void bouncers_send_release(struct move *move);
void bouncers_await_release(struct move *move, usec_t deadline);

/* Whatever state they are in: the entries lead to the target and run.  One attempt; false if there
 * is something left. */
bool bouncers_repair(struct move *move) MUST_CHECK;

/* Names what is not repaired, after a last RESUME. */
void bouncers_give_up(struct move *move);

/* Whether it could not be reached because no process is there: then nothing is paused either. */
bool bouncer_is_gone(const struct link *link);

/* RESUME everywhere; removes prepared files.  False if one may be left paused. */
bool bouncers_undo(struct move *move) MUST_CHECK;

/* Has the connections to a database anywhere replaced as they become free; how many entries lead
 * there. */
int bouncers_reconnect(struct move *move, const char *host, int port, const char *dbname);

/* Every control connection free for a question, as far as the processes can be reached. */
void bouncers_settle(struct move *move);

/* After the release: entries, waiting clients, settings. */
bool bouncers_validate(struct move *move) MUST_CHECK;

#endif
