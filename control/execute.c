/* SPDX-License-Identifier: PostgreSQL */
#include "base/log.h"
#include "control/session.h"
#include "core/proxy.h"

#include <stdio.h>
#include <string.h>

static void execute_done(void *arg, struct admin_answer *answer)
{
	struct session *session = arg;

	session_answered(session, answer);
}

static void deny(struct session *session)
{
	struct admin_error error = {.sqlstate = "42501"};

	(void)snprintf(error.message, sizeof(error.message), "permission denied");
	(void)snprintf(error.detail, sizeof(error.detail),
	               "User \"%s\" is a stats user, who may only look.", session->user);
	(void)snprintf(error.hint, sizeof(error.hint),
	               "The setting admin_users names those who may do everything.");
	session_error(session, &error, 0);
}

static bool allowed(const struct session *session)
{
	const struct command *command = &session->command;

	if (config_is_admin(session->proxy->config, session->user))
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
		    command->database[0] == '\0' ? NULL : command->database, execute_done, session);
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

void session_execute(struct session *session)
{
	const struct command *command = &session->command;
	struct admin *admin = session->proxy->admin;

	if (!allowed(session)) {
		deny(session);
		return;
	}
	if (command_info(command->id)->access == COMMAND_FOR_ADMIN)
		log_info("console: %s%s%s%s%s by user \"%s\" from %s",
		         command_info(command->id)->words, command->database[0] == '\0' ? "" : " ",
		         command->database, command->server[0] == '\0' ? "" : " TO ",
		         command->server, session->user, session->peer);
	switch (command->id) {
	case COMMAND_HOLD:
		execute_hold(session);
		break;
	case COMMAND_RENEW:
		session->request = admin_renew(admin, command->database, command->epoch,
		                               command->lease, execute_done, session);
		break;
	case COMMAND_PREPARE_SWAP:
		session->request = admin_prepare_swap(admin, command->database, command->server,
		                                      command->epoch, execute_done, session);
		break;
	case COMMAND_CANCEL_SWAP:
		session->request =
		    admin_cancel_swap(admin, command->database, execute_done, session);
		break;
	case COMMAND_SWAP:
		session->request =
		    admin_swap(admin, command->database, command->server, command->epoch,
		               (command->given & (1u << OPTION_FORCE)) != 0, execute_done, session);
		break;
	case COMMAND_RELEASE:
		session->request =
		    admin_release(admin, command->database, command->epoch, execute_done, session);
		break;
	case COMMAND_SHOW:
		execute_show(session);
		break;
	case COMMAND_RELOAD:
		session->request = admin_reload(admin, execute_done, session);
		break;
	case COMMAND_SHUTDOWN:
		session->request = admin_shutdown(
		    admin, (command->given & (1u << OPTION_IMMEDIATE)) != 0, execute_done, session);
		break;
	case COMMAND_SELECT:
		execute_value(session);
		break;
	case COMMAND_DISCARD_ALL:
	case COMMAND_DEALLOCATE:
		session_deallocate(session, command->statement);
		session_finish(session, NULL, NULL);
		break;
	default:
		/* What drivers send by themselves changes nothing here. */
		session_finish(session, NULL, NULL);
		break;
	}
}
