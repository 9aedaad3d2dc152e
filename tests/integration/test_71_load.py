# SPDX-License-Identifier: PostgreSQL
"""The short form of tests/soak: many clients, storms, slow and half-open connections."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "soak"))

import pytest

import soak
from servers import SANITIZED


@pytest.mark.figures
def test_soak(make_proxy, folder):
    """Nobody sees an error, nothing is left afterwards, and memory is for those who need it."""
    proxy = make_proxy(**soak.settings(folder))
    run = soak.Soak(proxy, say=lambda text: None)
    run.run(idle=400, busy=60, seconds=1)
    if not SANITIZED:
        assert run.rows["idle"] < 4000 and run.rows["idle, TLS"] < 60000
        assert run.rows["half-open"] < 20000 and run.rows["slow"] < 1 << 20
