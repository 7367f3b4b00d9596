# SPDX-License-Identifier: Apache-2.0
"""Bindings by handle: /dev/devmem_binding of kernel/devmem_binding (devmem_binding(4)).

    handle.load(self)                                       # the module, unloaded after the test
    held = handle.Handle.create(here.ifindex, buffer.fd, [3], reset=handle.RSS | handle.SPLIT)
    held.add(3, dst=(here.v4, 5201)); held.info(); held.close()
    with self.assertRaises(handle.Refused) as caught: ...   # .errno, and the kernel's words as str()
"""
import ctypes
import fcntl
import os
import pathlib
import socket
import struct

from . import kernel, modules, netdev

DEVICE = "/dev/devmem_binding"
CREATE = struct.Struct("=IiIIQIIIIQIiII")  # struct devmem_binding_create, and so on
FLOW = struct.Struct("=HBBHH16s16s")
RULE = struct.Struct(f"=II{FLOW.size}s")
CHANGE = struct.Struct(f"={RULE.size}sIIQ")
INFO = struct.Struct("=IIIIIIIIQQQII")
INFO_NAMES = ("id", "ifindex", "dmabuf", "rx-page-size", "state", "reset", "split-before", "threshold-before", "netns-cookie")
RSS, SPLIT = 1, 2
LIVE, GONE = 0, 1
MESSAGE_MAX = 256
RESETS_RSS = kernel() >= (7, 0)  # RSS_SET, without which the module cannot


def _iowr(number, size):
    return 3 << 30 | size << 16 | 0xDB << 8 | number


IOC_CREATE, IOC_INFO = _iowr(1, CREATE.size), _iowr(4, INFO.size)
IOC_RULE_ADD, IOC_RULE_DEL = _iowr(2, CHANGE.size), _iowr(3, CHANGE.size)


class Refused(OSError):
    """errno, and what the kernel said."""


def load(test):
    """Loads the module; it is unloaded after the test, which fails if that is refused."""
    modules.load("devmem_binding")
    test.addCleanup(modules.unload, "devmem_binding")


def flow(src=(None, 0), dst=(None, 0), family=4, protocol=socket.IPPROTO_TCP):
    """struct devmem_binding_flow; what is None or 0 is not matched."""
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    addresses = [socket.inet_pton(kind, address) if address else b"" for address, _ in (src, dst)]
    return FLOW.pack(kind, protocol, 0, socket.htons(src[1]), socket.htons(dst[1]), *addresses)


def request(fd, command, make):
    """An ioctl with room for words: make(address, size of the room) is the argument. Returns it as the kernel left it."""
    room = ctypes.create_string_buffer(MESSAGE_MAX)
    argument = bytearray(make(ctypes.addressof(room), MESSAGE_MAX))
    try:
        fcntl.ioctl(fd, command, argument)
    except OSError as e:
        raise Refused(e.errno, room.value.decode(errors="replace")) from None
    return argument


class Handle:
    """Owns a handle's file descriptor. .id and .dmabuf are the kernel's numbers."""

    def __init__(self, fd, number=None, dmabuf=None):
        self.fd, self.id, self.dmabuf = fd, number, dmabuf

    @classmethod
    def create(cls, ifindex, dmabuf_fd, queues, rx_page_size=0, reset=0, split_before=0, threshold_before=0, device=None):
        """`device`: an open /dev/devmem_binding, or one is opened."""
        list_of = (ctypes.c_uint32 * max(len(queues), 1))(*queues)
        opened = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC) if device is None else device
        try:
            made = CREATE.unpack(request(opened, IOC_CREATE, lambda room, size: CREATE.pack(
                ifindex, dmabuf_fd, rx_page_size, reset, ctypes.addressof(list_of), len(queues), split_before, threshold_before, size, room,
                0, -1, 0, 0)))
        finally:
            if device is None:
                os.close(opened)
        return cls(made[11], made[10], made[12])

    def _change(self, command, location, queue, match):
        rule = RULE.pack(location, queue, match)
        return request(self.fd, command, lambda room, size: CHANGE.pack(rule, size, 0, room))

    def add(self, queue, **match):
        """Returns the new rule's location."""
        return RULE.unpack(CHANGE.unpack(self._change(IOC_RULE_ADD, 0, queue, flow(**match)))[0])[0]

    def delete(self, location):
        self._change(IOC_RULE_DEL, location, 0, bytes(FLOW.size))

    def info(self, queue_room=256, rule_room=256):
        """{"id", ..., "queues", "rules": [(location, queue, flow)], "queue-count", "rule-count"}."""
        queues = (ctypes.c_uint32 * max(queue_room, 1))()
        rules = ctypes.create_string_buffer(max(rule_room, 1) * RULE.size)
        argument = bytearray(INFO.pack(*[0] * 9, ctypes.addressof(queues), ctypes.addressof(rules), queue_room, rule_room))
        fcntl.ioctl(self.fd, IOC_INFO, argument)
        told = INFO.unpack(argument)
        return {**dict(zip(INFO_NAMES, told)), "queue-count": told[11], "rule-count": told[12],
                "queues": list(queues)[:min(queue_room, told[11])],
                "rules": [RULE.unpack_from(rules, i * RULE.size) for i in range(min(rule_room, told[12]))]}

    def fdinfo(self):
        lines = pathlib.Path(f"/proc/self/fdinfo/{self.fd}").read_text(encoding="ascii").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def close(self):
        """Ends the binding if nobody else holds it. May be called twice."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def held(ifindex=None):
    """What the kernel says is held, of one NIC or of all."""
    return netdev.family("devmem-binding").get({} if ifindex is None else {"ifindex": ifindex}, dump=True)


def get(number):
    return netdev.family("devmem-binding").get({"id": number})


class Events:
    """What the family tells from here on: .next() waits for the next event, (name, attributes)."""

    def __init__(self):
        self.family = netdev.another("devmem-binding")
        self.family.ntf_subscribe("events")

    def next(self, seconds=10):
        for event in self.family.poll_ntf(duration=seconds):
            return event["name"], event["msg"]
        return None

    def close(self):
        self.family.sock.close()
