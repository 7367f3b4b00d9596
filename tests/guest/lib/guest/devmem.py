# SPDX-License-Identifier: Apache-2.0
"""Device memory out of udmabufs, a receiver of it, a sender, and a check of contents.

    with devmem.bound(here, queues=[3], size=8 << 20) as memory:       # header split, RSS and binding; undone afterwards
        received = devmem.transfer(self, here, there, memory, total=1 << 20)  # steered to memory.queues[0], contents checked
        received.device, received.linear, received.plain                      # bytes by the way they came
"""
import contextlib
import ctypes
import dataclasses
import fcntl
import mmap
import os
import random
import socket
import struct
import threading
import time

from . import Bad, ethtool, kernel, netdev, nic, patience

SCM_DEVMEM_LINEAR, SCM_DEVMEM_DMABUF, SO_DEVMEM_DONTNEED = 78, 79, 80
MSG_SOCK_DEVMEM = 0x2000000
CMSG = struct.Struct("=QIIII")  # struct dmabuf_cmsg: frag_offset, frag_size, frag_token, dmabuf_id, flags
TOKEN = struct.Struct("=II")  # struct dmabuf_token: token_start, token_count
MAX_ENTRIES, MAX_FRAGS = 128, 1024  # of one SO_DEVMEM_DONTNEED
UDMABUF_CREATE = 0x40187542  # _IOW('u', 0x42, struct udmabuf_create)
HUGE = 2 << 20

# What is sent: position p of a stream holds PATTERN[p % len(PATTERN)]; the length shares no factor with a page.
PATTERN = random.Random(20250520).randbytes(64 * 1021)
_LONG = PATTERN * 34  # so that any 2 MiB of the stream is one slice


def pattern(position, size):
    """The stream's bytes at a position."""
    out, position = [], position % len(PATTERN)
    while size > 0:
        piece = _LONG[position:position + min(size, len(_LONG) - position)]
        out.append(piece)
        size -= len(piece)
        position = (position + len(piece)) % len(PATTERN)
    return out[0] if len(out) == 1 else b"".join(out)


class Udmabuf:
    """A dma-buf over anonymous memory that can be looked at: .fd, .size, .map."""

    def __init__(self, size, huge=False):
        size = -(-size // (HUGE if huge else mmap.PAGESIZE)) * (HUGE if huge else mmap.PAGESIZE)
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | (os.MFD_HUGETLB | os.MFD_HUGE_2MB if huge else 0)
        self.size, self.memfd = size, os.memfd_create("device-memory", flags)
        os.ftruncate(self.memfd, size)
        fcntl.fcntl(self.memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        device = os.open("/dev/udmabuf", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.fd = fcntl.ioctl(device, UDMABUF_CREATE, bytearray(struct.pack("=IIQQ", self.memfd, 1, 0, size)))
        except OSError as e:
            raise Bad(f"no udmabuf of {size} bytes: {e} (size_limit_mb of the udmabuf module? huge pages left?)") from e
        finally:
            os.close(device)
        self.map = mmap.mmap(self.memfd, size)

    def close(self):
        self.map.close()
        os.close(self.fd)
        os.close(self.memfd)


@dataclasses.dataclass
class Piece:
    """Bytes of the stream in the order they came: kind is "device", "linear" (copied off the NIC's host memory, announced by
    SCM_DEVMEM_LINEAR) or "plain" (host memory, announced by nothing)."""
    kind: str
    size: int
    data: bytes = b""
    offset: int = 0
    token: int = 0
    dmabuf: int = 0


class Receiver:
    """Receives device memory from a connected socket. Keeps nothing: the caller frees tokens (or closes the socket)."""

    def __init__(self, sock, iov=1 << 20, control=256 << 10):
        self.sock, self.iov, self.control = sock, bytearray(iov), control
        self.calls = 0

    def receive(self, flags=0):
        """One recvmsg(MSG_SOCK_DEVMEM): the pieces, in order; none at the end of the stream."""
        got, ancillary, message_flags, _ = self.sock.recvmsg_into([self.iov], self.control, MSG_SOCK_DEVMEM | flags)
        self.calls += 1
        pieces, copied = [], 0
        for level, kind, data in ancillary:
            if level != socket.SOL_SOCKET or kind not in (SCM_DEVMEM_LINEAR, SCM_DEVMEM_DMABUF):
                continue
            offset, size, token, dmabuf, _ = CMSG.unpack(data[:CMSG.size])
            if kind == SCM_DEVMEM_DMABUF:
                pieces.append(Piece("device", size, b"", offset, token, dmabuf))
            else:
                pieces.append(Piece("linear", size, bytes(self.iov[copied:copied + size])))
                copied += size
        told = sum(piece.size for piece in pieces)
        if not pieces and got:
            pieces = [Piece("plain", got, bytes(self.iov[:got]))]
        elif told != got:
            raise Bad(f"recvmsg returned {got} bytes and announced {told} (flags {message_flags:#x})")
        return pieces

    def free(self, tokens):
        """Gives tokens back, neighbours merged, in calls as large as the kernel takes. Returns how many it says it freed."""
        ranges = []
        for token in sorted(tokens):
            if ranges and token == ranges[-1][0] + ranges[-1][1] and ranges[-1][1] < MAX_FRAGS:
                ranges[-1][1] += 1
            else:
                ranges.append([token, 1])
        freed, batch, frags = 0, [], 0
        for start, count in ranges:
            if len(batch) == MAX_ENTRIES or frags + count > MAX_FRAGS:
                freed += dontneed(self.sock, batch)
                batch, frags = [], 0
            batch.append((start, count))
            frags += count
        return freed + (dontneed(self.sock, batch) if batch else 0)


_libc = ctypes.CDLL(None, use_errno=True)


def dontneed(sock, ranges):
    """One SO_DEVMEM_DONTNEED of (start, count) pairs: how many fragments the kernel says it freed. (Python's own hides that.)"""
    data = b"".join(TOKEN.pack(start, count) for start, count in ranges)
    freed = _libc.setsockopt(sock.fileno(), socket.SOL_SOCKET, SO_DEVMEM_DONTNEED, data, len(data))
    if freed < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"SO_DEVMEM_DONTNEED of {len(ranges)} ranges: {os.strerror(error)}")
    return freed


@dataclasses.dataclass
class Received:
    """What a transfer brought, by the way it came."""
    device: int = 0
    linear: int = 0
    plain: int = 0
    fragments: int = 0
    largest: int = 0  # of the fragments, bytes
    calls: int = 0
    dmabufs: set = dataclasses.field(default_factory=set)
    first_difference: int | None = None  # the position in the stream

    @property
    def total(self):
        return self.device + self.linear + self.plain


def check(memory, piece, position):
    """The first position of the stream where the piece's contents differ from what was sent, or None."""
    data = memory.map[piece.offset:piece.offset + piece.size] if piece.kind == "device" else piece.data
    wanted = pattern(position, piece.size)
    if data == wanted:
        return None
    return position + next(i for i in range(piece.size) if data[i] != wanted[i])


def receive_all(sock, memory, total, seconds=40.0, hold=0, **options):
    """Receives `total` bytes (or up to the end of the stream), checks them, and frees tokens, `hold` of them always kept back."""
    receiver, received, tokens = Receiver(sock, **options), Received(), []
    seconds *= patience()
    limit = time.monotonic() + seconds
    while received.total < total:
        left = limit - time.monotonic()
        if left <= 0:
            raise Bad(f"{received.total} of {total} bytes within {seconds:g} s: {received}")
        sock.settimeout(left)
        try:
            pieces = receiver.receive()
        except TimeoutError:
            continue
        if not pieces:
            break
        for piece in pieces:
            where = check(memory, piece, received.total)
            if where is not None and received.first_difference is None:
                received.first_difference = where
            setattr(received, piece.kind, getattr(received, piece.kind) + piece.size)
            if piece.kind == "device":
                received.fragments += 1
                received.largest = max(received.largest, piece.size)
                received.dmabufs.add(piece.dmabuf)
                tokens.append(piece.token)
        done, tokens = (tokens[:-hold], tokens[-hold:]) if hold else (tokens, [])
        if done and receiver.free(done) != len(done):
            raise Bad(f"the kernel freed fewer than the {len(done)} tokens it was given")
    if tokens:
        receiver.free(tokens)
    received.calls = receiver.calls
    return received


class Sender:
    """A thread that sends the pattern over a connected socket. join() tells whether it could."""

    def __init__(self, sock, total, start=0, chunk=256 << 10, close=True):
        self.sock, self.total, self.start, self.chunk, self.close = sock, total, start, chunk, close
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            sent = 0
            while sent < self.total:
                size = min(self.chunk, self.total - sent)
                self.sock.sendall(pattern(self.start + sent, size))
                sent += size
            if self.close:
                self.sock.shutdown(socket.SHUT_WR)
        except OSError as e:
            self.error = e

    def join(self, seconds=30.0):
        seconds *= patience()
        self.thread.join(seconds)
        if self.thread.is_alive():
            raise Bad(f"the sender of {self.total} bytes was not done within {seconds:g} s")
        if self.error:
            raise Bad(f"the sender failed: {self.error}")


def listen(on, port=0, family=4, rcvbuf=None):
    """A listening socket where the NIC is."""
    with nic.namespace(on.netns):
        sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if rcvbuf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    sock.bind((on.v6 if family == 6 else on.v4, port))
    sock.listen(16)
    return sock


def connect(where, to, source_port=0, seconds=10.0):
    """A socket where the NIC is, connected to the address of a listening socket."""
    with nic.namespace(where.netns):
        sock = socket.socket(to.family)
    sock.settimeout(seconds * patience())
    if source_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((where.v6 if to.family == socket.AF_INET6 else where.v4, source_port))
    sock.connect(to.getsockname()[:2])
    sock.settimeout(None)
    return sock


def connection(here, there, family=4, rcvbuf=None, port=0):
    """(socket here, socket there), connected from there to here."""
    with listen(here, port, family, rcvbuf) as listener:
        out = connect(there, listener)
        listener.settimeout(10 * patience())
        return listener.accept()[0], out


@dataclasses.dataclass
class Memory:
    """Device memory bound to queues of a NIC."""
    buffer: Udmabuf
    binding: netdev.Binding
    queues: list

    @property
    def map(self):
        return self.buffer.map

    @property
    def id(self):
        return self.binding.id


@contextlib.contextmanager
def bound(here, queues, size=8 << 20, huge=False, rx_page_size=None, threshold=0):
    """Header split on, RSS away from the queues (which must be the last ones), a udmabuf bound to them; undone at the end."""
    ethtool.header_split(here, True, threshold if kernel() >= (6, 14) else None)
    ethtool.rss_equal(here, min(queues))
    buffer = Udmabuf(size, huge)
    try:
        with netdev.Binding(here.ifindex, buffer.fd, queues, rx_page_size) as binding:
            yield Memory(buffer, binding, list(queues))
        ethtool.rss_default(here)
        ethtool.header_split(here, None)
    finally:
        buffer.close()


def transfer(test, here, there, memory, total, queue=None, family=4, seconds=40.0, exact=True, **options):
    """Sends `total` bytes from there to here over a connection steered to a bound queue (or to `queue`); returns Received."""
    with listen(here, 0, family) as listener:
        port = listener.getsockname()[1]
        location = ethtool.steer_port(here, memory.queues[0] if queue is None else queue, port, family)
        try:
            out = connect(there, listener)
            listener.settimeout(10 * patience())
            into = listener.accept()[0]
            with out, into:
                sender = Sender(out, total)
                received = receive_all(into, memory, total, seconds, **options)
                sender.join()
        finally:
            ethtool.delete_rule(here, location)
    if exact:
        test.assertIsNone(received.first_difference, f"contents differ at {received.first_difference}: {received}")
        test.assertEqual(total, received.total, received)
    return received
