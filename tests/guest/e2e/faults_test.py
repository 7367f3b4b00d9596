# SPDX-License-Identifier: Apache-2.0
"""What may happen to a NIC, a wire or a server under a live stream: nothing is lost, nothing comes twice, the NIC ends as it was
found, and what an operator should know is said. A trainer reads without end meanwhile (stand.Endless); a fault strikes when it has
been given samples, and it has to be given more afterwards."""
import re
import signal

import guest
from guest import dataset, ethtool, knobs, modules, netdev, product, shell

from stand import QUEUE, RAW, SAMPLE, UNHURRIED, Endless, Stand, bound_queues, rules, state


class Live(Stand):
    """A daemon on one queue, and a trainer that reads from it."""
    deadline = 240
    SAMPLES = 192

    def live(self, *flags):
        self.rows = dataset.raw(self.bucket, samples=self.SAMPLES)
        self.server = self.serve(extra=UNHURRIED)
        self.served = self.daemon(*flags)
        self.trainer = Endless(self, self.served, self.server.url, self.rows)
        self.trainer.more()

    def finish(self, spoilt=0, as_found=True):
        """The end of trainer and daemon; returns the daemon's counters. (An interrupted trainer's summary may come without statistics.)"""
        summary = self.trainer.stop(spoilt)
        self.assertEqual("devmem", summary["path"], summary["path_reason"])
        told = self.devmem(self.served)
        for name in ("tokens_outstanding", "tokens_refused"):
            self.assertEqual(0, told["counters"][name], told)
        self.served.end()
        if as_found:
            self.assert_as_found()
        return told["counters"]

    def counters(self):
        return self.devmem(self.served)["counters"]

    def said(self, pattern):
        """Waits until the daemon has said so."""
        shell.until(lambda: re.search(pattern, self.served.stderr()), f"the daemon says {pattern}; it said:\n{self.served.stderr()[-3000:]}", 30)


class Knobs(Live):
    """Each of devmemsim's, and what is seen of it."""
    LONG = True

    def strike(self, knob, count, **settings):
        knobs.strike(QUEUE, knob, count, skip=5, **settings)
        shell.until(lambda: knobs.left(QUEUE, knob) == 0, f"{knob} struck", 30)
        self.trainer.more()

    def test_what_tcp_repairs(self):
        """Lost, late, twice, damaged, and no buffer for it: of no concern to anybody above."""
        self.live()
        for knob, count, settings in (("drop", 5, {}), ("reorder", 5, {}), ("duplicate", 5, {}), ("corrupt", 5, {}),
                                      ("delay", 2, {"delay_us": 20000}), ("fail_alloc", 300, {})):
            with self.subTest(knob):
                self.strike(knob, count, **settings)
        counters = self.finish()
        self.assertEqual((0, 0), (counters["host_bytes"], counters["connections_fallen_back"]), counters)

    def test_what_costs_a_copy(self):
        self.live()
        before = self.counters()
        self.assertEqual((0, 0), (before["host_bytes"], before["linear_bytes"]))
        self.strike("split_late", 10)
        late = self.counters()
        self.assertEqual(10 * 64, late["linear_bytes"])
        self.assertIn(late["host_bytes"], range(1, 10 * 64 + 1))
        self.strike("linear", 10)
        linear = self.counters()
        self.assertIn(linear["host_bytes"] - late["host_bytes"], range(1, 10 * 1460 + 1))
        self.strike("misroute", 10, misroute_to=0)
        self.assertGreater(self.counters()["host_bytes"], linear["host_bytes"])
        self.assertEqual(0, self.finish()["connections_fallen_back"])

    def test_dma_that_went_astray_is_seen_by_who_knows_the_bytes(self):
        """The checksum was right when the NIC verified it, and no CPU reads the payload: only a check of contents can tell."""
        self.live()
        self.strike("dma_lose", 1)
        self.strike("dma_misplace", 1)
        self.trainer.more((128 << 20) // SAMPLE + 100)  # what was prefetched before comes first
        self.finish(spoilt=6)

    def test_refuse_rules(self):
        knob = knobs.ROOT / knobs.HERE / "refuse_rules"
        knob.write_text("1000000")
        self.live()
        self.said("falls back")
        counters = self.counters()
        self.assertGreater(counters["connections_fallen_back"], 0)
        self.assertRegex(counters["last_fall_back"], "dms0: no rule for .* to queue 3: Input/output error")
        run = product.loader(self, "--bucket", self.server.url, *RAW, "--service", self.served.service, "--require-zero-copy").wait(60)
        self.assertEqual(3, run.status, run.text)
        self.assertRegex(run.text, "(?i)zero.copy")
        knob.write_text("0")
        before = self.counters()
        self.trainer.more()

        def steered():
            self.trainer.more(20)
            return self.counters()["device_bytes"] > before["device_bytes"]

        shell.until(steered, "connections are steered again", 60)
        self.assertGreater(self.finish()["host_bytes"], 0)


class Wire(Live):
    LONG = True

    def flap(self, end):
        end.up(False)
        shell.until(lambda: not self.here.carrier(), "no carrier")
        end.up()
        shell.until(lambda: self.here.carrier() and self.there.carrier(), "a carrier")
        self.trainer.more(60)

    def test_link_flaps(self):
        self.live()
        for end in (self.there, self.here, self.there, self.here):
            with self.subTest(end.name):
                self.flap(end)
        self.assertEqual([QUEUE], list(bound_queues(self.here)))
        self.finish()

    def test_the_nic_is_reset(self):
        self.live()
        for _ in range(3):
            knobs.reset(QUEUE)
            self.trainer.more(60)
        for size in (512, 128, 256):
            ethtool.run(f"rx {size}", self.here, "-G")
            self.trainer.more(60)
        self.assertEqual([QUEUE], list(bound_queues(self.here)))
        self.finish()

    def test_the_server_resets(self):
        self.live()
        before = self.counters()["connections_steered"]
        for _ in range(3):
            self.server.stop()
            self.server.start()
            self.trainer.more(60)
        counters = self.finish()
        self.assertGreaterEqual(counters["connections_steered"], before + 3)
        self.assertEqual((0, 0), (counters["host_bytes"], counters["connections_fallen_back"]), counters)

    def test_the_far_namespace_is_destroyed(self):
        self.live()
        self.server.stop()
        shell.run(f"ip netns delete {self.there.netns}")
        shell.until(lambda: shell.run("ip link show dms1", ok=False).returncode == 0, "dms1 came back to the first namespace")
        shell.until(lambda: not self.here.carrier(), "no carrier")
        shell.run(f"ip netns add {self.there.netns}")
        shell.run(f"ip link set dms1 netns {self.there.netns}")
        self.there.ip("link set lo up")
        self.there.ip(f"addr add {self.there.v4}/24 dev dms1")
        self.there.ip(f"-6 addr add {self.there.v6}/64 dev dms1 nodad")
        self.there.up()
        shell.until(lambda: self.here.carrier() and self.there.carrier(), "a carrier")
        self.server.start()
        self.trainer.more()
        self.finish()

    def test_other_tools_meddle(self):
        self.live()
        with self.assertRaises(netdev.Error()):
            ethtool.header_split(self.here, False)  # the kernel sees to that
        self.trainer.more(60)
        for location in ethtool.locations(self.here):
            ethtool.unsteer(self.here, location)
        self.said("rules for its connections are gone from the NIC")
        shell.until(lambda: rules(self.here), "the rules are there again")
        self.trainer.more(60)
        shell.until(lambda: self.devmem(self.served)["nics"][0]["intact"], "it says so")
        before = self.counters()
        self.trainer.more(60)
        self.assertGreater(self.counters()["device_bytes"], before["device_bytes"])
        ethtool.rss_default(self.here)
        self.said("bound dms0 again after: the RSS table")
        self.trainer.more(60)
        ethtool.rss_default(self.here)
        self.said("the RSS table leads to bound queues.*given up until the next start")
        self.assertEqual({}, bound_queues(self.here), "it would swallow what RSS leads to it")
        self.trainer.more(60)
        self.assertIn(QUEUE, ethtool.rss(self.here)["rss-indirection-table"], "once is enough")
        self.finish()


class Unplugged(Live):
    LONG = True

    @guest.deadline(240)
    def test_module_removed(self):
        self.live()
        modules.unload("devmemsim")
        error = self.trainer.failed(150)
        self.assertIn(".bin", error["message"] + error["object"])
        self.assertTrue(error["action"], error)
        self.served.kill(signal.SIGTERM)
        self.served.wait(60)
        shell.until(netdev.pools_gone, "no pool outlives its NIC")

    @guest.deadline(240)
    def test_it_comes_back_as_another_interface(self):
        """As after a driver's reload: the same name, another index, and nothing of what was set on it."""
        self.live()
        before = self.here.ifindex
        (knobs.ROOT / "remove_pair").write_text("0")
        shell.until(lambda: shell.run("ip link show dms0", ok=False).returncode != 0, "dms0 is gone")
        (knobs.ROOT / "new_pair").write_text(f"{self.QUEUES} none")
        self.assertNotEqual(before, self.here.ifindex)
        shell.run(f"ip link set dms1 netns {self.there.netns}")
        for end in (self.there, self.here):
            end.ip(f"addr add {end.v4}/24 dev {end.name}")
            end.ip(f"-6 addr add {end.v6}/64 dev {end.name} nodad")
            end.up()
        shell.until(lambda: self.here.carrier() and self.there.carrier(), "a carrier")
        self.said("bound dms0 again")
        self.assertEqual([QUEUE], list(bound_queues(self.here)))
        self.assertNotIn(QUEUE, ethtool.rss(self.here)["rss-indirection-table"])
        self.server.stop()  # whoever was copied meanwhile comes by a new connection
        self.server.start()
        device = self.counters()["device_bytes"]
        self.trainer.more()
        self.assertGreater(self.counters()["device_bytes"], device)
        self.assertTrue(rules(self.here))
        self.finish()

    @guest.deadline(240)
    def test_its_own_namespace_goes_with_it(self):
        shell.run("ip netns add node")
        self.here.ip("link set dms0 netns node")
        self.here.netns = "node"
        for words in (f"addr add {self.here.v4}/24 dev dms0", "link set dms0 up", "link set lo up"):
            self.here.ip(words)
        shell.until(lambda: self.here.carrier() and self.there.carrier(), "a carrier")
        rows = dataset.raw(self.bucket, samples=self.SAMPLES)
        server = self.serve(extra=UNHURRIED)
        served = self.daemon(prefix=["ip", "netns", "exec", "node"])
        trainer = Endless(self, served, server.url, rows)
        trainer.more()
        shell.run("ip netns delete node")  # its name; the daemon is still in it
        trainer.more()
        trainer.stop()
        self.assertEqual(0, self.devmem(served)["counters"]["host_bytes"])
        served.kill()
        shell.until(lambda: shell.run("ip link show dms0", ok=False).returncode == 0, "dms0 came back to the first namespace")
        self.here.netns = None
        self.here.ip(f"addr add {self.here.v4}/24 dev dms0")
        self.here.up()
        shell.until(lambda: self.here.carrier() and self.there.carrier(), "a carrier")
        self.assertEqual({}, bound_queues(self.here))
        product.daemon(self, "--transport", "copy").end()  # the next start, whatever its transport
        self.assert_as_found()

    @guest.deadline(240)
    def test_moved_to_another_namespace(self):
        served = self.daemon()
        shell.run("ip netns add node")
        self.addCleanup(shell.delete_namespace, "node")
        shell.run("ip link set dms0 netns node")
        served.end()
        self.assertRegex(served.stderr(), r"dms0 \(devmemsim at devmemsim\.0, [0-9a-f:]+\) is not here any more")
        shell.run("ip link set dms0 netns 1", "node")
        self.here.up()
        shell.until(self.here.carrier, "a carrier")
        self.assertNotEqual(self.found, state(self.here))
        product.daemon(self, "--transport", "copy").end()
        self.assert_as_found()


class Upgrade(Live):
    """Two daemons on one NIC, and the older ends first."""
    LONG = True

    def test_the_older_ends_first(self):
        rows = dataset.raw(self.bucket, samples=self.SAMPLES)
        server, old, new = self.serve(), self.daemon(), self.daemon()
        self.assertEqual([2, 3], sorted(bound_queues(self.here)))
        old.end()
        self.assertNotIn("not wholly as it was", old.stderr())
        self.assertEqual({0, 1, 3}, set(state(self.here)["RSS"]))
        (summary,), digests = self.trainers(new, server.url, *RAW, world=1)
        self.assert_delivered(rows, digests)
        self.assertEqual(0, summary["bytes_copied"])
        new.end()
        self.assertNotIn("not wholly as it was", new.stderr())
        self.assert_as_found()

    def test_the_older_is_killed(self):
        old, new = self.daemon(), self.daemon()
        old.kill()
        shell.until(lambda: len(bound_queues(self.here)) == 1, "the kernel took the older one's binding")
        newest = self.daemon()
        new.end()
        newest.end()
        self.assert_as_found()

    def test_process_1_of_two_containers(self):
        words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        one, two = self.daemon(prefix=words), self.daemon(prefix=words)
        self.assertEqual([2, 3], sorted(bound_queues(self.here)))
        for each in (one, two):  # unshare is killed, and its child with it: the next start puts back
            each.kill()
        shell.until(lambda: not bound_queues(self.here), "the kernel took the bindings")
        product.daemon(self, "--transport", "copy").end()
        self.assert_as_found()


class Bnxt(Live):
    """ntuple is found off, and without it there are no rules."""
    LONG = True
    PERSONALITY = {"personality": "bnxt"}

    def setUp(self):
        super().setUp()
        ethtool.feature(self.here, "ntuple", False)
        self.found = state(self.here)

    def test_the_older_of_two_leaves_ntuple_on(self):
        rows = dataset.raw(self.bucket, samples=self.SAMPLES)
        server, old, new = self.serve(), self.daemon(), self.daemon()
        old.end()
        self.assertTrue(ethtool.features(self.here)["ntuple-filters"])
        (summary,), digests = self.trainers(new, server.url, *RAW, world=1)
        self.assert_delivered(rows, digests)
        self.assertEqual(0, summary["bytes_copied"])
        new.end()
        self.assert_as_found()

    def test_another_tool_turns_ntuple_off(self):
        self.live()
        ethtool.feature(self.here, "ntuple", False)
        self.said("bound dms0 again after: rx-ntuple-filter is off")
        self.trainer.more(60)
        self.assertTrue(ethtool.features(self.here)["ntuple-filters"])
        self.assertTrue(rules(self.here))
        self.finish()


class Gve(Live):
    LONG = True
    PERSONALITY = {"personality": "gve"}

    def test_reset_that_renews_the_napi(self):
        self.live()
        for _ in range(2):
            knobs.reset(QUEUE)
            self.server.stop()  # new connections: held against the queue's new NAPI id
            self.server.start()
            self.trainer.more(60)
        counters = self.finish()
        self.assertEqual(0, counters["host_bytes"], counters)


class FewRules(Live):
    LONG = True
    PERSONALITY = {"personality": "fbnic"}  # 48 rules

    def fill(self, leave):
        used, room, _ = ethtool.rule_count(self.here)
        ports = range(20000, 20000 + room - used - leave)
        for port in ports:
            ethtool.insert_rule(self.here, ethtool.LOC_ANY, 0, dst=("0.0.0.0", port))
        self.assertEqual(room - leave, ethtool.rule_count(self.here)[0], "as many rules as the table holds, but for those")
        return set(ports)

    def test_no_room_for_a_rule(self):
        theirs = self.fill(0)
        self.found = state(self.here)
        self.live()
        self.said("falls back.*(rule|full|room)")
        counters = self.finish()
        self.assertEqual((0, 0), (counters["connections_steered"], counters["device_bytes"]), counters)
        self.assertGreater(counters["host_bytes"], 0)
        self.assertEqual(theirs, set(rules(self.here)))

    def test_room_for_one_rule(self):
        theirs = self.fill(2)  # one always stays free
        self.found = state(self.here)
        self.live()
        self.assertEqual(1, len(set(rules(self.here)) - theirs))
        counters = self.finish()
        self.assertGreaterEqual(counters["connections_steered"], 1)
        self.assertGreater(counters["device_bytes"], 0)
        self.assertEqual(theirs, set(rules(self.here)))

    def test_a_rule_for_an_address_is_all_it_takes(self):
        self.fill(2)
        self.found = state(self.here)
        self.here.ip(f"addr add 192.0.2.11/24 dev {self.here.name}")  # one of its own: on the other, ordinary connections would be hit
        self.live("--steer", "address", "--steer-address", "192.0.2.11")
        counters = self.finish()
        self.assertEqual(0, counters["host_bytes"], counters)


class Pool(Live):
    """A landing pool of the smallest size it takes."""
    LONG = True
    FEW = ("--connections", "2")

    def smallest(self):
        said = self.refused(*self.FEW, "--landing-pool", "4096")
        return int(re.search(r"the smallest is (\d+)", said)[1])

    def test_smallest_legal_size(self):
        size = self.smallest()
        self.refused(*self.FEW, "--landing-pool", str(size - 4096))
        self.live(*self.FEW, "--landing-pool", str(size))
        self.trainer.more()
        nic = knobs.rx(self.here, QUEUE)
        self.assertEqual((0, 0), (nic["hw-drops"], nic["hw-drop-overruns"]), f"frames that found no buffer: {nic}")
        self.assertEqual(0, self.finish()["host_bytes"])

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
