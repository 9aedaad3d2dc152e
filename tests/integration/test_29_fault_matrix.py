# SPDX-License-Identifier: PostgreSQL
"""The short form of the fault matrix (tests/fault), and one cell with cuts made by the relay."""
import os
import subprocess
import sys

import pytest

from servers import SANITIZED, SLOW

pytestmark = [pytest.mark.scene, pytest.mark.timeout(900)]

MATRIX = os.path.join(os.path.dirname(__file__), "..", "fault", "matrix.py")


def matrix(*args):
    result = subprocess.run([sys.executable, MATRIX, *args], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, timeout=300 * SLOW, check=False)
    print(result.stdout[-20000:])
    assert result.returncode == 0
    assert " 0 failed" in result.stdout.splitlines()[-1]


def test_short_form():
    # Under sanitizers everything takes its time: a few cells of it.
    matrix("--short", *(("--fault", "mover killed", "--fault", "answers") if SANITIZED else ()))


def test_cut_by_the_relay():
    matrix("--relay", "--fault", "pg2-pg1 cut", "--record", "hold.outcome")
