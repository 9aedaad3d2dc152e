/* SPDX-License-Identifier: PostgreSQL */
/*
 * What a server is asked of the temporary tables of a session.  For temp_table.c only.
 *
 * Asked with search_path '' (temp_table.c sets it for the transaction): functions and operators are
 * those of pg_catalog.  Types and relations stand in the session's temporary schema first, whatever
 * search_path says: these are qualified.  No backslash; ASCII only; what is returned goes through
 * hexadecimal.  Columns of later versions are read by their name from a row as JSON.
 */
#ifndef SESSION_TEMP_SQL_H
#define SESSION_TEMP_SQL_H

#define CATALOG(name) "pg_catalog." name
#define AS_TEXT "::pg_catalog.text"
#define HEX_OF(column) "encode(convert_to(s." column ", getdatabaseencoding()), 'hex')"
#define ROWS_OF "SELECT s.k, " HEX_OF("n") ", " HEX_OF("v") ", " HEX_OF("x") " FROM ("
#define IN_C " COLLATE pg_catalog.\"C\""
#define TEMP_RELATIONS                                                                             \
	CATALOG("pg_class") " c WHERE c.relnamespace = pg_my_temp_schema()"                        \
			    " AND c.relkind IN ('r', 'S')"

/* Every relation is opened: what ON COMMIT DELETE ROWS was to take away, and an error has left, goes
 * when this is committed. */
static const char temp_touch_sql[] =
    "SELECT count(pg_catalog.pg_relation_size(c.oid)) FROM " TEMP_RELATIONS;

#define ACL_TEXT(acl)                                                                              \
	"CASE WHEN " acl " IS NOT NULL THEN concat('acl:', (SELECT string_agg(concat_ws(' ',"      \
	" pg_get_userbyid(e.grantor), CASE WHEN e.grantee > 0 THEN pg_get_userbyid(e.grantee)"     \
	" END, e.grantee > 0, e.privilege_type, e.is_grantable), ','"                              \
	" ORDER BY e.grantee = 0, pg_get_userbyid(e.grantee), e.privilege_type" IN_C ")"           \
	" FROM aclexplode(" acl ") e)) END"

/* pg_attver is the server's own, and differs each time. */
#define COLUMN_OPTIONS                                                                             \
	"(SELECT string_agg(o.o, ', ') FROM unnest(a.attoptions) o (o)"                            \
	" WHERE NOT starts_with(o.o, 'pg_attver='))"

#define COLUMN_SHAPE                                                                               \
	"(SELECT string_agg(CASE WHEN a.attisdropped THEN concat(a.attnum, ' dropped')"            \
	" ELSE concat_ws(' ', a.attnum, quote_ident(a.attname),"                                   \
	" format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef, a.attidentity,"         \
	" a.attgenerated, a.attstorage, to_jsonb(a) ->> 'attcompression', a.attstattarget,"        \
	" " COLUMN_OPTIONS ", (SELECT concat(n.nspname, '.', l.collname) FROM " CATALOG("pg_collation")  \
	" l JOIN " CATALOG("pg_namespace") " n ON n.oid = l.collnamespace"                         \
	" WHERE l.oid = a.attcollation), " ACL_TEXT("a.attacl")                                    \
	", col_description(a.attrelid, a.attnum)) END, ', ' ORDER BY a.attnum)"                    \
	" FROM " CATALOG("pg_attribute") " a WHERE a.attrelid = c.oid AND a.attnum > 0)"

#define CONSTRAINT_SHAPE                                                                           \
	"(SELECT string_agg(concat_ws(' ', 'constraint', quote_ident(k.conname), k.contype,"       \
	" k.conkey, (SELECT f.relname FROM " CATALOG("pg_class") " f WHERE f.oid = k.confrelid),"  \
	" k.confkey, k.confupdtype, k.confdeltype, k.confmatchtype, k.condeferrable,"              \
	" k.condeferred, k.convalidated, k.connoinherit,"                                          \
	" obj_description(k.oid, 'pg_constraint')), ', ' ORDER BY k.conname)"                      \
	" FROM " CATALOG("pg_constraint") " k WHERE k.conrelid = c.oid)"

#define INDEX_SHAPE                                                                                \
	"(SELECT string_agg(concat_ws(' ', 'index', quote_ident(i.relname), m.amname,"             \
	" x.indisunique, x.indisprimary, x.indisexclusion, x.indimmediate, x.indisclustered,"      \
	" x.indkey, x.indoption, x.indexprs IS NULL, x.indpred IS NULL, i.reloptions,"             \
	" to_jsonb(x) ->> 'indnullsnotdistinct', (SELECT string_agg(o.opcname" AS_TEXT             \
	", ' ' ORDER BY u.n) FROM unnest(x.indclass::pg_catalog.oid[]) WITH ORDINALITY u (o, n)"   \
	" JOIN " CATALOG("pg_opclass") " o ON o.oid = u.o), obj_description(i.oid, 'pg_class')),"  \
	" ', ' ORDER BY i.relname) FROM " CATALOG("pg_index") " x JOIN " CATALOG("pg_class")       \
	" i ON i.oid = x.indexrelid JOIN " CATALOG("pg_am") " m ON m.oid = i.relam"                \
	" WHERE x.indrelid = c.oid)"

#define SEQUENCE_OPTIONS(q)                                                                        \
	"concat(' START WITH ', " q ".seqstart, ' INCREMENT BY ', " q ".seqincrement,"             \
	" ' MINVALUE ', " q ".seqmin, ' MAXVALUE ', " q ".seqmax, ' CACHE ', " q ".seqcache,"      \
	" CASE WHEN NOT " q ".seqcycle THEN ' NO' END, ' CYCLE')"

/* Everything of a definition but the texts of its expressions, which a server may write another way
 * once it has read them. */
static const char temp_shape_sql[] =
    ROWS_OF
    "SELECT 'tshape'" AS_TEXT " AS k, c.relname" AS_TEXT " AS n, concat_ws(' ', c.relkind,"
    " pg_get_userbyid(c.relowner), (SELECT m.amname FROM " CATALOG("pg_am") " m"
    " WHERE m.oid = c.relam), c.reloptions, (SELECT t.reloptions FROM " CATALOG("pg_class") " t"
    " WHERE t.oid = c.reltoastrelid), " ACL_TEXT("c.relacl") ", obj_description(c.oid, 'pg_class'),"
    " CASE WHEN c.relkind = 'r' THEN " COLUMN_SHAPE " END, " CONSTRAINT_SHAPE ", " INDEX_SHAPE ","
    " (SELECT concat(format_type(q.seqtypid, NULL), " SEQUENCE_OPTIONS("q") ") FROM "
    CATALOG("pg_sequence") " q WHERE q.seqrelid = c.oid), (SELECT string_agg(concat_ws(' ',"
    " d.deptype, r.relname, d.refobjsubid), ', ') FROM " CATALOG("pg_depend") " d JOIN "
    CATALOG("pg_class") " r ON r.oid = d.refobjid WHERE c.relkind = 'S' AND d.classid ="
    " 1259::pg_catalog.oid AND d.objid = c.oid AND d.refclassid = 1259::pg_catalog.oid)) AS v,"
    " NULL" AS_TEXT " AS x FROM " TEMP_RELATIONS ") s";

/* ---- the definition as commands ---- */

/* c: a relation; q: its name; pq: with its schema. */
#define REL                                                                                        \
	"rel AS MATERIALIZED (SELECT c.*, quote_ident(c.relname) AS q,"                            \
	" 'pg_temp.' || quote_ident(c.relname) AS pq, EXISTS (SELECT 1 FROM " CATALOG("pg_depend") \
	" d WHERE d.classid = 1259::pg_catalog.oid AND d.objid = c.oid AND d.deptype = 'i'"        \
	" AND d.refobjsubid > 0) AS identity FROM " TEMP_RELATIONS ")"

/* rest: what follows the table's name; NULL: it was not understood. */
#define IDX                                                                                        \
	", idx AS MATERIALIZED (SELECT c.relname, c.pq, x.*, i.relname AS iname, i.reloptions AS"  \
	" ireloptions, i.reltablespace AS itablespace, m.amname, b.u, CASE"                        \
	" WHEN starts_with(b.def, b.one) THEN substr(b.def, length(b.one) + 1)"                    \
	" WHEN starts_with(b.def, b.two) THEN substr(b.def, length(b.two) + 1) END AS rest"        \
	" FROM rel c JOIN " CATALOG("pg_index") " x ON x.indrelid = c.oid JOIN "                   \
	CATALOG("pg_class") " i ON i.oid = x.indexrelid JOIN " CATALOG("pg_am")                    \
	" m ON m.oid = i.relam, LATERAL (SELECT CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE ''"    \
	" END AS u) w, LATERAL (SELECT w.u, pg_get_indexdef(i.oid) AS def,"                        \
	" concat('CREATE ', w.u, 'INDEX ', quote_ident(i.relname), ' ON pg_temp.', c.q) AS one,"   \
	" concat('CREATE ', w.u, 'INDEX ', quote_ident(i.relname), ' ON ',"                        \
	" quote_ident(c.relnamespace::pg_catalog.regnamespace" AS_TEXT "), '.', c.q) AS two) b)"

#define COMMANDS_BEFORE                                                                            \
	/* sequences that are not of an identity column */                                         \
	"SELECT 'tdef'" AS_TEXT " AS k, concat('1 ', c.relname) AS n, concat("                     \
	"'CREATE TEMPORARY SEQUENCE ', c.pq, ' AS ', format_type(s.seqtypid, NULL), "              \
	SEQUENCE_OPTIONS("s") ") AS v, pg_get_userbyid(c.relowner)" AS_TEXT " AS x"                \
	" FROM rel c JOIN " CATALOG("pg_sequence") " s ON s.seqrelid = c.oid WHERE NOT c.identity" \
	/* tables; what has been dropped of them is made, and dropped */                           \
	" UNION ALL SELECT 'tdef', concat('2 ', c.relname), concat('CREATE TEMPORARY TABLE ',"     \
	" c.pq, ' (', (SELECT string_agg(CASE WHEN a.attisdropped THEN concat("                    \
	"'pgshunt_dropped_', a.attnum, ' pg_catalog.int4') ELSE concat(quote_ident(a.attname),"    \
	" ' ', format_type(a.atttypid, a.atttypmod), ' COMPRESSION '"                              \
	" || CASE to_jsonb(a) ->> 'attcompression' WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END,"  \
	" (SELECT concat(' COLLATE ', quote_ident(n.nspname), '.', quote_ident(l.collname))"       \
	" FROM " CATALOG("pg_collation") " l JOIN " CATALOG("pg_namespace") " n"                   \
	" ON n.oid = l.collnamespace JOIN " CATALOG("pg_type") " t ON t.oid = a.atttypid"          \
	" WHERE l.oid = a.attcollation AND l.oid <> t.typcollation),"                              \
	" CASE WHEN a.attgenerated = 's' THEN concat(' GENERATED ALWAYS AS (', d.def, ') STORED')" \
	" WHEN a.attgenerated <> '' THEN concat(' GENERATED ALWAYS AS (', d.def, ') VIRTUAL')"     \
	" ELSE ' DEFAULT ' || d.def END,"                                                          \
	" (SELECT concat(' GENERATED ', CASE WHEN a.attidentity = 'a' THEN 'ALWAYS' ELSE"          \
	" 'BY DEFAULT' END, ' AS IDENTITY (SEQUENCE NAME ', r.q, " SEQUENCE_OPTIONS("s") ", ')')"  \
	" FROM " CATALOG("pg_depend") " p JOIN rel r ON r.oid = p.objid JOIN "                     \
	CATALOG("pg_sequence") " s ON s.seqrelid = r.oid WHERE p.classid = 1259::pg_catalog.oid"   \
	" AND p.refclassid = 1259::pg_catalog.oid AND p.refobjid = c.oid"                          \
	" AND p.refobjsubid = a.attnum AND p.deptype = 'i'),"                                      \
	" CASE WHEN a.attnotnull THEN concat((SELECT concat(' CONSTRAINT ',"                       \
	" quote_ident(k.conname)) FROM " CATALOG("pg_constraint") " k WHERE k.conrelid = c.oid"    \
	" AND k.contype = 'n' AND k.conkey[1] = a.attnum), ' NOT NULL') END) END, ', '"            \
	" ORDER BY a.attnum) FROM " CATALOG("pg_attribute") " a LEFT JOIN LATERAL (SELECT"         \
	" pg_get_expr(f.adbin, f.adrelid) AS def FROM " CATALOG("pg_attrdef") " f"                 \
	" WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum) d ON true"                          \
	" WHERE a.attrelid = c.oid AND a.attnum > 0), ') USING ', (SELECT quote_ident(m.amname)"   \
	" FROM " CATALOG("pg_am") " m WHERE m.oid = c.relam), (SELECT concat(' WITH (',"           \
	" string_agg(concat(o.p, quote_ident(split_part(o.o, '=', 1)), '=', quote_literal("        \
	"substr(o.o, strpos(o.o, '=') + 1))), ', '), ')') FROM (SELECT '' AS p, u.o"               \
	" FROM unnest(c.reloptions) u (o) UNION ALL SELECT 'toast.', u.o FROM "                    \
	CATALOG("pg_class") " t, unnest(t.reloptions) u (o) WHERE t.oid = c.reltoastrelid) o"      \
	" HAVING count(*) > 0)), pg_get_userbyid(c.relowner) FROM rel c WHERE c.relkind = 'r'"     \
	" UNION ALL SELECT 'tdef', concat('3 ', c.relname, ' ', lpad(a.attnum" AS_TEXT             \
	", 5, '0'), ' ', y.n), concat('ALTER TABLE ', c.pq, y.v), pg_get_userbyid(c.relowner)"     \
	" FROM rel c JOIN " CATALOG("pg_attribute") " a ON a.attrelid = c.oid LEFT JOIN "          \
	CATALOG("pg_type") " t ON t.oid = a.atttypid, LATERAL (VALUES"                             \
	" (1, CASE WHEN a.attisdropped THEN concat(' DROP COLUMN pgshunt_dropped_', a.attnum)"     \
	" END), (2, CASE WHEN NOT a.attisdropped AND a.attstorage <> t.typstorage THEN"            \
	" concat(' ALTER COLUMN ', quote_ident(a.attname), ' SET STORAGE ', CASE a.attstorage"     \
	" WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED'"     \
	" END) END), (3, CASE WHEN NOT a.attisdropped AND a.attstattarget >= 0 THEN"               \
	" concat(' ALTER COLUMN ', quote_ident(a.attname), ' SET STATISTICS ', a.attstattarget)"   \
	" END), (4, CASE WHEN NOT a.attisdropped THEN concat(' ALTER COLUMN ',"                    \
	" quote_ident(a.attname), ' SET (') || " COLUMN_OPTIONS " || ')' END)) y (n, v)"           \
	" WHERE c.relkind = 'r' AND a.attnum > 0 AND y.v IS NOT NULL"                              \
	" UNION ALL SELECT 'tdef', concat('4 ', c.relname), concat('ALTER SEQUENCE ', c.pq,"       \
	" ' OWNED BY ', r.pq, '.', quote_ident(a.attname)), pg_get_userbyid(c.relowner)"           \
	" FROM rel c JOIN " CATALOG("pg_depend") " d ON d.classid = 1259::pg_catalog.oid"          \
	" AND d.objid = c.oid AND d.refclassid = 1259::pg_catalog.oid AND d.deptype = 'a'"         \
	" JOIN rel r ON r.oid = d.refobjid JOIN " CATALOG("pg_attribute") " a"                     \
	" ON a.attrelid = r.oid AND a.attnum = d.refobjsubid WHERE c.relkind = 'S'"

/* In the order in which they stand, which is seen. */
#define GRANTED(acl)                                                                               \
	"aclexplode(" acl ") WITH ORDINALITY e (grantor, grantee, privilege_type, is_grantable, n)"
#define GRANTS(what, columns)                                                                      \
	"concat('GRANT ', e.privilege_type, " columns ", ' ON ', " what ", c.pq, ' TO ', CASE"     \
	" WHEN e.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(e.grantee)) END,"      \
	" CASE WHEN e.is_grantable THEN ' WITH GRANT OPTION' END)"

#define KIND_WORD "CASE WHEN c.relkind = 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END"

#define COMMANDS_AFTER                                                                             \
	" UNION ALL SELECT 'tend', concat('1 ', x.iname), concat('CREATE ', x.u, 'INDEX ',"        \
	" quote_ident(x.iname), ' ON ', x.pq, x.rest), pg_get_userbyid(c.relowner)"                \
	" FROM idx x JOIN rel c ON c.oid = x.indrelid WHERE NOT x.indisexclusion"                  \
	" UNION ALL SELECT 'tend', concat(CASE WHEN k.contype = 'f' THEN '3 ' ELSE '2 ' END,"      \
	" c.relname, ' ', k.conname), concat('ALTER TABLE ', c.pq, ' ADD CONSTRAINT ',"            \
	" quote_ident(k.conname), ' ', CASE WHEN k.contype IN ('p', 'u') THEN concat("             \
	"CASE WHEN k.contype = 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, ' USING INDEX ',"         \
	" quote_ident(i.relname), CASE WHEN k.condeferrable THEN ' DEFERRABLE' END,"               \
	" CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' END)"                                 \
	" ELSE pg_get_constraintdef(k.oid) END), pg_get_userbyid(c.relowner)"                      \
	" FROM rel c JOIN " CATALOG("pg_constraint") " k ON k.conrelid = c.oid LEFT JOIN "         \
	CATALOG("pg_class") " i ON i.oid = k.conindid WHERE k.contype IN ('p', 'u', 'x', 'c', 'f')" \
	" UNION ALL SELECT 'tend', concat('4 ', x.relname), concat('ALTER TABLE ', x.pq,"          \
	" ' CLUSTER ON ', quote_ident(x.iname)), pg_get_userbyid(c.relowner)"                      \
	" FROM idx x JOIN rel c ON c.oid = x.indrelid WHERE x.indisclustered"                      \
	" UNION ALL SELECT 'tend', concat('5 ', o.n), concat('COMMENT ON ', o.what, ' IS ',"       \
	" quote_literal(o.text)), o.owner FROM (SELECT c.relname" AS_TEXT " AS n, concat("         \
	KIND_WORD ", c.pq) AS what, obj_description(c.oid, 'pg_class') AS text,"                   \
	" pg_get_userbyid(c.relowner)" AS_TEXT " AS owner FROM rel c"                              \
	" UNION ALL SELECT concat(c.relname, ' ', a.attname), concat('COLUMN ', c.pq, '.',"        \
	" quote_ident(a.attname)), col_description(c.oid, a.attnum), pg_get_userbyid(c.relowner)"  \
	" FROM rel c JOIN " CATALOG("pg_attribute") " a ON a.attrelid = c.oid AND a.attnum > 0"    \
	" WHERE c.relkind = 'r'"                                                                   \
	" UNION ALL SELECT concat(c.relname, ' ', k.conname), concat('CONSTRAINT ',"               \
	" quote_ident(k.conname), ' ON ', c.pq), obj_description(k.oid, 'pg_constraint'),"         \
	" pg_get_userbyid(c.relowner) FROM rel c JOIN " CATALOG("pg_constraint") " k"              \
	" ON k.conrelid = c.oid UNION ALL SELECT x.iname" AS_TEXT ", concat('INDEX pg_temp.',"     \
	" quote_ident(x.iname)), obj_description(x.indexrelid, 'pg_class'),"                       \
	" pg_get_userbyid(c.relowner) FROM idx x JOIN rel c ON c.oid = x.indrelid) o"              \
	" WHERE o.text IS NOT NULL"                                                                \
	" UNION ALL SELECT 'tend', concat('6 ', c.relname), concat('REVOKE ALL ON ', " KIND_WORD   \
	", c.pq, ' FROM ', quote_ident(pg_get_userbyid(c.relowner))),"                             \
	" pg_get_userbyid(c.relowner) FROM rel c WHERE c.relacl IS NOT NULL"                       \
	" UNION ALL SELECT 'tend', concat('7 ', c.relname, ' ', lpad(e.n" AS_TEXT ", 5, '0')),"    \
	" " GRANTS(KIND_WORD, "''") ", pg_get_userbyid(c.relowner) FROM rel c, "                   \
	GRANTED("c.relacl")                                                                        \
	" UNION ALL SELECT 'tend', concat('8 ', c.relname, ' ', a.attname, ' ',"                   \
	" lpad(e.n" AS_TEXT ", 5, '0')), " GRANTS("'TABLE '",                                      \
	"' (', quote_ident(a.attname), ')'") ", pg_get_userbyid(c.relowner)"                       \
	" FROM rel c JOIN " CATALOG("pg_attribute") " a ON a.attrelid = c.oid AND a.attnum > 0, "  \
	GRANTED("a.attacl") " WHERE c.relkind = 'r'"

/* Why a relation is not carried. */
#define REASONS                                                                                    \
	" UNION ALL SELECT 'tpin', w.relname" AS_TEXT ", string_agg(w.why, ', '), NULL FROM ("     \
	"SELECT c.relname, r.why FROM rel c, LATERAL (VALUES"                                      \
	" ('inheritance', EXISTS (SELECT 1 FROM " CATALOG("pg_inherits") " h"                      \
	" WHERE c.oid IN (h.inhrelid, h.inhparent))), ('a type of its rows', c.reloftype > 0),"    \
	" ('a trigger', EXISTS (SELECT 1 FROM " CATALOG("pg_trigger") " g"                         \
	" WHERE g.tgrelid = c.oid AND NOT g.tgisinternal)), ('a trigger of a constraint that is"   \
	" disabled', EXISTS (SELECT 1 FROM " CATALOG("pg_trigger") " g WHERE g.tgrelid = c.oid"    \
	" AND g.tgisinternal AND g.tgenabled <> 'O')), ('a comment on the type of its rows',"      \
	" obj_description(c.reltype, 'pg_type') IS NOT NULL), ('privileges of the type of its"     \
	" rows', EXISTS (SELECT 1 FROM " CATALOG("pg_type") " t WHERE t.oid = c.reltype"           \
	" AND t.typacl IS NOT NULL) AND NOT EXISTS (SELECT 1 FROM " CATALOG("pg_default_acl")      \
	" f WHERE f.defaclrole = c.relowner AND f.defaclnamespace = 0"                             \
	" AND f.defaclobjtype = 'T')), ('a rule', EXISTS (SELECT 1 FROM "                          \
	CATALOG("pg_rewrite") " e WHERE e.ev_class = c.oid)), ('row security', c.relrowsecurity"   \
	" OR c.relforcerowsecurity OR EXISTS (SELECT 1 FROM " CATALOG("pg_policy") " p"            \
	" WHERE p.polrelid = c.oid)), ('extended statistics', EXISTS (SELECT 1 FROM "              \
	CATALOG("pg_statistic_ext") " e WHERE e.stxrelid = c.oid)), ('a tablespace',"              \
	" c.reltablespace > 0), ('a replica identity', c.relkind = 'r' AND c.relreplident <> 'd'"  \
	"), ('an owner whose role the session cannot take', NOT pg_has_role(session_user,"         \
	" c.relowner, CASE WHEN current_setting('server_version_num')::pg_catalog.int4 < 160000"   \
	" THEN 'MEMBER' ELSE 'SET' END)), ('an owner who may not make temporary tables any more'," \
	" NOT has_database_privilege(c.relowner, current_database()" AS_TEXT ", 'TEMP')),"         \
	" ('privileges that the owner did not grant', EXISTS (SELECT 1 FROM aclexplode(c.relacl)"  \
	" e WHERE e.grantor <> c.relowner) OR EXISTS (SELECT 1 FROM " CATALOG("pg_attribute")      \
	" a, aclexplode(a.attacl) e WHERE a.attrelid = c.oid AND e.grantor <> c.relowner)),"       \
	" ('default privileges that came later', c.relacl IS NULL AND EXISTS (SELECT 1 FROM "      \
	CATALOG("pg_default_acl") " f WHERE f.defaclrole = c.relowner AND f.defaclnamespace = 0"   \
	" AND f.defaclobjtype = CASE WHEN c.relkind = 'r' THEN 'r' ELSE 'S' END)),"                \
	" ('a security label', EXISTS (SELECT 1 FROM " CATALOG("pg_seclabel") " l"                 \
	" WHERE l.classoid = 1259::pg_catalog.oid AND l.objoid = c.oid)),"                         \
	" ('numbers cached', EXISTS (SELECT 1 FROM " CATALOG("pg_sequence") " s"                   \
	" WHERE s.seqrelid = c.oid AND s.seqcache > 1)),"                                          \
	" ('an index that cannot be made again', EXISTS (SELECT 1 FROM idx x"                      \
	" WHERE x.indrelid = c.oid AND (x.rest IS NULL OR x.itablespace > 0 OR x.indisreplident"   \
	" OR NOT x.indisvalid OR NOT x.indisready OR (x.indisexclusion AND (x.ireloptions IS NOT"  \
	" NULL)) OR EXISTS (SELECT 1 FROM " CATALOG("pg_attribute") " a"                           \
	" WHERE a.attrelid = x.indexrelid AND (a.attstattarget >= 0 OR (x.indisexclusion AND"      \
	" a.attoptions IS NOT NULL)))))),"                                                         \
	" ('a constraint that cannot be made again', EXISTS (SELECT 1 FROM "                       \
	CATALOG("pg_constraint") " k LEFT JOIN idx x ON x.indexrelid = k.conindid"                 \
	" AND k.contype <> 'f' WHERE k.conrelid = c.oid AND (k.contype NOT IN ('p', 'u', 'x',"     \
	" 'c', 'f', 'n') OR (k.contype IN ('p', 'u') AND x.amname <> 'btree') OR (k.contype = 'n'" \
	" AND (k.connoinherit OR NOT k.convalidated))))),"                                         \
	" ('something that depends on it', EXISTS (SELECT 1 FROM " CATALOG("pg_depend") " d"       \
	" WHERE (d.refclassid = 1259::pg_catalog.oid AND d.refobjid = c.oid AND d.classid NOT IN ("\
	"SELECT n.oid FROM " CATALOG("pg_class") " n WHERE n.relnamespace = 11::pg_catalog.oid"    \
	" AND n.relname IN ('pg_class', 'pg_constraint', 'pg_attrdef', 'pg_type', 'pg_trigger',"   \
	" 'pg_rewrite', 'pg_policy', 'pg_statistic_ext'))) OR (d.refclassid ="                     \
	" 1247::pg_catalog.oid AND (d.refobjid = c.reltype OR d.refobjid = (SELECT t.typarray"     \
	" FROM " CATALOG("pg_type") " t WHERE t.oid = c.reltype)) AND d.deptype <> 'i'))),"        \
	" ('an extension', EXISTS (SELECT 1 FROM " CATALOG("pg_depend") " d"                       \
	" WHERE d.classid = 1259::pg_catalog.oid AND d.objid = c.oid AND d.deptype = 'e'))"        \
	") r (why, applies) WHERE r.applies UNION ALL"                                             \
	/* and what else there is in the temporary schema */                                       \
	" SELECT COALESCE(n.relname" AS_TEXT ", concat(l.relname, ' ', d.objid)), CASE"            \
	" WHEN n.relkind = 'v' THEN 'a view' WHEN n.relkind = 'p' THEN 'partitions'"               \
	" WHEN n.relkind = 'c' OR l.relname = 'pg_type' THEN 'a type'"                             \
	" WHEN l.relname = 'pg_proc' THEN 'a function' ELSE 'neither a table nor a sequence' END"  \
	" FROM " CATALOG("pg_depend") " d JOIN " CATALOG("pg_class") " l ON l.oid = d.classid"     \
	" LEFT JOIN " CATALOG("pg_class") " n ON n.oid = d.objid AND d.classid ="                  \
	" 1259::pg_catalog.oid WHERE d.refclassid = 2615::pg_catalog.oid"                          \
	" AND d.refobjid = pg_my_temp_schema() AND NOT COALESCE(n.relkind IN ('r', 'S', 'i')"      \
	", false)"                                                                                 \
	") w GROUP BY w.relname"

static const char temp_define_sql[] =
    "WITH " REL IDX " " ROWS_OF COMMANDS_BEFORE COMMANDS_AFTER REASONS
    " UNION ALL SELECT 'tdata', c.relname" AS_TEXT ", NULL, pg_get_userbyid(c.relowner) FROM rel c"
    " UNION ALL SELECT 'ton', c.relname" AS_TEXT ", CASE WHEN pg_relation_size(c.oid) > 0"
    " THEN 'preserve' END, (SELECT quote_ident(a.attname) FROM " CATALOG("pg_attribute") " a"
    " JOIN " CATALOG("pg_type") " t ON t.oid = a.atttypid WHERE a.attrelid = c.oid"
    " AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'"
    /* types that have an order, before those that may have none */
    " ORDER BY t.typcategory NOT IN ('N', 'S', 'D', 'B', 'E', 'T', 'I', 'R'), a.attnum LIMIT 1)"
    " FROM rel c WHERE c.relkind = 'r'"
    " UNION ALL SELECT 'tsize', 'bytes', sum(pg_table_size(c.oid))" AS_TEXT ", NULL FROM rel c"
    ") s";

#endif
