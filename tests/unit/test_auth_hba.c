/* SPDX-License-Identifier: PostgreSQL */
/* pg_hba.conf and pg_ident.conf: what is read, what is refused and how, which rule fits. */
#include "auth/hba.h"
#include "auth/ident.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static struct sockaddr_storage peer(const char *text)
{
	struct sockaddr_storage name = {0};
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};

	if (text == NULL)
		name.ss_family = AF_UNIX;
	else if (inet_pton(AF_INET, text, &in.sin_addr) == 1)
		memcpy(&name, &in, sizeof(in));
	else if (inet_pton(AF_INET6, text, &in6.sin6_addr) == 1)
		memcpy(&name, &in6, sizeof(in6));
	else
		fail_msg("%s is no address", text);
	return name;
}

static struct hba *parse(const char *text)
{
	struct sbuf errors;
	struct hba *hba;

	sbuf_init(&errors, TOKENS_ERRORS_MAX);
	hba = hba_parse("pg_hba.conf", text, strlen(text), false, &errors);
	if (hba == NULL)
		fail_msg("%s", sbuf_text(&errors));
	assert_int_equal(errors.len, 0);
	sbuf_free(&errors);
	return hba;
}

/* The line of the rule that fits; 0: none. */
static unsigned line_for(const struct hba *hba, const char *from, bool tls, const char *database,
                         const char *user)
{
	const struct sockaddr_storage name = peer(from);
	const struct hba_request request = {(const struct sockaddr *)&name, tls, false, database,
	                                    user};
	const struct hba_rule *rule = hba_match(hba, &request);

	return rule == NULL ? 0 : rule->line;
}

static unsigned fits(const char *text, const char *from, bool tls, const char *database,
                     const char *user)
{
	struct hba *hba = parse(text);
	unsigned line = line_for(hba, from, tls, database, user);

	hba_unref(hba);
	return line;
}

static void test_connection_types(void **state)
{
	static const char text[] = "local all all trust\n"
	                           "hostssl all tls 0.0.0.0/0 md5\n"
	                           "hostnossl all plain 0.0.0.0/0 md5\n"
	                           "hostgssenc all gss 0.0.0.0/0 md5\n"
	                           "hostnogssenc all nogss 0.0.0.0/0 md5\n"
	                           "host all any 0.0.0.0/0 md5\n";

	(void)state;
	assert_int_equal(fits(text, NULL, false, "d", "u"), 1);
	assert_int_equal(fits(text, NULL, true, "d", "u"), 1);
	assert_int_equal(fits(text, "1.2.3.4", true, "d", "tls"), 2);
	assert_int_equal(fits(text, "1.2.3.4", false, "d", "tls"), 0);
	assert_int_equal(fits(text, "1.2.3.4", false, "d", "plain"), 3);
	assert_int_equal(fits(text, "1.2.3.4", true, "d", "plain"), 0);
	assert_int_equal(fits(text, "1.2.3.4", false, "d", "gss"), 0);
	assert_int_equal(fits(text, "1.2.3.4", true, "d", "nogss"), 5);
	assert_int_equal(fits(text, "1.2.3.4", true, "d", "any"), 6);
	assert_int_equal(fits(text, "1.2.3.4", false, "d", "any"), 6);
	assert_int_equal(fits(text, "1.2.3.4", false, "d", "u"), 0);
}

static void test_addresses(void **state)
{
	(void)state;
	assert_int_equal(fits("host all all 10.1.0.0/16 trust", "10.1.2.3", false, "d", "u"), 1);
	assert_int_equal(fits("host all all 10.1.0.0/16 trust", "10.2.2.3", false, "d", "u"), 0);
	assert_int_equal(fits("host all all 10.1.0.0/15 trust", "10.0.2.3", false, "d", "u"), 1);
	assert_int_equal(fits("host all all 10.1.2.3/32 trust", "10.1.2.2", false, "d", "u"), 0);
	assert_int_equal(fits("host all all 0.0.0.0/0 trust", "::1", false, "d", "u"), 0);
	assert_int_equal(fits("host all all ::/0 trust", "::1", false, "d", "u"), 1);
	assert_int_equal(fits("host all all ::/0 trust", "1.2.3.4", false, "d", "u"), 0);
	assert_int_equal(fits("host all all 10.0.0.0 255.0.0.0 trust", "10.9.9.9", false, "d", "u"),
	                 1);
	assert_int_equal(fits("host all all 10.0.0.0 255.0.0.0 trust", "11.9.9.9", false, "d", "u"),
	                 0);
	assert_int_equal(fits("host all all fe80::1 ffff:: trust", "fe80::2", false, "d", "u"), 1);
	assert_int_equal(fits("host all all 10.1.2.3/8 trust", "::ffff:10.9.9.9", false, "d", "u"),
	                 1);
	assert_int_equal(fits("host all all all trust", "::1", false, "d", "u"), 1);
	assert_int_equal(fits("host all all samehost trust", "127.0.0.1", false, "d", "u"), 1);
	assert_int_equal(fits("host all all samenet trust", "127.9.9.9", false, "d", "u"), 1);
	assert_int_equal(fits("host all all samehost trust", "240.1.2.3", false, "d", "u"), 0);
	assert_int_equal(fits("host all all samenet trust", "240.1.2.3", false, "d", "u"), 0);
	assert_int_equal(fits("local all all trust", "127.0.0.1", false, "d", "u"), 0);
	assert_int_equal(fits("host all all all trust", NULL, false, "d", "u"), 0);
}

static void test_names(void **state)
{
	(void)state;
	assert_int_equal(fits("local a,b,\"c d\" u, v trust", NULL, false, "c d", "v"), 1);
	assert_int_equal(fits("local a,b u,v trust", NULL, false, "c", "v"), 0);
	assert_int_equal(fits("local a u trust\nlocal all all md5", NULL, false, "a", "w"), 2);
	assert_int_equal(fits("local sameuser all trust", NULL, false, "x", "x"), 1);
	assert_int_equal(fits("local sameuser all trust", NULL, false, "x", "y"), 0);
	/* Quoted key words are names. */
	assert_int_equal(fits("local \"all\" \"all\" trust", NULL, false, "x", "y"), 0);
	assert_int_equal(fits("local \"all\" \"all\" trust", NULL, false, "all", "all"), 1);
	assert_int_equal(fits("local \"sameuser\" all trust", NULL, false, "x", "x"), 0);
	assert_int_equal(fits("local all \"+group\" trust", NULL, false, "x", "+group"), 1);
	assert_int_equal(fits("local all \"a\"\"b\" trust", NULL, false, "x", "a\"b"), 1);
	/* replication fits physical replication connections only. */
	assert_int_equal(fits("local replication all trust", NULL, false, "replication", "u"), 0);
	assert_int_equal(fits("local \"replication\" all trust", NULL, false, "replication", "u"),
	                 1);
	/* Regular expressions, as of PostgreSQL 16: not anchored. */
	assert_int_equal(fits("local /^db\\d+$ all trust", NULL, false, "db12", "u"), 1);
	assert_int_equal(fits("local /^db\\d+$ all trust", NULL, false, "db", "u"), 0);
	assert_int_equal(fits("local \"/^(a|b),?$\" all trust", NULL, false, "a,", "u"), 1);
	assert_int_equal(fits("local all /_ro trust", NULL, false, "d", "x_ro_y"), 1);
	assert_int_equal(fits("local all \"/^[\\w.]{2,3}$\" trust", NULL, false, "d", "a.b"), 1);
	assert_int_equal(fits("local all \"/^[\\w.]{2,3}$\" trust", NULL, false, "d", "a-b"), 0);
}

static void test_replication(void **state)
{
	struct hba *hba = parse("local all all trust\nlocal db,replication all md5");
	const struct sockaddr_storage name = peer(NULL);
	const struct hba_request request = {(const struct sockaddr *)&name, false, true, "u", "u"};

	(void)state;
	assert_int_equal(hba_match(hba, &request)->line, 2);
	hba_unref(hba);
}

static void test_lines(void **state)
{
	(void)state;
	assert_int_equal(fits("# nothing\n\n  local all all trust # x\n", NULL, false, "d", "u"),
	                 3);
	assert_int_equal(fits("local \\\nall \\\n all trust\nlocal x x md5", NULL, false, "d", "u"),
	                 1);
	assert_int_equal(
	    fits("local \\\nall \\\n y trust\nlocal all all md5", NULL, false, "d", "u"), 4);
	assert_int_equal(fits("local all all trust\r\n", NULL, false, "d", "u"), 1);
	assert_int_equal(fits("local\tall\tall\ttrust", NULL, false, "d", "u"), 1);
	assert_int_equal(fits("local \"#a\" all trust", NULL, false, "#a", "u"), 1);
}

static void test_methods_and_options(void **state)
{
	struct hba *hba = parse("local all a peer map=m\n"
	                        "local all b ident\n"
	                        "hostssl all c all cert map=\"x y\" clientname=DN\n"
	                        "hostssl all d all scram-sha-256 clientcert=verify-ca\n"
	                        "hostssl all e all password clientcert=verify-full\n"
	                        "host all f all reject\n");
	struct sbuf out;
	char address[64];
	char mask[64];

	(void)state;
	assert_int_equal(hba_count(hba), 6);
	assert_int_equal(hba_rule_at(hba, 0)->method, AUTH_TYPE_PEER);
	assert_string_equal(hba_rule_at(hba, 0)->map, "m");
	assert_int_equal(hba_rule_at(hba, 1)->method, AUTH_TYPE_PEER);
	assert_int_equal(hba_rule_at(hba, 2)->method, AUTH_TYPE_CERT);
	assert_int_equal(hba_rule_at(hba, 2)->clientcert, HBA_CERT_VERIFY_FULL);
	assert_int_equal(hba_rule_at(hba, 3)->clientcert, HBA_CERT_VERIFY_CA);
	assert_int_equal(hba_rule_at(hba, 4)->method, AUTH_TYPE_PLAIN);
	assert_int_equal(hba_rule_at(hba, 5)->method, AUTH_TYPE_REJECT);
	sbuf_init(&out, 1000);
	hba_format_options(hba_rule_at(hba, 2), &out);
	assert_string_equal(sbuf_text(&out), "map=x y,clientcert=verify-full,clientname=DN");
	sbuf_reset(&out);
	field_format(&hba_rule_at(hba, 2)->users, &out);
	assert_string_equal(sbuf_text(&out), "c");
	hba_format_address(hba_rule_at(hba, 2), address, mask);
	assert_string_equal(address, "all");
	sbuf_free(&out);
	hba_unref(hba);
}

static void test_errors(void **state)
{
	static const struct {
		const char *text;
		const char *error;
	} cases[] = {
	    {"", "pg_hba.conf: it contains no entries\n"},
	    {"remote all all trust", "pg_hba.conf:1: invalid connection type \"remote\"\n"},
	    {"local", "pg_hba.conf:1: end-of-line before database specification\n"},
	    {"local all", "pg_hba.conf:1: end-of-line before role specification\n"},
	    {"local all all", "pg_hba.conf:1: end-of-line before authentication method\n"},
	    {"\n\nlocal all all foo", "pg_hba.conf:3: invalid authentication method \"foo\"\n"},
	    {"host all all", "pg_hba.conf:1: end-of-line before IP address specification\n"},
	    {"host all all 1.2.3.4/33 md5",
	     "pg_hba.conf:1: invalid CIDR mask in address \"1.2.3.4/33\"\n"},
	    {"host all all 1.2.3.4/x md5", "pg_hba.conf:1: invalid CIDR mask in address"},
	    {"host all all 1.2.3/8/8 md5", "pg_hba.conf:1: invalid CIDR mask in address"},
	    {"host all all 1.2.3.4.5/8 md5", "pg_hba.conf:1: invalid IP address \"1.2.3.4.5/8\"\n"},
	    {"host all all 1.2.3.4", "pg_hba.conf:1: end-of-line before netmask specification"},
	    {"host all all 1.2.3.4 md5", "pg_hba.conf:1: invalid IP mask \"md5\"\n"},
	    {"host all all 1.2.3.4 ffff:: md5",
	     "pg_hba.conf:1: IP address and mask do not match\n"},
	    {"host all all db.example.com md5", "host names are not supported"},
	    {"host all all .example.com md5", "host names are not supported"},
	    {"host all all 1.2.3.4/8,5.6.7.8/8 md5", "multiple values specified for host address"},
	    {"host all all all peer", "peer authentication is only supported on local sockets"},
	    {"host all all all cert", "cert authentication is only supported on hostssl"},
	    {"host all all all radius", "authentication method \"radius\" is not supported"},
	    {"host all all all ldap ldapserver=a", "\"ldapbasedn\", \"ldapprefix\", or"},
	    {"host all all all md5 ldapserver=a", "only valid for authentication method ldap"},
	    {"local all +admins trust", "who is a member of a role only the server knows"},
	    {"local samerole all trust", "who is a member of a role only the server knows"},
	    {"local all all trust foo", "authentication option not in name=value format: foo"},
	    {"local all all trust foo=1", "unrecognized authentication option name: \"foo\""},
	    {"local all all trust map=x", "only valid for authentication methods peer and cert"},
	    {"host all all all md5 clientcert=verify-ca",
	     "clientcert can only be configured for \"hostssl\" rows"},
	    {"hostssl all all all md5 clientcert=1", "invalid value for clientcert: \"1\""},
	    {"hostssl all all all cert clientcert=verify-ca", "clientcert only accepts"},
	    {"local all /( trust", "invalid regular expression \"(\""},
	    {"local all /(?i)x trust", "are not supported"},
	    {"local all /a\\ trust", "it ends with a backslash"},
	    {"local all /[a\\ trust", "not supported inside of brackets"},
	    {"local all /a*? trust", "non-greedy"},
	    {"local all /a+++++++++++++++++++++++++++++++++++++ trust", "must not follow"},
	    {"local all /((((((((((a+)+)+)+)+)+)+)+)+)+)+ trust", "nested too deeply"},
	    {"local all \"/(a)\\1\" trust", "back references"},
	    {"local all @missing trust", "could not open file \"missing\""},
	    {"include missing", "could not open file \"missing\""},
	    {"include", "include takes one name"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sbuf errors;

		sbuf_init(&errors, TOKENS_ERRORS_MAX);
		assert_null(
		    hba_parse("pg_hba.conf", cases[i].text, strlen(cases[i].text), false, &errors));
		if (strstr(sbuf_text(&errors), cases[i].error) == NULL)
			fail_msg("%s: %s instead of %s", cases[i].text, sbuf_text(&errors),
			         cases[i].error);
		assert_int_equal(errors.data[errors.len - 1], '\n');
		sbuf_free(&errors);
	}
}

/* As pgbouncer: what is wrong is passed over, but where that would let in whom it does not. */
static void test_theirs(void **state)
{
	static const char text[] = "host all u1 some.host trust\n"
	                           "host all u2 10.0.0.0/8 cert\n"
	                           "host all u3 10.0.0.0/8 peer\n"
	                           "host all u4 10.0.0.0/8 gss\n"
	                           "local all +role trust\n"
	                           "host all all 10.0.0.0/8 md5\n";
	static const struct {
		const char *user;
		size_t line;
	} fits[] = {{"u1", 6}, {"u2", 2}, {"u3", 3}, {"u4", 6}};
	struct sbuf errors;
	struct hba *hba;

	(void)state;
	sbuf_init(&errors, TOKENS_ERRORS_MAX);
	hba = hba_parse("f", text, strlen(text), true, &errors);
	assert_non_null(hba);
	assert_int_equal(hba_count(hba), 3);
	for (size_t i = 0; i < sizeof(fits) / sizeof(fits[0]); i++)
		assert_int_equal(line_for(hba, "10.1.2.3", false, "d", fits[i].user), fits[i].line);
	assert_int_equal(hba_rule_at(hba, 0)->clientcert, HBA_CERT_VERIFY_FULL);
	assert_int_equal(hba_rule_at(hba, 1)->method, AUTH_TYPE_REJECT);
	assert_non_null(strstr(sbuf_text(&errors), "f:1: "));
	assert_non_null(strstr(sbuf_text(&errors), "f:5: "));
	hba_unref(hba);
	sbuf_reset(&errors);
	assert_null(hba_parse("f", "nonsense\n", 9, true, &errors));
	/* A map has no effect but with peer and cert. */
	hba = hba_parse("f", "host all all all md5 map=m\n", 27, true, &errors);
	assert_non_null(hba);
	hba_unref(hba);
	assert_null(hba_load("/nowhere/hba.conf", true, &errors));
	sbuf_free(&errors);
}

/* A line that keeps somebody out is not passed over. */
static void test_theirs_rejects(void **state)
{
	static const char *const wrong[] = {
	    "host all +blocked all reject\n", "host all all some.host reject\n",
	    "local samegroup all reject\n", "host all u1,+blocked 10.0.0.0 255.0.0.0 reject\n"};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		char text[128];
		struct sbuf errors;

		sbuf_init(&errors, TOKENS_ERRORS_MAX);
		(void)snprintf(text, sizeof(text), "host all all all trust\n%s", wrong[i]);
		assert_null(hba_parse("f", text, strlen(text), true, &errors));
		assert_non_null(strstr(sbuf_text(&errors), "f:2: the line rejects somebody"));
		sbuf_free(&errors);
	}
}

static void test_every_error_is_told(void **state)
{
	static const char text[] = "local all all foo\nlocal all all trust\nhost all all x\n";
	struct sbuf errors;

	(void)state;
	sbuf_init(&errors, TOKENS_ERRORS_MAX);
	assert_null(hba_parse("f", text, strlen(text), false, &errors));
	assert_non_null(strstr(sbuf_text(&errors), "f:1: "));
	assert_non_null(strstr(sbuf_text(&errors), "f:3: "));
	sbuf_free(&errors);
}

/* ---- files ---- */

static char folder[] = "/tmp/pgshunt-hba.XXXXXX";

static void put(const char *name, const char *text)
{
	char path[256];
	FILE *file;

	(void)snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static void test_files(void **state)
{
	static const char *const names[] = {"main",       "users",     "more",
	                                    "sub/x.conf", "sub/y.off", "loop"};
	struct sbuf errors;
	struct hba *hba;
	char path[256];

	(void)state;
	assert_non_null(mkdtemp(folder));
	(void)snprintf(path, sizeof(path), "%s/sub", folder);
	assert_int_equal(mkdir(path, 0700), 0);
	put("users", "alice bob, \"carol d\" # comment\ndave\n");
	put("more", "local more all md5\ninclude_if_exists nothing\n");
	put("sub/x.conf", "local sub all md5\n");
	put("sub/y.off", "nonsense\n");
	put("loop", "include loop\n");
	put("main",
	    "local one @users trust\ninclude more\ninclude_dir sub\nlocal two x,@users md5\n");
	(void)snprintf(path, sizeof(path), "%s/main", folder);
	sbuf_init(&errors, TOKENS_ERRORS_MAX);
	hba = hba_load(path, false, &errors);
	if (hba == NULL)
		fail_msg("%s", sbuf_text(&errors));
	assert_int_equal(hba_count(hba), 4);
	assert_int_equal(line_for(hba, NULL, false, "one", "carol d"), 1);
	assert_int_equal(line_for(hba, NULL, false, "one", "dave"), 1);
	assert_int_equal(line_for(hba, NULL, false, "one", "erin"), 0);
	assert_int_equal(line_for(hba, NULL, false, "more", "erin"), 1);
	assert_int_equal(line_for(hba, NULL, false, "sub", "erin"), 1);
	assert_int_equal(line_for(hba, NULL, false, "two", "dave"), 4);
	assert_int_equal(line_for(hba, NULL, false, "two", "x"), 4);
	assert_true(strcmp(hba_rule_at(hba, 1)->file + strlen(folder), "/more") == 0);
	hba_unref(hba);
	(void)snprintf(path, sizeof(path), "%s/loop", folder);
	assert_null(hba_load(path, false, &errors));
	assert_non_null(strstr(sbuf_text(&errors), "maximum nesting depth exceeded"));
	sbuf_free(&errors);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
		assert_int_equal(unlink(path), 0);
	}
	(void)snprintf(path, sizeof(path), "%s/sub", folder);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(rmdir(folder), 0);
}

/* ---- maps ---- */

static void test_maps(void **state)
{
	static const char text[] = "m root admin\n"
	                           "m root \"second user\"\n"
	                           "re \"/^(.*)@example\\.com$\" \\1\n"
	                           "re /^guest guest\n"
	                           "re /^(.)x pre_\\1_post\n"
	                           "every someone all\n"
	                           "to someone /^app\n"
	                           "\"odd name\" a b\n";
	struct sbuf errors;
	struct ident *ident;

	(void)state;
	sbuf_init(&errors, TOKENS_ERRORS_MAX);
	ident = ident_parse("i", text, strlen(text), &errors);
	if (ident == NULL)
		fail_msg("%s", sbuf_text(&errors));
	assert_true(ident_allows(ident, NULL, "root", "root"));
	assert_true(ident_allows(NULL, "", "root", "root"));
	assert_false(ident_allows(ident, NULL, "root", "admin"));
	assert_true(ident_allows(ident, "m", "root", "admin"));
	assert_true(ident_allows(ident, "m", "root", "second user"));
	assert_false(ident_allows(ident, "m", "root", "root"));
	assert_false(ident_allows(ident, "m", "ro", "admin"));
	assert_false(ident_allows(ident, "none", "root", "root"));
	assert_false(ident_allows(NULL, "m", "root", "root"));
	assert_true(ident_allows(ident, "re", "joe@example.com", "joe"));
	assert_false(ident_allows(ident, "re", "joe@example.com", "joey"));
	assert_false(ident_allows(ident, "re", "joe@example.com", "jo"));
	assert_false(ident_allows(ident, "re", "joe@example.org", "joe"));
	assert_true(ident_allows(ident, "re", "guest7", "guest"));
	assert_true(ident_allows(ident, "re", "yx", "pre_y_post"));
	assert_false(ident_allows(ident, "re", "yx", "pre_x_post"));
	assert_true(ident_allows(ident, "every", "someone", "anybody"));
	assert_false(ident_allows(ident, "every", "else", "anybody"));
	assert_true(ident_allows(ident, "to", "someone", "app2"));
	assert_false(ident_allows(ident, "to", "someone", "myapp"));
	assert_true(ident_allows(ident, "odd name", "a", "b"));
	ident_unref(ident);
	sbuf_free(&errors);
}

static void test_wrong_maps(void **state)
{
	static const char *const texts[] = {"m",      "m a",      "m a b c",  "m a,b c",
	                                    "m /( c", "m /x \\1", "m a +role"};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct sbuf errors;

		sbuf_init(&errors, TOKENS_ERRORS_MAX);
		assert_null(ident_parse("i", texts[i], strlen(texts[i]), &errors));
		assert_int_equal(strncmp(sbuf_text(&errors), "i:1: ", 5), 0);
		sbuf_free(&errors);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_connection_types),
	    cmocka_unit_test(test_addresses),
	    cmocka_unit_test(test_names),
	    cmocka_unit_test(test_replication),
	    cmocka_unit_test(test_lines),
	    cmocka_unit_test(test_methods_and_options),
	    cmocka_unit_test(test_errors),
	    cmocka_unit_test(test_theirs),
	    cmocka_unit_test(test_theirs_rejects),
	    cmocka_unit_test(test_every_error_is_told),
	    cmocka_unit_test(test_files),
	    cmocka_unit_test(test_maps),
	    cmocka_unit_test(test_wrong_maps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
