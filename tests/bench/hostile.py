#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""./dev bench hostile: hostile tenants beside an honest one, for as long as one likes.

    hostile.py --minutes 30 [--svg docs/soak.svg]

One daemon, with a quota for another user. An honest trainer (devmem-loader, uid of the daemon) reads the same bucket again and again:
alone, beside the tenants below, alone, … (A B A B). The tenants are processes of user nobody, killed with -9 after each turn. Measured:
  - the honest one's GB/s alone and beside them: the medians may differ by 10 %
  - the daemon's memory, descriptors and threads, at rest after each turn (no streams, no slabs): the last third may not exceed the
    first by more than what is said at FLAT
  - every few turns, every sample's SHA-256
Tenants and their stores are of the lowest priority (nice 19, SCHED_IDLE): what is tested is what the daemon lets them do to others, not
who wins a core. What the daemon itself spends on them counts; what they cost wherever they are is what the honest one loses while they are at
another daemon, of the lowest priority, and is measured in turn with the rest. The honest one's store gives each connection so much a second
(--rate; 0: what it can): a trainer that wants all CPUs of the machine for itself would show who wins a core after all. A table to stdout; CSV, JSON and an SVG plot to build/bench/.
"""
import argparse
import csv
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parent / "e2e"))
import fault_server  # noqa: E402  pylint: disable=wrong-import-position
import harness  # noqa: E402  pylint: disable=wrong-import-position
import make_dataset  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20
NOBODY = 65534
SAMPLE = 16384  # of the tenants' own bucket
HONEST_SAMPLE = MIB
MEMORY = 256 * MIB  # the tenants' quota
STREAMS = 48
BAR = 0.90
RATE = "50m"  # bytes a second that the honest one's store gives a connection
KINDS = ("alone", "elsewhere", "beside")  # where the tenants are while the honest one reads
COLORS = {"alone": "#1f78b4", "elsewhere": "#33a02c", "beside": "#d95f02"}
FLAT = {"rss_mib": 32, "descriptors": 8, "threads": 4}  # what malloc keeps, a connection that ends late, a thread of gRPC's pool
DIGEST_EVERY = 4
PACE = 0.02  # seconds a tenant rests between two rounds: hostile, but not a test of how fast Python can loop
LISTED = 200_000  # objects of the large listing: 30 MB


# --- the tenants --------------------------------------------------------------------------------------------------
# Each is a loop body: it does one thing and returns. Everything it waits for has a deadline.
class Tenant:
    def __init__(self, path, stores, seed):
        import grpc
        import trainer
        self.grpc, self.client, self.pb = grpc, trainer, trainer.pb
        self.path, self.stores, self.rng = path, stores, random.Random(seed)
        self.kept = []

    def spec(self, bucket, **more):
        return {"bucket": bucket, "format": self.pb.FORMAT_RAW, "batch_size": 4, "prefetch_bytes": MIB, "epochs": 1, "world_size": 1,
                "tensors": [self.pb.TensorSpec(dtype=self.pb.DTYPE_UINT8, shape=[SAMPLE])], **more}

    def open_and_read(self, bucket, batches=1 << 30, timeout=20, **more):
        """Whatever comes of it: refusals are what most tenants live on."""
        try:
            with self.client.Trainer(self.path) as one:
                stream = one.open(timeout=timeout, **self.spec(bucket, **more))
                for _, batch in zip(range(batches), stream.batches(release=False)):
                    stream.release(batch)
                stream.cancel()
        except (self.grpc.RpcError, OSError):
            pass

    def never_reads_its_handles(self):
        """Opens stream after stream and leaves every slab's descriptor in the socket."""
        one = self.client.Trainer(self.path)
        calls = []
        for _ in range(30):
            request = self.pb.OpenStreamRequest(spec=self.pb.StreamSpec(**self.spec(self.stores["good"])))
            calls.append(one.stub.OpenStream(self._and_wait(request), metadata=one.metadata, timeout=10))
        time.sleep(1)  # as a tenant: nothing is waited for
        for call in calls[::2]:
            call.cancel()
        one.close()

    @staticmethod
    def _and_wait(request):
        yield request
        threading.Event().wait(10)

    def opens_with_large_globs(self):
        glob = "*a" * self.rng.choice((300, 511, 2000, 1 << 19))
        self.open_and_read(self.stores["good"], tensors=[self.pb.TensorSpec(name=f"x{k}", glob=glob + str(k), dtype=self.pb.DTYPE_UINT8, shape=[1])
                                                         for k in range(3)])

    def opens_large_listings(self):
        self.open_and_read(self.stores["large"])

    def keeps_batches_of_failed_streams(self):
        try:
            one = self.client.Trainer(self.path)
            stream = one.open(timeout=20, **self.spec(self.stores["failing"], prefetch_bytes=4 * MIB))
            self.kept.append((one, stream))
            for _ in stream.batches(release=False):
                pass
        except (self.grpc.RpcError, OSError):
            pass
        if len(self.kept) >= 8:
            for one, _ in self.kept:
                one.close()
            self.kept.clear()

    def is_killed_in_mid_stream(self):
        """A trainer in a process of its own, killed with three batches in its hand."""
        child = subprocess.Popen([sys.executable, "-B", str(HERE.parent / "e2e/trainer.py"), "hold", self.path], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=harness.die_with_us(signal.SIGKILL))
        child.stdin.write(json.dumps({"spec": self.pb.StreamSpec(**self.spec(self.stores["good"])).SerializeToString().hex(), "token": ""}).encode() + b"\n")
        child.stdin.flush()
        child.stdout.readline()
        child.kill()
        child.communicate()

    def floods_status(self):
        with self.client.Trainer(self.path) as one:
            for _ in range(100):
                try:
                    one.status()
                except self.grpc.RpcError:
                    break

    def opens_and_abandons(self):
        self.open_and_read(self.stores["good"], batches=self.rng.randint(0, 3))

    def names_dead_hosts(self):
        self.open_and_read(f"http://dead-{self.rng.randrange(1 << 30)}.invalid/x/", timeout=5)

    def reads_a_slow_store(self):
        self.open_and_read(self.stores["slow"], timeout=5)

    def reads_a_store_of_garbage(self):
        self.open_and_read(self.stores["garbage"], timeout=5)

    def releases_twice(self):
        try:
            with self.client.Trainer(self.path) as one:
                stream = one.open(timeout=20, **self.spec(self.stores["good"]))
                for batch in stream.batches(release=False):
                    stream.release(batch)
                    stream.release(batch, batch)
                    stream._requests.put(self.pb.OpenStreamRequest(release=self.pb.Release(  # pylint: disable=protected-access
                        sequences=[self.rng.getrandbits(64), batch.sequence + 1], waiting=True)))
        except (self.grpc.RpcError, OSError):
            pass

    def sends_garbage_to_both_sockets(self):
        for path, kind in ((self.path, socket.SOCK_STREAM), (self.path + ".fd", socket.SOCK_SEQPACKET)):
            with socket.socket(socket.AF_UNIX, kind) as one:
                one.settimeout(2)
                try:
                    one.connect(path)
                    for _ in range(self.rng.randint(1, 20)):
                        one.send(self.rng.choice((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"")) + self.rng.randbytes(self.rng.randint(1, 4000)))
                except OSError:
                    pass

    def stalls_with_all_slots(self):
        try:
            with self.client.Trainer(self.path) as one:
                stream = one.open(timeout=20, **self.spec(self.stores["good"], epochs=1000, prefetch_bytes=8 * MIB))
                for _ in stream.batches(release=False):
                    pass  # until its slots are all in hand; then the deadline of the call ends it
        except (self.grpc.RpcError, OSError):
            pass


TENANTS = [name for name in vars(Tenant) if not name.startswith("_") and name not in ("spec", "open_and_read")]


def lowest_priority():
    if "DEVMEM_NOT_IDLE" in os.environ:  # set where only what is right counts, and not how fast: on a busy machine the lowest wait for ever
        return
    os.nice(19)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def tenants_main(path, stores):
    """All tenants, each a process; says on stdout what each has done so far. Runs until it is killed."""
    lowest_priority()
    import trainer  # noqa: F401  pylint: disable=unused-import  once for all that are forked
    for number, name in enumerate(TENANTS):
        if os.fork() == 0:
            harness._LIBC.prctl(1, signal.SIGKILL)  # pylint: disable=protected-access
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                harness._LIBC.prctl(1, signal.SIGKILL)  # pylint: disable=protected-access
            one, done, said = Tenant(path, stores, number), 0, 0.0
            while True:
                try:
                    getattr(one, name)()
                except Exception as error:  # pylint: disable=broad-except  a tenant's own mistake is not the daemon's
                    print(f"! {name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                done += 1
                if time.monotonic() - said > 0.5:
                    said = time.monotonic()
                    os.write(1, f"{name} {done}\n".encode())
                time.sleep(PACE)
    signal.pause()


# --- their stores -------------------------------------------------------------------------------------------------
def stores_main(folder):
    """The tenants' stores; their URLs, as JSON, on stdout. Runs until stdin is closed."""
    lowest_priority()
    good = fault_server.FaultServer(folder)
    failing = fault_server.FaultServer(folder)
    failing.fault("/0003.bin", fault_server.Status(404))
    failing.fault("/0002.bin", fault_server.Truncate(0))
    slow = fault_server.FaultServer(folder)
    slow.fault("*", dribble, when=None)
    garbage = fault_server.FaultServer(folder)
    for act in (fault_server.Garbage(), fault_server.Status(403), fault_server.Redirect(), fault_server.BigHead(), fault_server.IgnoreRange(),
                fault_server.Status(500), fault_server.Garbage(os.urandom(1 << 16))):
        garbage.fault("*", act, times=1 << 40, when=lambda request: random.random() < 0.2)
    large = fault_server.FaultServer(folder)
    large.fault("/.devmem-index", claims_8_gib, when=lambda request: random.random() < 0.5)
    large.fault("/", large_listing(), when=None)
    print(json.dumps({name: server.url for name, server in (("good", good), ("failing", failing), ("slow", slow), ("garbage", garbage),
                                                            ("large", large))}), flush=True)
    sys.stdin.read()
    os._exit(0)


def dribble(connection, request, server):
    answer = fault_server.Answer(request, server)
    for byte in answer.head() + answer.body[:100]:
        connection.sendall(bytes((byte,)))
        if server.ended(0.1):
            return False
    return False


def claims_8_gib(connection, request, server):
    size = 8 << 30
    first = request.range[0] if request.range else 0
    last = min(size - 1, request.range[1] if request.range and request.range[1] else size - 1)
    connection.sendall(f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{size}\r\nContent-Length: {last + 1 - first}\r\n\r\n".encode())
    piece, left = b"\0" * 65536, last + 1 - first
    while left:
        connection.sendall(piece[:left])
        left -= min(left, len(piece))
    return True


def large_listing():
    entry = json.dumps({"name": "n" * 90 + "%08d", "type": "file", "mtime": "Sun, 06 Nov 1994 08:49:37 GMT", "size": SAMPLE})
    body = ("[" + ",".join(entry % number for number in range(LISTED)) + "]").encode()

    def act(connection, request, server):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        connection.sendall(body)
        return True
    return act


# --- what is measured ---------------------------------------------------------------------------------------------
class Sampler:
    """The daemon's memory, descriptors and threads, twice a second."""

    def __init__(self, pid):
        self.pid, self.rows, self.phase, self.ended = pid, [], "", threading.Event()
        self.started = time.monotonic()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def now(self):
        status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines() if ":" in line)
        return {"seconds": round(time.monotonic() - self.started, 2), "phase": self.phase, "rss_mib": round(int(status["VmRSS"].split()[0]) / 1024, 1),
                "descriptors": len(os.listdir(f"/proc/{self.pid}/fd")), "threads": int(status["Threads"])}

    def _run(self):
        while not self.ended.wait(0.5):
            try:
                self.rows.append(self.now())
            except (OSError, KeyError):
                return

    def close(self):
        self.ended.set()
        self.thread.join(10)


class Soak:
    def __init__(self, work, seconds, bucket_bytes, turn_seconds, rate=RATE, say=print):
        self.work, self.seconds, self.rate, self.say = pathlib.Path(work), seconds, rate, say
        self.turn_seconds = turn_seconds
        self.things, self.faults, self.turns, self.rests, self.done = [], [], [], [], {}
        self.bucket = self.work / "honest"
        make_dataset.ensure("raw", self.bucket, bucket_bytes, 1, sample_bytes=HONEST_SAMPLE, shards=4, even=True)
        make_dataset.ensure("raw", self.work / "theirs", 256 * SAMPLE, 2, sample_bytes=SAMPLE, shards=4)
        self.samples = bucket_bytes // HONEST_SAMPLE
        self.epochs, self.tenants = 1, None
        self.other = None  # the daemon that the tenants are at in the turns where they are elsewhere

    def keep(self, thing):
        self.things.append(thing)
        return thing

    def start(self):
        self.nginx = self.keep(harness.Nginx(self.bucket, self.work, extra=f"limit_rate {self.rate};"))
        flags = ["--transport", "copy", "--memory-limit", str(2 << 30), "--log-level", "error"]
        if os.geteuid() == 0:
            config = self.work / "config.yaml"
            config.write_text(f"access:\n  - uid: [0]\n  - uid: [{NOBODY}]\n    memory: {MEMORY}\n    streams: {STREAMS}\n")
            flags += ["--socket-mode", "0666", "--config", str(config)]
        else:
            self.say("not root: the tenants are of the daemon's own user, and no quota is between them and the honest one")
        self.daemon = self.keep(harness.Daemon(self.work, *flags)).ready()
        self.other = self.keep(harness.Daemon(self.work, *flags, preexec_fn=lowest_priority)).ready()
        stores = subprocess.Popen([sys.executable, "-B", __file__, "stores", str(self.work / "theirs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  preexec_fn=harness.die_with_us(signal.SIGKILL))
        self.things.append(_Closing(lambda: (stores.kill(), stores.communicate())))
        self.stores = json.loads(stores.stdout.readline())
        self.sampler = self.keep(Sampler(self.daemon.pid))

    def honest(self, digest=False):
        """GB/s of one reading, or None."""
        path = self.work / "digest"
        command = [harness.BIN / "devmem-loader", "--service", self.daemon.socket, "--output", "json", "--bucket", self.nginx.url, "--format", "raw",
                   "--dtype", "uint8", "--shape", HONEST_SAMPLE, "--batch-size", 8, "--prefetch", 64 * MIB, "--epochs", self.epochs, "--tail", "uneven"]
        if digest:
            command += ["--digest", path]
        try:
            run = subprocess.run([str(part) for part in command], capture_output=True, timeout=self.turn_seconds * 20 + 120, check=False, text=True)
        except subprocess.TimeoutExpired:
            self.faults.append(f"turn {len(self.turns)}: the honest trainer was not done after {self.turn_seconds * 20 + 120} s")
            return None
        if run.returncode != 0:
            self.faults.append(f"turn {len(self.turns)}: the honest trainer failed: {run.stdout[-600:]} {run.stderr[-600:]}")
            return None
        summary = json.loads(run.stdout.splitlines()[-1])
        if summary["samples"] != self.samples * self.epochs:
            self.faults.append(f"turn {len(self.turns)}: {summary['samples']} samples delivered, {self.samples * self.epochs} expected")
        if digest:
            self._compare(path)
        return summary["gb_per_s"]

    def _compare(self, path):
        if not hasattr(self, "expected"):
            self.expected = make_dataset.samples_of(self.bucket, HONEST_SAMPLE)
        found = {}
        for line in make_dataset.digest_rows(path):
            key = (line["object"], line["offset"], line["bytes"])
            found[key] = found.get(key, 0) + 1
            if self.expected.get(key) != line["sha256"]:
                self.faults.append(f"turn {len(self.turns)}: wrong bytes: {line}")
        if found != dict.fromkeys(self.expected, self.epochs):
            self.faults.append(f"turn {len(self.turns)}: not each sample once an epoch")

    def let_loose(self, daemon):
        """Starts the tenants, at this daemon; returns when each has done what it does once."""
        die_with_us = harness.die_with_us(signal.SIGKILL)

        def apart():
            os.setpgid(0, 0)  # to be killed as one; a session of their own would have the autogroup, and so the share of CPU, of the honest ones
            die_with_us()
        self.tenants = subprocess.Popen([sys.executable, "-B", __file__, "tenants", daemon.path, json.dumps(self.stores)], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=apart)
        self.counts, errors = {}, []

        def count(process, counts):
            for line in process.stdout:
                name, number = line.split()
                counts[name] = int(number)

        def complain(process):
            for line in process.stderr:
                errors.append(line)
        self.readers = [threading.Thread(target=count, args=(self.tenants, self.counts), daemon=True),
                        threading.Thread(target=complain, args=(self.tenants,), daemon=True)]
        for reader in self.readers:
            reader.start()
        try:
            harness.wait_for(lambda: len(self.counts) == len(TENANTS) or self.tenants.poll() is not None, 600 * harness.SLOW, "every tenant is at it")
        except AssertionError:
            self.faults.append(f"turn {len(self.turns)}: never got to work: {sorted(set(TENANTS) - set(self.counts))} {errors[-3:]}")
        self.errors = errors

    def catch(self):
        os.killpg(self.tenants.pid, signal.SIGKILL)
        self.tenants.wait(20)
        for reader in self.readers:
            reader.join(20)
        for name, number in self.counts.items():
            self.done[name] = self.done.get(name, 0) + number
        self.tenants = None

    def rest(self):
        """Waits until nothing of any stream is left, and notes what the daemon then has."""
        import grpc
        import trainer

        def quiet():
            try:
                with trainer.Trainer(self.daemon.path) as one:
                    status = one.status()
            except (grpc.RpcError, OSError):
                return False
            return trainer.at_rest(status)
        try:
            harness.wait_for(lambda: self.daemon.process.poll() is not None or quiet(), 60 * harness.SLOW, "all streams are gone")
        except AssertionError as error:
            self.faults.append(f"turn {len(self.turns)}: {error}")
        if self.daemon.process.poll() is not None:
            raise RuntimeError(f"the daemon ended with {self.daemon.process.returncode}: {self.daemon.stderr()[-2000:]}")
        # What is closed last is closed soon after: the lowest of a second.
        samples = []
        for _ in range(5):
            samples.append(self.sampler.now())
            time.sleep(0.2)
        self.rests.append({"seconds": samples[-1]["seconds"], **{key: min(sample[key] for sample in samples) for key in FLAT}})

    def turn(self, kind, digest=False):
        """One reading: alone, beside the tenants, or while they are elsewhere."""
        self.sampler.phase = kind
        hostile = kind != "alone"
        loose = time.monotonic() - self.sampler.started
        if hostile:
            self.let_loose(self.daemon if kind == "beside" else self.other)
            self.say(f"           ({len(self.counts)} tenants are at it)")
        began = time.monotonic() - self.sampler.started
        rate = self.honest(digest)
        read = time.monotonic() - self.sampler.started
        if hostile:
            self.catch()
        self.turns.append({"loose": round(loose, 2), "seconds": round(began, 2), "ended": round(time.monotonic() - self.sampler.started, 2), "read_s": round(read - began, 2),
                           "kind": kind, "digest": digest, "gb_per_s": rate})
        self.sampler.phase = "rest"
        self.rest()
        self.say(f"  {self.turns[-1]['ended']:7.1f} s  {kind:9}  {'verified' if digest else f'{rate or 0:.3f} GB/s'}  at rest: "
                 + ", ".join(f"{key} {value}" for key, value in self.rests[-1].items() if key != "seconds"))

    def run(self):
        self.start()
        self.turn("alone")  # warms the page cache, and shows how fast it is
        self.epochs = max(1, round(self.turn_seconds * (self.turns[-1]["gb_per_s"] or 0.1) * 1e9 / (self.samples * HONEST_SAMPLE)))
        self.turn("beside", digest=True)  # a turn of theirs that does not count: first allocations
        self.turns.clear()
        self.rests.clear()
        until, pair = time.monotonic() + self.seconds, 0
        while pair < 1 or time.monotonic() < until:
            for kind in KINDS if pair % 2 == 0 else KINDS[::-1]:
                self.turn(kind)
            pair += 1
            if pair % DIGEST_EVERY == 0:
                self.turn("beside", digest=True)
        return self.result()

    def result(self):
        rates = {kind: [turn["gb_per_s"] for turn in self.turns if turn["kind"] == kind and not turn["digest"] and turn["gb_per_s"]] for kind in KINDS}
        alone, elsewhere, beside = (statistics.median(rates[kind]) if rates[kind] else 0.0 for kind in KINDS)
        third = max(1, len(self.rests) // 3)
        flat = {}
        for key, allowed in FLAT.items():
            first, last = (statistics.median(rest[key] for rest in rests) for rests in (self.rests[:third], self.rests[-third:]))
            flat[key] = {"first": first, "last": last, "allowed": allowed, "met": last - first <= allowed}
        peaks = {key: max((row[key] for row in self.sampler.rows), default=0) for key in FLAT}
        return {"minutes": round(self.seconds / 60, 2), "rate": self.rate, "pairs": len(rates["beside"]), "alone_gb_per_s": alone, "beside_gb_per_s": beside, "elsewhere_gb_per_s": elsewhere,
                "ratio": round(beside / alone, 4) if alone else 0.0, "ratio_elsewhere": round(elsewhere / alone, 4) if alone else 0.0, "bar": BAR, "met": bool(alone) and beside / alone >= BAR, "flat": flat, "peaks": peaks,
                "tenants": self.done, "faults": self.faults, "turns": self.turns, "rests": self.rests}

    def close(self):
        if self.tenants:
            self.catch()
        for thing in reversed(self.things):
            thing.close()


class _Closing:
    def __init__(self, close):
        self.close = close


# --- the plot -----------------------------------------------------------------------------------------------------
def plot(result, rows, path):
    """Four panels over one time axis: rates, memory, descriptors, threads; grey where the tenants are at work."""
    width, height, left, right, top = 900, 120, 70, 20, 46
    panels = [("GB/s", None), ("resident, MiB", "rss_mib"), ("descriptors", "descriptors"), ("threads", "threads")]
    begin = min(turn["loose"] for turn in result["turns"])  # the turns before these warmed up
    rows = [row for row in rows if row["seconds"] >= begin]
    end = max([row["seconds"] for row in rows] + [turn["ended"] for turn in result["turns"]] + [begin + 1.0])
    total = top + len(panels) * (height + 34) + 10

    def x(seconds):
        return left + (width - left - right) * (seconds - begin) / (end - begin)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" font-family="sans-serif" font-size="11">',
           f'<rect width="{width}" height="{total}" fill="white"/>',
           f'<text x="{left}" y="18" font-size="14">An honest trainer alone (blue), beside {len(TENANTS)} hostile tenants (orange), and with these at another daemon '
           f'(green): median {result["alone_gb_per_s"]:.2f}, {result["beside_gb_per_s"]:.2f}, {result["elsewhere_gb_per_s"]:.2f} GB/s</text>',
           f'<text x="{left}" y="34" fill="#555">grey: the tenants are at work at this daemon; dots: the daemon at rest, when all of them were killed</text>']
    for number, (title, key) in enumerate(panels):
        base = top + number * (height + 34) + height
        values = [turn["gb_per_s"] for turn in result["turns"] if turn["gb_per_s"] and not turn["digest"]] if key is None else [row[key] for row in rows]
        highest = max(values, default=1) * 1.1 or 1

        def y(value, base=base, highest=highest):
            return base - height * min(value, highest) / highest
        for turn in result["turns"]:
            if turn["kind"] == "beside":
                out.append(f'<rect x="{x(turn["loose"]):.1f}" y="{base - height}" width="{max(0.5, x(turn["ended"]) - x(turn["loose"])):.1f}" '
                           f'height="{height}" fill="#eee"/>')
        out.append(f'<path d="M{left} {base - height}V{base}H{width - right}" fill="none" stroke="#888"/>')
        out.append(f'<text x="{left}" y="{base - height - 5}">{title}</text>')
        for value in (0, highest / 2, highest):
            out.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#555">{value:.3g}</text>')
        if key is None:
            for turn in result["turns"]:
                if turn["gb_per_s"] and not turn["digest"]:
                    middle = (turn["seconds"] + turn["ended"]) / 2
                    out.append(f'<circle cx="{x(middle):.1f}" cy="{y(turn["gb_per_s"]):.1f}" r="2.5" fill="{COLORS[turn["kind"]]}"/>')
        else:
            step = max(1, len(rows) // 800)
            points = [(rows[k]["seconds"], max(row[key] for row in rows[k:k + step])) for k in range(0, len(rows), step)]
            line = " ".join(f"{x(seconds):.1f},{y(value):.1f}" for seconds, value in points)
            out.append(f'<polyline points="{line}" fill="none" stroke="#7570b3"/>')
            out += [f'<circle cx="{x(rest["seconds"]):.1f}" cy="{y(rest[key]):.1f}" r="2" fill="#000"/>' for rest in result["rests"]]
        if number == len(panels) - 1:
            ticks = 6
            for k in range(ticks + 1):
                at = (end - begin) * k / ticks
                out.append(f'<text x="{x(begin + at):.1f}" y="{base + 14}" text-anchor="middle" fill="#555">{at / 60:.1f}</text>')
            out.append(f'<text x="{width - right}" y="{base + 28}" text-anchor="end" fill="#555">minutes</text>')
    path.write_text("\n".join([*out, "</svg>", ""]), encoding="utf-8")


def run(work, seconds, rate=RATE, bucket_bytes=512 * MIB, turn_seconds=5.0, say=print):
    """Returns (result, rows)."""
    soak = Soak(work, seconds, bucket_bytes, turn_seconds, rate, say)
    try:
        return soak.run(), soak.sampler.rows
    finally:
        soak.close()


def main():
    if sys.argv[1:2] == ["tenants"]:
        return tenants_main(sys.argv[2], json.loads(sys.argv[3]))
    if sys.argv[1:2] == ["stores"]:
        return stores_main(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", default=RATE, help="bytes a second for each connection of the honest one, as nginx's limit_rate; 0: no limit")
    parser.add_argument("--work", type=pathlib.Path, default=harness.ROOT / "build/bench")
    parser.add_argument("--svg", type=pathlib.Path, help="where the plot goes as well")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="devmem-hostile-") as work:
        os.chmod(work, 0o755)
        result, rows = run(work, args.minutes * 60, args.rate)
    with open(args.work / "hostile.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["seconds", "phase", "rss_mib", "descriptors", "threads"])
        writer.writeheader()
        writer.writerows(rows)
    (args.work / "hostile.json").write_text(json.dumps(result, indent=1))
    plot(result, rows, args.work / "hostile.svg")
    if args.svg:
        shutil.copyfile(args.work / "hostile.svg", args.svg)
    print(f"\n  alone {result['alone_gb_per_s']:.3f} GB/s, beside the tenants {result['beside_gb_per_s']:.3f} GB/s: ratio {result['ratio']:.3f} "
          f"(bar {BAR}: {'met' if result['met'] else 'MISSED'}); while they are at another daemon {result['elsewhere_gb_per_s']:.3f} GB/s: "
          f"{result['ratio_elsewhere']:.3f}")
    for key, row in result["flat"].items():
        print(f"  {key}: at rest {row['first']} at first, {row['last']} at last ({'flat' if row['met'] else 'NOT FLAT'}); peak {result['peaks'][key]}")
    print("  what they did: " + ", ".join(f"{name} {number}" for name, number in sorted(result["tenants"].items())))
    for fault in result["faults"]:
        print(f"  FAULT: {fault}")
    print(json.dumps({key: value for key, value in result.items() if key not in ("turns", "rests")}))
    return 0 if result["met"] and not result["faults"] and all(row["met"] for row in result["flat"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
