# SPDX-License-Identifier: PostgreSQL
# Shell functions shared by tests/run.sh, tests/demo.sh and tests/bench/run.sh.  Sourced, POSIX sh.
#
# The caller sets `repo` (the checkout) before it sources this file.  Afterwards:
#   install_packages [more…]             Debian packages, only those that are missing
#   unpack_packages DIR NAME…            the files of Debian packages, which are not installed
#   build DIR TARGETS [cmake option…]    configures and builds out of tree, under a lock
#   build_dir [flavour]                  the default directory of a build
#   work_create NAME [PARENT] / work_remove     a fresh directory that the servers' user owns
#   as_db COMMAND…                       runs it as the servers' user (postgres when we are root)
#   spawn LOG COMMAND…                   the same in the background; its process id is in $spawned
#   pg_init DIR / pg_start DIR / pg_stop DIR    a private server; pg_start sets $port
# Nothing here listens on, or changes, what the system's own PostgreSQL uses.

LC_ALL=C
export LC_ALL
PGBIN=${PGBIN:-/usr/lib/postgresql/15/bin}
# A stray PGHOST or PGSERVICE of the caller must not lead us to somebody's real server.
unset PGHOST PGHOSTADDR PGPORT PGDATABASE PGUSER PGPASSWORD PGPASSFILE PGSERVICE PGSERVICEFILE \
	PGOPTIONS PGAPPNAME PGSSLMODE PGDATA PGCLIENTENCODING PGTZ PGCONNECT_TIMEOUT

say() {
	printf '%s\n' "$*"
}

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# --- packages -------------------------------------------------------------------------------------

# What building and the demo need.  run.sh and bench/run.sh name what they need beyond it.
base_packages="gcc libc6-dev cmake ninja-build pkg-config libevent-dev libpq-dev libssl-dev \
libyaml-dev libpam0g-dev libldap-dev libcmocka-dev postgresql-15 postgresql-15-plproxy python3"

package_installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

install_packages() {
	missing=
	for package in $base_packages "$@"; do
		package_installed "$package" || missing="$missing $package"
	done
	[ -n "$missing" ] || return 0
	root=
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null 2>&1 ||
			die "needs root or sudo to install:$missing"
		root=sudo
	fi
	say "installing Debian packages:$missing"
	# Two runs side by side take turns: apt-get update does not wait for another one's lock.
	# shellcheck disable=SC2086
	$root env DEBIAN_FRONTEND=noninteractive flock /run/lock/pgshunt-apt.lock sh -c '
		apt-get -q -y update &&
		apt-get -q -y -o DPkg::Lock::Timeout=600 install --no-upgrade \
			--no-install-recommends "$@"' install_packages $missing \
		>"${TMPDIR:-/tmp}/pgshunt-apt-$(id -u).log" 2>&1 ||
		die "could not install packages; see ${TMPDIR:-/tmp}/pgshunt-apt-$(id -u).log"
}

# Unpacks packages under a directory, without installing them.
unpack_packages() {
	unpack_into=$1
	shift
	(
		mkdir -p "$unpack_into" && cd "$unpack_into" || exit 1
		apt-get -q download "$@" || {
			root=
			[ "$(id -u)" -eq 0 ] || root=sudo
			$root apt-get -q -y update && apt-get -q download "$@" || exit 1
		}
		for package in ./*.deb; do
			dpkg -x "$package" . || exit 1
		done
	) >"${TMPDIR:-/tmp}/pgshunt-unpack-$(id -u).log" 2>&1
}

# --- build ----------------------------------------------------------------------------------------

build_dir() {
	hash=$(printf '%s' "$repo" | cksum | cut -d' ' -f1)
	build_parent=${TMPDIR:-/tmp}
	# The servers' user runs what is built.
	[ "$(id -u)" -ne 0 ] || (cd / && work=/tmp && as_db test -x "$build_parent") ||
		build_parent=/tmp
	printf '%s\n' "$build_parent/pgshunt-build-$(id -u)-$hash${1:+-$1}"
}

# A second run for the same checkout waits for the first one's build and then finds it done.
build() {
	build_into=$1
	build_targets=$2
	shift 2
	mkdir -p "$build_into" || die "cannot make $build_into"
	# /tmp is everybody's: somebody else's directory of that name is not ours to run from.
	[ "$(stat -c %u "$build_into")" = "$(id -u)" ] || die "$build_into belongs to another user"
	chmod 755 "$build_into"
	(
		flock 9
		cmake -S "$repo" -B "$build_into" -G Ninja "$@" >"$build_into/configure.log" 2>&1 || {
			cat "$build_into/configure.log" >&2
			exit 1
		}
		# shellcheck disable=SC2086
		cmake --build "$build_into" --target $build_targets >"$build_into/build.log" 2>&1 || {
			tail -n 60 "$build_into/build.log" >&2
			exit 1
		}
	) 9>"$build_into/lock" || die "the build failed; see $build_into/build.log"
}

# --- processes and directories --------------------------------------------------------------------

# setpriv, unlike su and runuser, leaves no process in between: $! is the server itself.
as_db() {
	if [ "$(id -u)" -eq 0 ]; then
		setpriv --reuid=postgres --regid=postgres --init-groups \
			env HOME="${work:-/tmp}" "$@"
	else
		"$@"
	fi
}

spawn() {
	spawn_log=$1
	shift
	if [ "$(id -u)" -eq 0 ]; then
		setpriv --reuid=postgres --regid=postgres --init-groups \
			env HOME="${work:-/tmp}" "$@" >>"$spawn_log" 2>&1 </dev/null &
	else
		"$@" >>"$spawn_log" 2>&1 </dev/null &
	fi
	spawned=$!
}

# A fresh directory in $work.  It falls back to /tmp if the servers' user cannot enter its parent,
# which is $TMPDIR if none is given.
work_create() {
	work=$(mktemp -d "${2:-${TMPDIR:-/tmp}}/$1.XXXXXX") || die "cannot make a temporary directory"
	if [ "$(id -u)" -eq 0 ]; then
		chown postgres:postgres "$work"
		if ! (cd / && work=/tmp as_db test -w "$work"); then
			rmdir "$work"
			work=$(mktemp -d "/tmp/$1.XXXXXX") || die "cannot make a temporary directory"
			chown postgres:postgres "$work"
		fi
	fi
	# Programs that run as postgres complain about a current directory they cannot enter.
	cd "$work" || die "cannot enter $work"
}

work_remove() {
	cd / && rm -rf -- "$work"
}

# A port on which nobody listens, below the range from which the kernel takes clients' ports.
free_port() {
	/usr/bin/python3 - <<'PYTHON'
import random, socket
for _ in range(1000):
    port = random.randrange(15000, 32000)
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
    print(port)
    break
PYTHON
}

random_password() {
	od -An -N16 -tx1 /dev/urandom | tr -d ' \n'
}

# Runs a command every 50 ms until it succeeds; false after `seconds`.
wait_for() {
	wait_turns=$(($1 * 20))
	shift
	while ! "$@" >/dev/null 2>&1; do
		wait_turns=$((wait_turns - 1))
		[ "$wait_turns" -gt 0 ] || return 1
		sleep 0.05
	done
}

# --- PostgreSQL servers ---------------------------------------------------------------------------

# A new cluster whose superuser is `postgres` with the password in $work/postgres.password.
pg_init() {
	if [ ! -e "$work/postgres.password" ]; then
		(umask 077 && random_password >"$work/postgres.password")
		printf '*:*:*:postgres:%s\n' "$(cat "$work/postgres.password")" >"$work/pgpass"
		chmod 600 "$work/pgpass"
		[ "$(id -u)" -ne 0 ] ||
			chown postgres:postgres "$work/postgres.password" "$work/pgpass"
	fi
	PGPASSFILE=$work/pgpass
	export PGPASSFILE
	as_db "$PGBIN/initdb" -D "$1" -U postgres -E UTF8 --locale=C --no-sync \
		-A scram-sha-256 --pwfile="$work/postgres.password" >"$1.initdb.log" 2>&1 || {
		cat "$1.initdb.log" >&2
		die "initdb failed"
	}
}

# Starts it on 127.0.0.1 at a free port, which is left in $port; more arguments are settings.
pg_start() {
	pg_dir=$1
	shift
	pg_tries=0
	while :; do
		port=$(free_port)
		pg_options="-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=''"
		for setting in "$@"; do
			pg_options="$pg_options -c $setting"
		done
		# Its session of its own keeps it out of the reach of ^C: it is stopped in order.
		if as_db setsid "$PGBIN/pg_ctl" -D "$pg_dir" -l "$pg_dir.log" -o "$pg_options" \
			-w -t 60 start >"$pg_dir.start.log" 2>&1 </dev/null; then
			return 0
		fi
		pg_tries=$((pg_tries + 1))
		if [ "$pg_tries" -ge 5 ] || ! grep -q 'Address already in use' "$pg_dir.log"; then
			tail -n 20 "$pg_dir.log" >&2
			die "PostgreSQL did not start in $pg_dir"
		fi
	done
}

pg_stop() {
	[ -e "$1/postmaster.pid" ] || return 0
	as_db "$PGBIN/pg_ctl" -D "$1" -m "${2:-immediate}" -w -t 60 stop >/dev/null 2>&1 || :
}

# psql for scripts: sql PORT DATABASE [psql argument…], SQL in -c or on standard input.
sql() {
	sql_port=$1
	sql_database=$2
	shift 2
	as_db "$PGBIN/psql" -X -q -A -t -v ON_ERROR_STOP=1 \
		-d "host=127.0.0.1 port=$sql_port user=postgres dbname=$sql_database" "$@"
}
