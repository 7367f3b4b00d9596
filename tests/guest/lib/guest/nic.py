# SPDX-License-Identifier: Apache-2.0
"""A pair of devmemsim NICs: one here, its other end in the network namespace `peer`.

    here, there = nic.pair(self, queues=4)      # module loaded, addresses set, link up; undone when the test ends
    here.v4, here.v6, here.ifindex, here.name; there.netns == "peer"
"""
import contextlib
import dataclasses
import os
import pathlib
import socket
import threading

from . import modules, shell

PEER = shell.PEER


@dataclasses.dataclass
class Nic:
    name: str
    v4: str
    v6: str
    netns: str | None = None

    @property
    def ifindex(self):
        with namespace(self.netns):
            return socket.if_nametoindex(self.name)

    def ip(self, words):
        """`ip WORDS` where this NIC is."""
        return shell.run(f"ip {words}", self.netns)

    def up(self, yes=True):
        self.ip(f"link set {self.name} {'up' if yes else 'down'}")

    def mtu(self, size):
        self.ip(f"link set {self.name} mtu {size}")

    def carrier(self):
        with namespace(self.netns):
            # /sys/class/net is the mounting process's; ask the kernel by socket instead
            return "LOWER_UP" in shell.run(f"ip link show {self.name}").stdout


@contextlib.contextmanager
def namespace(name):
    """This thread is in the named namespace within; sockets made there stay there. None: nothing changes."""
    if name is None:
        yield
        return
    with open(f"/proc/self/task/{threading.get_native_id()}/ns/net", "rb") as home, open(f"/run/netns/{name}", "rb") as there:
        os.setns(there.fileno(), os.CLONE_NEWNET)
        try:
            yield
        finally:
            os.setns(home.fileno(), os.CLONE_NEWNET)


def pair(test, mtu=None, **parameters):
    """Loads devmemsim and sets up its first pair; undone after the test (which may have undone parts of it itself)."""
    here, there = up(mtu, **parameters)
    test.addCleanup(down)
    return here, there


def up(mtu=None, **parameters):
    """The same by hand, for a shell."""
    modules.load("devmemsim", **parameters)
    shell.run(f"ip netns add {PEER}")
    shell.run(f"ip link set dms1 netns {PEER}")
    nics = Nic("dms0", "192.0.2.1", "2001:db8::1"), Nic("dms1", "192.0.2.2", "2001:db8::2", PEER)
    for nic in nics:
        if mtu is not None:
            nic.mtu(mtu)
        nic.ip(f"addr add {nic.v4}/24 dev {nic.name}")
        nic.ip(f"-6 addr add {nic.v6}/64 dev {nic.name} nodad")
        nic.up()
    shell.run("ip link set lo up", PEER)
    for nic in nics:
        shell.until(nic.carrier, f"a carrier on {nic.name}")
    return nics


def down():
    """Unloads the module and deletes the namespace. Does nothing about what is not there."""
    modules.unload("devmemsim")
    if pathlib.Path(f"/run/netns/{PEER}").exists():
        shell.run(f"ip netns delete {PEER}")
