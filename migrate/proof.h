/* SPDX-License-Identifier: PostgreSQL */
/*
 * What is asked of a promoted server: where its timeline left the old one.  The timeline comes from
 * the name of the current WAL file, because the control file still has the old one right after a
 * promotion.  While the server is in recovery there is nothing but that to be said.
 */
#ifndef MIGRATE_PROOF_H
#define MIGRATE_PROOF_H

#define PROOF_SQL                                                                                  \
	"SELECT r.recovery,"                                                                       \
	" CASE WHEN NOT r.recovery THEN pg_read_file('pg_wal/' ||"                                 \
	" substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '.history') END AS history,"      \
	" CASE WHEN NOT r.recovery THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()),"     \
	" 1, 8))::bit(32)::int END AS timeline,"                                                   \
	" CASE WHEN NOT r.recovery THEN (SELECT system_identifier FROM pg_control_system()) END"   \
	" AS system,"                                                                              \
	" CASE WHEN NOT r.recovery THEN txid_snapshot_xmax(txid_current_snapshot()) END"           \
	" AS next_xid"                                                                             \
	" FROM (SELECT pg_is_in_recovery() AS recovery OFFSET 0) r"

#endif
