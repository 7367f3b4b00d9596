# SPDX-License-Identifier: Apache-2.0
"""Cost per MiB of a silent receive loop, of upstream's ncdevmem, and of the product; see cost.py for what is counted."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import guest
from guest import devmem, ethtool, nic, product, program, serve, shell

import cost

FILE = 64 << 20
SAMPLE = 8 * FILE  # 512 MiB
QUEUE, PORT = 3, 5201
NCDEVMEM = "/opt/linux/tools/testing/selftests/drivers/net/hw/ncdevmem"
PAGES = {"4k": None, "64k": 64 << 10}


class Stand(unittest.TestCase):
    deadline = 900

    def setUp(self):
        self.here, self.there = nic.pair(self, queues=4)
        cost.quiet(self.here, self.there)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cost-"))
        with open(self.folder / "0000.bin", "wb") as file:
            for _ in range(FILE >> 20):
                file.write(os.urandom(1 << 20))

    def send(self, total):
        """A process of its own at the far end that sends files, as a web server would; returns when it has."""
        code = ("import os, socket, sys\n"
                "sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)\n"
                "sock.settimeout(None)\n"
                "left = int(sys.argv[4])\n"
                "with open(sys.argv[3], 'rb') as file:\n"
                "    size = os.fstat(file.fileno()).st_size\n"
                "    while left:\n"
                "        at = 0\n"
                "        while at < min(size, left):\n"
                "            at += os.sendfile(sock.fileno(), file.fileno(), at, min(size, left) - at)\n"
                "        left -= at\n")
        shell.run(["python3", "-c", code, self.here.v4, PORT, self.folder / "0000.bin", total], self.there.netns, timeout=600)

    def listening(self, process):
        shell.until(lambda: str(PORT) in shell.run("ss -ltnH").stdout or process.poll() is not None, "it listens", 60)


def larger_pages(test, page):
    if page and guest.kernel() < (6, 20):
        test.skipTest("rx-page-size came after 6.19")


class Floor(Stand):
    """The silent loop: guest_bench_floor receive."""
    name, verb = "floor", "receive"

    def receive(self, memory, total):
        location = ethtool.steer(self.here, memory.queues[0], dst_port=PORT)
        try:
            with subprocess.Popen([*cost.RECEIVER, *program.command("guest_bench_floor"), self.verb, self.here.v4, str(PORT)], stdout=subprocess.PIPE, text=True) as loop:
                self.addCleanup(loop.kill)
                self.assertEqual("listening\n", loop.stdout.readline())
                before = cost.mark()
                self.send(total)
                said = json.loads(loop.stdout.read())
                self.assertEqual(0, loop.wait(60))
                said["marks"] = [before, cost.mark()]
        finally:
            ethtool.unsteer(self.here, location)
        self.assertEqual(total, said["device"], said)
        return said

    def measure(self, name):
        page = PAGES[name]
        larger_pages(self, page)
        with devmem.bound(self.here, [QUEUE], size=64 << 20, huge=page is not None, rx_page_size=page) as memory:
            nothing, all_of_it = self.receive(memory, 0), self.receive(memory, SAMPLE)
        mib = SAMPLE / cost.MIB
        cost.tell(f"{self.name}-{name}", marks=[nothing["marks"], all_of_it["marks"]], receive_calls_per_mib=round(all_of_it["receive_calls"] / mib, 3),
                  calls_per_mib=round(all_of_it["calls"] / mib, 3), fragment_bytes=round(SAMPLE / all_of_it["fragments"]), bytes=SAMPLE)

    def test_pages_of_4_kib(self):
        self.measure("4k")

    def test_pages_of_64_kib(self):
        self.measure("64k")


class Least(Floor):
    """The same, as cheap as a receiver of these fragments can be: guest_bench_floor least."""
    name, verb = "least", "least"

    def test_pages_of_4_kib(self):
        self.measure("4k")

    def test_pages_of_64_kib(self):
        self.measure("64k")


class Gather(Stand):
    """What the product's gather costs on the CPU that stands in for a GPU: to be taken off its figure."""

    def test_gather(self):
        for name, piece in (("4k", 4096), ("64k", 65536)):
            marks = [self.gather(0, piece), self.gather(SAMPLE, piece)]
            cost.tell(f"gather-{name}", marks=marks, bytes=SAMPLE)

    def gather(self, total, piece):
        before = cost.mark()
        subprocess.run([*cost.RECEIVER, *program.command("guest_bench_floor"), "gather", str(total >> 20), str(piece)], check=True)
        return [before, cost.mark()]


class Ncdevmem(Stand):
    """Upstream's receiver. It prints a line a fragment."""

    def receive(self, total):
        command = [*cost.RECEIVER, NCDEVMEM, "-L", "-l", "-f", self.here.name, "-s", self.here.v4, "-p", str(PORT), "-t", str(QUEUE), "-q", "1"]
        with open("/dev/null", "w", encoding="ascii") as nowhere, subprocess.Popen(command, stdout=nowhere, stderr=nowhere) as server:
            self.addCleanup(server.kill)
            self.listening(server)
            before = cost.mark()
            self.send(total)
            status = server.wait(60)
        if total:
            self.assertEqual(0, status)
        return [before, cost.mark()]

    def test_pages_of_4_kib(self):
        cost.tell("ncdevmem-4k", marks=[self.receive(0), self.receive(SAMPLE)], bytes=SAMPLE)


class Product(Stand):
    """The daemon: HTTP, rope, gather, delivery to a trainer that looks at nothing, and runs elsewhere."""
    FLAGS = ("--transport", "devmem", "--interface", "dms0", "--queues", "1", "--connections", "4")
    RAW = ("--format", "raw", "--dtype", "uint8", "--shape", 64 << 10, "--shuffle", "none")

    def run_trainer(self, daemon, url, *flags):
        run = product.loader(self, "--bucket", url, *self.RAW, "--service", daemon.service, "--require-zero-copy", *flags).wait(600)
        self.assertEqual(0, run.status, run.text)
        self.assertEqual(0, run.summary["bytes_copied"])
        return run.summary

    def read(self, daemon, url, epochs):
        summary = self.run_trainer(daemon, url, "--batch-size", 256, "--prefetch", "64MiB", "--epochs", epochs)
        self.assertEqual(epochs * FILE, summary["bytes"])
        return summary

    def little(self, daemon, url):
        """What a stream costs once: its slabs, above all, which are touched page by page."""
        return self.read(daemon, url, 2)

    def everything(self, daemon, url):
        return self.read(daemon, url, 2 + SAMPLE // FILE)

    def measure(self, name):
        page = PAGES[name]
        larger_pages(self, page)
        pathlib.Path("/proc/sys/vm/nr_hugepages").write_text("64" if page else "0", encoding="ascii")
        server = serve.nginx(self, self.folder, self.there)
        daemon = product.daemon(self, *self.FLAGS, prefix=cost.RECEIVER)
        told = self.told(daemon)
        self.assertEqual(page or 4096, told["nics"][0]["page_size"], told)
        self.little(daemon, server.url)  # what is done once in a daemon's life
        marks = []
        for what in (self.little, self.everything):
            before = cost.mark()
            what(daemon, server.url)
            marks.append([before, cost.mark()])
        counters = self.told(daemon)["counters"]
        calls = []
        for what in (self.little, self.everything):
            with cost.system_calls(daemon.pid) as count:
                what(daemon, server.url)
                calls.append(count())
        mib = SAMPLE / cost.MIB
        received = 3 * 2 * FILE + SAMPLE  # what the counters are of: little twice, everything once
        cost.tell(f"product-{name}", marks=marks, calls_per_mib=round((calls[1] - calls[0]) / mib, 3),
                  receive_calls_per_mib=round(counters["receive_calls"] / (received / cost.MIB), 3), fragment_bytes=round(counters["device_bytes"] / counters["fragments"]), bytes=SAMPLE)

    def told(self, daemon):
        return product.status(self, daemon)["paths"][0]["devmem"]

    def test_pages_of_4_kib(self):
        self.measure("4k")

    def test_pages_of_64_kib(self):
        self.measure("64k")
