/* SPDX-License-Identifier: PostgreSQL */
#include "base/endpoint.h"
#include "base/log.h"
#include "control/session.h"
#include "conf/pgbouncer.h"
#include "core/proxy.h"
#include "session/params.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static void execute_done(void *arg, struct admin_answer *answer)
{
	struct session *session = arg;

	session_answered(session, answer);
}

static void deny_message(const struct session *session, struct admin_error *error)
{
	(void)snprintf(error->message, sizeof(error->message), "%s",
	               session->proxy->config->proxy.as_pgbouncer ? "admin access needed"
	                                                          : "permission denied");
}

static void deny(struct session *session)
{
	struct admin_error error = {.sqlstate = "42501"};

	deny_message(session, &error);
	(void)snprintf(error.detail, sizeof(error.detail),
	               "User \"%s\" is a stats user, who may only look.", session->user);
	(void)snprintf(error.hint, sizeof(error.hint),
	               "The setting admin_users names those who may do everything.");
	session_error(session, &error, 0);
}

static bool may_everything(const struct session *session)
{
	return session->owner || config_is_admin(session->proxy->config, session->user);
}

static bool allowed(const struct session *session)
{
	const struct command *command = &session->command;

	if (may_everything(session))
		return true;
	if (!config_is_stats_user(session->proxy->config, session->user))
		return false;
	if (command_info(command->id)->access == COMMAND_FOR_ADMIN)
		return false;
	return command->id != COMMAND_SHOW || command->view == VIEW_COUNT ||
	       view_info(command->view)->access == VIEW_FOR_STATS;
}

/* SHOW HELP: the commands, then the views. */
static void execute_help(struct session *session)
{
	struct rowset rows;
	struct sbuf grammar;

	rowset_init(&rows, VIEW_HELP);
	sbuf_init(&grammar, VIEW_CELL_MAX);
	for (size_t i = 0; i < COMMAND_COUNT; i++) {
		const struct command_info *info = command_info((enum command_id)i);

		if (info->help == NULL)
			continue;
		sbuf_reset(&grammar);
		command_grammar((enum command_id)i, &grammar);
		rowset_text(&rows, sbuf_text(&grammar));
		rowset_text(&rows, info->access == COMMAND_FOR_ADMIN ? "admin" : "stats");
		rowset_text(&rows, info->help);
		rowset_end_row(&rows);
	}
	sbuf_free(&grammar);
	for (size_t i = 0; i < VIEW_COUNT; i++) {
		const struct view_info *info = view_info((enum view)i);

		if (info->access == VIEW_FOR_HIDDEN)
			continue;
		rowset_printf(&rows, "SHOW %s%s%s", info->name,
		              info->argument[0] == '\0' ? "" : " ", info->argument);
		rowset_text(&rows, info->access == VIEW_FOR_ADMIN ? "admin" : "stats");
		rowset_text(&rows, info->help);
		rowset_end_row(&rows);
	}
	session_finish(session, &rows, NULL);
}

/* A result of one row and one column. */
static void execute_value(struct session *session)
{
	const struct command *command = &session->command;
	struct rowset rows;

	rowset_init(&rows, VIEW_VALUE);
	if (command->id == COMMAND_SHOW) {
		rowset_text(&rows, command->value);
	} else {
		switch (command->function) {
		case FUNCTION_NONE:
			rowset_int(&rows, command->number);
			break;
		case FUNCTION_VERSION:
			rowset_text(&rows, "PostgreSQL 15.0 (pgshunt " PGSHUNT_VERSION
			                   "), the console of pgshuntd");
			break;
		case FUNCTION_DATABASE:
			rowset_text(&rows, session->database);
			break;
		case FUNCTION_USER:
		case FUNCTION_SESSION_USER:
			rowset_text(&rows, session->user);
			break;
		case FUNCTION_UNLOCK:
			rowset_text(&rows, "");
			break;
		}
	}
	rowset_end_row(&rows);
	session_finish(session, &rows, NULL);
}

static void execute_show(struct session *session)
{
	const struct command *command = &session->command;

	if (command->view == VIEW_COUNT)
		execute_value(session);
	else if (command->view == VIEW_HELP)
		execute_help(session);
	else
		session->request = admin_view(
		    session->proxy->admin, command->view,
		    command->database[0] == '\0' ? NULL : command->database,
		    may_everything(session), execute_done, session);
}

static void execute_hold(struct session *session)
{
	const struct command *command = &session->command;
	const struct hold_options options = {
	    .epoch = command->epoch,
	    .lease = command->lease,
	    .drain = command->drain,
	    .policy = command->policy,
	    .nowait = (command->given & (1u << OPTION_NOWAIT)) != 0,
	};

	session->request =
	    admin_hold(session->proxy->admin, command->database, &options, execute_done, session);
}

static void execute_swap(struct session *session)
{
	const struct command *command = &session->command;
	const struct swap_options options = {
	    .epoch = command->epoch,
	    .force = (command->given & (1u << OPTION_FORCE)) != 0,
	    .nowait = (command->given & (1u << OPTION_NOWAIT)) != 0,
	    .sessions = (command->given & (1u << OPTION_SESSIONS)) != 0,
	};

	session->request = admin_swap(session->proxy->admin, command->database, command->server,
	                              &options, execute_done, session);
}

/* Parameters of PostgreSQL that drivers set on every connection: here they change nothing. */
static bool of_drivers(const char *name)
{
	static const char *const names[] = {
	    "extra_float_digits", "statement_timeout", "lock_timeout", "search_path",
	    "idle_in_transaction_session_timeout", "idle_session_timeout", "bytea_output",
	    "names", "role", "session_authorization", "transaction_timeout", "time", "xmloption",
	    "row_security", "synchronous_commit", "default_transaction_isolation", "intervalstyle"};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strcasecmp(name, names[i]) == 0)
			return true;
	return param_reported_name(name) != NULL;
}

static void execute_set(struct session *session)
{
	const struct command *command = &session->command;
	struct admin_error error = {.sqlstate = "42501"};

	if (command->server[0] == '\0' ||
	    (of_drivers(command->server) && !config_has_setting(command->server))) {
		session_finish(session, NULL, NULL);
		return;
	}
	if (!may_everything(session)) {
		deny_message(session, &error);
		(void)snprintf(error.hint, sizeof(error.hint),
		               "The setting admin_users names those who may do everything.");
		session_error(session, &error, 0);
		return;
	}
	session->request = admin_set(session->proxy->admin, command->server, command->value_text,
	                             execute_done, session);
}

/* The commands over pools, of which a database is optional. */
static void execute_pools(struct session *session)
{
	const struct command *command = &session->command;
	struct admin *admin = session->proxy->admin;
	const char *database = command->database[0] == '\0' ? NULL : command->database;
	const bool attached = (command->given & (1u << OPTION_ATTACHED)) != 0;

	switch (command->id) {
	case COMMAND_PAUSE:
		if (attached)
			session_attach(session, command->database);
		session->request = admin_pause(admin, database, command->drain, execute_done, session);
		break;
	case COMMAND_RESUME:
		session->request = admin_resume(admin, database, execute_done, session);
		break;
	case COMMAND_RECONNECT:
		session->request = admin_reconnect(admin, database, execute_done, session);
		break;
	case COMMAND_WAIT_CLOSE:
		session->request = admin_wait_close(admin, database, execute_done, session);
		break;
	default:
		session->request = admin_kill(admin, database, execute_done, session);
		break;
	}
}

static void execute_prepare(struct session *session)
{
	const struct command *command = &session->command;
	const struct prepare_options options = {
	    .epoch = command->epoch,
	    .trial = (command->given & (1u << OPTION_TRIAL)) != 0,
	    .leave = (command->given & (1u << OPTION_LEAVE)) != 0,
	    .seal = (command->given & (1u << OPTION_SEAL)) != 0,
	};

	session->request = admin_prepare_swap(session->proxy->admin, command->database,
	                                      command->server, &options, execute_done, session);
}

static void execute_shutdown(struct session *session)
{
	const unsigned given = session->command.given;
	struct admin *admin = session->proxy->admin;
	const bool immediate = (given & (1u << OPTION_IMMEDIATE)) != 0 ||
	                       (given == 0 && session->proxy->config->proxy.as_pgbouncer);

	if ((given & (1u << OPTION_WAIT_FOR_CLIENTS)) != 0)
		session->request = admin_shutdown_later(admin, execute_done, session);
	else
		session->request = admin_shutdown(admin, immediate, execute_done, session);
}

/* Names are taken as written, as pgbouncer takes them; where nothing has that name and none was
 * quoted, SQL's habit of folding helps out.  Never the other way round. */
static void fold_names(struct session *session)
{
	struct command *command = &session->command;
	const struct config *config = session->proxy->config;
	char name[LEX_TEXT_MAX + 1];

	memcpy(name, command->database, sizeof(name));
	if (command->database_plain && lex_fold(name) &&
	    !admin_has_database(session->proxy->admin, command->database) &&
	    admin_has_database(session->proxy->admin, name))
		memcpy(command->database, name, sizeof(name));
	memcpy(name, command->server, sizeof(name));
	if (command->server_plain && lex_fold(name) &&
	    config_find_server(config, command->server) == NULL &&
	    config_find_server(config, name) != NULL)
		memcpy(command->server, name, sizeof(name));
}

void session_execute(struct session *session)
{
	const struct command *command = &session->command;
	struct admin *admin = session->proxy->admin;

	if (!allowed(session)) {
		deny(session);
		return;
	}
	fold_names(session);
	if (command_info(command->id)->access == COMMAND_FOR_ADMIN)
		log_info("console: %s%s%s%s%s by user \"%s\" from %s",
		         command_info(command->id)->words, command->database[0] == '\0' ? "" : " ",
		         command->database, command->server[0] == '\0' ? "" : " TO ",
		         command->server, session->user,
		         endpoint_text(session->peer.addr, session->peer.port).text);
	switch (command->id) {
	case COMMAND_HOLD:
		execute_hold(session);
		break;
	case COMMAND_RENEW:
		session->request = admin_renew(admin, command->database, command->epoch,
		                               command->lease, execute_done, session);
		break;
	case COMMAND_PREPARE_SWAP:
		execute_prepare(session);
		break;
	case COMMAND_SEAL:
		session->request =
		    admin_seal(admin, command->database, command->epoch, execute_done, session);
		break;
	case COMMAND_CANCEL_SWAP:
		session->request =
		    admin_cancel_swap(admin, command->database, execute_done, session);
		break;
	case COMMAND_SWAP:
		execute_swap(session);
		break;
	case COMMAND_RELEASE:
		session->request = admin_release(admin, command->database, command->epoch,
		                                 (command->given & (1u << OPTION_SESSIONS)) != 0,
		                                 execute_done, session);
		break;
	case COMMAND_SHOW:
		execute_show(session);
		break;
	case COMMAND_RELOAD:
		session->request = admin_reload(admin, execute_done, session);
		break;
	case COMMAND_SHUTDOWN:
		execute_shutdown(session);
		break;
	case COMMAND_PAUSE:
	case COMMAND_RESUME:
	case COMMAND_RECONNECT:
	case COMMAND_WAIT_CLOSE:
	case COMMAND_KILL:
		execute_pools(session);
		break;
	case COMMAND_KILL_CLIENT:
		session->request =
		    admin_kill_client(admin, command->number, execute_done, session);
		break;
	case COMMAND_ENABLE:
	case COMMAND_DISABLE:
		session->request =
		    admin_enable(admin, command->database, command->id == COMMAND_ENABLE,
		                 execute_done, session);
		break;
	case COMMAND_SUSPEND:
		session_attach(session, "");
		session->request = admin_suspend(admin, execute_done, session);
		break;
	case COMMAND_SET:
		execute_set(session);
		break;
	case COMMAND_SELECT:
		execute_value(session);
		break;
	case COMMAND_DISCARD_ALL:
	case COMMAND_DEALLOCATE:
		session_deallocate(session, command->statement);
		session_finish(session, NULL, NULL);
		break;
	case COMMAND_BEGIN:
	case COMMAND_START_TRANSACTION:
		session->in_block = true;
		session_finish(session, NULL, NULL);
		break;
	case COMMAND_COMMIT:
	case COMMAND_END:
	case COMMAND_ROLLBACK:
	case COMMAND_ABORT:
		session->in_block = false;
		session_finish(session, NULL, NULL);
		break;
	default:
		/* What drivers send by themselves changes nothing here. */
		session_finish(session, NULL, NULL);
		break;
	}
}
