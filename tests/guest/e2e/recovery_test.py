# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed at twenty points of its life. Each time the next one puts the NIC back first, and says so; the trainer goes on
where it was."""
import time

import guest
from guest import dataset, handle, product, shell

from stand import DEVMEM, QUEUE, UNHURRIED, Endless, Stand, bound_queues, state

STARTING, STREAMING = 10, 10


def cpu(pid):
    """Seconds of CPU a process has had: where it stands in its start, however busy the machine is."""
    return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)


class Killed(Stand):
    LONG = True
    deadline = 500

    def start(self, path, ready=True):
        return product.daemon(self, *DEVMEM, path=path, ready=ready)

    def unbound(self):
        """After a daemon was killed that may have had the NIC; what it left."""
        shell.until(lambda: not bound_queues(self.here), "the kernel took the binding of a process that is gone")
        return state(self.here)

    def test_at_its_start(self):
        path = str(self.work / "loader.sock")
        seconds = []
        for _ in range(2):  # the first has everything to fetch into memory, and would be no measure for the others
            whole = self.start(path)
            seconds.append(cpu(whole.pid))
            whole.end()
            self.assert_as_found()
        seen = []
        for point in range(STARTING):
            daemon = self.start(path, ready=False)
            wanted = min(seconds) * point / (STARTING - 1) if point < STARTING - 1 else float("inf")  # the last one serves
            # Where it needs less this time, it is killed when it serves.
            shell.until(lambda: not daemon.running() or cpu(daemon.pid) >= wanted or daemon.listens(), "it has come so far", every=0.001)  # pylint: disable=cell-var-from-loop
            changed = bool(bound_queues(self.here))
            daemon.kill()
            seen.append(self.unbound() != self.found or changed)
        self.assertIn(True, seen, "never killed with the NIC changed")
        last = self.start(path)
        self.assertEqual([QUEUE], list(bound_queues(self.here)))
        last.end()
        self.assert_as_found()

    def test_while_it_streams(self):
        rows = dataset.raw(self.bucket, samples=192)
        server = self.serve(extra=UNHURRIED)
        path = str(self.work / "loader.sock")
        daemon = self.start(path)
        trainer = Endless(self, daemon, server.url, rows)
        for point in range(STREAMING):
            trainer.more(20 + 17 * point)
            daemon.kill()
            self.left(self.unbound())
            daemon = trainer.daemon = self.start(path)
            self.assertIn("after a daemon that was killed", daemon.stderr())
        trainer.more()
        summary = trainer.stop()
        self.assertEqual("devmem", summary["path"], summary)
        self.assertGreaterEqual(summary["reconnects"], STREAMING)
        self.assertEqual(0, self.devmem(daemon)["counters"]["host_bytes"])
        daemon.end()
        self.assert_as_found()

    def left(self, now):
        self.assertNotEqual(self.found, now, "the kernel puts back neither RSS nor header split")

    @guest.deadline(200)
    def test_then_without_its_nic(self):
        """A daemon that is not to use the NIC puts it back all the same."""
        path = str(self.work / "loader.sock")
        self.start(path).kill()
        self.unbound()
        product.daemon(self, "--transport", "copy", path=path).end()
        self.assert_as_found()


class KilledByHandle(Killed):
    """With devmem_binding: the kernel puts the NIC back at once, and the next start finds it so."""

    def setUp(self):
        handle.load(self)
        super().setUp()

    def start(self, path, ready=True):
        daemon = super().start(path, ready)
        if ready:
            self.assertEqual(1, len(handle.held()), "it binds by a handle")
            self.assertIn("bound by a handle", daemon.stderr())
        return daemon

    def unbound(self):
        super().unbound()
        shell.until(lambda: not handle.held(), "no handle is held")
        return state(self.here)

    def left(self, now):
        # 6.12 has no netlink to reset RSS with. A page pool goes a second after its last buffer, which may wait for other traffic.
        changed = {name for name in now if now[name] != self.found[name]} - {"bindings"}
        self.assertEqual(set() if handle.RESETS_RSS else {"RSS"}, changed)
