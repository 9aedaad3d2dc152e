/* SPDX-License-Identifier: PostgreSQL */
/*
 * Parameter sets as SQL, as ParameterStatus messages and as bytes for another thread or a file.
 */
#include "session/params_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- SQL ---- */

/*
 * A value as an SQL expression of plain ASCII.
 *
 * The server converts the whole text from the client_encoding it has at that moment, which may be
 * one whose characters end in a byte that looks like a backslash (SJIS, BIG5, GBK …).  Quoting such
 * bytes is how injections are made, so whatever is not ASCII goes as hexadecimal digits and the
 * server decodes it: reported values from the encoding that the client has, extras from the
 * server's own, because a server takes a startup packet as it is.  A backslash means itself in '…'
 * only if standard_conforming_strings is on, but always needs doubling in E'…'.
 */
static void add_value(struct sbuf *sql, const struct param_entry *entry, const char *encoding)
{
	bool backslash = false;
	size_t i;

	for (i = 0; i < entry->value_len; i++) {
		if ((unsigned char)entry->value[i] >= 0x80)
			break;
		backslash |= entry->value[i] == '\\';
	}
	if (i < entry->value_len) {
		sbuf_add_str(sql, "pg_catalog.convert_from(pg_catalog.decode('");
		for (i = 0; i < entry->value_len; i++) {
			static const char digits[] = "0123456789abcdef";
			unsigned char byte = (unsigned char)entry->value[i];

			sbuf_add_char(sql, digits[byte >> 4]);
			sbuf_add_char(sql, digits[byte & 15]);
		}
		if (entry->reported && encoding != NULL)
			sbuf_printf(sql, "','hex'),'%s')", encoding);
		else
			sbuf_add_str(sql, "','hex'),pg_catalog.getdatabaseencoding())");
		return;
	}
	sbuf_add_str(sql, backslash ? "E'" : "'");
	for (i = 0; i < entry->value_len; i++) {
		if (entry->value[i] == '\'' || entry->value[i] == '\\')
			sbuf_add_char(sql, entry->value[i]);
		sbuf_add_char(sql, entry->value[i]);
	}
	sbuf_add_char(sql, '\'');
}

/* RESET "a"."b"; — parts of a valid name hold no quotes. */
static void add_reset(struct sbuf *sql, const char *name)
{
	sbuf_add_str(sql, "RESET \"");
	for (; *name != '\0'; name++) {
		if (*name == '.')
			sbuf_add_str(sql, "\".\"");
		else
			sbuf_add_char(sql, *name);
	}
	sbuf_add_str(sql, "\";");
}

void param_reset_sql(uint16_t bits, const struct param_set *have, struct sbuf *sql)
{
	for (size_t i = 0; i < param_set_count(have); i++) {
		const struct param_entry *entry = param_set_at(have, i);

		if (entry->reported && (param_bit(entry->name) & bits) != 0)
			add_reset(sql, entry->name);
	}
}

static size_t add_resets(const struct param_set *want, const struct param_set *have,
                         struct sbuf *sql)
{
	size_t changes = 0;
	size_t i;

	for (i = 0; i < param_set_count(have); i++) {
		const struct param_entry *entry = param_set_at(have, i);

		if (entry->reported || !param_settable(entry->name) ||
		    param_set_find(want, entry->name) != NULL)
			continue;
		add_reset(sql, entry->name);
		changes++;
	}
	return changes;
}

/* IS NULL, because the value itself would come back as a row: converted to the client's encoding,
 * which may not have its characters, and for nothing. */
static void add_set_config(struct sbuf *sql, const struct param_entry *entry, const char *encoding,
                           bool first)
{
	sbuf_printf(sql, "%spg_catalog.set_config('%s',", first ? "SELECT " : ",", entry->name);
	add_value(sql, entry, encoding);
	sbuf_add_str(sql, ",false) IS NULL");
}

/* The name of the encoding of the reported values, if it is one that needs no quoting. */
static const char *encoding_of(const struct param_set *set)
{
	const char *encoding = param_set_get(set, "client_encoding");

	return encoding != NULL && param_name_valid(encoding) ? encoding : NULL;
}

size_t param_set_sync_sql(const struct param_set *want, const struct param_set *have,
                          struct sbuf *sql)
{
	return param_set_sync_again_sql(want, have, 0, sql);
}

size_t param_set_sync_again_sql(const struct param_set *want, const struct param_set *have,
                                uint16_t bits, struct sbuf *sql)
{
	const struct param_entry *role = NULL;
	const char *encoding;
	size_t changes;
	size_t resets;
	size_t i;

	if (want == have && bits == 0)
		return 0;
	encoding = encoding_of(want);
	/* First what takes privileges away, such as a role. */
	resets = add_resets(want, have, sql);
	changes = resets;
	for (i = 0; i < param_set_count(want); i++) {
		const struct param_entry *entry = param_set_at(want, i);
		const struct param_entry *old = param_set_find(have, entry->name);

		if ((old != NULL && !old->doubted && strcmp(old->value, entry->value) == 0 &&
		     (bits == 0 || (param_bit(entry->name) & bits) == 0)) ||
		    !param_can_sync(entry, have))
			continue;
		if (strcmp(entry->name, "role") == 0) {
			role = entry;
			continue;
		}
		add_set_config(sql, entry, encoding, changes == resets);
		changes++;
	}
	/* Last, as the others may need the privileges of the user who logged in. */
	if (role != NULL) {
		add_set_config(sql, role, encoding, changes == resets);
		changes++;
	}
	return changes;
}

/* ---- ParameterStatus ---- */

static void write_status(struct sbuf *out, const struct param_entry *entry)
{
	sbuf_add_char(out, 'S');
	sbuf_add_be32(out, 4u + entry->name_len + 1u + entry->value_len + 1u);
	sbuf_add(out, entry->name, entry->name_len + 1u);
	sbuf_add(out, entry->value, entry->value_len + 1u);
}

size_t param_set_write_status(const struct param_set *set, struct sbuf *out)
{
	struct param_status *status;
	struct sbuf made;

	if (set == NULL)
		return 0;
	status = param_set_status(set);
	if (status->bytes == NULL) {
		sbuf_init(&made, PARAM_MAX_SQL);
		status->count = param_set_write_status_diff(set, NULL, &made);
		status->len = made.len;
		status->bytes = sbuf_take(&made);
	}
	if (status->bytes == NULL) /* no memory to remember them */
		return param_set_write_status_diff(set, NULL, out);
	sbuf_add(out, status->bytes, status->len);
	return status->count;
}

size_t param_set_write_status_diff(const struct param_set *now, const struct param_set *before,
                                   struct sbuf *out)
{
	size_t written = 0;
	size_t i;

	if (now == before)
		return 0;
	for (i = 0; i < param_set_count(now); i++) {
		const struct param_entry *entry = param_set_at(now, i);
		const struct param_entry *old;

		if (!entry->reported)
			continue;
		old = param_set_find(before, entry->name);
		if (old != NULL && old->reported && strcmp(old->value, entry->value) == 0)
			continue;
		write_status(out, entry);
		written++;
	}
	return written;
}

/* ---- bytes ---- */

static const char blob_magic[5] = {'P', 'S', 'E', 'T', 1};

#define BLOB_HEAD (sizeof(blob_magic) + 2)
#define BLOB_ENTRY_HEAD 4
#define BLOB_REPORTED 1
#define BLOB_DOUBTED 2

void *param_set_encode(const struct param_set *set, size_t *len)
{
	struct sbuf buf;
	size_t i;

	sbuf_init(&buf, BLOB_HEAD + (size_t)PARAM_MAX_ENTRIES *
	                                (BLOB_ENTRY_HEAD + PARAM_MAX_NAME + PARAM_MAX_VALUE));
	sbuf_add(&buf, blob_magic, sizeof(blob_magic));
	sbuf_add_be16(&buf, (uint16_t)param_set_count(set));
	for (i = 0; i < param_set_count(set); i++) {
		const struct param_entry *entry = param_set_at(set, i);

		sbuf_add_char(&buf, (char)((entry->reported ? BLOB_REPORTED : 0) |
		                           (entry->doubted ? BLOB_DOUBTED : 0)));
		sbuf_add_char(&buf, (char)entry->name_len);
		sbuf_add_be16(&buf, entry->value_len);
		sbuf_add(&buf, entry->name, entry->name_len);
		sbuf_add(&buf, entry->value, entry->value_len);
	}
	*len = buf.len;
	return sbuf_take(&buf);
}

static size_t get_be16(const unsigned char *p)
{
	return (size_t)p[0] << 8 | p[1];
}

static struct param_set *guess_one(struct param_pool *pool, const struct param_set *set,
                                   const char *name)
{
	struct param_set *names = param_set_with(pool, NULL, name, "", true);
	struct param_set *guessed = names == NULL ? NULL : param_set_guess(pool, set, names);

	param_set_unref(names);
	return guessed;
}

/* Takes one entry from *p and adds it to *set; 0 or an errno. */
static int decode_entry(struct param_pool *pool, const unsigned char **p, const unsigned char *end,
                        struct param_set **set)
{
	char name[PARAM_MAX_NAME + 1];
	char value[PARAM_MAX_VALUE + 1];
	struct param_set *next;
	size_t name_len;
	size_t value_len;
	bool reported;
	bool doubted;

	if (end - *p < BLOB_ENTRY_HEAD)
		return EINVAL;
	reported = ((*p)[0] & BLOB_REPORTED) != 0;
	doubted = ((*p)[0] & BLOB_DOUBTED) != 0;
	name_len = (*p)[1];
	value_len = get_be16(*p + 2);
	*p += BLOB_ENTRY_HEAD;
	if (name_len > PARAM_MAX_NAME || value_len > PARAM_MAX_VALUE ||
	    (size_t)(end - *p) < name_len + value_len ||
	    memchr(*p, '\0', name_len + value_len) != NULL)
		return EINVAL;
	memcpy(name, *p, name_len);
	name[name_len] = '\0';
	memcpy(value, *p + name_len, value_len);
	value[value_len] = '\0';
	*p += name_len + value_len;
	next = param_set_with(pool, *set, name, value, reported);
	if (next == NULL)
		return errno;
	param_set_replace(set, next);
	if (!doubted)
		return 0;
	/* Of what is not reported it is either all or none. */
	next = reported ? guess_one(pool, *set, name) : param_set_doubt(pool, *set);
	if (next == NULL)
		return errno;
	param_set_replace(set, next);
	return 0;
}

struct param_set *param_set_decode(struct param_pool *pool, const void *bytes, size_t len)
{
	const unsigned char *p = bytes;
	const unsigned char *end = p + len;
	struct param_set *set;
	int error = 0;
	size_t count;

	if (len < BLOB_HEAD || memcmp(p, blob_magic, sizeof(blob_magic)) != 0) {
		errno = EINVAL;
		return NULL;
	}
	count = get_be16(p + sizeof(blob_magic));
	p += BLOB_HEAD;
	set = param_set_empty(pool);
	if (set == NULL)
		return NULL;
	while (count > 0 && error == 0) {
		error = decode_entry(pool, &p, end, &set);
		count--;
	}
	if (error == 0 && p != end)
		error = EINVAL;
	if (error != 0) {
		param_set_unref(set);
		errno = error;
		return NULL;
	}
	return set;
}
