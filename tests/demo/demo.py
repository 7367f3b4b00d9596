#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""./dev demo: a bucket on a real web server, through the daemon, into trainers; every byte checked.

  1. makes ~1 GB of data (kept for the next time): pairs of npy shards, and a safetensors set
  2. starts nginx on loopback, and devmem-loaderd on a socket of its own
  3. two trainers, rank 0 and 1 of 2, stream the npy pairs from the daemon, both at once
  4. devmem-loader alone, the daemon inside it, streams the safetensors set, with its live line
  5. compares the SHA-256 of every sample, as the trainers saw it in mapped memory, with the files
  6. the npy pairs once more without hashing: what a trainer gets
  7. what a Prometheus has that scraped the daemon meanwhile (Debian's; where it is not installed, it says so)
  8. the same in a virtual machine that has a NIC for it, by device-memory TCP (guest_demo.py); where none can be had, it says so

The last line of stdout is a JSON summary with "verified": true, or false and exit status 1. Its "guest" is that of the virtual
machine: {"path": "devmem", "verified": true, ...}, or {"skipped": why}.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parent / "e2e"))
import guest_demo  # noqa: E402  pylint: disable=wrong-import-position
import make_dataset  # noqa: E402  pylint: disable=wrong-import-position
import prometheus  # noqa: E402  pylint: disable=wrong-import-position
import harness  # noqa: E402  pylint: disable=wrong-import-position

NPY = ("--tensor", "image=images/*.npy", "--tensor", "label=labels/*.npy", "--batch-size", "64", "--tail", "uneven")
TOKENS = ("--batch-size", "256", "--tail", "uneven")


def say(text):
    print(text, flush=True)


class Demo:
    def __init__(self, args):
        self.bin, self.data = args.bin, args.work / "data"
        self.scale = make_dataset.size(args.bytes)
        self.temp = pathlib.Path(tempfile.mkdtemp(prefix="devmem-demo-"))
        self.running = []

    def keep(self, thing):
        self.running.append(thing)
        return thing

    def close(self):
        for thing in reversed(self.running):
            try:
                thing.close()
            except Exception as error:  # pylint: disable=broad-except
                print(f"demo: while cleaning up: {error}", file=sys.stderr)
        shutil.rmtree(self.temp, ignore_errors=True)

    def loader(self, *flags):
        return self.keep(harness.Program([self.bin / "devmem-loader", "--output", "json", *flags], self.temp, "loader"))

    def finish(self, programs):
        runs = [program.wait(900) for program in programs]
        for run in runs:
            if run.status != 0:
                raise RuntimeError(f"a trainer failed with status {run.status}:\n{run.text}")
        return runs

    def live(self, *flags):
        """The CLI in the foreground, so that its live line is seen; its summary comes on stdout."""
        command = [self.bin / "devmem-loader", "--output", "json", *flags]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=None if sys.stderr.isatty() else subprocess.DEVNULL)
        try:
            stdout, _ = process.communicate(timeout=900)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        lines = stdout.decode().splitlines()
        if process.returncode != 0:
            raise RuntimeError(f"devmem-loader failed with status {process.returncode}:\n" + "\n".join(lines[-5:]))
        return json.loads(lines[-1])

    def verify(self, folder, digests):
        """(samples' rows compared, faults found)."""
        expected = make_dataset.samples_of(folder)
        seen, faults = collections.Counter(), []
        for path in digests:
            for row in make_dataset.digest_rows(path):
                key = (row["object"], row["offset"], row["bytes"])
                seen[key] += 1
                if expected.get(key) != row["sha256"]:
                    faults.append(f"{key}: not the bytes of the file")
        faults += [f"{key}: delivered {n} times" for key, n in seen.items() if n != 1]
        faults += [f"{key}: never delivered" for key in expected if key not in seen]
        return len(expected), faults

    def scraped(self, scraper, delivered):
        """Waits until Prometheus has scraped all that was delivered."""
        def of(metric):
            return sum(scraper.numbers(f"sum(devmem_loader_{metric})"))
        harness.wait_for(lambda: of("delivered_bytes_total") == delivered, 60, f"Prometheus has {delivered} bytes delivered")
        return {"delivered_bytes": delivered, "requests": of("requests_total"), "retries": of("retries_total")}

    def run(self):
        started = time.monotonic()
        say("1. data")
        npy = make_dataset.ensure("npy", self.data / "npy", self.scale * 6 // 10)
        tokens = make_dataset.ensure("safetensors", self.data / "safetensors", self.scale * 4 // 10)
        say(f"   npy: {npy['samples']} samples (image uint8[224,224,3], label int64) in {len(npy['files'])} objects, {npy['bytes'] / 1e6:.0f} MB")
        say(f"   safetensors: {tokens['samples']} samples (tokens int32[4096], weight float32) in {len(tokens['files'])} objects, "
            f"{tokens['bytes'] / 1e6:.0f} MB   ({time.monotonic() - started:.1f} s)")

        say("2. servers")
        nginx = self.keep(harness.Nginx(self.data, self.temp))
        daemon = self.keep(harness.Daemon(self.temp, "--metrics-listen", "127.0.0.1:0", binary=self.bin / "devmem-loaderd")).ready()
        metrics = re.search(r"metrics and health on (\S+)", daemon.stderr()).group(1)
        scraper = self.keep(prometheus.Prometheus(self.temp, metrics)) if prometheus.PROGRAM else None
        say(f"   nginx serves {nginx.url}; devmem-loaderd listens on {daemon.socket}, its metrics are on http://{metrics}/metrics")

        say("3. two trainers, rank 0 and 1 of 2, from the daemon: npy pairs, shuffled, every sample hashed")
        digests = [self.temp / f"rank{rank}.jsonl" for rank in (0, 1)]
        runs = self.finish([
            self.loader("--bucket", nginx.url + "npy/", *NPY, "--service", daemon.socket, "--rank", rank, "--world-size", 2, "--digest", digest)
            for rank, digest in enumerate(digests)])
        for rank, run in enumerate(runs):
            say(f"   rank {rank}: {describe(run.summary)}")
        say(f"   data path: {runs[0].summary['path']} ({runs[0].summary['path_reason']})")

        say("4. devmem-loader alone: safetensors")
        alone = self.live("--bucket", nginx.url + "safetensors/", *TOKENS, "--digest", self.temp / "tokens.jsonl")
        say(f"   {describe(alone)}")

        say("5. verification against the files")
        checked = faults = 0
        for what, folder, paths in (("npy", self.data / "npy", digests), ("safetensors", self.data / "safetensors", [self.temp / "tokens.jsonl"])):
            rows, wrong = self.verify(folder, paths)
            checked += rows
            faults += len(wrong)
            for fault in wrong[:5]:
                say(f"   WRONG {fault}")
            say(f"   {what}: {rows} rows compared, {len(wrong)} faults" + ("" if wrong else ": each delivered exactly once, byte for byte"))

        say("6. the npy pairs once more, not hashed: what a trainer gets")
        speed = self.finish([self.loader("--bucket", nginx.url + "npy/", *NPY, "--service", daemon.socket)])[0].summary
        say(f"   {describe(speed)}")
        stalls = {cause: value for cause, value in speed["stalls"].items() if value}
        say(f"   waited for: {stalls if stalls else 'nothing'}")

        say("7. as Prometheus has it")
        delivered = sum(run.summary["bytes"] for run in runs) + speed["bytes"]
        scraped = self.scraped(scraper, delivered) if scraper else None
        say(f"   {scraped['delivered_bytes'] / 1e6:.0f} MB delivered, {scraped['requests']:.0f} requests, {scraped['retries']:.0f} retries"
            if scraped else "   no prometheus here (Debian's package): nothing scraped")

        daemon.kill(signal.SIGTERM)
        status = daemon.process.wait(60)
        if status != 0:
            raise RuntimeError(f"the daemon ended with status {status} on SIGTERM:\n{daemon.stderr()}")
        return {
            "verified": faults == 0, "rows_verified": checked, "faults": faults,
            "samples": sum(run.summary["samples"] for run in runs) + alone["samples"],
            "bytes": sum(run.summary["bytes"] for run in runs) + alone["bytes"],
            "path": speed["path"], "path_reason": speed["path_reason"], "gb_per_s": speed["gb_per_s"],
            "cpu_s_per_gb": speed["cpu_s_per_gb"], "prometheus": scraped, "seconds": round(time.monotonic() - started, 2),
            "trainers": [run.summary for run in runs], "alone": alone, "unhashed": speed}


def describe(summary):
    return (f"{summary['samples']} samples, {summary['bytes'] / 1e6:.0f} MB in {summary['seconds']:.2f} s = {summary['gb_per_s']:.2f} GB/s, "
            f"{summary['requests']} requests, first batch after {summary['first_batch_ms']:.0f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=harness.BIN)
    parser.add_argument("--work", type=pathlib.Path, default=harness.ROOT / "build/demo")
    parser.add_argument("--bytes", default="1000M", help="size of the data set")
    parser.add_argument("--no-guest", action="store_true", help="without the virtual machine")
    args = parser.parse_args()
    for how in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(how, lambda *_: sys.exit(143))
    args.work.mkdir(parents=True, exist_ok=True)
    os.umask(0o022)
    demo = Demo(args)
    status, summary = 1, {"verified": False}
    try:
        summary = demo.run()
        if not args.no_guest:
            say("8. the same by device-memory TCP, in a virtual machine")
            summary["guest"] = guest_demo.run()
            summary["verified"] = summary["verified"] and summary["guest"].get("verified", "skipped" in summary["guest"])
        status = 0 if summary["verified"] else 1
    except KeyboardInterrupt:
        status, summary["error"] = 130, "interrupted"
    except Exception as error:  # pylint: disable=broad-except
        summary["error"] = str(error)
        print(f"demo: {error}", file=sys.stderr)
    finally:
        demo.close()
    print(json.dumps(summary), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
