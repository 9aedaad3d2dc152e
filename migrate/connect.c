/* SPDX-License-Identifier: PostgreSQL */
#include "base/endpoint.h"
#include "base/mem.h"
#include "migrate/leftover.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"
#include "migrate/seal.h"
#include "migrate/unlogged.h"
#include "migrate/verify.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROBLEMS_MAX ((size_t)1024 * 1024)

static volatile sig_atomic_t stop_requested;

static void on_stop(int signal_number)
{
	(void)signal_number;
	stop_requested = 1;
}

static volatile sig_atomic_t continued;

static void on_continue(int signal_number)
{
	(void)signal_number;
	continued = 1;
}

bool move_continued(void)
{
	bool was = continued != 0;

	continued = 0;
	return was;
}

void move_init(struct move *move, const struct config *config, struct ui *ui)
{
	struct sigaction action = {.sa_handler = on_stop};

	*move = (struct move){.config = config, .ui = ui};
	journal_init(&move->journal);
	sbuf_init(&move->problems, PROBLEMS_MAX);
	sbuf_init(&move->seal_offered, SEAL_LIST_MAX);
	sbuf_init(&move->sealed, SEAL_LIST_MAX);
	sbuf_init(&move->evidence, JOURNAL_RECORD_MAX / 2);
	sbuf_init(&move->sessions, (size_t)16 << 20);
	move->loop.stop = &stop_requested;
	move->loop.tick_every = 20 * USEC_PER_MSEC;
	move->loop.tick = hold_tick;
	move->loop.arg = move;
	/* Until the promotion a signal means undo, after it nothing: never die in between. */
	(void)sigaction(SIGINT, &action, NULL);
	(void)sigaction(SIGTERM, &action, NULL);
	(void)sigaction(SIGQUIT, &action, NULL);
	(void)sigaction(SIGHUP, &action, NULL);
	action.sa_handler = SIG_IGN;
	(void)sigaction(SIGPIPE, &action, NULL);
	/* A question that waits for its answer goes on waiting. */
	action.sa_handler = on_continue;
	action.sa_flags = SA_RESTART;
	(void)sigaction(SIGCONT, &action, NULL);
	(void)move_continued();
}

static void free_routers(struct move *move)
{
	for (size_t i = 0; i < move->route_count; i++) {
		link_close(&move->routes[i].link);
		free(move->routes[i].database);
		free(move->routes[i].server);
	}
	for (size_t i = 0; i < move->seen_count; i++) {
		free(move->seen[i].database);
		free(move->seen[i].server);
		free(move->seen[i].dbname);
		free(move->seen[i].host);
	}
	for (size_t i = 0; i < move->proxy_count; i++) {
		link_close(&move->proxies[i].status);
		free(move->proxies[i].label);
	}
	for (size_t i = 0; i < move->partition_count; i++) {
		free(move->partitions[i].option);
		free(move->partitions[i].old);
		free(move->partitions[i].new);
	}
	for (size_t i = 0; i < move->cluster_count; i++) {
		link_close(&move->clusters[i].link);
		link_close(&move->clusters[i].probe);
		free(move->clusters[i].version);
		free(move->clusters[i].label);
	}
	child_close(&move->guard);
	bouncers_free(move);
	free(move->routes);
	free(move->seen);
	free(move->proxies);
	free(move->partitions);
	free(move->clusters);
}

void move_free(struct move *move)
{
	/* The links' callbacks are for a move that is alive. */
	for (size_t i = 0; i < move->proxy_count; i++)
		move->proxies[i].status.done = NULL;
	free_routers(move);
	verify_free(move->verify);
	link_close(&move->source.link);
	link_close(&move->target.link);
	unlogged_end(move);
	leftover_free(move);
	for (size_t i = 0; i < move->shard_count; i++) {
		free(move->shards[i].name);
		free(move->shards[i].dbname);
	}
	for (size_t i = 0; i < move->other_count; i++)
		free(move->others[i]);
	promote_forget_closing(move);
	free(move->shards);
	free(move->others);
	free(move->target_pids);
	outcome_free(move);
	free(move->loop.background);
	free(move->system_identifier);
	free(move->failure);
	free(move->prepared);
	sbuf_free(&move->commcare_notes);
	sbuf_free(&move->problems);
	sbuf_free(&move->seal_offered);
	sbuf_free(&move->sealed);
	sbuf_free(&move->evidence);
	sbuf_free(&move->sessions);
	journal_close(&move->journal);
	*move = (struct move){0};
}

bool move_fail(struct move *move, const char *fmt, ...)
{
	va_list args;
	char *text;

	va_start(args, fmt);
	text = mem_must_vprintf(fmt, args);
	va_end(args);
	ui_error(move->ui, "%s: %s", phase_row(move->phase)->title, text);
	if (move->failure == NULL) {
		move->failure = mem_must_strdup(text);
		move->failed_phase = move->phase;
	}
	free(text);
	return false;
}

/* A line of its own for every line of the text; what was said already is not said again. */
static void add_problem(struct move *move, const char *text)
{
	for (const char *at = text; *at != '\0'; at += strspn(at, "\n")) {
		int len = (int)strcspn(at, "\n");
		char *line = mem_must_printf("%s: %.*s\n", phase_row(move->phase)->title, len, at);

		if (strstr(sbuf_text(&move->problems), line) == NULL) {
			ui_error(move->ui, "%s: %.*s", phase_row(move->phase)->title, len, at);
			sbuf_add_str(&move->problems, line);
		}
		free(line);
		at += len;
	}
}

void move_problem(struct move *move, const char *fmt, ...)
{
	va_list args;
	char *text;

	va_start(args, fmt);
	text = mem_must_vprintf(fmt, args);
	va_end(args);
	add_problem(move, text);
	free(text);
}

bool move_stopped(const struct move *move)
{
	return stop_requested != 0 && !move->promote_sent;
}

void server_target(const struct config_server *conf, struct link_target *out)
{
	*out = (struct link_target){.host = conf->admin_host,
	                            .port = conf->admin_port,
	                            .user = conf->admin_user,
	                            .dbname = conf->admin_dbname,
	                            .password_file = conf->admin_password_file,
	                            .password_env = conf->admin_password_env,
	                            .tls = conf->tls};
}

bool links_connect(struct loop *loop, struct link **links, size_t count, usec_t timeout,
                   struct sbuf *error)
{
	bool ok = true;

	for (size_t i = 0; i < count; i++) {
		if (links[i]->state != LINK_CLOSED && links[i]->state != LINK_BROKEN)
			continue;
		link_connect(links[i]);
		loop_apart(loop, links[i]);
	}
	if (loop_wait(loop, links, count, clock_now() + timeout, true) == WAIT_STOPPED) {
		sbuf_add_str(error, "interrupted\n");
		return false;
	}
	for (size_t i = 0; i < count; i++) {
		if (links[i]->state == LINK_IDLE)
			continue;
		sbuf_printf(error, "%s (%s, database %s, user %s): %s\n", links[i]->name,
		            endpoint_text(links[i]->target.host, links[i]->target.port).text,
		            links[i]->target.dbname, links[i]->target.user, link_error(links[i]));
		link_give_up(links[i]);
		ok = false;
	}
	return ok;
}

static void reconnect(const struct move *move, struct link *link)
{
	/* Names are looked up while nothing else goes on, and clients may be waiting. */
	link->same_address = move->phase >= PHASE_HOLD && move->phase <= PHASE_RELEASE;
	link_connect(link);
}

void links_revive(struct move *move, struct link *const *links, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (links[i]->state != LINK_IDLE)
			reconnect(move, links[i]);
	}
	(void)!loop_wait(&move->loop, links, count,
	                 clock_now() + move->config->mover.connect_timeout, false);
	for (size_t i = 0; i < count; i++) {
		if (links[i]->state != LINK_IDLE)
			link_give_up(links[i]);
	}
}

bool link_revive(struct move *move, struct link *link)
{
	usec_t deadline = clock_now() + move->config->mover.connect_timeout;

	if (link->state == LINK_IDLE)
		return true;
	if (link == &move->source.link && move->lock_lost)
		return false;
	reconnect(move, link);
	if (loop_wait(&move->loop, &link, 1, deadline, false) != WAIT_DONE)
		link_give_up(link);
	if (link->state != LINK_IDLE)
		return false;
	/* The lock went with the old session, and somebody else may have it now. */
	if (link != &move->source.link || !move->locked || move_lock_source(move))
		return true;
	move->lock_lost = link->state == LINK_IDLE;
	link_close(link);
	return false;
}

void shards_literals(const struct move *move, struct sbuf *out)
{
	sbuf_add_char(out, '(');
	for (size_t i = 0; i < move->shard_count; i++) {
		if (i > 0)
			sbuf_add_char(out, ',');
		sql_literal(out, move->shards[i].dbname);
	}
	sbuf_add_char(out, ')');
}

void proxies_make(struct move *move)
{
	const struct config_mover *conf = &move->config->mover;

	if (move->proxies != NULL)
		return;
	move->proxies = mem_must_alloc((conf->proxy_count + 1) * sizeof(*move->proxies));
	move->loop.background = mem_must_alloc((conf->proxy_count + 1) * sizeof(struct link *));
	move->proxy_count = conf->proxy_count;
	for (size_t i = 0; i < conf->proxy_count; i++) {
		const struct config_mover_proxy *from = &conf->proxies[i];
		struct proxy *proxy = &move->proxies[i];
		struct link_target target = {.host = from->host,
		                             .port = from->port,
		                             .user = from->user,
		                             .dbname = from->dbname,
		                             .password_file = from->password_file,
		                             .password_env = from->password_env,
		                             .tls = config_mover_proxy_tls(from),
		                             .console = true};

		proxy->conf = from;
		proxy->label = mem_must_printf("proxy %s", from->name);
		link_init(&proxy->status, proxy->label, &target);
		move->loop.background[i] = &proxy->status;
	}
	move->loop.background_count = conf->proxy_count;
}

bool proxies_connect(struct move *move, struct sbuf *error)
{
	const struct config_mover *conf = &move->config->mover;
	struct link **links = mem_must_alloc((conf->proxy_count + 1) * sizeof(struct link *));
	bool ok;

	proxies_make(move);
	for (size_t i = 0; i < conf->proxy_count; i++)
		links[i] = &move->proxies[i].status;
	ok = links_connect(&move->loop, links, conf->proxy_count, conf->connect_timeout, error);
	free(links);
	return ok;
}

/* The PL/Proxy databases, once. */
static void make_clusters(struct move *move)
{
	const struct config_mover *conf = &move->config->mover;

	if (move->clusters != NULL)
		return;
	move->clusters = mem_must_alloc((conf->plproxy_count + 1) * sizeof(*move->clusters));
	move->cluster_count = conf->plproxy_count;
	for (size_t i = 0; i < conf->plproxy_count; i++) {
		const struct config_plproxy *from = &conf->plproxy[i];
		struct link_target target = {.host = from->host,
		                             .port = from->port,
		                             .user = from->user,
		                             .dbname = from->dbname,
		                             .password_file = from->password_file,
		                             .password_env = from->password_env,
		                             .tls = config_plproxy_tls(from)};

		move->clusters[i].conf = from;
		move->clusters[i].label = mem_must_printf("PL/Proxy %s", from->name);
		link_init(&move->clusters[i].link, move->clusters[i].label, &target);
	}
}

bool servers_connect(struct move *move, struct sbuf *error)
{
	struct link **links;
	size_t count = 0;
	struct link_target target;
	bool ok;

	make_clusters(move);
	links = mem_must_alloc((move->cluster_count + 2) * sizeof(struct link *));
	if (move->source.link.name == NULL) {
		server_target(move->source.conf, &target);
		link_init(&move->source.link, move->source.conf->name, &target);
		server_target(move->target.conf, &target);
		link_init(&move->target.link, move->target.conf->name, &target);
	}
	links[count++] = &move->source.link;
	links[count++] = &move->target.link;
	for (size_t i = 0; i < move->cluster_count; i++)
		links[count++] = &move->clusters[i].link;
	ok = links_connect(&move->loop, links, count, move->config->mover.connect_timeout, error);
	free(links);
	return ok;
}
