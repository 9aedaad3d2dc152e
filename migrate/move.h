/* SPDX-License-Identifier: PostgreSQL */
/*
 * The move under way: what is moved, through which routers, over which connections, and what was
 * learned.  One thread owns it.  Its functions lie in one file per step (plan.c, check.c, hold.c,
 * fence.c, promote.c, plproxy.c, validate.c, undo.c, resume.c); run.c calls them in order.
 *
 * Every step returns false when it failed, after move_fail() said why.  No step undoes anything:
 * that is decided in one place, run.c.
 */
#ifndef MIGRATE_MOVE_H
#define MIGRATE_MOVE_H

#include "base/clock.h"
#include "base/compiler.h"
#include "conf/config.h"
#include "migrate/child.h"
#include "migrate/decide.h"
#include "migrate/journal.h"
#include "migrate/link.h"
#include "migrate/outcome.h"
#include "migrate/phase.h"
#include "migrate/ui.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A database that moves. */
struct shard {
	char *name;         /* as the operator knows it */
	char *dbname;       /* on the servers */
	bool own_read_only; /* read_only.h gave it a setting */
	size_t sessions;    /* on the source when they were ended */
	bool absent;        /* where fence_look() looked last */
	bool gone;          /* the promoted target has none: it is not opened, its clients stay held */
	struct link inside; /* in it on the target, since before the fence (unlogged.h) */
	char *leftover;     /* temporary tables without a session (leftover.h); NULL = none */
	usec_t held_at;     /* the first HOLD was sent */
	usec_t drained_at;  /* the last proxy had drained it */
	usec_t released_at; /* the last RELEASE was answered */
};

/* A proxy whose console is used. */
struct proxy {
	const struct config_mover_proxy *conf;
	char *label;        /* "proxy a" */
	struct link status; /* lease, progress, release in trouble */
	enum { PROXY_ASKED_NOTHING, PROXY_ASKED_RENEW, PROXY_ASKED_HOLDS } asked;
	usec_t renewed_at; /* the oldest of its leases */
	usec_t polled_at;
	bool errors_known; /* SHOW ERRORS was answered before the hold */
	size_t renew_next; /* route whose lease is next, an index of routes */
};

struct bouncer;
struct bouncer_entry;
struct bouncer_file;

/* A line of SHOW ROUTES or of a pgbouncer's SHOW DATABASES, or of the configuration when there are
 * no proxies. */
struct seen_route {
	struct proxy *proxy;     /* NULL = from a pgbouncer or the configuration */
	struct bouncer *bouncer; /* NULL = not from a pgbouncer */
	bool through;            /* it leads to a pgbouncer or proxy, which says where it goes on */
	char *database;
	char *server;
	char *dbname;
	char *host;
	int port;
	int64_t epoch;
};

/* A database name of one proxy that leads to a shard. */
struct route {
	struct proxy *proxy;
	struct shard *shard;
	char *database; /* as its clients say it */
	char *server;   /* where it leads, by the proxy's name */
	int64_t epoch;  /* the last one of that database in that proxy */
	struct link link;
	bool held; /* HOLD was sent, RELEASE not yet answered */
	bool drained;
	bool swapped;
	bool settling;       /* SWAP answers when its sessions have their locks and channels */
	bool release_sent;
	bool absent;          /* the proxy's configuration has no such database any more */
	bool released;        /* on the target */
	int64_t clients_held; /* whose request waited when the route was swapped */
	usec_t longest_wait;  /* of the first of them, until the swap */
	usec_t swapped_at;
	usec_t release_sent_at;
	int64_t active; /* last seen, for the progress */
	int64_t waiting;
};

/* An option of a PL/Proxy cluster that leads to a shard. */
struct partition {
	struct plproxy *cluster;
	struct shard *shard;
	char *option; /* "p0205" */
	int number;
	char *old; /* its connection string */
	char *new; /* after the move; NULL = stays, it leads to a proxy or is already right */
	const char *where; /* what old leads to: "proxy a", "pg1" */
};

struct plproxy {
	const struct config_plproxy *conf;
	char *label;
	struct link link;
	struct link probe; /* a session from before the move that has used the cluster */
	bool probed;       /* its calls worked then */
	bool functions;    /* the cluster is made of functions, not a foreign server */
	char *version;     /* what plproxy.get_cluster_version() said; NULL = no functions */
	bool planned;      /* its options are known */
	bool pending;      /* the change is under way */
	bool done;
};

/* One of the two servers. */
struct server {
	const struct config_server *conf;
	struct link link; /* to its admin database, as superuser */
};

struct phase_time {
	usec_t began;
	usec_t ended; /* 0 = not (yet) */
	bool ok;
};

struct move {
	const struct config *config;
	struct ui *ui;
	struct loop loop;
	struct journal journal;
	struct server source;
	struct server target;
	struct shard *shards;
	size_t shard_count;
	struct proxy *proxies;
	size_t proxy_count;
	struct seen_route *seen;
	size_t seen_count;
	struct route *routes;
	size_t route_count;
	struct bouncer *bouncers; /* migrate/pgbouncer.h */
	size_t bouncer_count;
	struct bouncer_entry *entries;
	size_t entry_count;
	struct bouncer_file *files;
	size_t file_count;
	struct sbuf commcare_notes; /* what is to be said about postgresql.yml, a line each */
	struct child guard; /* watches over them (guard.h) */
	bool guard_ending;
	struct child watch; /* undoes the move if we die (watch.h) */
	struct plproxy *clusters;
	size_t cluster_count;
	struct partition *partitions;
	size_t partition_count;
	int64_t *target_pids; /* sessions on the target that routers have opened (readers.h) */
	size_t target_pid_count;
	size_t proxy_pid_count; /* the first of them: as the proxies see them */
	char **others; /* databases of the target that are not moved and are to be fenced there */
	size_t other_count;
	char **closing; /* those that are open there, as the session of `prepared_in` has seen them */
	size_t closing_count;
	bool read_only;         /* the target's default may be set (read_only.h) */
	bool read_only_in_file; /* … and was in postgresql.auto.conf before */
	bool read_only_left;    /* it could not be taken back, because the target is away */
	int64_t epoch;
	unsigned prepared_in; /* session of the target's link that has promote_prepare()'s */

	/* what was learned */
	char *system_identifier;
	int64_t old_timeline;
	int64_t new_timeline;
	uint64_t barrier;      /* 0 = none yet */
	bool barrier_found;    /* in the source's WAL: the journal does not have it */
	uint64_t switch_point; /* 0 = not known */
	usec_t promote_sent_at;
	usec_t promoted_at;
	int64_t terminated;
	struct sbuf seal_offered; /* by the proxies: a list of VALUES (seal.c) */
	struct sbuf sealed;       /* sessions that were recognized by it, another such list */
	size_t sealed_count;
	bool sealed_acted; /* one of them has done something all the same, after the barrier */
	int64_t least_left; /* sessions that had not ended, at the best look so far */
	char *prepared; /* transactions, as prepared_sql() brings them; NULL = none, or not asked yet */
	int64_t lag; /* bytes, last seen */
	struct outcome outcome;
	struct phase_time times[PHASE_COUNT];
	enum phase phase; /* the current one */

	/* how it stands */
	bool anything_changed; /* an intent of hold or later is written */
	bool locked;           /* the session on the source has, or had, the lock (lock.h) */
	bool source_apart;     /* resume: it is a standby or another system now, nothing is done there */
	bool lock_lost;        /* somebody else has it now: nothing more is done on the source */
	bool fenced;           /* ALLOW_CONNECTIONS false may have been run on the source */
	bool promote_intended; /* the intent is written */
	bool promote_sent;     /* the request may have left: no undo from here on */
	bool lease_none;       /* holds have no expiry any more */
	bool hold_lost;        /* a proxy says that a hold of ours is not there any more */
	bool undoing;          /* the tick asks the proxies nothing any more */
	bool was_stopped;      /* before the hold, by a key: what was found is no longer known */
	bool resumed;
	bool dry_run;               /* resume and abort only say what they would do */
	bool intended[PHASE_COUNT]; /* the intent was written before the phase's turn */
	usec_t drawn_at;            /* status line */
	usec_t ticked_at;
	char *failure;              /* why it failed; the first failure counts */
	enum phase failed_phase;
	struct verify *verify; /* the comparison, NULL = not asked for */
	struct sbuf problems;  /* after the promotion: what must be repaired, a line each */
	char sessions_seen[128]; /* in the checks: how many can be moved; "": there are none */
	int64_t prepared_seen;   /* in the checks: prepared transactions of the shards … */
	int64_t prepared_copies; /* … and of others, whose copies are closed */
	struct sbuf sessions;  /* after the release: the inside of a JSON array (sessions.h) */
	int64_t sessions_moved;
	struct sbuf evidence;  /* of the current phase: the inside of a JSON object */
};

/* Says why the current step fails; later calls are only shown.  Returns false. */
bool move_fail(struct move *move, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* After the promotion: something that has to be repaired and does not stop the rest. */
void move_problem(struct move *move, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Whether a signal asked to stop and stopping is still possible. */
bool move_stopped(const struct move *move);

/* ---- connect.c ---- */

/* Whether we were stopped (Ctrl-Z) and go on since it was asked last. */
bool move_continued(void);

void move_init(struct move *move, const struct config *config, struct ui *ui);
void move_free(struct move *move);

/* The connection to the admin database of a server. */
void server_target(const struct config_server *conf, struct link_target *out);

/* Connects all links that are not connected, at once; false and `error` names those that failed. */
bool links_connect(struct loop *loop, struct link **links, size_t count, usec_t timeout,
                   struct sbuf *error) MUST_CHECK;

/* Connects the link again if it is broken or closed; that to the source takes the lock again. */
bool link_revive(struct move *move, struct link *link) MUST_CHECK;
/* The same for several at once, none of which is that: their states tell. */
void links_revive(struct move *move, struct link *const *links, size_t count);

/* Appends (dbname, dbname, …) of the shards as literals. */
void shards_literals(const struct move *move, struct sbuf *out);

/* The proxies of the configuration, not connected. */
void proxies_make(struct move *move);

/* Connects to the consoles of all proxies, or to both servers and all PL/Proxy databases. */
bool proxies_connect(struct move *move, struct sbuf *error) MUST_CHECK;
bool servers_connect(struct move *move, struct sbuf *error) MUST_CHECK;

/* ---- lock.c ---- */

/* Takes the lock that keeps other operators out with the session on the source; waits a moment for
 * one that is just ending.  False after move_fail() said who has it. */
bool move_lock_source(struct move *move) MUST_CHECK;
void move_unlock_source(struct move *move);

/* ---- plan.c ---- */

/* Finds shards, source and routes for what the operator named.  The exit code; EXIT_DONE = go on.
 */
enum exit_code plan_make(struct move *move, char *const *names, size_t count, const char *all_of,
                         const char *to) MUST_CHECK;

/* Asks every proxy where it sends its databases; fills seen. */
bool plan_read_seen(struct move *move, struct sbuf *error) MUST_CHECK;

/* Makes routes, and the epoch of the move, of those in seen that lead to the shards.  A route to
 * neither source nor target is an error. */
bool plan_pick_routes(struct move *move, struct sbuf *error) MUST_CHECK;

/* Whether it leads to the target before the move: its clients read there, and stay there. */
bool plan_is_reader(const struct move *move, const struct seen_route *seen);

/* A new line of it. */
struct seen_route *plan_add_seen(struct move *move);

/* The proxy or pgbouncer that listens there, as messages name it; NULL if none. */
const char *router_at(const struct move *move, const char *host, int port);

/* Adds a shard; returns it. */
struct shard *plan_add_shard(struct move *move, const char *name, const char *dbname);

/* Opens a console connection for every route. */
bool plan_connect_routes(struct move *move, struct sbuf *error) MUST_CHECK;

/* The plan as the inside of a JSON object: for the journal and for --json. */
void plan_json(const struct move *move, struct sbuf *out);
void plan_print(struct move *move, bool steps);

/* ---- check.c ---- */

/* Runs every check; false if one refuses.  With `all` the checks that passed are shown as well. */
bool check_run(struct move *move, bool all) MUST_CHECK;

/* ---- the phases, in the order of phases.def ---- */

bool phase_prepare(struct move *move) MUST_CHECK;
bool phase_hold(struct move *move) MUST_CHECK;
bool phase_fence(struct move *move) MUST_CHECK;
bool phase_terminate(struct move *move) MUST_CHECK;
bool phase_barrier(struct move *move) MUST_CHECK;
bool phase_catch_up(struct move *move) MUST_CHECK;
bool phase_promote(struct move *move) MUST_CHECK;
bool phase_proof(struct move *move) MUST_CHECK;
bool phase_open(struct move *move) MUST_CHECK;
bool phase_swap(struct move *move) MUST_CHECK;
bool phase_plproxy(struct move *move) MUST_CHECK;
bool phase_release(struct move *move) MUST_CHECK;
bool phase_validate(struct move *move) MUST_CHECK;

/* `pgshunt validate`: the same without changing anything, and more of it; false after problems. */
bool validate_look(struct move *move) MUST_CHECK;

/* ---- hold.c ---- */

/* The console connections of all routes, in their order; free()d by the caller. */
struct link **hold_links(struct move *move) MUST_CHECK;

/* The tick of the loop: renews leases, asks for progress, draws it. */
void hold_tick(void *arg);

/* Asks for holds without expiry; then false if one proxy did not confirm that it still holds. */
void hold_send_forever(struct move *move);
bool hold_await_forever(struct move *move) MUST_CHECK;

/* Sends SWAP on every route (answers are awaited by phase_swap). */
void hold_send_swaps(struct move *move);

/* Releases every route on the old server and closes prepared connections; for undo. */
bool hold_undo(struct move *move) MUST_CHECK;

/* Leaves the clients as they are, held without end or until the hold's lease is over; they wait for the
 * fence to be lifted in either case. */
void hold_leave(struct move *move);

/* Brings every route that is not released yet to the target and opens it, whatever state it is in;
 * tries until `deadline`.  For repairs and for resume. */
bool hold_repair(struct move *move, usec_t deadline) MUST_CHECK;

/* ---- fence.c ---- */

bool fence_undo(struct move *move) MUST_CHECK;

/* Waits, before the hold, until the target replays at once what the source writes: clients shall not
 * wait for one that does not follow. */
bool fence_await_follower(struct move *move) MUST_CHECK;

/* Runs what the hold will run, where that changes nothing: the first time costs the servers'
 * sessions milliseconds that clients would feel. */
bool fence_warm(struct move *move) MUST_CHECK;

/* Appends ALTER DATABASE of all shards that are not gone. */
void fence_sql(const struct move *move, bool allow, struct sbuf *out);

/* ---- promote.c ---- */

/* Has the target plan what is asked of it in the hold, once a session: only there it is new to it.
 */
bool promote_prepare(struct move *move) MUST_CHECK;

/* Appends the query for the target's open databases that are neither shards nor the mover's own. */
void promote_others_sql(const struct move *move, struct sbuf *out);

/* Whether the copy of that database on the target is closed by the move. */
bool promote_is_other(const struct move *move, const char *name);

/* Those of which the source has a copy that is open, too; free them with fence_free_names(). */
size_t promote_open_copies(struct move *move, char ***names);

/* Frees what promote_prepare() has seen of them. */
void promote_forget_closing(struct move *move);

/* What the target is.  Asks several times before it says that no promotion is under way. */
enum target_state promote_probe(struct move *move) MUST_CHECK;

/* Until the target is a primary or promote_timeout has passed. */
bool promote_await(struct move *move) MUST_CHECK;

/* The commit that opened the shards is not flushed before the clients' first: if the target went
 * down since, they are opened again, after the same proof, until `deadline`.  False if that could
 * not be done. */
bool promote_reopen(struct move *move, usec_t deadline) MUST_CHECK;

/* ---- plproxy.c ---- */

/* The options of a cluster, or what its functions return (*functions): rows of option_name and
 * option_value. */
bool plproxy_ask(struct loop *loop, struct link *link, const char *cluster,
                 bool *functions) MUST_CHECK;

bool plproxy_plan(struct move *move, struct sbuf *error) MUST_CHECK;
/* Opens the sessions that will show what an old backend does; keeps statement and inverse next to
 * the journal. */
void plproxy_prepare(struct move *move);
/* Appends the statement that changes the cluster, or takes the change back; nothing if there is
 * none. */
void plproxy_statement(const struct move *move, const struct plproxy *cluster, bool inverse,
                       struct sbuf *out);
void plproxy_send(struct move *move);
/* Repeats what has not succeeded, until `deadline`. */
bool plproxy_repair(struct move *move, usec_t deadline) MUST_CHECK;
/* One call in a fresh session for every cluster and shard, which must land on the target; until
 * `deadline` for a server that cannot be reached. */
bool plproxy_verify(struct move *move, usec_t deadline) MUST_CHECK;

/* ---- run.c ---- */

/* Writes intent, runs, writes outcome, takes the time. */
bool run_phase(struct move *move, enum phase phase, bool (*step)(struct move *)) MUST_CHECK;

/* Writes the intent of a phase before its turn, on disk. */
bool run_intend(struct move *move, enum phase phase) MUST_CHECK;

/* All phases from prepare on, with undo or repair; the plan and the checks are done. */
enum exit_code run_move(struct move *move) MUST_CHECK;

/* Completes a move whose target is promoted, from whatever state it is in. */
enum exit_code run_forward(struct move *move) MUST_CHECK;

/* Restores everything; the exit code. */
enum exit_code run_undo(struct move *move) MUST_CHECK;

/* ---- resume.c ---- */

/* What the journal says was to be moved: servers, shards, epoch, barrier. */
bool resume_take_plan(struct move *move, const struct journal_records *records) MUST_CHECK;

/* Deals with the unfinished move `id` (NULL = the only one).  *went_forward: it was completed. */
enum exit_code resume_move(struct move *move, const char *id, bool abort_wanted,
                           bool *went_forward) MUST_CHECK;

/* ---- report.c ---- */

/* `status`: what the program exits with; for abort, undone is what was asked for. */
void report_finish(struct move *move, enum exit_code code, int status);

/* Writes into the journal who runs which command, where, with which version. */
bool report_who(struct move *move) MUST_CHECK;

/* Adds the comparison, which is done later, to the report. */
void report_comparison(struct move *move);

/* Whether an exact comparison was completed; then *code is its outcome. */
bool report_has_comparison(const struct move *move, enum exit_code *code) MUST_CHECK;

#endif
