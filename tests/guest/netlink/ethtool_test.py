# SPDX-License-Identifier: Apache-2.0
"""Rings, channels, features and RSS, set by our client and seen by upstream's ethtool and ynl, with every driver's quirks."""
import re
import unittest

import guest
from guest import ethtool, netdev, nic
from probe import Probe, Refused

QUEUES = 4
THRESHOLD = guest.kernel() >= (6, 14)
UNKNOWN, OFF, ON = 0, 1, 2


class Ethtool(unittest.TestCase):
    PERSONALITY = "none"

    def setUp(self):
        self.here, self.there = nic.pair(self, queues=QUEUES, personality=self.PERSONALITY)
        self.probe = Probe(self)

    def ask(self, verb, **words):
        return getattr(self.probe, verb)(interface=self.here.name, **words)

    def refused(self, code, verb, **words):
        with self.assertRaises(Refused) as caught:
            self.ask(verb, **words)
        self.assertEqual(code, caught.exception.code, caught.exception)
        self.assertIn(self.here.name, str(caught.exception))
        return str(caught.exception)

    def table(self):
        return ethtool.rss(self.here)["rss-indirection-table"]


class Plain(Ethtool):
    def test_driver_and_channels(self):
        self.assertEqual("devmemsim", self.ask("driver"))
        self.assertEqual({"rx": 0, "combined": QUEUES, "combined-max": QUEUES, "queues": QUEUES}, self.ask("channels"))
        ethtool.channels(self.here, 2)
        self.assertEqual(2, self.ask("channels")["queues"])

    def test_header_split_on_and_back(self):
        before = self.ask("rings")
        self.assertEqual((True, OFF, THRESHOLD), (before["has-split"], before["split"], "threshold" in before))
        self.ask("split", split=ON, threshold=0)
        self.assertEqual("enabled", ethtool.rings(self.here)["tcp-data-split"])
        self.assertEqual((ON, 0), (self.ask("rings")["split"], self.ask("rings").get("threshold", 0)))
        self.ask("split", split=ON, threshold=0)  # as it is
        self.ask("split", split=UNKNOWN)
        self.assertEqual(before, self.ask("rings"))

    @unittest.skipUnless(THRESHOLD, "this kernel has no hds-thresh")
    def test_the_threshold(self):
        self.ask("split", split=ON, threshold=512)
        self.assertEqual(512, ethtool.rings(self.here)["hds-thresh"])
        said = self.refused("INVALID_ARGUMENT", "split", split=ON, threshold=self.ask("rings")["threshold-max"] + 1)
        self.assertIn("header split", said)

    def test_features(self):
        self.assertEqual({"active": True, "fixed": False}, self.ask("feature", name="rx-ntuple-filter"))
        self.assertFalse(self.ask("feature", name="rx-gro-hw")["active"])
        for on in (True, False):
            self.ask("set_feature", name="rx-gro-hw", on=on)
            self.assertEqual(on, ethtool.features(self.here)["rx-gro-hw"])
            self.assertEqual(on, self.ask("feature", name="rx-gro-hw")["active"])

    def test_a_feature_that_cannot_be_changed(self):
        self.assertTrue(self.ask("feature", name="loopback")["fixed"])
        self.assertIn("fixed", self.refused("FAILED_PRECONDITION", "set_feature", name="loopback", on=True))

    def test_a_feature_nobody_knows(self):
        self.refused("NOT_FOUND", "feature", name="teleport")
        self.refused("NOT_FOUND", "set_feature", name="teleport", on=True)

    def test_rss_set_read_and_reset(self):
        default = self.ask("rss")
        self.assertEqual(self.table(), default)
        self.ask("set_rss", table=[0, 1])
        self.assertEqual([0, 1] * (len(default) // 2), self.table())
        self.assertEqual(self.table(), self.ask("rss"))
        self.refused_channels(1)
        self.ask("set_rss", table=[2] * len(default))
        self.assertEqual({2}, set(self.table()))
        self.ask("reset_rss")
        self.assertEqual(default, self.table())
        ethtool.channels(self.here, 1)  # which a table of somebody's own would forbid
        self.assertEqual({0}, set(self.table()))

    def refused_channels(self, count):
        self.assertNotEqual(0, ethtool.run(f"combined {count}", self.here, "-L", ok=False).returncode)

    def test_rss_tables_that_cannot_be(self):
        self.assertIn("5 entries", self.refused("INVALID_ARGUMENT", "set_rss", table=[0] * 5))
        self.refused("INVALID_ARGUMENT", "set_rss", table=[])
        self.refused("INVALID_ARGUMENT", "set_rss", table=[0, QUEUES])

    def test_contexts(self):
        self.assertEqual([], self.ask("contexts"))
        made = [int(re.search(r"(\d+)\s*$", ethtool.run(f"context new start {start} equal 2", self.here, "-X").stdout).group(1))
                for start in (0, 2)]
        self.assertEqual(sorted(made), self.ask("contexts"))
        self.assertEqual([{0, 1}, {2, 3}], [set(self.ask("rss", context=context)) for context in made])
        ethtool.run(f"context {made[0]} delete", self.here, "-X")
        self.assertEqual(made[1:], self.ask("contexts"))
        self.refused("NOT_FOUND", "rss", context=made[0])
        self.assertEqual([], Probe(self, netns=nic.PEER).contexts(interface=self.there.name), "another NIC's are not listed")

    def test_header_split_stays_while_memory_is_bound(self):
        self.ask("split", split=ON, threshold=0)
        self.ask("set_rss", table=[0])
        self.ask("bind", queues=[3])
        self.refused_split()
        self.assertEqual(ON, self.ask("rings")["split"])

    def refused_split(self):
        with self.assertRaises(Refused) as caught:
            self.ask("split", split=OFF)
        self.assertRegex(str(caught.exception), f"{self.here.name}: cannot turn header split off: .*device memory|memory provider|in use")

    def test_rss_may_not_name_a_bound_queue_that_goes(self):
        self.assertEqual(QUEUES, len(netdev.queues(self.here.ifindex)))
        self.refused("INVALID_ARGUMENT", "set_rss", table=[QUEUES])


class Mlx5(Ethtool):
    PERSONALITY = "mlx5"

    def test_header_split_wants_gro_and_the_link(self):
        self.assertIn("rx-gro-hw", self.refused("INVALID_ARGUMENT", "split", split=ON))
        self.ask("set_feature", name="rx-gro-hw", on=True)
        self.here.up(False)
        self.assertIn("link up", self.refused("UNAVAILABLE", "split", split=ON))
        self.here.up()
        self.ask("split", split=ON)
        self.ask("split", split=UNKNOWN)
        self.ask("set_feature", name="rx-gro-hw", on=False)


class Bnxt(Ethtool):
    PERSONALITY = "bnxt"

    def test_header_split_is_never_off(self):
        self.ask("split", split=ON, threshold=0)
        self.assertIn("cannot be set to off", self.refused("INVALID_ARGUMENT", "split", split=OFF))
        self.ask("split", split=UNKNOWN)


class Gve(Ethtool):
    PERSONALITY = "gve"

    def test_queue_0_never_binds(self):
        self.ask("split", split=ON, threshold=0)
        with self.assertRaises(Refused) as caught:
            self.ask("bind", queues=[0])
        self.assertIn("queue 0", str(caught.exception))
        ethtool.rss_equal(self.here, 3)
        self.ask("bind", queues=[3])
        self.probe.end()
        ethtool.rss_default(self.here)
