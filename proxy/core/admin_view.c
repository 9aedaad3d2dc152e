/* SPDX-License-Identifier: PostgreSQL */
/*
 * SHOW: asks the workers for their rows, makes the rows that only the main thread knows, and
 * finishes those that need both.
 */
#include "auth/hba.h"
#include "auth/user.h"
#include "auth/userlist.h"
#include "base/log.h"
#include "base/mem.h"
#include "conf/pgbouncer.h"
#include "conf/show.h"
#include "core/admin_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A worker that takes longer is stuck; what the others said is shown. */
#define VIEW_WAIT_SEC 5

#define COLUMNS_MAX VIEW_COLUMNS_MAX

/* ---- rows of workers ---- */

void view_wait_free(struct view_wait *wait)
{
	list_remove(&wait->admin->views, &wait->node);
	rowset_free(&wait->rows);
	event_free(wait->timer);
	free(wait);
}

static void view_finish(struct view_wait *wait)
{
	if (wait->admin->proxy->console_rows != NULL)
		wait->admin->proxy->console_rows(&wait->rows);
	if (view_info(wait->rows.view)->source == VIEW_FROM_MERGED)
		rowset_merge(&wait->rows);
	wait->done(wait->admin, &wait->rows, wait->arg);
	view_wait_free(wait);
}

static void view_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct view_wait *wait = arg;

	(void)fd;
	(void)what;
	log_warning("SHOW %s: %u workers did not answer", view_info(wait->rows.view)->name,
	            wait->left);
	wait->rows.cut = true;
	view_finish(wait);
}

static void view_post(struct admin *admin, struct view_wait *wait, const char *database,
                      unsigned worker)
{
	struct mail_view *mail = mail_must_new(sizeof(*mail), MAIL_VIEW);

	mail->view = (int)wait->rows.view;
	mail->database = mem_must_strdup(database);
	mail->token = wait->token;
	mailbox_post(&admin->proxy->workers[worker].mailbox, &mail->letter);
}

void view_ask(struct admin *admin, enum view view, const char *database, view_done_fn *done,
              void *arg)
{
	struct view_wait *wait = mem_must_alloc(sizeof(*wait));

	wait->admin = admin;
	wait->token = ++admin->last_token;
	wait->done = done;
	wait->arg = arg;
	rowset_init(&wait->rows, view);
	list_append(&admin->views, &wait->node);
	wait->timer = admin_timer_new(admin, view_timeout, wait);
	wait->left = admin->proxy->worker_count;
	admin_timer_add(wait->timer, VIEW_WAIT_SEC * USEC_PER_SEC);
	for (unsigned i = 0; i < admin->proxy->worker_count; i++)
		view_post(admin, wait, database, i);
}

void view_on_rows(struct admin *admin, struct mail_view *mail)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&admin->views, node, tmp)
	{
		struct view_wait *wait = CONTAINER_OF(node, struct view_wait, node);

		if (wait->token != mail->token)
			continue;
		if (mail->rows != NULL)
			rowset_append(&wait->rows, mail->rows);
		else
			wait->rows.cut = true;
		if (--wait->left == 0)
			view_finish(wait);
		break;
	}
	if (mail->rows != NULL)
		rowset_free(mail->rows);
	free(mail->rows);
	free(mail->database);
	free(mail);
}

/* ---- rows of the main thread, from the workers' LOADS ---- */

struct load {
	int64_t active;
	int64_t held;
	int64_t held_bytes;
	int64_t oldest_wait_ms;
	int64_t clients;
	int64_t servers;
	int64_t waits[VIEW_WAITS];
};

static struct load load_of(const struct rowset *loads, const char *database)
{
	struct rowset_cell cells[COLUMNS_MAX];
	size_t offset = 0;

	while (rowset_next(loads, &offset, cells)) {
		struct load load;

		if (!rowset_cell_is(&cells[0], database))
			continue;
		load = (struct load){.active = rowset_cell_int(&cells[1]),
		                     .held = rowset_cell_int(&cells[2]),
		                     .held_bytes = rowset_cell_int(&cells[3]),
		                     .oldest_wait_ms = rowset_cell_int(&cells[4]),
		                     .clients = rowset_cell_int(&cells[5]),
		                     .servers = rowset_cell_int(&cells[6])};
		for (size_t i = 0; i < VIEW_WAITS; i++)
			load.waits[i] = rowset_cell_int(&cells[7 + i]);
		return load;
	}
	return (struct load){0};
}

/* "10:3 50:12 more:1"; what nobody falls under is left out. */
static void waits_cell(struct rowset *out, const struct load *load)
{
	struct sbuf text;

	if (load->held == 0) {
		rowset_null(out);
		return;
	}
	sbuf_init(&text, VIEW_CELL_MAX);
	for (size_t i = 0; i < VIEW_WAITS; i++) {
		if (load->waits[i] == 0)
			continue;
		if (text.len > 0)
			sbuf_add_char(&text, ' ');
		if (i < VIEW_WAITS - 1)
			sbuf_printf(&text, "%" PRId64, view_wait_limits[i]);
		else
			sbuf_add_str(&text, "more");
		sbuf_printf(&text, ":%" PRId64, load->waits[i]);
	}
	rowset_text(out, sbuf_text(&text));
	sbuf_free(&text);
}

/* Draining is shown when every worker has closed its gate, so who sees it can rely on it. */
static enum hold_state shown_state(const struct admin_db *db, uint64_t asked)
{
	return db->state == HOLD_DRAINING && (!db->gate_closed || db->gate_token > asked)
	           ? HOLD_OPEN
	           : db->state;
}

static void holds_row(struct rowset *out, const struct admin_db *db, const struct rowset *loads,
                      uint64_t asked)
{
	const struct config_server *server = admin_db_server(db);
	struct load load = load_of(loads, db->name);
	bool held = db->state != HOLD_OPEN;
	usec_t now = clock_now();
	usec_t left = db->lease_end > now ? db->lease_end - now : 0;

	rowset_text(out, db->name);
	rowset_text(out, hold_state_name(shown_state(db, asked)));
	rowset_int(out, (int64_t)db->epoch);
	rowset_text(out, server == NULL ? NULL : server->name);
	rowset_text(out, db->target);
	rowset_int(out, load.active);
	rowset_int(out, load.held);
	rowset_int(out, load.held_bytes);
	rowset_int(out, load.oldest_wait_ms);
	if (held && db->lease != ADMIN_LEASE_NONE)
		rowset_int(out, left / USEC_PER_MSEC);
	else
		rowset_null(out);
	rowset_text(out,
	            held ? config_drain_policy_name((enum config_drain_policy)db->policy) : NULL);
	if (held && db->began != 0)
		rowset_int(out, (now - db->began) / USEC_PER_MSEC);
	else
		rowset_null(out);
	waits_cell(out, &load);
	rowset_int(out, hold_rest(db));
	rowset_end_row(out);
}

/* Whether SHOW DATABASES has it.  The fallback is none, but those of its clients are. */
static bool databases_shows(const struct admin *admin, const char *name)
{
	return strcmp(name, ROUTE_FALLBACK) != 0 &&
	       config_database_of(admin->proxy->config, name) != NULL &&
	       route_find(admin->proxy->routes, name) != NULL;
}

/* `db` NULL: one of the fallback to which no command was given yet. */
static void databases_row(struct rowset *out, const struct admin *admin, const char *name,
                          const struct admin_db *db, const struct rowset *loads)
{
	const struct config *config = admin->proxy->config;
	const struct config_database *entry = config_database_of(config, name);
	const struct config_server *server;
	struct load load = load_of(loads, name);

	if (!databases_shows(admin, name))
		return;
	server = route_find(admin->proxy->routes, name)->server;
	rowset_text(out, name);
	rowset_text(out, server->host);
	rowset_int(out, server->port);
	rowset_text(out, strcmp(entry->dbname, ROUTE_FALLBACK) == 0 ? name : entry->dbname);
	rowset_text(out, entry->user[0] == '\0' ? NULL : entry->user);
	rowset_int(out, config_pool_size(config, entry, NULL));
	rowset_int(out, config_min_pool_size(config, entry));
	rowset_int(out, config_reserve_pool_size(config, entry, NULL));
	rowset_int(out, config_server_lifetime(config, entry) / USEC_PER_SEC);
	rowset_text(out, entry->pool_mode == CONFIG_POOL_UNSET
	                     ? NULL
	                     : config_pool_mode_name(entry->pool_mode));
	rowset_text(out, strchr(server->host, ',') == NULL
	                     ? NULL
	                     : config_balance_name(server->load_balance_hosts));
	rowset_int(out, config_max_db_connections(config, entry));
	rowset_int(out, load.servers);
	rowset_int(out, config_max_db_clients(config, entry));
	rowset_int(out, load.clients);
	rowset_int(out, db != NULL && db->state != HOLD_OPEN);
	rowset_int(out, share_is_disabled(admin->proxy->shares, name));
	rowset_int(out, config_reserve_pool_size(config, entry, NULL));
	rowset_text(out, server->name);
	rowset_text(out, entry->shard);
	rowset_end_row(out);
}

/* The name in the first cell, if it is a database that only the workers know: one of the fallback.
 */
static bool is_of_fallback(struct admin *admin, const struct rowset_cell *cell, char *name,
                           size_t size)
{
	(void)snprintf(name, size, "%.*s", (int)cell->len, cell->bytes == NULL ? "" : cell->bytes);
	return admin_find(admin, name) == NULL && !config_is_console(name) &&
	       databases_shows(admin, name);
}

static void databases_fallback(struct admin *admin, struct rowset *out, const struct rowset *loads)
{
	struct rowset_cell cells[COLUMNS_MAX];
	char name[VIEW_CELL_MAX];
	size_t offset = 0;

	while (rowset_next(loads, &offset, cells)) {
		if (is_of_fallback(admin, &cells[0], name, sizeof(name)))
			databases_row(out, admin, name, NULL, loads);
	}
}

/* The console's, as pgbouncer shows it. */
static void databases_console(struct admin *admin, struct rowset *out)
{
	const struct config *config = admin->proxy->config;
	struct database_share *share = share_database(admin->proxy->shares, CONFIG_CONSOLE);

	rowset_text(out, CONFIG_CONSOLE);
	rowset_null(out);
	rowset_int(out, config->proxy.port);
	rowset_text(out, CONFIG_CONSOLE);
	rowset_text(out, CONFIG_CONSOLE);
	rowset_int(out, 2);
	rowset_int(out, 0);
	rowset_int(out, 0);
	rowset_int(out, config_server_lifetime(config, NULL) / USEC_PER_SEC);
	rowset_text(out, "statement");
	rowset_null(out);
	rowset_int(out, config->proxy.max_db_connections);
	rowset_int(out, 0);
	rowset_int(out, config_max_db_clients(config, NULL));
	rowset_int(out, share == NULL ? 0 : atomic_load(&share->clients));
	rowset_int(out, 0);
	rowset_int(out, 0);
	rowset_int(out, 0);
	rowset_null(out);
	rowset_null(out);
	rowset_end_row(out);
	share_database_unref(admin->proxy->shares, share);
}

static void routes_row(struct rowset *out, const struct admin_db *db)
{
	const struct config *config = db->admin->proxy->config;
	const struct config_database *entry = config_find_database(config, db->name);
	const struct config_server *server = admin_db_server(db);
	const char *origin = route_origin_name(db->server == NULL ? ROUTE_FROM_CONFIG : db->origin);

	rowset_text(out, db->name);
	rowset_text(out, server == NULL ? db->server : server->name);
	rowset_text(out, server == NULL ? NULL : server->host);
	if (server == NULL)
		rowset_null(out);
	else
		rowset_int(out, server->port);
	rowset_text(out, entry == NULL ? NULL : entry->dbname);
	rowset_int(out, (int64_t)db->epoch);
	rowset_text(out, origin);
	if (entry == NULL)
		rowset_text(out, "known to the state directory, not to the configuration");
	else if (server != NULL && strcmp(entry->server->name, server->name) != 0)
		rowset_printf(out,
		              "the configuration says \"%s\"; the swap of the state directory is "
		              "newer and holds",
		              entry->server->name);
	else
		rowset_null(out);
	rowset_end_row(out);
}

/* A text, as in pgbouncer. */
static void users_size(struct rowset *out, int size)
{
	if (size == CONFIG_UNSET)
		rowset_text(out, "");
	else
		rowset_printf(out, "%d", size);
}

static void users_row(struct rowset *out, const struct config *config, const char *name,
                      int clients, int servers)
{
	const struct config_user *user = config_find_user(config, name);

	rowset_text(out, name);
	users_size(out, user == NULL ? CONFIG_UNSET : user->pool_size);
	users_size(out, user == NULL ? CONFIG_UNSET : user->reserve_pool_size);
	rowset_text(out, user != NULL && user->pool_mode != CONFIG_POOL_UNSET
	                     ? config_pool_mode_name(user->pool_mode)
	                     : NULL);
	rowset_int(out, config_max_user_connections(config, user));
	rowset_int(out, servers);
	rowset_int(out, config_max_user_clients(config, user));
	rowset_int(out, clients);
	rowset_text(out, config_is_admin(config, name)        ? "admin"
	                 : config_is_stats_user(config, name) ? "stats"
	                                                      : "none");
	rowset_end_row(out);
}

static void users_named(struct admin *admin, struct rowset *out, const char *name)
{
	int clients;
	int servers;

	(void)share_user_counts(admin->proxy->shares, name, &clients, &servers);
	users_row(out, admin->proxy->config, name, clients, servers);
}

struct users_filler {
	const struct config *config;
	struct rowset *out;
};

/* Also those whom neither the configuration nor the users file names. */
static void users_seen(void *arg, const struct user_share *user)
{
	const struct users_filler *filler = arg;

	users_row(filler->out, filler->config, user->name, atomic_load(&user->clients),
	          atomic_load(&user->servers));
}

static void users_list(struct admin *admin, struct rowset *out, const struct config_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		users_named(admin, out, list->items[i]);
}

/* Many are named more than once: the merge leaves one row of each, in the order of their names. */
static void users_fill(struct admin *admin, struct rowset *out)
{
	const struct config *config = admin->proxy->config;
	const struct userlist *users = admin->proxy->users; /* this thread sets it */
	struct users_filler filler = {config, out};

	users_named(admin, out, CONFIG_CONSOLE); /* as there: the console's pool is his */
	for (size_t i = 0; i < config->user_count; i++)
		users_named(admin, out, config->users[i].name);
	for (size_t i = 0; i < config->database_count; i++) {
		const struct config_database *entry = &config->databases[i];

		if (entry->user[0] != '\0')
			users_named(admin, out, entry->user);
		if (entry->auth_user != NULL && entry->auth_user[0] != '\0')
			users_named(admin, out, entry->auth_user);
	}
	users_list(admin, out, &config->proxy.admin_users);
	users_list(admin, out, &config->proxy.stats_users);
	for (size_t i = 0; i < userlist_count(users); i++)
		users_named(admin, out, userlist_name(users, i));
	share_each_user(admin->proxy->shares, users_seen, &filler);
	rowset_merge(out);
}

static void config_row(void *arg, const struct config_show_row *row)
{
	struct rowset *out = arg;

	rowset_printf(out, "%s.%s", row->section, row->name);
	rowset_text(out, row->value);
	rowset_text(out, row->fallback);
	rowset_text(out, row->reloadable ? "yes" : "no");
	rowset_end_row(out);
}

/* For stats_users: what may have a secret in it is left out, as in pgbouncer, which shows none of
 * it. */
static void config_row_public(void *arg, const struct config_show_row *row)
{
	struct config_show_row shown = *row;

	if (row->for_admins && row->value != NULL && row->value[0] != '\0')
		shown.value = "(for admin_users)";
	config_row(arg, &shown);
}

static void hba_row(struct rowset *out, size_t number, const struct hba_rule *rule)
{
	struct sbuf text;
	char address[64];
	char mask[64];

	sbuf_init(&text, 4096);
	hba_format_address(rule, address, mask);
	rowset_int(out, (int64_t)number);
	rowset_text(out, rule->file);
	rowset_int(out, rule->line);
	rowset_text(out, hba_conn_name(rule->conn));
	field_format(&rule->databases, &text);
	rowset_text(out, sbuf_text(&text));
	sbuf_reset(&text);
	field_format(&rule->users, &text);
	rowset_text(out, sbuf_text(&text));
	rowset_text(out, address[0] == '\0' ? NULL : address);
	rowset_text(out, mask[0] == '\0' ? NULL : mask);
	rowset_text(out, hba_method_name(rule->method));
	sbuf_reset(&text);
	hba_format_options(rule, &text);
	rowset_text(out, text.len == 0 ? NULL : sbuf_text(&text));
	rowset_end_row(out);
	sbuf_free(&text);
}

/* ---- averages of STATS ---- */

enum {
	STATS_TOTALS = 12,
	STATS_ASSIGNED = 0,
	STATS_WAIT_TIME = 7,
	STATS_XACTS = 1,
	STATS_QUERIES = 2,
	STATS_XACT_TIME = 5,
	STATS_QUERY_TIME = 6
};

static bool stats_row_of(const struct rowset *rows, const struct rowset_cell *database,
                         struct rowset_cell *cells)
{
	size_t offset = 0;

	while (rowset_next(rows, &offset, cells)) {
		if (cells[0].len == database->len &&
		    memcmp(cells[0].bytes, database->bytes, database->len) == 0)
			return true;
	}
	return false;
}

/* Totals as they are; averages since the older of two samples, one to two minutes ago. */
static void stats_row(struct rowset *out, const struct rowset_cell *now,
                      const struct rowset_cell *old, usec_t elapsed)
{
	int64_t delta[STATS_TOTALS];

	rowset_bytes(out, now[0].bytes, now[0].len);
	for (size_t i = 0; i < STATS_TOTALS; i++) {
		int64_t total = rowset_cell_int(&now[i + 1]);

		delta[i] = total - (old == NULL ? 0 : rowset_cell_int(&old[i + 1]));
		if (delta[i] < 0)
			delta[i] = total; /* forgotten meanwhile, and begun anew */
		rowset_int(out, total);
	}
	for (size_t i = 0; i < STATS_TOTALS; i++) {
		int64_t per = i == STATS_XACT_TIME    ? delta[STATS_XACTS]
		              : i == STATS_QUERY_TIME ? delta[STATS_QUERIES]
		              : i == STATS_WAIT_TIME  ? delta[STATS_ASSIGNED]
		                                      : 0;

		if (i == STATS_XACT_TIME || i == STATS_QUERY_TIME || i == STATS_WAIT_TIME)
			rowset_int(out, per > 0 ? delta[i] / per : 0);
		else
			rowset_int(out, (int64_t)((double)delta[i] * USEC_PER_SEC /
			                          (double)(elapsed > 0 ? elapsed : 1)));
	}
	rowset_end_row(out);
}

/* One row of all databases together, named "". */
static void stats_sum(const struct rowset *rows, struct rowset *out)
{
	const size_t columns = view_info(VIEW_STATS)->column_count;
	struct rowset_cell cells[COLUMNS_MAX];
	int64_t sums[COLUMNS_MAX] = {0};
	size_t offset = 0;

	while (rowset_next(rows, &offset, cells))
		for (size_t i = 1; i < columns; i++)
			sums[i] += rowset_cell_int(&cells[i]);
	rowset_init(out, VIEW_STATS);
	rowset_text(out, "");
	for (size_t i = 1; i < columns; i++)
		rowset_int(out, sums[i]);
	rowset_end_row(out);
}

static void stats_total(struct admin *admin, struct rowset *rows)
{
	struct rowset_cell now[COLUMNS_MAX];
	struct rowset_cell old[COLUMNS_MAX];
	struct rowset sum;
	struct rowset before;
	struct rowset out;
	size_t offset = 0;
	size_t offset_old = 0;
	bool good;

	stats_sum(rows, &sum);
	stats_sum(&admin->stats_old, &before);
	rowset_init(&out, VIEW_STATS);
	good = rowset_next(&sum, &offset, now) && rowset_next(&before, &offset_old, old);
	if (good)
		stats_row(&out, now, old, clock_now() - admin->stats_old_at);
	rowset_free(&sum);
	rowset_free(&before);
	rowset_free(rows);
	*rows = out;
}

/* SHOW TOTALS: a row for each number, under pgbouncer's names. */
static void totals_fill(const struct rowset *sum, struct rowset *out)
{
	static const struct {
		const char *column;
		const char *name;
	} others[] = {{"total_received", "total_client_bytes"},
	              {"total_sent", "total_server_bytes"},
	              {"total_client_parse_count", "total_ps_client_parse_count"},
	              {"total_server_parse_count", "total_ps_server_parse_count"},
	              {"total_bind_count", "total_ps_bind_count"},
	              {"avg_recv", "avg_client_bytes"},
	              {"avg_sent", "avg_server_bytes"},
	              {"avg_client_parse_count", "avg_ps_client_parse_count"},
	              {"avg_server_parse_count", "avg_ps_server_parse_count"},
	              {"avg_bind_count", "avg_ps_bind_count"}};
	const struct view_info *info = view_info(VIEW_STATS);
	struct rowset_cell cells[COLUMNS_MAX];
	size_t offset = 0;

	if (!rowset_next(sum, &offset, cells))
		return;
	for (size_t i = 1; i < info->column_count; i++) {
		const char *name = info->columns[i].name;

		for (size_t j = 0; j < ARRAY_LEN(others); j++)
			if (strcmp(name, others[j].column) == 0)
				name = others[j].name;
		rowset_text(out, name);
		rowset_int(out, rowset_cell_int(&cells[i]));
		rowset_end_row(out);
	}
}

static void stats_add_averages(struct admin *admin, struct rowset *rows)
{
	struct rowset_cell now[COLUMNS_MAX];
	struct rowset_cell old[COLUMNS_MAX];
	struct rowset out;
	size_t offset = 0;

	rowset_init(&out, VIEW_STATS);
	out.cut = rows->cut;
	while (rowset_next(rows, &offset, now)) {
		bool found = stats_row_of(&admin->stats_old, &now[0], old);

		stats_row(&out, now, found ? old : NULL, clock_now() - admin->stats_old_at);
	}
	rowset_free(rows);
	*rows = out;
}

/* pgbouncer's settings come first, under its names, for those who look for them there. */
static void config_row_pgbouncer(const struct config *config, const struct pgbouncer_setting *row,
                                 struct rowset *out)
{
	struct sbuf value;

	sbuf_init(&value, VIEW_CELL_MAX);
	if (pgbouncer_show(config, row, &value)) {
		rowset_text(out, row->name);
		rowset_text(out, sbuf_text(&value));
		rowset_text(out, row->fallback);
		rowset_text(out, pgbouncer_reloadable(row) ? "yes" : "no");
		rowset_end_row(out);
	}
	sbuf_free(&value);
}

/* By name, as pgbouncer shows them: the next name each time, for they are a hundred. */
static void config_fill_pgbouncer(const struct config *config, struct rowset *out)
{
	const char *last = "";

	for (;;) {
		const struct pgbouncer_setting *next = NULL;

		for (size_t i = 0; i < pgbouncer_setting_count(); i++) {
			const struct pgbouncer_setting *row = pgbouncer_setting_at(i);

			if (row->part == PGB_MAIN && strcmp(row->name, last) > 0 &&
			    (next == NULL || strcmp(row->name, next->name) < 0))
				next = row;
		}
		if (next == NULL)
			return;
		config_row_pgbouncer(config, next, out);
		last = next->name;
	}
}

/* ---- answers ---- */

static void list_row(struct rowset *out, const char *name, int64_t items)
{
	rowset_text(out, name);
	rowset_int(out, items);
	rowset_end_row(out);
}

struct census {
	int64_t pools;
	int64_t clients; /* behind their login */
	int64_t console;
	int64_t servers;
};

/* From SHOW POOLS: columns 2 and 3 are clients, 6 and 9 to 12 and `sv_prepared` servers. */
static struct census census_take(const struct rowset *pools)
{
	struct rowset_cell cells[COLUMNS_MAX];
	struct census census = {0};
	size_t offset = 0;

	while (rowset_next(pools, &offset, cells)) {
		census.pools++;
		census.clients += rowset_cell_int(&cells[2]) + rowset_cell_int(&cells[3]);
		if (rowset_cell_is(&cells[0], CONFIG_CONSOLE))
			census.console += rowset_cell_int(&cells[2]);
		census.servers += rowset_cell_int(&cells[6]) + rowset_cell_int(&cells[8]);
		for (size_t i = 9; i <= 12; i++)
			census.servers += rowset_cell_int(&cells[i]);
	}
	return census;
}

/* So many rows has SHOW USERS. */
static int64_t users_count(struct admin *admin)
{
	struct rowset_cell cells[COLUMNS_MAX];
	struct rowset users;
	size_t offset = 0;
	int64_t count = 0;

	rowset_init(&users, VIEW_USERS);
	users_fill(admin, &users);
	while (rowset_next(&users, &offset, cells))
		count++;
	rowset_free(&users);
	return count;
}

/* Rows of SHOW DATABASES.  SHOW POOLS is sorted by the database. */
static int64_t databases_count(struct admin *admin, const struct rowset *pools)
{
	struct rowset_cell cells[COLUMNS_MAX];
	struct list_node *node;
	struct list_node *tmp;
	char name[VIEW_CELL_MAX];
	char last[VIEW_CELL_MAX] = "";
	size_t offset = 0;
	int64_t count = 1; /* the console's */

	LIST_FOREACH(&admin->databases, node, tmp)
	count += databases_shows(admin, CONTAINER_OF(node, struct admin_db, node)->name);
	while (rowset_next(pools, &offset, cells)) {
		if (is_of_fallback(admin, &cells[0], name, sizeof(name)) &&
		    strcmp(name, last) != 0) {
			count++;
			memcpy(last, name, sizeof(last));
		}
	}
	return count;
}

static void lists_fill(struct admin *admin, struct rowset *out, const struct rowset *pools,
                       size_t names)
{
	const struct config *config = admin->proxy->config;
	const struct census census = census_take(pools);
	const int64_t all = (int64_t)atomic_load(&admin->proxy->client_count) + census.console;

	list_row(out, "databases", databases_count(admin, pools));
	list_row(out, "users", users_count(admin));
	list_row(out, "peers", (int64_t)config->peer_count);
	list_row(out, "pools", census.pools);
	list_row(out, "peer_pools", (int64_t)config->peer_count);
	list_row(out, "free_clients", 0);
	list_row(out, "used_clients", all);
	list_row(out, "login_clients", all > census.clients ? all - census.clients : 0);
	list_row(out, "free_servers", 0);
	list_row(out, "used_servers", census.servers);
	list_row(out, "dns_names", (int64_t)names);
	list_row(out, "dns_zones", 0);
	list_row(out, "dns_queries", 0);
	list_row(out, "dns_pending", 0);
}

static void peers_fill(const struct config *config, struct rowset *out)
{
	for (size_t i = 0; i < config->peer_count; i++) {
		const struct config_peer *peer = &config->peers[i];

		rowset_int(out, strtol(peer->name, NULL, 10));
		rowset_text(out, peer->host);
		rowset_int(out, peer->port);
		rowset_int(out, config_peer_pool_size(config, peer));
		rowset_end_row(out);
	}
}

static void mem_row(struct rowset *out, const char *name, size_t size, int64_t used)
{
	rowset_text(out, name);
	rowset_int(out, (int64_t)size);
	rowset_int(out, used);
	rowset_int(out, 0);
	rowset_int(out, (int64_t)size * used);
	rowset_end_row(out);
}

/* Under pgbouncer's names, in its order.  What is 0 lies within clients and servers here. */
static void mem_fill(struct admin *admin, struct rowset *out, const struct rowset *pools)
{
	const struct config *config = admin->proxy->config;
	const struct census census = census_take(pools);

	mem_row(out, "user_cache", sizeof(struct config_user), (int64_t)config->user_count);
	mem_row(out, "credentials_cache", auth_user_size(),
	        (int64_t)userlist_count(admin->proxy->users));
	mem_row(out, "db_cache", sizeof(struct admin_db), (int64_t)admin->databases.count);
	mem_row(out, "peer_cache", sizeof(struct config_peer), (int64_t)config->peer_count);
	mem_row(out, "peer_pool_cache", 0, 0);
	mem_row(out, "pool_cache", sizeof(struct pool), census.pools);
	mem_row(out, "outstanding_request_cache", sizeof(struct ledger_entry), 0);
	mem_row(out, "server_cache", sizeof(struct server), census.servers);
	mem_row(out, "client_cache", sizeof(struct client),
	        (int64_t)atomic_load(&admin->proxy->client_count));
	mem_row(out, "iobuf_cache", WORKER_INBUF, (int64_t)admin->proxy->worker_count);
	mem_row(out, "var_list_cache", 0, 0);
	mem_row(out, "server_prepared_statement_cache", 0, 0);
}

static void state_fill(const struct admin *admin, struct rowset *out)
{
	const bool paused = admin->paused_all;
	const struct {
		const char *key;
		bool value;
	} rows[] = {{"active", !paused && !admin->suspended},
	            {"paused", paused && !admin->suspended},
	            {"suspended", admin->suspended}};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		rowset_text(out, rows[i].key);
		rowset_text(out, rows[i].value ? "yes" : "no");
		rowset_end_row(out);
	}
}

static void stats_fill(struct admin *admin, enum view view, struct rowset *out, struct rowset *rows)
{
	struct rowset_cell cells[COLUMNS_MAX];
	const size_t first = view == VIEW_STATS_AVERAGES ? 1 + STATS_TOTALS : 1;
	size_t offset = 0;

	if (view == VIEW_TOTALS) {
		stats_total(admin, rows);
		totals_fill(rows, out);
		return;
	}
	stats_add_averages(admin, rows);
	while (rowset_next(rows, &offset, cells)) {
		rowset_bytes(out, cells[0].bytes, cells[0].len);
		for (size_t i = 0; i < STATS_TOTALS; i++)
			rowset_int(out, rowset_cell_int(&cells[first + i]));
		rowset_end_row(out);
	}
}

/* Runs when the workers' rows for a MAIN view are here. */
static void main_view_done(struct admin *admin, struct rowset *rows, void *arg)
{
	struct admin_request *request = arg;
	struct list_node *node;
	struct list_node *tmp;

	rowset_init(&request->rows, request->view);
	request->has_rows = true;
	if (request->view == VIEW_USERS)
		users_fill(admin, &request->rows);
	else if (request->view == VIEW_LISTS)
		lists_fill(admin, &request->rows, rows, request->names);
	else if (request->view == VIEW_MEM)
		mem_fill(admin, &request->rows, rows);
	else if (request->view == VIEW_TOTALS || request->view == VIEW_STATS_TOTALS ||
	         request->view == VIEW_STATS_AVERAGES)
		stats_fill(admin, request->view, &request->rows, rows);
	LIST_FOREACH(&admin->databases, node, tmp)
	{
		struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);
		bool wanted = request->db == NULL
		                  ? db->state != HOLD_OPEN ||
		                        config_find_database(admin->proxy->config, db->name) != NULL
		                  : db == request->db;

		if (request->view == VIEW_HOLDS && wanted)
			holds_row(&request->rows, db, rows, request->asked);
		else if (request->view == VIEW_DATABASES)
			databases_row(&request->rows, admin, db->name, db, rows);
	}
	if (request->view == VIEW_DATABASES) {
		databases_fallback(admin, &request->rows, rows);
		databases_console(admin, &request->rows);
		rowset_merge(&request->rows);
	}
	request_succeed(request);
}

static void lists_names_known(struct admin *admin, struct rowset *rows, void *arg)
{
	struct admin_request *request = arg;

	request->names = rows->rows;
	view_ask(admin, VIEW_POOLS, NULL, main_view_done, request);
}

void request_answer_holds(struct admin_request *request)
{
	request->view = VIEW_HOLDS;
	request->asked = request->admin->last_token;
	view_ask(request->admin, VIEW_LOADS, request->db->name, main_view_done, request);
}

/* maxwait comes as microseconds in maxwait_us and is split here, for only one number can be merged
 * by its maximum. */
static void pools_split_wait(struct rowset *rows)
{
	const struct view_info *info = view_info(VIEW_POOLS);
	struct rowset_cell cells[COLUMNS_MAX];
	struct rowset out;
	size_t offset = 0;

	rowset_init(&out, VIEW_POOLS);
	out.cut = rows->cut;
	while (rowset_next(rows, &offset, cells)) {
		for (size_t i = 0; i < info->column_count; i++) {
			if (strcmp(info->columns[i].name, "maxwait") == 0)
				rowset_int(&out, rowset_cell_int(&cells[i + 1]) / USEC_PER_SEC);
			else if (strcmp(info->columns[i].name, "maxwait_us") == 0)
				rowset_int(&out, rowset_cell_int(&cells[i]) % USEC_PER_SEC);
			else if (cells[i].bytes == NULL)
				rowset_null(&out);
			else
				rowset_bytes(&out, cells[i].bytes, cells[i].len);
		}
		rowset_end_row(&out);
	}
	rowset_free(rows);
	*rows = out;
}

/* log_stats, in pgbouncer's words. */
static void stats_log(const struct rowset *sum)
{
	struct rowset_cell cells[COLUMNS_MAX];
	size_t offset = 0;

	if (!rowset_next(sum, &offset, cells))
		return;
	log_info(
	    "stats: %lld xacts/s, %lld queries/s, %lld client parses/s, %lld server parses/s, "
	    "%lld binds/s, in %lld B/s, out %lld B/s, xact %lld us, query %lld us, wait %lld us",
	    (long long)rowset_cell_int(&cells[STATS_TOTALS + 2]),
	    (long long)rowset_cell_int(&cells[STATS_TOTALS + 3]),
	    (long long)rowset_cell_int(&cells[STATS_TOTALS + 9]),
	    (long long)rowset_cell_int(&cells[STATS_TOTALS + 10]),
	    (long long)rowset_cell_int(&cells[STATS_TOTALS + 11]),
	    (long long)rowset_cell_int(&cells[STATS_TOTALS + 4]),
	    (long long)rowset_cell_int(&cells[STATS_TOTALS + 5]),
	    (long long)rowset_cell_int(&cells[STATS_TOTALS + 6]),
	    (long long)rowset_cell_int(&cells[STATS_TOTALS + 7]),
	    (long long)rowset_cell_int(&cells[STATS_TOTALS + 8]));
}

static void stats_sampled(struct admin *admin, struct rowset *rows, void *arg)
{
	(void)arg;
	rowset_free(&admin->stats_old);
	admin->stats_old = admin->stats_new;
	admin->stats_old_at = admin->stats_new_at;
	admin->stats_new = *rows;
	admin->stats_new_at = clock_now();
	rowset_init(rows, VIEW_STATS);
	if (admin->proxy->config->proxy.log_stats) {
		struct rowset sum;

		stats_sum(&admin->stats_new, &sum);
		stats_total(admin, &sum);
		stats_log(&sum);
		rowset_free(&sum);
	}
}

void stats_sample(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	view_ask(arg, VIEW_STATS, NULL, stats_sampled, NULL);
}

/* Runs when the workers' rows for a view of theirs are here. */
static void worker_view_done(struct admin *admin, struct rowset *rows, void *arg)
{
	struct admin_request *request = arg;

	if (request->view == VIEW_POOLS)
		pools_split_wait(rows);
	else if (request->view == VIEW_STATS)
		stats_add_averages(admin, rows);
	if (rows->cut)
		sbuf_add_str(&request->notice, "The view is not complete.");
	request->rows = *rows;
	request->has_rows = true;
	rowset_init(rows, request->view);
	request_succeed(request);
}

void request_answer_sealed(struct admin_request *request)
{
	request->view = VIEW_SEALED;
	view_ask(request->admin, VIEW_SEALED, request->db->name, worker_view_done, request);
}

static void view_main(struct admin_request *request, bool whole)
{
	struct admin *admin = request->admin;
	struct list_node *node;
	struct list_node *tmp;

	rowset_init(&request->rows, request->view);
	request->has_rows = true;
	if (request->view == VIEW_ROUTES) {
		LIST_FOREACH(&admin->databases, node, tmp)
		routes_row(&request->rows, CONTAINER_OF(node, struct admin_db, node));
	} else if (request->view == VIEW_STATE) {
		state_fill(admin, &request->rows);
	} else if (request->view == VIEW_PEERS) {
		peers_fill(admin->proxy->config, &request->rows);
	} else if (request->view == VIEW_CONFIG) {
		config_fill_pgbouncer(admin->proxy->config, &request->rows);
		config_show(admin->proxy->config, whole ? config_row : config_row_public,
		            &request->rows);
	} else if (request->view == VIEW_HBA) {
		/* Only this thread changes proxy->hba. */
		const struct hba *hba = admin->proxy->hba;

		for (size_t i = 0; hba != NULL && i < hba_count(hba); i++)
			hba_row(&request->rows, i + 1, hba_rule_at(hba, i));
	} else if (request->view == VIEW_VERSION) {
		rowset_text(&request->rows, "pgshuntd " PGSHUNT_VERSION);
		rowset_end_row(&request->rows);
	}
	request_succeed(request);
}

struct admin_request *admin_view(struct admin *admin, enum view view, const char *database,
                                 bool whole, admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);

	request->view = view;
	request->asked = admin->last_token;
	if (database != NULL && !request_find_db(request, database))
		return request;
	switch (view) {
	case VIEW_HOLDS:
	case VIEW_DATABASES:
		view_ask(admin, VIEW_LOADS, NULL, main_view_done, request);
		break;
	case VIEW_STATS_TOTALS:
	case VIEW_STATS_AVERAGES:
	case VIEW_TOTALS:
		view_ask(admin, VIEW_STATS, NULL, main_view_done, request);
		break;
	case VIEW_LISTS:
		view_ask(admin, VIEW_DNS_HOSTS, NULL, lists_names_known, request);
		break;
	case VIEW_MEM:
	case VIEW_USERS:
		view_ask(admin, VIEW_POOLS, NULL, main_view_done, request);
		break;
	default:
		if (view_info(view)->source == VIEW_FROM_MAIN)
			view_main(request, whole);
		else
			view_ask(admin, view, database, worker_view_done, request);
		break;
	}
	return request;
}
