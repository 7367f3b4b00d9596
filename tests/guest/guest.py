#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs tests in a virtual machine with a kernel and NICs of its own: ./dev guest [SUITE or TEST...].

A word names a suite (a folder of tests/guest), a file, a class, a test or a part of its name. Without words: every suite but the
long ones. Exit status: 0 passed, 1 something failed, 77 everything was skipped, and why is said.
"""
import argparse
import itertools
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from host import boot, cache, choose, fetch, generated, image, kernels, modules, report, toolchain

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "guest"
LOGS = ROOT / "build" / "logs" / "guest"
RESULTS = ROOT / "build" / "test-results"
ROOM = 3 << 30  # of the host's memory, for each guest
PROGRAMS = ROOT / "build" / "release" / "bin"


def arguments():
    parser = argparse.ArgumentParser(prog="./dev guest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="SUITE|TEST")
    parser.add_argument("--kernel", default="7.3", choices=[*kernels.LINES, "all"],
                        help="all: Debian's; debug: built here once, with KASAN, lockdep, kmemleak and more")
    parser.add_argument("--list", action="store_true", help="list the tests, run none")
    parser.add_argument("--long", action="store_true", help="with the suites and classes that take long")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run each test N times; a failure ends it")
    parser.add_argument("--shell", action="store_true", help="a shell in the guest, modules and tools at hand")
    parser.add_argument("--build-only", action="store_true", help="build kernel/*/ and show what the compiler says")
    parser.add_argument("--check", action="store_true", help="build kernel/*/ with sparse looking at every file")
    parser.add_argument("--generate", action="store_true", help="make kernel/*/'s code anew from its netlink specifications")
    return parser.parse_args()


def build(lines, check):
    for line in lines:
        kernels.make(line)
        with cache.lock(cache.folder() / "lock"):
            kernels.prepare(line)
        for path in modules.build(line, ROOT / "kernel", BUILD, check=check, show=True):
            cache.say(f"{line}: {path.relative_to(ROOT)}")
    return 0


class Machine:
    """One kernel, ready to boot."""

    def __init__(self, line):
        cache.need_program("qemu-system-x86_64", "qemu-system-x86")
        kernels.make(line)
        with cache.lock(cache.folder() / "lock"):
            self.root = image.root()
            self.kernel = image.kernel(line)
        self.modules = modules.build(line, ROOT / "kernel", BUILD)
        self.patience = kernels.PATIENCE.get(line, 1)

    def memory(self, wanted):
        """What a suite wants, or what this kernel needs for its own books if that is more."""
        return max(wanted, kernels.MEMORY.get(self.kernel["line"], wanted), key=lambda text: int(text.removesuffix("G")))

    def runs(self, suite):
        """Whether this kernel is new enough for a suite."""
        wanted = choose.settings(HERE, suite)["kernel"]
        return wanted is None or numbers(self.kernel["release"]) >= numbers(wanted)

    def payload(self, target, tests, needs):
        specs = [spec for module in modules.sources(ROOT / "kernel") for spec in generated.specs(module)]
        image.payload(target, HERE, self.modules, specs, [PROGRAMS / name for name in needs["programs"]], {"tests": tests})


def build_programs(tests):
    """Those that the tests' suites want."""
    needs = [choose.settings(HERE, suite) for suite in {test["suite"] for test in tests}]
    wanted = {name for each in needs for name in [*each["programs"], each["plugin"]] if name}
    if wanted and subprocess.run([ROOT / "dev", "build", "release"], stdout=sys.stderr, check=False).returncode != 0:
        raise cache.Broken("our programs do not build: ./dev build")
    if lost := sorted(name for name in wanted if not (PROGRAMS / name).exists()):
        raise cache.Broken(f"{PROGRAMS.relative_to(ROOT)} holds no {', '.join(lost)}, which a suite.json names")


def numbers(version):
    """"7.3.4+deb13" as (7, 3)."""
    return tuple(int(part) for part in version.split(".")[:2])


def deadline_of(event, patience):
    """How long the guest may be silent after this event. A test's own deadline is the agent's business, and it is told at the start."""
    return event.get("deadline", 0) + boot.SILENT_SECONDS * patience


def run_suite(machine, suite, tests, result):
    """Runs one suite's tests in one guest, or in as many as it takes when tests kill theirs. On any thread."""
    line, needs = machine.kernel["line"], choose.settings(HERE, suite)
    needs |= {"memory": machine.memory(needs["memory"]), "plugin": needs["plugin"] and PROGRAMS / needs["plugin"]}
    remaining, tried_again = list(tests), set()
    for number in itertools.count(1):
        if not remaining or boot.stopping.is_set():
            return
        console = LOGS / line / f"{suite}-{number}.console"
        dmesg = console.with_suffix(".dmesg")
        dmesg.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="payload-", dir=BUILD) as scratch, open(dmesg, "w", encoding="utf-8") as log:
            payload = pathlib.Path(scratch) / "payload.squashfs"
            machine.payload(payload, remaining, needs)
            try:
                for event in boot.events(machine.kernel, machine.root, payload, console, needs,
                                         lambda event: deadline_of(event, machine.patience), machine.patience):
                    log.write("".join(f"{text}\n" for text in event.get("dmesg", [])))
                    if event["event"] == "hello":
                        cache.say(f"{suite} on {event['release']}, up after {time.monotonic() - start:.1f} s")
                        if event["splats"]:
                            result.add(line, report.Result(f"{suite}/boot", "failed", event["splats"][0], "", 0))
                    elif event["event"] == "start":
                        start = time.monotonic()
                        log.write(f"=== {event['test']}\n")
                    elif event["event"] == "end":
                        del remaining[0]
                        result.add(line, report.Result(event["test"], event["outcome"], told(event), event["output"],
                                                       time.monotonic() - start))
            except boot.Died as e:
                if boot.stopping.is_set():
                    return
                if not remaining:
                    result.add(line, report.Result(f"{suite}/farewell", "failed", f"{e}", "", time.monotonic() - start))
                    return
                if boot.retry_worthwhile(console) and remaining[0]["id"] not in tried_again:
                    cache.say(f"{line}: the emulator tripped over the kernel patching itself ({boot.PATCHING_OOPS.pattern}): booting again "
                              f"for {remaining[0]['id']}")
                    tried_again.add(remaining[0]["id"])
                    continue
                test = remaining.pop(0)  # if none was running, the one that would have been: or this would never end
                result.add(line, report.Result(test["id"], "failed", f"{e}", "", time.monotonic() - start))


def free_memory():
    """Of the host, in bytes."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))


def side_by_side(jobs, result):
    """Runs jobs (machine, suite, tests) as many at once as there are cores and memory: a guest keeps one CPU busy, and a bit."""
    waiting = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)

    def work():
        while True:
            try:
                machine, suite, tests = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                run_suite(machine, suite, tests, result)
            except Exception as e:  # pylint: disable=broad-except
                result.add(machine.kernel["line"], report.Result(f"{suite}/harness", "failed", f"{e}", traceback.format_exc(), 0))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(max(1, min(toolchain.JOBS, len(jobs), free_memory() // ROOM)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        boot.stop()
        for thread in threads:
            thread.join()
        raise


def told(event):
    """Why, with the kernel's words when it complained."""
    if event["outcome"] == "failed" and event["dmesg"]:
        return "kernel log of this test:\n" + "\n".join(event["dmesg"][-60:]) + "\n" + event["why"]
    return event["why"]


def main():
    args = arguments()
    lines = list(fetch.KERNELS) if args.kernel == "all" else [args.kernel]
    tests, lost = choose.chosen(choose.every(HERE), args.words)
    if lost:
        print(f"guest: no suite or test is called {', '.join(lost)}: see ./dev guest --list", file=sys.stderr)
        return 1
    every = args.words or args.long
    if args.list:
        print("\n".join(test["id"] for test in tests if every or not choose.is_long(test, lines[0])))
        return 0
    tests = [test for test in tests for _ in range(args.repeat)]
    BUILD.mkdir(parents=True, exist_ok=True)
    result = report.Report()
    try:
        if args.generate:
            with cache.lock(cache.folder() / "lock"):
                for module in modules.sources(ROOT / "kernel"):
                    generated.write(module)
            return 0
        if args.build_only or args.check:
            return build(lines, args.check)
        if args.shell:
            machine = Machine(lines[0])
            with tempfile.TemporaryDirectory(prefix="payload-", dir=BUILD) as scratch:
                payload = pathlib.Path(scratch) / "payload.squashfs"
                machine.payload(payload, tests, {"programs": sorted(path.name for path in PROGRAMS.glob("devmem-load*"))})
                return boot.shell(machine.kernel, machine.root, payload, machine.memory("2G"), 2)
    except (cache.Missing, cache.Broken) as e:
        print(f"guest: {e}", file=sys.stderr)
        return 77 if isinstance(e, cache.Missing) else 1
    try:
        build_programs(tests)
    except cache.Broken as e:
        print(f"guest: {e}", file=sys.stderr)
        return 1
    jobs = []
    for line in lines:
        mine = [test for test in tests if every or not choose.is_long(test, line)]
        try:
            machine = Machine(line)
        except (cache.Missing, cache.Broken) as e:
            outcome = "skipped" if isinstance(e, cache.Missing) else "failed"
            print(f"guest: {e}", file=sys.stderr)
            for test in mine if outcome == "skipped" else mine[:1]:
                result.add(line, report.Result(test["id"], outcome, f"kernel {line}: {e}", "", 0))
            continue
        for suite, group in itertools.groupby(mine, key=lambda test: test["suite"]):
            group = list(group)
            if machine.runs(suite):
                jobs.append((machine, suite, group))
            elif len(lines) == 1:  # asked for by name, so an answer is due
                for test in group:
                    result.add(line, report.Result(test["id"], "skipped", f"the suite is for newer kernels than {line}", "", 0))
    side_by_side(sorted(jobs, key=lambda job: job[1]), result)
    return result.close(RESULTS)


if __name__ == "__main__":
    sys.exit(main())
