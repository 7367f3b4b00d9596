# SPDX-License-Identifier: Apache-2.0
"""The cases of socket_fuzz.py for a minute, from a seed that is said."""
import os
import time
import unittest

from socket_fuzz_test import Fuzzed

SECONDS = 60


class SocketFuzzSoak(Fuzzed):
    def test_a_minute(self):
        end = time.monotonic() + SECONDS
        self.fuzz(seed=int(os.environ.get("DEVMEM_SEED") or time.time_ns() % 2**32), go_on=lambda cases: time.monotonic() < end)


if __name__ == "__main__":
    unittest.main()
