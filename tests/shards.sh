# SPDX-License-Identifier: PostgreSQL
# The scene of the demo and of the benchmark's moves, after tests/lib.sh: pg1 with the shards
# commcarehq_p1 and commcarehq_p2, its standby pg2, a PL/Proxy database, and a proxy in front of all
# of them.  Everything lies in $work, and every port was free.

# pg1, its standby pg2 and the server of PL/Proxy.  Sets pg1_port, pg2_port and hq_port.
shards_create() {
	pg_init "$work/pg1"
	cat >>"$work/pg1/postgresql.conf" <<CONF
max_connections = 200
shared_buffers = 64MB
wal_log_hints = on
max_wal_senders = 8
max_replication_slots = 8
log_line_prefix = '%m [%p] %u@%d '
log_lock_waits = on
CONF
	pg_start "$work/pg1"
	pg1_port=$port
	app_password=$(random_password)
	replication_password=$(random_password)
	printf '*:*:*:commcarehq:%s\n*:*:*:hqrepl:%s\n' "$app_password" "$replication_password" \
		>>"$work/pgpass"
	sql "$pg1_port" postgres <<SQL
CREATE ROLE commcarehq LOGIN CREATEDB PASSWORD '$app_password';
CREATE ROLE hqsession LOGIN PASSWORD '$app_password';
CREATE ROLE hqpinned LOGIN PASSWORD '$app_password';
CREATE ROLE hqrepl LOGIN REPLICATION PASSWORD '$replication_password';
CREATE DATABASE commcarehq_p1 OWNER commcarehq;
CREATE DATABASE commcarehq_p2 OWNER commcarehq;
SQL
	for shard in p1 p2; do
		# On standard input: the servers' user may not be able to read the checkout.
		{
			say 'SET ROLE commcarehq;'
			cat "$repo/tests/load/commcare.sql"
		} | sql "$pg1_port" "commcarehq_$shard" -v seed="${SHARD_SEED:-2000}" >/dev/null
	done
	sql "$pg1_port" postgres -c CHECKPOINT \
		-c "SELECT pg_create_physical_replication_slot('standby1')" >/dev/null
	shards_standby
	pg_init "$work/hq"
	pg_start "$work/hq" max_connections=200
	hq_port=$port
	sql "$hq_port" postgres <<SQL
CREATE ROLE commcarehq LOGIN PASSWORD '$app_password';
CREATE DATABASE commcarehq_proxy OWNER commcarehq;
SQL
}

# pg2: a base backup of pg1 that streams through the slot.
shards_standby() {
	as_db "$PGBIN/pg_basebackup" -D "$work/pg2" -R -S standby1 -X stream -c fast --no-sync \
		-d "host=127.0.0.1 port=$pg1_port user=hqrepl passfile=$work/pgpass" \
		>"$work/basebackup.log" 2>&1 || {
		cat "$work/basebackup.log" >&2
		die "pg_basebackup failed"
	}
	pg_start "$work/pg2"
	pg2_port=$port
	wait_for 30 shards_streaming || die "pg2 does not stream from pg1"
}

shards_streaming() {
	[ "$(sql "$pg1_port" postgres -c "SELECT count(*) FROM pg_stat_replication
		WHERE state = 'streaming'")" = 1 ]
}

# PL/Proxy's cluster, once the proxy's port ($proxy_port) is known.
shards_plproxy() {
	{
		# On standard input: the command line is everybody's to read.
		printf "\\\\set password '%s'\n" "$app_password"
		cat "$repo/tests/load/plproxy.sql"
	} | sql "$hq_port" commcarehq_proxy -v host=127.0.0.1 -v port="$proxy_port" >/dev/null
}

# What the application's clients use: the SCRAM secret that PostgreSQL keeps, never the password.
shards_users() {
	admin_password=$(random_password)
	printf '*:*:*:pgshunt_admin:%s\n' "$admin_password" >>"$work/pgpass"
	(
		umask 077
		sql "$pg1_port" postgres -c "SELECT format('\"%s\" \"%s\"', rolname, rolpassword)
			FROM pg_authid WHERE rolname IN ('commcarehq', 'hqsession', 'hqpinned')" >"$work/userlist.txt"
		printf '"pgshunt_admin" "%s"\n' "$admin_password" >>"$work/userlist.txt"
		printf '%s\n' "$admin_password" >"$work/admin.password"
	)
	[ "$(id -u)" -ne 0 ] || chown postgres:postgres "$work/userlist.txt" "$work/admin.password"
}

# pgshuntd in front.  Sets proxy_port and proxy_pid; $build holds the programs.
shards_pgshuntd() {
	shards_users
	proxy_tries=0
	while :; do
		proxy_port=$(free_port)
		shards_pgshunt_yml >"$work/pgshunt.yml"
		as_db mkdir -p "$work/state" "$work/moves"
		spawn "$work/pgshuntd.log" "$build/pgshuntd" --config "$work/pgshunt.yml"
		proxy_pid=$spawned
		wait_for 10 shards_proxy_answers && break
		proxy_tries=$((proxy_tries + 1))
		if [ "$proxy_tries" -ge 3 ] || kill -0 "$proxy_pid" 2>/dev/null; then
			tail -n 20 "$work/pgshuntd.log" >&2
			die "pgshuntd does not answer"
		fi
	done
	shards_plproxy
}

shards_proxy_answers() {
	"$PGBIN/psql" -X -q -A -t -c 'SELECT 1' \
		-d "host=127.0.0.1 port=$proxy_port user=commcarehq dbname=commcarehq_p1"
}

shards_pgshunt_yml() {
	cat <<YAML
proxy:
  listen_addresses: [127.0.0.1]
  port: $proxy_port
  auth_type: scram-sha-256
  users_file: $work/userlist.txt
  state_directory: $work/state
  admin_users: [pgshunt_admin]
  workers: ${SHARD_WORKERS:-0}
  pool_size: ${SHARD_POOL:-20}
servers:
  pg1: {host: 127.0.0.1, port: $pg1_port, check_user: postgres,
        check_password_file: $work/postgres.password,
        admin_user: postgres, admin_password_file: $work/postgres.password}
  pg2: {host: 127.0.0.1, port: $pg2_port, check_user: postgres,
        check_password_file: $work/postgres.password,
        admin_user: postgres, admin_password_file: $work/postgres.password}
users:
  hqsession: {pool_mode: session}
  hqpinned: {pool_mode: session, session_pinned: move_anyway}
databases:
  commcarehq_p1: {server: pg1, shard: p1}
  commcarehq_p2: {server: pg1, shard: p2}
mover:
  journal_directory: $work/moves
  proxies:
    a: {host: 127.0.0.1, port: $proxy_port, user: pgshunt_admin,
        password_file: $work/admin.password}
  plproxy:
    hq: {host: 127.0.0.1, port: $hq_port, dbname: commcarehq_proxy, cluster: commcarehq,
         user: postgres, password_file: $work/postgres.password}
YAML
}

# pgbouncer in front instead, for comparison.  Sets proxy_port and proxy_pid.
shards_pgbouncer() {
	shards_users
	# Debian's pgbouncer cannot log in to a server with a SCRAM secret alone.
	(umask 077 && printf '"commcarehq" "%s"\n"pgshunt_admin" "%s"\n' "$app_password" \
		"$admin_password" >"$work/userlist.txt")
	proxy_port=$(free_port)
	shards_pgbouncer_ini "$pg1_port" >"$work/pgbouncer.ini"
	shards_pgbouncer_ini "$pg2_port" >"$work/pgbouncer.ini.moved"
	[ "$(id -u)" -ne 0 ] || chown postgres:postgres "$work"/pgbouncer.ini*
	spawn "$work/pgbouncer.log" "${PGBOUNCER:-/usr/sbin/pgbouncer}" "$work/pgbouncer.ini"
	proxy_pid=$spawned
	wait_for 10 shards_proxy_answers || {
		tail -n 20 "$work/pgbouncer.log" >&2
		die "pgbouncer does not answer"
	}
	shards_plproxy
}

shards_pgbouncer_ini() {
	cat <<INI
[databases]
commcarehq_p1 = host=127.0.0.1 port=$pg1_port
commcarehq_p2 = host=127.0.0.1 port=$1
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $proxy_port
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $work/userlist.txt
admin_users = pgshunt_admin
pool_mode = transaction
default_pool_size = ${SHARD_POOL:-20}
max_client_conn = 1000
server_login_retry = 1
ignore_startup_parameters = extra_float_digits, options
INI
}

# --- the load -------------------------------------------------------------------------------------

form_write="WITH form AS (INSERT INTO form_processor_xforminstancesql (form_id, domain, xmlns, user_id) \
VALUES (concat_ws('-', 'load', :run, :client, :number), 'demo-' || :client % 7, 'load', 'user-' || :client) \
RETURNING form_id) INSERT INTO form_processor_casetransaction (case_id, form_id) \
SELECT 'case-' || :number % 100, form_id FROM form"
form_read="SELECT count(*) FROM form_processor_xforminstancesql \
WHERE form_id = concat_ws('-', 'load', :run, :client, :number)"
form_rows="SELECT split_part(form_id, '-', 3), split_part(form_id, '-', 4) \
FROM form_processor_xforminstancesql WHERE form_id LIKE 'load-' || :run || '-%'"
transaction_rows="SELECT split_part(form_id, '-', 3), split_part(form_id, '-', 4) \
FROM form_processor_casetransaction WHERE form_id LIKE 'load-' || :run || '-%'"

# The connection string of the application for a port and a database.
app_conninfo() {
	printf 'host=127.0.0.1 port=%s user=commcarehq dbname=%s passfile=%s' "$1" "$2" "$work/pgpass"
}

# Starts the load into $work/load.log: load_start TARGET_OPTIONS…; its process id is in load_pid.
load_start() {
	spawn "$work/load.err" "$build/tests/load/pgshunt_load" run --log "$work/load.log" "$@"
	load_pid=$spawned
	wait_for 20 grep -q '^A' "$work/load.log" || {
		cat "$work/load.err" >&2
		die "the load does not get through"
	}
}

# Ends it in order; fails if it was not there any more.
load_stop() {
	kill -TERM "$load_pid" || die "the load generator has died; see $work/load.err"
	wait "$load_pid" || die "the load generator failed; see $work/load.err"
}

# The account of the shards, p2 being on pg2 now: more arguments are options of the account.
load_account() {
	for rows_group in p1 p2; do
		set -- "$@" --rows "$rows_group=$form_rows" --rows "$rows_group=$transaction_rows"
	done
	# The fence on pg1 is lifted to count what it kept out; nobody uses p2 there any more.
	sql "$pg1_port" postgres -c 'ALTER DATABASE commcarehq_p2 ALLOW_CONNECTIONS true'
	as_db "$build/tests/load/pgshunt_load" account --log "$work/load.log" \
		--new "p1=host=127.0.0.1 port=$pg1_port user=postgres dbname=commcarehq_p1" \
		--new "p2=host=127.0.0.1 port=$pg2_port user=postgres dbname=commcarehq_p2" \
		--old "p2=host=127.0.0.1 port=$pg1_port user=postgres dbname=commcarehq_p2" "$@"
}

# Stops all of it, in an order in which nobody complains.
shards_stop() {
	for stop_pid in ${load_pid:-} ${proxy_pid:-}; do
		kill -KILL "$stop_pid" 2>/dev/null || :
		wait "$stop_pid" 2>/dev/null || :
	done
	load_pid=
	proxy_pid=
	for stop_server in hq pg2 pg1; do
		pg_stop "$work/$stop_server"
		rm -rf -- "${work:?}/$stop_server"
	done
}
