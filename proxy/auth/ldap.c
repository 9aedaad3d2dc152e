/* SPDX-License-Identifier: PostgreSQL */
#include "auth/ldap.h"

#include "auth/tokens.h"
#include "base/mem.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In the order of the names below. */
enum ldap_text {
	LDAP_SERVER, /* one, or several with blanks between */
	LDAP_PREFIX,
	LDAP_SUFFIX,
	LDAP_BASE,
	LDAP_BIND_DN,
	LDAP_BIND_PASSWORD,
	LDAP_ATTRIBUTE,
	LDAP_FILTER,
	LDAP_TEXTS
};

static const char *const text_names[LDAP_TEXTS] = {
    "ldapserver", "ldapprefix",     "ldapsuffix",          "ldapbasedn",
    "ldapbinddn", "ldapbindpasswd", "ldapsearchattribute", "ldapsearchfilter",
};

struct auth_ldap {
	_Atomic unsigned refs;
	char *text[LDAP_TEXTS]; /* NULL: not given */
	int port;               /* 0: that of the scheme */
	int scope;              /* by_url: of a search */
	bool by_url;
	bool secure; /* ldaps */
	bool tls;    /* StartTLS */
};

struct auth_ldap *auth_ldap_new(void)
{
	struct auth_ldap *ldap = mem_must_alloc(sizeof(*ldap));

	atomic_init(&ldap->refs, 1);
	return ldap;
}

struct auth_ldap *auth_ldap_ref(struct auth_ldap *ldap)
{
	if (ldap != NULL)
		atomic_fetch_add_explicit(&ldap->refs, 1, memory_order_relaxed);
	return ldap;
}

void auth_ldap_unref(struct auth_ldap *ldap)
{
	if (ldap == NULL || atomic_fetch_sub_explicit(&ldap->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < LDAP_TEXTS; i++)
		mem_free_secret(ldap->text[i]);
	free(ldap);
}

static bool fail(struct sbuf *why, const char *text, const char *value)
{
	sbuf_printf(why, "%s%s%s", text, value[0] == '\0' ? "" : ": ", value);
	return false;
}

static void set_text(struct auth_ldap *ldap, enum ldap_text which, const char *value)
{
	mem_free_secret(ldap->text[which]);
	ldap->text[which] = value == NULL ? NULL : mem_must_strdup(value);
}

bool auth_ldap_complete(const struct auth_ldap *ldap, struct sbuf *why)
{
	const bool named = ldap->text[LDAP_PREFIX] != NULL || ldap->text[LDAP_SUFFIX] != NULL;

	if (ldap->text[LDAP_SERVER] == NULL)
		return fail(why, "authentication method \"ldap\" requires argument \"ldapserver\" to be set", "");
	for (int i = LDAP_BASE; named && i <= LDAP_FILTER; i++) {
		if (ldap->text[i] != NULL)
			return fail(why, "cannot mix options for simple bind and search+bind modes",
			            text_names[i]);
	}
	if (!named && ldap->text[LDAP_BASE] == NULL)
		return fail(why,
		            "authentication method \"ldap\" requires argument \"ldapbasedn\", "
		            "\"ldapprefix\", or \"ldapsuffix\" to be set",
		            "");
	if (ldap->text[LDAP_ATTRIBUTE] != NULL && ldap->text[LDAP_FILTER] != NULL)
		return fail(why, "cannot use ldapsearchattribute together with ldapsearchfilter", "");
	return true;
}

/* ---- options as a text ---- */

static bool take_line(void *owner, struct line *line, struct sbuf *errors)
{
	struct auth_ldap *ldap = owner;
	struct sbuf why;
	bool good = true;

	sbuf_init(&why, TOKENS_ERRORS_MAX);
	for (size_t i = 0; good && i < line->count; i++) {
		for (size_t n = 0; good && n < line->fields[i].count; n++)
			good = auth_ldap_set(ldap, line->fields[i].tokens[n].text, &why);
	}
	if (!good)
		(void)tokens_fail(errors, line, "%s", sbuf_text(&why));
	sbuf_free(&why);
	return good;
}

struct auth_ldap *auth_ldap_parse(const char *text, struct sbuf *errors)
{
	static const char name[] = "auth_ldap_options";
	struct auth_ldap *ldap = auth_ldap_new();
	struct sbuf why;
	bool good = tokens_parse(name, text, strlen(text), take_line, ldap, errors);

	sbuf_init(&why, TOKENS_ERRORS_MAX);
	if (good && !auth_ldap_complete(ldap, &why)) {
		sbuf_printf(errors, "%s: %s\n", name, sbuf_text(&why));
		good = false;
	}
	sbuf_free(&why);
	if (good)
		return ldap;
	auth_ldap_unref(ldap);
	return NULL;
}

void auth_ldap_format(const struct auth_ldap *ldap, struct sbuf *out)
{
	const char *sep = "";

	for (int i = 0; i < LDAP_TEXTS; i++) {
		if (ldap->text[i] == NULL || i == LDAP_BIND_PASSWORD)
			continue;
		sbuf_printf(out, "%s%s=%s", sep, text_names[i], ldap->text[i]);
		sep = ",";
	}
	if (ldap->port != 0)
		sbuf_printf(out, ",ldapport=%d", ldap->port);
	if (ldap->secure)
		sbuf_add_str(out, ",ldapscheme=ldaps");
	if (ldap->tls)
		sbuf_add_str(out, ",ldaptls=1");
}

#ifdef PGSHUNT_LDAP

#include <ldap.h>

/* For a connection, and for each answer. */
static const struct timeval patience = {.tv_sec = 5};

bool auth_ldap_is_available(void)
{
	return true;
}

static bool set_url(struct auth_ldap *ldap, const char *value, struct sbuf *why)
{
	LDAPURLDesc *url;
	const int rc = ldap_url_parse(value, &url);

	if (rc != LDAP_SUCCESS)
		return fail(why, "could not parse LDAP URL", value);
	ldap->secure = strcmp(url->lud_scheme, "ldaps") == 0;
	ldap->port = url->lud_port;
	ldap->scope = url->lud_scope;
	ldap->by_url = true;
	if (url->lud_host != NULL && url->lud_host[0] != '\0')
		set_text(ldap, LDAP_SERVER, url->lud_host);
	if (url->lud_dn != NULL && url->lud_dn[0] != '\0')
		set_text(ldap, LDAP_BASE, url->lud_dn);
	if (url->lud_attrs != NULL && url->lud_attrs[0] != NULL)
		set_text(ldap, LDAP_ATTRIBUTE, url->lud_attrs[0]);
	if (url->lud_filter != NULL)
		set_text(ldap, LDAP_FILTER, url->lud_filter);
	if (!ldap->secure && strcmp(url->lud_scheme, "ldap") != 0) {
		(void)fail(why, "unsupported LDAP URL scheme", url->lud_scheme);
		ldap_free_urldesc(url);
		return false;
	}
	ldap_free_urldesc(url);
	return true;
}

/* The value of the option of that name; NULL: it is another. */
static const char *value_of(const char *option, const char *name)
{
	const size_t len = strlen(name);

	return strncmp(option, name, len) == 0 && option[len] == '=' ? option + len + 1 : NULL;
}

bool auth_ldap_set(struct auth_ldap *ldap, const char *option, struct sbuf *why)
{
	const char *value;
	char *end;

	for (int i = 0; i < LDAP_TEXTS; i++) {
		if ((value = value_of(option, text_names[i])) != NULL) {
			set_text(ldap, (enum ldap_text)i, value);
			return true;
		}
	}
	if ((value = value_of(option, "ldapurl")) != NULL)
		return set_url(ldap, value, why);
	if ((value = value_of(option, "ldaptls")) != NULL) {
		ldap->tls = strcmp(value, "1") == 0;
		return true;
	}
	if ((value = value_of(option, "ldapscheme")) != NULL) {
		ldap->secure = strcmp(value, "ldaps") == 0;
		return ldap->secure || strcmp(value, "ldap") == 0 ||
		       fail(why, "invalid ldapscheme value", value);
	}
	if ((value = value_of(option, "ldapport")) != NULL) {
		const long port = strtol(value, &end, 10);

		ldap->port = (int)port;
		return (*value != '\0' && *end == '\0' && port > 0 && port < 65536) ||
		       fail(why, "invalid LDAP port number", value);
	}
	sbuf_printf(why, "unrecognized authentication option name: \"%.*s\"",
	            (int)strcspn(option, "="), option);
	return false;
}

/* ---- asking ---- */

static bool complain(LDAP *link, const char *what, int rc, char *why, size_t why_size)
{
	char *more = NULL;

	if (link != NULL)
		(void)ldap_get_option(link, LDAP_OPT_DIAGNOSTIC_MESSAGE, &more);
	(void)snprintf(why, why_size, "LDAP: %s: %s%s%s", what, ldap_err2string(rc),
	               more == NULL || *more == '\0' ? "" : ": ", more == NULL ? "" : more);
	if (more != NULL)
		ldap_memfree(more);
	return false;
}

/* "ldap://a:389 ldap://b:389": the library tries them in turn. */
static bool add_addresses(const struct auth_ldap *ldap, struct sbuf *uris)
{
	const int port = ldap->port != 0   ? ldap->port
	                 : ldap->secure ? LDAPS_PORT
	                                : LDAP_PORT;
	const char *at = ldap->text[LDAP_SERVER];

	for (;;) {
		size_t len;

		at += strspn(at, " ");
		len = strcspn(at, " ");
		if (len == 0)
			return sbuf_ok(uris) && uris->len > 0;
		sbuf_printf(uris, "%s%s://%.*s:%d", uris->len == 0 ? "" : " ",
		            ldap->secure ? "ldaps" : "ldap", (int)len, at, port);
		at += len;
	}
}

/* NULL: `why`. */
static LDAP *open_link(const struct auth_ldap *ldap, char *why, size_t why_size)
{
	static const int version = LDAP_VERSION3;
	struct sbuf uris;
	LDAP *link = NULL;
	int rc = LDAP_PARAM_ERROR;

	sbuf_init(&uris, 4096);
	if (add_addresses(ldap, &uris))
		rc = ldap_initialize(&link, sbuf_text(&uris));
	sbuf_free(&uris);
	if (rc == LDAP_SUCCESS)
		rc = ldap_set_option(link, LDAP_OPT_PROTOCOL_VERSION, &version);
	if (rc == LDAP_SUCCESS)
		rc = ldap_set_option(link, LDAP_OPT_NETWORK_TIMEOUT, &patience);
	if (rc == LDAP_SUCCESS)
		rc = ldap_set_option(link, LDAP_OPT_TIMEOUT, &patience);
	/* Other servers would be given the password. */
	if (rc == LDAP_SUCCESS)
		rc = ldap_set_option(link, LDAP_OPT_REFERRALS, LDAP_OPT_OFF);
	if (rc == LDAP_SUCCESS && ldap->tls)
		rc = ldap_start_tls_s(link, NULL, NULL);
	if (rc == LDAP_SUCCESS)
		return link;
	(void)complain(link, "could not connect", rc, why, why_size);
	if (link != NULL)
		(void)ldap_unbind_ext_s(link, NULL, NULL);
	return NULL;
}

/* A simple bind on a connection of its own, which is returned. */
static LDAP *bind_as(const struct auth_ldap *ldap, const char *dn, const char *password, char *why,
                     size_t why_size)
{
	struct berval secret = {.bv_len = strlen(password),
	                        .bv_val = (char *)(uintptr_t)password};
	LDAP *link = open_link(ldap, why, why_size);
	int rc;

	if (link == NULL)
		return NULL;
	rc = ldap_sasl_bind_s(link, dn, LDAP_SASL_SIMPLE, &secret, NULL, NULL, NULL);
	if (rc == LDAP_SUCCESS)
		return link;
	(void)complain(link, "bind", rc, why, why_size);
	(void)ldap_unbind_ext_s(link, NULL, NULL);
	return NULL;
}

/* The filter that finds the user; its name has nothing in it that means something there. */
static bool add_filter(const struct auth_ldap *ldap, const char *user, struct sbuf *filter)
{
	static const char mark[] = "$username";
	const char *at = ldap->text[LDAP_FILTER];
	const char *attribute = ldap->text[LDAP_ATTRIBUTE];

	if (at == NULL) {
		sbuf_printf(filter, "(%s=%s)", attribute == NULL ? "uid" : attribute, user);
		return sbuf_ok(filter);
	}
	while (*at != '\0') {
		if (strncmp(at, mark, sizeof(mark) - 1) == 0) {
			sbuf_add_str(filter, user);
			at += sizeof(mark) - 1;
		} else {
			sbuf_add_char(filter, *at++);
		}
	}
	return sbuf_ok(filter);
}

/* The distinguished name of the one entry that is the user's, for ldap_memfree(); NULL: `why`. */
static char *find_user(const struct auth_ldap *ldap, LDAP *link, const char *user, char *why,
                       size_t why_size)
{
	static const char none[] = LDAP_NO_ATTRS;
	char *attributes[] = {(char *)(uintptr_t)none, NULL};
	LDAPMessage *found = NULL;
	struct timeval limit = patience;
	struct sbuf filter;
	char *dn = NULL;
	int rc = LDAP_PARAM_ERROR;
	int count = 0;

	sbuf_init(&filter, 16384);
	if (add_filter(ldap, user, &filter))
		rc = ldap_search_ext_s(link, ldap->text[LDAP_BASE],
		                       ldap->by_url ? ldap->scope : LDAP_SCOPE_SUBTREE,
		                       sbuf_text(&filter), attributes, 0, NULL, NULL, &limit, 2, &found);
	sbuf_free(&filter);
	/* More than one is the end of the search, and as good as none. */
	if (rc == LDAP_SUCCESS || rc == LDAP_SIZELIMIT_EXCEEDED)
		count = ldap_count_entries(link, found);
	if (count == 1 && rc == LDAP_SUCCESS)
		dn = ldap_get_dn(link, ldap_first_entry(link, found));
	else if (rc == LDAP_SUCCESS || count > 1)
		(void)snprintf(why, why_size, "LDAP: the search found %s entry for \"%.60s\"",
		               count == 0 ? "no" : "more than one", user);
	else
		(void)complain(link, "search", rc, why, why_size);
	(void)ldap_msgfree(found);
	return dn;
}

static bool check_bind(const struct auth_ldap *ldap, const char *dn, const char *password,
                       char *why, size_t why_size)
{
	LDAP *link = bind_as(ldap, dn, password, why, why_size);

	if (link != NULL)
		(void)ldap_unbind_ext_s(link, NULL, NULL);
	return link != NULL;
}

static const char *text_of(const struct auth_ldap *ldap, enum ldap_text which)
{
	return ldap->text[which] == NULL ? "" : ldap->text[which];
}

static bool check_named(const struct auth_ldap *ldap, const char *user, const char *password,
                        char *why, size_t why_size)
{
	struct sbuf dn;
	bool good;

	sbuf_init(&dn, 16384);
	sbuf_printf(&dn, "%s%s%s", text_of(ldap, LDAP_PREFIX), user, text_of(ldap, LDAP_SUFFIX));
	good = sbuf_ok(&dn) && check_bind(ldap, sbuf_text(&dn), password, why, why_size);
	sbuf_free(&dn);
	return good;
}

bool auth_ldap_check(const struct auth_ldap *ldap, const char *user, const char *password,
                     char *why, size_t why_size)
{
	LDAP *link;
	char *dn;
	bool good;

	if (ldap->text[LDAP_BASE] == NULL)
		return check_named(ldap, user, password, why, why_size);
	/* As PostgreSQL: what would be more than a name in a filter. */
	if (strpbrk(user, "*()\\/") != NULL) {
		(void)snprintf(why, why_size,
		               "invalid character in user name for LDAP authentication");
		return false;
	}
	link = bind_as(ldap, text_of(ldap, LDAP_BIND_DN), text_of(ldap, LDAP_BIND_PASSWORD), why,
	               why_size);
	if (link == NULL)
		return false;
	dn = find_user(ldap, link, user, why, why_size);
	(void)ldap_unbind_ext_s(link, NULL, NULL);
	if (dn == NULL)
		return false;
	good = check_bind(ldap, dn, password, why, why_size);
	ldap_memfree(dn);
	return good;
}

#else

bool auth_ldap_is_available(void)
{
	return false;
}

bool auth_ldap_set(struct auth_ldap *ldap, const char *option, struct sbuf *why)
{
	(void)ldap;
	(void)option;
	return fail(why, "this pgshuntd was built without LDAP", "");
}

bool auth_ldap_check(const struct auth_ldap *ldap, const char *user, const char *password,
                     char *why, size_t why_size)
{
	(void)ldap;
	(void)user;
	(void)password;
	(void)snprintf(why, why_size, "built without LDAP");
	return false;
}

#endif
