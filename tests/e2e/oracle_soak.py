# SPDX-License-Identifier: Apache-2.0
"""New random specifications every night (./dev test --long), held to the oracle (oracle_run.py). A failure names its seed and case.
$DEVMEM_ORACLE_SEED: these again; $DEVMEM_ORACLE_COUNT: how many (default 500)."""
import os
import time
import unittest

import oracle_run


class OracleSoak(unittest.TestCase):
    def test_500_random_specifications(self):
        seed = int(os.environ.get("DEVMEM_ORACLE_SEED") or time.time())
        wanted = int(os.environ.get("DEVMEM_ORACLE_COUNT") or 500)
        print(f"seed {seed}", flush=True)
        failed, count = oracle_run.run(seed, range(wanted))
        self.assertEqual(failed, {}, f"seed {seed}")
        self.assertEqual(count, wanted)
