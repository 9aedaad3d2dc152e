#!/usr/bin/python3
# SPDX-License-Identifier: PostgreSQL
"""What a JUnit file of pytest or ctest says.

    junit.py count FILE      prints "PASSED FAILED".  A skipped test is a test that did not run: it counts
                             as failed, and so does a report that is missing or empty.
    junit.py again FILE      prints the pytest names of failed tests worth a second try, one a line: none when
                             a sanitizer or an assertion spoke, for that is a finding however often it shows,
                             and none when so many failed that it is no accident.
"""
import re
import sys
import xml.etree.ElementTree as tree

BAD = ("failures", "errors", "skipped", "disabled")
FINDING = re.compile(r"(Address|Leak|Thread)Sanitizer|runtime error:|[Aa]ssertion failed|Assertion `|was killed by|SIGABRT|SIGSEGV")
TOO_MANY = 12


def suites(path):
    try:
        return list(tree.parse(path).getroot().iter("testsuite"))
    except (OSError, tree.ParseError):
        return []


def count(path):
    total = bad = 0
    for suite in suites(path):
        total += int(suite.get("tests", 0))
        bad += sum(int(suite.get(key) or 0) for key in BAD)
    print(max(total - bad, 0), bad if total else 1)


def again(path):
    names = {}
    for suite in suites(path):
        for case in suite.iter("testcase"):
            problems = [part for part in case if part.tag in ("failure", "error")]
            if not problems:
                continue
            if case.get("file") is None or any(FINDING.search("".join(part.itertext()) +
                                                              (part.get("message") or ""))
                                               for part in problems):
                return
            names[f"{case.get('file')}::{case.get('name')}"] = None
    if len(names) <= TOO_MANY:
        print("\n".join(names), end="\n" if names else "")


if __name__ == "__main__":
    {"count": count, "again": again}[sys.argv[1]](sys.argv[2])
