# SPDX-License-Identifier: Apache-2.0
"""The harness's own promises, seen from inside the guest."""
import os
import pathlib
import unittest

import guest
from guest import shell


class Guest(unittest.TestCase):
    def test_two_namespaces_can_talk(self):
        shell.run("modprobe veth")
        shell.run("ip netns add peer")
        shell.run("ip link add va type veth peer name vb netns peer")
        self.addCleanup(shell.run, "ip link del va")
        for name, netns, address in (("va", None, "192.0.2.1/24"), ("vb", "peer", "192.0.2.2/24")):
            shell.run(f"ip addr add {address} dev {name}", netns)
            shell.run(f"ip link set {name} up", netns)
        self.assertIn("1 received", shell.run("ping -c 1 -W 5 192.0.2.2").stdout)

    def test_has_what_tests_need(self):
        for tool in ("ethtool", "ip", "tc", "socat", "iperf3", "rmmod"):
            self.assertEqual(0, os.system(f"command -v {tool} >/dev/null"), tool)
        self.assertTrue(pathlib.Path("/dev/udmabuf").exists())
        self.assertEqual("64", pathlib.Path("/proc/sys/vm/nr_hugepages").read_text().strip())
        self.assertGreaterEqual(guest.kernel(), (6, 12))
