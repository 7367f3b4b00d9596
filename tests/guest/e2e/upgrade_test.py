# SPDX-License-Identifier: Apache-2.0
"""A daemon hands over to its successor under load (docs/upgrade.md): no queue is restarted, each sample comes once and in order, and the
trainer's longest gap between two batches is held against that of a cold restart."""
import os
import pathlib
import re
import signal

from guest import dataset, ethtool, handle, netdev, product, shell

from stand import DEVMEM, QUEUE, RAW, UNHURRIED, Endless, Stand, bound_queues, rules


DRAIN = 0.1  # seconds for which a daemon that ends goes on serving: no part of the time without one


class Successions(Stand):
    """What the classes below share; without a test of its own."""
    BY_HANDLE = False  # with the module devmem_binding

    def setUp(self):
        if self.BY_HANDLE:
            handle.load(self)
        super().setUp()
        self.path = str(self.work / "loader.sock")

    def start(self, *flags, **more):
        # A stream without end would drain for as long as it may.
        return product.daemon(self, *DEVMEM, "--drain-timeout", f"{DRAIN}s", *flags, path=self.path, **more)

    def succeed(self, old, *flags):
        """A successor of `old`, when it serves and `old` has ended."""
        new = self.start("--take-over", *flags, ready=False)

        def taken():
            if not new.running():
                raise AssertionError(f"the successor ended:\n{new.stderr()[-3000:]}\nthe old one:\n{old.stderr()[-3000:]}")
            return "taken over from version" in new.stderr()
        shell.until(taken, "the successor serves", 60)
        run = old.wait(30)
        self.assertEqual(0, run.status, run.text)
        self.assertRegex(run.text, ("by a binding handle" if self.BY_HANDLE else "by its netlink socket") + r"\); no queue was restarted")
        return new

    def touched(self):
        """Page pools of the bound queues and the RSS table: a queue that is restarted gets another pool."""
        return {pool["id"] for pool in netdev.bound_pools(self.here.ifindex)}, ethtool.rss(self.here)["rss-indirection-table"]

    def upgrades(self, count):
        rows = dataset.raw(self.bucket, samples=192)
        server = self.serve(extra=UNHURRIED)
        daemon = self.start()
        trainer = Endless(self, daemon, server.url, rows)
        trainer.more(40)
        bound, (pools, table) = bound_queues(self.here), self.touched()
        warm, in_and_out = [], 0
        for _ in range(count):
            trainer.more(24)
            in_and_out += len(rules(self.here))
            daemon = trainer.daemon = self.succeed(daemon)
            warm.append(float(re.search(r"Nobody served for ([0-9.]+) ms", daemon.stderr())[1]))
            # It first reads what it has in hand of the former stream.
            shell.until(lambda: "info stream s" in daemon.stderr(), "the trainer resumes", 60)  # pylint: disable=cell-var-from-loop
            trainer.more(16)
            in_and_out += len(rules(self.here))
            self.assertEqual((pools, table), self.touched(), "no queue was restarted, no setting changed")
            self.assertEqual(bound, bound_queues(self.here))
            self.assertTrue(set(rules(self.here).values()) <= {QUEUE})
        told = self.devmem(daemon)
        self.assertEqual((0, 0), tuple(told["counters"][name] for name in ("host_bytes", "tokens_refused")), told)
        self.assertTrue(told["nics"][0]["intact"], told)

        warm_gap = self.stopped(trainer, count)

        trainer = Endless(self, daemon, server.url, rows)
        trainer.more(24)
        cold_rules = len(rules(self.here))
        daemon.kill(signal.SIGTERM)
        self.assertEqual(0, daemon.wait(40).status)
        daemon = trainer.daemon = self.start()
        trainer.more(16)
        cold_rules += len(rules(self.here))
        again, _ = self.touched()
        self.assertFalse(pools & again, "a cold restart restarts the queues")
        cold_gap = self.stopped(trainer, 1)
        self.assertEqual(0, self.devmem(daemon)["counters"]["tokens_outstanding"])
        daemon.end()
        self.assert_as_found()
        self.note = (f"longest gap {warm_gap:.0f} ms in {count} upgrades (nobody served for at most {max(warm):.0f} ms), {cold_gap:.0f} ms in a cold "
                     f"restart; rules out and in: {in_and_out / count:.1f} an upgrade, {cold_rules}; queues restarted: 0, {2 * len(bound)}")

    def stopped(self, trainer, reconnects):
        """Its longest gap, ms."""
        summary = trainer.stop()
        self.assertEqual("devmem", summary["path"], summary["path_reason"])
        self.assertGreaterEqual(summary["reconnects"], reconnects, summary)
        return summary["longest_gap_ms"]


class Upgrade(Successions):
    deadline = 400

    def test_three_under_load(self):
        self.upgrades(3)

    def test_the_successor_is_killed(self):
        """Before it adopted, with all that was sent to it: the old one goes on with the binding it never gave away."""
        rows = dataset.raw(self.bucket, samples=192)
        server = self.serve(extra=UNHURRIED)
        daemon = self.start()
        trainer = Endless(self, daemon, server.url, rows)
        trainer.more(40)
        before = self.touched()
        for point in range(4):
            new = self.start("--take-over", ready=False)
            if point == 0:  # at once
                new.kill()
            else:
                shell.until(lambda: not new.running() or "handing over to version" in daemon.stderr() or self.said_taken(new), "it is on its way", 60,  # pylint: disable=cell-var-from-loop
                            every=0.001)
                new.kill()
            if "handed over to version" in daemon.stderr():
                daemon.wait(30)
                daemon = trainer.daemon = self.start()
                before = self.touched()
            trainer.more(24)
            self.assertEqual(before, self.touched())
        trainer.stop()
        self.assertEqual(0, self.devmem(daemon)["counters"]["host_bytes"])
        daemon.end()
        product.daemon(self, "--transport", "copy").end()  # what the killed ones wrote down is done with by the next start
        self.assert_as_found()

    @staticmethod
    def said_taken(new):
        return "taken over from version" in new.stderr()

    def test_the_last_one_is_killed(self):
        """Nothing is held after a SIGKILL of the one that took over, and the next start puts the NIC back."""
        daemon = self.succeed(self.start())
        self.assertEqual([QUEUE], list(bound_queues(self.here)))
        daemon.kill()
        shell.until(lambda: not bound_queues(self.here), "the kernel took the binding of a process that is gone")
        product.daemon(self, "--transport", "copy", path=self.path).end()
        self.assert_as_found()

    def test_other_flags(self):
        old = self.start()
        new = self.succeed(old, "--queues", "2", "--landing-pool", "40MiB")
        self.assertRegex(new.stderr(), r"stays as it was bound; from the next cold start on: --queues 2 \(it is 1\), --landing-pool 41943040 \(it is 50331648\)")
        self.assertEqual([QUEUE], list(bound_queues(self.here)))
        new.end()
        self.assert_as_found()

    def test_too_many_connections(self):
        """More than the pool that is handed over can bear: the old one serves on, as if nothing had been."""
        rows = dataset.raw(self.bucket, samples=64)
        server, old = self.serve(), self.start()
        before = self.touched()
        run = self.start("--take-over", "--connections", "512", ready=False).wait(60)
        self.assertEqual(1, run.status, run.text)
        self.assertRegex(run.text, "a landing pool of 50331648 bytes is too small")
        shell.until(lambda: "this daemon serves on" in old.stderr(), "the old one says so", 30)
        self.assertRegex(old.stderr(), "not handed over: .*is too small", "it was told why, and not left to wait")
        self.assertEqual(before, self.touched())
        (summary,), digests = self.trainers(old, server.url, *RAW, world=1)
        self.assert_delivered(rows, digests)
        self.assertEqual(0, summary["bytes_copied"])
        old.end()
        self.assert_as_found()

    def test_addresses_that_do_not_fit(self):
        """What cannot be steered is found before the old one has let go."""
        old = self.start()
        run = self.start("--take-over", "--steer", "address", "--steer-address", f"{self.here.v4},{self.there.v4}", ready=False).wait(60)
        self.assertEqual(1, run.status, run.text)
        self.assertIn("2 addresses were given for 1 bound queues", run.text)
        shell.until(lambda: "this daemon serves on" in old.stderr(), "the old one says so", 30)
        self.assertEqual([QUEUE], list(bound_queues(self.here)))
        old.end()
        self.assert_as_found()

    def test_the_old_one_is_killed_when_it_is_asked(self):
        """Then the new one starts cold, on the same queue, with the NIC put back before."""
        rows = dataset.raw(self.bucket, samples=192)
        server = self.serve(extra=UNHURRIED)
        old = self.start()
        trainer = Endless(self, old, server.url, rows)
        trainer.more(40)
        os.kill(old.pid, signal.SIGSTOP)
        new = trainer.daemon = self.start("--take-over", ready=False)
        upgrade = f"{self.path}.upgrade"
        shell.until(lambda: pathlib.Path("/proc/net/unix").read_text(encoding="utf-8").count(upgrade) > 1, "it asks", 60)  # one listens
        old.kill()
        shell.until(lambda: "ready:" in new.stderr(), "it serves", 60)
        self.assertIn("after a daemon that was killed", new.stderr())
        self.assertEqual([QUEUE], list(bound_queues(self.here)))
        trainer.more(40)
        self.assertEqual("devmem", trainer.stop()["path"])
        new.end()
        self.assert_as_found()

    def test_another_transport(self):
        old = self.start()
        run = product.daemon(self, "--take-over", "--transport", "copy", path=self.path, ready=False).wait(40)
        self.assertEqual(1, run.status, run.text)
        self.assertIn("the living daemon receives into device memory", run.text)
        self.assertEqual([QUEUE], list(bound_queues(self.here)))
        old.end()
        self.assert_as_found()


class UpgradeByHandle(Successions):
    """The same with the module that makes a binding a file handle."""
    deadline = 400
    BY_HANDLE = True

    def test_three_under_load(self):
        self.upgrades(3)

    def test_the_last_one_is_killed(self):
        daemon = self.succeed(self.start())
        daemon.kill()
        shell.until(lambda: not bound_queues(self.here), "the kernel took the binding of a process that is gone")
        product.daemon(self, "--transport", "copy", path=self.path).end()
        self.assert_as_found()


class Twenty(Successions):
    LONG = True
    deadline = 1500

    def test_twenty_under_load(self):
        self.upgrades(20)


class TwentyByHandle(Successions):
    LONG = True
    deadline = 1500
    BY_HANDLE = True

    def test_twenty_under_load(self):
        self.upgrades(20)
