/* SPDX-License-Identifier: PostgreSQL */
/*
 * Comparing the log of a run with the rows that the databases hold; see account.h.  The rows are
 * asked for directly, never through a proxy.
 */
#include "account.h"
#include "base/mem.h"
#include "script.h"

#include <libpq-fe.h>
#include <stdlib.h>
#include <string.h>

/* What a row that was read from the old or from the new server means. */
typedef void (*row_seen)(struct account *account, int group, int64_t client, int64_t number);

static bool rows_of(struct account *account, int group, const char *conninfo, const char *sql,
                    row_seen seen)
{
	struct script_values values = {.number = {[VALUE_RUN] = account->run}};
	struct script script = {0};
	PGconn *conn = PQconnectdb(conninfo);
	PGresult *result = NULL;
	bool good = false;

	if (script_parse(&script, sql)) {
		char *text = script_expand(&script, &values);

		result = PQexec(conn, text);
		good = PQresultStatus(result) == PGRES_TUPLES_OK && PQnfields(result) == 2;
		free(text);
	}
	if (!good)
		fprintf(stderr, "pgshunt_load: rows of %s: %s\n", account->groups[group].name,
		        PQerrorMessage(conn));
	for (int i = 0; good && i < PQntuples(result); i++)
		seen(account, group, strtoll(PQgetvalue(result, i, 0), NULL, 10),
		     strtoll(PQgetvalue(result, i, 1), NULL, 10));
	PQclear(result);
	PQfinish(conn);
	script_free(&script);
	return good;
}

/* The client of this group that wrote this row, or NULL if none can have. */
static struct account_client *writer_of(struct account *account, int group, int64_t client,
                                        int64_t number)
{
	struct account_client *writer;

	if (client < 1 || client > account->client_count || number < 1 || number > INT32_MAX)
		return NULL;
	writer = &account->clients[client];
	if (writer->target < 0 || account->targets[writer->target].group != group)
		return NULL;
	return writer->last >= 0 && number > writer->last ? NULL : writer;
}

static void seen_on_new(struct account *account, int group, int64_t client, int64_t number)
{
	struct account_client *writer = writer_of(account, group, client, number);

	if (writer == NULL) {
		account->groups[group].phantom++;
		return;
	}
	if (number >= writer->room) {
		int64_t room = writer->room == 0 ? 1024 : writer->room;

		while (room <= number)
			room *= 2;
		writer->acked = mem_must_grow(writer->acked, (size_t)room, 1);
		memset(writer->acked + writer->room, 0, (size_t)(room - writer->room));
		writer->seen = mem_must_grow(writer->seen, (size_t)room, 1);
		memset(writer->seen + writer->room, 0, (size_t)(room - writer->room));
		writer->room = room;
	}
	if (writer->seen[number] < UINT8_MAX)
		writer->seen[number]++;
}

static void seen_on_old(struct account *account, int group, int64_t client, int64_t number)
{
	struct account_client *writer = writer_of(account, group, client, number);

	if (writer == NULL)
		account->groups[group].phantom++;
	else if (number >= writer->room || writer->seen[number] == 0)
		account->groups[group].old_only++;
}

/* Every row at most once, every acknowledged one exactly once. */
static void judge_new(struct account *account, int group)
{
	for (int i = 1; i <= account->client_count; i++) {
		const struct account_client *client = &account->clients[i];

		if (client->target < 0 || account->targets[client->target].group != group)
			continue;
		for (int64_t k = 1; k < client->room; k++) {
			if (client->acked[k] && client->seen[k] == 0)
				account->groups[group].lost++;
			if (client->seen[k] > 1)
				account->groups[group].duplicated++;
		}
	}
}

static bool check_rows(struct account *account, int group, const char *sql)
{
	struct account_group *checked = &account->groups[group];

	for (int i = 1; i <= account->client_count; i++) {
		struct account_client *client = &account->clients[i];

		free(client->seen);
		client->seen = mem_must_alloc((size_t)client->room + 1);
	}
	if (!rows_of(account, group, checked->new_conninfo, sql, seen_on_new))
		return false;
	judge_new(account, group);
	return checked->old_conninfo == NULL ||
	       rows_of(account, group, checked->old_conninfo, sql, seen_on_old);
}

bool account_check(struct account *account)
{
	for (int i = 0; i < account->group_count; i++) {
		struct account_group *group = &account->groups[i];

		if (group->rows_count == 0)
			group->rows[group->rows_count++] = SCRIPT_ROWS;
		for (int k = 0; k < group->rows_count; k++) {
			if (!check_rows(account, i, group->rows[k]))
				return false;
		}
	}
	return true;
}
