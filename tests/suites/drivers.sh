#!/bin/sh
# SPDX-License-Identifier: PostgreSQL
# JDBC and node-postgres through pgshuntd, in both pool modes and directly: their ordinary work, and
# sessions of theirs that keep what they have.  Installs a JDK and the drivers if they are missing
# (node-postgres from npm, unless Debian's node-pg is there), so it is no part of tests/run.sh:
#
#   sh tests/suites/drivers.sh [pytest argument…]
#
# PGSHUNT_BUILD=DIR names a build directory.
set -eu
repo=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$repo/tests/lib.sh"

node_pg=8.11.3

command -v java >/dev/null 2>&1 || packages=default-jdk-headless
command -v npm >/dev/null 2>&1 || package_installed node-pg || packages="${packages:-} node-pg"
# shellcheck disable=SC2086
install_packages libpostgresql-jdbc-java python3-pytest python3-pytest-timeout python3-psycopg \
	python3-yaml ${packages:-}
build=${PGSHUNT_BUILD:-$(build_dir)}
[ -n "${PGSHUNT_BUILD:-}" ] || build "$build" pgshuntd
if package_installed node-pg; then
	NODE_PATH=/usr/share/nodejs
else
	cache=$(build_dir suites)/node
	mkdir -p "$cache"
	[ -d "$cache/node_modules/pg" ] ||
		npm install --prefix "$cache" --no-fund --no-audit --silent "pg@$node_pg" >&2 ||
		die "npm could not install pg"
	NODE_PATH=$cache/node_modules
fi
export NODE_PATH
cd "$repo/tests/integration"
PGSHUNT_BIN=$build PYTHONDONTWRITEBYTECODE=1 exec /usr/bin/python3 -m pytest -q --tb=short \
	drivers/other_drivers.py "$@"
