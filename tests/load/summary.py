#!/usr/bin/python3
# SPDX-License-Identifier: PostgreSQL
"""The short table of the demo: what the account found, and how long the move took."""
import json
import sys


def number(value, unit=" ms"):
    return "-" if value is None else f"{value:.0f}{unit}"


def find(report, *names):
    """The first of the names that the move's report has, at any depth."""
    if isinstance(report, dict):
        for name in names:
            if isinstance(report.get(name), (int, float)):
                return report[name]
        report = list(report.values())
    if isinstance(report, list):
        for value in report:
            found = find(value, *names)
            if found is not None:
                return found
    return None


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        account = json.load(file)
    with open(sys.argv[2], encoding="utf-8") as file:
        lines = [line for line in file.read().splitlines() if line.strip()]
    try:
        move = json.loads("\n".join(lines))
    except ValueError:
        move = [json.loads(line) for line in lines]
    print(f"{'shard':8} {'rows':>8} {'errors':>7} {'lost':>5} {'duplicated':>11} "
          f"{'on pg1 only':>12} {'longest stall':>14} {'p99':>9}")
    for name, group in sorted(account["groups"].items()):
        print(f"{name:8} {group['acked']:8} {group['errors']:7} {group['lost']:5} "
              f"{group['duplicated']:11} {group['old_only']:12} "
              f"{number(group['longest_gap_ms']):>14} {group['p99_ms']:6.1f} ms")
    print(f"hold {number(find(move, 'hold_ms', 'held_ms'))}, "
          f"promotion {number(find(move, 'promote_ms', 'promote'))}")


if __name__ == "__main__":
    main()
