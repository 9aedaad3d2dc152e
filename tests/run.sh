#!/bin/sh
# SPDX-License-Identifier: PostgreSQL
# The one command that installs what is needed, builds out of tree and runs all tests:
#   sh tests/run.sh [unit|integration|demo|asan|tsan|fuzz|clang|package|bench …]
# Without arguments every stage runs.  The last line is "N passed, N failed"; the exit code is 0
# only if nothing failed.  Two runs can go side by side: each has ports and directories of its own.
set -u
repo=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$repo/tests/lib.sh"

python=/usr/bin/python3
test_processes=${TEST_PROCESSES:-8}
fuzz_seconds=${FUZZ_SECONDS:-5}
all_stages="unit integration demo asan tsan fuzz clang package bench"
stages=${*:-$all_stages}
for stage in $stages; do
	case " $all_stages " in
	*" $stage "*) ;;
	*) die "unknown stage \"$stage\"; expected one of: $all_stages" ;;
	esac
done

passed=0
failed=0
failures=

# Where the tests' servers live.  They copy and remove a thousand files for each, which costs a third
# less system time in memory than in ext4: there, if nobody said otherwise and there is plenty of it.
servers_parent() {
	if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ] && ! findmnt -no OPTIONS /dev/shm | grep -q noexec &&
		[ "$(df -Pk /dev/shm | awk 'END { print $4 }')" -ge 8000000 ] &&
		[ "$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)" -ge 12000000 ]; then
		echo /dev/shm
	else
		echo "${TMPDIR:-/tmp}"
	fi
}

# count PASSED FAILED WHAT: adds to the sums and prints the line of a stage.
count() {
	passed=$((passed + $1))
	failed=$((failed + $2))
	[ "$2" -eq 0 ] || failures="$failures $stage:$3"
	say "   $3: $1 passed, $2 failed"
}

# judge WHAT COMMAND…: a command that is one test.
judge() {
	judged=$1
	shift
	if "$@"; then count 1 0 "$judged"; else count 0 1 "$judged"; fi
}

# count_report FILE WHAT [EXCUSED]: adds the sums of a JUnit file; so many of its failures passed later.
count_report() {
	# shellcheck disable=SC2046
	set -- "$2" "${3:-0}" $("$python" "$repo/tests/junit.py" count "$1")
	count $(($3 + $2)) $(($4 - $2)) "$1"
}

# compile FLAVOUR [cmake option…]: leaves the directory in $built; in a subshell, for die() ends it.
compile() {
	flavour=$1
	shift
	built=$(build_dir "$flavour")
	(build "$built" all "$@")
}

unit() {
	rm -f "$work/unit.xml"
	ctest --test-dir "$built" --output-on-failure --timeout 120 -j 2 --quiet \
		--output-junit "$work/unit.xml" -O "$work/unit.log" ||
		tail -n 150 "$work/unit.log"
	count_report "$work/unit.xml" "unit tests"
}

# pytest_run REPORT [pytest argument…]: the integration tests into $work/REPORT.xml and .log.
pytest_run() {
	report=$work/$1
	shift
	rm -f "$report.xml"
	(cd "$repo/tests/integration" &&
		TMPDIR=$work PGSHUNT_BIN=$built PGSHUNT_TEST_SLOW=$slow PG_BINDIR=$PGBIN \
			PGSHUNT_NODE_PATH=$work/node/usr/share/nodejs PGSHUNT_SSHD=$work/ssh/usr/sbin/sshd \
			PGSHUNT_SLAPD=$work/ldap/usr/sbin/slapd PGSHUNT_MONITORING=$work/monitoring \
			PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -q --tb=short --durations=15 \
			-o junit_family=xunit1 --junitxml="$report.xml" "$@" >"$report.log" 2>&1)
}

# integration SLOWNESS [pytest argument…]: several files at a time, for most tests wait more than they
# work; each process has servers of its own.  What failed is shown, and a few failures that are no
# finding of a sanitizer are tried once more, alone: what passes then is named, and counts as passed.
integration() {
	slow=$1
	shift
	pytest_run integration -n "$test_processes" --dist loadfile "$@" || cat "$work/integration.log"
	[ -z "${TEST_DURATIONS:-}" ] || sed -n '/slowest/,$p' "$work/integration.log"
	"$python" "$repo/tests/junit.py" again "$work/integration.xml" >"$work/names"
	excused=0
	if [ -s "$work/names" ]; then
		say "   once more, alone:"
		sed 's/^/      /' "$work/names"
		set --
		while IFS= read -r name; do
			set -- "$@" "$name"
		done <"$work/names"
		if pytest_run again "$@"; then
			excused=$#
			say "   passed when run alone: $excused"
		else
			cat "$work/again.log"
		fi
	fi
	count_report "$work/integration.xml" "integration tests" "$excused"
}

stage_unit() {
	unit
}

# Under sanitizers all tests run.  If that has its turn, too, only those are run here that are not, because
# they ask PostgreSQL itself, those whose figures a sanitizer spoils, and those that need no proxy or server
# of their own: the demo, the fault matrix and the benchmark are the moves, holds and loads of this build.
stage_integration() {
	case " $stages " in
	*" asan "*) integration 2 -m "direct or figures or not (own or once)" ;;
	*) integration 2 ;;
	esac
}

stage_demo() {
	judge "short demo" sh "$repo/tests/demo.sh"
}

stage_asan() {
	compile asan -DPGSHUNT_ASAN=ON -DPGSHUNT_UBSAN=ON || {
		count 0 1 "build with ASan and UBSan"
		return
	}
	unit
	case " $stages " in
	*" integration "*) integration 3 -m "not direct" ;;
	*) integration 3 ;;
	esac
}

stage_tsan() {
	compile tsan -DPGSHUNT_TSAN=ON || {
		count 0 1 "build with TSan"
		return
	}
	integration 6 -m threads
}

# fuzz TARGET: a short run from the corpus in the repository; what it finds lands in $work.
fuzz() {
	name=${1##*/}
	target=$1
	mkdir -p "$work/corpus.$name"
	set -- "$work/corpus.$name"
	[ ! -d "$repo/tests/fuzz/corpus/$name" ] || set -- "$@" "$repo/tests/fuzz/corpus/$name"
	if "$target" -max_total_time="$fuzz_seconds" -rss_limit_mb=2048 -timeout=10 \
		-artifact_prefix="$work/" "$@" >"$work/$name.log" 2>&1; then
		: >"$work/$name.passed"
	fi
}

# Two targets at once.
stage_fuzz() {
	compile fuzz -DCMAKE_C_COMPILER=clang -DPGSHUNT_FUZZ=ON -DPGSHUNT_TESTS=OFF || {
		count 0 1 "build of the fuzz targets"
		return
	}
	targets=
	other=
	for target in "$built"/tests/fuzz/fuzz_*; do
		if [ ! -f "$target" ] || [ ! -x "$target" ]; then
			continue
		fi
		targets="$targets ${target##*/}"
		if [ -n "$other" ]; then
			fuzz "$target"
			wait "$other"
			other=
		else
			fuzz "$target" &
			other=$!
		fi
	done
	[ -z "$other" ] || wait "$other"
	for name in $targets; do
		if [ -e "$work/$name.passed" ]; then
			count 1 0 "$name"
		else
			tail -n 40 "$work/$name.log"
			count 0 1 "$name"
		fi
	done
	[ -n "$targets" ] || count 0 1 "fuzz targets found"
}

# clang's warnings for every file, without making programs of them.
clang_warnings() {
	rm -rf "$work/clang"
	cmake -S "$repo" -B "$work/clang" -G Ninja -DCMAKE_C_COMPILER=clang \
		-DCMAKE_EXPORT_COMPILE_COMMANDS=ON >"$work/clang.log" 2>&1 &&
		"$python" -c 'import json, sys
for entry in json.load(open(sys.argv[1])):
    print(entry["command"] + " -fsyntax-only", end="\0")' \
			"$work/clang/compile_commands.json" |
		(cd "$work/clang" && xargs -0 -P 2 -n 1 sh -c) >>"$work/clang.log" 2>&1 || {
		cat "$work/clang.log"
		return 1
	}
}

stage_clang() {
	judge "warnings of clang" clang_warnings
}

# The Debian package lives in a root of its own, whose systemd needs namespaces and a cgroup: most
# containers do not allow that.  A mirror may fail for a moment, so it may try twice.
package_life() {
	sh "$repo/tests/package.sh" >"$work/package.log" 2>&1 ||
		sh "$repo/tests/package.sh" >"$work/package.log" 2>&1 || {
		cat "$work/package.log"
		return 1
	}
}

stage_package() {
	root=
	[ "$(id -u)" -eq 0 ] || root=sudo
	if [ -n "$(findmnt -n -t cgroup2 -o TARGET | head -n 1)" ] &&
		$root unshare --mount --pid --uts --ipc --cgroup --net --fork true 2>/dev/null; then
		judge "life of the Debian package" package_life
	else
		say "   this machine allows no namespaces with a systemd of their own: not run"
	fi
}

stage_bench() {
	judge "quick benchmark" sh "$repo/tests/bench/run.sh" --quick
}

# shellcheck disable=SC2086
install_packages pgbouncer groff-base strace python3-pytest python3-pytest-timeout python3-pytest-xdist python3-psycopg python3-psycopg2 python3-asyncpg openssl \
	python3-yaml clang libclang-rt-dev iproute2 nftables dnsmasq-base \
	nodejs openjdk-17-jdk-headless libpostgresql-jdbc-java openssh-client
work=
work_create pgshunt-run "$(servers_parent)"
trap work_remove EXIT
# A nodejs that is not Debian's would not let them be installed.
unpack_packages "$work/node" node-pg node-split2 node-xtend ||
	say "node-postgres cannot be had: its test will fail"
# Not installed: that would start a service.
unpack_packages "$work/ssh" openssh-server libwrap0 ||
	say "sshd cannot be had: its tests will fail"
unpack_packages "$work/ldap" slapd libltdl7 libwrap0 libodbc2 ||
	say "slapd cannot be had: its tests will fail"
# The first would start one, too; the others are run against pgbouncer and in its place.
unpack_packages "$work/monitoring" prometheus prometheus-pgbouncer-exporter check-postgres \
	python3-configargparse python3-decorator python3-pkg-resources python3-prometheus-client ||
	say "promtool, prometheus-pgbouncer-exporter and check_postgres cannot be had: their tests will fail"
trap 'exit 130' INT
trap 'exit 143' TERM HUP

began=$(date +%s)
say "== build"
normal=$(build_dir "")
stage=build
if compile ""; then
	count 1 0 "build with $(cc --version | head -n 1)"
else
	count 0 1 "build"
fi
say "   $(($(date +%s) - began)) s"

for stage in $stages; do
	stage_began=$(date +%s)
	say "== $stage"
	built=$normal
	"stage_$stage"
	say "   $(($(date +%s) - stage_began)) s"
done

say "== all stages: $(($(date +%s) - began)) s"
[ -z "$failures" ] || say "failed:$failures"
say "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
