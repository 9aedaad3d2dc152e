/* SPDX-License-Identifier: PostgreSQL */
/*
 * Protocol-level prepared statements in transaction pooling: the client's names become names that
 * depend on the text only (session/stmts.h), and a server that lacks a statement is given it first.
 *
 *   client sends             server has it          server lacks it
 *   Parse  s1 "select 1"     -                      Parse  pgshunt_<digest> "select 1"
 *                            answer is given by us
 *   Bind   p s1              Bind p pgshunt_…       Parse pgshunt_…; Bind p pgshunt_…
 *   Close  s1                -                      -            (answer is given by us)
 *
 * The unnamed statement keeps its name; a server that has somebody else's is given the client's own
 * again.  Worker thread.
 */
#ifndef CORE_STATEMENT_H
#define CORE_STATEMENT_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "core/client.h"
#include "core/ledger.h"
#include "core/server.h"
#include "wire/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stmt;
struct wire_error;

/* Longest definition of a named statement: it is kept as a whole. */
#define STATEMENT_MAX ((size_t)16 * 1024 * 1024)
/* Longest unnamed statement that is remembered over a Sync. */
#define STATEMENT_UNNAMED_MAX ((size_t)16 * 1024)

enum statement_result {
	STATEMENT_FORWARD, /* send the message as it is (and note its answer) */
	STATEMENT_NOTED,   /* the same, but its answer has been noted */
	STATEMENT_DONE, /* *used bytes were dealt with; the rest of the message is to be streamed */
	STATEMENT_MORE, /* more of the message is needed first */
	STATEMENT_WAIT, /* the answers to earlier requests are needed first */
	STATEMENT_FAILED, /* client or server was doomed */
};

/* Whether the server has the client's unnamed statement, or the Parse of it is on its way.  Each Parse
 * has a number of its own in its worker: one that the client has replaced since, on another server, is
 * as foreign as anybody's. */
static inline bool server_has_unnamed(const struct server *server, const struct client *client)
{
	return client->unnamed_id != 0 && server->unnamed_id == client->unnamed_id;
}

/* Whether a Parse of the unnamed statement, in a batch before this one, may yet turn out to have
 * been skipped: then the server has what somebody else left there. */
static inline bool statement_unnamed_unsure(const struct server *server)
{
	return server->ledger.readies > 0 && !server->ledger.unnamed;
}

/* Whether the message, of which `len` bytes are here, goes on as it is: a Bind of the unnamed
 * statement, which the server has, to the unnamed portal, or a Describe or Close of a portal.  Most
 * are, and no call is spent on them. */
static inline MUST_CHECK bool statement_passes(const struct client *client, struct server *server,
					       const uint8_t *msg, size_t len)
{
	if (msg[0] == FE_PARSE)
		return false;
	if (msg[0] != FE_BIND)
		return len > WIRE_HEADER_LEN && msg[WIRE_HEADER_LEN] != 'S';
	if (len < WIRE_HEADER_LEN + 2 || msg[WIRE_HEADER_LEN] != '\0' || msg[WIRE_HEADER_LEN + 1] != '\0' ||
	    statement_unnamed_unsure(server) || !server_has_unnamed(server, client))
		return false;
	server->resend.unnamed = true;
	return true;
}

/* A Parse, Bind, Describe or Close of the client, of `total` bytes of which `have` are here, that
 * does not pass. */
enum statement_result statement_message(struct client *client, struct server *server, uint8_t *msg,
                                        size_t total, size_t have, size_t *used) MUST_CHECK;

/*
 * A Query that is nothing but DEALLOCATE [PREPARE] name of a statement that this client has
 * prepared by the protocol (psycopg does so): no server knows the name, so the statement is
 * forgotten here. The first tells whether the text is such a one, the second forgets: true: *stmt
 * (a reference) and *name (malloc'ed) are what was forgotten; false: the client has no such
 * statement, or no memory.
 */
bool statement_is_deallocate(const uint8_t *text, size_t len) MUST_CHECK;
bool statement_deallocate(struct client *client, const char *id, struct stmt **stmt, char **name);

/* Where such a command stands in the text of a Query, among others that are plain words. */
struct deallocate {
	size_t begin;
	size_t end;
	char id[64]; /* STMT_CLIENT_NAME_MAX and a zero */
};
bool statement_find_deallocate(const uint8_t *text, size_t len,
                               struct deallocate *where) MUST_CHECK;

/* What was executed before in this batch may be a DEALLOCATE ALL: asks the server for the answers,
 * which it would keep until Sync.  STATEMENT_WAIT or STATEMENT_FAILED. */
enum statement_result statement_flush_first(struct server *server) MUST_CHECK;

/* Sends the Query whose statement the client has lost by statement_deallocate(), with the server's name
 * for it, and takes both over: the server, which alone knows whether all is skipped after an error,
 * runs it. */
bool statement_deallocate_there(struct client *client, struct server *server, struct stmt *stmt,
                                char *name, const uint8_t *query, size_t query_len,
                                const struct deallocate *where) MUST_CHECK;

/* Notes a message that ends the client's unnamed statement (a Query, a Parse or Close of it) in the
 * ledger.  From then on the client's is `stmt`, or none.  False: the client was doomed; what the
 * entry holds was released. */
bool statement_set_unnamed(struct client *client, struct server *server, struct ledger_entry entry,
                           struct stmt *stmt) MUST_CHECK;

/* The entry at the head of the ledger, a Parse whose name the client has already, is answered with
 * ParseComplete: a function has deallocated what had the name, unseen, and the name is the new
 * one's. False: that is no such answer, or there is no memory. */
bool statement_prepared_anew(struct client *client, struct server *server) MUST_CHECK;

/* What a client without a server is answered then.  Static. */
const void *statement_deallocated(size_t *len);

/* The message with which the proxy itself settles a GIVES_… entry; NULL, 0 for ENDS_STMT, which is
 * settled silently.  Static. */
const void *statement_given(uint8_t op, size_t *len);

/* DISCARD ALL or DEALLOCATE ALL was run for this client (NULL: by the proxy): forgets what there
 * was before it, not what was sent behind it. */
void statement_all_gone(struct client *client, struct server *server);

/* The `count` oldest entries of the ledger are about to be dropped, because the first has failed
 * (`failed`), so that the others were skipped, or because none was carried out: what was believed
 * of them is believed no more. */
void statement_undo(struct client *client, struct server *server, uint32_t count, bool failed);

/* The same for what one entry did to named statements. */
void statement_undo_named(struct client *client, struct server *server, struct ledger_entry *entry);

/* The client's command SET or RESET is done (`by_command`), or a setting on which the meaning of texts
 * depends has another value for it.  Statements that were sent before that was known are kept from
 * other clients, and so is what it prepares in this transaction, if servers do not report what it has
 * set. */
void statement_settings_changed(struct client *client, struct server *server, bool by_command);

/* A command is done after which statements may return other columns: what is prepared from now on, and
 * after its commit, are statements of another generation (see statement_outdated()). */
void statement_altered(struct server *server);

/* ReadyForQuery. */
void statement_at_ready(struct server *server);

/* An error of the server's that names a statement by the name that it has there: the same as a whole
 * message with the client's name, in `out`.  False: it is no such error.  (That a statement is not
 * there, as after a DEALLOCATE inside a function, is noted.) */
bool statement_name_error(struct client *client, struct server *server,
                          const struct wire_error *error, const uint8_t *body, size_t len,
                          struct sbuf *out) MUST_CHECK;

/*
 * The first entry of the ledger has failed with this error.  If a table was altered and the statement
 * would return other columns, or the type of a parameter was dropped, and perhaps made again (which
 * PostgreSQL refuses for the life of a prepared statement), a client that now prepares it again means
 * a new one, but would be given the old one under the same name.
 * From now on what clients of the database prepare are statements of another generation, with names
 * of their own; those who keep theirs get the error again, as from PostgreSQL.
 */
void statement_outdated(struct server *server, const struct wire_error *error);

#endif
