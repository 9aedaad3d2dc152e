/* SPDX-License-Identifier: PostgreSQL */
/*
 * The shell scripts of pgshunt standby: POSIX sh, for the machine of the new standby.
 */
#include "migrate/shell.h"
#include "migrate/standby.h"

#include <string.h>

static void assign(struct sbuf *out, const char *name, const char *value)
{
	sbuf_printf(out, "%s=", name);
	shell_quote(out, value);
	sbuf_add_char(out, '\n');
}

/* What is asked is answered by lines "pgshunt:name=value"; nothing is changed. */
void standby_probe_script(const struct standby *standby, struct sbuf *out)
{
	assign(out, "D", standby->data);
	assign(out, "B", standby->bin);
	sbuf_add_str(
	    out,
	    "echo \"pgshunt:version=$(\"$B/postgres\" --version 2>&1 | head -n 1)\"\n"
	    "[ -x \"$B/pg_basebackup\" ] && echo pgshunt:basebackup=yes\n"
	    "if [ ! -e \"$D\" ] && [ ! -L \"$D\" ]; then echo pgshunt:state=absent\n"
	    "elif [ ! -d \"$D\" ] || ! L=$(ls -A \"$D\"); then echo pgshunt:state=unreadable\n"
	    "elif [ -z \"$L\" ]; then echo pgshunt:state=empty\n"
	    "elif [ -f \"$D/PG_VERSION\" ]; then echo pgshunt:state=cluster\n"
	    "  LC_ALL=C \"$B/pg_controldata\" \"$D\" | sed -n"
	    " -e 's/^Database system identifier: */pgshunt:system=/p'"
	    " -e 's/^Database cluster state: */pgshunt:cluster=/p'"
	    " -e 's/^Latest checkpoint.s TimeLineID: */pgshunt:timeline=/p'\n"
	    "  [ -f \"$D/standby.signal\" ] && echo pgshunt:signal=yes\n"
	    "  P=$(head -n 1 \"$D/postmaster.pid\" 2>/dev/null)\n"
	    "  if [ -n \"$P\" ] && { kill -0 \"$P\" 2>/dev/null || [ -d \"/proc/$P\" ]; }; then"
	    " echo pgshunt:running=yes; fi\n"
	    "else echo pgshunt:state=other\nfi\n"
	    "P=$D\nwhile [ ! -d \"$P\" ]; do P=$(dirname \"$P\"); done\n"
	    "LC_ALL=C df -Pk \"$P\" | sed -n -e '2s/^[^ ]*  *[0-9]*  *[0-9]*  *\\([0-9]*\\)"
	    " .*/pgshunt:free=\\1/p'\n"
	    "exit 0\n");
}

/* One field of a password file. */
static void passfile_field(struct sbuf *out, const char *text)
{
	for (; *text != '\0'; text++) {
		if (*text == ':' || *text == '\\')
			sbuf_add_char(out, '\\');
		sbuf_add_char(out, *text);
	}
}

static void write_passfile(const struct standby *standby, bool secret, struct sbuf *out)
{
	const struct config_server *source = standby->move->source.conf;
	struct sbuf line;

	sbuf_init(&line, 8192);
	/* For a Unix socket libpq looks for its directory, or for localhost. */
	passfile_field(&line, source->host);
	sbuf_printf(&line, ":%d:*:", source->port);
	passfile_field(&line, standby->user);
	sbuf_add_char(&line, ':');
	if (secret)
		passfile_field(&line, standby->secret);
	else
		sbuf_printf(&line, "PASSWORD_OF_%s", standby->user);
	if (!secret)
		sbuf_printf(out,
		            "# Write the password of %s instead of PASSWORD_OF_%s, in this "
		            "file and nowhere else.\n",
		            standby->user, standby->user);
	sbuf_add_str(out, "umask 077\nprintf '%s\\n' ");
	shell_quote(out, sbuf_text(&line));
	sbuf_add_str(out, " > ");
	shell_quote(out, standby->passfile);
	sbuf_add_char(out, '\n');
	if (line.data != NULL)
		explicit_bzero(line.data, line.cap);
	sbuf_free(&line);
}

/* A value of a connection string. */
static void connstr_item(struct sbuf *out, const char *key, const char *value)
{
	sbuf_printf(out, "%s%s='", out->len > 0 ? " " : "", key);
	for (; *value != '\0'; value++) {
		if (*value == '\'' || *value == '\\')
			sbuf_add_char(out, '\\');
		sbuf_add_char(out, *value);
	}
	sbuf_add_char(out, '\'');
}

void standby_copy_script(const struct standby *standby, bool secret, struct sbuf *out)
{
	const struct config_server *source = standby->move->source.conf;
	struct sbuf connstr;

	sbuf_add_str(out, "set -e\n");
	assign(out, "D", standby->data);
	assign(out, "B", standby->bin);
	if (standby->passfile != NULL)
		write_passfile(standby, secret, out);
	if (standby->moved != NULL) {
		sbuf_add_str(out, "mv \"$D\" ");
		shell_quote(out, standby->moved);
		sbuf_add_char(out, '\n');
	}
	sbuf_init(&connstr, 8192);
	connstr_item(&connstr, "host", source->host);
	sbuf_printf(&connstr, " port=%d", source->port);
	connstr_item(&connstr, "user", standby->user);
	if (standby->passfile != NULL)
		connstr_item(&connstr, "passfile", standby->passfile);
	connstr_item(&connstr, "application_name", standby->move->target.conf->name);
	/* -R writes primary_conninfo, primary_slot_name and standby.signal; no password is in it.
	 */
	sbuf_add_str(out, "\"$B/pg_basebackup\" -D \"$D\" -X stream -c fast -R -P -w -S ");
	shell_quote(out, standby->slot);
	if (!standby->slot_exists)
		sbuf_add_str(out, " -C");
	sbuf_add_str(out, " -d ");
	shell_quote(out, sbuf_text(&connstr));
	sbuf_add_char(out, '\n');
	sbuf_free(&connstr);
}

void standby_start_script(const struct standby *standby, struct sbuf *out)
{
	const char *command = standby->move->target.conf->start_command;

	sbuf_add_str(out, "set -e\n");
	assign(out, "D", standby->data);
	assign(out, "B", standby->bin);
	/* Nothing that keeps running may keep our pipe open. */
	if (*command != '\0')
		sbuf_printf(out, "%s </dev/null\n", command);
	else
		sbuf_add_str(out,
		             "if ! \"$B/pg_ctl\" -D \"$D\" -l \"$D.log\" -w start </dev/null; then"
		             " tail -n 20 \"$D.log\"; exit 1; fi\n");
}
