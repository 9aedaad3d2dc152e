#!/bin/sh
# SPDX-License-Identifier: PostgreSQL
# Builds the Debian package and puts it through its life in a clean root of Debian 12 that a systemd of
# its own has booted: install, start, reload, crash, hang, sockets, upgrade, remove, purge.  Needs root,
# or sudo, namespaces and a Debian mirror.  The last line is "package: good", or what was wrong.
#
#   sh tests/package.sh [package.deb]
set -eu

repo=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$repo/tests/lib.sh"
[ "$(id -u)" -eq 0 ] || exec sudo sh "$0" "$@"

install_packages debootstrap dpkg-dev iproute2
base=$(mktemp -d "${TMPDIR:-/tmp}/pgshunt-package.XXXXXX")
root=$base/root
group=
init=

finish() {
	# With the first process of its namespaces everything in them ends: processes and mounts.
	[ -z "$init" ] || kill -KILL "$init" 2>/dev/null || :
	wait
	[ -z "$group" ] || find "$group" -depth -type d -exec rmdir {} +
	rm -rf --one-file-system "$base"
}
trap finish EXIT
trap 'exit 1' INT TERM

inside() {
	nsenter -t "$init" -m -u -i -n -p -C -r -w env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C \
		DEBIAN_FRONTEND=noninteractive "$@"
}

check() {
	what=$1
	shift
	"$@" >"$base/output" 2>&1 || {
		cat "$base/output" >&2
		inside journalctl -q --no-pager -n 30 -u 'pgshuntd*' >&2 || :
		die "$what"
	}
	say "  $what"
}

# boot: systemd as the first process of namespaces whose root is $root; its network is 127.0.0.1.
boot() {
	group=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)
	[ -n "$group" ] || die "there is no cgroup2 file system, which systemd needs"
	group=$group/pgshunt-package.$$
	mkdir "$group"
	cat >"$base/boot" <<'BOOT'
set -e
ip link set lo up
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs dev
for node in null:3 zero:5 full:7 random:8 urandom:9; do
	mknod -m 666 "dev/${node%:*}" c 1 "${node#*:}"
done
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /run/systemd/journal/dev-log dev/log
ln -s /proc/self/fd dev/fd
pivot_root . mnt
umount -l /mnt
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	/lib/systemd/systemd --system --unit=basic.target --show-status=no
BOOT
	# shellcheck disable=SC2016
	sh -c 'echo $$ >"$1/cgroup.procs" &&
		exec unshare --mount --pid --uts --ipc --cgroup --net --fork sh "$2" "$3"' \
		boot "$group" "$base/boot" "$root" </dev/null >"$base/boot.log" 2>&1 &
	wait_for 60 grep -q . "/proc/$!/task/$!/children" || {
		cat "$base/boot.log" >&2
		die "no namespaces of its own for a systemd"
	}
	init=$(cat "/proc/$!/task/$!/children")
	init=${init%% *}
	wait_for 180 inside systemctl is-system-running --wait || {
		cat "$base/boot.log" >&2
		die "systemd did not boot"
	}
}

# A user and rights as "stat" prints them.
has_mode() {
	[ "$(inside stat -c '%U:%G %a' "$1")" = "$2" ]
}

gone() {
	for path in "$@"; do
		[ ! -e "$root$path" ] || {
			say "$path is still there"
			return 1
		}
	done
}

# is PROPERTY VALUE: of the service, as systemd has it.
is() {
	[ "$(inside systemctl show pgshuntd -P "$1")" = "$2" ]
}

main_process() {
	inside systemctl show pgshuntd -P MainPID
}

is_another_process() {
	[ "$(main_process)" -gt 0 ] && [ "$(main_process)" -ne "$1" ]
}

# One login at the console: it listens, and knows its users.
console() {
	PGPASSWORD=$password nsenter -t "$init" -n "$PGBIN/psql" -X -q -At \
		"host=127.0.0.1 port=6433 user=pgshunt_admin dbname=pgshunt" -c 'SHOW VERSION' 2>"$base/psql.log" || {
		cat "$base/psql.log" >&2
		return 1
	}
}

said() {
	inside journalctl -q --no-pager -o cat -u pgshuntd --since "@$started" | grep -q -- "$1"
}

crash() {
	before=$(main_process)
	inside systemctl kill -s "$1" pgshuntd
	wait_for 90 is_another_process "$before"
	wait_for 60 console
}

# It ends with the code for a wrong configuration, and is left alone then.
refuses_a_wrong_configuration() {
	sed -i 's/^  port:/  prot:/' "$root/etc/pgshunt/pgshunt.yml"
	code=0
	inside systemctl restart pgshuntd || code=$?
	sed -i 's/^  prot:/  port:/' "$root/etc/pgshunt/pgshunt.yml"
	[ "$code" -ne 0 ] && is ActiveState failed && is ExecMainStatus 2
}

# Nobody finds a closed door while the process is exchanged.  Who was inside before is told to leave.
restarts_behind_sockets() {
	for turn in 1 2 3; do
		before=$(main_process)
		inside systemctl restart pgshuntd &
		restart=$!
		while kill -0 "$restart" 2>/dev/null; do
			console || grep -q 'FATAL:  .*\(shutting down\|administrator command\)' "$base/psql.log" ||
				return 1
		done
		wait "$restart"
		is_another_process "$before" || return 1
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
printf '# A line of a later version.\n' >>"$base/later/etc/pgshunt/pgshunt.yml"
dpkg-deb -b "$base/later" "$base/later.deb" >/dev/null

say "a clean root, booted"
mirror=$(sed -n -E 's/^(deb|URIs:) +(\[[^]]*\] +)?(https?:[^ ]+).*/\3/p' /etc/apt/sources.list \
	/etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
debootstrap --variant=minbase --include=systemd,dbus bookworm "$root" \
	"${mirror:-http://deb.debian.org/debian}" >"$base/debootstrap.log" 2>&1 || {
	tail -n 20 "$base/debootstrap.log" >&2
	die "debootstrap failed"
}
cp "$base/pgshunt.deb" "$base/later.deb" "$root/root/"
chroot "$root" sh -c 'apt-get -q -y update &&
	apt-get -q -y --no-install-recommends --download-only install /root/pgshunt.deb' \
	>"$base/output" 2>&1 || {
	cat "$base/output" >&2
	die "what the package depends on could not be had"
}
boot

# --- its life ---------------------------------------------------------------------------------------

say "install"
check "apt-get install works" inside apt-get -q -y --no-install-recommends install /root/pgshunt.deb
check "the user exists, without a shell" inside sh -c \
	'getent passwd pgshunt | grep -q ":/var/lib/pgshunt:/usr/sbin/nologin$"'
check "the configuration is root's, and readable to the user" has_mode /etc/pgshunt/pgshunt.yml \
	"root:pgshunt 640"
check "so are the secrets" has_mode /etc/pgshunt/secrets "root:pgshunt 750"
check "the state is the user's" has_mode /var/lib/pgshunt/proxy "pgshunt:pgshunt 700"
check "the service is enabled" inside systemctl -q is-enabled pgshuntd
check "and runs" inside systemctl -q is-active pgshuntd
check "manual pages" test -s "$root/usr/share/man/man8/pgshuntd.8.gz"
check "the configuration is right" inside setpriv --reuid=pgshunt --regid=pgshunt --clear-groups \
	pgshuntd --check-config
check "the mover is there" inside pgshunt --version

say "run"
password=$(random_password)
started=$(date +%s)
sed -i "s/port: 6432/port: 6433/" "$root/etc/pgshunt/pgshunt.yml"
printf '"pgshunt_admin" "%s"\n' "$password" >>"$root/etc/pgshunt/userlist.txt"
check "it restarts" inside systemctl restart pgshuntd
check "it listens as soon as systemd calls it started" console
check "it tells systemd what it does" is StatusText "Ready: 2 workers."
check "it reloads" inside systemctl reload pgshuntd
check "and says so" wait_for 60 said 'configuration read again'
check "killed, it comes back" crash KILL
mkdir -p "$root/etc/systemd/system/pgshuntd.service.d"
printf '[Service]\nWatchdogSec=2\n' >"$root/etc/systemd/system/pgshuntd.service.d/watchdog.conf"
inside systemctl daemon-reload
inside systemctl restart pgshuntd
check "hanging, it is ended and comes back" crash STOP
rm -r "$root/etc/systemd/system/pgshuntd.service.d"
inside systemctl daemon-reload
check "a wrong configuration ends it, for good" refuses_a_wrong_configuration
inside systemctl reset-failed pgshuntd

say "sockets"
mkdir -p "$root/etc/systemd/system/pgshuntd.socket.d"
printf '[Socket]\nListenStream=\nListenStream=127.0.0.1:6433\n' \
	>"$root/etc/systemd/system/pgshuntd.socket.d/address.conf"
inside systemctl daemon-reload
check "the socket listens" inside systemctl start pgshuntd.socket
check "who connects starts the service" console
check "who connects during a restart waits" restarts_behind_sockets
check "it stops" inside systemctl stop pgshuntd.socket pgshuntd
check "in order" said 'pgshuntd has ended'
check "it starts without the socket" inside systemctl start pgshuntd

say "upgrade"
before=$(main_process)
# dpkg asks nothing: the other file that was changed is as it was in the later version.
check "the later version installs while it runs" inside dpkg -i --force-confold /root/later.deb
check "it was restarted" is_another_process "$before"
check "and serves" console
check "the administrator's file stays" grep -q "port: 6433" "$root/etc/pgshunt/pgshunt.yml"
check "rights are as they were" has_mode /etc/pgshunt/pgshunt.yml "root:pgshunt 640"

say "remove"
check "apt-get remove works" inside apt-get -q -y remove pgshunt
check "it does not run any more" is ActiveState inactive
check "the programs are gone" gone /usr/sbin/pgshuntd /usr/bin/pgshunt \
	/usr/lib/systemd/system/pgshuntd.service
check "the configuration stays" test -s "$root/etc/pgshunt/pgshunt.yml"
check "it installs again" inside dpkg -i --force-confold /root/later.deb
check "and runs" console

say "purge"
check "apt-get purge works" inside apt-get -q -y purge pgshunt
check "nothing is left" gone /etc/pgshunt /var/lib/pgshunt /usr/share/doc/pgshunt \
	/etc/systemd/system/multi-user.target.wants/pgshuntd.service
check "nor the user" inside sh -c '! getent passwd pgshunt'
check "nothing is left to configure" inside sh -c '[ -z "$(dpkg --audit)" ]'
say "package: good"
