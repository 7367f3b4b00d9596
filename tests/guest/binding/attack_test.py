# SPDX-License-Identifier: Apache-2.0
"""Whatever may be tried: refused with words, and nothing left behind."""
import contextlib
import ctypes
import errno
import fcntl
import os
import select
import socket
import threading
import unittest

import guest
from guest import devmem, ethtool, handle, knobs, modules, netdev, nic, shell
from stand import BOUND, QUEUES, Case, Process, add_rule, create, keep, told, unprivileged

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
TOTAL = 256 << 10
_libc = ctypes.CDLL(None, use_errno=True)


@told
def create_refused(ifindex, queues, buffer, device):
    handle.Handle.create(ifindex, buffer, queues, device=device).close()


@told
def own_namespaces():
    """A user namespace whose root we are, and a network namespace that belongs to it."""
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")


@told
def fork_holders(count):
    """Processes that hold what this one holds, and end when it does."""
    here, there = os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            os.close(there)
            os.read(here, 1)  # until the last writer is gone
            os._exit(0)


@told
def info(fd):
    try:
        return handle.Handle(fd).info()["id"]
    finally:
        os.close(fd)


class Refused(Case):
    """One after another on one NIC: what is refused must leave nothing."""

    def refused_to_create(self, code, saying, queues=(BOUND,), fd=None, **more):
        with self.subTest(saying):
            buffer = self.buffer(1 << 20)
            words = self.refused(code, handle.Handle.create, self.here.ifindex, buffer.fd if fd is None else fd, list(queues), saying=saying,
                                 **more)
            self.assertEqual([], handle.held())
            self.assertEqual([None] * QUEUES, [queue.get("dmabuf") for queue in netdev.queues(self.here.ifindex)])
            return words

    def test_arguments(self):
        self.ready()
        for code, saying, more in (
                (errno.EINVAL, "0 queues", {"queues": ()}),
                (errno.EINVAL, "257 queues", {"queues": range(257)}),
                (errno.EINVAL, "queue 3 is named twice", {"queues": (3, 2, 3)}),
                (errno.EINVAL, "reset 0x8", {"reset": 8}),
                (errno.EINVAL, "split_before 3", {"split_before": 3}),
                (errno.EINVAL, "rx_page_size 5000", {"rx_page_size": 5000}),
                (errno.EINVAL, "rx_page_size 2048", {"rx_page_size": 2048})):
            self.refused_to_create(code, saying, **more)
        self.refused(errno.ENODEV, handle.Handle.create, 4000, self.buffer(1 << 20).fd, [BOUND], saying="number 4000")
        self.refused(errno.EOPNOTSUPP, handle.Handle.create, 1, self.buffer(1 << 20).fd, [BOUND], saying="lo: its driver cannot")
        device = os.open(handle.DEVICE, os.O_RDWR)
        try:
            for command in (handle.IOC_CREATE, handle.IOC_INFO, handle.IOC_RULE_ADD, 0x5401):
                argument = bytearray(handle.CREATE.size)
                with self.assertRaises(OSError) as caught:
                    fcntl.ioctl(device, command, argument)
                self.assertIn(caught.exception.errno, (errno.EINVAL, errno.ENOTTY))
        finally:
            os.close(device)
        self.bad_addresses()

    def bad_addresses(self):
        """Pointers that lead nowhere, after which nothing may be bound."""
        buffer = self.buffer(1 << 20)
        queues = (ctypes.c_uint32 * 1)(BOUND)
        device = os.open(handle.DEVICE, os.O_RDWR)
        try:
            for queue_list, room in ((8, 0), (ctypes.addressof(queues), 8)):
                argument = bytearray(handle.CREATE.pack(self.here.ifindex, buffer.fd, 0, 0, queue_list, 1, 0, 0, 256 if room else 0, room, 0, 0,
                                                        0, 0))
                with self.assertRaises(OSError) as caught:
                    fcntl.ioctl(device, handle.IOC_CREATE, argument)
                self.assertEqual(errno.EFAULT, caught.exception.errno)
        finally:
            os.close(device)
        self.assertEqual([], handle.held())

    def test_memory(self):
        self.ready()
        with open("/dev/zero", "rb") as zero:
            self.refused_to_create(errno.EINVAL, "a dma-buf", fd=zero.fileno())
        self.refused_to_create(errno.EBADF, "a dma-buf", fd=1 << 20)
        if guest.kernel() >= (6, 20):
            odd = self.buffer((1 << 20) + 4096)  # whatever pages it got: its last piece ends amid 64 KiB
            self.refused_to_create(errno.EINVAL, "not aligned", fd=odd.fd, rx_page_size=64 << 10)

    def test_queues(self):
        ethtool.rss_equal(self.here, BOUND)
        if guest.kernel() >= (6, 14):  # before, the driver alone decided
            self.refused_to_create(errno.EINVAL, "tcp-data-split")
        self.ready()
        self.refused_to_create(errno.EBUSY, "RSS table 0 leads to it", queues=(0,))
        self.refused_to_create(errno.EBUSY, "queue 2: RSS table", queues=(BOUND, 2))
        self.refused_to_create(errno.EINVAL if guest.kernel() >= (7, 0) else errno.ERANGE, "", queues=(QUEUES,))
        ethtool.rss_equal(self.here, 1)
        place = ethtool.steer(self.here, 2, dst_port=99)
        self.refused_to_create(errno.EBUSY, f"rule {place} steers to queue 2", queues=(2,))
        ethtool.run("context new start 1 equal 2", self.here, "-X")
        self.refused_to_create(errno.EBUSY, "RSS context 1", queues=(1,))
        with netdev.Binding(self.here.ifindex, self.buffer().fd, [BOUND]):
            self.refused(errno.EEXIST, handle.Handle.create, self.here.ifindex, self.buffer().fd, [BOUND], saying="already")
        made = self.create()
        self.refused(errno.EEXIST, handle.Handle.create, self.here.ifindex, self.buffer().fd, [BOUND], saying="already")
        self.assertEqual([made.id], [each["id"] for each in handle.held()])

    def test_rules(self):
        made = self.create(**self.ready())
        first = made.add(BOUND, dst=(self.here.v4, 40000))
        theirs = ethtool.steer(self.here, 1, "tcp4", dst_ip=self.here.v4, dst_port=40001)
        for code, saying, queue, match in (
                (errno.EINVAL, "queue 2 is none of this binding's", 2, {"dst": (self.here.v4, 1)}),
                (errno.EINVAL, "queue 4000", 4000, {"dst": (self.here.v4, 1)}),
                (errno.EEXIST, f"rule {first} matches the same flow", BOUND, {"dst": (self.here.v4, 40000)}),
                (errno.EEXIST, f"rule {theirs} matches the same flow, and steers it to queue 1", BOUND, {"dst": (self.here.v4, 40001)}),
                (errno.EINVAL, "every flow", BOUND, {}),
                (errno.EINVAL, "protocol 1:", BOUND, {"dst": (self.here.v4, 1), "protocol": 1})):
            with self.subTest(saying):
                self.refused(code, made.add, queue, saying=saying, **match)
        self.refused(errno.ENOENT, made.delete, theirs, saying="no rule at")
        self.refused(errno.ENOENT, made.delete, 0xFFFFFFFF, saying="no rule at")
        knobs.ROOT.joinpath("pair0-a/refuse_rules").write_text("1", encoding="ascii")
        self.refused(errno.EIO, made.add, BOUND, dst=(self.here.v4, 1), saying="refused the rule")
        self.assertEqual(sorted([first, theirs]), ethtool.locations(self.here))
        self.assertEqual(1, made.info()["rule-count"])
        made.close()
        self.assertEqual([theirs], ethtool.locations(self.here))

    def test_without_rights(self):
        plain, buffer = Process(self), self.buffer()  # forked before there is a handle that it would hold too
        plain.do(unprivileged)
        made = self.create(**self.ready())
        fd = made.fd
        opened = os.open(handle.DEVICE, os.O_RDWR)
        self.addCleanup(os.close, opened)
        with self.subTest("a handle that was passed on"):
            self.assertEqual(made.id, plain.do(info, fds=[fd]))
            self.refused(errno.EPERM, plain.do, add_rule, BOUND, {"dst": (self.here.v4, 1)}, fds=[fd], saying="CAP_NET_ADMIN")
        made.close()
        with self.subTest("a device that root opened"):
            self.refused(errno.EPERM, plain.do, create_refused, self.here.ifindex, [BOUND], fds=[buffer.fd, opened], saying="CAP_NET_ADMIN")
        self.refused(errno.EPERM, plain.do, create, self.here.ifindex, [BOUND], {}, fds=[buffer.fd], saying="CAP_NET_ADMIN")
        with self.subTest("root of a namespace of its own"):
            contained = Process(self)
            contained.do(own_namespaces)
            self.refused(errno.ENODEV, contained.do, create, self.here.ifindex, [BOUND], {}, fds=[buffer.fd], saying="your network namespace")
        self.assertEqual([], handle.held())

    def test_a_foreign_namespace(self):
        """Holding a handle says nothing about one's own namespace."""
        made = self.create(**self.ready())
        ifindex = self.here.ifindex
        contained = Process(self)
        contained.do(own_namespaces)
        self.refused(errno.EPERM, contained.do, add_rule, BOUND, {"dst": (self.here.v4, 1)}, fds=[made.fd], saying="CAP_NET_ADMIN")
        with nic.namespace(self.there.netns):
            netdev.renew()
            self.refused(errno.ENODEV, handle.Handle.create, ifindex, self.buffer().fd, [BOUND], saying="your network namespace")
            there = handle.Events()
            self.assertEqual([], list(there.family.get({}, dump=True)))
            there.close()
        netdev.renew()


class Cycles(Case):
    def cycles(self, real, refused):
        """Makes and closes bindings, and is refused, so often."""
        more = self.ready()
        buffer = self.buffer()
        device = os.open(handle.DEVICE, os.O_RDWR)
        self.addCleanup(os.close, device)
        for _ in range(real):
            made = handle.Handle.create(self.here.ifindex, buffer.fd, [BOUND], device=device)
            made.add(BOUND, dst=(self.here.v4, 1))
            made.close()
        for _ in range(refused):
            with contextlib.suppress(handle.Refused):
                handle.Handle.create(self.here.ifindex, buffer.fd, [0], device=device)
                self.fail("queue 0 was bound")
        self.create(**more).close()
        self.nothing_left()


class Crowd(Cycles):
    def test_holders_fork_and_are_killed(self):
        more = self.ready()
        creator = Process(self)
        number, fd = creator.do(create, self.here.ifindex, [BOUND], more, fds=[self.buffer().fd])
        creator.do(fork_holders, 20)
        os.close(fd)
        creator.kill()
        shell.until(lambda: not handle.held(), "the last of the holders is gone")
        self.nothing_left()
        self.assertGreater(number[0], 0)

    def test_many_times(self):
        self.cycles(real=25, refused=200)

    def test_at_once_from_all_sides(self):
        """Rules, questions and closing from many threads, over one handle and copies of it."""
        made = self.create(**self.ready())
        copies = [handle.Handle(os.dup(made.fd)) for _ in range(6)]
        broken = []

        def work(number, copy):
            try:
                for port in range(15):
                    place = copy.add(BOUND, dst=(self.here.v4, 1000 * number + port + 1))
                    copy.info()
                    if port % 2:
                        copy.delete(place)
            except Exception as e:  # pylint: disable=broad-except
                broken.append(e)
            copy.close()
        made.close()
        threads = [threading.Thread(target=work, args=each) for each in enumerate(copies)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual([], broken)
        self.nothing_left()

    def test_unplugged_in_every_state(self):
        """Device, module and handle go in every order, with and without rules, while somebody creates."""
        more = self.ready()
        for state in ("live", "rules", "creating", "closing"):
            with self.subTest(state):
                if not modules.loaded("devmemsim"):
                    self.here, self.there = nic.up(queues=QUEUES)
                    self.ready()
                buffer, made = self.buffer(), []
                if state != "creating":
                    made.append(handle.Handle.create(self.here.ifindex, buffer.fd, [BOUND], **more))
                if state == "rules":
                    for port in range(20):
                        made[0].add(BOUND, dst=(self.here.v4, port + 1))
                going = threading.Thread(target=nic.down)
                ifindex = self.here.ifindex
                going.start()
                if state == "creating":
                    self.until_gone(ifindex, buffer, made)
                elif state == "closing":
                    made.pop().close()
                going.join(60)
                self.assertFalse(going.is_alive(), "the NIC cannot go")
                for each in made:
                    self.assertTrue(select.select([each.fd], [], [], 10)[0])
                    each.close()
                self.assertEqual([], handle.held())

    def until_gone(self, ifindex, buffer, made):
        """Creates and closes until there is no such device; what was made last is kept."""
        while True:
            try:
                for each in made:
                    each.close()
                made[:] = [handle.Handle.create(ifindex, buffer.fd, [BOUND])]
            except handle.Refused as e:
                self.assertIn(e.errno, (errno.ENODEV, errno.EBUSY, errno.EEXIST, errno.EINVAL, errno.EOPNOTSUPP), e)
                if e.errno == errno.ENODEV:
                    made.clear()
                    return


class CyclesLong(Cycles):
    LONG = True

    @guest.deadline(1800)
    def test_a_hundred_thousand_times(self):
        self.cycles(real=3000, refused=97000)


class Quirks(Case):
    """On a NIC with a driver's quirks."""

    def rules_where_the_driver_wants_them(self):
        buffer = self.buffer()
        made = self.create(buffer=buffer, **self.ready())
        theirs = ethtool.steer(self.here, 1, dst_port=99, **({"location": 1} if self.PERSONALITY == "mlx5" else {}))
        places = [made.add(BOUND, dst=(self.here.v4, port)) for port in (5201, 5202, 5203)]
        self.assertEqual(sorted([theirs, *places]), ethtool.locations(self.here))
        self.transfer(buffer, 5201, TOTAL)
        made.delete(places[1])
        again = made.add(BOUND, dst=(self.here.v4, 5204))
        self.assertNotEqual(theirs, again)
        made.close()
        self.assertEqual([theirs], ethtool.locations(self.here))


class Mlx5(Quirks):
    PERSONALITY = "mlx5"

    def test_rules(self):
        self.rules_where_the_driver_wants_them()

    def test_header_split_goes_off_again(self):
        self.create(**self.ready()).close()
        self.nothing_left()


class Bnxt(Quirks):
    PERSONALITY = "bnxt"

    def test_rules(self):
        self.rules_where_the_driver_wants_them()

    def test_header_split_that_cannot_be_turned_off(self):
        self.ready()
        made = self.create(reset=handle.SPLIT, split_before=1)  # nobody can have read that from this driver, but anybody can say it
        with self.events() as events:
            made.close()
            self.assertEqual("refused", events.next()[1]["split-outcome"])


class Gve(Quirks):
    PERSONALITY = "gve"

    def test_rules(self):
        self.rules_where_the_driver_wants_them()


class Fbnic(Quirks):
    PERSONALITY = "fbnic"

    def test_no_room_for_rules(self):
        made = self.create(**self.ready())
        for port in range(48):
            made.add(BOUND, dst=(self.here.v4, port + 1))
        self.refused(errno.ENOSPC, made.add, BOUND, dst=(self.here.v4, 49), saying="refused the rule")
        self.assertEqual(48, made.info(rule_room=10)["rule-count"])
        made.close()
        self.nothing_left()


if __name__ == "__main__":
    unittest.main()
