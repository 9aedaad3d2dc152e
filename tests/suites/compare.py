#!/usr/bin/python3
# SPDX-License-Identifier: PostgreSQL
"""Compares what suites left when run directly and through the proxy.

    compare.py FOLDER EXPLAINED

FOLDER has SUITE.MODE/results/TEST.out for the mode direct and others.  EXPLAINED says why lines
differ: "[suite mode,mode…]" or "[suite mode,mode… test …]" begins a section, "# text" is a reason and
each line after it a regular expression that a differing line ("-direct", "+through the proxy") must
match as a whole.  A reason whose test is named in the section and that has no expressions explains
every line of these tests.  Prints what nothing explains, of a test the first lines only, and the number of these lines at
the end.
"""
import collections
import difflib
import os
import re
import sys


SHOWN = 30  # lines of a test


class Reason:
    def __init__(self, suite, modes, tests, text):
        self.suite, self.modes, self.tests, self.text = suite, modes, tests, text
        self.patterns = []
        self.used = 0

    def explains(self, suite, mode, test, line):
        return (suite == self.suite and mode in self.modes and
                (not self.tests or test in self.tests) and
                (any(pattern.fullmatch(line) for pattern in self.patterns) or
                 not self.patterns and bool(self.tests)))


def read_reasons(path):
    reasons, section = [], None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.rstrip("\n")
            if line.startswith("["):
                suite, modes, *tests = line.strip("[]").split()
                section = suite, modes.split(","), tests
                fresh = True
            elif line.startswith("#") and section:
                if fresh:
                    reasons.append(Reason(*section, line[1:].strip()))
                else:
                    reasons[-1].text += " " + line[1:].strip()
                fresh = False
            elif line and section:
                reasons[-1].patterns.append(re.compile(line))
                fresh = True
            elif line and not line.startswith("#"):
                sys.exit("%s:%d: no section" % (path, number))
    return reasons


def read(path):
    if not os.path.exists(path):
        return ["(no such file)"]
    with open(path, encoding="utf-8", errors="backslashreplace") as file:
        return file.read().split("\n")


def differing(one, other):
    """The lines that only one has, with the number in `one` that they stand at."""
    at = 0
    for line in difflib.unified_diff(one, other, n=0, lineterm=""):
        if line.startswith(("---", "+++")) and at == 0:
            continue
        hunk = re.match(r"@@ -(\d+)", line)
        if hunk:
            at = int(hunk.group(1))
        else:
            yield at, line


def verdicts(folder):
    """Test -> passed, as its driver says."""
    found = {}
    for line in read(os.path.join(folder, "log")):
        match = re.match(r"\s*(?:test )?(\S+)\s+\.\.\. (ok|FAILED)", line)
        if match:
            found[match.group(1)] = match.group(2) == "ok"
    return found


def compare(root, suite, mode, reasons):
    direct = os.path.join(root, suite + ".direct")
    proxied = os.path.join(root, "%s.%s" % (suite, mode))
    unexplained = explained = 0
    shown = collections.Counter()
    expected, found = verdicts(direct), verdicts(proxied)
    tests = sorted(set(expected) | set(found))
    if not expected:
        print("%s: the direct run did not run" % suite)
        unexplained += 1
    for test in tests:
        if expected.get(test) and found.get(test):
            continue
        lines = [(at, line)
                 for kind in ("out", "trace")
                 for at, line in differing(
                     read(os.path.join(direct, "results", "%s.%s" % (test, kind))),
                     read(os.path.join(proxied, "results", "%s.%s" % (test, kind))))]
        if not lines and expected.get(test) != found.get(test):
            lines = [(0, "+passed: %s, directly: %s" % (found.get(test), expected.get(test)))]
        for at, line in lines:
            why = next((r for r in reasons if r.explains(suite, mode, test, line)), None)
            if why:
                why.used += 1
                explained += 1
            else:
                unexplained += 1
                shown[test] += 1
                if shown[test] <= SHOWN:
                    print("%s %s %s:%d: %s" % (suite, mode, test, at, line))
    for test, count in shown.items():
        print("%s %s %s: %d lines differ that nothing explains" % (suite, mode, test, count))
    print("== %s, %s: %d tests, %d passed, %d directly; %d lines differ and are explained, "
          "%d are not" % (suite, mode, len(tests), sum(found.values()), sum(expected.values()),
                          explained, unexplained))
    return unexplained


def main():
    root, path = sys.argv[1:]
    reasons = read_reasons(path)
    runs = sorted(name.split(".") for name in os.listdir(root))
    total = sum(compare(root, suite, mode, reasons)
                for suite, mode in runs if mode != "direct")
    ran = {tuple(run) for run in runs}
    for reason in reasons:
        if any((reason.suite, mode) in ran for mode in reason.modes):
            print("%4d lines: %s: %s" % (reason.used, reason.suite, reason.text))
    print("%d lines differ without an explanation" % total)
    return 1 if total else 0


sys.exit(main())
