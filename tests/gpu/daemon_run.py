#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A daemon and a trainer on a GPU, every byte compared: daemon_run.py --bin DIR [--suffix TEXT] [--device cuda:0].

The daemon serves a folder over the copy transport into the device's memory; the command-line client maps the slabs on the same device,
reads every sample back, and hashes it; the hashes are compared with the files'. Once as stored, and once cast. Needs nothing but
Python and the programs.
"""
import argparse
import array
import hashlib
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

SAMPLE = 12_345
SAMPLES = 4_000
SHARDS = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--suffix", default="", help="of the programs' names")
    parser.add_argument("--device", default="cuda:0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="devmem-gpu-") as folder:
        programs = [options.bin.resolve() / (name + options.suffix) for name in ("devmem-loaderd", "devmem-loader")]
        return run(pathlib.Path(folder), programs, options.device)


def run(folder, programs, device):
    data = folder / "data"
    data.mkdir()
    numbers = random.Random(1)
    shards = {f"{shard}.bin": numbers.randbytes(SAMPLES // SHARDS * SAMPLE) for shard in range(SHARDS)}
    for name, content in shards.items():
        (data / name).write_bytes(content)
    socket, log = folder / "l.sock", folder / "log"
    daemon = subprocess.Popen([programs[0], "--config", "/dev/null", "--socket", socket, "--device", device, "--transport",
                               "copy", "--log-file", log, "--default-prefetch", "64MiB"])
    try:
        deadline = time.monotonic() + 60
        while not socket.exists() or "ready:" not in log.read_text(encoding="utf-8"):
            if daemon.poll() is not None or time.monotonic() > deadline:
                print(log.read_text(encoding="utf-8") if log.exists() else "", f"the daemon does not serve (status {daemon.poll()})")
                return 1
            time.sleep(0.1)
        print(log.read_text(encoding="utf-8").strip().splitlines()[-1])
        return stored(programs, socket, device, data, shards, folder) or cast(programs, socket, device, data, shards, folder)
    finally:
        daemon.terminate()
        daemon.wait(60)


def read(programs, socket, device, data, digest, *more):
    done = subprocess.run([programs[1], "--service", f"unix:{socket}", "--device", device, "--bucket", f"file://{data}", "--format",
                           "raw", "--dtype", "uint8", "--shape", str(SAMPLE), "--batch-size", "64", "--shuffle", "global", "--tail", "uneven",
                           "--digest", digest, "--output", "json", *more], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        print(done.stdout, done.stderr)
        return None
    print(done.stdout.strip().splitlines()[-1][:500])
    return [json.loads(line) for line in digest.read_text(encoding="utf-8").splitlines()]


def faults(rows, expect):
    """Rows that are not what `expect` makes of their bytes; and each must be there once."""
    if rows is None:
        return 1
    seen = {(row["object"], row["offset"]) for row in rows}
    wrong = sum(row["sha256"] != hashlib.sha256(expect(row)).hexdigest() for row in rows)
    print(f"{len(rows)} samples, {len(seen)} different ones, {wrong} wrong")
    return 1 if wrong or len(seen) != SAMPLES or len(rows) != SAMPLES else 0


def stored(programs, socket, device, data, shards, folder):
    rows = read(programs, socket, device, data, folder / "stored")
    return faults(rows, lambda row: shards[row["object"]][row["offset"]:row["offset"] + SAMPLE])


def cast(programs, socket, device, data, shards, folder):
    rows = read(programs, socket, device, data, folder / "cast", "--cast", "float32")
    return faults(rows, lambda row: array.array("f", list(shards[row["object"]][row["offset"]:row["offset"] + SAMPLE])).tobytes())


if __name__ == "__main__":
    sys.exit(main())
