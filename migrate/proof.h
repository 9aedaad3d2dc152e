/* SPDX-License-Identifier: PostgreSQL */
/*
 * What is asked of a promoted server: where its timeline left the old one.  The timeline comes from
 * the name of the current WAL file, because the control file still has the old one right after a
 * promotion.
 */
#ifndef MIGRATE_PROOF_H
#define MIGRATE_PROOF_H

#define PROOF_SQL                                                                                  \
	"SELECT pg_read_file('pg_wal/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"     \
	" || '.history') AS history,"                                                              \
	" ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int AS timeline," \
	" (SELECT system_identifier FROM pg_control_system()) AS system,"                          \
	" txid_snapshot_xmax(txid_current_snapshot()) AS next_xid"

#endif
