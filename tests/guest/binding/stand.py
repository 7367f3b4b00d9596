# SPDX-License-Identifier: Apache-2.0
"""What the tests of bindings by handle stand on: a NIC that is ready for one, memory, and processes that hold handles."""
import array
import contextlib
import os
import select
import signal
import socket
import traceback
import unittest

import guest
from guest import Bad, devmem, ethtool, handle, netdev, nic, patience, shell

QUEUES, BOUND = 4, 3
THRESHOLD = guest.kernel() >= (6, 14)


def rss(here):
    """How many entries of the RSS table lead to each queue, and whether in turns: short enough to be read."""
    table = ethtool.rss(here)["rss-indirection-table"]
    return {queue: table.count(queue) for queue in sorted(set(table))}, table == [i % (max(table) + 1) for i in range(len(table))]


def settings(here):
    """What a binding must leave as it found it, as upstream's tools tell it."""
    rings = ethtool.rings(here)
    return {"split": rings.get("tcp-data-split"), "threshold": rings.get("hds-thresh"), "rules": ethtool.locations(here),
            "rss": rss(here), "dmabufs": [queue.get("dmabuf") for queue in netdev.queues(here.ifindex)]}


class Process:
    """A forked process that does what it is told, one call at a time: process.do(function, *arguments) returns what the function
    returned, file descriptors among it replaced by ours. It shares memory with nobody."""

    def __init__(self, test):
        self.port, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self.port.close()
            _serve(theirs)
        theirs.close()
        test.addCleanup(self.kill)

    def do(self, function, *arguments, fds=()):
        """`fds` go along, and are the function's last arguments."""
        _FUNCTIONS[function.__name__] = function
        socket.send_fds(self.port, [repr((function.__name__, arguments)).encode()], list(fds))
        if not select.select([self.port], [], [], 60 * patience())[0]:
            raise Bad(f"no end of {function.__name__} in another process")
        data, given, _, _ = socket.recv_fds(self.port, 1 << 16, 16)
        if not data:
            raise Bad(f"the process died in {function.__name__}")
        kind, value = eval(data)  # pylint: disable=eval-used
        if kind == "refused":
            raise handle.Refused(*value)
        if kind == "failed":
            raise Bad(value)
        return (value, *given) if given else value

    def kill(self):
        """By SIGKILL. What it held is released when this returns. May be called twice."""
        if self.pid is None:
            return
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = None
        self.port.close()


_FUNCTIONS = {}


def told(function):
    """Decorates what a Process can do: it must exist before the fork. It may return (value, [file descriptors])."""
    _FUNCTIONS[function.__name__] = function
    return function


def _serve(port):
    try:
        netdev.renew()
        while True:
            data, given, _, _ = socket.recv_fds(port, 1 << 16, 16)
            if not data:
                os._exit(0)
            name, arguments = eval(data)  # pylint: disable=eval-used
            fds = []
            try:
                answer = "done", _FUNCTIONS[name](*arguments, *given)
                if isinstance(answer[1], tuple):
                    answer, fds = ("done", answer[1][0]), answer[1][1]
            except handle.Refused as e:
                answer = "refused", (e.errno, e.strerror)
            except Exception:  # pylint: disable=broad-except
                answer = "failed", traceback.format_exc()
            port.sendmsg([repr(answer).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
    finally:
        os._exit(1)


@told
def create(ifindex, queues, more, buffer):
    """Makes a handle and keeps it; a copy goes back with (id, dma-buf id)."""
    made = handle.Handle.create(ifindex, buffer, queues, **more)
    KEPT.append(made)
    return (made.id, made.dmabuf), [made.fd]


@told
def add_rule(queue, match, fd):
    """On a handle that is closed again."""
    try:
        return handle.Handle(fd).add(queue, **match)
    finally:
        os.close(fd)


@told
def keep(fd):
    KEPT.append(handle.Handle(fd))


@told
def drop():
    """Closes what was kept."""
    while KEPT:
        KEPT.pop().close()


@told
def unprivileged():
    """Gives up everything, for good: an ordinary user's process."""
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)


KEPT = []


class Case(unittest.TestCase):
    maxDiff = None
    PERSONALITY = "none"

    def setUp(self):
        self.here, self.there = nic.pair(self, queues=QUEUES, personality=self.PERSONALITY)
        handle.load(self)
        self.before = settings(self.here)

    def ready(self, queues=BOUND, **more):
        """Header split on and RSS away from the last queue, as a creator does it. Returns what he tells the module of that."""
        if self.PERSONALITY == "mlx5":
            ethtool.feature(self.here, "rx-gro-hw", True)
        ethtool.header_split(self.here, True, 0 if THRESHOLD else None)
        ethtool.rss_equal(self.here, queues)
        return {"reset": handle.RSS | handle.SPLIT, "split_before": 1 if self.before["split"] == "disabled" else 0, **more}

    def buffer(self, size=4 << 20):
        made = devmem.Udmabuf(size)
        self.addCleanup(made.close)
        return made

    def create(self, queues=(BOUND,), buffer=None, **more):
        made = handle.Handle.create(self.here.ifindex, (buffer or self.buffer()).fd, list(queues), **more)
        self.addCleanup(made.close)
        return made

    def refused(self, code, call, *args, saying=None, **more):
        """The kernel's words in refusing."""
        with self.assertRaises(handle.Refused) as caught:
            call(*args, **more)
        words = caught.exception.strerror
        self.assertEqual(code, caught.exception.errno, words)
        if saying is not None:
            self.assertIn(saying, words)
        return words

    def rings_back(self, after):
        """`after` with what this kernel's module cannot put back taken from before."""
        return after if handle.RESETS_RSS else {**after, "rss": self.before["rss"]}

    def nothing_left(self):
        """All as before setUp's end: nothing held, nothing bound, no rule."""
        self.assertEqual([], handle.held())
        self.assertEqual(self.before, self.rings_back(settings(self.here)))

    def transfer(self, memory, port, total=1 << 20):
        """Sends `total` bytes to a port that a rule of the handle's steers; all of it must arrive in device memory."""
        with devmem.listen(self.here, port) as listener:
            out = devmem.connect(self.there, listener)
            listener.settimeout(10 * patience())
            into = listener.accept()[0]
        with out, into:
            sender = devmem.Sender(out, total)
            received = devmem.receive_all(into, memory, total)
            sender.join()
        self.assertIsNone(received.first_difference, received)
        self.assertEqual(total, received.device, received)
        return received

    @contextlib.contextmanager
    def events(self):
        listening = handle.Events()
        try:
            yield listening
        finally:
            listening.close()

    def await_gone(self, made):
        ready = select.select([made.fd], [], [], 10 * patience())[0]
        self.assertEqual([made.fd], ready, "poll() does not tell of the device's end")

    def until(self, condition, what):
        return shell.until(condition, what)
