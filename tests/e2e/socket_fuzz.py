# SPDX-License-Identifier: Apache-2.0
"""What no client of ours sends, to the gRPC and the handle socket of a living daemon. From a seed: a case that fails can be had again.

    fuzz = SocketFuzz(daemon.path, spec, seed=1)
    for _ in range(1000):
        fuzz.case()          # raises if the daemon does not answer or close within kPatience
"""
import array
import os
import random
import socket
import struct

import trainer

pb = trainer.pb
PATIENCE = 60  # seconds until a daemon that neither answers nor closes is said to hang; nothing waits for it otherwise
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, GOAWAY = 0, 1, 4, 7
END_STREAM, END_HEADERS = 1, 4
METHODS = ("/devmem_loader.v1.Loader/OpenStream", "/devmem_loader.v1.Loader/GetNodeStatus", "/devmem_loader.v1.Loader/ReleaseStream",
           "/grpc.health.v1.Health/Check",
           "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/devmem_loader.v1.Loader/None", "/")
EXTREMES = (0, 1, 2, 127, 128, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1)


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def integer(value, prefix):
    """HPACK, RFC 7541 5.1, with no other bits set."""
    limit = (1 << prefix) - 1
    if value < limit:
        return bytes([value])
    out, value = [limit], value - limit
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def header(name, value):
    """A literal without indexing, with a new name: nothing to keep in step."""
    return b"\0" + integer(len(name), 7) + name + integer(len(value), 7) + value


def message(body):
    """As gRPC has it: not compressed, with its length."""
    return b"\0" + struct.pack(">I", len(body)) + body


class SocketFuzz:
    def __init__(self, path, spec, seed):
        self.path, self.spec, self.random = path, spec, random.Random(seed)
        self.handle = self.connect(".fd", socket.SOCK_SEQPACKET)
        self.token = trainer.handle_socket_pb2.HandlePacket.FromString(self.handle.recv(4096)).hello.token
        self.cases = 0
        self.answered = 0  # calls that were answered with a message or a status

    def close(self):
        self.handle.close()

    def connect(self, suffix, kind):
        connection = socket.socket(socket.AF_UNIX, kind)
        connection.settimeout(PATIENCE)
        connection.connect(self.path + suffix)
        return connection

    def case(self):
        self.cases += 1
        kinds = (self.noise, self.frames, self.conversation, self.specification, self.specification, self.packets)
        try:
            self.random.choice(kinds)()
        except TimeoutError as error:
            raise AssertionError(f"case {self.cases}: the daemon neither answered nor closed") from error

    # --- the gRPC socket ---
    def noise(self):
        self.exchange(self.random.choice((b"", PREFACE, PREFACE[:10], b"GET / HTTP/1.1\r\n\r\n")) + self.random.randbytes(self.random.randrange(2000)))

    def frames(self):
        """Frames by their form, of what is none by its content."""
        sent = PREFACE + frame(SETTINGS, 0, 0, b"")
        for _ in range(self.random.randrange(1, 20)):
            payload = self.random.randbytes(self.random.choice((0, 1, 4, 5, 6, 8, 30, 500)))
            sent += frame(self.random.randrange(12), self.random.randrange(256), self.random.choice((0, 1, 2, 3, 1 << 31, 2**32 - 1)), payload)
        self.exchange(sent)

    def conversation(self):
        """A call of ours, damaged anywhere."""
        body = pb.OpenStreamRequest(spec=self.spec).SerializeToString()
        sent = self.call(self.random.choice(METHODS), self.random.choice((self.token, "0" * 32, "")), message(body))
        self.exchange(self.damage(sent))

    def specification(self):
        """A call in due form with a message that is damaged or extreme: it has an answer."""
        if self.random.random() < 0.5:
            body = self.damage(pb.OpenStreamRequest(spec=self.spec).SerializeToString())
        else:
            body = pb.OpenStreamRequest(spec=self.extreme()).SerializeToString()
        with self.connect("", socket.SOCK_STREAM) as connection:
            connection.sendall(self.call(METHODS[0], self.token, message(body)))
            stream = connection.makefile("rb")
            while len(head := stream.read(9)) == 9:
                length, kind = struct.unpack(">I", b"\0" + head[:3])[0], head[3]
                stream.read(length)
                if kind == GOAWAY:
                    return
                if kind in (DATA, HEADERS) and (kind == DATA or head[4] & END_STREAM):
                    self.answered += 1
                    return

    @staticmethod
    def call(method, token, data):
        block = b"".join(header(name, value) for name, value in (
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", method.encode()), (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"devmem-token", token.encode())))
        return PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, 0, 1, data)

    def exchange(self, sent):
        """Sends it, then nothing more, and reads to the end."""
        with self.connect("", socket.SOCK_STREAM) as connection:
            try:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass  # it had seen enough

    def damage(self, data):
        out = bytearray(data)
        for _ in range(self.random.choice((1, 1, 2, 5))):
            at = self.random.randrange(len(out) + 1)
            match self.random.randrange(5):
                case 0 if at < len(out):
                    out[at] ^= 1 << self.random.randrange(8)
                case 1 if at < len(out):
                    out[at] = self.random.choice((0, 0x7F, 0x80, 0xFF))
                case 2:
                    del out[at:at + self.random.randrange(1, 9)]
                case 3:
                    out[at:at] = self.random.randbytes(self.random.randrange(1, 9))
                case 4:
                    out[at:at] = out[at:at + 16]
        return bytes(out)

    def extreme(self):
        """The specification with one to three of its numbers, texts or lists at a limit."""
        spec = pb.StreamSpec()
        spec.CopyFrom(self.spec)
        for _ in range(self.random.randrange(1, 4)):
            target = self.random.choice((spec, spec.tensors[0], spec.shuffle))
            field = self.random.choice(target.DESCRIPTOR.fields)
            value = self.random.choice(EXTREMES)
            if field.message_type is not None:
                continue
            if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
                text = self.random.choice(("", "x" * 5000, "../..", "%2e%2e/", "*" * 200, "\n", self.spec.bucket + "/..", "http://[::1", "s3://"))
                value = text if field.type == field.TYPE_STRING else text.encode()
            elif field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
                value = self.random.choice((0.0, -1.0, 1e300 if field.type == field.TYPE_DOUBLE else 1e30, float("inf"), float("nan")))
            elif field.type in (field.TYPE_INT32, field.TYPE_ENUM):
                value = self.random.choice((-(1 << 31), -1, value % (1 << 31)))
            elif field.type in (field.TYPE_INT64, field.TYPE_SINT64):
                value = self.random.choice((-(1 << 63), -1, value % (1 << 63)))
            elif field.type == field.TYPE_UINT32:
                value %= 1 << 32
            elif field.type == field.TYPE_BOOL:
                value = bool(value)
            if field.label == field.LABEL_REPEATED:
                getattr(target, field.name).extend([value] * self.random.choice((1, 2, 100)))
            else:
                setattr(target, field.name, value)
        return spec

    # --- the handle socket: whoever says anything is shown out ---
    def packets(self):
        with self.connect(".fd", socket.SOCK_SEQPACKET) as connection:
            trainer.handle_socket_pb2.HandlePacket.FromString(connection.recv(4096))
            packet = self.random.choice((
                self.random.randbytes(self.random.randrange(1, 5000)),
                trainer.handle_socket_pb2.HandlePacket(slab=trainer.handle_socket_pb2.SlabHandle(stream_id="s1", bytes=1 << 40)).SerializeToString(),
                self.damage(trainer.handle_socket_pb2.HandlePacket(hello=trainer.handle_socket_pb2.Hello(token=self.token)).SerializeToString())))
            descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(self.random.choice((0, 0, 1, 100)))]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            try:
                connection.sendmsg([packet or b"?"], ancillary)
                while connection.recv(4096):
                    pass
            except ConnectionError:
                pass
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
