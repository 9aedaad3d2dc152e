#!/usr/bin/python3
# SPDX-License-Identifier: PostgreSQL
"""The short table of the demo: what the account found, what clients with sessions still have (the third
file, if it is there), and how long the move took.  Exit code 1: a session has lost something."""
import json
import os
import sys


def number(value, unit=" ms"):
    return "-" if value is None else f"{value:.0f}{unit}"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        account = json.load(file)
    with open(sys.argv[2], encoding="utf-8") as file:
        move = json.load(file)
    print(f"{'shard':8} {'rows':>8} {'errors':>7} {'lost':>5} {'duplicated':>11} "
          f"{'on pg1 only':>12} {'longest stall':>14} {'p99':>9}")
    for name, group in sorted(account["groups"].items()):
        print(f"{name:8} {group['acked']:8} {group['errors']:7} {group['lost']:5} "
              f"{group['duplicated']:11} {group['old_only']:12} "
              f"{number(group['longest_gap_ms']):>14} {group['p99_ms']:6.1f} ms")
    kept = True
    if os.path.exists(sys.argv[3]):
        with open(sys.argv[3], encoding="utf-8") as file:
            sessions = json.load(file)
        kept = sessions["kept"] == sessions["sessions"] and not sessions["failures"]
        print(f"sessions with state: {sessions['sessions']}, moved with all they had: "
              f"{sessions['kept']}, longest answer {number(sessions['longest_ms'])}")
        print(f"a pinned one was told: {sessions['pinned']}")
        for failure in sessions["failures"]:
            print("  " + failure)
    print(f"hold {number(move.get('hold_ms', move.get('total')))}, "
          f"promotion {number(move.get('promote_ms', move.get('promote')))}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
