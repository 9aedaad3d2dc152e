/* SPDX-License-Identifier: PostgreSQL */
/*
 * What a server still owes: one entry for every message that was sent to it and gets an answer, in
 * order, and entries for answers that the proxy gives itself or keeps to itself.
 *
 * It knows the rules of the protocol for what is answered and what is not (PostgreSQL documentation
 * 55.2.3 and 55.2.6; tcop/postgres.c, PostgresMain and copyfromparse.c, CopyGetData): after an
 * error in the extended protocol all is skipped up to Sync; Sync and Flush sent while the server
 * reads COPY data are ignored.
 *
 * From it follows the safe point of a client (ledger_quiet()).  No I/O; belongs to one server.
 */
#ifndef CORE_LEDGER_H
#define CORE_LEDGER_H

#include "base/compiler.h"
#include "wire/message.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stmt;

enum ledger_op {
	OWES_PARSE = 1,    /* ParseComplete */
	OWES_BIND,         /* BindComplete */
	OWES_CLOSE,        /* CloseComplete */
	OWES_DESCRIBE,     /* RowDescription or NoData */
	OWES_EXECUTE,      /* CommandComplete, EmptyQueryResponse or PortalSuspended */
	OWES_SYNC,         /* ReadyForQuery */
	OWES_QUERY,        /* results, ReadyForQuery */
	OWES_FUNCTION,     /* FunctionCallResponse, ReadyForQuery */
	OWES_DEALLOCATE,   /* as a Query: the client's DEALLOCATE of one of its statements, by the
	                      server's name for it */
	OWES_HIDDEN_PARSE, /* ParseComplete that the client must not see */
	OWES_HIDDEN_CLOSE, /* CloseComplete that the client must not see */
	OWES_HIDDEN_QUERY, /* all answers up to ReadyForQuery are for the proxy */
	OWES_MARK,    /* ReadyForQuery for each Sync that came behind the error of a COPY and for one
	                 more, CloseComplete: see reply_mark() */
	OWES_REFUSAL, /* an error; if it has the SQLSTATE at the beginning of `name`, the client
	                 gets another in its place: the SQLSTATE and message behind it; of a Parse
	                 by a name that `unnamed` has, `stmt` is what it would be */
	GIVES_PARSE,  /* the proxy answers ParseComplete itself */
	GIVES_CLOSE,  /* the proxy answers CloseComplete itself */
	ENDS_STMT,    /* nothing: a DEALLOCATE as OWES_DEALLOCATE, but in the extended protocol,
	                 before it */
};

struct ledger_entry {
	struct stmt *stmt; /* Parse and Close of statements: a reference, or NULL */
	char *name;        /* the client's name for it if it is to be undone on error ("": nothing
	                      is); of a hidden Close the digest of what is closed; malloc'ed */
	struct stmt *unnamed; /* sets_unnamed: the client's unnamed statement before, a reference,
	                         or NULL */
	uint8_t op;
	bool sets_unnamed; /* a Parse or Close of the client's unnamed statement; Queries, which end
	                      it, need no flag */
	bool had_unnamed;  /* … which the server had before */
	bool gone;         /* of what it ends there was nothing left */
	bool plain; /* Execute: of the unnamed portal, of what is the unnamed statement; Sync:
	               the last Execute before it was so */
	uint32_t generation; /* Bind and Describe of a named statement: the statement's; OWES_MARK:
	                        how many ReadyForQuery have come */
};

/* Most entries: a client that pipelines more is not read from until answers come. */
#define LEDGER_MAX 16384u

struct ledger {
	struct ledger_entry *ring; /* capacity a power of two; NULL until the first entry */
	uint32_t head;
	uint32_t count;
	uint32_t cap;
	uint32_t readies;  /* ReadyForQuery messages owed */
	uint32_t executes; /* of OWES_EXECUTE: each may be a DEALLOCATE ALL */
	uint32_t namings;  /* entries that decide which prepared statements there are */
	uint32_t syncs;    /* sent among COPY data: ignored, unless the COPY has failed before */
	uint32_t refusals; /* of OWES_REFUSAL: names may mean something else by its answer */
	uint32_t changes;  /* entries that change which prepared statements the server has */
	bool open;         /* extended messages since the last Sync: an implicit transaction */
	bool unnamed;      /* … the client's unnamed statement among them */
	bool plain;        /* the unnamed portal was bound to what is the unnamed statement still */
	bool ran_plain;    /* … and was executed last */
	bool skipping;     /* after an error: the server reads up to Sync */
	bool copy_in;      /* the server reads COPY data */
	bool mark_due;     /* OWES_MARK is there, what it is owed for is still to be sent */
	bool flushed;      /* a Flush of the proxy's own is the last that was sent */
};

void ledger_free(struct ledger *ledger);

/* Whether the proxy settles such an entry itself when its turn comes. */
static inline bool ledger_is_given(uint8_t op)
{
	return op >= GIVES_PARSE && op <= ENDS_STMT;
}

static inline bool ledger_full(const struct ledger *ledger)
{
	return ledger->count >= LEDGER_MAX;
}

/* Nothing is owed, nothing is open: with status 'I', the safe point. */
static inline bool ledger_quiet(const struct ledger *ledger)
{
	return ledger->count == 0 && !ledger->open && !ledger->skipping && !ledger->copy_in;
}

#define LEDGER_BIT(op) (1u << (op))
/* Of which ReadyForQuery is owed. */
#define LEDGER_READIES                                                                             \
	(LEDGER_BIT(OWES_SYNC) | LEDGER_BIT(OWES_QUERY) | LEDGER_BIT(OWES_FUNCTION) |              \
	 LEDGER_BIT(OWES_DEALLOCATE) | LEDGER_BIT(OWES_HIDDEN_QUERY) | LEDGER_BIT(OWES_MARK))
/* That tell which statements the server has, once they are settled. */
#define LEDGER_CHANGES                                                                             \
	(LEDGER_BIT(OWES_HIDDEN_PARSE) | LEDGER_BIT(OWES_HIDDEN_CLOSE) |                           \
	 LEDGER_BIT(OWES_DEALLOCATE) | LEDGER_BIT(ENDS_STMT))

/* What an entry that holds nothing counts as. */
static inline void ledger_count_op(struct ledger *ledger, uint8_t op, uint32_t change)
{
	if ((LEDGER_BIT(op) & LEDGER_READIES) != 0) {
		ledger->readies += change;
		if (op == OWES_QUERY)
			ledger->namings += change;
	} else if (op == OWES_EXECUTE) {
		ledger->executes += change;
	}
	if (UNLIKELY((LEDGER_BIT(op) & LEDGER_CHANGES) != 0))
		ledger->changes += change;
}

/* Adds an entry at the end; takes over stmt (a reference) and name.  False: no memory, both were
 * released. */
bool ledger_push(struct ledger *ledger, enum ledger_op op, struct stmt *stmt,
                 char *name) MUST_CHECK;

/* The same for a Bind or Describe of a named statement of this generation. */
bool ledger_push_use(struct ledger *ledger, enum ledger_op op, uint32_t generation) MUST_CHECK;

/* The same for an entry with everything. */
bool ledger_add(struct ledger *ledger, struct ledger_entry entry) MUST_CHECK;

/* The same for an entry that holds nothing, as most do. */
static inline MUST_CHECK bool ledger_owe(struct ledger *ledger, enum ledger_op op)
{
	struct ledger_entry *entry;

	if (UNLIKELY(ledger->count == ledger->cap))
		return ledger_push(ledger, op, NULL, NULL);
	entry = &ledger->ring[(ledger->head + ledger->count) & (ledger->cap - 1)];
	*entry = (struct ledger_entry){.op = (uint8_t)op};
	ledger->count++;
	ledger_count_op(ledger, (uint8_t)op, 1);
	return true;
}

/* A message of the extended protocol, of which at least the header is here, is sent: what the next
 * Execute is of. */
static inline void ledger_note_portal(struct ledger *ledger, const uint8_t *msg, size_t have)
{
	const bool nameless = have > WIRE_HEADER_LEN && msg[WIRE_HEADER_LEN] == '\0';

	if (msg[0] == FE_BIND) {
		/* A named portal leaves the other as it is. */
		if (nameless || have == WIRE_HEADER_LEN)
			ledger->plain =
			    have > WIRE_HEADER_LEN + 1 && msg[WIRE_HEADER_LEN + 1] == '\0';
	} else if (msg[0] == FE_EXECUTE) {
		ledger->ran_plain = ledger->plain && nameless;
	} else if (msg[0] == FE_PARSE || msg[0] == FE_CLOSE) {
		ledger->plain = false;
		ledger->ran_plain = false;
	}
}

/* The oldest entry, NULL if there is none. */
static inline struct ledger_entry *ledger_head(struct ledger *ledger)
{
	return ledger->count == 0 ? NULL : &ledger->ring[ledger->head];
}

/* Whether the oldest entry is one that the proxy settles itself. */
static inline bool ledger_gives_next(const struct ledger *ledger)
{
	return ledger->count > 0 && ledger_is_given(ledger->ring[ledger->head].op);
}

/* The i-th oldest entry, i < count. */
static inline struct ledger_entry *ledger_at(const struct ledger *ledger, uint32_t i)
{
	return &ledger->ring[(ledger->head + i) & (ledger->cap - 1)];
}

/* Whether it ends the client's unnamed statement, or puts another in its place. */
static inline bool ledger_sets_unnamed(const struct ledger_entry *entry)
{
	return entry->op == OWES_QUERY || entry->op == OWES_DEALLOCATE || entry->sets_unnamed;
}

/* Whether it is a Parse or Close of the proxy's own by which the server gets the client's unnamed
 * statement, or loses that of somebody else. */
static inline bool ledger_brings_unnamed(const struct ledger_entry *entry)
{
	return (entry->op == OWES_HIDDEN_PARSE || entry->op == OWES_HIDDEN_CLOSE) &&
	       entry->stmt == NULL && entry->name == NULL;
}

/* Counts an entry out, and releases what it holds. */
void ledger_let_go(struct ledger *ledger, struct ledger_entry *entry);

/* Drops the oldest entry and what it holds. */
static inline void ledger_pop(struct ledger *ledger)
{
	struct ledger_entry *entry = ledger_head(ledger);

	assert(entry != NULL);
	if (UNLIKELY(entry->stmt != NULL || entry->name != NULL || entry->unnamed != NULL))
		ledger_let_go(ledger, entry);
	else
		ledger_count_op(ledger, entry->op, (uint32_t)-1);
	ledger->count--;
	/* An empty one begins anew at its first entries, which the caches have. */
	ledger->head = ledger->count == 0 ? 0 : (ledger->head + 1) & (ledger->cap - 1);
}

/* The DEALLOCATE at the head has failed: a Query from now on, of which ReadyForQuery is owed. */
void ledger_deallocate_failed(struct ledger *ledger);

/* Whether nothing is owed but what the proxy gives itself. */
bool ledger_gives_only(const struct ledger *ledger);

/* The server began to read COPY data: the Syncs sent right behind the Execute are ignored by it. */
void ledger_copy_in(struct ledger *ledger);

#endif
