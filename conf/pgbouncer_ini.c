/* SPDX-License-Identifier: PostgreSQL */
/*
 * From pgbouncer.ini to our YAML, and by it to a configuration: so that a file of pgbouncer means
 * what its translation means.  Every value is checked here, where its line is known; what only the
 * whole can show to be wrong is found by the loader, and its lines are led back.
 */
#include "base/log.h"
#include "base/mem.h"
#include "conf/ini.h"
#include "conf/load.h"
#include "conf/pgbouncer.h"
#include "conf/table.h"
#include "conf/value.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define SECTION_MAIN "pgbouncer"

/* Whom pgbouncer believes where its file names no authorities. */
#define SYSTEM_AUTHORITIES "/etc/ssl/certs/ca-certificates.crt"

/* Comment lines that may stand before the first that tells what kind of file it is. */
#define HEAD_LINES 1000

/* A server: what several databases may have in common. */
struct place {
	const char *host;
	const char *port;
	const char *balance;
	const char *name;
};

struct translation {
	struct ini *ini;
	struct sbuf *yaml;
	struct sbuf *errors;
	bool people; /* comments, and what is as the default left out */
	bool good;
	struct config_block *blocks;
	const struct ini_item **lines; /* of each line of the YAML; NULL: of none */
	size_t line_count;
	struct place *places;
	size_t place_count;
	const char *socket_dir;
	struct place place; /* of the list that is being read */
};

/* One key=value of a list. */
struct pair_read {
	const struct pgbouncer_setting *row; /* NULL: pgbouncer does not know the key */
	const char *key;
	const char *value;
};

struct pairs_read {
	struct translation *t;
	enum pgbouncer_part part;
	struct pair_read *pairs;
	size_t count;
};

static void complain(struct translation *t, const struct ini_item *item, const char *key,
                     const char *text)
{
	const char *path = item == NULL ? t->ini->files[0].path : t->ini->files[item->file].path;

	sbuf_printf(t->errors, "%s:%zu: %s: %s\n", path, item == NULL ? (size_t)1 : item->line, key,
	            text);
	t->good = false;
}

/* One line of YAML that comes from `item`. */
static void line(struct translation *t, const struct ini_item *item, const char *text)
{
	t->lines = mem_must_grow(t->lines, t->line_count + 1, sizeof(*t->lines));
	t->lines[t->line_count++] = item;
	sbuf_add_str(t->yaml, text);
	sbuf_add_char(t->yaml, '\n');
}

static void add_quoted(struct sbuf *out, const char *text)
{
	sbuf_add_char(out, '\'');
	for (; *text != '\0'; text++) {
		if (*text == '\'')
			sbuf_add_char(out, '\'');
		sbuf_add_char(out, *text);
	}
	sbuf_add_char(out, '\'');
}

static void add_list(struct sbuf *out, const char *text)
{
	const char *comma = "";

	sbuf_add_char(out, '[');
	while (*text != '\0') {
		size_t len;
		size_t end;
		char *item;

		text += strspn(text, ", \t");
		len = strcspn(text, ",");
		for (end = len; end > 0 && isspace((unsigned char)text[end - 1]);)
			end--;
		if (end > 0) {
			item = strndup(text, end);
			sbuf_add_str(out, comma);
			add_quoted(out, item == NULL ? "" : item);
			free(item);
			comma = ", ";
		}
		text += len;
	}
	sbuf_add_char(out, ']');
}

/* Room for the struct of any section. */
union scratch {
	struct config_proxy proxy;
	struct config_server server;
	struct config_database database;
	struct config_user user;
	struct config_peer peer;
};

/* The text as our loader takes it, in the form in which SHOW CONFIG has it; false: `why`. */
static bool normal_form(struct translation *t, const struct setting *setting, const char *text,
                        struct sbuf *out, struct sbuf *why)
{
	const struct value_context context = {.blocks = &t->blocks, .directory = ""};
	union scratch scratch;

	if (setting->type == VALUE_LIST) {
		sbuf_add_str(out, text);
		return true;
	}
	memset(&scratch, 0, sizeof(scratch));
	if (!value_parse(setting, text, &scratch, &context, why))
		return false;
	value_format(setting, &scratch, out);
	return true;
}

/* Whether its values need no quotes. */
static bool is_word(const struct setting *setting)
{
	return setting->type == VALUE_BOOL || setting->type == VALUE_INT ||
	       setting->type == VALUE_PORT || setting->type == VALUE_DURATION ||
	       setting->type == VALUE_SIZE || setting->type == VALUE_AUTH_TYPE ||
	       setting->type == VALUE_POOL_MODE || setting->type == VALUE_BALANCE ||
	       setting->type == VALUE_LOG_LEVEL || setting->type == VALUE_LOG_DESTINATION ||
	       setting->type == VALUE_LOG_FORMAT || setting->type == VALUE_SYSLOG_FACILITY;
}

static bool is_number_of_ours(const struct setting *setting)
{
	return setting->type == VALUE_INT || setting->type == VALUE_DURATION;
}

static void write_setting(struct translation *t, const struct ini_item *item, int indent,
                          const struct setting *setting, const char *text)
{
	struct sbuf out;

	sbuf_init(&out, INI_FILE_MAX);
	sbuf_printf(&out, "%*s%s: ", indent, "", setting->text.name);
	if (setting->type == VALUE_LIST) {
		add_list(&out, text);
	} else if (is_word(setting)) {
		struct sbuf why;

		sbuf_init(&why, 1024);
		(void)!normal_form(t, setting, text, &out, &why); /* it has been checked */
		sbuf_free(&why);
	} else {
		add_quoted(&out, text);
	}
	line(t, item, sbuf_text(&out));
	sbuf_free(&out);
}

static void comment(struct translation *t, const struct ini_item *item, int indent, const char *key,
                    const char *note)
{
	char *text;

	if (!t->people) {
		log_info("%s:%zu: %s has no effect: %s", t->ini->files[item->file].path, item->line,
		         key, note);
		return;
	}
	text = mem_must_printf("%*s# %s (line %zu of %s): %s", indent, "", key, item->line,
	                       t->ini->files[item->file].path, note);
	line(t, item, text);
	free(text);
}

/* What is to be known of a value that has an effect. */
static void remark(struct translation *t, const struct ini_item *item, int indent, const char *key,
                   const char *text)
{
	if (item == NULL || text[0] == '\0')
		return;
	if (t->people)
		comment(t, item, indent, key, text);
	else
		log_warning("%s:%zu: %s: %s", t->ini->files[item->file].path, item->line, key,
		            text);
}

/* Whether the text is right for the setting, and equal to its default. */
static bool check_value(struct translation *t, const struct ini_item *item, const char *key,
                        const struct setting *setting, const char *text, bool *is_default)
{
	struct sbuf why;
	struct sbuf shown;
	struct sbuf fallback;
	bool good;

	sbuf_init(&why, 1024);
	sbuf_init(&shown, INI_FILE_MAX);
	sbuf_init(&fallback, INI_FILE_MAX);
	good = normal_form(t, setting, text, &shown, &why);
	if (!good)
		complain(t, item, key, sbuf_text(&why));
	*is_default = good && setting->text.fallback != NULL &&
	              normal_form(t, setting, setting->text.fallback, &fallback, &why) &&
	              strcmp(sbuf_text(&shown), sbuf_text(&fallback)) == 0;
	sbuf_free(&fallback);
	sbuf_free(&shown);
	sbuf_free(&why);
	return good;
}

/* pgbouncer's relative paths are relative to where it was started. */
static const char *absolute(struct translation *t, const struct setting *setting, const char *text)
{
	char directory[4096];
	char *path;
	const char *kept;

	if (setting->type != VALUE_PATH || text[0] == '\0' || text[0] == '/' ||
	    (text[0] == '@' && strcmp(setting->text.name, "unix_socket_directory") == 0) ||
	    getcwd(directory, sizeof(directory)) == NULL)
		return text;
	path = mem_must_printf("%s/%s", directory, text);
	kept = arena_strdup(&t->blocks, path);
	free(path);
	return kept;
}

static void translate_row(struct translation *t, const struct pgbouncer_setting *row,
                          const struct ini_item *item, const char *value, int indent)
{
	static const enum setting_section sections[] = {
	    [PGB_MAIN] = SECTION_PROXY,
	    [PGB_DATABASE] = SECTION_DATABASES,
	    [PGB_USER] = SECTION_USERS,
	    [PGB_PEER] = SECTION_PEERS,
	};
	const struct setting *setting = setting_find(sections[row->part], row->ours);
	const bool given =
	    item != NULL && (row->fallback == NULL || strcmp(value, row->fallback) != 0);
	struct sbuf text;
	struct sbuf note;
	struct sbuf why;
	bool is_default = false;

	if (value == NULL)
		return; /* not given, and our default is as good */
	if (setting == NULL) {
		if (given)
			comment(t, item, indent, row->name, row->note);
		return;
	}
	/* Those of the kernel: what is not given is not set. */
	if (item == NULL && value[0] == '\0' && setting->text.least != NULL)
		return;
	sbuf_init(&text, INI_FILE_MAX);
	sbuf_init(&note, 1024);
	sbuf_init(&why, 1024);
	if (!pgbouncer_value(row, value, &text, &note, &why)) {
		complain(t, item, row->name, sbuf_text(&why));
	} else {
		remark(t, item, indent, row->name, sbuf_text(&note));
		/* A number may mean that it is not set. */
		if (!(is_number_of_ours(setting) && text.len == 0) &&
		    check_value(t, item, row->name, setting, sbuf_text(&text), &is_default) &&
		    !(is_default && t->people))
			write_setting(t, item, indent, setting,
			              absolute(t, setting, sbuf_text(&text)));
	}
	sbuf_free(&why);
	sbuf_free(&note);
	sbuf_free(&text);
}

/* ---- the section [pgbouncer] ---- */

static const char *next_name(const void *arg, size_t index)
{
	(void)arg;
	return index < pgbouncer_setting_count() ? pgbouncer_setting_at(index)->name : NULL;
}

static void unknown(struct translation *t, const struct ini_item *item, const char *key)
{
	const char *nearest = problem_nearest(key, next_name, NULL);
	char quoted[PROBLEM_QUOTE_MAX];
	char *text =
	    mem_must_printf("unknown setting%s%s%s", nearest == NULL ? "" : "; did you mean \"",
	                    nearest == NULL ? "" : nearest, nearest == NULL ? "" : "\"?");

	complain(t, item, problem_quote(key, quoted), text);
	free(text);
}

/* Another [pgbouncer] sets all back to the defaults, but what has none. */
static bool outlives_heading(const char *key)
{
	static const char *const names[] = {
	    "auth_dbname",   "auth_file", "auth_ident_file",      "auth_ldap_options",   "auth_user",
	    "conffile",      "user",      "client_tls13_ciphers", "server_tls13_ciphers", "verbose"};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(names[i], key) == 0)
			return true;
	return pgbouncer_setting_find(PGB_MAIN, key) == NULL;
}

/* The item of the section [pgbouncer] that counts. */
static const struct ini_item *find_main(const struct translation *t, const char *key)
{
	const struct ini_item *item = ini_find(t->ini, SECTION_MAIN, key);

	if (item == NULL || outlives_heading(key) ||
	    item->heading >= ini_last_heading(t->ini, SECTION_MAIN))
		return item;
	return NULL;
}

static void say_set_back(struct translation *t)
{
	for (size_t i = 0; i < t->ini->item_count; i++) {
		const struct ini_item *item = &t->ini->items[i];

		if (strcmp(item->section, SECTION_MAIN) == 0 &&
		    ini_find(t->ini, SECTION_MAIN, item->key) == item &&
		    find_main(t, item->key) == NULL)
			remark(t, item, 2, item->key,
			       "a later [pgbouncer] sets it back to its default, as in pgbouncer");
	}
}

/* The value of pgbouncer, its default if none is given. */
static const char *main_value(const struct translation *t, const char *key)
{
	const struct ini_item *item = find_main(t, key);
	const char *fallback = pgbouncer_setting_find(PGB_MAIN, key)->fallback;

	return item != NULL ? item->value : fallback == NULL ? "" : fallback;
}

/* Authorities that are asked and not named are those of the system.  (Of clients not with verify-full:
 * it does not start there without them.) */
static const struct {
	const char *file;
	const char *mode;
	bool full;
} authorities[] = {{"server_tls_ca_file", "server_tls_sslmode", true},
                   {"client_tls_ca_file", "client_tls_sslmode", false}};

static bool is_of_system(const struct translation *t, const char *file)
{
	for (size_t i = 0; i < ARRAY_LEN(authorities); i++) {
		const char *mode;

		if (strcmp(authorities[i].file, file) != 0)
			continue;
		mode = main_value(t, authorities[i].mode);
		return main_value(t, file)[0] == '\0' &&
		       (strcasecmp(mode, "verify-ca") == 0 ||
		        (authorities[i].full && strcasecmp(mode, "verify-full") == 0));
	}
	return false;
}

/* What follows from settings of pgbouncer for those that it does not have. */
static void translate_rest(struct translation *t)
{
	/* The time for connection and login together. */
	if (find_main(t, "login_timeout") == NULL) {
		const struct pgbouncer_setting *row =
		    pgbouncer_setting_find(PGB_MAIN, "server_connect_timeout");
		struct pgbouncer_setting both = *row;

		both.ours = "login_timeout";
		translate_row(t, &both, NULL, main_value(t, row->name), 2);
	}
	for (size_t i = 0; i < ARRAY_LEN(authorities); i++) {
		if (is_of_system(t, authorities[i].file)) {
			char *text =
			    mem_must_printf("  %s: '%s'", authorities[i].file, SYSTEM_AUTHORITIES);

			line(t, find_main(t, authorities[i].mode), text);
			free(text);
		}
	}
}

static void translate_main(struct translation *t)
{
	const struct ini *ini = t->ini;

	line(t, NULL, "proxy:");
	say_set_back(t);
	for (size_t i = 0; i < pgbouncer_setting_count(); i++) {
		const struct pgbouncer_setting *row = pgbouncer_setting_at(i);
		const struct ini_item *item;

		if (row->part != PGB_MAIN)
			continue;
		item = find_main(t, row->name);
		if (is_of_system(t, row->name))
			continue;
		translate_row(t, row, item, item == NULL ? row->fallback : item->value, 2);
	}
	/* What pgbouncer does not have may stand there under our name. */
	for (size_t i = 0; i < ini->item_count; i++) {
		const struct ini_item *item = &ini->items[i];
		const struct setting *setting;
		bool is_default;

		if (strcmp(item->section, SECTION_MAIN) != 0 ||
		    pgbouncer_setting_find(PGB_MAIN, item->key) != NULL ||
		    ini_find(ini, SECTION_MAIN, item->key) != item)
			continue;
		setting = setting_find(SECTION_PROXY, item->key);
		if (setting == NULL)
			unknown(t, item, item->key);
		else if (check_value(t, item, item->key, setting, item->value, &is_default))
			write_setting(t, item, 2, setting, absolute(t, setting, item->value));
	}
	translate_rest(t);
	if (ini_find(ini, SECTION_MAIN, "as_pgbouncer") == NULL)
		line(t, NULL, "  as_pgbouncer: true");
	if (ini_find(ini, SECTION_MAIN, "log_format") == NULL)
		line(t, NULL, "  log_format: pgbouncer");
	if (ini_find(ini, SECTION_MAIN, "state_directory") == NULL) {
		if (t->people)
			line(t, NULL,
			     "  # Give a directory: without one routes and holds end with the "
			     "process, "
			     "and SWAP is refused.");
		line(t, NULL, "  state_directory: ''");
	}
}

/* ---- [databases] and [users] ---- */

static const char *lower(struct translation *t, const char *value)
{
	char *text = mem_must_strdup(value);
	const char *kept;

	for (char *at = text; *at != '\0'; at++)
		*at = (char)tolower((unsigned char)*at);
	kept = arena_strdup(&t->blocks, text);
	free(text);
	return kept;
}

static void see_place(void *arg, const char *key, const char *value)
{
	struct translation *t = arg;

	int64_t number;
	const char *rest;
	char port[24];

	if (strcmp(key, "host") == 0)
		t->place.host = arena_strdup(&t->blocks, value);
	else if (strcmp(key, "port") == 0 && pgbouncer_leading_number(value, &number, &rest)) {
		(void)snprintf(port, sizeof(port), "%" PRId64, number);
		t->place.port = arena_strdup(&t->blocks, port);
	} else if (strcmp(key, "port") == 0)
		t->place.port = arena_strdup(&t->blocks, value);
	else if (strcmp(key, "load_balance_hosts") == 0)
		t->place.balance = lower(t, value);
}

static bool same_place(const struct place *a, const struct place *b)
{
	return strcmp(a->host, b->host) == 0 && strcmp(a->port, b->port) == 0 &&
	       strcmp(a->balance, b->balance) == 0;
}

static const char *name_place(struct translation *t, const struct place *place)
{
	char *name = strcmp(place->port, "5432") == 0
	                 ? mem_must_strdup(place->host)
	                 : mem_must_printf("%s:%s", place->host, place->port);
	bool taken = strlen(name) > CONFIG_NAME_MAX;
	const char *kept;

	for (size_t i = 0; i < t->place_count; i++)
		taken |= strcmp(t->places[i].name, name) == 0;
	if (taken) {
		free(name);
		name = mem_must_printf("server%zu", t->place_count + 1);
	}
	kept = arena_strdup(&t->blocks, name);
	free(name);
	return kept;
}

/* The server of the database; NULL after a complaint. */
static const struct place *find_place(struct translation *t, const struct ini_item *item)
{
	t->place = (struct place){"", "5432", "round-robin", NULL};
	if (!ini_pairs(item->value, see_place, t)) {
		complain(t, item, item->key, "expected a list of key=value");
		return NULL;
	}
	if (t->place.host[0] == '\0')
		t->place.host = t->socket_dir;
	for (size_t i = 0; i < t->place_count; i++)
		if (same_place(&t->places[i], &t->place))
			return &t->places[i];
	t->places = mem_must_grow(t->places, t->place_count + 1, sizeof(*t->places));
	t->place.name = name_place(t, &t->place);
	t->places[t->place_count++] = t->place;
	return &t->places[t->place_count - 1];
}

static void write_name(struct translation *t, const struct ini_item *item, const char *name)
{
	struct sbuf out;

	sbuf_init(&out, 4096);
	sbuf_add_str(&out, "  ");
	add_quoted(&out, name);
	sbuf_add_char(&out, ':');
	line(t, item, sbuf_text(&out));
	sbuf_free(&out);
}

static void write_servers(struct translation *t, const struct ini_item *const *firsts)
{
	line(t, NULL, t->place_count == 0 ? "servers: {}" : "servers:");
	for (size_t i = 0; i < t->place_count; i++) {
		const struct place *place = &t->places[i];
		const struct setting *host = setting_find(SECTION_SERVERS, "host");
		const struct setting *port = setting_find(SECTION_SERVERS, "port");
		const struct setting *balance = setting_find(SECTION_SERVERS, "load_balance_hosts");
		const struct ini_item *item = firsts[i];
		bool is_default;

		write_name(t, item, place->name);
		if (check_value(t, item, "host", host, place->host, &is_default))
			write_setting(t, item, 4, host, place->host);
		if (check_value(t, item, "port", port, place->port, &is_default) && !is_default)
			write_setting(t, item, 4, port, place->port);
		if (check_value(t, item, "load_balance_hosts", balance, place->balance,
		                &is_default) &&
		    !is_default)
			write_setting(t, item, 4, balance, place->balance);
	}
}

static void see_pair(void *arg, const char *key, const char *value)
{
	struct pairs_read *read = arg;
	struct translation *t = read->t;

	read->pairs = mem_must_grow(read->pairs, read->count + 1, sizeof(*read->pairs));
	read->pairs[read->count++] =
	    (struct pair_read){.row = pgbouncer_setting_find(read->part, key),
	                       .key = arena_strdup(&t->blocks, key),
	                       .value = arena_strdup(&t->blocks, value)};
}

/* Whether a later one of the list says the same, under the same name or another. */
static bool is_overridden(const struct pairs_read *read, size_t index)
{
	const struct pgbouncer_setting *row = read->pairs[index].row;

	for (size_t i = index + 1; i < read->count; i++) {
		const struct pgbouncer_setting *other = read->pairs[i].row;

		if (other != NULL && (other == row || (row->how != PGB_PLACE &&
		                                       strcmp(other->ours, row->ours) == 0)))
			return true;
	}
	return false;
}

/* The lines of a list of key=value.  False: it is none. */
static bool translate_pairs(struct translation *t, const struct ini_item *item,
                            enum pgbouncer_part part)
{
	struct pairs_read read = {.t = t, .part = part};
	const bool good = ini_pairs(item->value, see_pair, &read);

	for (size_t i = 0; good && i < read.count; i++) {
		const struct pair_read *pair = &read.pairs[i];

		if (pair->row == NULL) {
			unknown(t, item, pair->key);
		} else if (is_overridden(&read, i)) {
			continue;
		} else if (pair->row->how == PGB_PLACE) {
			if (strcmp(pair->key, "password") == 0 && t->people)
				comment(t, item, 4, pair->key, pair->row->note);
		} else {
			translate_row(t, pair->row, item, pair->value, 4);
		}
	}
	free(read.pairs);
	return good;
}

/* Items of the section that count: the last of equal keys. */
static bool counts(const struct translation *t, const struct ini_item *item, const char *section)
{
	return strcmp(item->section, section) == 0 && ini_find(t->ini, section, item->key) == item;
}

static void translate_databases(struct translation *t)
{
	const struct ini_item **firsts = NULL;
	struct sbuf out;
	size_t count = 0;

	for (size_t i = 0; i < t->ini->item_count; i++) {
		size_t before = t->place_count;

		if (!counts(t, &t->ini->items[i], "databases"))
			continue;
		count++;
		if (config_is_console(t->ini->items[i].key))
			complain(t, &t->ini->items[i], t->ini->items[i].key,
			         "is the name of the console");
		(void)find_place(t, &t->ini->items[i]);
		if (t->place_count == before)
			continue;
		firsts = mem_must_grow(firsts, t->place_count, sizeof(*firsts));
		firsts[before] = &t->ini->items[i];
	}
	write_servers(t, firsts);
	free(firsts);
	line(t, NULL, count == 0 ? "databases: {}" : "databases:");
	for (size_t i = 0; i < t->ini->item_count; i++) {
		const struct ini_item *item = &t->ini->items[i];
		const struct place *place;

		if (!counts(t, item, "databases"))
			continue;
		place = find_place(t, item);
		if (place == NULL)
			continue;
		write_name(t, item, item->key);
		sbuf_init(&out, 1024);
		sbuf_add_str(&out, "    server: ");
		add_quoted(&out, place->name);
		line(t, item, sbuf_text(&out));
		sbuf_free(&out);
		(void)!translate_pairs(t, item, PGB_DATABASE); /* find_place() has read it */
	}
}

/* A section whose entries are lists of settings: [users], [peers]. */
static void translate_entries(struct translation *t, const char *section, enum pgbouncer_part part)
{
	bool any = false;

	for (size_t i = 0; i < t->ini->item_count; i++) {
		const struct ini_item *item = &t->ini->items[i];
		size_t named;

		if (!counts(t, item, section))
			continue;
		if (!any) {
			char *head = mem_must_printf("%s:", section);

			line(t, NULL, head);
			free(head);
		}
		any = true;
		write_name(t, item, item->key);
		named = t->line_count;
		if (!translate_pairs(t, item, part))
			complain(t, item, item->key, "expected a list of key=value");
		if (t->line_count == named)
			line(t, item, "    {}");
	}
}

static bool is_known_section(const char *name)
{
	static const char *const known[] = {SECTION_MAIN, "databases", "users", "peers"};

	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (strcmp(name, known[i]) == 0)
			return true;
	return false;
}

static void check_sections(struct translation *t)
{
	static const char text[] =
	    "unknown section; pgbouncer.ini has pgbouncer, databases, users and peers";
	char quoted[PROBLEM_QUOTE_MAX];

	for (size_t i = 0; i < t->ini->item_count; i++)
		if (!is_known_section(t->ini->items[i].section))
			complain(t, &t->ini->items[i],
			         problem_quote(t->ini->items[i].section, quoted), text);
	for (size_t i = 0; t->good && i < t->ini->heading_count; i++)
		if (!is_known_section(t->ini->headings[i]))
			complain(t, NULL, problem_quote(t->ini->headings[i], quoted), text);
}

static void translate(struct translation *t)
{
	const char *dir = main_value(t, "unix_socket_dir");

	t->good = true;
	t->socket_dir = dir[0] == '\0'
	                    ? pgbouncer_setting_find(PGB_MAIN, "unix_socket_dir")->fallback
	                    : absolute(t, setting_find(SECTION_PROXY, "unix_socket_directory"), dir);
	check_sections(t);
	translate_main(t);
	translate_databases(t);
	translate_entries(t, "users", PGB_USER);
	translate_entries(t, "peers", PGB_PEER);
}

static void translation_free(struct translation *t)
{
	free(t->lines);
	free(t->places);
	arena_free(&t->blocks);
	ini_free(t->ini);
}

/* ---- the whole ---- */

bool pgbouncer_is_ini(const char *path)
{
	const size_t len = strlen(path);
	FILE *file;
	char text[512];
	bool ini = false;

	if (len >= 4 && strcmp(path + len - 4, ".ini") == 0)
		return true;
	file = fopen(path, "re");
	for (int i = 0; i < HEAD_LINES && file != NULL && fgets(text, sizeof(text), file) != NULL;
	     i++) {
		const char *at = text + strspn(text, " \t\r\n");

		if (*at == '\0' || *at == '#' || *at == ';')
			continue;
		ini = (*at == '[' && strchr(at, ']') != NULL && strchr(at, ',') == NULL) ||
		      *at == '%';
		break;
	}
	if (file != NULL)
		(void)fclose(file);
	return ini;
}

/* "file:3:5: text" about the YAML becomes "file:line of the ini: text". */
static void lead_back(const struct translation *t, const char *path, const char *found,
                      struct sbuf *errors)
{
	const size_t path_len = strlen(path);

	while (*found != '\0') {
		const size_t len = strcspn(found, "\n");
		const struct ini_item *item = NULL;
		const char *text = found;
		char *end;

		if (strncmp(found, path, path_len) == 0 && found[path_len] == ':') {
			size_t at = strtoul(found + path_len + 1, &end, 10);

			if (at > 0 && at <= t->line_count)
				item = t->lines[at - 1];
			if (*end == ':') {
				(void)strtoul(end + 1, &end, 10);
				text = end + strspn(end, ": ");
			}
		}
		sbuf_printf(errors, "%s:%zu: %.*s\n",
		            item == NULL ? path : t->ini->files[item->file].path,
		            item == NULL ? (size_t)1 : item->line, (int)(found + len - text), text);
		found += len + (found[len] == '\n' ? 1 : 0);
	}
}

static void take_passwords(const struct ini *ini, struct config *config)
{
	for (size_t i = 0; i < config->database_count; i++) {
		struct config_database *database = &config->databases[i];
		const struct ini_item *item = ini_find(ini, "databases", database->name);
		char *password = NULL;

		if (item != NULL && ini_pair_get(item->value, "password", &password) &&
		    password != NULL)
			database->password = arena_strdup(&config->blocks, password);
		mem_free_secret(password);
	}
}

bool pgbouncer_load(const char *path, struct config **out, struct sbuf *errors)
{
	struct ini ini;
	struct sbuf yaml;
	struct sbuf found;
	struct translation t = {.ini = &ini, .yaml = &yaml, .errors = errors};

	*out = NULL;
	if (!ini_load_here(path, &ini, errors))
		return false;
	sbuf_init(&yaml, INI_FILE_MAX * 4);
	sbuf_init(&found, (size_t)256 * 1024);
	translate(&t);
	if (t.good && !sbuf_ok(&yaml))
		complain(&t, NULL, "the file", "is too large");
	if (t.good && !config_load_buffer(path, sbuf_text(&yaml), yaml.len, out, &found))
		lead_back(&t, path, sbuf_text(&found), errors);
	if (*out != NULL)
		take_passwords(&ini, *out);
	sbuf_free(&found);
	sbuf_free(&yaml);
	translation_free(&t);
	return *out != NULL;
}

bool pgbouncer_import(const char *path, struct sbuf *yaml, struct sbuf *errors)
{
	struct ini ini;
	struct translation t = {.ini = &ini, .yaml = yaml, .errors = errors, .people = true};
	char *head;

	if (!ini_load_here(path, &ini, errors))
		return false;
	head = mem_must_printf("# What %s says, in the form of pgshunt.yml.", path);
	line(&t, NULL, head);
	free(head);
	translate(&t);
	translation_free(&t);
	return t.good;
}
