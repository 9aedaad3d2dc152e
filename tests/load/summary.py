#!/usr/bin/python3
# SPDX-License-Identifier: PostgreSQL
"""The short table of the demo: what the account found, and how long the move took."""
import json
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
    print(f"hold {number(move.get('hold_ms', move.get('total')))}, "
          f"promotion {number(move.get('promote_ms', move.get('promote')))}")


if __name__ == "__main__":
    main()
