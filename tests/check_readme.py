#!/usr/bin/python3
# SPDX-License-Identifier: PostgreSQL
"""Checks that the reference in README.md says what the programs do: the parts between
<!-- NAME --> and <!-- /NAME --> come from `pgshuntd --settings` and from the tables (*.def).

    check_readme.py REPOSITORY PGSHUNTD [--write]

With --write the parts are brought up to date instead.
"""
import os
import re
import subprocess
import sys
import textwrap


def split_arguments(text, at):
    """The arguments of a macro call whose "(" is at `at`: a list; strings are joined."""
    arguments, depth, current, strings, i = [], 0, "", None, at
    while True:
        char = text[i]
        if char == '"':
            string = re.compile(r'"((?:[^"\\]|\\.)*)"').match(text, i)
            strings = (strings or "") + re.sub(r"\\(.)", lambda m: " " if m[1] == "n" else m[1],
                                             string.group(1))
            i = string.end()
            continue
        if char == "(":
            depth += 1
        if char == ")":
            depth -= 1
        if depth == 0 or (depth == 1 and char == ","):
            arguments.append(current.strip() if strings is None else strings)
            current, strings = "", None
            if depth == 0:
                return arguments
        elif not (depth == 1 and char == "("):
            current += char
        i += 1


def calls(path, names):
    """(macro, arguments) of every call of one of the macros, in their order."""
    with open(path, encoding="utf-8") as file:
        text = re.sub(r"/\*.*?\*/", " ", file.read(), flags=re.DOTALL)
    text = text.replace("\\\n", " ")
    bodies = dict(re.findall(r"^#define (\w+_COLUMNS)\s(.*)$", text, re.MULTILINE))
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    for name, body in reversed(bodies.items()):  # later ones may use those before them
        text = re.sub(r"\b%s\b" % name, lambda _, b=body: b, text)
    return [(match.group(1), split_arguments(text, match.end() - 1))
            for match in re.finditer(r"\b(%s)\(" % "|".join(names), text)]


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(re.sub(r"([|*])", r"\\\1", cell) for cell in row) + " |"
              for row in rows]
    return "\n".join(lines)


def settings(_repo, pgshuntd):
    return subprocess.run([pgshuntd, "--settings"], check=True, capture_output=True,
                          text=True).stdout.strip()


def console(repo, _pgshuntd):
    operands = {"NONE": "", "DATABASE": " database", "DATABASE_TO_SERVER": " database TO server",
                "DATABASES": " [database]", "NUMBER": " id", "ASSIGN": " setting = value",
                "VIEW": " view"}
    path = os.path.join(repo, "control", "commands.def")
    options = {a[0]: a[3] for _, a in calls(path, ["OPTION"])}
    rows = []
    for _, (_, words, access, operand, bits, required, text) in calls(path, ["COMMAND"]):
        grammar = words + operands[operand]
        for option, form in options.items():
            if option in re.findall(r"\w+", required):
                grammar += " " + form
            elif option in re.findall(r"\w+", bits):
                grammar += " [%s]" % form
        rows.append(("`%s`" % grammar, access.lower(), text))
    return table(("command", "who", "what it does"), rows)


def views(repo, _pgshuntd):
    found, columns = [], []
    path = os.path.join(repo, "proxy", "core", "views.def")
    for macro, arguments in calls(path, ["VIEW", "COLUMN"]):
        if macro == "VIEW":
            columns = []
            found.append((arguments, columns))
        else:
            columns.append((arguments[0], arguments[3]))
    lines, previous = [], []
    for (_, name, argument, _, access, text), columns in found:
        if access == "HIDDEN":
            continue
        same = os.path.commonprefix([previous, columns])
        previous = columns
        what = "**`%s`**%s: %s. Columns: " % (("SHOW %s %s" % (name, argument)).strip(),
                                              " (admin users only)" if access == "ADMIN" else "",
                                              text)
        if len(same) > 5:
            what += "as the view before up to `%s`; then " % same[-1][0]
            columns = columns[len(same):]
        what += ", ".join("`%s` (%s)" % column for column in columns) + "."
        lines.append(textwrap.fill(what, 110, initial_indent="- ", subsequent_indent="  ",
                                   break_long_words=False, break_on_hyphens=False))
    return "\n".join(lines)


def metrics(repo, _pgshuntd):
    path = os.path.join(repo, "control", "metrics.def")
    return table(("metric", "type", "labels", "meaning"),
                 [("`%s`" % a[1], a[2].lower(), a[3], re.sub(" +", " ", a[4]))
                  for _, a in calls(path, ["METRIC"])])


def phases(repo, _pgshuntd):
    rows = [(a[2], a[3], a[4] if a[4] != "-" else "–")
            for _, a in calls(os.path.join(repo, "migrate", "phases.def"), ["PHASE"])]
    forward = [i for i, row in enumerate(rows) if row[0] == "promote"][0]
    rows = [row if i <= forward else row[:2] + ("none, it is completed",)
            for i, row in enumerate(rows)]
    return table(("phase", "what happens", "what undoes it"), rows)


def checks(repo, _pgshuntd):
    return table(("what must be so", "what to do if it is not"),
                 [(a[2], a[3]) for _, a in
                  calls(os.path.join(repo, "migrate", "checks.def"), ["CHECK"])])


def commands(repo, _pgshuntd):
    return table(("command", "what it does"),
                 [("`%s`" % (a[0] + " " + a[1]).strip(), re.sub(" +", " ", a[5]))
                  for _, a in calls(os.path.join(repo, "migrate", "commands.def"), ["COMMAND"])])


def options(repo, _pgshuntd):
    return table(("option", "meaning"),
                 [("`--%s`" % (a[1] + ("" if a[2] == "NULL" else " " + a[2])), a[3])
                  for _, a in calls(os.path.join(repo, "migrate", "options.def"), ["OPTION"])])


def pgbouncer(repo, _pgshuntd):
    path = os.path.join(repo, "conf", "pgbouncer.def")
    names = {"MAIN": "", "DATABASE": "databases: ", "USER": "users: ", "PEER": "peers: "}
    rows = []
    for _, (part, name, _, how, ours, note) in calls(path, ["PGBOUNCER_SETTING"]):
        note = "" if note == "NULL" else note
        if how == "LIFETIME":
            note = "0 is 1ms here: such a connection serves once"
        if ours != name or note:
            rows.append(("%s`%s`" % (names[part], name),
                         "–" if ours == "NULL" else "`%s`" % ours, note))
    return "\n\n".join((
        table(("setting of pgbouncer", "here", ""), rows),
        table(("command of its console", "here", ""),
              [("`%s`" % a[0], "`%s`" % a[1], a[2])
               for _, a in calls(path, ["PGBOUNCER_COMMAND"])]),
        table(("column of SHOW", "what is different"),
              [("%s: `%s`" % (a[0], a[1]), a[2])
               for _, a in calls(path, ["PGBOUNCER_COLUMN"])])))


def exits(repo, _pgshuntd):
    return table(("exit code", "meaning"),
                 [(a[1], a[3]) for _, a in
                  calls(os.path.join(repo, "migrate", "exits.def"), ["EXIT_ROW"])])


def main():
    repo, pgshuntd = sys.argv[1:3]
    write = sys.argv[3:] == ["--write"]
    path = os.path.join(repo, "README.md")
    with open(path, encoding="utf-8") as file:
        readme = file.read()
    bad = 0
    for part in (settings, console, views, metrics, phases, commands, options, checks, exits, pgbouncer):
        name = part.__name__
        expected = "<!-- %s -->\n%s\n<!-- /%s -->" % (name, part(repo, pgshuntd), name)
        found = re.search(r"<!-- %s -->\n.*?<!-- /%s -->" % (name, name), readme, re.DOTALL)
        if found is None:
            print("README.md has no part %s" % name)
            bad += 1
        elif write:
            readme = readme[:found.start()] + expected + readme[found.end():]
        elif found.group(0) != expected:
            print("README.md: the part %s is not that of the programs; run "
                  "tests/check_readme.py with --write" % name)
            bad += 1
    if write:
        with open(path, "w", encoding="utf-8") as file:
            file.write(readme)
    return 1 if bad else 0


sys.exit(main())
