# SPDX-License-Identifier: Apache-2.0
"""Runs the chosen tests one after another and reports each, as a line of JSON on the virtio port "report".

  1. hello: the guest is up. The job (/payload/job.json) says which tests to run.
  2. Each test runs in a process of its own (forked, so that imports are paid once), in a cgroup that is killed when it ends or
     when its deadline has passed.
  3. Afterwards the guest is put in order: namespaces deleted, our modules unloaded. What the kernel logged meanwhile is read; a
     warning, bug or splat fails the test whatever it found, and so does a page pool that outlives its NIC.
  4. If the guest cannot be put in order, the agent says "spent" and stops: the host boots another for the remaining tests.
"""
import contextlib
import faulthandler
import importlib
import itertools
import json
import os
import pathlib
import re
import select
import signal
import sys
import tempfile
import time
import traceback
import unittest

from . import DEADLINE, leaks, modules, netdev, patience

PAYLOAD = pathlib.Path("/payload")
CGROUP = pathlib.Path("/sys/fs/cgroup/test")
SPLAT = re.compile(r"WARNING:|BUG:|\bOops\b|refcount_t:|possible recursive|possible circular|suspicious RCU|possible irq lock|"
                   r"inconsistent lock state|kmemleak: \d+ new|stalled pool shutdown|unregister_netdevice: waiting|blocked for more than|"
                   r"rcu.*(detected|self-detected) .*stall|general protection fault|scheduling while atomic|KASAN:|UBSAN:|"
                   r"DMA-API: (?!preallocated |debugging enabled )|ODEBUG:|"
                   r"soft lockup|hard LOCKUP|held lock freed|lock held when returning|Unloaded tainted|sleeping function called|"
                   r"page_pool.*(inflight|leak)|Kernel panic|kernel BUG|list_(add|del) corruption|Bad page (state|map)")


class Log:
    """The kernel's log from here on."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)

    def lines(self):
        """What was logged since the last call."""
        found = []
        while True:
            try:
                record = os.read(self.fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return found
            except BrokenPipeError:  # older records were overwritten
                found.append("(some lines were lost)")
                continue
            head, _, text = record.partition(";")
            if int(head.split(",", 1)[0]) >> 3 == 0:  # facility 0: the kernel itself, not a process writing to /dev/kmsg
                stamp = int(head.split(",")[2]) / 1e6
                found.append(f"[{stamp:11.6f}] {text.splitlines()[0] if text else ''}")

    @staticmethod
    def splats(lines):
        return [line for line in lines if SPLAT.search(line)]


class Port:
    """The way to the host."""

    def __init__(self):
        names = {path.read_text().strip(): path.parent.name for path in pathlib.Path("/sys/class/virtio-ports").glob("*/name")}
        self.file = open(f"/dev/{names['report']}", "w", encoding="utf-8", buffering=1)  # pylint: disable=consider-using-with

    def tell(self, event, **more):
        self.file.write(json.dumps(dict(more, event=event)) + "\n")
        self.file.flush()


def find(test):
    """The TestCase instance of a test given by {"suite", "module", "class", "name"}."""
    folder = str(PAYLOAD / test["suite"])
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return getattr(importlib.import_module(test["module"]), test["class"])(test["name"])


def child(case, deadline, out):
    """Runs one test here and writes what came of it as JSON to the file `out`. Does not return."""
    status = 0
    try:
        os.setsid()
        netdev.renew()
        (CGROUP / "cgroup.procs").write_text(str(os.getpid()))
        faulthandler.dump_traceback_later(max(deadline - 1, 1), file=sys.stderr)
        result = unittest.TestResult()
        case.run(result)
        faulthandler.cancel_dump_traceback_later()
        bad = [text for _, text in result.errors + result.failures]
        if result.unexpectedSuccesses:
            bad.append("passed, though it was expected to fail")
        skipped = [reason for _, reason in result.skipped]
        outcome = "failed" if bad else "skipped" if skipped else "passed"
        json.dump({"outcome": outcome, "why": "\n".join(bad or skipped) or getattr(case, "note", "")}, out)
        out.flush()
    except BaseException:  # pylint: disable=broad-except
        traceback.print_exc()
        status = 1
    finally:
        sys.stderr.flush()
        os._exit(status)


def deadline_of(case, name):
    return patience() * (getattr(getattr(case, name), "deadline", None) or getattr(case, "deadline", DEADLINE))


def run(test, started):
    """Runs one test: {"outcome", "why", "output"}; calls started(deadline) before."""
    try:
        case = find(test)
        deadline = deadline_of(case, test["name"])
    except Exception:  # pylint: disable=broad-except
        started(DEADLINE * patience())
        return {"outcome": "failed", "why": traceback.format_exc(), "output": ""}
    started(deadline)
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as report:
        CGROUP.mkdir(exist_ok=True)
        pid = os.fork()
        if pid == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            child(case, deadline, report)
        handle = os.pidfd_open(pid)
        in_time = bool(select.select([handle], [], [], deadline)[0])
        os.close(handle)
        if not in_time:
            pathlib.Path("/proc/sysrq-trigger").write_text("w")  # blocked tasks, for the log
        (CGROUP / "cgroup.kill").write_text("1")
        gone = wait(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, 10 * patience())
        output.seek(0)
        report.seek(0)
        text = report.read()
        result = {"output": output.read()[-20000:]}
        if not in_time:
            result |= {"outcome": "failed", "why": f"no end within {deadline:g} s; it was ended"}
        elif not text:
            result |= {"outcome": "failed", "why": "the test's process died"}
        else:
            result |= json.loads(text)
        if not gone:
            result |= {"outcome": "failed", "why": result["why"] + "\nits process cannot be killed", "spent": True}
    return result


def wait(condition, seconds):
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)  # only how often we look
    return True


def tidy():
    """Puts the guest in order after a test; returns what could not be, as text. Runs in a process of its own: rmmod may hang."""
    def work():
        for name in os.listdir("/run/netns"):
            os.system(f"ip netns delete {name}")
        modules.unload_ours()
        if CGROUP.exists():
            wait(lambda: "populated 0" in (CGROUP / "cgroup.events").read_text(), 10 * patience())
            CGROUP.rmdir()
        for name in os.listdir("/sys/class/net"):
            if name != "lo" and not os.path.exists(f"/sys/class/net/{name}/device"):
                os.system(f"ip link delete {name} 2>/dev/null")  # tunnel modules have some that cannot be deleted
        netdev.renew()
        if not wait(netdev.pools_gone, 5 * patience()):
            raise RuntimeError(f"page pools outlive their NIC: {netdev.orphan_pools()}")

    pid = os.fork()
    if pid == 0:
        with open("/run/tidy", "w", encoding="utf-8") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        try:
            work()
            os._exit(0)
        except BaseException as e:  # pylint: disable=broad-except
            print(f"{type(e).__name__}: {e}", flush=True)
            os._exit(1)
    handle = os.pidfd_open(pid)
    seconds = 45 * patience()
    ended = bool(select.select([handle], [], [], seconds)[0])
    os.close(handle)
    if not ended:
        pathlib.Path("/proc/sysrq-trigger").write_text("w")
        os.kill(pid, signal.SIGKILL)
        return f"the guest could not be put in order within {seconds} s (namespaces, rmmod): see the kernel log"
    status = os.waitpid(pid, 0)[1]
    return "" if status == 0 else "afterwards: " + pathlib.Path("/run/tidy").read_text().strip()


def prepare():
    """What every test may count on."""
    pathlib.Path("/proc/sys/vm/nr_hugepages").write_text("64")
    pathlib.Path("/proc/sys/kernel/printk_ratelimit").write_text("0")
    for key in ("rmem_max", "wmem_max"):
        pathlib.Path(f"/proc/sys/net/core/{key}").write_text(str(64 << 20))


def main():
    prepare()
    if "--prepare" in sys.argv:
        print("devmemsim: python3 -c 'from guest import nic; nic.up()'   tests: /payload   upstream: /opt/linux", flush=True)
        return
    netdev.prepare("netdev", "ethtool")
    log, port = Log(), Port()
    early = log.lines()
    port.tell("hello", release=os.uname().release, dmesg=early, splats=log.splats(early))
    job = json.loads((PAYLOAD / "job.json").read_text(encoding="utf-8"))
    for test, following in itertools.zip_longest(job["tests"], job["tests"][1:]):
        start = time.monotonic()
        result = run(test, lambda deadline, test=test: port.tell("start", test=test["id"], deadline=deadline))
        seconds = time.monotonic() - start
        trouble = tidy()
        if not trouble and (not following or (test["module"], test["class"]) != (following["module"], following["class"])):
            trouble = leaks.found()
        lines = log.lines()
        splats = log.splats(lines)
        if trouble:
            result = dict(result, outcome="failed", why="\n".join(filter(None, [result["why"], trouble])), spent=True)
        expected = getattr(getattr(find(test), test["name"]), "splat", None) if result["outcome"] == "passed" else None
        if expected and not any(re.search(expected, line) for line in splats):
            result = dict(result, outcome="failed", why=f"the kernel did not complain of {expected}")
        splats = [line for line in splats if not (expected and re.search(expected, line))]
        if splats and not job.get("splats_allowed"):
            result = dict(result, outcome="failed", why="\n".join(filter(None, [result["why"], "the kernel complained: " + splats[0]])), spent=True)
        port.tell("end", test=test["id"], seconds=round(seconds, 2), dmesg=lines, **result)
        if result.get("spent"):
            break
    port.tell("bye")
    with contextlib.suppress(OSError):
        os.fsync(port.file.fileno())


if __name__ == "__main__":
    main()
