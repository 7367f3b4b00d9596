# SPDX-License-Identifier: Apache-2.0
"""Connections steered to bound queues: their payload arrives in device memory, on the queue that was asked for. And placement."""
import socket
import threading
import unittest

from guest import ethtool, nic
from rx import Owner, Refused, WithModule, state

QUEUES, BOUND = 4, [2, 3]
PORT, BYTES = 8080, 300_000


class Steered(unittest.TestCase):
    PERSONALITY = "none"

    def setUp(self):
        self.here, self.there = nic.pair(self, queues=QUEUES, personality=self.PERSONALITY)

    def serve(self, family=socket.AF_INET):
        """A server there that sends BYTES to whoever connects."""
        with nic.namespace(self.there.netns):
            listener = socket.create_server(("", PORT), family=family, dualstack_ipv6=family == socket.AF_INET6)
        self.addCleanup(listener.close)

        def run():
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.sendall(b"x" * BYTES)
        threading.Thread(target=run, daemon=True).start()

    def fetch(self, owner, queue, peer=None):
        """One connection's whole life; how its bytes came."""
        told = owner.connect(peer=[peer or self.there.v4, PORT], queue=queue)
        ways = owner.receive(bytes=BYTES)
        self.assertEqual(BYTES, sum(ways.values()))
        return told["queue"], owner.check(), ways

    def bound(self, **more):
        owner = Owner(self)
        self.made = owner.create(interface=self.here.name, queues=BOUND)
        owner.steer(**more)
        return owner


class Steering(Steered):
    def test_a_connections_payload_lands_on_its_queue(self):
        owner = self.bound()
        self.serve(socket.AF_INET6)  # takes both
        for peer in (self.there.v4, self.there.v6):
            for queue in (0, 1):
                before = owner.look()
                at, napi, ways = self.fetch(owner, queue, peer)
                self.assertEqual((queue, self.made["queues"][queue]["napi"]), (at, napi))
                self.assertEqual({"device": BYTES, "host": 0}, ways)
                self.assertEqual(1, len(ethtool.locations(self.here)))
                after = owner.look()
                self.assertGreaterEqual(after["bytes"] - before["bytes"], BYTES)
                self.assertEqual((0, 1), (after["alloc-fail"], after["rules"]))
                owner.hang_up()
                self.assertEqual([], ethtool.locations(self.here))
        # Inflight does not fall back to what was posted: 633 of 512 were seen with every socket closed. Why is not established (buffers
        # that the pool keeps for reuse would count so). What is sure is that nobody holds any: undo waits for the pools to go.
        owner.undo()
        self.assertEqual([None] * QUEUES, state(self.here)["dmabufs"])

    def test_a_connection_that_is_not_steered_is_told(self):
        owner = self.bound()
        self.serve()
        # A rule before ours takes the flow elsewhere.
        ethtool.steer(self.here, 1, location=0, src_port=PORT)
        owner.connect(peer=[self.there.v4, PORT], queue=0)
        self.assertEqual({"device": 0, "host": BYTES}, owner.receive(bytes=BYTES))
        with self.assertRaises(Refused) as caught:
            owner.check()
        self.assertEqual("UNAVAILABLE", caught.exception.code)
        self.assertIn("not by dms0 Rx queue 2", str(caught.exception))

    def test_by_address(self):
        addresses = ["192.0.2.11", "192.0.2.12"]
        for address in addresses:
            self.here.ip(f"addr add {address}/24 dev {self.here.name}")
        owner = self.bound(addresses=addresses)
        self.serve()
        rules = ethtool.locations(self.here)
        self.assertEqual(2, len(rules))
        for queue in (0, 1):
            at, _, ways = self.fetch(owner, queue)
            self.assertEqual((queue, {"device": BYTES, "host": 0}), (at, ways))
            self.assertEqual(rules, ethtool.locations(self.here))
            owner.hang_up()

    def test_an_address_of_another_host_is_refused(self):
        owner = Owner(self)
        owner.create(interface=self.here.name, queues=BOUND)
        with self.assertRaises(Refused) as caught:
            owner.steer(addresses=["192.0.2.1", "192.0.2.99"])
        self.assertIn("no address of this host", str(caught.exception))
        self.assertEqual([], ethtool.locations(self.here))

    def test_a_route_by_nothing_bound_is_refused(self):
        owner = self.bound()
        for peer in ("127.0.0.1", self.here.v4):
            with self.assertRaises(Refused) as caught:
                owner.connect(peer=[peer, PORT], queue=0)
            self.assertEqual("FAILED_PRECONDITION", caught.exception.code)

    def test_over_a_vlan(self):
        for end, address in ((self.here, "198.51.100.1"), (self.there, "198.51.100.2")):
            end.ip(f"link add link {end.name} name {end.name}.5 type vlan id 5")
            end.ip(f"addr add {address}/24 dev {end.name}.5")
            end.ip(f"link set {end.name}.5 up")
        self.serve()
        owner = self.bound()
        told = owner.connect(peer=["198.51.100.2", PORT], queue=1)
        self.assertEqual({"interface": "dms0.5", "queue": 1}, told)
        self.assertEqual({"device": BYTES, "host": 0}, owner.receive(bytes=BYTES))
        self.assertEqual(1, len(ethtool.locations(self.here)))


class Budget(Steered):
    PERSONALITY = "fbnic"

    def test_the_last_rule_is_nobodys(self):
        for port in range(45):
            ethtool.steer(self.here, 0, dst_port=1000 + port)
        owner = self.bound()
        self.assertEqual(3, self.made["capacity"])
        self.serve()
        flow = {"source": [self.there.v4, 80]}
        for port in (1, 2):
            owner.add_rule(destination=[self.here.v4, port], index=0, **flow)
        with self.assertRaises(Refused) as caught:
            owner.connect(peer=[self.there.v4, PORT], queue=0)
        self.assertEqual("RESOURCE_EXHAUSTED", caught.exception.code)
        self.assertIn("2 are ours of the 3", str(caught.exception))


class Placement(Steered):
    def test_highest_queues_first_and_none_that_is_used(self):
        owner = Owner(self)
        self.assertEqual({"dms0": [2, 3]}, owner.place(queues=2)["nics"])
        ethtool.steer(self.here, 3, dst_port=99)
        placed = owner.place(queues=8)
        self.assertEqual({"dms0": [1, 2]}, placed["nics"])
        self.assertTrue(any("queue 3 is left out: the ntuple rule at location" in note for note in placed["notes"]), placed)

    def test_a_vlan_stands_for_its_nic(self):
        self.here.ip(f"link add link {self.here.name} name top type vlan id 5")
        self.assertEqual({"dms0": [3]}, Owner(self).place(interfaces=["top"])["nics"])

    def test_reasons_for_every_no(self):
        self.here.up(False)
        with self.assertRaises(Refused) as caught:
            Owner(self).place()
        self.assertIn("dms0: the link is down", str(caught.exception))


class SteeringByHandle(WithModule, Steering):
    pass


class BudgetByHandle(WithModule, Budget):
    pass


if __name__ == "__main__":
    unittest.main()
