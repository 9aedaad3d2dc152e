#!/bin/sh
# SPDX-License-Identifier: PostgreSQL
# Builds the Debian package and puts it through its life in a clean root of Debian 12: install, start,
# upgrade, remove, purge.  Needs root, or sudo, and a Debian mirror.  The last line is
# "package: good", or what was wrong.
#
#   sh tests/package.sh [package.deb]
set -eu

repo=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$repo/tests/lib.sh"
[ "$(id -u)" -eq 0 ] || exec sudo sh "$0" "$@"

install_packages debootstrap dpkg-dev
base=$(mktemp -d "${TMPDIR:-/tmp}/pgshunt-package.XXXXXX")
root=$base/root
daemon=

finish() {
	[ -z "$daemon" ] || kill -KILL "$daemon" 2>/dev/null || :
	! mountpoint -q "$root/proc" || umount "$root/proc"
	rm -rf --one-file-system "$base"
}
trap finish EXIT
trap 'exit 1' INT TERM

inside() {
	chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C \
		DEBIAN_FRONTEND=noninteractive "$@"
}

check() {
	what=$1
	shift
	"$@" >"$base/output" 2>&1 || {
		cat "$base/output" "$base/daemon.log" >&2 2>/dev/null
		die "$what"
	}
	say "  $what"
}

# A user and rights as "stat" prints them.
has_mode() {
	[ "$(inside stat -c '%U:%G %a' "$1")" = "$2" ]
}

start_daemon() {
	# Each of these becomes the next: the process is pgshuntd itself.
	(exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin setpriv --reuid=pgshunt \
		--regid=pgshunt --clear-groups pgshuntd >"$base/daemon.log" 2>&1) &
	daemon=$!
	wait_for 20 grep -q ' is ready: ' "$base/daemon.log"
}

# SIGTERM is answered by an orderly end.
stop_daemon() {
	kill -TERM "$daemon"
	code=0
	wait "$daemon" || code=$?
	daemon=
	[ "$code" -eq 0 ]
}

reload_daemon() {
	kill -HUP "$daemon"
	wait_for 20 grep -q 'configuration read again' "$base/daemon.log"
}

gone() {
	for path in "$@"; do
		[ ! -e "$root$path" ] || {
			say "$path is still there"
			return 1
		}
	done
}

# --- the packages: as it is, and a later version ---------------------------------------------------

if [ $# -gt 0 ]; then
	cp "$1" "$base/pgshunt.deb"
else
	say "building"
	built=$(build_dir package)
	build "$built" all -DPGSHUNT_TESTS=OFF -DPGSHUNT_PACKAGE=ON -DCMAKE_INSTALL_PREFIX=/usr
	(cd "$built" && cpack -B "$base/cpack" >"$base/output" 2>&1) || {
		cat "$base/output" >&2
		die "cpack failed"
	}
	mv "$base"/cpack/pgshunt_*.deb "$base/pgshunt.deb"
fi
dpkg-deb -R "$base/pgshunt.deb" "$base/later"
sed -i 's/^Version: .*/&+later/' "$base/later/DEBIAN/control"
printf '# A line of a later version.\n' >>"$base/later/etc/pgshunt/userlist.txt"
sed -i 's/^# A line/; A line/' "$base/later/etc/pgshunt/userlist.txt"
dpkg-deb -b "$base/later" "$base/later.deb" >/dev/null

say "a clean root"
mirror=$(sed -n -E 's/^(deb|URIs:) +(\[[^]]*\] +)?(https?:[^ ]+).*/\3/p' /etc/apt/sources.list \
	/etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
debootstrap --variant=minbase bookworm "$root" "${mirror:-http://deb.debian.org/debian}" \
	>"$base/debootstrap.log" 2>&1 || {
	tail -n 20 "$base/debootstrap.log" >&2
	die "debootstrap failed"
}
mount -t proc proc "$root/proc"
cp "$base/pgshunt.deb" "$base/later.deb" "$root/tmp/"
inside apt-get -q -y update >/dev/null

# --- its life ---------------------------------------------------------------------------------------

say "install"
check "apt-get install works" inside apt-get -q -y --no-install-recommends install /tmp/pgshunt.deb
check "the user exists, without a shell" inside sh -c \
	'getent passwd pgshunt | grep -q ":/var/lib/pgshunt:/usr/sbin/nologin$"'
check "the configuration is root's, and readable to the user" has_mode /etc/pgshunt/pgshunt.yml \
	"root:pgshunt 640"
check "so are the secrets" has_mode /etc/pgshunt/secrets "root:pgshunt 750"
check "the state is the user's" has_mode /var/lib/pgshunt/proxy "pgshunt:pgshunt 700"
check "the service is enabled" test -L \
	"$root/etc/systemd/system/multi-user.target.wants/pgshuntd.service"
check "manual pages" test -s "$root/usr/share/man/man8/pgshuntd.8.gz"
check "the configuration is right" inside setpriv --reuid=pgshunt --regid=pgshunt --clear-groups \
	pgshuntd --check-config
check "the mover is there" inside pgshunt --version
sed -i 's/port: 6432/port: '"$(free_port)"'/' "$root/etc/pgshunt/pgshunt.yml"

say "start"
check "it starts" start_daemon
check "it reloads" reload_daemon

say "upgrade"
# dpkg asks nothing: the file that was changed is as it was in the later version.
check "the later version installs while it runs" inside dpkg -i /tmp/later.deb
check "the administrator's file stays" grep -q 'port: [^6]\|port: 6[^4]' "$root/etc/pgshunt/pgshunt.yml"
check "the other one is the new one" grep -q 'later version' "$root/etc/pgshunt/userlist.txt"
check "rights are as they were" has_mode /etc/pgshunt/pgshunt.yml "root:pgshunt 640"
check "the old process goes on until it is ended" stop_daemon
check "the new one starts" start_daemon
check "and ends" stop_daemon

say "remove"
check "apt-get remove works" inside apt-get -q -y remove pgshunt
check "the programs are gone" gone /usr/sbin/pgshuntd /usr/bin/pgshunt \
	/usr/lib/systemd/system/pgshuntd.service
check "the configuration stays" test -s "$root/etc/pgshunt/pgshunt.yml"
check "it installs again" inside dpkg -i /tmp/later.deb

say "purge"
check "apt-get purge works" inside apt-get -q -y purge pgshunt
check "nothing is left" gone /etc/pgshunt /var/lib/pgshunt /usr/share/doc/pgshunt \
	/etc/systemd/system/multi-user.target.wants/pgshuntd.service
check "nor the user" inside sh -c '! getent passwd pgshunt'
check "nothing is left to configure" inside sh -c '[ -z "$(dpkg --audit)" ]'
say "package: good"
