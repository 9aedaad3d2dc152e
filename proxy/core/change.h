/* SPDX-License-Identifier: PostgreSQL */
/*
 * Transaction pooling: whose a change of a reported parameter is that shows while a client has a
 * server.  Its own, by a command or in a function: then it keeps the value on whatever server it
 * gets. Or the server's, by a reload of its configuration: then those have it who have not asked
 * for another, at their start or later.
 *
 *   SET, RESET --change_by_command()--> what the text says, or "the text does not tell"
 *   ParameterStatus --change_begin(), and the client has the value
 *   ReadyForQuery, 'I' --change_at_ready()--> what is committed is the client's; what no text
 *     explains is to be asked for
 *   before its release --change_ask()--> which parameters are SET in the server's session; its
 *     client stays with it, and what that sends waits
 *   the answer --change_answered()--> known
 *   none, as the server ends or somebody cancels it --change_unanswered()--> in doubt
 *
 * Asked is only of a value that is news, so once for a client that has functions set it, and once
 * for a reload.  A function that SETs what is so already shows in nothing: it is found out when a
 * connection is asked for another reason, or RESET after a reload.
 *
 * Worker thread of the server.  Never for a client of a session pool.
 */
#ifndef CORE_CHANGE_H
#define CORE_CHANGE_H

#include "base/compiler.h"
#include "session/sql_set.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client;
struct param_set;
struct server;

/* Of one server. */
struct change {
	struct param_set *before;    /* the client's, before this transaction changed them; NULL: it
	                                has not */
	struct sql_settings by_text; /* what commands of this transaction have done */
	struct sql_settings committed; /* … and those of it that are committed already */
	bool unclear;                  /* … or a command of which no text is known */
	bool rolled_back;              /* the last that has happened to it */
	bool asking;                   /* what is SET in its session */
	struct param_set *known; /* the client's before what is to be judged; NULL: nothing is */
	/* param_bit(): */
	uint16_t own;        /* are the server's own values */
	uint16_t wonders;    /* to be asked for; before that */
	uint16_t had_set;    /* … these may have been SET on it, and */
	uint16_t had_chosen; /* … these the client had asked for */
	uint16_t in_session; /* the answer */
};

/* Of a client whose server was asked, and has not answered. */
struct change_doubt {
	struct param_set *known; /* as in struct change */
	uint16_t bits;           /* … of those which have changed since */
	uint16_t had_set;
	uint16_t had_chosen;
};

/* The client's parameters are about to change, perhaps for its transaction only. */
void change_begin(struct server *server);

/* The text of the client's command that is done, as far as it is known; not *certain: perhaps only
 * its beginning, or that of another. */
const char *change_text(const struct client *client, struct server *server, bool *certain);

/* SET or RESET is done. */
void change_by_command(struct server *server);

/* DISCARD ALL is done. */
void change_by_discard(struct server *server);

/* COMMIT is done; ROLLBACK, of all or to a savepoint; or an error has come. */
void change_committed(struct server *server);
void change_rolled_back(struct server *server);

/* No transaction is open; change_begin() has been called since the last time. */
void change_at_ready(struct server *server);

/* It loses its client. */
void change_forget(struct server *server);

/* At its safe point, with its client: true if it is being asked. */
bool change_ask(struct server *server) MUST_CHECK;

/*
 * No answer comes, or none that the client waits for: it is found out on the next server that it
 * gets, before its request.  There what is in doubt is RESET.
 *
 * change_settle_doubt(): that is done; the client has chosen, or has what it had before.  What
 * differs then is to be set.
 */
void change_unanswered(struct server *server);
void change_settle_doubt(struct server *server);
void change_end_doubt(struct client *client);

/* Its client does not wait for the answer, and has no server then. */
void change_go_on_alone(struct server *server);

/* The body of a row of the answer. */
void change_take_row(struct server *server, const uint8_t *body, size_t len);

/* All of the answer is here.  The client may have left. */
void change_answered(struct server *server);

#endif
