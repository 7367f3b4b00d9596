# SPDX-License-Identifier: Apache-2.0
"""Queues, page pools, statistics and bindings, as our client sees and makes them and as upstream's ynl sees them."""
import os
import unittest

import guest
from guest import devmem, ethtool, netdev, nic, shell
from probe import UNPRIVILEGED, Probe, Refused

QUEUES = 4


class Netdev(unittest.TestCase):
    def setUp(self):
        self.here, self.there = nic.pair(self, queues=QUEUES)
        self.probe = Probe(self)

    def refused(self, code, verb, **words):
        """The message of a refusal."""
        with self.assertRaises(Refused) as caught:
            getattr(self.probe, verb)(**words)
        self.assertEqual(code, caught.exception.code, caught.exception)
        return str(caught.exception)

    def ready(self, queues):
        """What a binding to these, the last queues, needs."""
        ethtool.header_split(self.here, True, 0 if guest.kernel() >= (6, 14) else None)
        ethtool.rss_equal(self.here, min(queues))

    def test_lists_queues_as_ynl_does(self):
        expected = [(queue["id"], queue["napi-id"], 0) for queue in netdev.queues(self.here.ifindex)]
        self.assertEqual(QUEUES, len(expected))
        told = self.probe.queues(interface=self.here.name)
        self.assertEqual(expected, [(queue["queue"], queue["napi"], queue["dmabuf"]) for queue in told])
        self.assertFalse(any(queue["io-uring"] or queue["xsk"] for queue in told))

    def test_lists_pools_as_ynl_does(self):
        expected = {pool["id"]: (pool.get("napi-id", 0), pool["inflight"]) for pool in netdev.pools(self.here.ifindex)}
        told = {pool["id"]: (pool["napi"], pool["inflight"]) for pool in self.probe.pools(interface=self.here.name)}
        self.assertEqual(QUEUES, len(told))
        self.assertEqual(expected, told)
        self.assertLessEqual(set(told), {pool["id"] for pool in self.probe.pools(ifindex=0)})

    def test_reads_statistics_as_ynl_does(self):
        shell.run(f"ping -c 3 -i 0.2 {self.there.v4}")
        told = {stats["queue"]: stats for stats in self.probe.stats(interface=self.here.name)}
        self.assertEqual(set(range(QUEUES)), set(told))
        self.assertGreaterEqual(sum(stats["packets"] for stats in told.values()), 3)
        seen = netdev.queue_stats(self.here.ifindex)
        for queue, stats in told.items():
            for name in ("packets", "bytes", "alloc-fail"):
                self.assertLessEqual(stats[name], seen[("rx", queue)][f"rx-{name}"], "counters only grow")

    def test_a_binding_shows_and_goes_with_its_owner(self):
        for end in (lambda id: self.probe.unbind(id=id), lambda _: self.probe.end()):
            self.ready([2, 3])
            bound = self.probe.bind(interface=self.here.name, queues=[2, 3])
            told = self.probe.queues(interface=self.here.name)
            self.assertEqual([0, 0, bound, bound], [queue["dmabuf"] for queue in told])
            pools = [pool for pool in self.probe.pools(interface=self.here.name) if pool["dmabuf"] == bound]
            self.assertEqual([(False, 256)] * 2, [(pool["detached"], pool["inflight"]) for pool in pools], "a ring's worth is posted")
            self.assertEqual({256 * 4096}, {pool["inflight-bytes"] for pool in pools})
            end(bound)
            shell.until(lambda: "dmabuf" not in netdev.queue(self.here.ifindex, 3), "the queue has host memory")
        other = Probe(self)
        shell.until(lambda: not any(pool["dmabuf"] for pool in other.pools(interface=self.here.name)), "its pools are gone")

    def test_a_killed_owner_leaves_nothing(self):
        self.ready([3])
        self.probe.bind(interface=self.here.name, queues=[3])
        self.probe.kill()
        other = Probe(self)
        shell.until(lambda: not any(queue["dmabuf"] for queue in other.queues(interface=self.here.name)), "the queue has host memory")

    def test_a_bound_queue_is_refused_in_the_kernels_words(self):
        with devmem.bound(self.here, [3]):
            said = self.refused("ALREADY_EXISTS", "bind", interface=self.here.name, queues=[2, 3])
        self.assertIn("already", said)
        self.assertIn(f"{self.here.name}: cannot bind device memory to Rx queues 2, 3", said)
        self.assertIn("must let it go first", said)
        self.assertFalse(any(queue["dmabuf"] for queue in self.probe.queues(interface=self.here.name)), "queue 2 was given back")

    def test_no_such_queue(self):
        self.ready([3])
        code = "OUT_OF_RANGE" if guest.kernel() < (7, 0) else "INVALID_ARGUMENT"  # each kernel's own choice
        said = self.refused(code, "bind", interface=self.here.name, queues=[77])
        self.assertIn("cannot bind device memory to Rx queue 77: ", said)

    @unittest.skipIf(guest.kernel() < (6, 14), "this kernel's core does not ask for header split")
    def test_needs_header_split(self):
        self.assertIn("tcp-data-split", self.refused("INVALID_ARGUMENT", "bind", interface=self.here.name, queues=[3]))

    def test_needs_a_capability(self):
        self.ready([3])
        os.chmod("/dev/udmabuf", 0o666)
        self.addCleanup(os.chmod, "/dev/udmabuf", 0o600)
        self.probe = Probe(self, prefix=UNPRIVILEGED)
        self.assertEqual(QUEUES, len(self.probe.queues(interface=self.here.name)))
        self.assertIn("CAP_NET_ADMIN", self.refused("PERMISSION_DENIED", "bind", interface=self.here.name, queues=[3]))

    def test_an_interface_that_is_not_there(self):
        self.assertIn("interface 4711", self.refused("NOT_FOUND", "queues", ifindex=4711))

    def test_pages_of_other_sizes(self):
        self.ready([3])
        if guest.kernel() < (7, 0):
            said = self.refused("UNIMPLEMENTED", "bind", interface=self.here.name, queues=[3], page_size=16384)
            self.assertIn("with pages of 16384 bytes", said)
            return
        self.refused("INVALID_ARGUMENT", "bind", interface=self.here.name, queues=[3], page_size=12345)


class Routes(unittest.TestCase):
    def setUp(self):
        self.here, self.there = nic.pair(self, queues=QUEUES)
        self.probe = Probe(self)

    def test_to_the_peer_and_to_ourselves(self):
        for mine, theirs in ((self.here.v4, self.there.v4), (self.here.v6, self.there.v6)):
            expected = {"ifindex": self.here.ifindex, "interface": self.here.name, "source": mine, "local": False}
            self.assertEqual(expected, self.probe.route(peer=[theirs, 80]))
            self.assertTrue(self.probe.route(peer=[mine, 80])["local"])
        mapped = self.probe.route(peer=[f"::ffff:{self.there.v4}", 80])
        self.assertEqual((self.here.name, self.here.v4), (mapped["interface"], mapped["source"]))

    def test_there_is_none(self):
        for address in ("198.51.100.1", "2001:db8:ffff::1"):
            with self.assertRaises(Refused) as caught:
                self.probe.route(peer=[address, 80])
            self.assertEqual("UNAVAILABLE", caught.exception.code)
            self.assertIn(address, str(caught.exception))

    def test_an_unreachable_one(self):
        shell.run("ip route add unreachable 198.51.100.0/24")
        self.addCleanup(shell.run, "ip route del unreachable 198.51.100.0/24")
        with self.assertRaises(Refused) as caught:
            self.probe.route(peer=["198.51.100.1", 80])
        self.assertEqual("UNAVAILABLE", caught.exception.code)

    def test_physical_devices(self):
        self.assertEqual(["dms0"], self.probe.physical(interface="dms0"))
        shell.run("modprobe 8021q")
        shell.run("ip link add link dms0 name dms0.5 type vlan id 5")
        self.assertEqual(["dms0"], self.probe.physical(interface="dms0.5"))
        for name in ("lo", "nothing"):
            with self.assertRaises(Refused) as caught:
                self.probe.physical(interface=name)
            self.assertEqual("FAILED_PRECONDITION" if name == "lo" else "NOT_FOUND", caught.exception.code)
        self.assertEqual(["dms1"], Probe(self, netns=nic.PEER).physical(interface="dms1"), "in the other namespace")
