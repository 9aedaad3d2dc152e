/* SPDX-License-Identifier: PostgreSQL */
/*
 * From lines to rules, with PostgreSQL's messages where it has one.
 */
#include "auth/hba.h"

#include "auth/pam.h"
#include "base/mem.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const conn_names[HBA_CONN_COUNT] = {
    [HBA_LOCAL] = "local",           [HBA_HOST] = "host",
    [HBA_HOSTSSL] = "hostssl",       [HBA_HOSTNOSSL] = "hostnossl",
    [HBA_HOSTGSSENC] = "hostgssenc", [HBA_HOSTNOGSSENC] = "hostnogssenc",
};

static const struct {
	const char *name;
	enum auth_type type;
} methods[] = {
    {"trust", AUTH_TYPE_TRUST},         {"reject", AUTH_TYPE_REJECT},
    {"password", AUTH_TYPE_PLAIN},      {"md5", AUTH_TYPE_MD5},
    {"cert", AUTH_TYPE_CERT},           {"peer", AUTH_TYPE_PEER},
    {"scram-sha-256", AUTH_TYPE_SCRAM}, {"pam", AUTH_TYPE_PAM},
    {"ldap", AUTH_TYPE_LDAP},
};

/* PostgreSQL's others. */
static const char *const refused_methods[] = {"ident", "gss", "sspi", "bsd", "radius", "oauth"};

const char *hba_conn_name(enum hba_conn conn)
{
	return conn_names[conn];
}

const char *hba_method_name(enum auth_type method)
{
	for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
		if (methods[i].type == method)
			return methods[i].name;
	}
	return "any";
}

/* ---- addresses ---- */

/* A numeric address; false if `text` is none. */
static bool parse_numeric(const char *text, int *family, uint8_t bytes[16])
{
	const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	bool good = true;

	if (getaddrinfo(text, NULL, &hints, &found) != 0)
		return false;
	*family = found->ai_family;
	if (found->ai_family == AF_INET) {
		struct sockaddr_in in;

		memcpy(&in, found->ai_addr, sizeof(in));
		memcpy(bytes, &in.sin_addr, 4);
	} else if (found->ai_family == AF_INET6) {
		struct sockaddr_in6 in6;

		memcpy(&in6, found->ai_addr, sizeof(in6));
		memcpy(bytes, &in6.sin6_addr, 16);
	} else {
		good = false;
	}
	freeaddrinfo(found);
	return good;
}

static bool parse_prefix(struct hba_rule *rule, const char *text)
{
	unsigned long most = rule->family == AF_INET ? 32 : 128;
	unsigned long bits;
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	bits = strtoul(text, &end, 10);
	if (*end != '\0' || bits > most)
		return false;
	memset(rule->mask, 0, sizeof(rule->mask));
	for (unsigned long i = 0; i < bits; i++)
		rule->mask[i / 8] |= (uint8_t)(0x80u >> (i % 8));
	return true;
}

static bool looks_like_address(const char *text)
{
	return strchr(text, ':') != NULL || strspn(text, "0123456789./") == strlen(text);
}

/* An address with or without /bits; *need_mask: a field with a mask follows. */
static bool parse_cidr(struct hba_rule *rule, const char *text, const struct line *line,
                       struct sbuf *errors, bool *need_mask)
{
	char *copy = mem_must_strdup(text);
	char *slash = strchr(copy, '/');
	bool good = true;

	if (slash != NULL)
		*slash = '\0';
	*need_mask = slash == NULL;
	rule->address = HBA_ADDRESS_MASK;
	if (!parse_numeric(copy, &rule->family, rule->addr)) {
		good =
		    looks_like_address(text)
		        ? tokens_fail(errors, line, "invalid IP address \"%s\"", text)
		        : tokens_fail(errors, line,
		                      "\"%s\": host names are not supported, because a login "
		                      "would wait for their look-up; give an address with a mask",
		                      text);
	} else if (slash != NULL && !parse_prefix(rule, slash + 1)) {
		good = tokens_fail(errors, line, "invalid CIDR mask in address \"%s\"", text);
	}
	free(copy);
	return good;
}

static bool parse_mask(struct hba_rule *rule, const struct field *field, const struct line *line,
                       struct sbuf *errors)
{
	int family;

	if (field->count != 1)
		return tokens_fail(errors, line, "multiple values specified for netmask");
	if (!parse_numeric(field->tokens[0].text, &family, rule->mask))
		return tokens_fail(errors, line, "invalid IP mask \"%s\"", field->tokens[0].text);
	if (family != rule->family)
		return tokens_fail(errors, line, "IP address and mask do not match");
	return true;
}

/* The address of a host line from field *at on, which then is that of the method. */
static bool parse_address(struct hba_rule *rule, const struct line *line, size_t *at,
                          struct sbuf *errors)
{
	const struct token *token;
	bool need_mask;

	if (*at >= line->count)
		return tokens_fail(errors, line, "end-of-line before IP address specification");
	if (line->fields[*at].count != 1)
		return tokens_fail(
		    errors, line,
		    "multiple values specified for host address; specify one address "
		    "range per line");
	token = &line->fields[(*at)++].tokens[0];
	if (token_is_keyword(token, "all")) {
		rule->address = HBA_ADDRESS_ALL;
	} else if (token_is_keyword(token, "samehost")) {
		rule->address = HBA_ADDRESS_SAMEHOST;
	} else if (token_is_keyword(token, "samenet")) {
		rule->address = HBA_ADDRESS_SAMENET;
	} else {
		if (!parse_cidr(rule, token->text, line, errors, &need_mask))
			return false;
		if (need_mask && *at >= line->count)
			return tokens_fail(errors, line,
			                   "end-of-line before netmask specification; specify an "
			                   "address range in CIDR notation, or provide a separate "
			                   "netmask");
		if (need_mask)
			return parse_mask(rule, &line->fields[(*at)++], line, errors);
	}
	return true;
}

/* ---- names ---- */

static bool check_names(struct field *field, bool users, const struct line *line,
                        struct sbuf *errors)
{
	for (size_t i = 0; i < field->count; i++) {
		struct token *token = &field->tokens[i];

		if (users && !token->quoted && token->text[0] == '+')
			return tokens_fail(errors, line,
			                   "\"%s\": who is a member of a role only the server "
			                   "knows; name the users, list them in a file with @file, "
			                   "or use a regular expression",
			                   token->text);
		if (!users &&
		    (token_is_keyword(token, "samerole") || token_is_keyword(token, "samegroup")))
			return tokens_fail(errors, line,
			                   "\"%s\": who is a member of a role only the server "
			                   "knows; name the databases",
			                   token->text);
		if (!token_compile(token, line, errors))
			return false;
	}
	return true;
}

/* ---- method and options ---- */

/* cert and peer where they cannot be had.  Passed over, the line would leave those to the next one
 * whom pgbouncer does not let in by it. */
static bool check_where(struct hba_rule *rule, bool theirs, const struct line *line,
                        struct sbuf *errors)
{
	const bool good = rule->method == AUTH_TYPE_CERT   ? rule->conn == HBA_HOSTSSL
	                  : rule->method == AUTH_TYPE_PEER ? rule->conn == HBA_LOCAL
	                                                   : true;

	if (good || (theirs && rule->method == AUTH_TYPE_CERT)) /* see clientcert */
		return true;
	if (theirs) {
		rule->method = AUTH_TYPE_REJECT;
		return true;
	}
	return tokens_fail(errors, line,
	                   rule->method == AUTH_TYPE_CERT
	                       ? "cert authentication is only supported on hostssl connections"
	                       : "peer authentication is only supported on local sockets");
}

static bool parse_method(struct hba_rule *rule, bool theirs, const struct line *line, size_t at,
                         struct sbuf *errors)
{
	const char *word;
	size_t i;

	if (at >= line->count)
		return tokens_fail(errors, line, "end-of-line before authentication method");
	if (line->fields[at].count != 1)
		return tokens_fail(errors, line,
		                   "multiple values specified for authentication type; specify "
		                   "exactly one authentication type per line");
	word = line->fields[at].tokens[0].text;
	/* As in PostgreSQL, ident on a Unix socket means peer. */
	if (rule->conn == HBA_LOCAL && strcmp(word, "ident") == 0 && !theirs)
		word = "peer";
	for (i = 0; i < ARRAY_LEN(methods) && strcmp(methods[i].name, word) != 0; i++)
		continue;
	if (i == ARRAY_LEN(methods)) {
		for (i = 0; i < ARRAY_LEN(refused_methods); i++) {
			if (strcmp(refused_methods[i], word) == 0)
				return tokens_fail(errors, line,
				                   "authentication method \"%s\" is not supported "
				                   "by pgshuntd; trust, reject, password, md5, "
				                   "scram-sha-256, cert, peer, pam and ldap are",
				                   word);
		}
		return tokens_fail(errors, line, "invalid authentication method \"%s\"", word);
	}
	rule->method = methods[i].type;
	if (rule->method == AUTH_TYPE_PAM && !pam_is_available())
		return tokens_fail(errors, line, "this pgshuntd was built without PAM");
	if (rule->method == AUTH_TYPE_LDAP && !auth_ldap_is_available())
		return tokens_fail(errors, line, "this pgshuntd was built without LDAP");
	if (rule->method == AUTH_TYPE_LDAP)
		rule->ldap = auth_ldap_new();
	if (rule->method == AUTH_TYPE_CERT)
		rule->clientcert = HBA_CERT_VERIFY_FULL;
	return check_where(rule, theirs, line, errors);
}

static bool option_clientcert(struct hba_rule *rule, const char *value, const struct line *line,
                              struct sbuf *errors)
{
	if (rule->conn != HBA_HOSTSSL)
		return tokens_fail(errors, line,
		                   "clientcert can only be configured for \"hostssl\" rows");
	if (strcmp(value, "verify-full") == 0) {
		rule->clientcert = HBA_CERT_VERIFY_FULL;
	} else if (strcmp(value, "verify-ca") == 0) {
		if (rule->method == AUTH_TYPE_CERT)
			return tokens_fail(errors, line,
			                   "clientcert only accepts \"verify-full\" when using "
			                   "\"cert\" authentication");
		rule->clientcert = HBA_CERT_VERIFY_CA;
	} else {
		return tokens_fail(errors, line, "invalid value for clientcert: \"%s\"", value);
	}
	return true;
}

static bool option_clientname(struct hba_rule *rule, const char *value, const struct line *line,
                              struct sbuf *errors)
{
	if (rule->conn != HBA_HOSTSSL)
		return tokens_fail(errors, line,
		                   "clientname can only be configured for \"hostssl\" rows");
	if (strcmp(value, "CN") != 0 && strcmp(value, "DN") != 0)
		return tokens_fail(errors, line, "invalid value for clientname: \"%s\"", value);
	rule->clientname_dn = value[0] == 'D';
	return true;
}

/* `text` is an option of it; NULL: the last has been read, whether they are complete. */
static bool option_ldap(struct hba_rule *rule, const char *text, const struct line *line,
                        struct sbuf *errors)
{
	struct sbuf why;
	bool good;

	if (rule->ldap == NULL && text == NULL)
		return true;
	if (rule->ldap == NULL)
		return tokens_fail(errors, line,
		                   "authentication option \"%.*s\" is only valid for "
		                   "authentication method ldap",
		                   (int)strcspn(text, "="), text);
	sbuf_init(&why, TOKENS_ERRORS_MAX);
	good = text == NULL ? auth_ldap_complete(rule->ldap, &why)
	                    : auth_ldap_set(rule->ldap, text, &why);
	if (!good)
		(void)tokens_fail(errors, line, "%s", sbuf_text(&why));
	sbuf_free(&why);
	return good;
}

static bool parse_option(struct hba_rule *rule, bool theirs, const char *text,
                         const struct line *line, struct sbuf *errors)
{
	const char *value = strchr(text, '=');
	size_t len = value == NULL ? 0 : (size_t)(value - text);

	if (value == NULL)
		return tokens_fail(errors, line,
		                   "authentication option not in name=value format: %s", text);
	value++;
	if (len == 3 && strncmp(text, "map", 3) == 0) {
		if (rule->method != AUTH_TYPE_PEER && rule->method != AUTH_TYPE_CERT && theirs)
			return true; /* of no effect there */
		if (rule->method != AUTH_TYPE_PEER && rule->method != AUTH_TYPE_CERT)
			return tokens_fail(errors, line,
			                   "authentication option \"map\" is only valid for "
			                   "authentication methods peer and cert");
		free(rule->map);
		rule->map = mem_must_strdup(value);
		return true;
	}
	if (len > 4 && strncmp(text, "ldap", 4) == 0)
		return option_ldap(rule, text, line, errors);
	if (len == 10 && strncmp(text, "clientcert", 10) == 0)
		return option_clientcert(rule, value, line, errors);
	if (len == 10 && strncmp(text, "clientname", 10) == 0)
		return option_clientname(rule, value, line, errors);
	return tokens_fail(errors, line, "unrecognized authentication option name: \"%.*s\"",
	                   (int)len, text);
}

/* ---- lines ---- */

static const char *hba_file(struct hba *hba, const char *file)
{
	for (size_t i = 0; i < hba->file_count; i++) {
		if (strcmp(hba->files[i], file) == 0)
			return hba->files[i];
	}
	hba->files = mem_must_grow(hba->files, hba->file_count + 1, sizeof(char *));
	hba->files[hba->file_count] = mem_must_strdup(file);
	return hba->files[hba->file_count++];
}

static bool parse_type(struct hba_rule *rule, const struct line *line, struct sbuf *errors)
{
	const struct field *field = &line->fields[0];
	int type = 0;

	if (field->count != 1)
		return tokens_fail(errors, line,
		                   "multiple values specified for connection type; specify exactly "
		                   "one connection type per line");
	while (type < HBA_CONN_COUNT && strcmp(conn_names[type], field->tokens[0].text) != 0)
		type++;
	if (type == HBA_CONN_COUNT)
		return tokens_fail(errors, line, "invalid connection type \"%s\"",
		                   field->tokens[0].text);
	rule->conn = (enum hba_conn)type;
	return true;
}

static bool parse_rule(struct hba_rule *rule, bool theirs, struct line *line, struct sbuf *errors)
{
	size_t at = 3;

	if (!parse_type(rule, line, errors))
		return false;
	if (line->count < 2)
		return tokens_fail(errors, line, "end-of-line before database specification");
	if (line->count < 3)
		return tokens_fail(errors, line, "end-of-line before role specification");
	/* Moved, so that they are freed with the rule whatever comes. */
	rule->databases = line->fields[1];
	rule->users = line->fields[2];
	line->fields[1] = (struct field){0};
	line->fields[2] = (struct field){0};
	if (!check_names(&rule->databases, false, line, errors) ||
	    !check_names(&rule->users, true, line, errors))
		return false;
	if (rule->conn != HBA_LOCAL && !parse_address(rule, line, &at, errors))
		return false;
	if (!parse_method(rule, theirs, line, at++, errors))
		return false;
	for (; at < line->count; at++) {
		for (size_t i = 0; i < line->fields[at].count; i++) {
			if (!parse_option(rule, theirs, line->fields[at].tokens[i].text, line,
			                  errors))
				return false;
		}
	}
	return option_ldap(rule, NULL, line, errors);
}

/* Whether the line, wrong as it is, is there to keep somebody out. */
static bool is_meant_to_reject(const struct line *line)
{
	for (size_t i = 3; i < line->count; i++) {
		const struct field *field = &line->fields[i];

		if (field->count == 1 && token_is_keyword(&field->tokens[0], "reject"))
			return true;
	}
	return false;
}

static bool hba_take(void *owner, struct line *line, struct sbuf *errors)
{
	struct hba *hba = owner;
	struct hba_rule rule = {.line = line->number};

	if (!parse_rule(&rule, hba->theirs, line, errors)) {
		hba_rule_free(&rule);
		/* pgbouncer lets those in who stand there; we do not start without their being named. */
		if (hba->theirs && is_meant_to_reject(line)) {
			hba->unsafe = true;
			(void)tokens_fail(errors, line,
			                  "the line rejects somebody, and would let them in if it "
			                  "were passed over: name them, or remove it");
		}
		return false;
	}
	rule.file = hba_file(hba, line->file);
	hba->rules = mem_must_grow(hba->rules, hba->count + 1, sizeof(rule));
	hba->rules[hba->count++] = rule;
	return true;
}

static struct hba *hba_new(bool theirs)
{
	struct hba *hba = mem_must_alloc(sizeof(*hba));

	hba->theirs = theirs;
	atomic_init(&hba->refs, 1);
	return hba;
}

/* PostgreSQL does not start with a file without rules, since nobody could log in. */
static struct hba *hba_if(struct hba *hba, const char *path, bool good, struct sbuf *errors)
{
	if (good && hba->count == 0) {
		sbuf_printf(errors, "%s: it contains no entries\n", path);
		good = false;
	}
	if (good || (hba->theirs && hba->count > 0 && !hba->unsafe))
		return hba;
	hba_unref(hba);
	return NULL;
}

struct hba *hba_load(const char *path, bool theirs, struct sbuf *errors)
{
	struct hba *hba = hba_new(theirs);

	return hba_if(hba, path, tokens_load(path, hba_take, hba, errors), errors);
}

struct hba *hba_parse(const char *path, const char *text, size_t len, bool theirs,
                      struct sbuf *errors)
{
	struct hba *hba = hba_new(theirs);

	return hba_if(hba, path, tokens_parse(path, text, len, hba_take, hba, errors), errors);
}
