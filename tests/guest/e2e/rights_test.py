# SPDX-License-Identifier: Apache-2.0
"""The devmem path with the rights that deploy/kubernetes gives it, and no others: root with CAP_NET_ADMIN, no_new_privs, and a seccomp
profile that here kills the process for a call it does not name."""
import pathlib
import sys

from guest import confined, dataset, handle, product, shell

from stand import DEVMEM, NPY, Stand

PROFILE = "/payload/seccomp/devmem-loaderd.json"
CONFINED = (sys.executable, confined.__file__, PROFILE, "NET_ADMIN")
NET_ADMIN = 1 << 12


class Rights(Stand):
    deadline = 240

    def confined(self, *flags, **more):
        return product.daemon(self, *DEVMEM, *flags, prefix=CONFINED, **more)

    def assert_confined(self, daemon):
        status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{daemon.pid}/status").read_text(encoding="utf-8").splitlines())
        for kind in ("CapPrm", "CapEff", "CapBnd"):
            self.assertEqual(NET_ADMIN, int(status[kind], 16), kind)
        self.assertEqual(("1", "2"), (status["NoNewPrivs"].strip(), status["Seccomp"].strip()))

    def assert_zero_copy(self, daemon, rows):
        summaries, digests = self.trainers(daemon, self.serve().url, *NPY)
        self.assert_delivered(rows, digests)
        for summary in summaries:
            self.assertEqual(("devmem", 0), (summary["path"], summary["bytes_copied"]), summary["path_reason"])

    def test_streams_with_net_admin_alone(self):
        rows = dataset.npy(self.bucket, samples=200)
        daemon = self.confined()
        self.assert_confined(daemon)
        self.assert_zero_copy(daemon, rows)
        daemon.end()
        self.assert_as_found()

    def hand_over(self):
        """From one confined daemon to another; then one that is killed, and one that puts the NIC back."""
        path = str(self.work / "loader.sock")
        rows = dataset.npy(self.bucket, samples=200)
        first = self.confined("--when-succeeded", "wait", path=path)
        second = self.confined("--take-over", path=path, ready=False)
        shell.until(lambda: "taken over from version" in second.stderr() or not second.running(), "the successor serves", 60)
        self.assertIn("taken over from version", second.stderr(), first.stderr())
        shell.until(lambda: "holding nothing any more" in first.stderr(), "the old one waits for its end", 30)
        first.end()
        self.assert_zero_copy(second, rows)
        second.kill()
        third = self.confined(path=path)
        self.assert_zero_copy(third, rows)
        third.end()
        self.assert_as_found()

    def test_hands_over_and_recovers(self):
        self.hand_over()

    def test_hands_over_and_recovers_by_handle(self):
        handle.load(self)
        self.hand_over()
