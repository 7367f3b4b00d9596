# SPDX-License-Identifier: Apache-2.0
"""What a receiver costs, in instructions.

The receiver has a CPU of its own (suite.json: isolcpus), as it has on a real machine; sender, NAPI (in threads) and all others share
the other one. A plugin of the emulator (tests/bench/guest_bench_counter.cc) counts what each CPU executes; an idle one executes
nothing. So the difference between two marks is what the receiver executed: its threads, its system calls, its wake-ups.

The guest's clock counts instructions too (icount), and one host thread runs both CPUs in turn, changing over when one wakes the other.
So the figures do not depend on how busy the machine is. But no process's CPU time means anything here: the clock counts what both
CPUs do.
"""
import contextlib
import ctypes
import json
import mmap
import os
import pathlib
import struct

from guest import ethtool, shell

MIB = 1 << 20
CPU = 1
# glibc copies what is large by `rep movsb`, which an emulated CPU counts as an instruction a byte: never here.
RECEIVER = ["taskset", "-c", str(CPU), "env", f"GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold={1 << 40}"]
MARKS = pathlib.Path("/run/marks")  # how many there were: each test is a process of its own


def quiet(*nics):
    """Frames that fill device memory's pages, merged as a NIC's hardware GRO would; NAPI in threads."""
    for each in nics:
        each.mtu(9000)
        ethtool.feature(each, "rx-gro-hw", True)
        # `ip netns exec` has the /sys of that namespace.
        within = ["ip", "netns", "exec", each.netns] if each.netns else []
        shell.run([*within, "sh", "-c", f"echo 1 > /sys/class/net/{each.name}/threaded"])
    for thread in pathlib.Path("/proc").glob("[0-9]*"):
        if (thread / "comm").read_text(encoding="ascii", errors="replace").startswith("napi/"):
            os.sched_setaffinity(int(thread.name), {0})


def mark():
    """Has the plugin write down its counters; the number of that line."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\x0f\x1f\x84\x00DMRK\xc3")  # the marker; ret
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    number = int(MARKS.read_text(encoding="ascii")) if MARKS.exists() else 0
    MARKS.write_text(str(number + 1), encoding="ascii")
    return number


class SystemCalls:
    """Counts a process's system calls by the tracepoint raw_syscalls:sys_enter, those of threads that begin later included. They
    cost more then: never in the run whose instructions are counted."""
    PERF_EVENT_OPEN, PERF_TYPE_TRACEPOINT, INHERIT = 298, 2, 1 << 1
    ATTR = struct.Struct("=IIQQQQQIIQ")  # perf_event_attr, first version: type, size, config, period, what, format, bits ...

    def __init__(self, pid):
        if not os.path.isdir("/sys/kernel/tracing/events"):
            shell.run("mount -t tracefs tracefs /sys/kernel/tracing")
        with open("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id", encoding="ascii") as file:
            number = int(file.read())
        attribute = self.ATTR.pack(self.PERF_TYPE_TRACEPOINT, self.ATTR.size, number, 0, 0, 0, self.INHERIT, 0, 0, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        self.fds = []
        for task in os.listdir(f"/proc/{pid}/task"):
            fd = libc.syscall(self.PERF_EVENT_OPEN, attribute, int(task), -1, -1, 8)  # PERF_FLAG_FD_CLOEXEC
            if fd < 0:
                raise OSError(ctypes.get_errno(), f"perf_event_open of thread {task} of process {pid}")
            self.fds.append(fd)

    def count(self):
        return sum(struct.unpack("=Q", os.read(fd, 8))[0] for fd in self.fds)

    def close(self):
        for fd in self.fds:
            os.close(fd)


@contextlib.contextmanager
def system_calls(pid):
    """Yields a function that tells how many system calls were made since."""
    counter = SystemCalls(pid)
    try:
        yield counter.count
    finally:
        counter.close()


def tell(case, **figures):
    """A line that tests/bench/guest_bench.py reads."""
    print("RESULT " + json.dumps({"case": case, **figures}), flush=True)
