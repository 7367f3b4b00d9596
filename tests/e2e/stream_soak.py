# SPDX-License-Identifier: Apache-2.0
"""Long runs (./dev test --long): random faults for minutes, and hundreds of streams, with nothing lost and nothing left.
$DEVMEM_SOAK_SECONDS: how long each goes on (default 180)."""
import os
import pathlib
import random
import time

import fault_server
import harness
from harness import RAW, SLOW

SECONDS = int(os.environ.get("DEVMEM_SOAK_SECONDS", "180"))


class StreamSoak(harness.TestCase):
    def test_random_faults_that_heal(self):
        bucket = self.raw_bucket(shards=16, samples=1024)
        seed = int(time.time())
        print(f"seed {seed}")
        rng = random.Random(seed)
        until, rounds = time.monotonic() + SECONDS, 0
        while time.monotonic() < until:
            server = fault_server.FaultServer(bucket)
            for _ in range(rng.randint(1, 30)):
                at = rng.random()
                act = rng.choice([fault_server.Truncate(at), fault_server.Reset(at=at), fault_server.Garbage(), fault_server.Status(503),
                                  fault_server.Status(429), fault_server.Status(500), fault_server.Stall(at), fault_server.Silent(),
                                  fault_server.TooLong(rng.randint(1, 70000))])
                server.fault(f"/{rng.randrange(16):04d}.bin", act, times=1, skip=rng.randint(0, 2))
            digest = self.work / "digest"
            run = self.loader("--bucket", server.url, *RAW, "--tail", "uneven", "--epochs", "2", "--batch-size", rng.randint(1, 64), "--prefetch",
                              rng.choice(["1M", "4M", "64M"]), "--shuffle", rng.choice(["none", "block", "global"]), "--receive-loop",
                              rng.choice(["auto", "epoll"]), "--stall-timeout", "0.3", "--first-byte-timeout", "0.5", digest=digest,
                              timeout=300 * SLOW)
            self.assertEqual(run.status, 0, f"seed {seed}, round {rounds}\n{run.text}")
            self.assert_delivered(bucket, digest, epochs=2)
            server.close()
            rounds += 1
        print(f"{rounds} rounds")

    def test_streams_leave_nothing_behind(self):
        bucket, daemon = self.raw_bucket(), self.daemon()
        nginx, rng = self.nginx(bucket), random.Random(1)

        def fds():
            return len(os.listdir(f"/proc/{daemon.pid}/fd"))

        def resident():
            status = pathlib.Path(f"/proc/{daemon.pid}/status").read_text()
            return int(status.split("VmRSS:")[1].split()[0])

        until, rounds, first = time.monotonic() + SECONDS, 0, None
        while time.monotonic() < until:
            loaders = [self.start("--bucket", nginx.url, *RAW, "--prefetch", "4M", service=daemon.socket) for _ in range(4)]
            victim = rng.choice(loaders)
            if rounds % 2:
                victim.kill()
            for loader in loaders:
                run = loader.wait()
                if loader is not victim:
                    self.assertEqual(run.status, 0, run.text)
            rounds += 1
            if rounds == 10:
                first = (fds(), resident())
        self.assertIsNotNone(first, "fewer than 10 rounds")
        harness.wait_for(lambda: fds() <= first[0] + 20, 10, f"file descriptors: {first[0]} after 10 rounds, {fds()} after {rounds}")
        self.assertLess(resident(), first[1] + 32 * 1024, f"resident KiB after 10 and after {rounds} rounds")
        print(f"{rounds} rounds of 4 streams; descriptors {first[0]} -> {fds()}, resident {first[1]} -> {resident()} KiB")
