# SPDX-License-Identifier: Apache-2.0
"""netdev-genl and ethtool netlink, through upstream's ynl at /opt/linux.

family("netdev").queue_get({"ifindex": i}, dump=True) and the like speak to the kernel as upstream's own tests do. A binding lives
as long as the netlink socket it was made through, so Binding owns one.
"""
import functools
import os
import socket
import sys

from . import Bad

SPECS = "/opt/linux/Documentation/netlink/specs"
OUR_SPECS = "/payload/specs"
sys.path.append("/opt/linux/tools/net/ynl")


@functools.cache
def _ynl():
    from pyynl import lib  # pylint: disable=import-outside-toplevel
    return lib


@functools.cache
def family(name):
    """The ynl family of a specification, upstream's or ours: netdev, ethtool, rt-link, devmem-binding ... One socket a process."""
    return another(name)


def another(name):
    """The same, with a socket of its own."""
    ours = f"{OUR_SPECS}/{name}.yaml"
    if os.path.exists(ours):  # a module's: it came after the list of families was read, and gets another number each time
        from pyynl.lib.ynl import GenlProtocol  # pylint: disable=import-outside-toplevel
        GenlProtocol.genl_family_name_to_id = {}
    return _ynl().YnlFamily(ours if os.path.exists(ours) else f"{SPECS}/{name}.yaml", schema="", process_unknown=True)


def renew():
    """After a fork: sockets of our own in place of the parent's. Parsed specifications are kept."""
    for name in _PREPARED:
        family(name).sock.close()
        family(name).sock = _socket(family(name))


_PREPARED = []


def prepare(*names):
    """Parses specifications before a fork."""
    for name in names:
        family(name)
        _PREPARED.append(name)


def _socket(of):
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, of.nlproto.proto_num)
    netlink = _ynl().Netlink
    for option in (netlink.NETLINK_CAP_ACK, netlink.NETLINK_EXT_ACK, netlink.NETLINK_GET_STRICT_CHK):
        made.setsockopt(netlink.SOL_NETLINK, option, 1)
    return made


def Error():  # pylint: disable=invalid-name
    """The exception ynl raises when the kernel refuses: has .error (errno) and .nl_msg.extack."""
    return _ynl().NlError


def message(error):
    """What the kernel said in refusing."""
    extack = getattr(error.nl_msg, "extack", None) or {}
    return extack.get("msg", "")


class Binding:
    """A dma-buf bound to receive queues of one NIC. Undone by close(), at the end of a with block, or with the process."""

    def __init__(self, ifindex, dmabuf_fd, queues, rx_page_size=None):
        netdev = family("netdev")
        self.socket, shared = _socket(netdev), netdev.sock
        request = {"ifindex": ifindex, "fd": dmabuf_fd, "queues": [{"id": queue, "type": "rx"} for queue in queues]}
        if rx_page_size is not None:
            request["rx-page-size"] = rx_page_size
        netdev.sock = self.socket
        try:
            self.id = netdev.bind_rx(request)["id"]
        except BaseException:
            self.socket.close()
            raise
        finally:
            netdev.sock = shared

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def queue(ifindex, number, kind="rx"):
    """One queue's attributes; with "dmabuf" while device memory is bound to it."""
    return family("netdev").queue_get({"ifindex": ifindex, "id": number, "type": kind})


def queues(ifindex, kind="rx"):
    return [q for q in family("netdev").queue_get({"ifindex": ifindex}, dump=True) if q["type"] == kind]


def pools(ifindex=None):
    """The page pools of one NIC, or all that can be seen from here."""
    found = family("netdev").page_pool_get({}, dump=True)
    return [pool for pool in found if ifindex is None or pool.get("ifindex") == ifindex]


def bound_pools(ifindex):
    """The pools that stand on a dma-buf, not counting those being emptied."""
    return [pool for pool in pools(ifindex) if "dmabuf" in pool and "detach-time" not in pool]


def orphan_pools():
    """Pools whose NIC is gone: somebody still holds a page of theirs."""
    return [pool for pool in pools() if "ifindex" not in pool]


def flush_deferred():
    """Has every CPU free the skbs it put aside. The kernel parks up to 64 a CPU until that CPU next receives something, and the
    pages of a pool with them: without traffic, for ever."""
    cpus = os.sched_getaffinity(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            sock.sendto(b"", sock.getsockname())  # the loopback device receives on the CPU that sends
    os.sched_setaffinity(0, cpus)


def pools_gone():
    """Whether no pool outlives its NIC, once what was put aside is freed."""
    flush_deferred()
    return not orphan_pools()


def queue_stats(ifindex):
    """{("rx", 3): {"rx-packets": 5, ...}}"""
    found = family("netdev").qstats_get({"ifindex": ifindex, "scope": {"queue"}}, dump=True)
    return {(stats["queue-type"], stats["queue-id"]): stats for stats in found}


def stats(ifindex):
    """The NIC's totals."""
    found = family("netdev").qstats_get({"ifindex": ifindex}, dump=True)
    if not found:
        raise Bad(f"interface {ifindex} has no queue statistics")
    return found[0]


def napi(napi_id):
    return family("netdev").napi_get({"id": napi_id})
