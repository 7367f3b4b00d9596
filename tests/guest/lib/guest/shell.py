# SPDX-License-Identifier: Apache-2.0
"""Commands, where they run, and waiting for a condition under a deadline.

Under emulation a process costs a tenth of a second: what a test needs often is done without one (nic, modules), or many steps by one.
"""
import contextlib
import ctypes
import json as json_module
import os
import shlex
import subprocess
import threading
import time

from . import Bad, patience

PEER = "peer"  # the network namespace of the other side
MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def namespace(name):
    """This thread is in the named network namespace within; sockets made and processes started there stay there. None: nothing
    changes. /sys remains that of the namespace it was mounted in."""
    if name is None:
        yield
        return
    with open(f"/proc/self/task/{threading.get_native_id()}/ns/net", "rb") as home, open(f"/run/netns/{name}", "rb") as there:
        os.setns(there.fileno(), os.CLONE_NEWNET)
        try:
            yield
        finally:
            os.setns(home.fileno(), os.CLONE_NEWNET)


def delete_namespace(name):
    """As `ip netns delete` does. Does nothing if there is none of that name."""
    path = f"/run/netns/{name}"
    if os.path.exists(path):
        if _libc.umount2(path.encode(), MNT_DETACH):
            raise Bad(f"unmounting {path}: {os.strerror(ctypes.get_errno())}")
        os.unlink(path)


def run(command, netns=None, ok=True, timeout=30, **more):
    """Runs a command (a list, or words in a string); returns CompletedProcess with text output. Fails loudly unless ok=False."""
    words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    with namespace(netns):
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout * patience(), check=False, **more)
    if ok and done.returncode != 0:
        where = f" in {netns}" if netns else ""
        raise Bad(f"`{shlex.join(words)}`{where} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done


def ip(lines, netns=None):
    """Several `ip` commands in a namespace, by one process. The first that fails ends it."""
    run(["ip", "-batch", "-"], netns, input="".join(f"{line}\n" for line in lines))


def json(command, netns=None):
    """A command's output, parsed."""
    return json_module.loads(run(command, netns).stdout)


def until(condition, what, seconds=10.0, every=0.02):
    """Waits for condition() to be true, and returns what it returned; `what` is told when the time is up."""
    seconds *= patience()
    limit = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > limit:
            raise Bad(f"not within {seconds:g} s: {what} (last seen: {value!r})")
        time.sleep(every)  # only how often we look
