# SPDX-License-Identifier: Apache-2.0
"""A daemon hands over to its successor under load (docs/upgrade.md), here on the copy path: what goes wrong on the way, and that each
sample comes exactly once. The NICs' part is tests/guest/e2e/upgrade_test.py."""
import os
import queue
import random
import signal
import socket
import tempfile
import threading
import time

import fault_server
import harness
import trainer
from harness import RAW, SLOW, wait_for
from trainer import upgrade_pb2

UPGRADES = 3


class Between(threading.Thread):
    """Stands between a daemon and its successor on the upgrade socket, passing packets on. The successor is to be started on .path; `strike`
    is called before each packet is passed on, with its name, a call that passes it on and the two connections, and may kill. Where it
    returns True that was all, and the connections are closed."""

    def __init__(self, test, old, strike):
        super().__init__(daemon=True)
        self.path = os.path.join(tempfile.mkdtemp(dir=test.work), "l.sock")
        self.old, self.strike, self.seen = old, strike, []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path + ".upgrade")
        self.listener.listen()
        test.addCleanup(self.listener.close)
        self.start()

    def run(self):
        with self.listener.accept()[0] as successor, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
            daemon.connect(self.old.path + ".upgrade")
            asks = [(successor, daemon), (daemon, successor)] * 2 + [(successor, daemon)]  # hello, present, ready, hand_over, adopted
            for source, target in asks:
                data, fds, _, _ = socket.recv_fds(source, 1 << 16, 64)
                if not data:
                    return
                name = upgrade_pb2.UpgradePacket.FromString(data).WhichOneof("message")
                self.seen.append(name)

                def pass_on(to=target, what=data, riding=tuple(fds)):
                    try:
                        socket.send_fds(to, [what], riding)
                    except OSError:
                        pass  # whoever was killed
                ends = self.strike(name, pass_on, source, target)
                if not ends:
                    pass_on()
                for fd in fds:
                    os.close(fd)
                if ends:
                    return


class UpgradeTest(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.bucket = self.raw_bucket("large", samples=1024, shards=16)
        self.digest_path = self.work / "digest"

    def load(self, daemon, *flags):
        """A trainer that is in the middle of its data until finish(): it gets no more ranges than more() gives."""
        self.web, self.ration = self.server(self.bucket), fault_server.Ration()
        self.web.fault("*", self.ration)
        self.reader = self.start("--bucket", self.web.url, *RAW, "--tail", "uneven", "--prefetch", "4M", "--shuffle", "none", *flags,
                                 service=daemon.socket, digest=self.digest_path)
        return self.reader

    def more(self, ranges=3):
        """Waits until so many more ranges were served."""
        wanted = self.ration.served + ranges
        self.ration.give(ranges)
        wait_for(lambda: self.ration.served >= wanted, 60 * SLOW, "ranges are served")

    def came(self, daemon):
        """Waits until the trainer's stream is at this daemon."""
        with trainer.Trainer(daemon.path) as observer:
            wait_for(lambda: len(observer.status().streams) == 1, 60 * SLOW, "the trainer has opened its stream here")

    def finish(self, loader, reconnects):
        """Its end; it has had to connect again so often at least."""
        self.ration.give_all()
        run = loader.wait(120 * SLOW)
        self.assertEqual(run.status, 0, run.text)
        self.assertGreaterEqual(run.summary["reconnects"], reconnects, run.text)
        self.assert_delivered(self.bucket, self.digest_path)
        rows = [(line["object"], line["offset"]) for line in self.digest(self.digest_path)]
        self.assertEqual(rows, sorted(rows), "in the stored order")

    def successor(self, path, *flags, **options):
        return self.daemon("--take-over", *flags, path=path, ready=False, **options)

    def said(self, daemon, text):
        def there():
            self.assertIsNone(daemon.process.poll() if text not in daemon.stderr() else None, daemon.stderr())
            return text in daemon.stderr()
        wait_for(there, 30 * SLOW, f"it says: {text}")

    def assert_alone(self, daemon):
        """It serves: both sockets answer, and its status is its own."""
        with trainer.Trainer(daemon.path) as observer:
            self.assertEqual(observer.status().pid, daemon.pid)

    def test_upgrades_under_load(self):
        daemon = self.daemon()
        loader = self.load(daemon)
        for _ in range(UPGRADES):
            self.came(daemon)
            self.more()
            new = self.successor(daemon.path)
            self.said(new, "taken over from version")
            self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
            self.assertIn(f"(pid {new.pid})", daemon.stderr())
            self.assertRegex(new.stderr(), r"Nobody served for [0-9.]+ ms; 1 streams resume by cursor")
            self.assert_alone(new)
            daemon = new
        self.finish(loader, UPGRADES)
        daemon.kill(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
        self.assertEqual(os.listdir(os.path.dirname(daemon.path)), [], "the last one removes the sockets")

    def test_many_trainers(self):
        daemon = self.daemon()
        web = self.nginx(self.bucket, extra="limit_rate 2m;", log=True)
        digests = [self.work / f"digest-{rank}" for rank in range(4)]
        loaders = [self.start("--bucket", web.url, *RAW, "--tail", "uneven", "--prefetch", "2M", "--rank", rank, "--world-size", 4,
                              service=daemon.socket, digest=path) for rank, path in enumerate(digests)]
        wait_for(lambda: web.log.read_text().count(" 206") > 6, 60 * SLOW, "ranges are served")
        new = self.successor(daemon.path)
        self.said(new, "taken over from version")
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
        for run in [each.wait(120 * SLOW) for each in loaders]:
            self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, *digests)

    def test_stays_until_it_is_told_to_end(self):
        """As in a pod, whose kubelet starts again what ends."""
        daemon = self.daemon("--when-succeeded", "wait")
        new = self.successor(daemon.path)
        self.said(new, "taken over from version")
        self.said(daemon, "holding nothing any more")
        self.assert_alone(new)
        daemon.kill(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
        self.assert_alone(new)

    def test_nobody_to_take_over_from(self):
        daemon = self.daemon("--take-over")
        daemon.kill()
        daemon.process.wait(10)
        again = self.daemon("--take-over", path=daemon.path)  # what a dead one left is nobody
        self.assertNotIn("taken over", again.stderr())
        self.assert_alone(again)

    def test_not_without_the_flag(self):
        daemon = self.daemon()
        run = self.daemon(path=daemon.path, ready=False).wait(20 * SLOW)
        self.assertEqual(run.status, 1, run.text)
        self.assertIn("another daemon serves", run.text)
        self.assert_alone(daemon)

    def test_from_a_version_that_cannot(self):
        daemon = self.daemon()
        os.unlink(daemon.path + ".upgrade")
        run = self.successor(daemon.path).wait(20 * SLOW)
        self.assertEqual(run.status, 1, run.text)
        self.assertIn("no upgrade socket to take over from", run.text)
        self.assert_alone(daemon)

    def test_successor_killed_before_it_adopted(self):
        """Whatever it had by then: the old one serves on, and the next successor may come."""
        daemon = self.daemon()
        loader = self.load(daemon)
        struck = 0
        for point in ("present", "hand_over"):
            self.more()
            killed = []

            def strike(name, *_, at=point, victims=killed):
                if name != at:
                    return False
                victims[0].kill()
                victims[0].process.wait(10)
                return False
            between = Between(self, daemon, strike)
            killed.append(self.successor(between.path))
            between.join(30 * SLOW)
            self.assertIn(point, between.seen)
            if point == "hand_over":
                self.said(daemon, "this daemon serves on")
                struck += 1
            self.assert_alone(daemon)
        self.more()
        new = self.successor(daemon.path)
        self.said(new, "taken over from version")
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
        self.finish(loader, struck + 1)

    def test_what_a_trainer_holds_is_not_in_its_way(self):
        """Its memory counts no more once its stream was cut off: the next one has room, on the old daemon too."""
        daemon = self.daemon("--memory-limit", "6M")  # for one slab of 4 MiB
        spec = {"bucket": f"file://{self.bucket}", "format": trainer.pb.FORMAT_RAW, "batch_size": 4, "prefetch_bytes": 4 << 20,
                "tensors": [trainer.pb.TensorSpec(dtype=trainer.pb.DTYPE_UINT8, shape=[harness.SAMPLE])]}
        with trainer.Trainer(daemon.path) as reader:
            stream = reader.open(**spec)
            kept = next(stream.batches(release=False))

            def strike(name, *_):
                if name == "hand_over":
                    victims[0].kill()
                    victims[0].process.wait(10)
                return False
            victims = []
            between = Between(self, daemon, strike)
            victims.append(self.successor(between.path))
            between.join(30 * SLOW)
            self.said(daemon, "this daemon serves on")
            again = reader.open(**spec)
            self.assertTrue(next(again.batches()).tensors)
            self.assertTrue(stream.view(kept, 0).any(), "and what it holds stays readable")

    def test_successor_that_is_late(self):
        """It comes back with its answer when the old one has given it up."""
        daemon = self.daemon()
        loader = self.load(daemon)
        self.more()

        def strike(name, pass_on, source, target):
            if name != "hand_over":
                return False
            self.said(daemon, "this daemon serves on")
            target.shutdown(socket.SHUT_RD)  # as the daemon has done on its end
            pass_on()
            target.send(source.recv(1 << 16))  # its refusal
            return True
        between = Between(self, daemon, strike)
        new = self.successor(between.path)
        between.join(60 * SLOW)
        run = new.wait(30 * SLOW)
        self.assertEqual(run.status, 1, run.text)
        self.assert_alone(daemon)
        self.finish(loader, 1)

    def test_old_one_killed_before_it_handed_over(self):
        daemon = self.daemon()
        loader = self.load(daemon)
        self.more()

        def strike(name, *_):
            if name == "ready":
                daemon.kill()
                daemon.process.wait(10)
            return name == "ready"
        between = Between(self, daemon, strike)
        # It starts cold, on its own path: that is another one here.
        new = self.successor(between.path)
        self.said(new, "starting cold")
        self.said(new, "ready: version")
        again = self.daemon(path=daemon.path)
        self.finish(loader, 1)
        self.assert_alone(again)

    def test_old_one_killed_when_it_had_sent_everything(self):
        daemon = self.daemon()
        loader = self.load(daemon)
        self.more()

        def strike(name, *_):
            if name == "hand_over":
                daemon.kill()
                daemon.process.wait(10)
            return name == "adopted"  # nobody is left to read it
        between = Between(self, daemon, strike)
        new = self.successor(between.path)
        self.said(new, "taken over from version")
        self.finish(loader, 1)  # trainers know the old path, on which the new one listens
        new.kill(signal.SIGTERM)
        self.assertEqual(new.process.wait(20 * SLOW), 0, new.stderr())

    def test_successor_killed_at_any_time(self):
        """Either of the two serves, or, where the new one died as the only one, the next that is started."""
        daemon = self.daemon()
        loader = self.load(daemon)
        chance = random.Random(7)
        for _ in range(8):
            self.more(1)
            new = self.successor(daemon.path)
            wanted = chance.uniform(0, 0.08)
            # Where it needs less this time, it is killed when it serves.
            wait_for(lambda: cpu(new.pid) >= wanted or "taken over from version" in new.stderr(), 30 * SLOW, "it has come so far")  # pylint: disable=cell-var-from-loop
            new.kill()
            new.process.wait(10)
            if "handed over to version" in daemon.stderr():
                self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
                daemon = self.daemon(path=daemon.path)
            self.assert_alone(daemon)
        self.ration.give_all()
        run = loader.wait(120 * SLOW)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, self.digest_path)

    def test_trainer_that_reads_no_slab_holds_up_nobody(self):
        """It opens streams and never reads its handle socket: others open theirs, and the successor takes over, as if it were not there."""
        daemon = self.daemon()
        loader = self.load(daemon)
        self.more()
        deaf = self.keep(trainer.Trainer(daemon.path))
        spec = trainer.pb.StreamSpec(bucket=f"file://{self.bucket}", format=trainer.pb.FORMAT_RAW, batch_size=1, prefetch_bytes=1,
                                     tensors=[trainer.pb.TensorSpec(dtype=trainer.pb.DTYPE_UINT8, shape=[harness.SAMPLE])])
        requests = [queue.SimpleQueue() for _ in range(400)]
        for each in requests:
            each.put(trainer.pb.OpenStreamRequest(spec=spec))
            deaf.stub.OpenStream(iter(each.get, None), metadata=deaf.metadata)
        self.addCleanup(lambda: [each.put(None) for each in requests])
        # What has room in its socket is opened; the next one waits for it, and none of the others is begun.
        wait_for(lambda: daemon.stderr().count(" slots in ") > 5, 30 * SLOW, "some of its streams are open")
        run = self.loader("--bucket", f"file://{self.bucket}", *RAW, service=daemon.socket)
        self.assertEqual(run.status, 0, run.text)
        new = self.successor(daemon.path)
        self.said(new, "taken over from version")
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
        self.assertNotIn("this daemon serves on", daemon.stderr())
        self.finish(loader, 1)

    def test_refused_before_anything_stops(self):
        """A successor that sees from what it is offered that it cannot go on: no trainer notices."""
        daemon = self.daemon()
        loader = self.load(daemon)
        self.more()

        def strike(name, _, __, target):
            if name == "present":
                return False
            packet = upgrade_pb2.UpgradePacket()  # in place of ready
            packet.failed.code, packet.failed.message = 9, "the pool is too small"
            target.send(packet.SerializeToString())
            return True
        between = Between(self, daemon, lambda name, *rest: name != "hello" and strike(name, *rest))
        self.successor(between.path)
        between.join(30 * SLOW)
        self.said(daemon, "the pool is too small. Nothing was stopped for it; this daemon serves on")
        self.assertNotIn("handing over", daemon.stderr())
        self.assert_alone(daemon)
        self.ration.give_all()
        run = loader.wait(120 * SLOW)
        self.assertEqual((run.status, run.summary["reconnects"]), (0, 0), run.text)

    def test_stopped_trainer_holds_up_nobody(self):
        daemon = self.daemon()
        loader = self.load(daemon)
        self.more()
        stopped = self.start("--bucket", self.web.url, *RAW, service=daemon.socket)
        wait_for(lambda: "stream" in daemon.stderr() and daemon.stderr().count(" slots in ") == 2, 30 * SLOW, "both streams are open")
        stopped.kill(signal.SIGSTOP)
        new = self.successor(daemon.path)
        self.said(new, "taken over from version")
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
        self.finish(loader, 1)


def cpu(pid):
    """Seconds of CPU a process has had: where it stands in its start, however busy the machine is."""
    return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)
