/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the console understands: the commands of commands.def and their parser.  No state, no I/O;
 * any thread.
 */
#ifndef CONTROL_COMMAND_H
#define CONTROL_COMMAND_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/sbuf.h"
#include "control/lex.h"
#include "core/view.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum command_id {
#define COMMAND(id, words, access, operands, options, required, help) COMMAND_##id,
#define QUIET(id, words, operands, tag) COMMAND_##id,
#include "control/commands.def"
	COMMAND_COUNT
};

enum command_option {
#define OPTION(id, word, value, grammar) OPTION_##id,
#include "control/commands.def"
	OPTION_COUNT
};

enum command_function {
	FUNCTION_NONE, /* SELECT of a number */
#define FUNCTION(id, name) FUNCTION_##id,
#include "control/commands.def"
};

enum command_access { COMMAND_FOR_ADMIN, COMMAND_FOR_STATS };

enum command_operands {
	OPERANDS_NONE,
	OPERANDS_DATABASE,
	OPERANDS_DATABASE_TO_SERVER,
	OPERANDS_VIEW,
	OPERANDS_DATABASES,
	OPERANDS_NUMBER,
	OPERANDS_ASSIGN,
	OPERANDS_REST,
	OPERANDS_SELECT,
	OPERANDS_STATEMENT
};

struct command_info {
	const char *words;
	const char *tag; /* of CommandComplete */
	enum command_access access;
	enum command_operands operands;
	unsigned options;  /* bits 1 << OPTION_… */
	unsigned required; /* bits */
	const char *help;  /* NULL: not in HELP */
};

/* One parsed command.  Values that were not given are as admin.h wants them. */
struct command {
	enum command_id id;
	unsigned given;                  /* bits 1 << OPTION_… */
	char database[LEX_TEXT_MAX + 1]; /* "" when there is none */
	char server[LEX_TEXT_MAX + 1];
	bool database_plain; /* without quotes, so that one in lower case may be meant */
	bool server_plain;
	char value_text[1024];            /* of SET; `server` is the name; "" there: nothing of ours */
	char statement[LEX_TEXT_MAX + 1]; /* of DEALLOCATE; \"\": all */
	uint64_t epoch;
	usec_t lease;
	usec_t drain;
	int policy;
	enum view view;        /* of SHOW; VIEW_COUNT: a parameter */
	const char *parameter; /* of SHOW: its name and value */
	const char *value;
	enum command_function function; /* of SELECT */
	int64_t number;                 /* of SELECT and KILL_CLIENT; -1: no number */
};

/* Always SQLSTATE 42601. */
struct command_error {
	bool ours; /* the command is one that pgbouncer does not have */
	uint32_t position; /* in characters of the whole text, from 1 */
	char message[LEX_TEXT_MAX + 64];
	char detail[512]; /* what is expected */
	char hint[512];   /* the grammar of the command, "" when it is not known which */
};

enum command_result { COMMAND_PARSED, COMMAND_NO_MORE, COMMAND_BAD };

const struct command_info *command_info(enum command_id id);

/* Whether pgbouncer has the command, so that programs know its errors. */
bool command_of_pgbouncer(enum command_id id);

/* "HOLD database [EPOCH n] …" */
void command_grammar(enum command_id id, struct sbuf *out);

/* The name of the column of SELECT. */
const char *command_function_name(enum command_function function);

/* The i-th parameter that is told at login; NULL after the last. */
const char *command_parameter(size_t i, const char **value);

/* Reads one statement at `*offset` and moves on behind its semicolon.  COMMAND_NO_MORE: only
 * blanks, comments and semicolons are left. */
enum command_result command_parse(const char *source, size_t len, size_t *offset,
                                  struct command *command, struct command_error *error) MUST_CHECK;

#endif
