# SPDX-License-Identifier: Apache-2.0
"""Features, channels, rings, RSS and ntuple rules, by ethtool's command line, and rules by ioctl where it cannot say enough."""
import ctypes
import fcntl
import re
import socket
import struct

from . import Bad, netdev, shell

SIOCETHTOOL = 0x8946
GLINK = 0x0A
GRXCLSRLCNT, GRXCLSRULE, GRXCLSRLALL, SRXCLSRLDEL, SRXCLSRLINS = 0x2E, 0x2F, 0x30, 0x31, 0x32
LOC_SPECIAL, LOC_ANY = 0x80000000, 0xFFFFFFFF
TCP_FLOW = {4: 0x01, 6: 0x05}
SPLIT = {False: 1, True: 2, None: 0}  # tcp-data-split: disabled, enabled, unknown (the driver's default)


def run(words, nic, option, ok=True):
    """`ethtool OPTION DEV WORDS` where the NIC is."""
    return shell.run(f"ethtool {option} {nic.name} {words}", nic.netns, ok)


def header_split(nic, on=True, threshold=None):
    """Sets tcp-data-split on, off or (None) back to the driver's choice; threshold in bytes, on kernels that have one."""
    request = {"header": {"dev-name": nic.name}, "tcp-data-split": SPLIT[on]}
    if threshold is not None:
        request["hds-thresh"] = threshold
    netdev.family("ethtool").rings_set(request)


def rings(nic):
    return netdev.family("ethtool").rings_get({"header": {"dev-name": nic.name}})


def features(nic):
    """{"rx-gro-hw": True, ...}"""
    found = re.findall(r"^\s*([\w-]+): (on|off)", run("", nic, "-k").stdout, re.M)
    return {name: value == "on" for name, value in found}


def feature(nic, name, on):
    run(f"{name} {'on' if on else 'off'}", nic, "-K")


def channels(nic, combined):
    run(f"combined {combined}", nic, "-L")


def rss_equal(nic, queues):
    """Spreads hashed traffic over queues 0 .. queues-1."""
    run(f"equal {queues}", nic, "-X")


def rss_default(nic):
    run("default", nic, "-X")


def rss(nic, context=0):
    """The RSS table as ethtool tells it in JSON."""
    more = f" context {context}" if context else ""
    return shell.json(f"ethtool --json -x {nic.name}{more}", nic.netns)[0]


def steer(nic, queue, flow="tcp4", location=None, context=None, **match):
    """Adds an ntuple rule; match as dst_port=80, src_ip="192.0.2.2". Returns its location."""
    words = [f"flow-type {flow}", *[f"{key.replace('_', '-')} {value}" for key, value in match.items()]]
    words += [f"context {context}"] if context is not None else []
    words += [f"queue {queue}"] if queue is not None else []
    words += [f"loc {location}"] if location is not None else []
    done = run(" ".join(words), nic, "-N")
    found = re.search(r"Added rule with ID (\d+)", done.stdout)
    if location is None and not found:
        raise Bad(f"ethtool did not say which location the rule got: {done.stdout}")
    return location if location is not None else int(found.group(1))


def unsteer(nic, location):
    run(f"delete {location}", nic, "-N")


def locations(nic):
    """Locations of all ntuple rules, sorted."""
    return sorted(int(word) for word in re.findall(r"^Filter: (\d+)", run("", nic, "-n").stdout, re.M))


# struct ethtool_rxnfc: cmd, flow_type, data, fs (ethtool_rx_flow_spec, 168 bytes), rule_cnt, rule_locs
FLOW_SPEC = struct.Struct("=I52s20s52s20s4xQI4x")
RXNFC = struct.Struct(f"=II Q {FLOW_SPEC.size}s I 4x")


def rule_count(nic):
    """(rules there are, rules there is room for, whether the driver takes RX_CLS_LOC_ANY), by ioctl."""
    data, _, count = _rxnfc(nic, GRXCLSRLCNT)
    return count, data & ~LOC_SPECIAL, bool(data & LOC_SPECIAL)


def _ioctl(nic, data):
    """The kernel's answer to an ethtool ioctl where the NIC is."""
    buffer = ctypes.create_string_buffer(data, len(data))
    request = struct.pack("16sP", nic.name.encode(), ctypes.addressof(buffer)).ljust(40, b"\0")
    with shell.namespace(nic.netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, request)
    return buffer.raw


def link(nic):
    """Whether the NIC is up and has a carrier."""
    return bool(struct.unpack("=II", _ioctl(nic, struct.pack("=II", GLINK, 0)))[1])


def _rxnfc(nic, command, flow=b"\0" * FLOW_SPEC.size):
    """(data, flow, count) of the answer."""
    _, _, data, flow, count = RXNFC.unpack(_ioctl(nic, RXNFC.pack(command, 0, 0, flow, 0)))
    return data, flow, count


def insert_rule(nic, location, queue, src=(None, 0), dst=(None, 0), family=4):
    """Adds a rule for TCP at a location (or LOC_ANY) by ioctl, as a program would: what is None or 0 is not matched. Returns its
    location."""
    kind, none = (socket.AF_INET6, "::") if family == 6 else (socket.AF_INET, "0.0.0.0")
    fields = [*(socket.inet_pton(kind, address or none) for address, _ in (src, dst)), *(struct.pack(">H", port) for _, port in (src, dst))]
    mask = b"".join((b"\xff" if any(field) else b"\0") * len(field) for field in fields)
    flow = FLOW_SPEC.pack(TCP_FLOW[family], b"".join(fields), b"", mask, b"", queue, location)
    return FLOW_SPEC.unpack(_rxnfc(nic, SRXCLSRLINS, flow)[1])[-1]


def delete_rule(nic, location):
    _rxnfc(nic, SRXCLSRLDEL, FLOW_SPEC.pack(0, b"", b"", b"", b"", 0, location))


def steer_port(nic, queue, port, family=4):
    """Adds a rule that steers TCP to a port, where there is room. Returns its location."""
    if not rule_count(nic)[2]:  # the user is to choose where, and ethtool knows how
        return steer(nic, queue, f"tcp{family}", dst_port=port)
    return insert_rule(nic, LOC_ANY, queue, dst=(None, port), family=family)
