#!/bin/sh
# SPDX-License-Identifier: PostgreSQL
# One cutover of p2 from scratch, for bench.py: 16 clients on p2, 4 on p1, fsync on.
#
#   move.sh pgshuntd|pgbouncer|limit OUTPUT_DIRECTORY
#
# Leaves account.json (the whole run), before.json and during.json (parts of it, equally long, before
# the move and from its first connection to half a second after its end) and move.json there.
set -eu
repo=$(cd "$(dirname "$0")/../.." && pwd)
. "$repo/tests/lib.sh"
. "$repo/tests/shards.sh"
system=$1
output=$2
build=$PGSHUNT_BUILD
seconds=${MOVE_SECONDS:-4}
work=

move_cleanup() {
	move_code=$?
	trap '' EXIT INT TERM HUP
	[ -z "$work" ] || {
		shards_stop
		[ "$move_code" -eq 0 ] || tail -n 20 "$work"/*.log "$work"/*.err >&2 || :
		work_remove
	}
	exit "$move_code"
}
trap move_cleanup EXIT
trap 'exit 130' INT TERM HUP

now_usec() {
	date +%s%6N
}

superuser() {
	printf 'host=127.0.0.1 port=%s user=postgres dbname=%s' "$1" "$2"
}

work_create pgshunt-move
shards_create
set -- --sql "$form_write" --read-sql "$form_read" --mode extended
if [ "$system" = limit ]; then
	# p1's clients and the cutover's own; nobody else is on p2.
	proxy_port=$pg1_port
	build_load=$build/tests/load/pgshunt_load
	as_db "$build_load" setup "$(superuser "$pg1_port" commcarehq_p2)"
else
	"shards_$system"
	[ "$system" != pgshuntd ] || echo '  validate_seconds: 0' >>"$work/pgshunt.yml"
	set -- "$@" --target "p2:$(app_conninfo "$proxy_port" commcarehq_p2):16" --rate 800
fi
load_start "$@" --target "p1:$(app_conninfo "$proxy_port" commcarehq_p1):4" --rate 200
sleep "$seconds"
began=$(now_usec)
case $system in
pgshuntd)
	as_db "$build/pgshunt" --config "$work/pgshunt.yml" move p2 --to pg2 </dev/null \
		>"$work/move.err" 2>&1
	find "$work/moves" -name report.json -exec cat {} + >"$work/move.json"
	;;
pgbouncer)
	as_db "$build/tests/bench/pgshunt_cutover" pgbouncer commcarehq_p2 \
		"$(superuser "$pg1_port" postgres)" "$(superuser "$pg2_port" postgres)" \
		"host=127.0.0.1 port=$proxy_port user=pgshunt_admin dbname=pgbouncer" \
		"$work/pgbouncer.ini" "$work/pgbouncer.ini.moved" >"$work/move.json"
	;;
limit)
	as_db "$build/tests/bench/pgshunt_cutover" limit commcarehq_p2 \
		"$(superuser "$pg1_port" postgres)" "$(superuser "$pg2_port" postgres)" \
		"$(superuser "$pg1_port" commcarehq_p2)" "$(superuser "$pg2_port" commcarehq_p2)" \
		>"$work/move.json"
	;;
esac
# What is compared for p1 is as long before the move as over it: longer looks see longer gaps.
window=$(($(now_usec) - began + 500000))
[ "$window" -le "$((seconds * 1000000))" ] || window=$((seconds * 1000000))
cp "$work/move.json" "$output/move.json"
sleep 1
load_stop
started=$(sed -n '1s/^V 1 [0-9]* \([0-9]*\) .*/\1/p' "$work/load.log")
if [ "$system" = limit ]; then
	# Nobody else is on p2, and it is closed.
	account() {
		as_db "$build_load" account --log "$work/load.log" --rows "p1=$form_rows" \
			--new "p1=$(superuser "$pg1_port" commcarehq_p1)" "$@"
	}
else
	account() {
		load_account --allow-errors "$@"
	}
fi
account --json "$work/account.json" >/dev/null
began=$((began - started))
account --json "$work/before.json" --from "$((began - window))" --to "$began" >/dev/null
account --json "$work/during.json" --from "$began" --to "$((began + window))" >/dev/null
cp "$work/account.json" "$work/before.json" "$work/during.json" "$output"
