# SPDX-License-Identifier: Apache-2.0
"""Which queue takes a frame: devmemsim's RSS hash, indirection table, contexts and ntuple rules, and where personalities differ.

SO_INCOMING_NAPI_ID of the socket a flow ends in tells its queue, so other traffic does not matter. Errors are read through the
ioctl: ethtool's command line hides the number.
"""
import ctypes
import errno
import fcntl
import itertools
import mmap
import pathlib
import random
import re
import select
import socket
import struct
import threading
import time
import unittest

import guest
from guest import devmem, ethtool, netdev, nic, shell

SO_INCOMING_NAPI_ID = 56
LOC_FIRST = 0xFFFFFFFE
DISCARD = (1 << 64) - 1
FLOW_RSS, FLOW_EXT, FLOW_MAC_EXT, ETHER_FLOW = 0x20000000, 0x80000000, 0x40000000, 0x12
FLOWS = {"tcp4": 0x01, "udp4": 0x02, "tcp6": 0x05, "udp6": 0x06}
NONE = {4: "0.0.0.0", 6: "::"}
KINDS = [(proto, family) for proto in ("tcp", "udp") for family in (4, 6)]


def packed(address):
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def toeplitz(key, data):
    """The definition: every set bit of the data adds the 32 bits of the key that start where it stands."""
    bits, size = int.from_bytes(key, "big"), len(key) * 8
    result = 0
    for position in range(len(data) * 8):
        if data[position // 8] & (0x80 >> position % 8):
            result ^= bits >> (size - 32 - position) & 0xFFFFFFFF
    return result


class Sniffer:
    """A packet ring that is told each frame's receive hash. Only a hash over ports is the NIC's own: others the stack replaces."""
    SOL_PACKET, PACKET_RX_RING, PACKET_VERSION, TPACKET_V3 = 263, 5, 10, 2
    BLOCK, BLOCKS, HEADERS = 1 << 16, 8, 96

    def __init__(self, interface):
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self.sock.setsockopt(self.SOL_PACKET, self.PACKET_VERSION, self.TPACKET_V3)
        frames = self.BLOCK * self.BLOCKS // 2048
        request = struct.pack("=7I", self.BLOCK, self.BLOCKS, 2048, frames, 5, 0, 1)  # blocks end after 5 ms; fill in the hash
        self.sock.setsockopt(self.SOL_PACKET, self.PACKET_RX_RING, request)
        self.ring = mmap.mmap(self.sock.fileno(), self.BLOCK * self.BLOCKS)
        self.sock.bind((interface, 3))  # ETH_P_ALL
        self.next = 0

    def close(self):
        self.ring.close()
        self.sock.close()

    def _block(self, seconds):
        """The frames of the next block: (hash, first bytes from the IP header on)."""
        at = self.next * self.BLOCK
        while not struct.unpack_from("=I", self.ring, at + 8)[0] & 1:
            if seconds <= 0 or not select.select([self.sock], [], [], seconds)[0]:
                return
        count, offset = struct.unpack_from("=II", self.ring, at + 12)
        for _ in range(count):
            frame = at + offset
            step, = struct.unpack_from("=I", self.ring, frame)
            network, rxhash = struct.unpack_from("=HI", self.ring, frame + 26)
            yield rxhash, self.ring[frame + network:frame + network + self.HEADERS]
            offset += step
        struct.pack_into("=I", self.ring, at + 8, 0)
        self.next = (self.next + 1) % self.BLOCKS

    def hash_of(self, tuple_bytes, seconds=10.0):
        """The hash of the first frame from now on with these addresses and ports."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            for rxhash, head in self._block(limit - time.monotonic()):
                addresses = head[12:24] if head[0] >> 4 == 4 else head[8:44]
                if addresses == tuple_bytes:
                    return rxhash
        raise guest.Bad(f"no frame {tuple_bytes.hex()} within {seconds:g} s")


class Steering(unittest.TestCase):
    """A pair of NICs, flows from there to here, and rules by ioctl."""
    QUEUES = 8
    PERSONALITY = "none"

    def setUp(self):
        self.here, self.there = nic.pair(self, queues=self.QUEUES, personality=self.PERSONALITY)
        self.ports = itertools.count(20000)
        self.napis = None

    # --- flows

    def addresses(self, family):
        return (self.there.v4, self.here.v4) if family == 4 else (self.there.v6, self.here.v6)

    def tuple_bytes(self, family, source_port, port):
        source, destination = map(packed, self.addresses(family))
        return source + destination + struct.pack(">HH", source_port, port)

    def queue_of(self, sock):
        if self.napis is None:
            self.napis = {queue["napi-id"]: queue["id"] for queue in netdev.queues(self.here.ifindex)}
        return self.napis[sock.getsockopt(socket.SOL_SOCKET, SO_INCOMING_NAPI_ID)]

    def udp_pair(self, family, source_port, port):
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        source, destination = self.addresses(family)
        into = socket.socket(kind, socket.SOCK_DGRAM)
        into.settimeout(10)
        into.bind((destination, port))
        with nic.namespace(self.there.netns):
            out = socket.socket(kind, socket.SOCK_DGRAM)
        out.bind((source, source_port))
        out.connect((destination, port))
        return into, out

    def send(self, proto, family, source_port=None, port=None, size=32):
        """One flow from there to here: the queue that took it."""
        source_port, port = source_port or next(self.ports), port or next(self.ports)
        if proto == "tcp":
            with devmem.listen(self.here, port, family) as listener, devmem.connect(self.there, listener, source_port):
                listener.settimeout(10)
                with listener.accept()[0] as into:
                    return self.queue_of(into)
        into, out = self.udp_pair(family, source_port, port)
        with into, out:
            out.send(bytes(size))
            self.assertEqual(size, len(into.recv(65536)))
            return self.queue_of(into)

    def key_and_table(self, context=0):
        found = ethtool.rss(self.here, context)
        return bytes(found["rss-hash-key"]), found["rss-indirection-table"]

    def hashed_to(self, queues, context=0, family=4, port=None):
        """A (source port, port) for each of these queues that the table sends there. The hash is linear: ports in a row may all
        go to one queue, so they are searched for."""
        key, table = self.key_and_table(context)
        found, draw = {}, random.Random(1)
        for _ in range(5000):
            flow = draw.randrange(1024, 65536), port or draw.randrange(1024, 65536)
            found.setdefault(table[toeplitz(key, self.tuple_bytes(family, *flow)) % len(table)], flow)
            if set(queues) <= set(found):
                return [found[queue] for queue in queues]
        raise guest.Bad(f"no flows to queues {queues} with key {key.hex()}")

    def check_spread(self, queues, context=0, family=4, port=None, offset=0):
        """Flows that the table spreads over these queues come to each of them, plus the offset."""
        flows = self.hashed_to(queues, context, family, port)
        self.assertEqual([queue + offset for queue in queues], [self.send("udp", family, *flow) for flow in flows])

    def rss_to(self, queues):
        """Frames that no rule takes go to queues 0 .. queues-1."""
        ethtool.rss_equal(self.here, queues)

    # --- rules

    def rxnfc(self, command, flow_type=0, spec=bytes(ethtool.FLOW_SPEC.size), count=0, room=0):
        """The ioctl: (data, spec, count or context, locations)."""
        head = ethtool.RXNFC.pack(command, flow_type, 0, spec, count)
        # rule_locs follows rule_cnt at once; the structure's own padding is its first entry
        buffer = ctypes.create_string_buffer(head, len(head) + 4 * room)
        request = struct.pack("16sP", self.here.name.encode(), ctypes.addressof(buffer)).ljust(40, b"\0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, ethtool.SIOCETHTOOL, request)
        _, _, data, spec, count = ethtool.RXNFC.unpack_from(buffer.raw)
        return data, spec, count, struct.unpack_from(f"={room}I", buffer.raw, len(head) - 4)

    def insert(self, queue, location=ethtool.LOC_ANY, flow="tcp4", src=None, dst=None, sport=0, dport=0, context=None, flow_type=0):
        """Adds a rule; what is not given is not matched. Returns where it went."""
        family = int(flow[-1])
        key = packed(src or NONE[family]) + packed(dst or NONE[family]) + struct.pack(">HH", sport, dport)
        length = 4 if family == 4 else 16
        given = [bool(src)] * length + [bool(dst)] * length + [bool(sport)] * 2 + [bool(dport)] * 2
        mask = bytes(255 if yes else 0 for yes in given)
        flow_type = flow_type or FLOWS[flow] | (FLOW_RSS if context is not None else 0)
        spec = ethtool.FLOW_SPEC.pack(flow_type, key, b"", mask, b"", queue, location)
        _, spec, _, _ = self.rxnfc(ethtool.SRXCLSRLINS, spec=spec, count=context or 0)
        return ethtool.FLOW_SPEC.unpack(spec)[-1]

    def delete(self, location):
        self.rxnfc(ethtool.SRXCLSRLDEL, spec=ethtool.FLOW_SPEC.pack(0, b"", b"", b"", b"", 0, location))

    def queue_at(self, location):
        """Where the rule at a location steers to."""
        _, spec, _, _ = self.rxnfc(ethtool.GRXCLSRULE, spec=ethtool.FLOW_SPEC.pack(0, b"", b"", b"", b"", 0, location))
        return ethtool.FLOW_SPEC.unpack(spec)[-2]

    def listed(self, room=16):
        """(size of the table, the rules' locations)"""
        data, _, count, locations = self.rxnfc(ethtool.GRXCLSRLALL, count=room, room=room)
        return data, list(locations[:count])

    def refused(self, number, call, *args, **more):
        with self.assertRaises(OSError) as caught:
            call(*args, **more)
        self.assertEqual(errno.errorcode[number], errno.errorcode[caught.exception.errno])


class Hash(Steering):
    """The NIC's hash is Toeplitz over what ethtool says, and its table sends flows where it says."""

    def check_hashes(self, transform=bytes):
        key, table = self.key_and_table()
        sniffer = Sniffer(self.here.name)
        self.addCleanup(sniffer.close)
        for proto, family in KINDS:
            for _ in range(4):
                source_port, port = random.sample(range(1024, 65536), 2)
                with self.subTest(proto=proto, family=family, source_port=source_port, port=port):
                    flow = self.tuple_bytes(family, source_port, port)
                    expected = toeplitz(key, transform(flow))
                    queue = self.send(proto, family, source_port, port)
                    self.assertEqual(f"{expected:08x}", f"{sniffer.hash_of(flow):08x}")
                    self.assertEqual(table[expected % len(table)], queue)

    def test_is_toeplitz_of_addresses_and_ports(self):
        self.check_hashes()

    def test_follows_a_new_key(self):
        key = random.randbytes(len(self.key_and_table()[0]))
        ethtool.run("hkey " + ":".join(f"{byte:02x}" for byte in key), self.here, "-X")
        self.assertEqual(key, self.key_and_table()[0])
        self.check_hashes()

    def test_follows_a_new_table(self):
        ethtool.run("weight 0 5 1 0 0 2", self.here, "-X")
        self.assertEqual({1, 2, 5}, set(self.key_and_table()[1]))
        self.check_hashes()

    def test_symmetric_xor(self):
        ethtool.run("xfrm symmetric-xor", self.here, "-X")
        self.check_hashes(lambda flow: self.fold(flow, lambda a, b: a ^ b))

    @unittest.skipIf(guest.kernel() < (6, 14), "this kernel has no symmetric-or-xor")
    def test_symmetric_or_xor(self):
        netdev.family("ethtool").rss_set({"header": {"dev-name": self.here.name}, "input-xfrm": {"sym-or-xor"}})
        self.check_hashes(lambda flow: self.fold(flow, lambda a, b: a | b))

    @staticmethod
    def fold(flow, first):
        """Source and destination fields replaced by first(a, b) and a ^ b."""
        length, out = (len(flow) - 4) // 2, b""
        for at, size in ((0, length), (2 * length, 2)):
            a, b = flow[at:at + size], flow[at + size:at + 2 * size]
            out += bytes(map(first, a, b)) + bytes(x ^ y for x, y in zip(a, b))
        return out

    def test_hashes_only_the_chosen_fields(self):
        key, table = self.key_and_table()
        flows = self.hashed_to(range(self.QUEUES))
        ethtool.run("rx-flow-hash udp4 sd", self.here, "-N")
        expected = table[toeplitz(key, self.tuple_bytes(4, 0, 0)[:8]) % len(table)]
        self.assertEqual({expected}, {self.send("udp", 4, *flow) for flow in flows})
        self.check_spread(range(self.QUEUES), family=6)  # another kind of traffic is not changed
        ethtool.run("rx-flow-hash udp4 n", self.here, "-N")
        port = next(self.ports)
        expected = table[toeplitz(key, struct.pack(">H", port)) % len(table)]
        self.assertEqual(expected, self.send("udp", 4, port=port))

    def test_fragments_are_hashed_by_address_only(self):
        key, table = self.key_and_table()
        for family, length in ((4, 8), (6, 32)):
            expected = table[toeplitz(key, self.tuple_bytes(family, 0, 0)[:length]) % len(table)]
            self.assertEqual({expected}, {self.send("udp", family, size=4000) for _ in range(4)}, f"IPv{family}")

    def test_default_table_follows_the_channels(self):
        for channels in (3, self.QUEUES, 1, 5):
            ethtool.channels(self.here, channels)
            self.assertEqual([i % channels for i in range(128)], self.key_and_table()[1])
            self.napis = None
            self.check_spread(range(channels))

    def test_a_set_table_stays_and_holds_its_queues(self):
        ethtool.channels(self.here, 4)
        ethtool.run("weight 1 0 0 1", self.here, "-X")
        ethtool.channels(self.here, 6)
        self.assertEqual({0, 3}, set(self.key_and_table()[1]))
        self.assertNotEqual(0, ethtool.run("combined 3", self.here, "-L", ok=False).returncode)
        ethtool.rss_default(self.here)
        self.assertEqual(set(range(6)), set(self.key_and_table()[1]))


class Contexts(Steering):
    """RSS contexts: tables, keys and fields of their own for what a rule sends there."""

    def create(self, words=""):
        said = ethtool.run(f"context new {words}", self.here, "-X").stdout
        return int(re.search(r"(\d+)\s*$", said).group(1))

    def delete_context(self, context):
        ethtool.run(f"context {context} delete", self.here, "-X")

    def test_spreads_what_a_rule_sends_there(self):
        self.rss_to(2)
        context = self.create("start 4 equal 2")
        port = next(self.ports)
        rule = self.insert(0, flow="udp4", dport=port, context=context)
        self.check_spread([4, 5], context, port=port)
        self.check_spread([0, 1])
        ethtool.run(f"context {context} start 6 equal 1", self.here, "-X")
        self.assertEqual(6, self.send("udp", 4, port=port))
        self.delete(rule)
        self.assertGreater(2, self.send("udp", 4, port=port))
        self.delete_context(context)

    def test_a_rules_queue_is_added(self):
        self.rss_to(1)
        context = self.create("equal 2")
        port = next(self.ports)
        self.insert(5, flow="udp4", dport=port, context=context)
        self.check_spread([0, 1], context, port=port, offset=5)
        self.refused(errno.EINVAL, self.insert, 7, flow="udp4", dport=port, context=context)
        if guest.kernel() >= (6, 13):  # before, the core forgets that the context's queues are added
            self.assertNotEqual(0, ethtool.run("combined 6", self.here, "-L", ok=False).returncode, "queue 6 is in use")

    def test_a_rule_may_name_the_main_context(self):
        self.rss_to(2)
        port = next(self.ports)
        self.insert(3, 1, flow="udp4")
        self.insert(0, 0, flow="udp4", dport=port, context=0)
        self.check_spread([0, 1], port=port)
        self.assertEqual(3, self.send("udp", 4))

    def test_has_a_key_and_table_of_its_own(self):
        key = random.randbytes(40)
        context = self.create("hkey " + ":".join(f"{byte:02x}" for byte in key) + " weight 1 1")
        port = next(self.ports)
        self.insert(0, flow="udp6", dport=port, context=context)
        seen, table = self.key_and_table(context)
        self.assertEqual((key, {0, 1}), (seen, set(table)))
        self.check_spread([0, 1], context, family=6, port=port)

    @unittest.skipIf(guest.kernel() < (6, 17), "this kernel chooses hash fields for the whole NIC")
    def test_has_hash_fields_of_its_own(self):
        context = self.create()
        port = next(self.ports)
        self.insert(0, flow="udp4", dport=port, context=context)
        flows = self.hashed_to(range(self.QUEUES), context, port=port)
        self.assertEqual(list(range(self.QUEUES)), [self.send("udp", 4, *flow) for flow in flows])
        request = {"header": {"dev-name": self.here.name}, "context": context, "flow-hash": {"udp4": {"ip-src", "ip-dst"}}}
        netdev.family("ethtool").rss_set(request)
        self.assertEqual(1, len({self.send("udp", 4, *flow) for flow in flows}))
        self.check_spread(range(self.QUEUES))

    def test_is_kept_while_a_rule_uses_it(self):
        context = self.create()
        rule = self.insert(0, dport=80, context=context)
        self.assertNotEqual(0, ethtool.run(f"context {context} delete", self.here, "-X", ok=False).returncode)
        self.delete(rule)
        self.delete_context(context)
        self.refused(errno.EINVAL, self.insert, 0, dport=80, context=context)

    def test_there_are_63_at_most(self):
        contexts = [self.create() for _ in range(63)]
        self.assertEqual(63, len(set(contexts)))
        self.assertNotEqual(0, ethtool.run("context new", self.here, "-X", ok=False).returncode)
        self.delete_context(contexts[10])
        self.assertEqual(contexts[10], self.create())


class Rules(Steering):
    """What rules match, which wins, where they go."""

    def setUp(self):
        super().setUp()
        self.rss_to(1)

    @guest.deadline(120)
    def test_every_field_alone_and_together(self):
        for proto, family in KINDS:
            source_port, port, other = next(self.ports), next(self.ports), next(self.ports)
            source, destination = self.addresses(family)
            fields = {"src": source, "dst": destination, "sport": source_port, "dport": port}
            for names in (["src"], ["dst"], ["sport"], ["dport"], ["src", "dst"], list(fields)):
                with self.subTest(flow=f"{proto}{family}", names=names):
                    rule = self.insert(5, flow=f"{proto}{family}", **{name: fields[name] for name in names})
                    self.assertEqual(5, self.send(proto, family, source_port, port))
                    self.assertEqual(0, self.send("udp" if proto == "tcp" else "tcp", family, source_port, port), "the other protocol")
                    if "sport" in names:
                        self.assertEqual(0, self.send(proto, family, other, port), "another source port")
                    if "dport" in names:
                        self.assertEqual(0, self.send(proto, family, source_port, other), "another destination port")
                    self.delete(rule)
                    self.assertEqual(0, self.send(proto, family, source_port, port), "the rule is gone")

    def test_an_address_that_is_not_ours_matches_nothing(self):
        self.insert(5, flow="udp4", src="192.0.2.77")
        self.insert(5, flow="udp6", dst="2001:db8::77")
        self.assertEqual({0}, {self.send("udp", family) for family in (4, 6)})

    def test_any_bits_of_addresses_and_ports(self):
        # ethtool's m: the bits that do not matter
        ethtool.run("flow-type udp4 src-ip 192.0.2.0 m 0.0.0.255 dst-port 0x5100 m 0x00ff queue 3", self.here, "-N")
        ethtool.run("flow-type tcp6 src-ip 2001:db8:: m ::ffff dst-port 0x5100 m 0x00ff queue 4", self.here, "-N")
        for proto, family, queue in (("udp", 4, 3), ("tcp", 6, 4)):
            self.assertEqual([queue, queue, 0, 0], [self.send(proto, family, port=port) for port in (0x5100, 0x51ff, 0x50ff, 0x5200)])

    def test_ip_rules_take_every_protocol(self):
        ethtool.run(f"flow-type ip4 src-ip {self.there.v4} queue 2", self.here, "-N")
        ethtool.run("flow-type ip6 l4proto 17 queue 3", self.here, "-N")
        self.assertEqual([2, 2, 3, 0], [self.send("tcp", 4), self.send("udp", 4), self.send("udp", 6), self.send("tcp", 6)])
        self.assertEqual(2, self.send("udp", 4, size=4000), "fragments")

    def test_a_rule_on_ports_does_not_take_fragments(self):
        port = next(self.ports)
        self.insert(5, flow="udp4", dport=port)
        self.assertEqual(5, self.send("udp", 4, port=port))
        self.assertEqual(0, self.send("udp", 4, port=port, size=4000))

    def test_the_lowest_location_wins(self):
        port = next(self.ports)
        self.insert(3, 7, flow="udp4", dport=port)
        self.insert(4, 3, flow="udp4")
        self.assertEqual(4, self.send("udp", 4, port=port))
        self.insert(5, 1, flow="udp4", dport=port)
        self.assertEqual((5, 4), (self.send("udp", 4, port=port), self.send("udp", 4)))
        self.delete(1)
        self.delete(3)
        self.assertEqual((3, 0), (self.send("udp", 4, port=port), self.send("udp", 4)))

    def test_discards(self):
        source_port, port = next(self.ports), next(self.ports)
        self.insert(DISCARD, flow="udp4", sport=source_port)
        into, out = self.udp_pair(4, source_port, port)
        with into, out:
            out.send(b"dropped")
            with nic.namespace(self.there.netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"kept", (self.here.v4, port))
            self.assertEqual(b"kept", into.recv(64), "both would come to queue 0, in order")

    def test_steers_established_connections(self):
        with devmem.listen(self.here) as listener:
            out = devmem.connect(self.there, listener)
            listener.settimeout(10)
            into = listener.accept()[0]
            with out, into:
                self.assertEqual(0, self.queue_of(into))
                rule = self.insert(6, dport=listener.getsockname()[1])
                out.sendall(b"x")
                self.assertEqual(b"x", into.recv(1))
                self.assertEqual(6, self.queue_of(into))
                self.delete(rule)
                out.sendall(b"x")
                self.assertEqual(b"x", into.recv(1))
                self.assertEqual(0, self.queue_of(into))

    def test_refuses_what_it_cannot_do(self):
        self.refused(errno.EINVAL, self.insert, self.QUEUES, dport=80)
        self.refused(errno.EINVAL, self.insert, 1 << 32 | 1, dport=80)  # a virtual function
        self.refused(errno.EOPNOTSUPP, self.insert, 1, flow_type=ETHER_FLOW)
        self.refused(errno.EOPNOTSUPP, self.insert, 1, flow_type=FLOWS["tcp4"] | FLOW_EXT)
        self.refused(errno.EOPNOTSUPP, self.insert, 1, flow_type=FLOWS["tcp4"] | FLOW_MAC_EXT)
        self.assertNotEqual(0, ethtool.run("flow-type tcp4 tos 4 queue 1", self.here, "-N", ok=False).returncode)
        self.refused(errno.EINVAL, self.insert, 1, LOC_FIRST, dport=80)
        self.refused(errno.ENOENT, self.delete, 5)
        self.refused(errno.ENOENT, self.queue_at, 5)
        self.assertEqual((1024, []), self.listed())

    def test_locations(self):
        self.assertEqual([0, 1, 2], [self.insert(1, dport=port) for port in (81, 82, 83)])
        self.assertEqual(9, self.insert(2, 9, dport=84))
        self.delete(1)
        self.assertEqual([1, 3], [self.insert(3, dport=port) for port in (85, 86)], "the first free ones")
        self.assertEqual((1024, [0, 1, 2, 3, 9]), self.listed())
        self.assertEqual(2, self.insert(7, dport=83), "what matches the same takes the old one's place")
        self.assertEqual(7, self.queue_at(2))
        self.refused(errno.EEXIST, self.insert, 4, 9, dport=87)
        self.refused(errno.ENOSPC, self.insert, 4, 1024, dport=87)
        self.assertEqual(1023, self.insert(4, 1023, dport=87))
        self.refused(errno.EMSGSIZE, self.listed, 5)
        self.assertEqual((6, 1024, True), ethtool.rule_count(self.here))

    def test_capacity(self):
        for port in range(1, 1025):
            self.insert(port % self.QUEUES, dport=port)
        self.refused(errno.ENOSPC, self.insert, 1, dport=2000)
        self.delete(500)
        self.assertEqual(500, self.insert(1, dport=2000))
        self.assertEqual(1, self.send("tcp", 4, port=2000), "found among 1024")

    def test_the_knob_refuses_the_next_rules(self):
        knob = pathlib.Path("/sys/kernel/debug/devmemsim/pair0-a/refuse_rules")
        knob.write_text("2", encoding="ascii")
        self.refused(errno.EINVAL, self.insert, self.QUEUES, dport=80)  # is no rule anyway, and does not count
        self.refused(errno.EIO, self.insert, 1, dport=80)
        self.refused(errno.EIO, self.insert, 1, dport=81)
        self.assertEqual(0, self.insert(1, dport=82))
        self.assertEqual("0", knob.read_text(encoding="ascii").strip())

    def test_rules_hold_their_queues(self):
        ethtool.rss_default(self.here)
        self.insert(6, dport=80)
        self.assertNotEqual(0, ethtool.run("combined 6", self.here, "-L", ok=False).returncode)
        self.delete(0)
        ethtool.channels(self.here, 6)

    def test_rules_and_tables_survive_down_and_up(self):
        self.insert(6, flow="udp4")
        self.here.up(False)
        self.here.up()
        self.here.ip(f"-6 addr replace {self.here.v6}/64 dev {self.here.name} nodad")  # the stack dropped it
        shell.until(self.here.carrier, "a carrier again")
        self.napis = None
        self.assertEqual((6, 0), (self.send("udp", 4), self.send("tcp", 4)))


class Mlx5(Steering):
    """Locations are the user's to choose, and what stood there is gone without a word."""
    PERSONALITY = "mlx5"

    def test_refuses_any_location(self):
        self.refused(errno.ENOSPC, self.insert, 1, dport=80)
        self.refused(errno.ENOSPC, self.insert, 1, 1024, dport=80)

    def test_says_how_many_only_with_the_list(self):
        self.assertEqual((0, 0, False), ethtool.rule_count(self.here))
        self.assertEqual((1024, []), self.listed())

    def test_replaces_silently(self):
        self.rss_to(1)
        old, new = next(self.ports), next(self.ports)
        self.insert(3, 5, flow="udp4", dport=old)
        self.insert(4, 5, flow="udp4", dport=new)
        self.assertEqual((1024, [5]), self.listed())
        self.assertEqual((0, 4), (self.send("udp", 4, port=old), self.send("udp", 4, port=new)))

    def test_ethtool_finds_a_place(self):
        self.assertEqual([1022, 1023], sorted(ethtool.steer(self.here, 1, dst_port=port) for port in (80, 81)))


class Bnxt(Steering):
    """The NIC chooses locations, and only while its ntuple feature is on."""
    PERSONALITY = "bnxt"

    def test_refuses_explicit_locations(self):
        self.refused(errno.EINVAL, self.insert, 1, 0, dport=80)
        self.assertEqual(0, self.insert(1, dport=80))
        self.assertEqual((1, 4096, True), ethtool.rule_count(self.here))

    def test_needs_ntuple(self):
        self.insert(1, dport=80)
        ethtool.feature(self.here, "ntuple-filters", False)
        self.assertEqual((4096, []), self.listed(), "off forgets the rules")
        self.refused(errno.EOPNOTSUPP, self.insert, 1, dport=80)
        ethtool.feature(self.here, "ntuple-filters", True)
        self.insert(1, dport=80)

    def test_refuses_duplicates(self):
        self.insert(1, dport=80)
        self.refused(errno.EEXIST, self.insert, 2, dport=80)  # not even to another queue
        self.assertEqual((1, [0]), (self.queue_at(0), self.listed()[1]))
        self.assertEqual(1, self.insert(2, dport=80, dst=self.here.v4), "matches less, so it is another")


class Gve(Steering):
    """Turning ntuple off forgets the rules."""
    PERSONALITY = "gve"

    def test_ntuple_off_flushes(self):
        self.rss_to(1)
        port = next(self.ports)
        self.insert(3, flow="udp4", dport=port)
        self.insert(3, 9, flow="udp4", dport=next(self.ports))
        self.assertEqual(3, self.send("udp", 4, port=port))
        ethtool.feature(self.here, "ntuple-filters", False)
        self.assertEqual((0, []), (ethtool.rule_count(self.here)[0], self.listed()[1]))
        self.assertEqual(0, self.send("udp", 4, port=port))
        self.refused(errno.EOPNOTSUPP, self.insert, 3, dport=80)
        ethtool.feature(self.here, "ntuple-filters", True)
        self.assertEqual((1024, []), self.listed())


class Fbnic(Steering):
    """48 rules, where the NIC wants them."""
    PERSONALITY = "fbnic"

    def test_capacity_and_locations(self):
        self.refused(errno.EINVAL, self.insert, 1, 0, dport=80)
        self.assertEqual(list(range(48)), [self.insert(1, dport=port) for port in range(1, 49)])
        self.refused(errno.ENOSPC, self.insert, 1, dport=49)
        self.delete(20)
        self.assertEqual(20, self.insert(1, dport=49))
        self.assertEqual((48, 48, True), ethtool.rule_count(self.here))


class Churn(Steering):
    """Tables, rules, contexts and channels change under traffic: nothing is lost but what a queue that goes had in hand."""
    TOTAL, ROUNDS = 40_000_000, 12

    @guest.deadline(120)
    def test_under_traffic(self):
        with devmem.listen(self.here) as listener, devmem.connect(self.there, listener) as out, listener.accept()[0] as into:
            sender = devmem.Sender(out, self.TOTAL)
            received = threading.Thread(target=self.receive, args=(into,), daemon=True)
            received.start()
            for number in range(self.ROUNDS):
                self.churn(number, listener.getsockname()[1])
            sender.join(60)
            received.join(60)
        self.assertEqual((self.TOTAL, []), (self.got, self.wrong))

    def receive(self, sock):
        self.got, self.wrong = 0, []
        while data := sock.recv(1 << 18):
            if data != devmem.pattern(self.got, len(data)):
                self.wrong.append(self.got)
            self.got += len(data)

    def churn(self, number, port):
        key = random.Random(number).randbytes(40)
        ethtool.run("hkey " + ":".join(f"{byte:02x}" for byte in key) + f" equal {number % 3 + 1}", self.here, "-X")
        said = ethtool.run("context new start 3 equal 2", self.here, "-X").stdout
        context = int(re.search(r"(\d+)\s*$", said).group(1))
        for _ in range(20):
            rule = self.insert(0, dport=port, context=context)
            self.assertEqual(rule, self.insert(2, dport=port))
            others = [self.insert(number % 3, flow=flow, dport=port) for flow in ("udp4", "udp6", "tcp6")]
            for location in (rule, *others):
                self.delete(location)
        self.insert(0, dport=port, context=context)
        ethtool.run(f"context {context} weight 1 1 1", self.here, "-X")
        self.delete(0)
        ethtool.run(f"context {context} delete", self.here, "-X")
        ethtool.channels(self.here, 3)
        ethtool.channels(self.here, self.QUEUES)
        ethtool.rss_default(self.here)
