# SPDX-License-Identifier: Apache-2.0
"""What may happen to a NIC, a wire or a server under a live stream: nothing is lost, nothing comes twice, the NIC ends as it was
found, and what an operator should know is said. A trainer reads without end meanwhile (stand.Endless); a fault strikes when it has
been given samples, and it has to be given more afterwards."""
import re
import unittest

import guest
from guest import Bad, dataset, ethtool, knobs, modules, netdev, nic, product, shell

from stand import DEVMEM, QUEUE, RAW, SAMPLE, Endless, Stand, bound_queues, inflight, rules, state


class Live(Stand):
    """A daemon on one queue, and a trainer that reads from it."""
    deadline = 240
    SAMPLES = 512

    def live(self, *flags):
        self.rows = dataset.raw(self.bucket, samples=self.SAMPLES)
        self.server = self.serve()
        self.served = self.daemon(*flags)
        self.trainer = Endless(self, self.served, self.server.url, self.rows)
        self.trainer.more()

    def finish(self, spoilt=0, as_found=True):
        """The end of trainer and daemon: the trainer's summary and what the daemon said of its path."""
        summary = self.trainer.stop(spoilt)
        self.assertEqual("devmem", summary["path"], summary["path_reason"])
        told = self.devmem(self.served)
        for name in ("tokens_outstanding", "tokens_refused"):
            self.assertEqual(0, told["counters"][name], told)
        self.served.end()
        if as_found:
            self.assert_as_found()
        return summary, told["counters"]

    def said(self, pattern):
        """Waits until the daemon has said so."""
        shell.until(lambda: re.search(pattern, self.served.stderr()), f"the daemon says {pattern}; it said:\n{self.served.stderr()[-3000:]}", 30)


class Knobs(Live):
    """Each of devmemsim's, and what is seen of it."""

    def strike(self, knob, count, **settings):
        self.live()
        knobs.strike(QUEUE, knob, count, skip=5, **settings)
        shell.until(lambda: knobs.left(QUEUE, knob) == 0, f"{knob} struck", 30)
        self.trainer.more()

    def repaired(self, knob, count, **settings):
        """By TCP: of no concern to anybody above."""
        self.strike(knob, count, **settings)
        summary, counters = self.finish()
        self.assertEqual((0, 0, 0), (summary["bytes_copied"], counters["host_bytes"], counters["connections_fallen_back"]), counters)

    def test_drop(self):
        self.repaired("drop", 5)

    def test_reorder(self):
        self.repaired("reorder", 5)

    def test_duplicate(self):
        self.repaired("duplicate", 5)

    def test_corrupt(self):
        self.repaired("corrupt", 5)

    def test_delay(self):
        self.repaired("delay", 2, delay_us=20000)

    def test_fail_alloc(self):
        self.strike("fail_alloc", 300)
        summary, _ = self.finish()
        self.assertEqual(0, summary["bytes_copied"])

    def test_linear(self):
        self.strike("linear", 10)
        summary, counters = self.finish()
        self.assertGreater(counters["host_bytes"], 0)
        self.assertLessEqual(counters["host_bytes"], 10 * 1460)
        self.assertEqual(counters["host_bytes"], summary["bytes_copied"])

    def test_split_late(self):
        self.strike("split_late", 10)
        _, counters = self.finish()
        self.assertEqual(10 * 64, counters["linear_bytes"])
        self.assertGreater(counters["host_bytes"], 0)

    def test_misroute(self):
        self.strike("misroute", 20, misroute_to=0)
        summary, counters = self.finish()
        self.assertGreater(counters["host_bytes"], 0)
        self.assertEqual(counters["host_bytes"], summary["bytes_copied"])

    def test_dma_lose_is_seen_by_who_knows_the_bytes(self):
        """The checksum was right when the NIC verified it, and no CPU reads the payload: only a check of contents can tell."""
        self.strike("dma_lose", 1)
        self.finish(spoilt=2)

    def test_dma_misplace_is_seen_by_who_knows_the_bytes(self):
        self.strike("dma_misplace", 1)
        self.finish(spoilt=4)

    def test_reset(self):
        self.live()
        for _ in range(3):
            knobs.reset(QUEUE)
            self.trainer.more(200)
        self.assertEqual([QUEUE], list(bound_queues(self.here)))
        self.finish()

    def test_refuse_rules(self):
        knob = knobs.ROOT / knobs.HERE / "refuse_rules"
        knob.write_text("1000000")
        self.live()
        self.said("falls back")
        counters = self.devmem(self.served)["counters"]
        self.assertGreater(counters["connections_fallen_back"], 0)
        self.assertRegex(counters["last_fall_back"], "rule")
        run = product.loader(self, "--bucket", self.server.url, *RAW, "--service", self.served.service, "--require-zero-copy").wait(60)
        self.assertEqual(3, run.status, run.text)
        self.assertRegex(run.text, "rule")
        knob.write_text("0")
        summary, _ = self.finish()
        self.assertGreater(summary["bytes_copied"], 0)


class Wire(Live):
    def flap(self, end):
        for _ in range(3):
            end.up(False)
            shell.until(lambda: not self.here.carrier(), "no carrier")
            end.up()
            shell.until(lambda: self.here.carrier() and self.there.carrier(), "a carrier")
            self.trainer.more(200)

    def test_link_flaps_at_the_far_end(self):
        self.live()
        self.flap(self.there)
        self.finish()

    def test_link_flaps_here(self):
        self.live()
        self.flap(self.here)
        self.assertEqual([QUEUE], list(bound_queues(self.here)))
        self.finish()

    def test_rings_are_changed(self):
        self.live()
        for size in (512, 128, 256):
            ethtool.run(f"rx {size}", self.here, "-G")
            self.trainer.more(200)
        self.finish()

    def test_server_resets(self):
        self.live()
        for _ in range(3):
            self.server.stop()
            self.server.start()
            self.trainer.more(200)
        summary, counters = self.finish()
        self.assertGreater(summary["retries"], 0)
        self.assertEqual(0, summary["bytes_copied"])
        self.assertEqual(0, counters["connections_fallen_back"])

    def test_the_far_namespace_is_destroyed(self):
        self.live()
        self.server.stop()
        shell.run(f"ip netns delete {self.there.netns}")
        shell.until(lambda: shell.run("ip link show dms1", ok=False).returncode == 0, "dms1 came back to the first namespace")
        shell.until(lambda: not self.here.carrier(), "no carrier")
        shell.run(f"ip netns add {self.there.netns}")
        shell.run(f"ip link set dms1 netns {self.there.netns}")
        self.there.ip(f"addr add {self.there.v4}/24 dev dms1")
        self.there.ip(f"-6 addr add {self.there.v6}/64 dev dms1 nodad")
        self.there.up()
        shell.until(lambda: self.here.carrier() and self.there.carrier(), "a carrier")
        self.server.start()
        self.trainer.more()
        self.finish()

    def test_rss_is_restored_by_another_tool(self):
        self.live()
        ethtool.rss_default(self.here)
        self.said("(?i)rss")
        self.trainer.more()
        self.finish()

    def test_header_split_cannot_be_taken_away(self):
        self.live()
        with self.assertRaises(netdev.Error()):
            ethtool.header_split(self.here, False)
        self.trainer.more()
        self.finish()

    def test_a_rule_is_deleted_by_another_tool(self):
        self.live()
        for location in ethtool.locations(self.here):
            ethtool.unsteer(self.here, location)
        self.trainer.more()  # by whatever way the frames come now
        self.finish()


class Unplugged(Live):
    @guest.deadline(240)
    def test_module_removed(self):
        self.live()
        modules.unload("devmemsim")
        error = self.trainer.failed(150)
        self.assertIn(".bin", error["message"] + error["object"])
        self.assertTrue(error["action"], error)
        self.served.kill(product.signal.SIGTERM)
        self.served.wait(60)
        self.assertEqual([], netdev.orphan_pools() if netdev.pools_gone() else netdev.orphan_pools())

    @guest.deadline(240)
    def test_its_own_namespace_goes_with_it(self):
        shell.run("ip netns add node")
        self.here.ip("link set dms0 netns node")
        self.here.netns = "node"
        for words in (f"addr add {self.here.v4}/24 dev dms0", "link set dms0 up", "link set lo up"):
            self.here.ip(words)
        shell.until(lambda: self.here.carrier() and self.there.carrier(), "a carrier")
        rows = dataset.raw(self.bucket, samples=self.SAMPLES)
        server = self.serve()
        served = self.daemon(prefix=["ip", "netns", "exec", "node"])
        trainer = Endless(self, served, server.url, rows)
        trainer.more()
        shell.run("ip netns delete node")  # its name; the daemon is still in it
        trainer.more()
        self.assertEqual(0, trainer.stop()["bytes_copied"])
        served.kill()
        shell.until(lambda: shell.run("ip link show dms0", ok=False).returncode == 0, "dms0 came back to the first namespace")
        self.here.netns = None
        self.here.ip(f"addr add {self.here.v4}/24 dev dms0")
        self.here.up()
        shell.until(lambda: self.here.carrier() and self.there.carrier(), "a carrier")
        self.daemon().end()  # puts back what the other left
        self.assert_as_found()


class Gve(Live):
    PERSONALITY = {"personality": "gve"}

    def test_reset_that_renews_the_napi(self):
        self.live()
        for _ in range(2):
            knobs.reset(QUEUE)
            self.server.stop()  # new connections: held against the queue's new NAPI id
            self.server.start()
            self.trainer.more(200)
        summary, counters = self.finish()
        self.assertEqual(0, summary["bytes_copied"], counters)


class FewRules(Live):
    PERSONALITY = {"personality": "fbnic"}  # 48 rules

    def fill(self, leave):
        used, room, _ = ethtool.rule_count(self.here)
        ports = range(20000, 20000 + room - used - leave)
        for port in ports:
            ethtool.insert_rule(self.here, ethtool.LOC_ANY, 0, dst=("0.0.0.0", port))
        self.assertEqual(room - leave, ethtool.rule_count(self.here)[0])
        return set(ports)

    def test_no_room_for_a_rule(self):
        theirs = self.fill(0)
        self.found = state(self.here)
        self.live()
        self.said("falls back.*(rule|full|room)")
        summary, counters = self.finish()
        self.assertEqual(0, counters["connections_steered"])
        self.assertEqual(summary["bytes_received"], summary["bytes_copied"])
        self.assertEqual(theirs, set(rules(self.here)))

    def test_room_for_one_rule(self):
        theirs = self.fill(1)
        self.found = state(self.here)
        self.live()
        self.assertEqual(1, len(set(rules(self.here)) - theirs))
        summary, counters = self.finish()
        self.assertGreaterEqual(counters["connections_steered"], 1)
        self.assertGreater(counters["device_bytes"], 0)
        self.assertEqual(theirs, set(rules(self.here)))

    def test_full_table_and_a_rule_for_each_address(self):
        self.fill(1)
        self.found = state(self.here)
        self.live("--steer", "address", "--steer-address", self.here.v4)
        summary, counters = self.finish()
        self.assertEqual(0, summary["bytes_copied"], counters)


class Pool(Live):
    """A landing pool of the smallest size it takes."""
    FEW = ("--connections", "2")

    def smallest(self):
        said = self.refused(*self.FEW, "--landing-pool", "4096")
        return max(int(number) for number in re.findall(r"(\d+) bytes", said))

    def test_smallest_legal_size(self):
        size = self.smallest()
        self.refused(*self.FEW, "--landing-pool", str(size - 4096))
        self.live(*self.FEW, "--landing-pool", str(size))
        self.trainer.more()
        self.assertEqual(0, knobs.rx(self.here, QUEUE)["alloc-fail"])
        summary, _ = self.finish()
        self.assertEqual(0, summary["bytes_copied"])

    def test_a_batch_of_four_times_the_pool(self):
        size = self.smallest()
        batch = 4 * size // SAMPLE
        rows = dataset.raw(self.bucket, samples=3 * batch)
        server, daemon = self.serve(), self.daemon(*self.FEW, "--landing-pool", str(size))
        summaries, digests = self.trainers(daemon, server.url, *RAW[:-4], "--batch-size", batch, "--shuffle", "none", "--prefetch",
                                           2 * batch * SAMPLE, world=1)
        self.assert_delivered(rows, digests)
        self.assertEqual((3, 0), (summaries[0]["batches"], summaries[0]["bytes_copied"]))
        self.assertEqual(0, knobs.rx(self.here, QUEUE)["alloc-fail"])
        daemon.end()
        self.assert_as_found()
