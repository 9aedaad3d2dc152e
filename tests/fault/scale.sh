#!/bin/sh
# SPDX-License-Identifier: PostgreSQL
# Moves of a big shard, with many clients and in bad weather: how long clients are held and stall.
#   sh tests/fault/scale.sh [--size GB] [--clients N] [--shards N] [--case NAME]… [--keep]
# The default, 20 GB and 1,000 clients, takes about half an hour and 65 GB of disk.
set -eu
repo=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$repo/tests/lib.sh"

install_packages python3-psycopg python3-yaml
built=$(build_dir)
build "$built" "pgshuntd pgshunt pgshunt_load" -DCMAKE_BUILD_TYPE=RelWithDebInfo
PGSHUNT_BIN=$built PG_BINDIR=$PGBIN PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
	exec /usr/bin/python3 "$repo/tests/fault/scale.py" "$@"
