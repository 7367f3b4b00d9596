# SPDX-License-Identifier: Apache-2.0
"""What another user of the node gets at of a daemon that receives into device memory: nothing (docs/security.md)."""
import ctypes
import json
import os
import pathlib
import socket

from guest import dataset

from stand import RAW, Stand

STRANGER = 61666
PIDFD_GETFD = 438  # the same number on all machines


def links(pid):
    """{descriptor: what it is} of a process."""
    return {int(path.name): os.readlink(path) for path in pathlib.Path(f"/proc/{pid}/fd").iterdir()}


def spy(pid, numbers):
    """Which of these descriptors of a process could be opened or taken, and what else of its memory."""
    found = []
    names = [f"/proc/{pid}/mem", f"/proc/{pid}/maps"] + [f"/proc/{pid}/fd/{number}" for number in numbers]
    for name in names:
        try:
            os.close(os.open(name, os.O_RDONLY))
            found.append(name)
        except OSError:
            pass
    process = os.pidfd_open(pid)
    libc = ctypes.CDLL(None, use_errno=True)
    found += [f"pidfd_getfd {number}" for number in numbers if libc.syscall(PIDFD_GETFD, process, number, 0) >= 0]
    try:
        os.close(os.open("/dev/udmabuf", os.O_RDWR))
        found.append("/dev/udmabuf")
    except OSError:
        pass
    return found


def as_user(uid, function, *arguments):
    """Its result, as JSON can have it, in a child that has become this user."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.write(write, json.dumps(function(*arguments)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text)


def hello(path):
    """How many descriptors come to who connects to the handle socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as handles:
        handles.settimeout(60)
        handles.connect(path)
        data, descriptors, _, _ = socket.recv_fds(handles, 4096, 16)
        return {"bytes": len(data), "descriptors": len(descriptors)}


class Access(Stand):
    deadline = 240

    def test_another_user_gets_no_landing_pool(self):
        rows = dataset.raw(self.bucket, samples=512)
        server, daemon = self.serve(), self.daemon("--socket-mode", "0666")
        _, digests = self.trainers(daemon, server.url, *RAW)
        self.assert_delivered(rows, digests)

        held = links(daemon.pid)
        pools = [number for number, link in held.items() if "dmabuf" in link]
        self.assertTrue(pools, f"the landing pool is among its descriptors: {held}")
        self.assertTrue(spy(daemon.pid, pools), "what is tried works where one may")
        self.assertEqual([], as_user(STRANGER, spy, daemon.pid, sorted(held)))
        path = daemon.service.removeprefix("unix:") + ".fd"
        os.chmod(pathlib.Path(path).parent, 0o755)
        told = as_user(STRANGER, hello, path)
        self.assertEqual(0, told["descriptors"])
        self.assertGreater(told["bytes"], 32, "its token")
        daemon.end()  # a journal left behind would be found by the tests that follow
