# SPDX-License-Identifier: Apache-2.0
"""Everything changed at once, under traffic. What may fail is what the kernel refuses; what may not is the kernel."""
import contextlib
import random
import threading
import time
import unittest

import guest
from guest import Bad, devmem, ethtool, knobs, netdev, nic, shell

TOTAL = 256 << 10
GRACE = 60  # seconds, beyond a test's own, for every step to succeed at least once


class Churn(unittest.TestCase):
    def setUp(self):
        self.here, self.there = nic.pair(self, queues=6)
        self.done = {}
        self.broken = []

    def over(self):
        now = time.monotonic()
        return self.broken or now > self.end and (all(self.done.values()) or now > self.end + GRACE * guest.patience())

    def keep(self, name, step):
        """Repeats a step until time is up. What the kernel or the network refuses meanwhile is no fault."""
        rng = random.Random(name)

        def work():
            while not self.over():
                try:
                    step(rng)
                    self.done[name] += 1
                except (Bad, OSError, netdev.Error()):
                    time.sleep(0.01)
                except Exception as e:  # pylint: disable=broad-except
                    self.broken.append(f"{name}: {e!r}")
                    return
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def host_traffic(self, _):
        into, out = devmem.connection(self.here, self.there)
        with into, out:
            into.settimeout(2)
            out.settimeout(2)
            sender = devmem.Sender(out, TOTAL)
            data = bytearray()
            while len(data) < TOTAL:
                piece = into.recv(1 << 20)
                if not piece:
                    raise Bad("ended early")
                data += piece
            sender.join(5)
            if bytes(data) != devmem.pattern(0, TOTAL):
                raise AssertionError("contents differ")

    def binding(self, rng):
        buffer = devmem.Udmabuf(2 << 20)
        try:
            with netdev.Binding(self.here.ifindex, buffer.fd, [5]):
                time.sleep(rng.random() / 10)
        finally:
            buffer.close()

    def everything(self, seconds):
        """Changes everything under traffic for so long."""
        ethtool.header_split(self.here, True, 0 if guest.kernel() >= (6, 14) else None)
        ethtool.rss_equal(self.here, 2)
        # ynl's families are not for several threads: only `binding` uses netlink, on a socket of its own
        steps = {
            "traffic": self.host_traffic,
            "binding": self.binding,
            "rings": lambda rng: ethtool.run(f"rx {rng.choice((16, 64, 256, 1024))}", self.here, "-G"),
            "channels": lambda rng: ethtool.channels(self.here, rng.choice((3, 4, 6))),
            "rss": lambda rng: ethtool.rss_equal(self.here, rng.choice((1, 2, 3))),
            "rules": lambda rng: ethtool.unsteer(self.here, ethtool.steer(self.here, rng.randrange(3), dst_port=rng.randrange(1, 9000))),
            "features": lambda rng: ethtool.feature(self.here, rng.choice(("rx-gro-hw", "ntuple", "rxhash", "tso")), rng.random() < 0.5),
            "link": lambda rng: (time.sleep(rng.random() * 2), self.there.up(False), self.there.up()),
            "faults": lambda rng: (time.sleep(0.2), knobs.strike(rng.randrange(3), rng.choice(("drop", "reorder", "duplicate", "corrupt",
                                                                                           "linear", "misroute")), 1)),
            "resets": lambda rng: (time.sleep(0.1), knobs.reset(rng.randrange(3))),
        }
        self.done = dict.fromkeys(steps, 0)
        self.end = time.monotonic() + seconds
        for thread in [self.keep(name, step) for name, step in steps.items()]:
            thread.join(seconds + (GRACE + 40) * guest.patience())
            self.assertFalse(thread.is_alive(), f"stuck: {self.done}")
        print(self.done)
        self.assertEqual([], self.broken)
        self.assertEqual([], [name for name in steps if not self.done[name]], "these never once succeeded")
        self.settle()

    def settle(self):
        """Afterwards all is as it was, and works."""
        self.there.up()
        with contextlib.suppress(Bad):
            ethtool.rss_default(self.here)
        ethtool.channels(self.here, 6)
        ethtool.feature(self.here, "ntuple", True)
        shell.until(self.here.carrier, "a carrier")
        for end in (self.here, self.there):
            end.ip(f"-6 addr replace {end.v6}/64 dev {end.name} nodad")
        with devmem.bound(self.here, [5]) as memory:
            received = devmem.transfer(self, self.here, self.there, memory, TOTAL)
        self.assertEqual(TOTAL, received.device)
        shell.until(lambda: knobs.ethtool_stats(self.here)["tx_on_wire"] == 0, "no frame left on the wire")


class Stress(Churn):
    @guest.deadline(15 + GRACE + 60)
    def test_everything_changes_under_traffic(self):
        self.everything(15)


class StressLong(Churn):
    LONG = True

    @guest.deadline(60 + GRACE + 60)
    def test_for_a_minute(self):
        self.everything(60)


if __name__ == "__main__":
    unittest.main()
