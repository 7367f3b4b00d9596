# SPDX-License-Identifier: Apache-2.0
"""A trainer in Python, for what the CLI does not do on purpose: hold batches, release them late, steal a token.

    with Trainer(socket_path) as trainer:
        stream = trainer.open(bucket=url, format=pb.FORMAT_RAW, ...)
        for batch in stream.batches():
            stream.view(batch, 0)       # numpy array over the slab
            stream.release(batch)
"""
import mmap
import os
import pathlib
import queue
import socket
import subprocess
import sys
import tempfile

import numpy

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"


def _generate():
    """The gRPC stubs, made by protoc into a folder of this process."""
    folder = tempfile.mkdtemp(prefix="devmem-proto-")
    names = [str(path.relative_to(PROTO)) for path in sorted(PROTO.rglob("*.proto"))]
    plugin = "/usr/bin/grpc_python_plugin"
    subprocess.run(["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}",
                    f"--plugin=protoc-gen-grpc_python={plugin}", *names], check=True, timeout=60)
    sys.path.insert(0, folder)
    return folder


_FOLDER = _generate()
import grpc  # noqa: E402  pylint: disable=wrong-import-position
from devmem_loader.v1 import handle_socket_pb2, loader_pb2 as pb, loader_pb2_grpc, upgrade_pb2  # noqa: E402  pylint: disable=wrong-import-position
import shutil  # noqa: E402  pylint: disable=wrong-import-position
shutil.rmtree(_FOLDER)

_DTYPES = {pb.DTYPE_UINT8: "u1", pb.DTYPE_INT32: "i4", pb.DTYPE_INT64: "i8", pb.DTYPE_FLOAT32: "f4", pb.DTYPE_FLOAT64: "f8"}


def at_rest(status):
    """Whether a daemon has nothing of any stream; listings that it keeps for the next rank are no stream's."""
    return not status.streams and all(pool.bytes_used == 0 for pool in status.pools if pool.name != "kept listings")


class Trainer:
    def __init__(self, path, token=None):
        self.handles = None
        if token is None:
            self.handles = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.handles.settimeout(10)
            self.handles.connect(path + ".fd")
            packet, _ = self._packet()
            token = packet.hello.token
        self.token = token
        self.channel = grpc.insecure_channel("unix:" + path, options=[("grpc.max_receive_message_length", -1)])
        self.stub = loader_pb2_grpc.LoaderStub(self.channel)

    def _packet(self):
        data, fds, _, _ = socket.recv_fds(self.handles, 4096, 4)
        packet = handle_socket_pb2.HandlePacket.FromString(data)
        if packet.HasField("refused") or not data:
            raise PermissionError(packet.refused.message or "the handle socket was closed")
        return packet, fds

    @property
    def metadata(self):
        return (("devmem-token", self.token),)

    def status(self, timeout=5):
        return self.stub.GetNodeStatus(pb.GetNodeStatusRequest(), metadata=self.metadata, timeout=timeout)

    def release_stream(self, stream_id, timeout=20):
        return self.stub.ReleaseStream(pb.ReleaseStreamRequest(stream_id=stream_id), metadata=self.metadata, timeout=timeout)

    def open(self, timeout=300, **spec):
        return Stream(self, pb.StreamSpec(**spec), timeout)

    def close(self):
        self.channel.close()
        if self.handles:
            self.handles.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Stream:
    def __init__(self, trainer, spec, timeout):
        self._trainer = trainer  # its handle socket must stay open while the stream lives
        self._requests = queue.SimpleQueue()
        self._requests.put(pb.OpenStreamRequest(spec=spec))
        self.call = trainer.stub.OpenStream(iter(self._requests.get, None), metadata=trainer.metadata, timeout=timeout)
        self.maps, self.epoch_ends, self.end = {}, [], None
        for answer in self.call:
            if answer.HasField("opened"):
                self.opened = answer.opened
                break
        while len(self.maps) < len(self.opened.slabs):
            packet, fds = trainer._packet()  # pylint: disable=protected-access
            if packet.slab.stream_id == self.opened.stream_id:  # else of a stream that failed after its slab was sent
                self.maps[packet.slab.slab] = mmap.mmap(fds[0], packet.slab.bytes)
            os.close(fds[0])

    def batches(self, release=True):
        """Each batch; released when the next one is asked for, unless release is False."""
        for answer in self.call:
            if answer.HasField("batches"):
                for batch in answer.batches.batches:
                    yield batch
                    if release:
                        self.release(batch)
            elif answer.HasField("epoch_end"):
                self.epoch_ends.append(answer.epoch_end)
            elif answer.HasField("stream_end"):
                self.end = answer.stream_end
        self._requests.put(None)

    def view(self, batch, index):
        tensor = batch.tensors[index]
        data = numpy.frombuffer(self.maps[tensor.slab], dtype=_DTYPES[tensor.dtype], offset=tensor.offset,
                                count=int(numpy.prod(tensor.shape)))
        return data.reshape(tensor.shape)

    def release(self, *batches):
        self._requests.put(pb.OpenStreamRequest(release=pb.Release(sequences=[batch.sequence for batch in batches])))

    def waits(self):
        """Says that all that came was taken; who opens with signals_waiting must, before it waits."""
        self._requests.put(pb.OpenStreamRequest(release=pb.Release(waiting=True)))

    def break_it(self):
        """Has the daemon end it with an error, and waits for that."""
        self._requests.put(pb.OpenStreamRequest(release=pb.Release(sequences=[1 << 40])))
        try:
            for _ in self.call:
                pass
        except grpc.RpcError as error:
            return error
        raise AssertionError("the stream did not fail")

    def cancel(self):
        self.call.cancel()


def _main():
    """A trainer in a process of its own:
    trainer.py hold PATH    takes three batches, says "holding", and stays (to be killed)
    trainer.py steal PATH   as nobody, calls with a token that is another's; prints what it was told, as JSON
    On stdin, one JSON line: {"spec": StreamSpec as hexadecimal, "token": ...}.
    """
    import json
    import signal
    what, path = sys.argv[1:3]
    given = json.loads(sys.stdin.readline())
    spec = pb.StreamSpec.FromString(bytes.fromhex(given["spec"]))
    if what == "hold":
        batches = Stream(Trainer(path), spec, 300).batches(release=False)
        held = [next(batches) for _ in range(3)]
        print("holding", len(held), flush=True)
        signal.pause()
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    thief, answers = Trainer(path, token=given["token"]), []
    for call in (thief.status, lambda: Stream(thief, spec, 20)):
        try:
            call()
            answers.append("served")
        except grpc.RpcError as error:
            answers.append(error.code().name)
    print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    _main()
