# SPDX-License-Identifier: Apache-2.0
"""What a receiver costs, in instructions.

The guest's clock counts instructions (suite.json: icount 0, one nanosecond each), and it has one CPU: so a process's CPU time is
the number of instructions executed for it, by itself and by the kernel on its behalf. Two CPUs would share that clock, and each
would be charged for what the other did meanwhile. The NIC's NAPI runs in threads of its own: what the software NIC copies, and what
the stack does for a packet before it reaches the socket, is charged to them, as is the sender to itself. All have the same priority:
a receiver ahead of the others was charged more, most likely for softirqs that they left.
"""
import contextlib
import ctypes
import json
import os
import struct
import time

from guest import ethtool, shell

MIB = 1 << 20
# glibc copies what is large by `rep movsb`, which an emulated CPU counts as an instruction a byte: never here.
RECEIVER = ["env", f"GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold={1 << 40}"]


def quiet(*nics):
    """Frames that fill device memory's pages, merged as a NIC's hardware GRO would; NAPI in threads."""
    for each in nics:
        each.mtu(9000)
        ethtool.feature(each, "rx-gro-hw", True)
        # `ip netns exec` has the /sys of that namespace.
        within = ["ip", "netns", "exec", each.netns] if each.netns else []
        shell.run([*within, "sh", "-c", f"echo 1 > /sys/class/net/{each.name}/threaded"])


def cpu_ns(pid):
    """CPU time of all a process's threads so far, those that ended included."""
    return time.clock_gettime_ns((~pid << 3) | 2)  # clock_getcpuclockid(3)


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
