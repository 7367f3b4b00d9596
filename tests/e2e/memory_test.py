# SPDX-License-Identifier: Apache-2.0
"""What a bucket or a trainer can make large is counted in --memory-limit, and never the end of the daemon."""
import http.server
import json
import os
import pathlib
import signal
import threading
import time
import unittest

import harness
import trainer
from harness import RAW, SLOW
from trainer import pb

MIB = 1 << 20
ROOM = 250 * MIB * (4 if harness.SLOW > 1 else 1)  # what a daemon takes besides what it counts: itself, its threads, its allocator


class Server:
    """Answers what `answer(handler)` does, to GET only."""

    def __init__(self, answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):  # pylint: disable=invalid-name
                try:
                    answer(self)
                except OSError:  # it has hung up
                    self.close_connection = True
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def reply(handler, status, headers=(), body=b""):
    handler.send_response(status)
    for name, value in headers:
        handler.send_header(name, value)
    if "Content-Length" not in dict(headers):
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def big_index(size):
    """An index of so many bytes, as far as it is read."""
    def answer(handler):
        if not handler.path.endswith(".devmem-index"):
            return reply(handler, 404)
        first, last = (int(end) for end in handler.headers["Range"].split("=")[1].split("-"))
        last = min(last, size - 1)
        reply(handler, 206, (("Content-Range", f"bytes {first}-{last}/{size}"), ("Content-Length", str(last - first + 1))))
        for _ in range(0, last - first + 1, MIB):
            handler.wfile.write(bytes(min(MIB, last - first + 1)))
        return None
    return answer


def long_listing(handler):
    """A listing of a GiB."""
    if handler.path.endswith(".devmem-index"):
        return reply(handler, 404)
    entries = b",".join(b'{"name":"%08d","type":"file","size":1}' % i for i in range(20000))
    size = 1 << 30
    reply(handler, 200, (("Content-Length", str(size)),), b"[" + entries)
    written = 1 + len(entries)
    while written < size:
        handler.wfile.write(b"," + entries)
        written += 1 + len(entries)
    return None


class MemoryTest(harness.TestCase):
    def most(self, daemon):
        """Bytes: the most that it has had in memory."""
        for line in pathlib.Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
        raise AssertionError("no VmHWM")

    def pools(self, daemon):
        with trainer.Trainer(daemon.path) as observer:
            return {pool.name: pool.bytes_used for pool in observer.status().pools}

    def assert_well(self, daemon, limit):
        """It serves, has had no more than it may, and has given everything back."""
        self.assertIsNone(daemon.process.poll(), daemon.stderr())
        self.assertLess(self.most(daemon), limit + ROOM)
        harness.wait_for(lambda: set(self.pools(daemon).values()) == {0}, 10 * SLOW, "all is given back")
        run = self.loader("--bucket", f"file://{self.raw_bucket()}", *RAW, "--prefetch", "2M", service=daemon.socket)
        self.assertEqual(run.status, 0, run.text)

    def test_an_index_that_claims_8_gib(self):
        daemon = self.daemon("--memory-limit", "64MiB")
        for size, code in ((8 << 30, "DATA_LOSS"), (1 << 30, "RESOURCE_EXHAUSTED")):
            server = self.keep(Server(big_index(size)))
            run = self.loader("--bucket", server.url, service=daemon.socket)
            self.assert_failed(run, ".devmem-index", code=code)
        self.assert_well(daemon, 64 * MIB)

    def test_listings_of_a_gib_in_parallel(self):
        daemon, server = self.daemon("--memory-limit", "128MiB"), self.keep(Server(long_listing))
        runs = [self.start("--bucket", server.url, service=daemon.socket) for _ in range(16)]
        for run in runs:
            self.assert_failed(run.wait(), "listing", code="RESOURCE_EXHAUSTED")
        self.assert_well(daemon, 128 * MIB)

    def test_a_listing_is_counted_while_its_stream_is_open(self):
        bucket = self.folder("many")
        for i in range(20000):
            (bucket / f"{'n' * 150}{i:05}").write_bytes(b"x")
        daemon = self.daemon()
        with trainer.Trainer(daemon.path) as reader:
            stream = reader.open(bucket=f"file://{bucket}", format=pb.FORMAT_RAW, batch_size=100, prefetch_bytes=1,  # a window of next to nothing
                                 tensors=[pb.TensorSpec(dtype=pb.DTYPE_UINT8, shape=[1])])
            self.assertGreater(self.pools(daemon)["listings"], 20000 * 200 - MIB)
            self.assertIn("listings: ", self.verb("status", "--service", daemon.socket).stdout)
            stream.cancel()
        harness.wait_for(lambda: self.pools(daemon)["listings"] == 0, 10 * SLOW, "it is given back")

    def test_a_trainer_that_does_not_read(self):
        """2 MiB of slabs, of which gigabytes could be said: an object's long name for every byte."""
        bucket = self.folder("bytes")
        (bucket / ("n" * 250)).write_bytes(bytes(4 * MIB))
        daemon = self.daemon("--memory-limit", "512MiB")
        spec = {"bucket": f"file://{bucket}", "format": pb.FORMAT_RAW, "batch_size": 256, "with_sources": True, "prefetch_bytes": 2 * MIB,
                "tensors": [pb.TensorSpec(dtype=pb.DTYPE_UINT8, shape=[1])], "shuffle": pb.Shuffle(mode=pb.Shuffle.GLOBAL)}
        for names in (False, True):
            with trainer.Trainer(daemon.path) as reader:
                stream = reader.open(**spec, source_names=names)
                harness.wait_for(lambda s=stream: self.held(daemon) == s.opened.slots, 60 * SLOW, "the window is full, and nobody reads")
                batch = next(stream.batches(release=False))
                self.assertEqual(len(batch.sources), 256)
                self.assertEqual(list(batch.source_names), ["n" * 250] if names else [])
                self.assertEqual({source.object for source in batch.sources}, {"" if names else "n" * 250})
                stream.cancel()
            harness.wait_for(lambda: set(self.pools(daemon).values()) == {0}, 10 * SLOW, "all is given back")
        self.assert_well(daemon, 512 * MIB)

    def held(self, daemon):
        with trainer.Trainer(daemon.path) as observer:
            streams = observer.status().streams
        return streams[0].slots_held if streams else 0

    def hostile(self):
        """A bucket and a glob that take hours to match."""
        def answer(handler):
            if handler.path.endswith(".devmem-index"):
                return reply(handler, 404)
            return reply(handler, 200, body=listing)
        listing = json.dumps([{"name": "a" * 4000 + f"{i:07}", "type": "file", "size": 1} for i in range(5000)]).encode()
        glob = "*" + "a" * 1000 + "0*"  # which a name has at its end only: until there it is a thousand comparisons a byte
        return {"bucket": self.keep(Server(answer)).url, "format": pb.FORMAT_RAW,
                "tensors": [pb.TensorSpec(name=f"t{i}", glob=glob, dtype=pb.DTYPE_UINT8, shape=[1]) for i in range(1000)]}

    def opening(self, daemon, spec):
        """A call that is being opened: it has been told of the listing, and its globs are being matched."""
        reader = self.keep(trainer.Trainer(daemon.path))
        call = reader.stub.OpenStream(iter([pb.OpenStreamRequest(spec=pb.StreamSpec(**spec))]), metadata=reader.metadata, timeout=600)
        for answer in call:
            if answer.progress.phase == "listing" and answer.progress.done == 5000:
                listed = self.cpu(daemon)
                harness.wait_for(lambda: self.cpu(daemon) > listed + 0.3, 60 * SLOW, "what comes after the listing takes its time")
                return call
        raise AssertionError("it was opened")

    def test_an_opener_ends_with_its_trainer(self):
        daemon = self.daemon()
        call = self.opening(daemon, self.hostile())
        call.cancel()
        harness.wait_for(lambda: not any(self.works(daemon) for _ in range(20)), 20 * SLOW, "nobody works for a trainer that has left")

    @staticmethod
    def works(daemon):
        """Whether any of its threads does, or would if there were a CPU for it."""
        time.sleep(0.01)  # between two looks
        try:
            tasks = [(task / "stat").read_text() for task in pathlib.Path(f"/proc/{daemon.pid}/task").iterdir()]
        except (FileNotFoundError, ProcessLookupError):  # one has ended
            return True
        return any(task.rsplit(")", 1)[1].split()[0] == "R" for task in tasks)

    def cpu(self, daemon):
        fields = pathlib.Path(f"/proc/{daemon.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_sigterm_ends_a_daemon_that_matches_globs(self):
        daemon = self.daemon("--drain-timeout", "1s")
        self.opening(daemon, self.hostile())
        daemon.kill(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())

    def test_a_glob_of_megabytes(self):
        daemon = self.daemon()
        run = self.loader("--bucket", f"file://{self.raw_bucket()}", *RAW, "--tensor", "*" * (1 << 16), service=daemon.socket)
        self.assert_failed(run, "65536 bytes", code="INVALID_ARGUMENT")


class ControlGroupTest(harness.TestCase):
    LIMIT = 300 * MIB

    def group(self):
        """A control group of its own below ours, with a limit; skips where none can be made."""
        for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for top, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes") if controllers == "memory" else
                               ("/sys/fs/cgroup", "memory.max") if not controllers else (None, None),):
                if top is None:
                    continue
                folder = pathlib.Path(f"{top}{path}") / f"devmem-test-{os.getpid()}"
                try:
                    folder.mkdir()
                except OSError:
                    continue
                self.addCleanup(folder.rmdir)
                try:
                    (folder / limit).write_text(str(self.LIMIT))
                except OSError:
                    continue
                return folder
        raise unittest.SkipTest("no control group with a memory limit can be made here")

    def test_the_default_limit_is_half_of_the_groups(self):
        """Streams of the default size in 300 MiB: refused where there is no room, instead of killed with all others."""
        group = self.group()

        def enter():
            (group / "cgroup.procs").write_text(str(os.getpid()))
        daemon = self.daemon(preexec_fn=enter)
        self.addCleanup(daemon.process.wait, 10)
        self.addCleanup(daemon.kill)
        bucket = self.raw_bucket(samples=16384, shards=4)  # 256 MiB
        spec = {"bucket": f"file://{bucket}", "format": pb.FORMAT_RAW, "batch_size": 16,
                "tensors": [pb.TensorSpec(dtype=pb.DTYPE_UINT8, shape=[harness.SAMPLE])]}
        with trainer.Trainer(daemon.path) as reader:
            status = reader.status()
            self.assertEqual(status.pools[0].bytes_limit, self.LIMIT // 2)
            self.assertRegex(status.memory_limit_source, "half of memory.* of the control group /.*devmem-test")
            self.assertIn(f"memory limit: {self.LIMIT // 2} bytes, half of memory.", daemon.stderr())
            first = reader.open(**spec)
            for _ in range(2):
                with trainer.Trainer(daemon.path) as other, self.assertRaises(trainer.grpc.RpcError) as refused:
                    other.open(**spec)
                self.assertEqual(refused.exception.code(), trainer.grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertEqual(sum(len(batch.sample_ids) for batch in first.batches()), 16384)
        self.assertIsNone(daemon.process.poll(), daemon.stderr())


if __name__ == "__main__":
    unittest.main()
