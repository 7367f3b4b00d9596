# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed at twenty points of its life. Each time the next one puts the NIC back first, and says so; the trainer goes on
where it was."""
import time

import guest
from guest import dataset, product, shell

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
        shell.until(lambda: not bound_queues(self.here), "the kernel took the binding of a process that is gone")

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
            wanted = min(seconds) * point / (STARTING - 1)
            # Where it needs less this time, it is killed when it serves.
            shell.until(lambda: not daemon.running() or cpu(daemon.pid) >= wanted or daemon.listens(), "it has come so far", every=0.001)  # pylint: disable=cell-var-from-loop
            daemon.kill()
            self.unbound()
            seen.append(state(self.here) != self.found)
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
            self.unbound()
            self.assertNotEqual(self.found, state(self.here), "the kernel puts back neither RSS nor header split")
            daemon = trainer.daemon = self.start(path)
            self.assertIn("after a daemon that was killed", daemon.stderr())
        trainer.more()
        summary = trainer.stop()
        self.assertEqual("devmem", summary["path"], summary)
        self.assertGreaterEqual(summary["reconnects"], STREAMING)
        self.assertEqual(0, self.devmem(daemon)["counters"]["host_bytes"])
        daemon.end()
        self.assert_as_found()

    @guest.deadline(200)
    def test_then_without_its_nic(self):
        """A daemon that is not to use the NIC puts it back all the same."""
        path = str(self.work / "loader.sock")
        self.start(path).kill()
        self.unbound()
        product.daemon(self, "--transport", "copy", path=path).end()
        self.assert_as_found()
