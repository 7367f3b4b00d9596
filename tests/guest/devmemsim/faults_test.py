# SPDX-License-Identifier: Apache-2.0
"""Every fault knob, as a receiver of device memory sees it: what the stack repairs, what it reports, and what nobody can."""
import pathlib
import unittest

import guest
from guest import devmem, ethtool, knobs, nic, shell

QUEUE, TOTAL = 3, 1 << 20
FAIL_FUNCTION = pathlib.Path("/sys/kernel/debug/fail_function")


class Faults(unittest.TestCase):
    def setUp(self):
        self.here, self.there = nic.pair(self, queues=4)

    def receive(self, knob, count, skip=5, exact=True, total=TOTAL, **settings):
        """A transfer into device memory with a knob turned; what was received."""
        with devmem.bound(self.here, [QUEUE]) as memory:
            knobs.strike(QUEUE, knob, count, skip, **settings)
            received = devmem.transfer(self, self.here, self.there, memory, total, exact=exact)
            self.assertEqual(0, knobs.left(QUEUE, knob), "the knob did not strike")
            self.counters = knobs.rx(self.here, QUEUE)
        return received

    def test_nothing_struck(self):
        received = self.receive("drop", 0)
        self.assertEqual(TOTAL, received.device)
        self.assertEqual(0, self.counters["hw-drops"])
        self.assertEqual(0, self.counters["csum-bad"])

    def test_dropped_is_sent_again(self):
        received = self.receive("drop", 3)
        self.assertEqual(TOTAL, received.device)
        self.assertEqual(3, self.counters["hw-drops"])
        self.assertGreaterEqual(knobs.tcp("TcpRetransSegs", self.there.netns), 3)

    def test_reordered_is_put_in_order(self):
        received = self.receive("reorder", 1)
        self.assertEqual(TOTAL, received.device)
        self.assertGreater(knobs.tcp("TcpExtTCPOFOQueue"), 0)

    def test_duplicated_counts_once(self):
        received = self.receive("duplicate", 4)
        self.assertEqual(TOTAL, received.total)
        self.assertGreater(knobs.tcp("TcpExtTCPDSACKOldSent") + knobs.tcp("TcpExtTCPDSACKOfoSent"), 0)

    def test_delayed_is_put_in_order(self):
        received = self.receive("delay", 1, delay_us=20000)
        self.assertEqual(TOTAL, received.total)
        self.assertGreater(knobs.tcp("TcpExtTCPOFOQueue"), 0)

    def test_corrupt_is_caught_by_the_checksum(self):
        received = self.receive("corrupt", 2)
        self.assertEqual(TOTAL, received.device)
        self.assertEqual(2, self.counters["csum-bad"])
        self.assertEqual(2, self.counters["hw-drops"], "memory that cannot be read must not go up unverified")

    def test_corrupt_in_host_memory_is_caught_by_the_stack(self):
        before = knobs.tcp("TcpInCsumErrors")
        into, out = devmem.connection(self.here, self.there)
        with into, out:
            for queue in range(4):
                knobs.strike(queue, "corrupt", 1)
            sender = devmem.Sender(out, TOTAL)
            data = bytearray()
            while len(data) < TOTAL:
                piece = into.recv(1 << 20)
                self.assertTrue(piece, "the stream ended early")
                data += piece
            sender.join()
        self.assertEqual(devmem.pattern(0, TOTAL), bytes(data))
        self.assertEqual(before + 1, knobs.tcp("TcpInCsumErrors"))

    def test_no_buffer_to_post(self):
        ethtool.run("rx 16", self.here, "-G")  # 64 KiB
        received = self.receive("fail_alloc", 60, skip=0)
        self.assertEqual(TOTAL, received.total)
        self.assertGreaterEqual(self.counters["alloc-fail"], 60)

    def test_linear_arrives_as_plain_bytes(self):
        received = self.receive("linear", 10)
        self.assertGreater(received.plain, 0)
        self.assertEqual(TOTAL, received.device + received.plain)

    def test_late_split_is_announced_as_linear(self):
        received = self.receive("split_late", 10)
        self.assertEqual(10 * 64, received.linear)
        self.assertEqual(TOTAL, received.device + received.linear)

    def test_wrong_queue_arrives_as_plain_bytes(self):
        received = self.receive("misroute", 20, misroute_to=0)
        self.assertGreater(received.plain, 0)
        self.assertEqual(TOTAL, received.device + received.plain)

    def test_lost_dma_write_is_seen_by_nobody_but_the_reader(self):
        received = self.receive("dma_lose", 1, exact=False)
        self.assertEqual(TOTAL, received.total)
        self.assertIsNotNone(received.first_difference)
        self.assertEqual(0, self.counters["csum-bad"])

    def test_misplaced_dma_write(self):
        received = self.receive("dma_misplace", 1, exact=False)
        self.assertEqual(TOTAL, received.total)
        self.assertIsNotNone(received.first_difference)
        self.assertEqual(0, self.counters["csum-bad"])

    def test_reset_of_a_bound_queue(self):
        with devmem.bound(self.here, [QUEUE]) as memory:
            knobs.reset(QUEUE)
            received = devmem.transfer(self, self.here, self.there, memory, TOTAL)
            self.assertEqual(TOTAL, received.device, "the queue came back with the same memory")

    def test_knob_refuses_nonsense(self):
        for text in ("", "many", "-1", "99999999999", "1 -1", "x" * 100):
            with self.assertRaises(OSError, msg=text):
                (knobs.ROOT / knobs.HERE / "queue0" / "drop").write_text(text or "\n")
        with self.assertRaises(OSError):
            (knobs.ROOT / knobs.HERE / "queue0" / "reset").write_text("2")


@unittest.skipUnless(FAIL_FUNCTION.is_dir(), "this kernel has no function error injection: the debug kernel has")
class FaultInjection(unittest.TestCase):
    """Page pools that get no memory, by the kernel's own error injection: what upstream's pp_alloc_fail.py does, less its demand for
    4,000 frames a second, which an emulated kernel that checks itself is far from."""

    def setUp(self):
        self.here, self.there = nic.pair(self, queues=4)

    def inject(self, **settings):
        for name, value in settings.items():
            (FAIL_FUNCTION / name).write_text(f"{value}\n", encoding="ascii")

    def test_every_fourth_allocation_fails(self):
        with devmem.bound(self.here, [QUEUE]) as memory:
            self.inject(inject="page_pool_alloc_netmems")
            self.addCleanup(self.inject, probability=0, times=0, inject="")
            self.inject(verbose=0, interval=4, probability=100, times=-1)
            for ring in (256, 64):
                ethtool.run(f"rx {ring}", self.here, "-G", ok=False)  # may get no memory, and has then changed nothing
                received = devmem.transfer(self, self.here, self.there, memory, TOTAL)
                self.assertEqual(TOTAL, received.device)
            self.assertGreater(knobs.rx(self.here, QUEUE)["alloc-fail"], 0)


class Receive(unittest.TestCase):
    """What is not a fault: sizes, families, thresholds, and the ways a frame may arrive."""

    def setUp(self):
        self.here, self.there = nic.pair(self, queues=4)

    def test_ipv6(self):
        with devmem.bound(self.here, [QUEUE]) as memory:
            received = devmem.transfer(self, self.here, self.there, memory, TOTAL, family=6)
        self.assertEqual(TOTAL, received.device)

    def test_jumbo_frames(self):
        for end in (self.here, self.there):
            end.mtu(9000)
        with devmem.bound(self.here, [QUEUE]) as memory:
            received = devmem.transfer(self, self.here, self.there, memory, 4 * TOTAL)
        self.assertEqual(4 * TOTAL, received.device)
        frames = knobs.rx(self.here, QUEUE)["packets"]
        self.assertLess(frames, 4 * TOTAL / 4000, "frames of 9000 bytes")

    def test_hardware_gro(self):
        ethtool.feature(self.here, "rx-gro-hw", True)
        with devmem.bound(self.here, [QUEUE]) as memory:
            received = devmem.transfer(self, self.here, self.there, memory, 4 * TOTAL)
            counters = knobs.rx(self.here, QUEUE)
        self.assertEqual(4 * TOTAL, received.device)
        self.assertGreater(counters["hw-gro-wire-packets"], counters["hw-gro-packets"])
        self.assertGreater(counters["hw-gro-packets"], 0)

    @unittest.skipIf(guest.kernel() < (6, 20), "rx-page-size came after 6.19")
    def test_large_rx_pages(self):
        ethtool.feature(self.here, "rx-gro-hw", True)  # merges what lies together
        for size in (64 << 10, 2 << 20):
            with devmem.bound(self.here, [QUEUE], size=32 << 20, huge=True, rx_page_size=size) as memory:
                received = devmem.transfer(self, self.here, self.there, memory, 4 * TOTAL)
            self.assertEqual(4 * TOTAL, received.device)
            # The largest, not the average: how many frames a poll finds to merge is a matter of speed.
            self.assertGreater(received.largest, 4096, "fragments go beyond a page")

    @unittest.skipIf(guest.kernel() < (6, 14), "hds-thresh came with 6.14")
    def test_threshold_leaves_small_payload_with_its_header(self):
        ethtool.header_split(self.here, True, 512)
        before = knobs.ethtool_stats(self.here)["rx_header_split"]
        into, out = devmem.connection(self.here, self.there)
        with into, out:
            out.sendall(b"x" * 512)
            self.assertEqual(512, len(into.recv(4096)))
            self.assertEqual(before, knobs.ethtool_stats(self.here)["rx_header_split"])
            out.sendall(b"x" * 513)
            self.assertEqual(513, len(into.recv(4096)))
            self.assertEqual(before + 1, knobs.ethtool_stats(self.here)["rx_header_split"])

    def test_a_slow_receiver_holds_the_sender_back_without_drops(self):
        with devmem.bound(self.here, [QUEUE], size=16 << 20) as memory:
            received = devmem.transfer(self, self.here, self.there, memory, 4 * TOTAL, hold=64)
            self.assertEqual(4 * TOTAL, received.device)
            self.assertEqual(0, knobs.rx(self.here, QUEUE)["hw-drops"])

    def test_udp_arrives_whole(self):
        for family in (devmem.socket.AF_INET, devmem.socket.AF_INET6):
            with devmem.socket.socket(family, devmem.socket.SOCK_DGRAM) as into:
                into.bind((self.here.v6 if family == devmem.socket.AF_INET6 else self.here.v4, 0))
                into.settimeout(10)
                with nic.namespace(self.there.netns):
                    out = devmem.socket.socket(family, devmem.socket.SOCK_DGRAM)
                with out:
                    for size in (1, 18, 1000, 1472 if family == devmem.socket.AF_INET else 1452, 30000, 65000):
                        out.sendto(devmem.pattern(0, size), into.getsockname()[:2])
                        self.assertEqual(devmem.pattern(0, size), into.recv(70000), f"{size} bytes")

    def test_counters_add_up(self):
        shell.run(f"ping -c 3 -i 0.01 {self.here.v4}", self.there.netns)
        # IPv6 talks when it likes: it is the sums of a moment in which nothing came that must agree.
        links, queues = shell.until(self.counted_in_silence, "no frame while counters are read")
        self.assertEqual(links["packets"], sum(queue["packets"] for queue in queues))
        self.assertEqual(links["bytes"], sum(queue["bytes"] for queue in queues))

    def counted_in_silence(self):
        """(the link's counters, each queue's) if the link's did not change meanwhile."""
        def of_link():
            return shell.json(f"ip -s -j link show {self.here.name}")[0]["stats64"]["rx"]
        before, queues = of_link(), [knobs.rx(self.here, queue) for queue in range(4)]
        return (before, queues) if before == of_link() else None


if __name__ == "__main__":
    unittest.main()
