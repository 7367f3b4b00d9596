# SPDX-License-Identifier: Apache-2.0
"""A successor that hangs, for as long as it is given."""
import signal
import unittest

import harness
import trainer
from harness import BIN, SLOW, wait_for
from service_manager_test import Manager

GIVEN = 120  # seconds: service/cli/successor_starter.cc


class SuccessorSoak(harness.TestCase):
    def test_successor_that_hangs(self):
        """It is ended, which is said, and the next one takes over; until then another signal starts none."""
        program = self.work / "devmem-loaderd"
        program.write_text("#!/bin/sh\nexec sleep 1000\n")
        program.chmod(0o755)
        manager = Manager(self)
        program.rename(self.work / "hangs")
        program.symlink_to(BIN / "devmem-loaderd")
        daemon = manager.start(self, binary=program)
        manager.said("READY=1")
        program.unlink()
        (self.work / "hangs").rename(program)
        daemon.kill(signal.SIGUSR2)
        manager.said("RELOADING=1")
        daemon.kill(signal.SIGUSR2)
        wait_for(lambda: "is under way already" in daemon.stderr(), 20 * SLOW, "a second signal is answered")
        wait_for(lambda: "without having taken over" in daemon.stderr(), (GIVEN + 60) * SLOW, "the successor is ended")
        self.assertIn(f"has not taken over in {GIVEN} s", daemon.stderr())
        manager.said("READY=1", "STATUS=serving.*")
        with trainer.Trainer(manager.path) as observer:
            self.assertEqual(observer.status().pid, daemon.pid)
        program.unlink()
        program.symlink_to(BIN / "devmem-loaderd")
        daemon.kill(signal.SIGUSR2)
        manager.said(r"MAINPID=\d+")


if __name__ == "__main__":
    unittest.main()
