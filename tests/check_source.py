#!/usr/bin/python3
# SPDX-License-Identifier: PostgreSQL
"""Checks what no compiler checks: that includes point one way between the folders, what may stand
at the top level, the size of files and functions, and that nothing is left half done.

    check_source.py REPOSITORY
"""
import os
import re
import sys

TOP = {"CMakeLists.txt", "proxy", "control", "migrate", "conf", "tests", "README.md"}

# folder -> folders whose headers it may include besides its own; main.c may include everything.
BASE = {"base"}
WIRE = BASE | {"wire"}
PARTS = WIRE | {"net", "auth", "session", "conf"}
ALLOWED = {
    "proxy/base": set(),
    "proxy/wire": BASE,
    "proxy/session": WIRE,
    "proxy/auth": WIRE,
    "proxy/net": BASE,
    "conf": BASE,
    "proxy/core": PARTS,
    "control": PARTS | {"core"},
    "migrate": BASE | {"conf"},
}
MAINS = {"proxy/main.c": PARTS | {"core", "control"},
         "migrate/main.c": BASE | {"conf", "migrate"}}
FOLDERS = {os.path.basename(path) for path in ALLOWED} | {"tests"}

FILE_LINES = 1200
FUNCTION_LINES = 120
SOURCES = (".c", ".h", ".def", ".py", ".sh", ".txt", ".yml", ".md", ".service", ".cmake")
# Written in pieces, for this file is checked too.
MARKERS = re.compile("|".join([
    r"\bTO" r"DO\b", r"\bFIX" r"ME\b", r"\bXX" r"X\b", r"\bHA" r"CK\b", r"not " r"implemented",
    r"pytest\.mark\.(sk" r"ip|xf" r"ail)", r"pytest\.(sk" r"ip|xf" r"ail)\(", r"\bsk" r"ip\(\);",
    r"(?<![\w.])/wo" r"rk/", r"\.\./sha" r"red"]), re.IGNORECASE)
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')

problems = []


def problem(path, line, text):
    problems.append("%s:%d: %s" % (path, line, text))


def sources(root):
    for name in sorted(TOP):
        path = os.path.join(root, name)
        if os.path.isfile(path):
            yield name
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(f for f in folders if not f.startswith((".", "__")))
            for file in sorted(files):
                if file.endswith(SOURCES):
                    yield os.path.relpath(os.path.join(folder, file), root)


def check_include(root, path, line, name):
    folder = os.path.dirname(path)
    target = name.split("/")[0] if "/" in name else None
    if path.startswith("tests/"):
        return
    if target is None:
        problem(path, line, 'include "%s" with its folder' % name)
        return
    allowed = MAINS.get(path, ALLOWED.get(folder, set()) | {os.path.basename(folder)})
    if target not in FOLDERS:
        problem(path, line, 'unknown folder of "%s"' % name)
    elif target not in allowed:
        problem(path, line, '%s may not include "%s"' % (folder, name))
    elif not any(os.path.exists(os.path.join(root, prefix, name)) for prefix in ("", "proxy")):
        problem(path, line, '"%s" does not exist' % name)


def check_functions(path, lines):
    """A function body starts with { and ends with } in the first column (.clang-format)."""
    start = None
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            start = number
        elif line.startswith("}") and start is not None:
            if number - start > FUNCTION_LINES:
                problem(path, start, "function of %d lines, at most %d"
                        % (number - start, FUNCTION_LINES))
            start = None


def written(lines):
    """Lines that are not between <!-- name --> and <!-- /name -->: those are generated."""
    count, generated = 0, False
    for line in lines:
        if re.fullmatch(r"<!-- \w+ -->", line):
            generated = True
        elif re.fullmatch(r"<!-- /\w+ -->", line):
            generated = False
        count += not generated
    return count


def check_file(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        lines = file.read().split("\n")
    if written(lines) > FILE_LINES:
        problem(path, len(lines), "more than %d lines" % FILE_LINES)
    if path.endswith((".c", ".h", ".py", ".sh")) and \
            not any("SPDX-License-Identifier: PostgreSQL" in line for line in lines[:2]):
        problem(path, 1, "no SPDX line")
    for number, line in enumerate(lines, 1):
        if MARKERS.search(line):
            problem(path, number, "left over: " + line.strip()[:80])
        if path.endswith((".c", ".h", ".def")):
            include = INCLUDE.match(line)
            if include:
                check_include(root, path, number, include.group(1))
    if path.endswith(".c"):
        check_functions(path, lines)


def main():
    root = sys.argv[1]
    for name in sorted(os.listdir(root)):
        if not name.startswith((".", "build")) and name not in TOP:
            problem(name, 1, "does not belong at the top level")
    for name in sorted(TOP):
        if not os.path.exists(os.path.join(root, name)):
            problem(name, 1, "is missing")
    checked = 0
    for path in sources(root):
        check_file(root, path)
        checked += 1
    print("\n".join(problems))
    print("%d files, %d problems" % (checked, len(problems)))
    return 1 if problems or checked == 0 else 0


sys.exit(main())
