#!/bin/sh
# SPDX-License-Identifier: PostgreSQL
# Many clients, and bad ones, at one proxy: what it takes of memory, and whether others notice.
#   sh tests/soak/soak.sh [--idle N] [--busy N] [--seconds N]
# The default, 10,000 idle and 1,000 busy clients, takes some two minutes.  The exit code is 0 only if
# nobody saw an error and nothing was left afterwards.
set -eu
repo=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$repo/tests/lib.sh"

install_packages python3-psycopg python3-yaml openssl
built=$(build_dir)
build "$built" "pgshuntd pgshunt" -DCMAKE_BUILD_TYPE=RelWithDebInfo
ulimit -n "$(ulimit -H -n)" || :
PGSHUNT_BIN=$built PG_BINDIR=$PGBIN PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
	exec /usr/bin/python3 "$repo/tests/soak/soak.py" "$@"
