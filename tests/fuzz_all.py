#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every fuzz target for a while, each from its corpus, and keeps what breaks it.

The corpus in the tree (CORPUS/<unit>/ for <unit>_fuzz) is only read: new inputs go to a scratch folder. A crash is
kept in KEEP/ and shown with the command that repeats it.
"""
import argparse
import concurrent.futures
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree


def run(target, corpus, seconds, keep):
    unit = target.name.removesuffix("_fuzz")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"{unit}-") as scratch:
        seeds = corpus / unit
        command = [str(target), scratch]
        if seeds.is_dir():
            command.append(str(seeds))
        prefix = keep / f"{unit}-"
        command += [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=3072", "-print_final_stats=1",
                    f"-artifact_prefix={prefix}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds + 120, check=False)
    text = done.stdout.decode(errors="replace")
    runs = next((line.split(":")[1].strip() for line in text.splitlines() if "number_of_executed_units" in line), "?")
    return target.name, done.returncode, text, runs, time.monotonic() - started, seeds.is_dir()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", type=pathlib.Path, required=True)
    parser.add_argument("--junit", type=pathlib.Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()

    targets = sorted(path for path in args.bin.glob("*_fuzz") if path.is_file())
    args.keep.mkdir(parents=True, exist_ok=True)
    suite = ElementTree.Element("testsuite", name="fuzz", tests=str(len(targets)))
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(run, target, args.corpus, args.seconds, args.keep) for target in targets]
        for future in runs:
            name, status, text, executed, took, seeded = future.result()
            case = ElementTree.SubElement(suite, "testcase", name=name, time=f"{took:.1f}")
            print(f"{name}: {'ok' if status == 0 else 'CRASH'}, {executed} inputs in {took:.0f} s"
                  + ("" if seeded else " (no corpus in the tree)"), flush=True)
            if status != 0:
                failed += 1
                ElementTree.SubElement(case, "failure", message=f"exit status {status}; input kept in {args.keep}")
                print("\n".join(text.splitlines()[-60:]), flush=True)
    if not targets:
        case = ElementTree.SubElement(suite, "testcase", name="fuzz")
        ElementTree.SubElement(case, "failure", message="no fuzz target was built")
        failed = 1
    ElementTree.ElementTree(suite).write(args.junit)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
