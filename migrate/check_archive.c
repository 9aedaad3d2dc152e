/* SPDX-License-Identifier: PostgreSQL */
/*
 * Checks of the WAL archive: where the target will put its WAL after the promotion, and what the
 * promotion asks the archive for.
 */
#include "base/mem.h"
#include "migrate/check.h"

#include <stdlib.h>
#include <string.h>

/* What a library is told is in settings named after it, which only its own process knows, and the
 * files.  A command that only says yes archives
 * nothing. */
static const char archive_sql[] =
    "SELECT m.setting AS mode,"
    " CASE WHEN c.reset_val ~ '^\\s*(/(usr/)?bin/)?(true|:|exit 0)?\\s*$' THEN '' ELSE"
    " c.reset_val END AS command, coalesce(l.reset_val, '') AS library,"
    " coalesce((SELECT string_agg(f.name || '=' || f.setting, ' ' ORDER BY f.seqno) FROM"
    " pg_file_settings f WHERE f.seqno = (SELECT max(g.seqno) FROM pg_file_settings g WHERE"
    " g.name = f.name) AND f.name LIKE l.reset_val || '.%'), '') AS options,"
    " r.reset_val AS restore, e.reset_val AS at_end"
    " FROM pg_settings m JOIN pg_settings c ON c.name = 'archive_command'"
    " JOIN pg_settings r ON r.name = 'restore_command'"
    " JOIN pg_settings e ON e.name = 'recovery_end_command'"
    " LEFT JOIN pg_settings l ON l.name = 'archive_library' WHERE m.name = 'archive_mode'";

static bool is_same(const struct link *one, const struct link *other, const char *column)
{
	const char *a = link_value(one, 0, column);
	const char *b = link_value(other, 0, column);

	return a != NULL && b != NULL && strcmp(a, b) == 0;
}

static bool has(const struct link *link, const char *column)
{
	const char *value = link_value(link, 0, column);

	return value != NULL && *value != '\0';
}

static bool archives(const struct link *link)
{
	const char *mode = link_value(link, 0, "mode");

	return mode != NULL && strcmp(mode, "off") != 0;
}

/* The new timeline in the archive of the old: the source's other standbys that restore from it
 * follow the target at their next start, or do not start, and so does recovery to 'latest'. */
static void check_archive_place(struct checks *checks)
{
	const struct link *source = &checks->move->source.link;
	const struct link *target = &checks->move->target.link;
	bool library = has(source, "library") && is_same(source, target, "library") &&
	               is_same(source, target, "options");
	bool command = !has(source, "library") && !has(target, "library") &&
	               has(source, "command") && is_same(source, target, "command");
	const char *what = library ? "archive_library" : "archive_command";
	const char *value = link_value(source, 0, library ? "library" : "command");

	if (!archives(target))
		check_pass(checks, CHECK_ARCHIVE, "%s does not archive", target->name);
	else if (!archives(source) || (!library && !command))
		check_pass(checks, CHECK_ARCHIVE, "they do not archive alike");
	else if (checks->move->config->mover.same_archive)
		check_pass(checks, CHECK_ARCHIVE, "%s is %s on both; mover.same_archive says so",
		           what, value);
	else
		check_find(checks, CHECK_ARCHIVE, CHECK_REFUSE, "%s is %s on both %s and %s", what,
		           value, source->name, target->name);
}

void check_archive(struct checks *checks)
{
	struct move *move = checks->move;
	const struct link *target = &move->target.link;

	if (!check_query(checks, CHECK_ARCHIVE, &move->source.link, archive_sql) ||
	    !check_query(checks, CHECK_ARCHIVE, &move->target.link, archive_sql))
		return;
	check_archive_place(checks);
	if (has(target, "restore"))
		check_find(checks, CHECK_RESTORE, CHECK_WARN, "%s has restore_command: %s",
		           target->name, link_value(target, 0, "restore"));
	if (has(target, "at_end"))
		check_find(checks, CHECK_RESTORE, CHECK_WARN, "%s has recovery_end_command: %s",
		           target->name, link_value(target, 0, "at_end"));
	check_pass(checks, CHECK_RESTORE, "it has none");
}
