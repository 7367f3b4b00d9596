# SPDX-License-Identifier: Apache-2.0
"""What docs/operations.md reckons for slabs is what a stream reserves, and for descriptors what trainers take. (Its table of landing pools is net/rx/landing_pool_test.cc's; its
names and errors are tests/lint/names.py's.)"""
import json
import os
import pathlib
import re
import signal
import subprocess

import harness
import trainer

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs/operations.md"
ROW = re.compile(r"^\| (\d+) \| (\d+) \+ (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", re.M)


class OperationsTest(harness.TestCase):
    def test_slabs_are_as_reckoned(self):
        rows = [tuple(map(int, row)) for row in ROW.findall(DOCS.read_text(encoding="utf-8"))]
        self.assertGreaterEqual(len(rows), 3, "the table of slabs")
        for number, (batch, first, second, prefetch, slots, slabs) in enumerate(rows):
            with self.subTest(batch=batch):
                bucket = self.work / f"bucket-{number}"
                bucket.mkdir()
                for name, size in (("first", first), ("second", second)):
                    with open(bucket / f"a.{name}", "wb") as file:
                        file.truncate(size * batch * (slots + 1))  # holes: nothing is read
                done = subprocess.run([harness.BIN / "devmem-loader", "--bucket", f"file://{bucket}", "--format", "raw",
                                       "--tensor", "first=*.first", "--tensor", "second=*.second", "--dtype", "uint8",
                                       "--shape", f"first={first}", "--shape", f"second={second}", "--batch-size", str(batch),
                                       "--prefetch", f"{prefetch}MiB", "--transport", "copy", "--dry-run", "--output", "json"],
                                      capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 0, done.stderr)
                opened = json.loads(done.stdout.splitlines()[-1])
                self.assertEqual((opened["slots"], opened["slab_bytes"]), (slots, slabs))

    def test_descriptors_are_as_reckoned(self):
        said = re.search(r"connections \+ (\d+) a trainer .* \+ (\d+) a stream .* \+ (\d+) for itself", DOCS.read_text(encoding="utf-8"))
        each, slab, itself = map(int, said.groups())
        daemon = self.daemon("--transport", "copy", "--workers", "8")
        bucket = f"file://{self.raw_bucket()}"

        def taken():
            return len(os.listdir(f"/proc/{daemon.pid}/fd"))

        # What is there from the first use on is part of "itself"; and nobody's connection may be counted in it: that the daemon
        # listens was seen by connecting to it, and it closes its end of that later.
        self.assertEqual(self.loader("--bucket", bucket, *harness.RAW, service=daemon.socket).status, 0)
        harness.wait_for(lambda: not harness.peers_of(daemon), 20 * harness.SLOW, "nobody is connected")
        before = taken()
        self.assertLess(before, itself)
        # Streams that nobody reads: once their windows are full, nothing of the bucket is open.
        held = self.keep(trainer.Trainer(daemon.path))
        streams = []
        for number in range(1, 4):
            streams.append(held.open(bucket=bucket, format=trainer.pb.FORMAT_RAW, batch_size=1, epochs=1, world_size=1, prefetch_bytes=64 << 10,
                                     tensors=[trainer.pb.TensorSpec(dtype=trainer.pb.DTYPE_UINT8, shape=[harness.SAMPLE])]))
            next(streams[-1].batches())
            self.settles(taken, before + each + number * slab)
        before = taken()
        for number in range(1, 3):
            run = self.start("--bucket", bucket, *harness.RAW, "--prefetch", "64KiB", "--epochs", "1000000", service=daemon.socket)
            harness.wait_for(lambda number=number: len(held.status().streams) == 3 + number, 20 * harness.SLOW, "its stream is open")
            os.kill(run.pid, signal.SIGSTOP)
            self.settles(taken, before + number * (each + slab))

    def settles(self, taken, wanted):
        try:
            harness.wait_for(lambda: taken() == wanted, 20 * harness.SLOW, "as reckoned")
        except AssertionError:
            self.assertEqual(taken(), wanted, "descriptors of the daemon")
