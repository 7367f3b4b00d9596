# SPDX-License-Identifier: Apache-2.0
"""A queue's life with device memory: bound, restarted, refused, moved, unplugged, and its owner killed."""
import errno
import os
import pathlib
import signal
import subprocess
import sys
import unittest

import guest
from guest import devmem, ethtool, knobs, modules, netdev, nic, shell

QUEUE, TOTAL = 3, 256 << 10
LOCKED = (6, 16)  # since then the core itself guards what a binding needs


class Case(unittest.TestCase):
    def setUp(self):
        self.here, self.there = nic.pair(self, queues=4)

    def transfer(self, memory):
        received = devmem.transfer(self, self.here, self.there, memory, TOTAL)
        self.assertEqual(TOTAL, received.device)

    def await_pools(self, which, count):
        """Waits until only so many pools are left, skbs that CPUs put aside freed meanwhile."""
        def left():
            netdev.flush_deferred()
            return sum(map(which, netdev.pools(self.here.ifindex))) == count
        shell.until(left, f"{count} such pools")

    def refused(self, *queues, **more):
        """The kernel's errno and words in refusing to bind."""
        buffer = devmem.Udmabuf(1 << 20)
        self.addCleanup(buffer.close)
        with self.assertRaises(netdev.Error()) as raised:
            netdev.Binding(self.here.ifindex, buffer.fd, queues, **more).close()
        return raised.exception.error, netdev.message(raised.exception)

    def cycles(self, first, more, allowed):
        """Binds and unbinds `first` times, then `more` times, during which the kernel may take up to `allowed` kB for good."""
        with devmem.bound(self.here, [QUEUE]) as memory:
            self.transfer(memory)
        ethtool.header_split(self.here, True, 0 if guest.kernel() >= (6, 14) else None)
        ethtool.rss_equal(self.here, QUEUE)
        buffer = devmem.Udmabuf(2 << 20)
        self.addCleanup(buffer.close)

        def available(count):
            for _ in range(count):
                netdev.Binding(self.here.ifindex, buffer.fd, [QUEUE]).close()
            self.await_pools(lambda pool: True, 4)
            # per-CPU lists are given back, so that what is left is what is used
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
            lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
            return {line.split(":")[0]: int(line.split()[1]) for line in lines}
        before, after = available(first), available(more)
        grown = before["MemAvailable"] - after["MemAvailable"]
        self.assertLess(grown, allowed, f"kB gone after {more} bindings: {grown}; slab {before['Slab']} -> {after['Slab']}")


class Binding(Case):
    def test_shows_on_the_queue_and_its_pool_and_goes_with_its_socket(self):
        with devmem.bound(self.here, [2, QUEUE]) as memory:
            for queue in (2, QUEUE):
                self.assertIn("dmabuf", netdev.queue(self.here.ifindex, queue))
            self.assertEqual(2, len(netdev.bound_pools(self.here.ifindex)))
            # the posted ring is the baseline: 256 buffers of a page
            self.assertEqual({256}, {pool["inflight"] for pool in netdev.bound_pools(self.here.ifindex)})
            self.transfer(memory)
        self.assertNotIn("dmabuf", netdev.queue(self.here.ifindex, QUEUE))
        self.await_pools(lambda pool: "dmabuf" in pool, 0)

    def test_a_killed_owner_leaves_the_queue_with_host_memory(self):
        ethtool.header_split(self.here, True, 0 if guest.kernel() >= (6, 14) else None)
        ethtool.rss_equal(self.here, QUEUE)
        code = (f"from guest import devmem, netdev; import time; b = devmem.Udmabuf(1 << 20); "
                f"x = netdev.Binding({self.here.ifindex}, b.fd, [{QUEUE}]); print('bound', flush=True); time.sleep(600)")
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
            self.assertEqual("bound\n", owner.stdout.readline())
            self.assertIn("dmabuf", netdev.queue(self.here.ifindex, QUEUE))
            owner.send_signal(signal.SIGKILL)
            owner.wait(20)
        shell.until(lambda: "dmabuf" not in netdev.queue(self.here.ifindex, QUEUE), "the binding is gone")
        ethtool.steer(self.here, QUEUE, dst_port=5201)
        into, out = devmem.connection(self.here, self.there, port=5201)
        with into, out:
            out.sendall(b"host memory")
            self.assertEqual(b"host memory", into.recv(100))
        self.assertGreater(knobs.rx(self.here, QUEUE)["packets"], 0)

    def test_needs_header_split(self):
        error, said = self.refused(QUEUE)
        self.assertEqual(errno.EINVAL if guest.kernel() >= (6, 14) else error, error)
        self.assertTrue(said or guest.kernel() < (6, 14), "no word on why")

    def test_a_bound_queue_is_refused_to_another(self):
        with devmem.bound(self.here, [QUEUE]):
            error, said = self.refused(QUEUE)
            self.assertEqual(errno.EEXIST, abs(error))
            self.assertIn("already", said)

    def test_what_a_binding_needs_cannot_be_taken_away(self):
        with devmem.bound(self.here, [QUEUE]) as memory:
            with self.assertRaises(netdev.Error()):
                ethtool.header_split(self.here, False)
            self.assertNotEqual(0, ethtool.run("combined 2", self.here, "-L", ok=False).returncode)
            self.transfer(memory)

    def test_survives_the_link_going_down_and_up(self):
        with devmem.bound(self.here, [QUEUE]) as memory:
            for end in (self.here, self.there):
                self.transfer(memory)
                end.up(False)
                shell.until(lambda: not self.here.carrier() and not self.there.carrier(), "no carrier")
                end.up()
                shell.until(self.here.carrier, "a carrier")
                self.here.ip(f"-6 addr replace {self.here.v6}/64 dev {self.here.name} nodad")
                self.there.ip(f"-6 addr replace {self.there.v6}/64 dev {self.there.name} nodad")
            self.transfer(memory)

    def test_survives_rings_and_channels_changing_around_it(self):
        with devmem.bound(self.here, [1]) as memory:
            for ring in (16, 8192, 256):
                ethtool.run(f"rx {ring}", self.here, "-G")
                self.transfer(memory)
            for count in (3, 4):  # not 2: the core wants one more than the bound queue needs
                ethtool.channels(self.here, count)
                self.transfer(memory)

    def test_survives_a_move_to_another_namespace_and_back(self):
        shell.run("ip netns add other")
        with devmem.bound(self.here, [QUEUE]) as memory:
            self.here.ip(f"link set {self.here.name} netns other")
            shell.run(f"ip -n other link set {self.here.name} up")
            shell.run(f"ip -n other link set {self.here.name} netns {os.getpid()}")
            self.here.ip(f"addr add {self.here.v4}/24 dev {self.here.name}")
            self.here.up()
            shell.until(self.here.carrier, "a carrier")
            ethtool.rss_equal(self.here, QUEUE)
            self.transfer(memory)

    def test_a_namespace_may_vanish_with_its_nic(self):
        shell.run(f"ip netns delete {self.there.netns}")
        shell.until(lambda: shell.run("ip link show dms1", ok=False).returncode == 0, "dms1 came back to the first namespace")
        shell.run("ip netns add peer")
        shell.run("ip link set dms1 netns peer")

    def test_unplugged_while_bound_and_receiving(self):
        ethtool.header_split(self.here, True, 0 if guest.kernel() >= (6, 14) else None)
        ethtool.rss_equal(self.here, QUEUE)
        buffer = devmem.Udmabuf(4 << 20)
        self.addCleanup(buffer.close)
        with netdev.Binding(self.here.ifindex, buffer.fd, [QUEUE]):
            ethtool.steer(self.here, QUEUE, dst_port=5201)
            into, out = devmem.connection(self.here, self.there, port=5201)
            with into, out:
                sender = devmem.Sender(out, 1 << 30)
                pieces = devmem.Receiver(into).receive()
                self.assertEqual({"device"}, {piece.kind for piece in pieces})
                modules.unload("devmemsim")  # tokens held, frames on the wire, binding alive
                self.assertFalse(modules.loaded("devmemsim"))
                out.shutdown(devmem.socket.SHUT_RDWR)  # wakes the sender
            sender.thread.join(20)
        self.assertFalse(sender.thread.is_alive())

    def test_dma_buf_too_small_for_the_ring_is_posted_in_part(self):
        with devmem.bound(self.here, [QUEUE], size=64 << 10) as memory:
            self.assertEqual([16], [pool["inflight"] for pool in netdev.bound_pools(self.here.ifindex)])
            self.transfer(memory)
            self.assertGreater(knobs.rx(self.here, QUEUE)["alloc-fail"], 0)

    @unittest.skipIf(guest.kernel() < (6, 20), "rx-page-size came after 6.19")
    def test_rx_page_size_is_checked(self):
        ethtool.header_split(self.here, True, 0)
        for size in (1000, 4 << 20):
            error, _ = self.refused(QUEUE, rx_page_size=size)
            self.assertIn(abs(error), (errno.EINVAL, errno.ERANGE), size)

    @guest.deadline(200)
    def test_a_hundred_times(self):
        self.cycles(50, 50, allowed=8 << 10)  # a ring's worth of pages each would be 50 MB


class BindingLong(Case):
    LONG = True

    @guest.deadline(900)
    def test_a_thousand_times(self):
        self.cycles(100, 900, allowed=8 << 10)


class Personality(unittest.TestCase):
    """Quirks of drivers that are not about rules (those: steering_test)."""

    def personality(self, name):
        self.here, self.there = nic.pair(self, queues=4, personality=name)

    def bind(self, queue):
        buffer = devmem.Udmabuf(4 << 20)
        self.addCleanup(buffer.close)
        return netdev.Binding(self.here.ifindex, buffer.fd, [queue])

    def split(self):
        """Header split on, as the personality wants it."""
        ethtool.header_split(self.here, True, 0 if guest.kernel() >= (6, 14) else None)

    def napi_ids(self):
        return [netdev.queue(self.here.ifindex, queue)["napi-id"] for queue in range(4)]

    def test_mlx5_wants_gro_hw_and_the_link_before_header_split(self):
        self.personality("mlx5")
        with self.assertRaises(netdev.Error()) as raised:
            self.split()
        self.assertIn("rx-gro-hw", netdev.message(raised.exception))
        ethtool.feature(self.here, "rx-gro-hw", True)
        self.here.up(False)
        with self.assertRaises(netdev.Error()) as raised:
            self.split()
        self.assertEqual(errno.ENETDOWN, abs(raised.exception.error))
        self.here.up()
        self.split()
        ethtool.run("rx-gro-hw off", self.here, "-K", ok=False)
        self.assertTrue(ethtool.features(self.here)["rx-gro-hw"], "it stays on while header split needs it")

    def test_mlx5_and_gve_pause_every_queue_for_one(self):
        for name in ("mlx5", "gve"):
            with self.subTest(name):
                self.personality(name)
                if name == "mlx5":
                    ethtool.feature(self.here, "rx-gro-hw", True)
                self.split()
                before = knobs.ethtool_stats(self.here)
                with self.bind(2):
                    after = knobs.ethtool_stats(self.here)
                self.assertEqual(1, after["queue_restarts"] - before["queue_restarts"])
                self.assertEqual(3, after["queue_pauses"] - before["queue_pauses"])
                nic.down()

    def test_others_disturb_no_other_queue(self):
        self.personality("fbnic")
        self.split()
        with self.bind(2):
            self.assertEqual(0, knobs.ethtool_stats(self.here)["queue_pauses"])

    def test_bnxt_reads_on_and_refuses_off(self):
        self.personality("bnxt")
        self.assertEqual("enabled", ethtool.rings(self.here)["tcp-data-split"])
        with self.assertRaises(netdev.Error()):
            ethtool.header_split(self.here, False)
        self.split()
        ethtool.header_split(self.here, None)
        self.assertEqual("enabled", ethtool.rings(self.here)["tcp-data-split"])

    def test_gve_never_binds_queue_0(self):
        self.personality("gve")
        self.split()
        ethtool.run("weight 0 1 1 1", self.here, "-X")
        with self.assertRaises(netdev.Error()):
            self.bind(0)
        with self.bind(1):
            self.assertIn("dmabuf", netdev.queue(self.here.ifindex, 1))

    def test_gve_changes_napi_ids_at_a_reset(self):
        self.personality("gve")
        before = self.napi_ids()
        knobs.reset(1)
        after = self.napi_ids()
        self.assertNotEqual(before[1], after[1])
        self.assertEqual(before[:1] + before[2:], after[:1] + after[2:])

    def test_others_keep_them(self):
        self.personality("bnxt")
        before = self.napi_ids()
        knobs.reset(1)
        self.assertEqual(before, self.napi_ids())

    @unittest.skipIf(guest.kernel() < (6, 20), "rx-page-size came after 6.19")
    def test_largest_rx_page(self):
        for name, largest in (("mlx5", 128 << 10), ("bnxt", 32 << 10), ("gve", 0), ("fbnic", 0)):
            with self.subTest(name):
                self.personality(name)
                if name == "mlx5":
                    ethtool.feature(self.here, "rx-gro-hw", True)
                self.split()
                buffer = devmem.Udmabuf(8 << 20, huge=True)
                self.addCleanup(buffer.close)
                with self.assertRaises(netdev.Error()):
                    netdev.Binding(self.here.ifindex, buffer.fd, [2], max(2 * largest, 8192)).close()
                if largest:
                    netdev.Binding(self.here.ifindex, buffer.fd, [2], largest).close()
                nic.down()

    @guest.expect_splat(r"WARNING: .*(netdev|mp_close|netif_mp|devmem)")
    def test_mlx5_and_gve_cannot_unbind_while_down(self):
        for name in ("mlx5", "gve"):
            with self.subTest(name):
                self.personality(name)
                if name == "mlx5":
                    ethtool.feature(self.here, "rx-gro-hw", True)
                self.split()
                binding = self.bind(2)
                self.here.up(False)
                binding.close()
                self.here.up()
                nic.down()


if __name__ == "__main__":
    unittest.main()
