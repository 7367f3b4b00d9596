# SPDX-License-Identifier: Apache-2.0
"""Hostile tenants beside an honest one (tests/bench/hostile.py, ./dev bench hostile), for one turn: only what is right, not how fast."""
import os
import pathlib
import sys
import unittest
from unittest import mock

import harness

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
import hostile  # noqa: E402  pylint: disable=wrong-import-position


class HostileTest(harness.TestCase):
    @mock.patch.dict(os.environ, DEVMEM_NOT_IDLE="1")
    def test_an_honest_trainer_beside_hostile_ones(self):
        soak = self.keep(hostile.Soak(self.work, 0, 16 << 20, 1.0))
        soak.start()
        soak.turn("alone")
        soak.turn("beside", digest=True)
        self.assertEqual(soak.faults, [])
        self.assertEqual(sorted(soak.done), sorted(hostile.TENANTS), "tenants that got to work")

    def test_the_plot_is_a_picture(self):
        result = {"alone_gb_per_s": 2.0, "beside_gb_per_s": 1.9, "elsewhere_gb_per_s": 1.95, "turns": [
            {"loose": 0, "seconds": 0, "ended": 5, "kind": "alone", "digest": False, "gb_per_s": 2.0},
            {"loose": 5.5, "seconds": 6, "ended": 11, "kind": "beside", "digest": False, "gb_per_s": 1.9}],
            "rests": [{"seconds": 5.5, "rss_mib": 30, "descriptors": 40, "threads": 20}]}
        rows = [{"seconds": k / 2, "phase": "alone", "rss_mib": 30 + k, "descriptors": 40, "threads": 20} for k in range(22)]
        hostile.plot(result, rows, self.work / "plot.svg")
        import xml.etree.ElementTree as etree
        kinds = [element.tag.rpartition("}")[2] for element in etree.parse(self.work / "plot.svg").iter()]
        self.assertEqual((kinds.count("polyline"), kinds.count("circle")), (3, 2 + 3))


if __name__ == "__main__":
    unittest.main()
