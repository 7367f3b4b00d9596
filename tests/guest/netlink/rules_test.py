# SPDX-License-Identifier: Apache-2.0
"""Steering rules as our client inserts, reads back and deletes them, with every driver's quirks and beside rules of others'."""
import functools
import pathlib
import re
import unittest

import guest
from guest import devmem, ethtool, modules, nic
from probe import UNPRIVILEGED, Probe, Refused

QUEUES, SERVER_PORT = 8, 80
SO_INCOMING_NAPI_ID = 56
ROOT = pathlib.Path("/sys/kernel/debug/devmemsim")

CAPACITY = {"none": 1024, "mlx5": 1024, "bnxt": 4096, "gve": 1024, "fbnic": 48}


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


def everywhere(test):
    """Runs a test once with every driver's quirks."""
    @functools.wraps(test)
    def run(self):
        for number, (personality, capacity) in enumerate(CAPACITY.items()):
            with self.subTest(personality=personality):
                self.here = nic.Nic(f"dms{2 * number}", "192.0.2.1", "2001:db8::1")
                self.refuse = ROOT / f"pair{number}-a/refuse_rules"
                self.capacity = capacity
                # mlx5's locations are the user's to choose; bnxt's and fbnic's are not
                self.others = 500 if personality == "mlx5" else None
                test(self)
    return run


class Everywhere(Rules):
    """What is so with every driver. No frame moves, so the NICs need neither addresses nor the link."""

    def setUp(self):
        modules.load("devmemsim", pairs=0)
        self.addCleanup(modules.unload, "devmemsim")
        for personality in CAPACITY:
            (ROOT / "new_pair").write_text(f"{QUEUES} {personality}", encoding="ascii")
        self.there = nic.Nic("none", "192.0.2.2", "2001:db8::2")
        self.probe = Probe(self)

    @everywhere
    def test_inserted_listed_and_deleted(self):
        first = self.insert(40001, 3)
        second = self.insert(40002, 4, family=6)
        self.assertEqual({first: 3, second: 4}, self.seen())
        told = sorted(self.rules(), key=lambda rule: rule["queue"])
        self.assertEqual([{"location": first, "exact": True, "discards": False, "queue": 3,
                           "match": f"tcp {self.there.v4}:80 > {self.here.v4}:40001"},
                          {"location": second, "exact": True, "discards": False, "queue": 4,
                           "match": f"tcp [{self.there.v6}]:80 > [{self.here.v6}]:40002"}], told)
        self.assertEqual((2, self.capacity), (self.budget()["used"], self.budget()["capacity"]))
        self.delete(first, 40001, 3)
        self.delete(second, 40002, 4, family=6)
        self.assertEqual(([], {}, 0), (self.rules(), self.seen(), self.budget()["used"]))

    @everywhere
    def test_zero_matches_any(self):
        location = self.insert(0, 2, source_port=0)
        self.assertEqual([f"tcp {self.there.v4}:* > {self.here.v4}:*"], [rule["match"] for rule in self.rules()])
        self.probe.delete(**self.flow(0, source_port=0), location=location, queue=2)
        everything = {**self.flow(0), "source": ["0.0.0.0", 0], "destination": ["0.0.0.0", 0]}
        self.assertIn("every flow", self.refused("INVALID_ARGUMENT", self.probe.insert, **everything, queue=2))
        mixed = {**self.flow(0), "source": [self.there.v6, 0]}
        self.assertIn("different families", self.refused("INVALID_ARGUMENT", self.probe.insert, **mixed, queue=2))

    @everywhere
    def test_the_same_flow_is_not_taken_over(self):
        location = self.insert(40001, 3)
        for queue in (3, 4):
            said = self.refused("ALREADY_EXISTS", self.insert, 40001, queue)
            self.assertIn(f"at {location} already", said)
            self.assertIn("to queue 3", said)
        self.assertEqual({location: 3}, self.seen())

    @everywhere
    def test_only_what_is_ours_is_deleted(self):
        location = self.insert(40001, 3)
        self.assertIn("left alone", self.refused("ABORTED", self.delete, location, 40002, 3))
        self.assertIn("to queue 3", self.refused("ABORTED", self.delete, location, 40001, 4))
        self.assertEqual({location: 3}, self.seen())
        self.delete(location, 40001, 3)
        self.assertIn("there is none", self.refused("NOT_FOUND", self.delete, location, 40001, 3))

    @everywhere
    def test_what_is_refused_leaves_nothing(self):
        self.refused("INVALID_ARGUMENT", self.insert, 40001, QUEUES)
        self.refuse.write_text("1", encoding="ascii")
        self.assertIn("Input/output error", self.refused("UNKNOWN", self.insert, 40001, 3))
        self.assertEqual(({}, "0"), (self.seen(), self.refuse.read_text(encoding="ascii").strip()))
        self.insert(40001, 3)

    @everywhere
    def test_two_threads_never_choose_one_location(self):
        mine, other = self.probe.race(**self.flow(41000), queue=1, count=20)
        self.assertEqual(40, len(set(mine) | set(other)))
        self.assertEqual(40, len(self.seen()))
        self.assertEqual(40, len({rule["match"] for rule in self.rules()}))

    @everywhere
    def test_rules_of_other_kinds_are_told(self):
        context = int(re.search(r"(\d+)\s*$", ethtool.run("context new", self.here, "-X").stdout).group(1))
        kinds = ((f"tcp4 dst-port 7 context {context}", {"exact": True, "context": context, "discards": False}),
                 ("udp6 dst-port 7 action -1", {"exact": False, "context": None, "discards": True}),
                 ("tcp4 src-ip 192.0.2.0 m 0.0.0.255 queue 1", {"exact": False, "context": None, "discards": False}),
                 ("ip4 src-ip 192.0.2.7 queue 1", {"exact": False, "context": None, "discards": False}))
        for number, (words, expected) in enumerate(kinds):
            before = {rule["location"] for rule in self.rules()}
            where = "" if self.others is None else f"loc {self.others + number}"
            ethtool.run(f"flow-type {words} {where}", self.here, "-N")
            rule = next(rule for rule in self.rules() if rule["location"] not in before)
            self.assertEqual(expected, {key: rule.get(key) for key in expected}, words)

    def fill(self, count):
        """Rules by others, for ports that are not ours."""
        for number in range(count):
            ethtool.insert_rule(self.here, ethtool.LOC_ANY if self.others is None else number, 1, dst=("192.0.2.99", number + 1))

    @guest.deadline(300)
    @everywhere
    def test_a_full_table(self):
        self.fill(self.capacity - 1)
        location = self.insert(40001, 3)
        self.assertEqual({"used": self.capacity, "capacity": self.capacity}, {key: self.budget()[key] for key in ("used", "capacity")})
        self.assertIn("no room", self.refused("RESOURCE_EXHAUSTED", self.insert, 40002, 3))
        self.assertEqual(self.capacity, len(self.seen()))
        self.delete(location, 40001, 3)
        self.assertEqual(location, self.insert(40002, 3))


class Plain(Rules):
    """Any location, or the user's."""

    def test_they_steer(self):
        ethtool.rss_equal(self.here, 1)
        for family in (4, 6):
            with devmem.listen(self.there, SERVER_PORT, family) as server:
                location = self.insert(40100, 5, family)
                with devmem.connect(self.here, server, 40100) as mine:
                    napis = {queue["napi"]: queue["queue"] for queue in self.probe.queues(interface=self.here.name)}
                    self.assertEqual(5, napis[mine.getsockopt(1, SO_INCOMING_NAPI_ID)])
                self.delete(location, 40100, 5, family)

    def test_locations_of_others_are_stepped_around(self):
        for location in (0, 2):
            ethtool.insert_rule(self.here, location, 1, dst=("192.0.2.99", location + 1))
        self.assertEqual([1, 3, 4], [self.insert(40001 + i, 3) for i in range(3)])
        self.assertEqual((1, 1), (self.seen()[0], self.seen()[2]))
        self.assertTrue(self.budget()["any"])


class Mlx5(Rules):
    """The user's location only, and what stood there is gone without a word."""
    PERSONALITY = "mlx5"

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


class Bnxt(Rules):
    """The NIC chooses locations, and only while its ntuple feature is on."""
    PERSONALITY = "bnxt"

    def test_needs_ntuple(self):
        self.insert(40001, 3)
        self.probe.set_feature(interface=self.here.name, name="rx-ntuple-filter", on=False)
        self.assertEqual([], self.rules())
        self.assertIn("ntuple on", self.refused("UNIMPLEMENTED", self.insert, 40001, 3))
        self.probe.set_feature(interface=self.here.name, name="rx-ntuple-filter", on=True)
        self.insert(40001, 3)


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
        self.probe = Probe(self, prefix=UNPRIVILEGED)
        self.assertEqual(1, len(self.rules()), "reading is free")
        self.assertIn("CAP_NET_ADMIN", self.refused("PERMISSION_DENIED", self.insert, 40002, 3))
        self.assertIn("CAP_NET_ADMIN", self.refused("PERMISSION_DENIED", self.delete, location, 40001, 3))
