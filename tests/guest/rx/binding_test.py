# SPDX-License-Identifier: Apache-2.0
"""RxBinding on a real kernel: what it sets, that all of it goes back, and that it touches nothing else."""
import os
import unittest

import guest
from guest import devmem, ethtool, netdev, nic, shell
from rx import DEBUGFS, LARGE_PAGES, Owner, Refused, WithModule, drivers, state

QUEUES, BOUND = 4, [2, 3]
PERSONALITIES = ("none", "mlx5", "bnxt", "gve", "fbnic")


class Rx(unittest.TestCase):
    maxDiff = None
    PERSONALITY = "none"
    BY_HANDLE = False

    def setUp(self):
        self.here, self.there = nic.pair(self, queues=QUEUES, personality=self.PERSONALITY)

    def rule(self, owner, index, port, family=4):
        source, destination = (self.there.v4, self.here.v4) if family == 4 else (self.there.v6, self.here.v6)
        return owner.add_rule(source=[source, 80], destination=[destination, port], index=index)

    def create(self, owner, **more):
        return owner.create(**{"interface": self.here.name, "queues": BOUND, **more})

    def refused(self, code, call, **words):
        with self.assertRaises(Refused) as caught:
            call(**words)
        self.assertEqual(code, caught.exception.code, caught.exception)
        return str(caught.exception)

    def await_state(self, before):
        shell.until(lambda: state(self.here)["pools"] == before["pools"], "page pools are as many as before")
        self.assertEqual(before, state(self.here))
        self.assertEqual([], ethtool.locations(self.here))


class Plain(Rx):
    def test_sets_what_it_needs_and_nothing_else(self):
        before = state(self.here)
        owner = Owner(self)
        made = self.create(owner)
        self.assertEqual(("devmemsim", 4096, 2 * 256), (made["driver"], made["page-size"], made["posted"]))
        self.assertEqual(self.BY_HANDLE, made["by-handle"])
        self.assertEqual([None, None, made["dmabuf"], made["dmabuf"]], state(self.here)["dmabufs"])
        self.assertEqual([netdev.queue(self.here.ifindex, queue)["napi-id"] for queue in BOUND],
                         [queue["napi"] for queue in made["queues"]])
        self.assertEqual("enabled", ethtool.rings(self.here)["tcp-data-split"])
        self.assertEqual({0, 1}, set(ethtool.rss(self.here)["rss-indirection-table"]))
        self.assertEqual((before["-k"], before["-l"]), (state(self.here)["-k"], state(self.here)["-l"]))
        look = owner.look()
        self.assertTrue(look["intact"], look)
        self.assertEqual(made["posted"], look["inflight"])
        owner.undo()
        self.await_state(before)
        self.assertEqual([], os.listdir(owner.journal))

    def test_ends_by_itself(self):
        before = state(self.here)
        owner = Owner(self)
        self.create(owner)
        self.rule(owner, 0, 40000)
        owner.end()
        self.await_state(before)

    def test_channel_counts_may_change_again_afterwards(self):
        owner = Owner(self)
        self.create(owner)
        owner.undo()
        for count in (2, QUEUES):  # an RSS table that a user chose would stand in the way
            ethtool.channels(self.here, count)

    def test_an_operators_choices_come_back(self):
        ethtool.run("weight 1 1 1 2", self.here, "-X")
        ethtool.header_split(self.here, True, 512 if guest.kernel() >= (6, 14) else None)
        ethtool.steer(self.here, 1, dst_port=99)
        before = state(self.here)
        owner = Owner(self)
        self.create(owner)
        self.rule(owner, 1, 40000)
        owner.undo()
        self.assertEqual(before, state(self.here))

    def test_rules(self):
        owner = Owner(self)
        made = self.create(owner)
        self.assertEqual(1024, made["capacity"])
        first, second = self.rule(owner, 0, 40000), self.rule(owner, 1, 40001, family=6)
        self.assertEqual(sorted((first, second)), ethtool.locations(self.here))
        self.assertIn("Direct to queue 3", ethtool.run(f"rule {second}", self.here, "-n").stdout)
        owner.remove_rule(location=first)
        ethtool.unsteer(self.here, second)  # by another: that is found at removal
        owner.remove_rule(location=second)
        self.assertEqual(0, owner.look()["rules"])
        (DEBUGFS / "pair0-a/refuse_rules").write_text("1", encoding="ascii")
        with self.assertRaises(Refused):
            self.rule(owner, 0, 40000)
        self.assertEqual(0, owner.look()["rules"])
        self.rule(owner, 0, 40000)

    def test_a_link_that_is_down_is_refused_and_stays_down(self):
        self.here.up(False)
        self.assertIn("link is down", self.refused("FAILED_PRECONDITION", self.create, owner=Owner(self)))
        self.assertNotIn("UP", shell.json(f"ip -j link show {self.here.name}")[0]["flags"])

    def test_anothers_binding_is_named(self):
        with devmem.bound(self.here, [3]):
            told = netdev.queue(self.here.ifindex, 3)["dmabuf"]
            before = state(self.here)
            said = self.refused("FAILED_PRECONDITION", self.create, owner=Owner(self))
            self.assertIn(f"Rx queue 3 is in use: dma-buf {told['id'] if isinstance(told, dict) else told}", said)
            self.assertEqual(before, state(self.here))

    def test_rss_contexts_and_rules_of_others_are_named(self):
        location = ethtool.steer(self.here, 2, dst_port=99)
        said = self.refused("FAILED_PRECONDITION", self.create, owner=Owner(self))
        self.assertIn(f"Rx queue 2 is in use: the ntuple rule at location {location}", said)
        ethtool.unsteer(self.here, location)
        shell.run(f"ethtool -X {self.here.name} context new start 3 equal 1")
        self.assertIn("Rx queue 3 is in use: RSS context 1", self.refused("FAILED_PRECONDITION", self.create, owner=Owner(self)))

    def test_a_second_binding_of_this_process_is_refused(self):
        owner = Owner(self)
        self.create(owner, queues=[3])
        self.assertIn("journal", self.refused("ALREADY_EXISTS", self.create, owner=owner, queues=[2]))

    def test_two_processes_share_a_nic_and_leave_in_any_order(self):
        before = state(self.here)
        for leaves_first in (0, 1):
            with self.subTest(leaves_first):
                one = Owner(self)
                owners = [one, Owner(self, journal=one.journal)]
                for owner, queue in zip(owners, BOUND):
                    self.create(owner, queues=[queue])
                self.assertEqual({0, 1}, set(ethtool.rss(self.here)["rss-indirection-table"]))
                owners[leaves_first].undo()
                stays = owners[1 - leaves_first]
                self.assertTrue(stays.look()["intact"])
                self.assertEqual({0, 1, BOUND[leaves_first]}, set(ethtool.rss(self.here)["rss-indirection-table"]))
                self.assertEqual("enabled", ethtool.rings(self.here)["tcp-data-split"])
                stays.undo()
                self.await_state(before)
                self.assertEqual([], os.listdir(one.journal))

    def test_process_1_of_two_containers(self):
        before = state(self.here)
        words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        one = Owner(self, prefix=words)
        two = Owner(self, journal=one.journal, prefix=words)
        self.create(one, queues=[3])
        self.create(two, queues=[2])
        self.assertEqual(2, len(os.listdir(one.journal)))
        one.undo()
        two.undo()
        self.await_state(before)

    @unittest.skipUnless(LARGE_PAGES, "rx-page-size came after 6.19")
    def test_page_sizes(self):
        owner = Owner(self)
        for wanted in (65536, 4096, 1 << 20):
            self.assertEqual(wanted, self.create(owner, page_size=wanted, bytes=32 << 20, huge=True)["page-size"])
            owner.undo()

    def test_memory_of_small_pages_or_an_old_kernel_takes_small_pages(self):
        self.assertEqual(4096, self.create(Owner(self), page_size=65536)["page-size"])

    def test_undo_tells_who_holds_buffers(self):
        before = state(self.here)
        owner = Owner(self)
        made = self.create(owner)
        self.rule(owner, 0, 5201)
        ethtool.run("", self.here, "-n")
        for location in ethtool.locations(self.here):
            ethtool.unsteer(self.here, location)
        ethtool.steer(self.here, BOUND[0], dst_port=5201)
        into, out = devmem.connection(self.here, self.there, port=5201)
        with into, out:
            out.sendall(b"x" * 10000)
            held = devmem.Receiver(into).receive()
            self.assertEqual({"device"}, {piece.kind for piece in held})
            said = self.refused("DEADLINE_EXCEEDED", owner.undo, seconds=1)
            self.assertIn(f"still holds dma-buf {made['dmabuf']}: page pool", said)
        for location in ethtool.locations(self.here):
            ethtool.unsteer(self.here, location)
        netdev.flush_deferred()
        self.await_state(before)

    def test_in_a_namespace(self):
        before = state(self.there)
        owner = Owner(self, netns=self.there.netns)
        owner.create(interface=self.there.name, queues=BOUND)
        self.assertTrue(owner.look()["intact"])
        owner.kill()
        self.assertIn("is not in this network namespace", Owner(self, journal=owner.journal).recover()[0])
        lines = Owner(self, journal=owner.journal, netns=self.there.netns).recover()
        self.assertIn("is put back", lines[-1])
        self.assertEqual(before, state(self.there))


class Changed(Rx):
    """Someone else is at the NIC too."""

    def test_rss_restored_by_another_is_seen_and_mended_once(self):
        before = state(self.here)
        owner = Owner(self)
        self.create(owner)
        ethtool.rss_default(self.here)
        self.assertIn("the RSS table leads to bound queues", owner.look()["why"])
        owner.rebind()
        self.assertTrue(owner.look()["intact"])
        owner.undo()
        self.await_state(before)

    def test_rules_flushed_by_another_come_back(self):
        owner = Owner(self)
        self.create(owner)
        location = self.rule(owner, 0, 40000)
        ethtool.unsteer(self.here, location)
        look = owner.look()
        self.assertFalse(look["intact"])
        self.assertIn("1 of the 1 rules for its connections are gone", look["why"])
        owner.rebind()
        self.assertEqual([location], ethtool.locations(self.here))
        self.assertTrue(owner.look()["intact"])

    def test_rss_that_another_set_stays(self):
        owner = Owner(self)
        self.create(owner)
        ethtool.rss_equal(self.here, 1)
        said = self.refused("ABORTED", owner.undo)
        self.assertIn("RSS table was changed by another", said)
        self.assertEqual({0}, set(ethtool.rss(self.here)["rss-indirection-table"]))
        self.assertEqual("disabled", ethtool.rings(self.here)["tcp-data-split"])

    def test_the_link_may_flap(self):
        before = state(self.here)
        owner = Owner(self)
        self.create(owner)
        self.here.up(False)
        self.assertIn("link is down", self.refused("FAILED_PRECONDITION", owner.rebind))
        self.here.up()
        shell.until(self.here.carrier, "a carrier")
        self.assertTrue(owner.look()["intact"])
        owner.undo()
        self.await_state(before)

    def test_a_nic_that_is_unplugged(self):
        owner = Owner(self)
        self.create(owner)
        guest.modules.unload("devmemsim")
        self.refused("NOT_FOUND", owner.look)
        self.assertIn("is not here any more", self.refused("NOT_FOUND", owner.undo))
        self.assertEqual(1, len(os.listdir(owner.journal)), "it may have been moved, for all that is known")


class Ntuple(Rx):
    """A driver that takes rules only with that feature on, and was found with it off."""
    PERSONALITY = "bnxt"

    def setUp(self):
        super().setUp()
        ethtool.feature(self.here, "ntuple", False)

    def on(self):
        return ethtool.features(self.here)["ntuple-filters"]

    def test_who_leaves_does_not_take_it_from_who_stays(self):
        before = state(self.here)
        old = Owner(self)
        new = Owner(self, journal=old.journal)
        self.create(old, queues=[3])
        self.create(new, queues=[2])
        old.undo()
        self.assertTrue(self.on())
        self.rule(new, 0, 40000)
        self.assertTrue(new.look()["intact"])
        new.undo()
        self.await_state(before)

    def test_turned_off_by_another_it_is_missed(self):
        before = state(self.here)
        owner = Owner(self)
        self.create(owner)
        ethtool.feature(self.here, "ntuple", False)
        self.assertIn("rx-ntuple-filter is off", owner.look()["why"])
        owner.rebind()
        self.assertTrue(self.on())
        self.assertTrue(owner.look()["intact"])
        self.rule(owner, 0, 40000)
        owner.undo()
        self.await_state(before)


class Drivers(Rx):
    """The same with every driver's quirks."""

    def setUp(self):  # no pair of the usual kind
        self.there = nic.Nic("none", "192.0.2.2", "2001:db8::2")

    @guest.deadline(300)
    def test_leaves_no_trace(self):
        with drivers(*PERSONALITIES) as nics:
            for personality, self.here in nics.items():
                for ntuple in (True, False):
                    with self.subTest(personality=personality, ntuple=ntuple):
                        self.leaves_no_trace(personality, ntuple)

    def leaves_no_trace(self, personality, ntuple):
        ethtool.feature(self.here, "ntuple", ntuple)
        before = state(self.here)
        owner = Owner(self)
        self.create(owner)
        now = ethtool.features(self.here)
        self.assertEqual(personality == "mlx5", now["rx-gro-hw"])
        self.assertEqual(ntuple or personality in ("bnxt", "gve"), now["ntuple-filters"])
        self.rule(owner, 1, 40000)
        self.assertTrue(owner.look()["intact"])
        owner.undo()
        self.await_state(before)
        owner.end()

    @guest.deadline(300)
    def test_survives_a_reset_and_reads_napi_ids_again(self):
        with drivers(*PERSONALITIES) as nics:
            for number, (personality, self.here) in enumerate(nics.items()):
                with self.subTest(personality):
                    owner = Owner(self)
                    made = self.create(owner)
                    (DEBUGFS / f"pair{number}-a/queue3/reset").write_text("1", encoding="ascii")
                    look = owner.look()
                    self.assertTrue(look["intact"], look)
                    self.assertEqual(made["queues"] != look["queues"], personality == "gve")
                    owner.rebind()
                    self.assertEqual(made["dmabuf"], owner.look()["dmabuf"], "nothing was lost, so nothing is bound anew")
                    owner.undo()
                    owner.end()

    @guest.deadline(300)
    @unittest.skipUnless(LARGE_PAGES, "rx-page-size came after 6.19")
    def test_the_largest_page_is_found(self):
        largest = {"none": 1 << 20, "mlx5": 128 << 10, "bnxt": 32 << 10, "gve": 4096, "fbnic": 4096}
        with drivers(*largest) as nics:
            for personality, self.here in nics.items():
                with self.subTest(personality):
                    owner = Owner(self)
                    self.assertEqual(largest[personality],
                                     self.create(owner, page_size=1 << 20, bytes=32 << 20, huge=True)["page-size"])
                    owner.end()


class PlainByHandle(WithModule, Plain):
    pass


class ChangedByHandle(WithModule, Changed):
    pass


class NtupleByHandle(WithModule, Ntuple):
    pass


class DriversByHandle(WithModule, Drivers):
    LONG = True


if __name__ == "__main__":
    unittest.main()
