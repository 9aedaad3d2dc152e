/* SPDX-License-Identifier: PostgreSQL */
/*
 * Who may log in from where and how: rules in the format of pg_hba.conf (PostgreSQL documentation
 * 21.1), of which the first that fits a connection decides.  Made once, then read by all threads;
 * counted.
 *
 * What only the server could answer (who is a member of a role) and what would need a look-up in
 * the middle of a login (host names) is refused when the file is read.
 */
#ifndef AUTH_HBA_H
#define AUTH_HBA_H

#include "auth/client_auth.h"
#include "auth/ldap.h"
#include "auth/tokens.h"
#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum hba_conn {
	HBA_LOCAL,
	HBA_HOST,
	HBA_HOSTSSL,
	HBA_HOSTNOSSL,
	HBA_HOSTGSSENC, /* never fits: there is no GSSAPI here */
	HBA_HOSTNOGSSENC,
	HBA_CONN_COUNT
};

enum hba_address { HBA_ADDRESS_ALL, HBA_ADDRESS_MASK, HBA_ADDRESS_SAMEHOST, HBA_ADDRESS_SAMENET };

enum hba_clientcert { HBA_CERT_OFF, HBA_CERT_VERIFY_CA, HBA_CERT_VERIFY_FULL };

struct hba_rule {
	const char *file; /* of the hba */
	unsigned line;
	enum hba_conn conn;
	struct field databases;
	struct field users;
	enum hba_address address;
	int family; /* of HBA_ADDRESS_MASK: AF_INET or AF_INET6 */
	uint8_t addr[16];
	uint8_t mask[16];
	enum auth_type method;
	char *map; /* NULL: none */
	enum hba_clientcert clientcert;
	bool clientname_dn; /* the certificate's whole name counts, not its common name */
	struct auth_ldap *ldap; /* of the method ldap */
};

struct hba;

/* NULL: `errors` has a line for each problem, "file:line: …".  `theirs`: as pgbouncer, which passes
 * wrong lines over (`errors` has them all the same), but takes cert and peer on lines of any type. */
struct hba *hba_load(const char *path, bool theirs, struct sbuf *errors) MUST_CHECK;
struct hba *hba_parse(const char *path, const char *text, size_t len, bool theirs,
                      struct sbuf *errors) MUST_CHECK;

struct hba *hba_ref(struct hba *hba);
void hba_unref(struct hba *hba); /* NULL is allowed */

struct hba_request {
	const struct sockaddr *peer; /* AF_UNIX, AF_INET or AF_INET6 */
	bool tls;
	bool physical_replication; /* replication connection without a database */
	const char *database;
	const char *user;
};

/* The first rule that fits; NULL: none. */
const struct hba_rule *hba_match(const struct hba *hba, const struct hba_request *request);

size_t hba_count(const struct hba *hba);
const struct hba_rule *hba_rule_at(const struct hba *hba, size_t index);

/* The words of a rule, for SHOW. */
const char *hba_conn_name(enum hba_conn conn);
const char *hba_method_name(enum auth_type method);
/* "all", "samehost", an address …; "" for local.  `mask`: of HBA_ADDRESS_MASK, else "". */
void hba_format_address(const struct hba_rule *rule, char address[64], char mask[64]);
void hba_format_options(const struct hba_rule *rule, struct sbuf *out);

/* ---- for hba.c and hba_parse.c only ---- */

struct hba {
	_Atomic unsigned refs;
	bool theirs; /* see hba_load() */
	bool unsafe; /* of theirs: a line that rejects somebody is wrong */
	struct hba_rule *rules;
	size_t count;
	char **files;
	size_t file_count;
};

void hba_rule_free(struct hba_rule *rule);

#endif
