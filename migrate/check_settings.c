/* SPDX-License-Identifier: PostgreSQL */
/*
 * Checks of what the two servers are built and set like: architecture, limits, settings,
 * tablespaces.
 */
#include "migrate/check.h"

#include <inttypes.h>
#include <string.h>

#define LIST_MAX 2048

/* What pg_control holds would keep the standby from starting; the machine's word is that of the
 * compiler's target. */
static const char architecture_sql[] =
    "SELECT key, value FROM jsonb_each_text((SELECT to_jsonb(c) FROM pg_control_init() c))"
    " UNION ALL SELECT 'machine', substring(version() from ' on ([^-, ]+)')"
    " UNION ALL SELECT 'pointer', substring(version() from '([0-9]+-bit)')"
    " ORDER BY 1";

static const char limits_sql[] =
    "SELECT name, setting::bigint AS setting FROM pg_settings WHERE name IN ('max_connections',"
    "'max_worker_processes','max_wal_senders','max_prepared_transactions',"
    "'max_locks_per_transaction') ORDER BY name";

/* What may differ between two good servers, belongs to the session, or has a check of its own, is
 * left out. */
static const char settings_sql[] =
    "SELECT name, coalesce(reset_val, '') || CASE WHEN unit IS NULL THEN ''"
    " ELSE ' x ' || unit END AS value FROM pg_settings WHERE name <> ALL ('{cluster_name,"
    "config_file,data_directory,data_directory_mode,hba_file,ident_file,external_pid_file,"
    "listen_addresses,port,bonjour,bonjour_name,event_source,promote_trigger_file,restore_command,"
    "archive_command,archive_library,archive_cleanup_command,hot_standby,hot_standby_feedback,"
    "in_hot_standby,is_superuser,session_authorization,role,application_name,data_checksums,"
    "synchronous_standby_names,default_transaction_read_only,max_connections,max_worker_processes,"
    "max_wal_senders,max_prepared_transactions,max_locks_per_transaction,shared_memory_size,"
    "shared_memory_size_in_huge_pages,seed,sync_replication_slots,zero_damaged_pages}')"
    " AND name !~ '^(log_|logging_|syslog_|ssl_|krb_|unix_socket_|primary_|recovery_|"
    "transaction_(deferrable|isolation|read_only)$|max_standby_|wal_receiver_|wal_retrieve_|server_"
    "version|debug_|trace_)'"
    " AND name <> 'ssl' ORDER BY name";

/* The function that says where it is fails where it is not. */
static const char tablespaces_sql[] =
    "SELECT spcname, coalesce((pg_stat_file('pg_tblspc/' || oid, true)).isdir, false) AS there"
    " FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1";

/* Asks both the same. */
static bool ask_both(struct checks *checks, enum check check, const char *sql)
{
	return check_query(checks, check, &checks->move->source.link, sql) &&
	       check_query(checks, check, &checks->move->target.link, sql);
}

/* The value in the row of this name, NULL if there is none. */
static const char *value_of(const struct link *link, const char *key_column, const char *key,
                            const char *column)
{
	for (int row = 0; row < link_rows(link); row++) {
		const char *name = link_value(link, row, key_column);

		if (name != NULL && strcmp(name, key) == 0)
			return link_value(link, row, column);
	}
	return NULL;
}

static void check_architecture(struct checks *checks)
{
	const struct link *source = &checks->move->source.link;
	const struct link *target = &checks->move->target.link;

	if (!ask_both(checks, CHECK_ARCHITECTURE, architecture_sql))
		return;
	for (int row = 0; row < link_rows(source); row++) {
		const char *key = link_value(source, row, "key");
		const char *here = link_value(source, row, "value");
		const char *there = value_of(target, "key", key, "value");
		/* Those can be added to one copy, and cost nothing but time there. */
		bool harmless = strcmp(key, "data_page_checksum_version") == 0;

		if (here == NULL || (there != NULL && strcmp(here, there) == 0))
			continue;
		check_find(checks, CHECK_ARCHITECTURE, harmless ? CHECK_WARN : CHECK_REFUSE,
		           "%s is %s on %s, %s on %s", key, here, source->name,
		           there == NULL ? "unknown" : there, target->name);
	}
	check_pass(checks, CHECK_ARCHITECTURE, "%s, %s, blocks of %s bytes, WAL segments of %s",
	           value_of(source, "key", "machine", "value"),
	           value_of(source, "key", "pointer", "value"),
	           value_of(source, "key", "database_block_size", "value"),
	           value_of(source, "key", "bytes_per_wal_segment", "value"));
}

static void check_limits(struct checks *checks)
{
	const struct link *source = &checks->move->source.link;
	const struct link *target = &checks->move->target.link;

	if (!ask_both(checks, CHECK_SETTINGS, limits_sql))
		return;
	for (int row = 0; row < link_rows(source); row++) {
		int64_t there = link_number(source, row, "setting", 0);
		int64_t here = link_number(target, row, "setting", 0);

		if (here < there)
			check_find(checks, CHECK_SETTINGS, CHECK_REFUSE,
			           "%s is %" PRId64 " on %s, %" PRId64 " on %s",
			           link_value(source, row, "name"), here, target->name, there,
			           source->name);
	}
	check_pass(checks, CHECK_SETTINGS, "max_connections and the like");
}

/* "off" is what an operator calls the empty value. */
static const char *shown(const char *value)
{
	return value == NULL ? "unknown" : *value == '\0' ? "empty" : value;
}

static void check_parameters(struct checks *checks)
{
	const struct link *source = &checks->move->source.link;
	const struct link *target = &checks->move->target.link;
	struct sbuf list;
	int count = 0;

	if (!ask_both(checks, CHECK_PARAMETERS, settings_sql))
		return;
	sbuf_init(&list, LIST_MAX);
	for (int row = 0; row < link_rows(source); row++) {
		const char *name = link_value(source, row, "name");
		const char *here = link_value(source, row, "value");
		const char *there = value_of(target, "name", name, "value");

		if (here == NULL || (there != NULL && strcmp(here, there) == 0))
			continue;
		sbuf_printf(&list, "%s%s %.60s, not %.60s", count++ == 0 ? "" : "; ", name,
		            shown(there), shown(here));
	}
	if (count > 0)
		check_find(checks, CHECK_PARAMETERS, CHECK_WARN, "%s has %s", target->name,
		           sbuf_text(&list));
	check_pass(checks, CHECK_PARAMETERS, "%d were compared", link_rows(source));
	sbuf_free(&list);
}

static void check_tablespaces(struct checks *checks)
{
	const struct link *source = &checks->move->source.link;
	const struct link *target = &checks->move->target.link;

	if (!ask_both(checks, CHECK_TABLESPACES, tablespaces_sql))
		return;
	for (int row = 0; row < link_rows(source); row++) {
		const char *name = link_value(source, row, "spcname");
		const char *there = value_of(target, "spcname", name, "there");

		if (there == NULL || *there != 't')
			check_find(checks, CHECK_TABLESPACES, CHECK_REFUSE,
			           "the directory of tablespace %s is not there on %s", name,
			           target->name);
	}
	check_pass(checks, CHECK_TABLESPACES, "%d besides the default", link_rows(source));
}

void check_settings(struct checks *checks)
{
	check_architecture(checks);
	check_limits(checks);
	check_parameters(checks);
	check_tablespaces(checks);
}
