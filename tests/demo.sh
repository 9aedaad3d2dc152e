#!/bin/sh
# SPDX-License-Identifier: PostgreSQL
# The demonstration: a live shard moves from one PostgreSQL server to another under load, and an
# account is drawn up of what its clients were promised.  One command, on a fresh clone:
#
#   sh tests/demo.sh
#
# It installs the Debian packages that are missing (root or sudo), builds outside of the checkout,
# starts pg1 with the shards p1 and p2, its standby pg2, a PL/Proxy database and pgshuntd on free
# ports, puts load on p1 and p2, directly and through PL/Proxy, and then does what an operator does:
# plan, rehearse, move with a comparison of both copies, validate, counts, cleanup, report.  At the
# end it checks every row.  Exit code 0: every promise was kept.  Environment:
#
#   DEMO_RUNS=10        as often, each from scratch
#   DEMO_SECONDS=4      of load before and after the move
#   DEMO_RATE=100       transactions a second of most kinds of clients; 0: as fast as it goes;
#                       without it 100, or less where that is more than a third of what the machine can do
#   DEMO_SESSIONS=12     clients of a session pool, with state that is to go along (and one more, pinned)
#   DEMO_PROXY=pgbouncer    the same by hand through pgbouncer, for comparison: it breaks promises
#   DEMO_KEEP=1         keeps logs also of a run that went well
#   PGSHUNT_BUILD=DIR   build directory
set -eu
repo=$(cd "$(dirname "$0")/.." && pwd)
. "$repo/tests/lib.sh"
. "$repo/tests/shards.sh"

demo_proxy=${DEMO_PROXY:-pgshuntd}
demo_seconds=${DEMO_SECONDS:-4}
work=
load_pid=
proxy_pid=
sessions_pid=

# Whatever ends the demo, nothing of it goes on running; logs stay when something went wrong.
demo_cleanup() {
	demo_code=$?
	trap '' EXIT INT TERM HUP
	[ -n "$work" ] || exit "$demo_code"
	[ -z "$sessions_pid" ] || kill -KILL "$sessions_pid" 2>/dev/null || :
	shards_stop
	demo_discard "$demo_code"
	exit "$demo_code"
}

demo_discard() {
	# 130: somebody interrupted it, nothing went wrong.
	if [ "$1" -eq 0 ] || [ "$1" -eq 130 ] && [ -z "${DEMO_KEEP:-}" ]; then
		work_remove
	else
		rm -f "$work"/*password "$work/pgpass" "$work/userlist.txt"
		say "logs are kept in $work"
	fi
	work=
}

# In percent of what the kinds of clients below write by themselves, rounded up: 0 means without a limit.
demo_rate() {
	printf '%s' $((($1 * demo_percent + 99) / 100))
}

# What the application does: clients of every kind on both shards, directly and through PL/Proxy.
demo_load() {
	p1=$(app_conninfo "$proxy_port" commcarehq_p1)
	p2=$(app_conninfo "$proxy_port" commcarehq_p2)
	hq=$(app_conninfo "$hq_port" commcarehq_proxy)
	named_modes=pipelined-prepared
	prepared=prepared
	if [ "$demo_proxy" = pgbouncer ]; then
		# Debian's pgbouncer knows no prepared statements in transaction pooling.
		named_modes=pipelined
		prepared=extended
	fi
	set -- --sql "$form_write" --read-sql "$form_read" --reads 20 --rate "$(demo_rate 100)"
	set -- "$@" --group p2 \
		--target "p2/simple:$p2:3" --mode simple \
		--target "p2/batch:$p2:1" --batch --statements 3 --rate "$(demo_rate 30)" \
		--target "p2/extended:$p2:3" --mode extended --block --statements 2 \
		--target "p2/prepared:$p2:4" --mode "$prepared" \
		--target "p2/pipelined:$p2:2" --mode pipelined --statements 2 --depth 4 --rate "$(demo_rate 200)" \
		--target "p2/pipelined-block:$p2:2" --mode "$named_modes" --block --rate "$(demo_rate 50)" \
		--target "p2/reconnecting:$p2:1" --reconnect --rate "$(demo_rate 10)"
	set -- "$@" \
		--target "p2/plproxy:$hq:3" --mode "$prepared" --rate "$(demo_rate 100)" \
		--sql "SELECT load_save_form(2 + (:number % 2)::integer, :run, :client, :number)" \
		--read-sql "SELECT load_count_form(2 + (:number % 2)::integer, :run, :client, :number)"
	set -- "$@" \
		--target "p1/simple:$p1:1" --group p1 \
		--target "p1/prepared:$p1:2" --group p1 --mode "$prepared" \
		--target "p1/pipelined:$p1:1" --group p1 --mode "$named_modes" --block \
		--target "p1/plproxy:$hq:1" --group p1 --mode simple \
		--sql "SELECT load_save_form((:number % 2)::integer, :run, :client, :number)" \
		--read-sql "SELECT load_count_form((:number % 2)::integer, :run, :client, :number)"
	load_start "$@"
}

# A machine that has more to do than it can shows how it works off what has piled up, not what a move
# costs.  So the load is tried without a limit for a moment, and is then at most a third of that.
demo_calibrate() {
	demo_percent=${DEMO_RATE:-0}
	[ -z "${DEMO_RATE:-}" ] || return 0
	demo_load
	sleep 3
	load_stop
	# Rows of the last two of these seconds; 14.5 a second are one percent.
	demo_percent=$(awk '$1 == "A" && $2 >= 1000000 && $2 < 3000000 { rows += $5 }
		END { percent = int(rows / 2 / 3 / 14.5); print (percent > 100 ? 100 : percent < 10 ? 10 : percent) }' \
		"$work/load.log")
	rm -f "$work/load.log"
	say "load: $demo_percent percent of 1450 rows a second, at most a third of what this machine can do"
}

# Clients of a session pool of the shard that moves, with all the state that a session can take along.
demo_sessions() {
	[ "$demo_proxy" = pgshuntd ] || return 0
	(umask 077 && printf '%s\n' "$app_password" >"$work/session.password")
	/usr/bin/python3 "$repo/tests/load/session_clients.py" "127.0.0.1:$proxy_port" commcarehq_p2 \
		hqsession "$work/session.password" "${DEMO_SESSIONS:-12}" "$work/sessions.json" hqpinned \
		>"$work/sessions.out" 2>&1 </dev/null &
	sessions_pid=$!
	wait_for 20 grep -q ready "$work/sessions.out" || {
		cat "$work/sessions.out" >&2
		die "the session clients do not get through"
	}
}

# They see what they still have, and write it down.
demo_sessions_end() {
	[ -n "$sessions_pid" ] || return 0
	kill -TERM "$sessions_pid" && wait "$sessions_pid" || {
		cat "$work/sessions.out" >&2
		return 1
	}
	sessions_pid=
}

# One command of the mover, shown as an operator types it.
demo_pgshunt() {
	say ""
	say "\$ pgshunt $*"
	as_db "$build/pgshunt" --config "$work/pgshunt.yml" "$@" </dev/null 2>&1
}

demo_before() {
	[ "$demo_proxy" = pgshuntd ] || return 0
	demo_pgshunt plan p2 --to pg2 || return
	demo_rehearsed=0
	demo_pgshunt rehearse p2 --to pg2 || demo_rehearsed=$?
	# 3: not now, on a machine as busy as this one.  An operator would wait; the demo does not.
	[ "$demo_rehearsed" -eq 0 ] || [ "$demo_rehearsed" -eq 3 ]
}

# While the load goes on.  The copies get their names back, for the account wants to see them.
demo_after() {
	[ "$demo_proxy" = pgshuntd ] || return 0
	demo_pgshunt validate && demo_pgshunt counts --exact && demo_pgshunt cleanup &&
		demo_pgshunt cleanup --undo && demo_pgshunt report || return
	find "$work/moves" -name report.html -exec cat {} + >"$build/demo-report.html"
	say "the report of the move is kept as $build/demo-report.html"
	say ""
}

demo_move() {
	if [ "$demo_proxy" = pgshuntd ]; then
		demo_pgshunt move p2 --to pg2 --verify || return
		find "$work/moves" -name report.json -exec cat {} + >"$work/move.json"
	else
		as_db "$build/tests/bench/pgshunt_cutover" pgbouncer commcarehq_p2 \
			"host=127.0.0.1 port=$pg1_port user=postgres dbname=postgres" \
			"host=127.0.0.1 port=$pg2_port user=postgres dbname=postgres" \
			"host=127.0.0.1 port=$proxy_port user=pgshunt_admin dbname=pgbouncer" \
			"$work/pgbouncer.ini" "$work/pgbouncer.ini.moved" >"$work/move.json"
	fi
}

demo_run() {
	work_create pgshunt-demo
	shards_create
	"shards_$demo_proxy"
	demo_calibrate
	demo_load
	demo_sessions
	sleep "$demo_seconds"
	demo_before || return 1
	say "moving p2 from pg1 (port $pg1_port) to pg2 (port $pg2_port) under load"
	demo_moved=0
	demo_move || demo_moved=$?
	if [ "$demo_moved" -ne 0 ]; then
		say "the move failed with exit code $demo_moved"
		return 1
	fi
	demo_after || return 1
	sleep "$demo_seconds"
	demo_sessions_end || return 1
	load_stop
	demo_broken=0
	load_account --json "$work/account.json" >"$work/account.txt" 2>&1 || demo_broken=$?
	/usr/bin/python3 "$repo/tests/load/summary.py" "$work/account.json" "$work/move.json" \
		"$work/sessions.json" || demo_broken=1
	if [ "$demo_broken" -ne 0 ]; then
		cat "$work/account.txt" "$work/load.err"
		return 1
	fi
}

case $demo_proxy in
pgshuntd | pgbouncer) ;;
*) die "DEMO_PROXY is pgshuntd or pgbouncer" ;;
esac
install_packages $([ "$demo_proxy" = pgshuntd ] || echo pgbouncer)
build=${PGSHUNT_BUILD:-$(build_dir)}
demo_targets="pgshunt_load pgshunt_cutover"
[ "$demo_proxy" = pgbouncer ] || demo_targets="$demo_targets pgshuntd pgshunt"
[ -n "${DEMO_NO_BUILD:-}" ] || build "$build" "$demo_targets"
trap demo_cleanup EXIT
trap 'exit 130' INT TERM HUP

demo_number=1
while [ "$demo_number" -le "${DEMO_RUNS:-1}" ]; do
	[ "${DEMO_RUNS:-1}" -eq 1 ] || say "run $demo_number of $DEMO_RUNS"
	demo_run || exit 1
	shards_stop
	demo_discard 0
	demo_number=$((demo_number + 1))
done
say "every promise was kept: nothing lost, nothing twice, no error"
