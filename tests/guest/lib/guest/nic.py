# SPDX-License-Identifier: Apache-2.0
"""A pair of devmemsim NICs: one here, its other end in the network namespace `peer`.

    here, there = nic.pair(self, queues=4)      # module loaded, addresses set, link up; undone when the test ends
    here.v4, here.v6, here.ifindex, here.name; there.netns == "peer"
"""
import dataclasses
import socket

from . import ethtool, modules, shell
from .shell import namespace

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
        return ethtool.link(self)


def pair(test, mtu=None, **parameters):
    """Loads devmemsim and sets up its first pair; undone after the test (which may have undone parts of it itself)."""
    here, there = up(mtu, **parameters)
    test.addCleanup(down)
    return here, there


def up(mtu=None, **parameters):
    """The same by hand, for a shell."""
    modules.load("devmemsim", **parameters)
    nics = Nic("dms0", "192.0.2.1", "2001:db8::1"), Nic("dms1", "192.0.2.2", "2001:db8::2", PEER)
    shell.ip([f"netns add {PEER}", f"link set dms1 netns {PEER}", *_setup(nics[0], mtu)])
    shell.ip(["link set lo up", *_setup(nics[1], mtu)], PEER)
    for nic in nics:
        shell.until(nic.carrier, f"a carrier on {nic.name}")
    return nics


def _setup(nic, mtu):
    """What brings a NIC up, with its addresses, as `ip` wants it."""
    return [*([f"link set {nic.name} mtu {mtu}"] if mtu is not None else []), f"addr add {nic.v4}/24 dev {nic.name}",
            f"addr add {nic.v6}/64 dev {nic.name} nodad", f"link set {nic.name} up"]


def down():
    """Unloads the module and deletes the namespace. Does nothing about what is not there."""
    modules.unload("devmemsim")
    shell.delete_namespace(PEER)
