# SPDX-License-Identifier: Apache-2.0
"""The whole of it: nginx at one end, daemon and trainers at the other, payload by device-memory TCP, and the counters of NIC and kernel
beside what the daemon says."""
import os
import re

import guest
from guest import dataset, devmem, ethtool, knobs, netdev, product, serve, shell
from guest.nic import Nic

from stand import DEVMEM, NPY, QUEUE, QUICK, RAW, SAMPLE, TOKENS, UNHURRIED, Stand, bound_queues, inflight, rules, state

HEADERS = 14 + 20 + 32  # bytes of a frame that carries TCP over IPv4 with timestamps


class Devmem(Stand):
    deadline = 240

    def assert_zero_copy(self, daemon, summaries):
        """As the daemon tells it; returns its counters."""
        for summary in summaries:
            self.assertEqual("devmem", summary["path"], summary["path_reason"])
            self.assertEqual(0, summary["bytes_copied"], summary)
        told = self.devmem(daemon)
        counters = told["counters"]
        self.assertEqual(sum(summary["bytes_received"] for summary in summaries), counters["device_bytes"], counters)
        for name in ("host_bytes", "linear_bytes", "tokens_outstanding", "tokens_refused", "connections_fallen_back"):
            self.assertEqual(0, counters[name], f"{name}: {counters}")
        for nic in told["nics"]:
            self.assertTrue(nic["intact"], nic)
            self.assertEqual(0, nic["alloc_fail"], nic)
        return counters

    def assert_inflight(self, posted):
        """No buffer is out but those posted, and those the page pool keeps for reuse, which count as in flight too: a recycling ring
        as long as the Rx ring, and a cache of 128 (net/core/page_pool.c)."""
        def back():
            netdev.flush_deferred()
            return inflight(self.here) <= posted + kept
        kept = ethtool.rings(self.here)["rx"] + 128
        shell.until(back, f"{posted} buffers in flight, as just after the bind, and {kept} kept at most")

    def test_npy_pairs_to_two_trainers(self):
        rows = dataset.npy(self.bucket, samples=400)
        server, daemon = self.serve(), self.daemon()
        summaries, digests = self.trainers(daemon, server.url, *NPY)
        self.assert_delivered(rows, digests)
        self.assert_zero_copy(daemon, summaries)
        daemon.end()
        self.assert_as_found()

    def test_safetensors_to_two_trainers_over_ipv6(self):
        rows = dataset.safetensors(self.bucket, samples=1000)
        server, daemon = self.serve(), self.daemon()
        summaries, digests = self.trainers(daemon, server.url6, *TOKENS)
        self.assert_delivered(rows, digests)
        self.assert_zero_copy(daemon, summaries)
        daemon.end()
        self.assert_as_found()

    def test_nic_and_kernel_count_what_the_daemon_counts(self):
        rows = dataset.raw(self.bucket, samples=512)
        server, daemon = self.serve(), self.daemon()
        retransmitted = knobs.tcp("TcpRetransSegs", self.there.netns)
        (nic,) = self.devmem(daemon)["nics"]
        # what is bound, as both tell it
        self.assertEqual({QUEUE: nic["dmabuf_id"]}, bound_queues(self.here))
        self.assertEqual([QUEUE], nic["queues"])
        self.assertEqual("enabled", ethtool.rings(self.here)["tcp-data-split"])
        self.assertNotIn(QUEUE, ethtool.rss(self.here)["rss-indirection-table"])
        posted = inflight(self.here)
        self.assertEqual(posted, nic["posted"])

        summaries, digests = self.trainers(daemon, server.url, *RAW)
        self.assert_delivered(rows, digests)
        counters = self.assert_zero_copy(daemon, summaries)
        # rules: one for each connection it still keeps, all to the bound queue
        planned = rules(self.here)
        self.assertEqual({QUEUE}, set(planned.values()))
        self.assertEqual(len(ethtool.locations(self.here)), len(planned), "rules that are none of its connections'")
        self.assertEqual(counters["connections_steered"], len(planned))
        # nginx sent over those connections what the daemon says it received into device memory, and its heads
        sent = [request for request in server.requests() if request["port"] in planned]
        self.assertEqual(counters["device_bytes"], sum(request["body"] for request in sent))
        self.assertEqual(counters["head_bytes"], sum(request["sent"] - request["body"] for request in sent))
        # and so the NIC received, on that queue: frames less headers are payload, but for what was sent twice and SYN-ACKs' longer headers
        retransmitted = knobs.tcp("TcpRetransSegs", self.there.netns) - retransmitted
        received = knobs.rx(self.here, QUEUE)
        payload = received["bytes"] - received["packets"] * HEADERS
        more = payload - sum(request["sent"] for request in sent)
        self.assertGreaterEqual(more, 0)
        self.assertLessEqual(more, 1460 * retransmitted + 40 * len(planned))
        for name in ("alloc-fail", "hw-drops", "csum-bad"):
            self.assertEqual(0, received[name], received)
        # every buffer came back, with the connections still open
        self.assert_inflight(posted)

        daemon.end()
        self.assertEqual([], netdev.bound_pools(self.here.ifindex))
        self.assert_as_found()

    def test_in_the_cli_alone(self):
        rows = dataset.raw(self.bucket, samples=512)
        digest = self.work / "digest"
        run = product.loader(self, "--bucket", self.serve().url, *RAW, *DEVMEM, "--require-zero-copy", digest=digest).wait(120)
        self.assertEqual(0, run.status, run.text)
        self.assert_delivered(rows, [digest])
        self.assertEqual(("devmem", 0), (run.summary["path"], run.summary["bytes_copied"]))
        self.assertEqual([QUEUE], run.summary["devmem"]["nics"][0]["queues"])
        self.assert_as_found()

    def test_on_every_queue_it_may_have(self):
        rows = dataset.raw(self.bucket, samples=512)
        server, daemon = self.serve(), self.daemon("--queues", "3")
        summaries, digests = self.trainers(daemon, server.url, *RAW)
        self.assert_delivered(rows, digests)
        self.assert_zero_copy(daemon, summaries)
        self.assertEqual({1, 2, 3}, set(bound_queues(self.here)))
        self.assertEqual({1, 2, 3}, set(rules(self.here).values()), "each queue has connections")
        daemon.end()
        self.assert_as_found()

    def test_a_rule_for_each_address(self):
        rows = dataset.raw(self.bucket, samples=512)
        addresses = ["192.0.2.11", "192.0.2.12"]
        for address in addresses:
            self.here.ip(f"addr add {address}/24 dev {self.here.name}")
        server, daemon = self.serve(), self.daemon("--queues", "2", "--steer", "address", "--steer-address", ",".join(addresses))
        self.assertEqual(2, len(ethtool.locations(self.here)), "its rules are made at the start")
        summaries, digests = self.trainers(daemon, server.url, *RAW)
        self.assert_delivered(rows, digests)
        self.assert_zero_copy(daemon, summaries)
        self.assertEqual(2, len(ethtool.locations(self.here)), "and are all it needs")
        daemon.end()
        self.assert_as_found()

    def test_auto_takes_the_nic_it_finds(self):
        rows = dataset.raw(self.bucket, samples=256)
        server, daemon = self.serve(), product.daemon(self, "--queues", "1")
        summaries, digests = self.trainers(daemon, server.url, *RAW)
        self.assert_delivered(rows, digests)
        self.assert_zero_copy(daemon, summaries)
        daemon.end()
        self.assert_as_found()

    def test_what_is_on_another_route_is_copied_and_counted(self):
        rows = dataset.raw(self.bucket, samples=256)
        server, daemon = self.serve(), self.daemon()
        shell.run("modprobe veth")
        shell.run(f"ip link add va type veth peer name vb netns {self.there.netns}")
        self.addCleanup(shell.run, "ip link del va")
        for name, netns, address in (("va", None, "198.51.100.1/24"), ("vb", self.there.netns, "198.51.100.2/24")):
            shell.run(f"ip addr add {address} dev {name}", netns)
            shell.run(f"ip link set {name} up", netns)
        elsewhere = server.url.replace(self.there.v4, "198.51.100.2")
        (server.work / "conf").write_text((server.work / "conf").read_text().replace(f"listen {self.there.v4}:", "listen 0.0.0.0:"))
        server.stop()
        server.start()
        summaries, digests = self.trainers(daemon, elsewhere, *RAW, world=1)
        self.assert_delivered(rows, digests)
        self.assertEqual(summaries[0]["bytes_received"], summaries[0]["bytes_copied"])
        counters = self.devmem(daemon)["counters"]
        self.assertGreater(counters["connections_fallen_back"], 0)
        self.assertIn("va", counters["last_fall_back"])
        run = product.loader(self, "--bucket", elsewhere, *RAW, "--service", daemon.service, "--require-zero-copy").wait(60)
        self.assertEqual(3, run.status, run.text)
        daemon.end()
        self.assert_as_found()


class TwoNics(Stand):
    """A daemon on two NICs, each with a server at its far end."""
    deadline = 280
    PERSONALITY = {"pairs": 2}
    EPOCHS = 12

    def setUp(self):
        super().setUp()
        self.second = Nic("dms2", "192.0.3.1", "2001:db8:1::1")
        self.far = Nic("dms3", "192.0.3.2", "2001:db8:1::2", self.there.netns)
        shell.run(f"ip link set dms3 netns {self.far.netns}")
        for end in (self.second, self.far):
            end.ip(f"addr add {end.v4}/24 dev {end.name}")
            end.ip(f"-6 addr add {end.v6}/64 dev {end.name} nodad")
            end.up()
        shell.until(lambda: self.second.carrier() and self.far.carrier(), "a carrier")

    def on_both(self):
        return product.daemon(self, "--transport", "devmem", "--interface", "dms0,dms2", "--queues", "1", "--connections", "16",
                              "--landing-pool", "48MiB", *QUICK)

    def test_each_has_memory_of_its_own(self):
        rows = dataset.raw(self.bucket, samples=192)
        daemon = self.on_both()
        dmabufs = [*bound_queues(self.here).values(), *bound_queues(self.second).values()]
        self.assertEqual(2, len(set(dmabufs)), dmabufs)
        urls = (self.serve(extra=UNHURRIED).url, serve.nginx(self, self.bucket, self.far, port=8081, extra=UNHURRIED).url)
        digests = [self.work / f"nic{number}" for number in range(2)]
        runs = [product.loader(self, "--bucket", url, *RAW, "--service", daemon.service, "--epochs", self.EPOCHS, "--prefetch", "2MiB", digest=digest)
                for url, digest in zip(urls, digests)]
        for run, digest in zip([each.wait(150) for each in runs], digests):
            self.assertEqual(0, run.status, f"{run.text}\ndaemon: {daemon.stderr()[-3000:]}")
            self.assertEqual(("devmem", 0), (run.summary["path"], run.summary["bytes_copied"]), run.summary)
            self.assert_delivered(rows, [digest], self.EPOCHS)
        told = self.devmem(daemon)
        self.assertEqual(2 * (48 << 20), told["landing_pool_bytes"])
        for bound in told["nics"]:
            self.assertGreater(bound["packets"], 0, bound)
        daemon.end()
        self.assert_as_found()

    def test_one_without_its_binding_is_no_matter_to_the_other(self):
        rows = dataset.raw(self.bucket, samples=192)
        daemon = self.on_both()
        for said in ("bound dms2 again", "dms2 are not bound: .*given up"):
            ethtool.rss_default(self.second)
            shell.until(lambda: re.search(said, daemon.stderr()), said)  # pylint: disable=cell-var-from-loop
        ways = []
        for url in (self.serve().url, serve.nginx(self, self.bucket, self.far, port=8081).url):
            (summary,), digests = self.trainers(daemon, url, *RAW, world=1)
            self.assert_delivered(rows, digests)
            ways.append(summary["bytes_copied"] / summary["bytes_received"])
        self.assertEqual([0, 1], ways, "of dms0 and of dms2, what was copied")
        self.assertIn("dms2", self.devmem(daemon)["counters"]["last_fall_back"])
        daemon.end()
        self.assert_as_found()


class Refused(Stand):
    """What a node lacks is said, and nothing is left half done."""
    deadline = 120

    def test_without_such_a_nic(self):
        daemon = product.daemon(self, "--interface", "lo", *DEVMEM[:2], ready=False)
        run = daemon.wait(40)
        self.assertEqual(1, run.status, run.text)
        self.assertRegex(run.text, r"\blo\b")
        self.assert_as_found()

    def test_auto_falls_back_and_says_why(self):
        rows = dataset.raw(self.bucket, samples=64)
        daemon = product.daemon(self, "--interface", "lo")
        summaries, digests = self.trainers(daemon, self.serve().url, *RAW, world=1)
        self.assert_delivered(rows, digests)
        self.assertEqual("copy", summaries[0]["path"])
        self.assertRegex(summaries[0]["path_reason"], r"\blo\b")
        run = product.loader(self, "--bucket", self.serve(port=8081).url, *RAW, "--service", daemon.service, "--require-zero-copy").wait(60)
        self.assertEqual(3, run.status, run.text)
        self.assert_as_found()

    def test_queues_that_others_have_bound(self):
        with devmem.bound(self.here, [1, 2, 3]):
            before = state(self.here)
            said = self.refused()
            self.assertRegex(said, r"dms0.*others")
            self.assertEqual(before, state(self.here))
        self.assert_as_found()

    def test_it_takes_what_others_left(self):
        rows = dataset.raw(self.bucket, samples=256)
        with devmem.bound(self.here, [QUEUE]):
            before, theirs = state(self.here), bound_queues(self.here)
            server, daemon = self.serve(), self.daemon()
            _, digests = self.trainers(daemon, server.url, *RAW, world=1)
            self.assert_delivered(rows, digests)
            self.assertEqual({2, QUEUE}, set(bound_queues(self.here)))
            self.assertEqual(theirs[QUEUE], bound_queues(self.here)[QUEUE])
            daemon.end()
            shell.until(lambda: state(self.here) == before, f"the NIC as the other owner left it: {before}")
        self.assert_as_found()

    def test_without_the_right_to(self):
        words = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
        daemon = product.daemon(self, *DEVMEM, ready=False, prefix=words)
        run = daemon.wait(40)
        self.assertEqual(1, run.status, run.text)
        self.assertIn("CAP_NET_ADMIN", run.text)
        self.assert_as_found()

    def test_a_pool_that_is_too_small_is_told_the_least(self):
        said = self.refused("--landing-pool", "4096")
        self.assertRegex(said, r"(?i)at least|smallest|least")
        self.assert_as_found()


class HeaderSplit(Stand):
    PERSONALITY = {"personality": "mlx5"}
    deadline = 120

    def test_refused_by_the_driver(self):
        ethtool.feature(self.here, "rx", False)  # without checksums no hardware GRO, without that no header split
        self.found = state(self.here)
        self.assertRegex(self.refused(), "rx-gro-hw|tcp-data-split|header split")
        self.assert_as_found()

    def test_with_what_the_driver_wants_first(self):
        rows = dataset.raw(self.bucket, samples=256)
        server, daemon = self.serve(), self.daemon()
        summaries, digests = self.trainers(daemon, server.url, *RAW, world=1)
        self.assert_delivered(rows, digests)
        self.assertEqual(0, summaries[0]["bytes_copied"])
        daemon.end()
        self.assert_as_found()
