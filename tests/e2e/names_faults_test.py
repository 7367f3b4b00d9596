# SPDX-License-Identifier: Apache-2.0
"""What names and their addresses do (docs/faults.md): several addresses, dead ones, hosts that move, and name servers that are silent.

The daemon's name server is a file of this test's (names_shim.c), so that it can be changed while a stream is under way.
"""
import collections
import os
import shutil
import subprocess
import threading

import fault_server
import harness
from harness import QUICK, RAW, SLOW, wait_for


class NamesFaultsTest(harness.TestCase):
    def setUp(self):
        super().setUp()
        compiler = shutil.which("cc") or shutil.which("gcc")
        if not compiler:
            self.skipTest("no C compiler for the name server of the test")
        if os.environ.get("DEVMEM_SANITIZE"):
            self.skipTest("a sanitizer's getaddrinfo stands before ours")
        shim, self.names = self.work / "names.so", self.work / "names"
        subprocess.run([compiler, "-O1", "-fPIC", "-shared", "-o", shim, harness.HERE / "names_shim.c", "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(shim), "DEVMEM_TEST_NAMES": str(self.names)}
        self.digest_path = self.work / "digest"

    def say(self, **hosts):
        """From now on these hosts have these addresses; at once, for whoever looks."""
        new = self.work / "names.new"
        new.write_text("".join(f"{name}.test {addresses}\n" for name, addresses in hosts.items()))
        new.rename(self.names)

    def run_at(self, server, host, *flags, **options):
        return self.start("--bucket", f"http://{host}.test:{server.port}/", *RAW, "--tail", "uneven", *QUICK, *flags, digest=self.digest_path,
                          environment=self.environment, **options)

    @staticmethod
    def came_by(server):
        """Connections that brought payload, by the address of the server they went to."""
        return collections.Counter(address for address, _ in {(r.address, r.peer) for r in server.log if fault_server.payload(r)})

    def test_payload_goes_to_all_addresses(self):
        bucket = self.raw_bucket()
        server = self.server(bucket, host="0.0.0.0")
        self.say(multi="127.0.0.1 127.0.0.2 127.0.0.3")
        run = self.run_at(server, "multi", "--connections", "6").wait()
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(bucket, self.digest_path)
        self.assertEqual(sorted(self.came_by(server)), ["127.0.0.1", "127.0.0.2", "127.0.0.3"])

    def test_one_dead_address_of_three(self):
        bucket = self.raw_bucket()
        server = self.server(bucket, host="127.0.0.1")
        self.say(multi="127.0.0.9 127.0.0.1 127.0.0.8")  # nobody listens at two of them
        run = self.run_at(server, "multi").wait()
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(bucket, self.digest_path)

    def test_host_that_moves_in_mid_stream(self):
        bucket = self.raw_bucket("moves", samples=1024, shards=16)
        old = self.server(bucket, host="127.0.0.1")
        new = self.server(bucket, host="127.0.0.2", port=old.port)
        self.say(store="127.0.0.1")
        half = threading.Event()

        def enough(request):
            if sum(fault_server.payload(r) for r in old.log) >= 8:
                half.set()
            return False
        old.fault("*", fault_server.Silent(), when=enough)  # takes no request, only looks
        loader = self.run_at(old, "store", "--shuffle", "none", "--prefetch", "256k", "--batch-size", "4", "--connections", "2",
                             "--max-retries", "100")
        self.assertTrue(half.wait(60 * SLOW))
        self.say(store="127.0.0.2")
        old.close()
        # Some seconds on an idle machine; that it is not a minute, when addresses expire, is what counts.
        wait_for(lambda: new.requests(), 30 * SLOW, "payload is asked for where the host is now")
        run = loader.wait()
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(bucket, self.digest_path)

    def silent(self, name):
        """A name about which the name server says nothing (to whoever is not libcurl) until the test ends."""
        fifo = self.work / f"silent-{name}"
        os.mkfifo(fifo)
        # Whoever waits then is let go, so that nothing is left of the test.
        self.addCleanup(lambda: os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK)))
        return f"!{fifo}"

    def test_silent_name_holds_up_nobody_else(self):
        bucket = self.raw_bucket()
        server = self.server(bucket)
        self.say(**{f"dead{i}": self.silent(i) for i in range(6)}, fine="127.0.0.1")
        daemon = self.daemon(*QUICK, "--connect-timeout", "60", "--read-timeout", "60", environment=self.environment)
        dead = [self.start("--bucket", f"http://dead{i}.test:{server.port}/", *RAW, service=daemon.socket) for i in range(3)]
        wait_for(lambda: all(program.process.poll() is None for program in dead) and len(server.requests("/")) >= 3, 30 * SLOW,
                 "three streams are open and wait for the addresses of their payload")
        for host in (f"127.0.0.1:{server.port}", f"fine.test:{server.port}"):
            run = self.loader("--bucket", f"http://{host}/", *RAW, "--tail", "uneven", service=daemon.socket, digest=self.digest_path)
            self.assertEqual(run.status, 0, run.text)
            self.assert_delivered(bucket, self.digest_path)
            self.assertLess(run.seconds, 30 * SLOW)
        self.assertEqual([program.process.poll() for program in dead], [None] * 3, "which wait for theirs")

    def test_silent_name_fails_its_own_stream_in_time_and_holds_up_no_end(self):
        server = self.server(self.raw_bucket())
        self.say(dead=self.silent("dead"))
        run = self.run_at(server, "dead", "--connect-timeout", "0.3", "--max-retries", "2").wait()
        self.assert_failed(run, "for the address of host 'dead.test'", code="UNAVAILABLE")
        self.assertLess(run.seconds, 20 * SLOW)
