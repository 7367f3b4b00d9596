# SPDX-License-Identifier: Apache-2.0
"""Kernel memory that nothing points to any more, by kmemleak where the kernel has it (--kernel debug).

kmemleak reports an object only when it is older than five seconds and looked the same in two scans. A scan takes an emulated CPU
most of a minute: the agent asks once a class of tests.
"""
import pathlib
import time

FILE = pathlib.Path("/sys/kernel/debug/kmemleak")
AGE = 5.5  # seconds
SHOWN = 6000  # characters


def scan():
    time.sleep(AGE)  # no condition tells that objects are old enough to be looked at
    for _ in range(2):
        FILE.write_text("scan", encoding="ascii")


def found():
    """What leaked since the last call, as kmemleak tells it; "" if nothing did. The kernel's log has the count."""
    if not FILE.exists():
        return ""
    scan()
    text = FILE.read_text(encoding="ascii", errors="replace")
    FILE.write_text("clear", encoding="ascii")
    return f"kmemleak reports:\n{text[:SHOWN]}" if text.strip() else ""
