#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs one unittest: run.py module.Class.test. Exit status 0 passed, 1 failed, 77 skipped (the reason is printed)."""
import pathlib
import sys
import unittest

tests = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(tests), str(tests / "e2e"), str(tests / "package")]
result = unittest.TextTestRunner(verbosity=2, stream=sys.stderr).run(unittest.defaultTestLoader.loadTestsFromName(sys.argv[1]))
if not result.wasSuccessful():
    sys.exit(1)
if result.skipped:  # a whole class, too: then no test was run
    print(f"SKIP: {result.skipped[0][1]}")
    sys.exit(77)
if result.testsRun == 0:
    sys.exit(1)
