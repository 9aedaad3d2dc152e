/* SPDX-License-Identifier: PostgreSQL */
#include "control/command.h"

#include "conf/config.h"
#include "core/admin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BIT(option) (1u << OPTION_##option)

static const struct command_info infos[] = {
#define COMMAND(id, words, access, operands, options, required, help)                              \
	[COMMAND_##id] = {words,    words, COMMAND_FOR_##access, OPERANDS_##operands, options,     \
	                  required, help},
#define QUIET(id, words, operands, tag)                                                            \
	[COMMAND_##id] = {words, tag, COMMAND_FOR_STATS, OPERANDS_##operands, 0, 0, NULL},
#include "control/commands.def"
};

enum option_value { VALUE_FLAG, VALUE_NUMBER, VALUE_LEASE, VALUE_DURATION, VALUE_POLICY };

static const struct {
	const char *word;
	enum option_value value;
	const char *grammar;
} options[] = {
#define OPTION(id, word, value, grammar) [OPTION_##id] = {word, VALUE_##value, grammar},
#include "control/commands.def"
};

static const char *const functions[] = {
    [FUNCTION_NONE] = "?column?",
#define FUNCTION(id, name) [FUNCTION_##id] = name,
#include "control/commands.def"
};

static const struct {
	const char *name;
	const char *value;
	bool reported;
} parameters[] = {
#define PARAMETER(name, value, reported) {name, value, reported},
#include "control/commands.def"
};

struct parser {
	const char *source;
	size_t len;
	size_t offset; /* behind `token` */
	struct lex_token token;
	struct command *command;
	struct command_error *error;
	bool known; /* command->id says which command it is */
};

const struct command_info *command_info(enum command_id id)
{
	return &infos[id];
}

bool command_of_pgbouncer(enum command_id id)
{
	static const char *const theirs[] = {
	    "SHOW",
#define PGBOUNCER_COMMAND(words, ours, note) words,
#include "conf/pgbouncer.def"
	};

	for (size_t i = 0; i < ARRAY_LEN(theirs); i++)
		if (strcmp(infos[id].words, theirs[i]) == 0)
			return true;
	return false;
}

const char *command_function_name(enum command_function function)
{
	return functions[function];
}

const char *command_parameter(size_t i, const char **value)
{
	for (size_t at = 0; at < ARRAY_LEN(parameters); at++) {
		if (parameters[at].reported && i-- == 0) {
			*value = parameters[at].value;
			return parameters[at].name;
		}
	}
	return NULL;
}

void command_grammar(enum command_id id, struct sbuf *out)
{
	const struct command_info *info = &infos[id];

	sbuf_add_str(out, info->words);
	if (info->operands == OPERANDS_DATABASE)
		sbuf_add_str(out, " database");
	else if (info->operands == OPERANDS_DATABASE_TO_SERVER)
		sbuf_add_str(out, " database TO server");
	else if (info->operands == OPERANDS_DATABASES)
		sbuf_add_str(out, " [database]");
	else if (info->operands == OPERANDS_NUMBER)
		sbuf_add_str(out, " id");
	else if (info->operands == OPERANDS_ASSIGN)
		sbuf_add_str(out, " setting = value");
	else if (info->operands == OPERANDS_VIEW)
		sbuf_add_str(out, " view");
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if ((info->options & (1u << i)) == 0)
			continue;
		sbuf_printf(out, (info->required & (1u << i)) != 0 ? " %s" : " [%s]",
		            options[i].grammar);
	}
}

static void advance(struct parser *parser)
{
	lex_next(parser->source, parser->len, parser->offset, &parser->token);
	parser->offset = parser->token.end;
}

static bool at_end(const struct parser *parser)
{
	return parser->token.kind == LEX_END || parser->token.kind == LEX_SEMI;
}

static bool at_word(const struct parser *parser, const char *word)
{
	return parser->token.kind == LEX_WORD && strcasecmp(parser->token.text, word) == 0;
}

/* Fills in the error at the current token; `expected` completes "Expected …". */
static enum command_result fail(struct parser *parser, const char *expected)
{
	struct command_error *error = parser->error;
	const struct lex_token *token = &parser->token;
	struct sbuf grammar;

	error->position = lex_position(parser->source, parser->len, token->start);
	if (token->kind == LEX_END || token->kind == LEX_SEMI)
		(void)snprintf(error->message, sizeof(error->message), "syntax error at end of %s",
		               token->kind == LEX_END ? "input" : "command");
	else if (token->kind == LEX_BAD)
		(void)snprintf(error->message, sizeof(error->message), "%s", token->bad);
	else
		(void)snprintf(error->message, sizeof(error->message),
		               "syntax error at or near \"%s\"", token->text);
	(void)snprintf(error->detail, sizeof(error->detail), "Expected %s.", expected);
	error->hint[0] = '\0';
	error->ours = parser->known && !command_of_pgbouncer(parser->command->id);
	if (parser->known) {
		sbuf_init(&grammar, sizeof(error->hint));
		command_grammar(parser->command->id, &grammar);
		(void)snprintf(error->hint, sizeof(error->hint), "The command is: %s",
		               sbuf_text(&grammar));
		sbuf_free(&grammar);
	} else {
		(void)snprintf(error->hint, sizeof(error->hint), "SHOW HELP lists all commands.");
	}
	return COMMAND_BAD;
}

/* "HOLD, RENEW, … or SHUTDOWN" */
static enum command_result fail_command(struct parser *parser)
{
	char expected[800] = "one of";
	size_t used = strlen(expected);

	for (size_t i = 0; i < COMMAND_COUNT; i++) {
		if (infos[i].help == NULL)
			continue;
		used += (size_t)snprintf(expected + used, sizeof(expected) - used, "%s %s",
		                         i == 0 ? "" : ",", infos[i].words);
	}
	return fail(parser, expected);
}

/* A name, as pgbouncer takes it: any word, as it is written, or anything in quotes. */
static enum command_result read_name(struct parser *parser, const char *expected, char *out,
                                     bool *plain)
{
	const struct lex_token *token = &parser->token;

	*plain = token->kind == LEX_WORD ||
	         (token->kind == LEX_NUMBER && strchr(token->text, '.') == NULL);
	if (!*plain && token->kind != LEX_NAME &&
	    (token->kind != LEX_STRING || token->text[0] == '\0'))
		return fail(parser, expected);
	memcpy(out, token->text, sizeof(token->text));
	advance(parser);
	return COMMAND_PARSED;
}

static bool read_duration(const struct lex_token *token, usec_t *value)
{
	char text[LEX_TEXT_MAX + 1];

	memcpy(text, token->text, sizeof(text));
	if (token->kind == LEX_NUMBER)
		(void)lex_fold(text);
	return (token->kind == LEX_NUMBER || token->kind == LEX_STRING) &&
	       config_parse_duration(text, value) && *value >= 0;
}

static bool read_number(const struct lex_token *token, uint64_t *value)
{
	char *end;

	if (token->kind != LEX_NUMBER)
		return false;
	errno = 0;
	*value = strtoull(token->text, &end, 10);
	/* The upper bound keeps the number within int8, as which it is shown. */
	return errno == 0 && *end == '\0' && *value <= INT64_MAX;
}

static enum command_result read_policy(struct parser *parser)
{
	enum config_drain_policy policy;

	if (parser->token.kind == LEX_WORD)
		(void)lex_fold(parser->token.text);
	if ((parser->token.kind != LEX_WORD && parser->token.kind != LEX_STRING) ||
	    !config_drain_policy_parse(parser->token.text, &policy))
		return fail(parser, "abort, cancel or terminate");
	parser->command->policy = (int)policy;
	return COMMAND_PARSED;
}

static enum command_result read_option_value(struct parser *parser, enum command_option option)
{
	struct command *command = parser->command;
	usec_t *duration = option == OPTION_LEASE ? &command->lease : &command->drain;

	switch (options[option].value) {
	case VALUE_FLAG:
		return COMMAND_PARSED;
	case VALUE_NUMBER:
		if (!read_number(&parser->token, &command->epoch) || command->epoch == 0)
			return fail(parser, "a whole number from 1 on");
		break;
	case VALUE_LEASE:
		if (at_word(parser, "none"))
			command->lease = ADMIN_LEASE_NONE;
		else if (!read_duration(&parser->token, duration) || *duration == 0)
			return fail(parser, "a duration such as 10s or 500ms, or NONE");
		break;
	case VALUE_DURATION:
		if (!read_duration(&parser->token, duration))
			return fail(parser, "a duration such as 5s or 500ms");
		break;
	case VALUE_POLICY:
		if (read_policy(parser) != COMMAND_PARSED)
			return COMMAND_BAD;
		break;
	}
	advance(parser);
	return COMMAND_PARSED;
}

/* "EPOCH n, FORCE or the end of the command": what may still come. */
static void options_left(const struct parser *parser, char *out, size_t size)
{
	unsigned left = infos[parser->command->id].options & ~parser->command->given;
	unsigned missing = infos[parser->command->id].required & ~parser->command->given;
	size_t used = 0;

	out[0] = '\0';
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if ((left & (1u << i)) != 0 && used < size)
			used += (size_t)snprintf(out + used, size - used, "%s%s",
			                         used == 0 ? "" : ", ", options[i].grammar);
	}
	if (missing == 0 && used < size)
		(void)snprintf(out + used, size - used, "%sthe end of the command",
		               used == 0 ? "" : " or ");
}

static enum command_result read_options(struct parser *parser)
{
	const struct command_info *info = &infos[parser->command->id];
	char expected[300];

	for (;;) {
		size_t i = 0;

		while (i < OPTION_COUNT && !at_word(parser, options[i].word))
			i++;
		if (i == OPTION_COUNT || (info->options & ~parser->command->given & (1u << i)) == 0)
			break;
		parser->command->given |= 1u << i;
		advance(parser);
		if (read_option_value(parser, (enum command_option)i) != COMMAND_PARSED)
			return COMMAND_BAD;
	}
	if (at_end(parser) && (info->required & ~parser->command->given) == 0)
		return COMMAND_PARSED;
	options_left(parser, expected, sizeof(expected));
	return fail(parser, expected);
}

/* SHOW of a parameter that drivers ask for; TRANSACTION ISOLATION LEVEL is SQL's spelling. */
static bool read_parameter(struct parser *parser)
{
	const char *name = parser->token.text;
	size_t offset = parser->offset;

	if (strcasecmp(name, "transaction") == 0) {
		advance(parser);
		if (at_word(parser, "isolation"))
			advance(parser);
		name = at_word(parser, "level") ? "transaction_isolation" : "";
		if (*name == '\0')
			parser->offset = offset;
	}
	for (size_t i = 0; i < ARRAY_LEN(parameters); i++) {
		if (strcasecmp(name, parameters[i].name) == 0) {
			parser->command->parameter = parameters[i].name;
			parser->command->value = parameters[i].value;
			return true;
		}
	}
	return false;
}

static enum command_result read_view(struct parser *parser)
{
	struct command *command = parser->command;
	char expected[800] = "";
	size_t used = 0;

	if (parser->token.kind == LEX_WORD || parser->token.kind == LEX_NAME) {
		if (view_find(parser->token.text, &command->view)) {
			advance(parser);
			if (view_info(command->view)->argument[0] == '\0' ||
			    (view_info(command->view)->argument[0] == '[' && at_end(parser)))
				return COMMAND_PARSED;
			if (view_info(command->view)->argument[0] == '[' && at_end(parser))
				return COMMAND_PARSED;
			return read_name(parser, "the name of a database", command->database,
			                 &command->database_plain);
		}
		if (read_parameter(parser)) {
			command->view = VIEW_COUNT;
			advance(parser);
			return COMMAND_PARSED;
		}
	}
	for (size_t i = 0; i < VIEW_COUNT; i++) {
		const struct view_info *info = view_info((enum view)i);

		if (info->access != VIEW_FOR_HIDDEN && used < sizeof(expected))
			used += (size_t)snprintf(expected + used, sizeof(expected) - used, "%s%s",
			                         used == 0 ? "one of " : ", ", info->name);
	}
	return fail(parser, expected);
}

/* SELECT of a number or of a function of commands.def. */
static enum command_result read_select(struct parser *parser)
{
	struct command *command = parser->command;
	uint64_t number;

	if (read_number(&parser->token, &number)) {
		command->number = (int64_t)number;
		advance(parser);
		return COMMAND_PARSED;
	}
	if (at_word(parser, "pg_catalog")) {
		advance(parser);
		if (parser->token.text[0] == '.')
			advance(parser);
	}
	for (size_t i = 1; i < ARRAY_LEN(functions); i++) {
		if (!at_word(parser, functions[i]))
			continue;
		command->function = (enum command_function)i;
		advance(parser);
		if (parser->token.kind == LEX_OTHER && parser->token.text[0] == '(') {
			advance(parser);
			if (parser->token.text[0] != ')')
				return fail(parser, ")");
			advance(parser);
		}
		return COMMAND_PARSED;
	}
	return fail(parser, "a number or version(): the console has no tables");
}

/* Whether an option of the command stands here, not a database of that name: it has its value. */
static bool at_option(const struct parser *parser)
{
	struct lex_token next;

	lex_next(parser->source, parser->len, parser->offset, &next);
	for (size_t i = 0; i < OPTION_COUNT; i++)
		if ((infos[parser->command->id].options & (1u << i)) != 0 &&
		    at_word(parser, options[i].word))
			return options[i].value == VALUE_FLAG || next.kind == LEX_NUMBER ||
			       next.kind == LEX_STRING;
	return false;
}

/* SET name = value: the value is a string, or everything up to the end.  SET in other forms, as SET
 * TRANSACTION, is a driver's and changes nothing. */
static enum command_result read_assignment(struct parser *parser)
{
	struct command *command = parser->command;
	const struct lex_token *token = &parser->token;
	char name[LEX_TEXT_MAX + 1];
	size_t start;
	size_t len;

	if (at_word(parser, "session") || at_word(parser, "local"))
		advance(parser);
	(void)snprintf(name, sizeof(name), "%s", token->text);
	if (token->kind != LEX_WORD && token->kind != LEX_NAME)
		return fail(parser, "the name of a setting");
	if (token->kind == LEX_WORD)
		(void)lex_fold(name);
	advance(parser);
	if (at_end(parser))
		return fail(parser, "= and a value");
	if (!at_word(parser, "to") && !(token->kind == LEX_OTHER && token->text[0] == '=')) {
		while (!at_end(parser) && token->kind != LEX_BAD)
			advance(parser);
		return token->kind == LEX_BAD ? fail(parser, "= and a value") : COMMAND_PARSED;
	}
	advance(parser);
	if (at_end(parser) || token->kind == LEX_BAD)
		return fail(parser, "a value");
	start = token->start;
	len = strlen(token->text);
	if (token->kind == LEX_STRING || token->kind == LEX_NAME) {
		memcpy(command->value_text, token->text, len + 1);
		advance(parser);
		if (at_end(parser))
			goto done;
	}
	while (!at_end(parser) && token->kind != LEX_BAD)
		advance(parser);
	len = token->start - start;
	if (token->kind == LEX_BAD || len >= sizeof(command->value_text))
		return fail(parser, "a value of at most 1023 bytes");
	while (len > 0 && strchr(" \t\r\n", parser->source[start + len - 1]) != NULL)
		len--;
	memcpy(command->value_text, parser->source + start, len);
	command->value_text[len] = '\0';
done:
	memcpy(command->server, name, sizeof(name));
	return COMMAND_PARSED;
}

static enum command_result read_operands(struct parser *parser)
{
	struct command *command = parser->command;
	uint64_t number;
	bool plain;

	switch (infos[command->id].operands) {
	case OPERANDS_NONE:
		return COMMAND_PARSED;
	case OPERANDS_DATABASE:
		return read_name(parser, "the name of a database", command->database,
		                 &command->database_plain);
	case OPERANDS_DATABASE_TO_SERVER:
		if (read_name(parser, "the name of a database", command->database,
		              &command->database_plain) != COMMAND_PARSED)
			return COMMAND_BAD;
		if (!at_word(parser, "to"))
			return fail(parser, "TO and the name of a server");
		advance(parser);
		return read_name(parser, "the name of a server", command->server,
		                 &command->server_plain);
	case OPERANDS_VIEW:
		return read_view(parser);
	case OPERANDS_DATABASES:
		if (at_end(parser) || at_option(parser))
			return COMMAND_PARSED;
		return read_name(parser, "the name of a database", command->database,
		                 &command->database_plain);
	case OPERANDS_NUMBER:
		if (at_end(parser))
			return fail(parser, "the id of a client, as in SHOW CLIENTS");
		command->number = read_number(&parser->token, &number) ? (int64_t)number : -1;
		advance(parser);
		return COMMAND_PARSED;
	case OPERANDS_ASSIGN:
		return read_assignment(parser);
	case OPERANDS_REST:
		while (!at_end(parser) && parser->token.kind != LEX_BAD)
			advance(parser);
		return parser->token.kind == LEX_BAD ? fail(parser, "the end of it")
		                                     : COMMAND_PARSED;
	case OPERANDS_SELECT:
		return read_select(parser);
	case OPERANDS_STATEMENT:
		if (at_word(parser, "prepare"))
			advance(parser);
		if (!at_word(parser, "all")) {
			if (read_name(parser, "the name of a statement or ALL", command->statement,
			              &plain) != COMMAND_PARSED)
				return COMMAND_BAD;
			if (plain)
				(void)lex_fold(command->statement); /* SQL's */
			return COMMAND_PARSED;
		}
		advance(parser);
		return COMMAND_PARSED;
	}
	return COMMAND_BAD;
}

/* The command's key words: the first is of one command only, a second may follow it. */
static enum command_result read_words(struct parser *parser)
{
	for (size_t i = 0; i < COMMAND_COUNT; i++) {
		const char *words = infos[i].words;
		size_t first = strcspn(words, " ");

		if (parser->token.kind != LEX_WORD || strlen(parser->token.text) != first ||
		    strncasecmp(parser->token.text, words, first) != 0)
			continue;
		parser->command->id = (enum command_id)i;
		parser->known = infos[i].help != NULL;
		advance(parser);
		if (words[first] == '\0')
			return COMMAND_PARSED;
		if (!at_word(parser, words + first + 1))
			return fail(parser, words + first + 1);
		advance(parser);
		return COMMAND_PARSED;
	}
	return fail_command(parser);
}

enum command_result command_parse(const char *source, size_t len, size_t *offset,
                                  struct command *command, struct command_error *error)
{
	struct parser parser = {
	    .source = source, .len = len, .offset = *offset, .command = command, .error = error};

	memset(command, 0, sizeof(*command));
	command->epoch = ADMIN_EPOCH_NEXT;
	command->lease = ADMIN_TIME_DEFAULT;
	command->drain = ADMIN_TIME_DEFAULT;
	command->policy = CONFIG_UNSET;
	command->view = VIEW_COUNT;
	memset(error, 0, sizeof(*error));
	do
		advance(&parser);
	while (parser.token.kind == LEX_SEMI);
	*offset = parser.offset;
	if (parser.token.kind == LEX_END)
		return COMMAND_NO_MORE;
	if (read_words(&parser) != COMMAND_PARSED || read_operands(&parser) != COMMAND_PARSED ||
	    read_options(&parser) != COMMAND_PARSED)
		return COMMAND_BAD;
	*offset = parser.offset;
	return COMMAND_PARSED;
}
