#!/bin/sh
# SPDX-License-Identifier: PostgreSQL
# PostgreSQL's own test suites, from Debian's source package, through pgshuntd:
#
#   sh tests/suites/postgresql.sh [regress|contrib|languages|isolation|pipeline …]
#
#   regress     the SQL regression tests (pg_regress, parallel_schedule)
#   contrib     those of PL/pgSQL and of the extensions; dblink and postgres_fdw come back through the proxy
#   languages   those of PL/Perl, PL/Python and PL/Tcl, and of the types' transforms for them
#   isolation   the isolation tests (isolationtester), which hold several sessions against each other, and
#               those of logical decoding
#   pipeline    libpq_pipeline, the test program of libpq's pipelines, with its protocol traces
#
# Each runs on a new server of its own: directly, and through the proxy in these modes:
#
#   session      session pooling
#   moving       the same, and up to ten times a second RECONNECT: between two of its transactions every
#                session that can be moved goes on at a fresh server connection
#   transaction  transaction pooling, one test after the other; psql's sessions clean up at their end
#
# What came out directly is compared with what came through the proxy; every line that differs must be explained in tests/suites/postgresql.explained.  The last
# line is the number of lines that are not.  Environment:
#
#   SUITE_MODES="session moving"   modes to run; by default session
#   SUITE_SOURCE=DIR      an unpacked source tree of PostgreSQL 15, instead of Debian's package
#   SUITE_KEEP=1          keeps the results
#   PGSHUNT_BUILD=DIR     build directory
set -eu
repo=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$repo/tests/lib.sh"

suites=${*:-regress contrib languages isolation pipeline}
modes=${SUITE_MODES:-session}
pgxs=$PGBIN/../lib/pgxs/src/test
explained=$repo/tests/suites/postgresql.explained
modules="adminpack amcheck auto_explain bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn \
earthdistance file_fdw fuzzystrmatch hstore intarray isn lo ltree pageinspect passwordcheck \
pg_freespacemap pg_stat_statements pg_surgery pg_trgm pg_visibility pg_walinspect pgcrypto pgstattuple \
postgres_fdw seg tablefunc test_decoding tsm_system_rows tsm_system_time unaccent uuid-ossp xml2"
languages="src/pl/plperl src/pl/plpython src/pl/tcl bool_plperl hstore_plperl hstore_plpython jsonb_plperl \
jsonb_plpython ltree_plpython"
work=
proxy_pid=
moving_pid=
data=

suite_stop() {
	[ -z "$moving_pid" ] || kill "$moving_pid" 2>/dev/null || :
	moving_pid=
	[ -z "$proxy_pid" ] || kill -KILL "$proxy_pid" 2>/dev/null || :
	proxy_pid=
	[ -z "$data" ] || pg_stop "$data"
	data=
}

suite_cleanup() {
	suite_code=$?
	trap '' EXIT INT TERM HUP
	[ -n "$work" ] || exit "$suite_code"
	suite_stop
	if [ -n "${SUITE_KEEP:-}" ]; then
		say "the results are kept in $work"
	else
		work_remove
	fi
	exit "$suite_code"
}

# --- the source -----------------------------------------------------------------------------------

# apt with lists and a cache of its own: what the system has in its sources stays as it is.
suite_apt() {
	suite_tool=$1
	shift
	"$suite_tool" -q -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache" \
		-o APT::Sandbox::User=root "$@"
}

# Leaves the tree in $source.  The newest version that can be had: a mirror may lag behind the lists.
suite_source() {
	source=${SUITE_SOURCE:-$cache/source}
	[ ! -e "$source/configure" ] || return 0
	apt=$cache/apt
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
	: >"$apt/sources.list"
	for suite_line in "debian bookworm" "debian bookworm-updates" \
		"debian-security bookworm-security"; do
		printf 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s/%s main\n' \
			http://deb.debian.org "$suite_line" >>"$apt/sources.list"
	done
	suite_apt apt-get update >"$cache/apt.log" 2>&1 || die "apt-get update; see $cache/apt.log"
	for suite_version in $(suite_apt apt-cache showsrc postgresql-15 |
		sed -n 's/^Version: //p' | sort -rV); do
		if (cd "$cache" && suite_apt apt-get source --download-only \
			"postgresql-15=$suite_version") >>"$cache/apt.log" 2>&1; then
			mkdir -p "$source.new"
			tar xjf "$cache"/postgresql-15_"${suite_version%%-*}".orig.tar.bz2 \
				-C "$source.new" --strip-components=1
			mv "$source.new" "$source"
			return 0
		fi
	done
	die "no source of postgresql-15 could be downloaded; see $cache/apt.log"
}

# The C parts of the suites, for the installed server and libpq.
suite_build() {
	mkdir -p "$work/lib"
	suite_include="-I$("$PGBIN/pg_config" --includedir-server) -I$("$PGBIN/pg_config" --includedir)"
	# shellcheck disable=SC2086
	cc -O1 -fPIC -shared -fwrapv -fno-strict-aliasing $suite_include \
		-o "$work/lib/regress.so" "$source/src/test/regress/regress.c" 2>"$work/cc.log" &&
		cc -O1 $suite_include -I"$source/src/include" -o "$work/lib/libpq_pipeline" \
			"$source/src/test/modules/libpq_pipeline/libpq_pipeline.c" \
			-L"$("$PGBIN/pg_config" --pkglibdir)" -L"$("$PGBIN/pg_config" --libdir)" \
			-lpgcommon -lpgport -lpq -lm 2>>"$work/cc.log" &&
		cc -O1 -fPIC -shared -D_GNU_SOURCE $suite_include -o "$work/lib/preload.so" \
			"$repo/tests/suites/preload.c" -lpq 2>>"$work/cc.log" || {
		cat "$work/cc.log" >&2
		die "the C parts of the suites do not compile"
	}
	for suite_module in refint autoinc; do
		cp "$("$PGBIN/pg_config" --pkglibdir)/$suite_module.so" "$work/lib/"
	done
}

# --- servers --------------------------------------------------------------------------------------

# A new server, and the proxy in front of it unless the mode is `direct`; clients use $suite_host.  The
# proxy has the server's port at another address: dblink and postgres_fdw, who ask the server for
# it, come to the proxy, too.
suite_start() {
	data=$work/$1.data
	suite_host=127.0.0.1
	[ "$1" = direct ] || suite_host=127.0.0.2
	as_db "$PGBIN/initdb" -D "$data" -U postgres -E UTF8 --locale=C --no-sync -A trust \
		>"$data.initdb.log" 2>&1 || die "initdb failed; see $data.initdb.log"
	export PGHOST="$suite_host"
	# The second line is for the modules.
	pg_start "$data" fsync=off max_prepared_transactions=2 max_connections=150 \
		wal_level=logical logical_decoding_work_mem=64kB \
		shared_preload_libraries=pg_stat_statements compute_query_id=regress
	unset PGHOST
	# As pg_regress makes the database.
	for suite_name in regression isolation_regression pipeline; do
		suite_database "$1" $suite_name
	done
	[ "$1" = direct ] || suite_proxy "$1"
}

# As pg_regress makes a database.  In transaction pooling it has what pg_regress has psql ask for at its
# logins, too, for RESET leads to that there.
suite_database() {
	for suite_setting in lc_messages=C lc_monetary=C lc_numeric=C lc_time=C bytea_output=hex \
		timezone_abbreviations=Default TimeZone=America/Los_Angeles "DateStyle=Postgres, MDY" \
		IntervalStyle=postgres_verbose; do
		case $1,$suite_setting in
		transaction,* | *,lc_* | *,bytea_output=* | *,timezone_abbreviations=*)
			say "ALTER DATABASE $2 SET ${suite_setting%%=*} TO '${suite_setting##*=}';" ;;
		esac
	done >"$work/settings.sql"
	sql "$port" postgres -c "SET client_min_messages TO warning" \
		-c "DROP DATABASE IF EXISTS $2 WITH (FORCE)" \
		-c "CREATE DATABASE $2 TEMPLATE = template0" -f "$work/settings.sql"
}

suite_proxy() {
	suite_pool_mode=$1
	[ "$1" != moving ] || suite_pool_mode=session
	mkdir -p "$work/state"
	[ "$(id -u)" -ne 0 ] || chown postgres:postgres "$work/state"
	rm -f "$work/state"/*
	printf '"postgres" ""\n"pgshunt_admin" ""\n' >"$work/userlist.txt"
	cat >"$work/pgshunt.yml" <<YAML
proxy:
  listen_addresses: [$suite_host]
  port: $port
  auth_type: trust
  users_file: $work/userlist.txt
  state_directory: $work/state
  admin_users: [pgshunt_admin]
  pool_mode: $suite_pool_mode
  pool_size: 60
  log_level: info
servers:
  pg: {host: 127.0.0.1, port: $port}
databases:
  "*": {server: pg}
YAML
	chmod 644 "$work/userlist.txt" "$work/pgshunt.yml"
	spawn "$work/$1.proxy.log" "$build/pgshuntd" --config "$work/pgshunt.yml"
	proxy_pid=$spawned
	wait_for 20 as_db "$PGBIN/pg_isready" -q -h "$suite_host" -p "$port" ||
		die "pgshuntd does not answer: $(tail -n 5 "$work/$1.proxy.log")"
	[ "$1" != moving ] || suite_move
}

suite_console() {
	"$PGBIN/psql" -X -q -A -t -c "$1" \
		"host=$suite_host port=$port user=pgshunt_admin dbname=pgshunt" 2>/dev/null
}

# Not while a client waits: where logins take longer than the time in between, it would do so forever.
# Stops by itself when the proxy has gone.
suite_move() {
	(while sleep 0.1 && suite_waiting=$(suite_console "SHOW POOLS"); do
		[ "$(say "$suite_waiting" | awk -F '|' '{n += $4} END {print n}')" -ne 0 ] ||
			suite_console RECONNECT
	done) &
	moving_pid=$!
}

# --- the suites; each leaves its files in $work/out/SUITE.MODE -------------------------------------

# In transaction pooling what a session leaves behind is the next one's.  So there the tests run one by
# one, and psql's sessions clean up.  $2 is the database, $3 the sources, then options.
suite_pg_regress() {
	suite_launcher="env"
	[ "$1" != transaction ] || suite_launcher="env SUITE_DISCARD=1 LD_PRELOAD=$work/lib/preload.so"
	suite_args="--use-existing --dbname=$2 --inputdir=$3"
	shift 3
	# shellcheck disable=SC2086
	as_db "$pgxs/regress/pg_regress" --bindir="$PGBIN" --dlpath="$work/lib" --host="$suite_host" \
		--port="$port" --user=postgres --launcher="$suite_launcher" $suite_args "$@" 2>&1 || :
}

suite_regress() {
	suite_options=--max-concurrent-tests=20
	[ "$1" != transaction ] || suite_options=--max-connections=1
	suite_pg_regress "$1" regression "$source/src/test/regress" --outputdir="$out" $suite_options \
		--schedule="$source/src/test/regress/parallel_schedule" >"$out/log"
}

# The tests that a module's Makefile names.
suite_names() {
	suite_makefile=$2/Makefile
	[ -e "$suite_makefile" ] || suite_makefile=$2/GNUmakefile
	sed -e ':a' -e '/\\$/{N;s/\\\n//;ba' -e '}' "$suite_makefile" |
		sed -n "s/\\\$([^)]*)//g; s/^[[:space:]]*$1 *+\\{0,1\\}= *//p"
}

suite_contrib() {
	suite_modules "$1" src/pl/plpgsql/src $modules
}

suite_languages() {
	suite_modules "$1" $languages
}

# A module's tests in a new database; tests of different modules may have one name.
suite_modules() {
	suite_mode=$1
	shift
	mkdir "$out/results"
	for suite_module; do
		suite_from=$source/$suite_module
		[ -e "$suite_from" ] || suite_from=$source/contrib/$suite_module
		suite_module=$(basename "${suite_module%/src}")
		suite_into=$out/$suite_module
		as_db mkdir "$suite_into"
		suite_database "$suite_mode" contrib_regression
		# dblink's test waits for a process of the server to end with its client.
		sql "$port" postgres -c "ALTER DATABASE contrib_regression SET statement_timeout TO '20s'"
		[ "$suite_module" != tcl ] || sql "$port" contrib_regression -c "CREATE EXTENSION pltcl"
		# Where \copy reads their data.
		cd "$suite_from"
		# shellcheck disable=SC2046
		suite_pg_regress "$suite_mode" contrib_regression "$suite_from" --outputdir="$suite_into" \
			$(suite_names REGRESS "$suite_from") |
			sed -E "s/^(test )? *([^ ]+ +\.\.\. )/test $suite_module.\2/" >>"$out/log"
		for suite_result in "$suite_into"/results/*.out; do
			mv "$suite_result" "$out/results/$suite_module.${suite_result##*/}"
		done
	done
	cd "$work"
}

# The tester recognises who waits for whom by process ids; those of the proxy are not the server's.
suite_isolation() {
	suite_isolation_of src/test/isolation --schedule="$source/src/test/isolation/isolation_schedule"
	# shellcheck disable=SC2046
	suite_isolation_of contrib/test_decoding $(suite_names ISOLATION "$source/contrib/test_decoding")
}

suite_isolation_of() {
	suite_from=$source/$1
	shift
	as_db "$pgxs/isolation/pg_isolation_regress" --bindir="$PGBIN" --inputdir="$suite_from" \
		--outputdir="$out" --use-existing --dbname=isolation_regression --host="$suite_host" \
		--port="$port" --user=postgres --launcher="env LD_PRELOAD=$work/lib/preload.so" \
		"$@" >>"$out/log" 2>&1 || :
}

suite_pipeline() {
	mkdir "$out/results"
	[ "$(id -u)" -ne 0 ] || chown postgres:postgres "$out/results"
	for suite_test in $("$work/lib/libpq_pipeline" tests); do
		suite_verdict=ok
		suite_trace=$source/src/test/modules/libpq_pipeline/traces/$suite_test.trace
		as_db timeout 120 "$work/lib/libpq_pipeline" -r 700 -t "$out/results/$suite_test.trace" \
			"$suite_test" "host=$suite_host port=$port user=postgres dbname=pipeline" \
			>"$out/results/$suite_test.out" 2>&1 || suite_verdict=FAILED
		if [ -e "$suite_trace" ] && [ "$suite_verdict" = ok ]; then
			cmp -s "$suite_trace" "$out/results/$suite_test.trace" || suite_verdict=FAILED
		else
			rm -f "$out/results/$suite_test.trace"
		fi
		say "test $suite_test ... $suite_verdict" >>"$out/log"
	done
}

# --- all ------------------------------------------------------------------------------------------

trap suite_cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

install_packages dpkg-dev bzip2 postgresql-server-dev-15 postgresql-contrib libpq-dev \
	postgresql-plperl-15 postgresql-plpython3-15 postgresql-pltcl-15
cache=$(build_dir suites)
mkdir -p "$cache"
build=${PGSHUNT_BUILD:-$(build_dir)}
[ -n "${PGSHUNT_BUILD:-}" ] || build "$build" pgshuntd
suite_source
work_create pgshunt-suite
suite_build
say "source: $(sed -n "s/^PACKAGE_STRING='\(.*\)'/\1/p" "$source/configure"), server:" \
	"$("$PGBIN/postgres" --version)"

for mode in direct $modes; do
	suite_start "$mode"
	for suite in $suites; do
		# Who waits for whom is asked by process ids, which only a session keeps that stays.
		[ "$suite" != isolation ] || case $mode in moving | transaction) continue ;; esac
		out=$work/out/$suite.$mode
		mkdir -p "$out"
		[ "$(id -u)" -ne 0 ] || chown -R postgres:postgres "$work/out"
		suite_began=$(date +%s)
		"suite_$suite" "$mode"
		say "== $suite, $mode: $(grep -c -E '(\.\.\.|^ok) .*ok|\.\.\. ok' "$out/log" || :) passed," \
			"$(grep -c FAILED "$out/log" || :) failed ($(($(date +%s) - suite_began)) s)"
	done
	suite_stop
done
/usr/bin/python3 "$repo/tests/suites/compare.py" "$work/out" "$explained"
