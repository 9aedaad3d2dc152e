#!/bin/sh
# SPDX-License-Identifier: PostgreSQL
# 500 clients of session pools with state of all kinds during a move: what each costs of the hold.
#   sh tests/soak/sessions.sh [--sessions N] [--active PERCENT] [--rate N] [--leave SECONDS] [--give-up] [KIND...]
# KIND: clean settings statements listening locking cursors tables mixed; by default clean ones,
# ones with twenty prepared statements, and mixed ones of which some work.
# The exit code is 0 only if nobody saw an error, and each client still had afterwards what it had
# before (those declared as dropped: if they were told why).
set -eu
repo=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$repo/tests/lib.sh"

install_packages python3-psycopg python3-yaml openssl
built=${PGSHUNT_BUILD:-$(build_dir)}
build "$built" "pgshuntd pgshunt" -DCMAKE_BUILD_TYPE=RelWithDebInfo
ulimit -n "$(ulimit -H -n)" || :
PGSHUNT_BIN=$built PG_BINDIR=$PGBIN PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
	exec /usr/bin/python3 "$repo/tests/soak/sessions.py" "$@"
