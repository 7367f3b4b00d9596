# SPDX-License-Identifier: Apache-2.0
"""Steering rules as our client inserts, reads back and deletes them, with every driver's quirks and beside rules of others'."""
import pathlib
import re
import unittest

import guest
from guest import devmem, ethtool, nic
from probe import Probe, Refused

QUEUES, SERVER_PORT = 8, 80
SO_INCOMING_NAPI_ID = 56
REFUSE = pathlib.Path("/sys/kernel/debug/devmemsim/pair0-a/refuse_rules")


class Rules(unittest.TestCase):
    PERSONALITY = "none"

    def setUp(self):
        self.here, self.there = nic.pair(self, queues=QUEUES, personality=self.PERSONALITY)
        self.probe = Probe(self)

    def flow(self, port, family=4, source_port=SERVER_PORT, interface=None):
        """From the server there to a port of ours."""
        source, destination = (self.there.v4, self.here.v4) if family == 4 else (self.there.v6, self.here.v6)
        return {"interface": interface or self.here.name, "source": [source, source_port], "destination": [destination, port]}

    def insert(self, port, queue, family=4, **more):
        return self.probe.insert(**self.flow(port, family, **more), queue=queue)

    def delete(self, location, port, queue, family=4):
        self.probe.delete(**self.flow(port, family), location=location, queue=queue)

    def rules(self):
        return self.probe.rules(interface=self.here.name)

    def budget(self):
        return self.probe.budget(interface=self.here.name)

    def refused(self, code, call, *args, **more):
        with self.assertRaises(Refused) as caught:
            call(*args, **more)
        self.assertEqual(code, caught.exception.code, caught.exception)
        self.assertTrue(str(caught.exception).startswith(f"{self.here.name}: "), caught.exception)
        return str(caught.exception)

    def seen(self):
        """{location: queue} as ethtool tells it."""
        said = ethtool.run("", self.here, "-n").stdout
        return {int(location): int(queue) for location, queue in
                re.findall(r"^Filter: (\d+)$.*?Action: Direct to queue (\d+)", said, re.M | re.S)}


class Common:
    """What is so with every driver."""
    CAPACITY = 1024

    def test_inserted_listed_and_deleted(self):
        first = self.insert(40001, 3)
        second = self.insert(40002, 4, family=6)
        self.assertEqual({first: 3, second: 4}, self.seen())
        told = sorted(self.rules(), key=lambda rule: rule["queue"])
        self.assertEqual([{"location": first, "exact": True, "discards": False, "queue": 3,
                           "match": f"tcp {self.there.v4}:80 > {self.here.v4}:40001"},
                          {"location": second, "exact": True, "discards": False, "queue": 4,
                           "match": f"tcp [{self.there.v6}]:80 > [{self.here.v6}]:40002"}], told)
        self.assertEqual((2, self.CAPACITY), (self.budget()["used"], self.budget()["capacity"]))
        self.delete(first, 40001, 3)
        self.delete(second, 40002, 4, family=6)
        self.assertEqual(([], {}, 0), (self.rules(), self.seen(), self.budget()["used"]))

    def test_they_steer(self):
        ethtool.rss_equal(self.here, 1)
        for family in (4, 6):
            with devmem.listen(self.there, SERVER_PORT, family) as server:
                location = self.insert(40100, 5, family)
                with devmem.connect(self.here, server, 40100) as mine:
                    napis = {queue["napi"]: queue["queue"] for queue in self.probe.queues(interface=self.here.name)}
                    self.assertEqual(5, napis[mine.getsockopt(1, SO_INCOMING_NAPI_ID)])
                self.delete(location, 40100, 5, family)

    def test_zero_matches_any(self):
        location = self.insert(0, 2, source_port=0)
        self.assertEqual([f"tcp {self.there.v4}:* > {self.here.v4}:*"], [rule["match"] for rule in self.rules()])
        self.probe.delete(**self.flow(0, source_port=0), location=location, queue=2)
        everything = {**self.flow(0), "source": ["0.0.0.0", 0], "destination": ["0.0.0.0", 0]}
        self.assertIn("every flow", self.refused("INVALID_ARGUMENT", self.probe.insert, **everything, queue=2))
        mixed = {**self.flow(0), "source": [self.there.v6, 0]}
        self.assertIn("different families", self.refused("INVALID_ARGUMENT", self.probe.insert, **mixed, queue=2))

    def test_the_same_flow_is_not_taken_over(self):
        location = self.insert(40001, 3)
        for queue in (3, 4):
            said = self.refused("ALREADY_EXISTS", self.insert, 40001, queue)
            self.assertIn(f"at {location} already", said)
            self.assertIn("to queue 3", said)
        self.assertEqual({location: 3}, self.seen())

    def test_only_what_is_ours_is_deleted(self):
        location = self.insert(40001, 3)
        self.assertIn("left alone", self.refused("ABORTED", self.delete, location, 40002, 3))
        self.assertIn("to queue 3", self.refused("ABORTED", self.delete, location, 40001, 4))
        self.assertEqual({location: 3}, self.seen())
        self.delete(location, 40001, 3)
        self.assertIn("there is none", self.refused("NOT_FOUND", self.delete, location, 40001, 3))

    def test_what_is_refused_leaves_nothing(self):
        self.refused("INVALID_ARGUMENT", self.insert, 40001, QUEUES)
        REFUSE.write_text("1", encoding="ascii")
        self.assertIn("Input/output error", self.refused("UNKNOWN", self.insert, 40001, 3))
        self.assertEqual(({}, "0"), (self.seen(), REFUSE.read_text(encoding="ascii").strip()))
        self.insert(40001, 3)

    def test_two_threads_never_choose_one_location(self):
        mine, other = self.probe.race(**self.flow(41000), queue=1, count=20)
        self.assertEqual(40, len(set(mine) | set(other)))
        self.assertEqual(40, len(self.seen()))
        self.assertEqual(40, len({rule["match"] for rule in self.rules()}))

    def test_rules_of_other_kinds_are_told(self):
        context = int(re.search(r"(\d+)\s*$", ethtool.run("context new", self.here, "-X").stdout).group(1))
        steered = ethtool.steer(self.here, None, "tcp4", location=self.OTHERS, dst_port=7, context=context)
        dropped = ethtool.steer(self.here, -1, "udp6", location=self.next(self.OTHERS), dst_port=7)
        ethtool.run(f"flow-type tcp4 src-ip 192.0.2.0 m 0.0.0.255 queue 1 {self.loc(self.next(self.OTHERS, 2))}", self.here, "-N")
        told = {rule["location"]: rule for rule in self.rules()}
        self.assertEqual(3, len(told))
        self.assertEqual((True, context), (told[steered]["exact"], told[steered]["context"]))
        self.assertEqual((False, True), (told[dropped]["exact"], told[dropped]["discards"]))
        last = next(rule for location, rule in told.items() if location not in (steered, dropped))
        self.assertEqual((False, False, 1), (last["exact"], last["discards"], last["queue"]))

    OTHERS = None  # the location of rules made by ethtool; None: the driver chooses

    @staticmethod
    def next(location, by=1):
        return None if location is None else location + by

    @staticmethod
    def loc(location):
        return "" if location is None else f"loc {location}"

    def fill(self, count):
        """Rules by others, for ports that are not ours."""
        for number in range(count):
            ethtool.insert_rule(self.here, ethtool.LOC_ANY if self.OTHERS is None else number, 1, dst=("192.0.2.99", number + 1))

    @guest.deadline(300)
    def test_a_full_table(self):
        self.fill(self.CAPACITY - 1)
        location = self.insert(40001, 3)
        self.assertEqual({"used": self.CAPACITY, "capacity": self.CAPACITY}, {key: self.budget()[key] for key in ("used", "capacity")})
        self.assertIn("no room", self.refused("RESOURCE_EXHAUSTED", self.insert, 40002, 3))
        self.assertEqual(self.CAPACITY, len(self.seen()))
        self.delete(location, 40001, 3)
        self.assertEqual(location, self.insert(40002, 3))


class Plain(Common, Rules):
    """Any location, or the user's."""

    def test_locations_of_others_are_stepped_around(self):
        for location in (0, 2):
            ethtool.insert_rule(self.here, location, 1, dst=("192.0.2.99", location + 1))
        self.assertEqual([1, 3, 4], [self.insert(40001 + i, 3) for i in range(3)])
        self.assertEqual((1, 1), (self.seen()[0], self.seen()[2]))
        self.assertTrue(self.budget()["any"])


class Mlx5(Common, Rules):
    """The user's location only, and what stood there is gone without a word."""
    PERSONALITY = "mlx5"
    OTHERS = 500

    def test_an_occupied_location_is_never_replaced(self):
        self.assertEqual({"used": 0, "capacity": 1024, "any": False}, self.budget())
        for location in (0, 1, 3):
            ethtool.insert_rule(self.here, location, 1, dst=("192.0.2.99", location + 1))
        ours = [self.insert(40001 + i, 3) for i in range(4)]
        self.assertEqual([2, 4, 5, 6], ours)
        self.assertEqual({0: 1, 1: 1, 3: 1, 2: 3, 4: 3, 5: 3, 6: 3}, self.seen())
        self.delete(4, 40002, 3)
        self.assertEqual(4, self.insert(40009, 6), "the first free one")

    def test_what_was_replaced_behind_our_back_is_left_alone(self):
        location = self.insert(40001, 3)
        ethtool.insert_rule(self.here, location, 1, dst=("192.0.2.99", 7))
        self.assertIn("left alone", self.refused("ABORTED", self.delete, location, 40001, 3))
        self.assertEqual({location: 1}, self.seen())


class Bnxt(Common, Rules):
    """The NIC chooses locations, and only while its ntuple feature is on."""
    PERSONALITY = "bnxt"
    CAPACITY = 4096

    def test_needs_ntuple(self):
        self.insert(40001, 3)
        self.probe.set_feature(interface=self.here.name, name="rx-ntuple-filter", on=False)
        self.assertEqual([], self.rules())
        self.assertIn("ntuple on", self.refused("UNIMPLEMENTED", self.insert, 40001, 3))
        self.probe.set_feature(interface=self.here.name, name="rx-ntuple-filter", on=True)
        self.insert(40001, 3)


class Gve(Common, Rules):
    PERSONALITY = "gve"


class Fbnic(Common, Rules):
    """48 rules, where the NIC wants them."""
    PERSONALITY = "fbnic"
    CAPACITY = 48


class Peer(Rules):
    def test_in_the_other_namespace(self):
        there = Probe(self, netns=nic.PEER)
        location = there.insert(interface=self.there.name, source=[self.here.v4, 0], destination=[self.there.v4, 80], queue=1)
        self.assertEqual([location], ethtool.locations(self.there))
        self.assertEqual([], ethtool.locations(self.here))
        with self.assertRaises(Refused) as caught:
            there.rules(interface=self.here.name)
        self.assertEqual("NOT_FOUND", caught.exception.code)

    def test_needs_a_capability(self):
        location = self.insert(40001, 3)
        self.probe = Probe(self, prefix=["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all",
                                         "--bounding-set=-all"])
        self.assertEqual(1, len(self.rules()), "reading is free")
        self.assertIn("CAP_NET_ADMIN", self.refused("PERMISSION_DENIED", self.insert, 40002, 3))
        self.assertIn("CAP_NET_ADMIN", self.refused("PERMISSION_DENIED", self.delete, location, 40001, 3))
