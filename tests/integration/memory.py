# SPDX-License-Identifier: PostgreSQL
"""A pgshuntd whose allocator fails when a test says so (tests/fault/failalloc.c)."""
import mmap
import os
import struct

from proxy import BIN

FIELDS = ("one_in", "countdown", "at_least", "failed", "asked")


class Allocator:
    """The orders of one process; attributes are read and written there at once."""

    def __init__(self, proxy):
        path = os.path.join(proxy.folder, "orders")
        with open(path, "wb") as out:
            out.write(bytes(4 * len(FIELDS)))
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 4 * len(FIELDS))
        library = os.path.join(BIN, "tests", "fault", "pgshunt_failalloc.so")
        assert os.path.exists(library)
        proxy.env.update(LD_PRELOAD=library, PGSHUNT_FAILALLOC=path)
        # The sanitizer wants to come first; it stands behind ours, and judges all the same.
        proxy.env["ASAN_OPTIONS"] = os.environ.get(
            "ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:exitcode=99") + ":verify_asan_link_order=0"

    def __getattr__(self, name):
        return struct.unpack_from("I", self.map, 4 * FIELDS.index(name))[0]

    def order(self, **values):
        for name, value in values.items():
            struct.pack_into("I", self.map, 4 * FIELDS.index(name), value)

    def calm(self):
        self.order(one_in=0, countdown=0)
