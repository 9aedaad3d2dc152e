#!/bin/sh
# SPDX-License-Identifier: PostgreSQL
# The benchmark: PostgreSQL directly, the yardstick (a forwarder that parses nothing), pgshuntd and
# pgbouncer in turn, several rounds, on this machine; prints Markdown with medians, ranges, ratios.
#
#   sh tests/bench/run.sh [--quick] [--rounds N] [--seconds N] [--moves N] [--one-cpu] [--json FILE]
#                         [section…]
#
# Sections: transactions session pipelines bulk memory connections syscalls tls databases move
# (default: all).
# PGBOUNCER=/path names another pgbouncer than Debian's; PGSHUNT_BUILD=DIR a build directory.
# It judges nothing but whether everything worked: figures depend on the machine.
set -eu
repo=$(cd "$(dirname "$0")/../.." && pwd)
. "$repo/tests/lib.sh"

work=
bench_cleanup() {
	bench_code=$?
	trap '' EXIT INT TERM HUP
	[ -z "${bench_pid:-}" ] || kill -TERM "$bench_pid" 2>/dev/null || :
	[ -z "${bench_pid:-}" ] || wait "$bench_pid" || :
	[ -z "$work" ] || {
		pg_stop "$work/pg"
		work_remove
	}
	exit "$bench_code"
}

install_packages pgbouncer strace
build=${PGSHUNT_BUILD:-$(build_dir)}
[ -n "${BENCH_NO_BUILD:-}" ] || build "$build" \
	"pgshuntd pgshunt pgshunt_load pgshunt_forwarder pgshunt_cutover pgshunt_client pgshunt_tls_floor \
	pgshunt_answers pgshunt_asker"
trap bench_cleanup EXIT
trap 'exit 130' INT TERM HUP
# A client and a server connection for each of some thousand clients.
ulimit -n "$(ulimit -H -n)" || :

work_create pgshunt-bench
pg_init "$work/pg"
# Only the benchmark's own role, which may do nothing else, is let in without a password.
printf 'host bench bench 127.0.0.1/32 trust\n' | cat - "$work/pg/pg_hba.conf" >"$work/hba"
as_db tee "$work/pg/pg_hba.conf" <"$work/hba" >/dev/null
pg_start "$work/pg" max_connections=1200 shared_buffers=128MB
bench_password=$(random_password)
sql "$port" postgres <<SQL
CREATE ROLE bench LOGIN;
CREATE ROLE bench_scram LOGIN PASSWORD '$bench_password';
CREATE DATABASE bench OWNER bench;
SQL
sql "$port" bench -c 'SET ROLE bench' -c 'CREATE UNLOGGED TABLE bench_copy (line text)'
printf '*:*:*:bench_scram:%s\n' "$bench_password" >>"$work/pgpass"
sql "$port" postgres -c "SELECT format('\"%s\" \"%s\"', rolname, coalesce(rolpassword, ''))
	FROM pg_authid WHERE rolname LIKE 'bench%'" >"$work/userlist.txt"
chmod 600 "$work/userlist.txt"
[ "$(id -u)" -ne 0 ] || chown postgres:postgres "$work/userlist.txt"

PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$repo/tests/bench/bench.py" --repo "$repo" \
	--build "$build" --work "$work" --pg-port "$port" --pg-bin "$PGBIN" "$@" &
bench_pid=$!
bench_status=0
wait "$bench_pid" || bench_status=$?
bench_pid=
exit "$bench_status"
