# SPDX-License-Identifier: Apache-2.0
"""Upstream's own receiver, ncdevmem, on devmemsim; and ours beside it."""
import subprocess
import tempfile
import unittest

from guest import devmem, nic, shell

NCDEVMEM = "/opt/linux/tools/testing/selftests/drivers/net/hw/ncdevmem"
TOTAL = 20_000_000
VALID = bytes(range(1, 7)) + b"\n"  # what ncdevmem -v 7 expects, over and over


class Ncdevmem(unittest.TestCase):
    def setUp(self):
        self.here, self.there = nic.pair(self, queues=8)

    def test_receives_20_mb_validated(self):
        command = [NCDEVMEM, "-L", "-l", "-f", self.here.name, "-s", self.here.v4, "-p", "5201", "-v", "7", "-t", "7", "-q", "1"]
        with tempfile.TemporaryFile("w+") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as server:
            self.addCleanup(server.kill)
            shell.until(lambda: "5201" in shell.run("ss -ltnH").stdout or server.poll() is not None, "ncdevmem listening")
            if server.poll() is None:
                self.send()
            status = server.wait(timeout=40)
            output.seek(0)
            said = output.read()[-2000:]
        self.assertEqual(0, status, said)
        self.assertIn(f"total_received={TOTAL}", said)

    def send(self):
        with nic.namespace(self.there.netns):
            sock = devmem.socket.create_connection((self.here.v4, 5201), 10)
        with sock:
            whole, rest = divmod(TOTAL, len(VALID))
            sock.sendall(VALID * whole + VALID[:rest])

    def test_our_receiver_gets_the_same(self):
        with devmem.bound(self.here, queues=[7], size=64 << 20) as memory:
            received = devmem.transfer(self, self.here, self.there, memory, TOTAL)
        self.assertEqual(TOTAL, received.device)
        self.assertEqual({memory.id}, received.dmabufs)
