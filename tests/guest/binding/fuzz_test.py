# SPDX-License-Identifier: Apache-2.0
"""Random operations, sensible and senseless, on everything the module offers. What it refuses is no fault; what it must not do is
lose anything, or upset the kernel (whose log the agent reads)."""
import collections
import contextlib
import fcntl
import os
import random
import socket
import struct
import time
import unittest

import guest
from guest import Bad, ethtool, handle, netdev
from stand import BOUND, QUEUES, Case

NETLINK_GENERIC, NLM_F_REQUEST, NLM_F_DUMP = 16, 1, 0x300
MOST = 6  # handles at a time, copies among them


class Fuzz(Case):
    def setUp(self):
        super().setUp()
        self.more = self.ready()
        self.buffers = [self.buffer(1 << 20) for _ in range(2)]
        self.device = os.open(handle.DEVICE, os.O_RDWR)
        self.addCleanup(os.close, self.device)
        self.ifindex = self.here.ifindex
        self.family = netdev.family("devmem-binding").nlproto.family_id
        self.open, self.done = [], collections.Counter()

    def some(self):
        """A handle, if there is any."""
        if not self.open:
            raise Bad("none is open")
        return self.rng.choice(self.open)

    def number(self):
        """Of the kind that is near an edge."""
        return self.rng.choice((0, 1, 2, 3, 4, 255, 256, 1 << 31, (1 << 32) - 1, self.rng.getrandbits(32)))

    # --- operations ---

    def do_create(self):
        if len(self.open) >= MOST:
            raise Bad("enough")
        odd = self.rng.random() < 0.2
        self.open.append(handle.Handle.create(self.number() if odd else self.ifindex, self.rng.choice(self.buffers).fd,
                                              [self.number() % 8 if odd else BOUND], device=self.device,
                                              reset=self.rng.choice((0, handle.RSS, handle.SPLIT, 3)), split_before=self.rng.randrange(3)))

    def do_add(self):
        self.some().add(self.rng.choice((BOUND, BOUND, BOUND, self.number())), dst=(self.here.v4, self.rng.randrange(1, 40)),
                        src=self.rng.choice(((None, 0), (self.there.v4, 80))), protocol=self.rng.choice((6, 6, 17, 1)))

    def do_delete(self):
        made = self.some()
        rules = made.info()["rules"]
        made.delete(self.rng.choice(rules)[0] if rules and self.rng.random() < 0.8 else self.number())

    def do_info(self):
        self.some().info(self.rng.randrange(4), self.rng.randrange(4))

    def do_copy(self):
        if len(self.open) >= MOST:
            raise Bad("enough")
        self.open.append(handle.Handle(os.dup(self.some().fd)))

    def do_close(self):
        self.open.pop(self.rng.randrange(max(len(self.open), 1))).close()

    def do_holder(self):
        """Another process holds what is held, and dies."""
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        self.do_close()
        os.waitpid(pid, 0)

    def do_noise(self):
        """Any ioctl of the module's, with anything in it, on any file of its."""
        fd = self.rng.choice([self.device, *(each.fd for each in self.open)])
        command = self.rng.choice((handle.IOC_CREATE, handle.IOC_RULE_ADD, handle.IOC_RULE_DEL, handle.IOC_INFO, self.rng.getrandbits(32)))
        argument = bytearray(self.rng.choice((self.rng.randbytes(64), struct.pack("=16I", *(self.number() for _ in range(16))))))
        fcntl.ioctl(fd, command, argument)

    def do_family(self):
        handle.held(self.rng.choice((None, self.ifindex, 77)))
        if self.open:
            handle.get(self.some().info()["id"])

    def do_family_noise(self):
        """Generic netlink to the family, with anything for attributes."""
        body = self.rng.randbytes(4 * self.rng.randrange(6))
        if self.rng.random() < 0.5:  # attributes that at least have a length
            body = b"".join(struct.pack("=HHI", 8, self.rng.randrange(16), self.number()) for _ in range(self.rng.randrange(4)))
        message = struct.pack("=IHHIIBBH", 20 + len(body), self.family, NLM_F_REQUEST | self.rng.choice((0, 4, NLM_F_DUMP)), 1, 0,
                              self.rng.randrange(6), 1, 0) + body
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as sock:
            sock.settimeout(5)
            sock.send(message)
            with contextlib.suppress(TimeoutError, BlockingIOError):
                sock.recv(1 << 16, socket.MSG_DONTWAIT)

    def do_nic(self):
        """Another user of ethtool."""
        self.rng.choice((lambda: ethtool.rss_equal(self.here, self.rng.choice((2, BOUND, BOUND))),
                         lambda: ethtool.header_split(self.here, self.rng.random() < 0.7),
                         lambda: ethtool.delete_rule(self.here, self.rng.choice(ethtool.locations(self.here) or [9])),
                         lambda: ethtool.insert_rule(self.here, self.rng.randrange(8), 1, dst=(None, self.rng.randrange(50, 90)))))()

    OFTEN = {"create": 4, "add": 6, "delete": 3, "close": 4, "noise": 6, "family_noise": 4, "nic": 1, "holder": 1}

    # --- the run ---

    def run_for(self, seconds, seed):
        self.rng = random.Random(seed)
        names = [name.removeprefix("do_") for name in dir(self) if name.startswith("do_")]
        weights = [self.OFTEN.get(name, 2) for name in names]
        end = time.monotonic() + seconds
        grace = end + 60 * guest.patience()
        needed = set(names) - {"noise"}  # which succeeds by chance only
        while time.monotonic() < end or (needed - set(self.done) and time.monotonic() < grace):
            name = self.rng.choices(names, weights)[0]
            with contextlib.suppress(OSError, Bad, netdev.Error(), IndexError):
                getattr(self, f"do_{name}")()
                self.done[name] += 1
            if self.rng.random() < 0.05:  # what somebody else set may keep every binding from being made
                self.ready()
        self.note = f"seed {seed}: {dict(self.done)}"
        print(self.note)
        self.assertEqual(set(), needed - set(self.done), "these never once succeeded")
        self.settle()

    def settle(self):
        for each in self.open:
            each.close()
        self.assertEqual([], handle.held())
        self.assertEqual([None] * QUEUES, [queue.get("dmabuf") for queue in netdev.queues(self.ifindex)])
        for place in ethtool.locations(self.here):
            ethtool.delete_rule(self.here, place)
        self.ready()
        made = self.create()
        made.add(BOUND, dst=(self.here.v4, 5201))
        made.close()
        self.assertEqual([], ethtool.locations(self.here))


class Random(Fuzz):
    @guest.deadline(120)
    def test_a_few_seconds(self):
        self.run_for(6, seed=5)


class RandomLong(Fuzz):
    LONG = True

    @guest.deadline(900)
    def test_ten_minutes(self):
        self.run_for(600, seed=time.time_ns())


if __name__ == "__main__":
    unittest.main()
