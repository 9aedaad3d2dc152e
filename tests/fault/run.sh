#!/bin/sh
# SPDX-License-Identifier: PostgreSQL
# The fault matrix: a move under load with every fault at every record of its journal.
#   sh tests/fault/run.sh [--short] [--fault NAME] [--record NAME] [--output FILE] [--keep] [--relay]
#                         [--random N [--seed S]]
# The whole takes about two hours, --short less than a minute; --fault and --record choose cells and can
# be repeated; --random makes one or two faults at a time, at random moments of N moves.  Exit code 0
# only if every cell is green.
set -eu
repo=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$repo/tests/lib.sh"

install_packages pgbouncer python3-psycopg python3-yaml iproute2 nftables
built=$(build_dir)
build "$built" "pgshuntd pgshunt pgshunt_load" -DCMAKE_BUILD_TYPE=RelWithDebInfo
PGSHUNT_BIN=$built PG_BINDIR=$PGBIN PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
	exec /usr/bin/python3 "$repo/tests/fault/matrix.py" "$@"
