#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs tests again and again while other programs want the CPUs, and lists each that failed once: a test that depends on luck is
mended, not retried. ./dev test --stress [ROUNDS] runs unit, e2e and lint ten times under `stress-ng --cpu 2`.

    stress.py --test-dir build/release --keep build/stress [--rounds 10] [--cpu 2] [--jobs N] [-R PATTERN] [LABEL...]

What a failed test printed is kept in --keep, as ROUND-TEST.txt. Exit status 1 if any failed.
"""
import argparse
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree

import summarize

LABELS = ("unit", "e2e", "lint")


def results(report):
    """[(test, passed, failed or skipped, what it printed)] of a JUnit report."""
    return [(case.get("name"), summarize.outcome(case)[0], case.findtext("system-out") or "")
            for case in xml.etree.ElementTree.parse(report).iter("testcase")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test-dir", required=True)
    parser.add_argument("--keep", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cpu", type=int, default=2, help="processes that compute; 0: only what else runs here")
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1)
    parser.add_argument("-R", dest="pattern", help="only tests whose names match")
    parser.add_argument("labels", nargs="*", default=LABELS)
    args = parser.parse_args()
    if args.cpu and not shutil.which("stress-ng"):
        parser.error("no stress-ng: ./dev test --stress installs it")
    args.keep.mkdir(parents=True, exist_ok=True)
    failed, runs = collections.defaultdict(list), 0
    for number in range(1, args.rounds + 1):
        report, started = args.keep / f"round-{number}.xml", time.monotonic()
        report.unlink(missing_ok=True)
        stress = subprocess.Popen(["stress-ng", "--quiet", "--cpu", str(args.cpu)]) if args.cpu else None
        try:
            subprocess.run(["ctest", "--test-dir", args.test_dir, "-L", f"^({'|'.join(args.labels)})$", "-j", str(args.jobs), "--no-tests=error",
                            "--output-junit", str(report.resolve()), *(["-R", args.pattern] if args.pattern else [])],
                           stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
        finally:
            if stress:
                stress.terminate()
                stress.wait()
        count = collections.Counter()
        for name, status, output in results(report):
            count[status] += 1
            if status == "failed":
                failed[name].append(number)
                (args.keep / f"{number}-{re.sub('[^A-Za-z0-9._-]', '_', name)}.txt").write_text(output, encoding="utf-8")
        runs += count["passed"] + count["failed"]
        print(f"round {number}: {count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped, {time.monotonic() - started:.0f} s", flush=True)
    for name, rounds in sorted(failed.items()):
        print(f"FAILED {len(rounds)} of {args.rounds}: {name} (round {', '.join(map(str, rounds))}; {args.keep}/)")
    print(f"{runs} runs of tests, {sum(map(len, failed.values()))} failed, of {len(failed)} tests")
    return 1 if failed or not runs else 0


if __name__ == "__main__":
    sys.exit(main())
