# SPDX-License-Identifier: Apache-2.0
"""What these tests have in common: a pair of NICs, nginx on the far one, a data set, a daemon here, trainers that read from it."""
import json
import pathlib
import re
import signal
import tempfile
import unittest

from guest import dataset, ethtool, netdev, nic, product, serve, shell

NPY = ("--tensor", "image=images/*.npy", "--tensor", "label=labels/*.npy", "--batch-size", "8", "--tail", "uneven")
TOKENS = ("--batch-size", "16", "--tail", "uneven")
SAMPLE = 16384  # bytes of a raw sample
UNHURRIED = "limit_rate 1m;"  # nginx's, a connection: what reads without end leaves the emulated CPU to others
RAW = ("--format", "raw", "--dtype", "uint8", "--shape", SAMPLE, "--batch-size", "8", "--shuffle", "none")
# Faults of the network are found in seconds: the wire is short, though the CPU is emulated.
QUICK = ("--connect-timeout", "3s", "--first-byte-timeout", "8s", "--stall-timeout", "4s", "--read-timeout", "60s")
QUEUE = 3  # the highest of four: what a daemon takes that is given one
# A small pool, because an emulated CPU takes its time to clear memory; test_auto has the one that a daemon chooses.
DEVMEM = ("--transport", "devmem", "--interface", "dms0", "--queues", "1", "--connections", "4", "--landing-pool", "48MiB", *QUICK)


def state(here):
    """All that a daemon may change on a NIC."""
    return {
        "header split": ethtool.rings(here).get("tcp-data-split"),
        "threshold": ethtool.rings(here).get("hds-thresh"),
        "features": ethtool.features(here),
        "RSS": ethtool.rss(here)["rss-indirection-table"],
        "rules": ethtool.locations(here),
        "bindings": sorted(pool["dmabuf"] for pool in netdev.pools(here.ifindex) if "dmabuf" in pool),
    }


def bound_queues(here):
    """{queue: dma-buf id} as the kernel tells it."""
    return {queue["id"]: queue["dmabuf"] for queue in netdev.queues(here.ifindex) if "dmabuf" in queue}


def rules(here):
    """{local port: queue} of the rules for one local port, as the NIC tells them."""
    text = ethtool.run("", here, "-n").stdout
    found = re.findall(r"^Filter: \d+$(.*?)(?=^Filter:|\Z)", text, re.M | re.S)
    pairs = [(re.search(r"Dest port: (\d+) mask: 0x0$", rule, re.M), re.search(r"Direct to queue (\d+)", rule)) for rule in found]
    return {int(port[1]): int(queue[1]) for port, queue in pairs if port and queue}


def inflight(here):
    """Buffers that are out of the pools on dma-bufs."""
    return sum(pool["inflight"] for pool in netdev.bound_pools(here.ifindex))


class Stand(unittest.TestCase):
    QUEUES = 4
    PERSONALITY = {}  # of the NICs

    def setUp(self):
        self.here, self.there = nic.pair(self, queues=self.QUEUES, **self.PERSONALITY)
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="e2e-"))
        self.bucket = self.work / "bucket"
        self.found = state(self.here)

    def serve(self, **more):
        return serve.nginx(self, self.bucket, self.there, **more)

    def daemon(self, *flags, **more):
        """A daemon that receives into device memory, or does not start."""
        return product.daemon(self, *DEVMEM, *flags, **more)

    def refused(self, *flags):
        """What a daemon says that has to receive into device memory and cannot."""
        daemon = product.daemon(self, *DEVMEM, *flags, ready=False)
        run = daemon.wait(40)
        self.assertEqual(1, run.status, run.text)
        return run.text

    def devmem(self, daemon):
        """What a daemon says of its devmem path."""
        (path,) = product.status(self, daemon)["paths"]
        self.assertEqual("devmem", path["name"], path)
        return path["devmem"]

    def trainers(self, daemon, url, *flags, world=2):
        """As many trainers as the world has, at once: their summaries and their digests."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.work))
        digests = [folder / f"rank{rank}.jsonl" for rank in range(world)]
        runs = [product.loader(self, "--bucket", url, *flags, "--service", daemon.service, "--rank", rank, "--world-size", world, digest=digest)
                for rank, digest in enumerate(digests)]
        summaries = []
        for run in [each.wait(150) for each in runs]:
            self.assertEqual(0, run.status, f"{run.text}\ndaemon: {daemon.stderr()[-3000:]}")
            summaries.append(run.summary)
        return summaries, digests

    def assert_delivered(self, rows, digests, epochs=1):
        wrong = dataset.faults(rows, digests, epochs)
        self.assertEqual([], wrong[:5], f"{len(wrong)} faults")

    def assert_as_found(self, what=""):
        """The NIC is as it was before the test, as soon as the kernel has freed what is on its way."""
        def same():
            netdev.flush_deferred()
            return state(self.here) == self.found
        try:
            shell.until(same, "the NIC is as it was found")
        except Exception:  # pylint: disable=broad-except
            self.assertEqual(self.found, state(self.here), what)


class Endless:
    """A trainer that reads a raw bucket in its stored order, round and round, until it is told to stop. Meanwhile faults happen;
    stop() then holds what it was given against the file's samples: each epoch whole and in order, up to where it was stopped."""

    def __init__(self, test, daemon, url, rows, *flags):
        self.test, self.rows = test, rows
        self.digest = test.work / "endless.jsonl"
        self.digest.write_bytes(b"")  # an earlier one's would count as delivered
        self.daemon = daemon
        self.program = product.loader(test, "--bucket", url, *RAW, "--epochs", 1000000, "--service", daemon.service, "--drain-timeout", "30s",
                                      *flags, digest=self.digest)

    def delivered(self):
        """Samples so far, as far as they are written down."""
        return self.digest.read_bytes().count(b"\n")

    def more(self, samples=120, seconds=60.0):
        """Waits until so many more samples were delivered than now."""
        wanted = self.delivered() + samples

        def there():
            if not self.program.running():
                raise AssertionError(f"the trainer ended:\n{self.program.wait().text}\ndaemon:\n{self.daemon.stderr()[-3000:]}")
            return self.delivered() >= wanted
        try:
            shell.until(there, f"{samples} more samples", seconds)
        except Exception as e:
            raise AssertionError(f"{e}\ntrainer:\n{self.program.stderr()[-2000:]}\ndaemon:\n{self.daemon.stderr()[-4000:]}") from e

    def check(self):
        """That what was delivered is the files' samples in their order, none left out, none twice. Returns how many have other bytes
        than the file's."""
        order = sorted(self.rows)
        spoilt = 0
        for place, line in enumerate(map(json.loads, self.digest.read_text().splitlines())):
            epoch, at = divmod(place, len(order))
            self.test.assertEqual((epoch, *order[at]), (line["epoch"], line["object"], line["offset"], line["bytes"]), f"delivery {place}")
            spoilt += line["sha256"] != self.rows[order[at]]
        return spoilt

    def stop(self, spoilt=0):
        """Ends it, checks what it was given, and returns its summary. `spoilt`: samples with other bytes than the file's, at most."""
        self.program.kill(signal.SIGINT)
        run = self.program.wait(60)
        self.test.assertEqual(130, run.status, run.text)
        found = self.check()
        self.test.assertLessEqual(found, spoilt, "samples with the wrong bytes")
        self.test.assertEqual(found > 0, spoilt > 0, "samples with the wrong bytes")
        return run.summary

    def failed(self, seconds=60.0):
        """Waits for it to fail, checks what it was given until then, and returns its error."""
        run = self.program.wait(seconds)
        self.test.assertEqual(1, run.status, run.text)
        self.test.assertEqual(0, self.check(), "samples with the wrong bytes")
        return run.error
