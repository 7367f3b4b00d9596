# SPDX-License-Identifier: Apache-2.0
"""Upstream's own selftests of network drivers on devmemsim: one test a script, on a freshly loaded module.

Quick is what every run of ./dev test has time for, Long the rest; together they run every case of every script named here once.
"""
import unittest

import guest
import selftest

DEVMEM_QUICK = ["check_rx", "check_tx", "check_tx_chunks"]


class Quick(unittest.TestCase):
    deadline = 900  # of the guest's clock; the host waits as long, and a little more

    def test_devmem(self):
        selftest.run(self, "hw/devmem.py", only=DEVMEM_QUICK)

    # The server has 1,024 completions for 2 MiB, and gives up when they do not suffice: one for each packet's fragment is too many
    # once it lags behind the sender. Hardware GRO gives it few, large fragments.
    def test_iou_zcrx(self):
        selftest.run(self, "hw/iou-zcrx.py", gro_hw=True)

    def test_rss_api(self):
        selftest.run(self, "hw/rss_api.py")

    def test_csum(self):
        selftest.run(self, "hw/csum.py")

    # It sends frames one by one and wants every two of a flow merged: the NIC has to wait for them.
    def test_gro_hw(self):
        selftest.run(self, "hw/gro_hw.py", usecs=200_000)

    def test_hds(self):
        selftest.run(self, "hds.py")

    def test_queues(self):
        selftest.run(self, "queues.py")

    def test_napi_id(self):
        selftest.run(self, "napi_id.py")


class Long(unittest.TestCase):
    LONG = True
    deadline = 900

    def test_devmem_sizes(self):
        selftest.run(self, "hw/devmem.py", but=DEVMEM_QUICK)

    def test_nk_qlease(self):
        selftest.run(self, "hw/nk_qlease.py", gro_hw=True)

    def test_nk_devmem(self):
        selftest.run(self, "hw/nk_devmem.py")

    def test_userns_devmem(self):
        selftest.run(self, "hw/userns_devmem.py")

    def test_ntuple(self):
        selftest.run(self, "hw/ntuple.py")

    def test_rss_ctx(self):
        selftest.run(self, "hw/rss_ctx.py", but=["test_rss_context32"], queues=10, channels=8)

    @guest.deadline(1800)
    def test_rss_ctx_32(self):
        selftest.run(self, "hw/rss_ctx.py", only=["test_rss_context32"], queues=66, channels=8)

    def test_tso(self):
        selftest.run(self, "hw/tso.py")

    def test_toeplitz(self):
        selftest.run(self, "hw/toeplitz.py")

    def test_stats(self):
        selftest.run(self, "stats.py")

    def test_ring_reconfig(self):
        selftest.run(self, "ring_reconfig.py", but=["reconfig_tx_stall"])

    # It wants a full Tx ring, which only a slow link partner brings about.
    def test_ring_reconfig_stall(self):
        selftest.run(self, "ring_reconfig.py", only=["reconfig_tx_stall"], peer_usecs=400_000)
