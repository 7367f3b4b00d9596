# SPDX-License-Identifier: Apache-2.0
"""A daemon after some thousand cases of socket_fuzz.py: it serves as before, and holds no more than before."""
import contextlib
import os
import re
import unittest

import harness
import trainer
from harness import SAMPLE, SLOW, wait_for
from socket_fuzz import SocketFuzz

pb = trainer.pb
LISTENERS = 3  # gRPC, handle and upgrade socket


class Fuzzed(harness.TestCase):
    def fuzz(self, seed, go_on):
        """Until go_on(cases so far) says no."""
        bucket = self.raw_bucket()
        config = self.work / "config.yaml"  # so that a path that was cut short does not have it list this host's files
        config.write_text(f"access: [{{bucket: 'file://{bucket}', streams: 64}}]\n")
        daemon = self.daemon("--config", str(config), "--memory-limit", "64MiB", "--transport", "copy")
        spec = pb.StreamSpec(bucket=f"file://{bucket}", format=pb.FORMAT_RAW, batch_size=16, epochs=1, world_size=1, prefetch_bytes=1 << 20,
                             shuffle=pb.Shuffle(mode=pb.Shuffle.NONE), tensors=[pb.TensorSpec(dtype=pb.DTYPE_UINT8, shape=[SAMPLE])])
        stored = b"".join(path.read_bytes() for path in sorted(bucket.glob("*.bin")))

        def stream():
            with trainer.Trainer(daemon.path) as client:
                opened = trainer.Stream(client, spec, 60 * SLOW)
                self.assertTrue(b"".join(opened.view(batch, 0).tobytes() for batch in opened.batches()) == stored, "byte for byte")

        stream()
        before = self.quiet(daemon)
        fuzz = SocketFuzz(daemon.path, spec, seed)
        try:
            while go_on(fuzz.cases):
                fuzz.case()
                self.assertIsNone(daemon.process.poll(), f"the daemon ended in case {fuzz.cases} of seed {seed}:\n{daemon.stderr()[-3000:]}")
        finally:
            fuzz.close()
        print(f"seed {seed}: {fuzz.cases} cases, {fuzz.answered} calls answered; {len(before)} descriptors before")
        self.assertGreater(fuzz.answered, fuzz.cases // 10, "the calls in due form reach the service")
        stream()
        self.assertEqual(self.quiet(daemon), before)
        self.assertIsNone(daemon.process.poll())

    def quiet(self, daemon):
        """What the daemon holds open once nobody is connected and nothing of a stream is left."""
        def clean():
            with trainer.Trainer(daemon.path) as observer:
                return trainer.at_rest(observer.status())
        wait_for(clean, 20 * SLOW, "streams and slabs are gone")

        def held():
            names = []
            for fd in os.listdir(f"/proc/{daemon.pid}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    names.append(re.sub(r"\d+", "N", os.readlink(f"/proc/{daemon.pid}/fd/{fd}")))
            return sorted(names)

        def alone():
            now = held()
            return now if now.count("socket:[N]") == LISTENERS and "anon_inode:[pidfd]" not in now else None
        try:
            return wait_for(alone, 20 * SLOW, "nobody is connected")
        except AssertionError:
            return held()  # which the caller's comparison shows


class SocketFuzzTest(Fuzzed):
    def test_some_thousand_cases(self):
        self.fuzz(seed=7, go_on=lambda cases: cases < 3000)


if __name__ == "__main__":
    unittest.main()
