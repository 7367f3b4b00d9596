# SPDX-License-Identifier: Apache-2.0
"""Upstream's selftest that has the kernel refuse memory to page pools, which only a kernel built for that does (--kernel debug)."""
import pathlib
import unittest

import selftest

FAIL_FUNCTION = pathlib.Path("/sys/kernel/debug/fail_function")


@unittest.skipUnless(FAIL_FUNCTION.is_dir(), "this kernel has no function error injection: ./dev guest fault_injection_test --kernel debug")
class FaultInjection(unittest.TestCase):
    deadline = 240

    def test_pp_alloc_fail(self):
        selftest.run(self, "hw/pp_alloc_fail.py")
