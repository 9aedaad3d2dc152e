/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/commcare.h"

#include "base/mem.h"
#include "conf/commcare_config.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"

#include <stdlib.h>
#include <string.h>

#define NOTES_MAX ((size_t)1024 * 1024)

/* Whether the inventory's host is the machine of the server. */
static bool is_server(const struct commcare *commcare, const char *host,
                      const struct config_server *server)
{
	const char *named = commcare_translate(commcare, server->name);
	const struct inventory_host *entry = inventory_host(&commcare->inventory, host);
	const char *spellings[] = {host, entry == NULL ? host : entry->address};

	if (named != NULL && strcmp(named, host) == 0)
		return true;
	for (size_t i = 0; i < ARRAY_LEN(spellings); i++) {
		size_t len = strlen(spellings[i]);

		if (strcmp(spellings[i], server->admin_host) == 0 ||
		    strcmp(spellings[i], server->host) == 0)
			return true;
		for (size_t j = 0; j < server->aliases.count; j++) {
			if (strncmp(server->aliases.items[j], spellings[i], len) == 0 &&
			    server->aliases.items[j][len] == ':')
				return true;
		}
	}
	return false;
}

/* ---- the plan ---- */

static void note(struct move *move, const struct commcare *commcare,
                 const struct commcare_database *database, const char *to)
{
	bool keep = move->config->mover.commcare_transitional_endpoint;
	const char *host = commcare_translate(commcare, to);
	struct sbuf *notes = &move->commcare_notes;

	sbuf_printf(notes, "postgresql.yml: %s (%s): host %s becomes %s; ", database->alias,
	            database->name, database->host, host);
	if (database->own_endpoint || keep)
		sbuf_printf(notes,
		            "its endpoint stays %s:%d: applications and PL/Proxy keep their "
		            "addresses\n",
		            database->endpoint, database->port);
	else
		sbuf_printf(
		    notes,
		    "its endpoint becomes %s:%d: applications learn it by the next deploy "
		    "(localsettings) and a restart, PL/Proxy by configure_pl_proxy_cluster; "
		    "until then the pgbouncer on %s has to lead to the new host "
		    "(mover.commcare_transitional_endpoint keeps the endpoint)\n",
		    host, commcare_port_at(commcare, host), database->endpoint);
	sbuf_add_str(notes, "postgresql.yml: afterwards \"commcare-cloud ENV ansible-playbook "
	                    "deploy_db.yml --limit=");
	for (size_t i = 0; i < database->bouncer_count; i++)
		sbuf_printf(notes, "%s%s", i > 0 ? "," : "", database->bouncers[i]);
	sbuf_add_str(notes, "\" writes the entries of the pgbouncers anew from it\n");
}

/* Which databases move in the file; false and an error if it does not agree with the routers. */
static bool pick(struct move *move, const struct commcare *commcare, const char *to,
                 const char **names, size_t *count, struct sbuf *error)
{
	bool ok = true;

	for (size_t i = 0; i < move->shard_count; i++) {
		const struct commcare_database *database =
		    commcare_find(commcare, move->shards[i].dbname);

		if (database == NULL) {
			sbuf_printf(&move->commcare_notes,
			            "postgresql.yml: it has no database %s\n",
			            move->shards[i].dbname);
		} else if (is_server(commcare, database->host, move->source.conf)) {
			names[(*count)++] = database->name;
			note(move, commcare, database, to);
			commcare_readers(commcare, database->alias, &move->commcare_notes);
		} else if (is_server(commcare, database->host, move->target.conf)) {
			sbuf_printf(&move->commcare_notes,
			            "postgresql.yml: %s is on %s already: nothing to change\n",
			            database->alias, database->host);
		} else {
			sbuf_printf(error,
			            "%s puts %s on %s, which is not %s; correct it, or give the "
			            "spelling in servers.%s.aliases\n",
			            commcare->path, database->name, database->host,
			            move->source.conf->name, move->source.conf->name);
			ok = false;
		}
	}
	return ok;
}

bool commcare_plan(struct move *move, struct sbuf *error)
{
	const struct config_mover *conf = &move->config->mover;
	const struct config_server *target = move->target.conf;
	struct commcare commcare;
	const char **names;
	const char *to;
	size_t count = 0;
	char *text = NULL;
	bool ok;

	if (conf->commcare_environment[0] == '\0')
		return true;
	sbuf_free(&move->commcare_notes);
	sbuf_init(&move->commcare_notes, NOTES_MAX);
	if (!commcare_read(conf->commcare_environment, &commcare, error))
		return false;
	to = commcare_spelling(&commcare, target->name, target->admin_host);
	if (to == NULL) {
		sbuf_printf(error, "the inventory of %s has neither %s nor a host %s\n",
		            conf->commcare_environment, target->name, target->admin_host);
		commcare_free(&commcare);
		return false;
	}
	names = mem_must_alloc((move->shard_count + 1) * sizeof(*names));
	ok = pick(move, &commcare, to, names, &count, error);
	if (ok && count > 0) {
		text = commcare_move(&commcare, names, count, to,
		                     conf->commcare_transitional_endpoint, error);
		ok = text != NULL;
	}
	if (text != NULL)
		bouncer_file_add_text(move, commcare.path, commcare.bytes, text);
	free(text);
	free(names);
	commcare_free(&commcare);
	return ok;
}

void commcare_print(const struct move *move)
{
	char *text = mem_must_strdup(sbuf_text(&move->commcare_notes));
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save))
		ui_line(move->ui, "  %s", line);
	free(text);
}

bool commcare_validate(struct move *move)
{
	bool ok = true;

	for (size_t i = 0; i < move->file_count; i++) {
		struct bouncer_file *file = &move->files[i];

		if (file->conf != NULL || file->committed)
			continue;
		bouncer_files_commit(move);
		if (file->committed)
			continue;
		move_problem(move, "%s was not brought up to date: %s", file->path,
		             file->error == NULL ? "?" : file->error);
		ok = false;
	}
	return ok;
}
