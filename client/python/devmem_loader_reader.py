#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The smallest reader of a devmem-loader stream: what a client in any language has to do, and a test that it suffices.

    PYTHONPATH=build/release/proto ./devmem_loader_reader.py unix:/run/devmem-loader/loader.sock file:///data/train/

    with Reader("unix:/run/devmem-loader/loader.sock") as reader:
        for batch in reader.stream(pb.StreamSpec(bucket="http://10.0.0.5/train/")):
            batch.tensors["data"]       # numpy array over the slab, until the next batch

Needs grpcio, numpy and the modules protoc makes of proto/ (the build puts them below <build>/proto).
"""
import fcntl
import mmap
import os
import queue
import socket
import sys
import types

import grpc
import numpy

from devmem_loader.v1 import handle_socket_pb2, loader_pb2 as pb, loader_pb2_grpc

F_GET_SEALS, F_SEAL_SHRINK = 1034, 2
# bfloat16 is no type of numpy's: it comes as its 16 bits.
DTYPES = {pb.DTYPE_BFLOAT16: "uint16"}
DTYPES.update((number, name[len("DTYPE_"):].lower()) for name, number in pb.DType.items() if number not in (0, pb.DTYPE_BFLOAT16))


class Reader:
    """One connection to a daemon; several streams may be read one after another."""

    def __init__(self, service, timeout=10):
        path = service[len("unix:"):] if service.startswith("unix:") else service
        # 1. The handle socket tells who we are and gives the token. While it is open the daemon keeps our streams.
        self.handles = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.handles.settimeout(timeout)
        self.handles.connect(path + ".fd")
        hello, _ = self._receive()
        if hello.WhichOneof("message") != "hello" or hello.hello.version != 1:
            raise ConnectionError(hello.refused.message or f"unknown handle protocol: {hello}")
        self.metadata = (("devmem-token", hello.hello.token),)
        # 2. Everything but descriptors goes over gRPC, with the token.
        self.channel = grpc.insecure_channel("unix:" + path, options=[("grpc.max_receive_message_length", -1)])
        self.stub = loader_pb2_grpc.LoaderStub(self.channel)
        self.fingerprint = None  # of the listing the last stream opened is of: the same for all ranks

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        self.handles.close()

    def _receive(self):
        data, fds, _, _ = socket.recv_fds(self.handles, 4096, 1)
        if not data:
            raise ConnectionError("the daemon closed the handle socket")
        return handle_socket_pb2.HandlePacket.FromString(data), fds

    def _map(self, opened):
        """The slabs of a stream: {id: mapping}. Their descriptors were sent before `opened`, one packet each."""
        announced, slabs = {slab.id: slab for slab in opened.slabs}, {}
        while len(slabs) < len(announced):
            packet, fds = self._receive()
            handle = packet.slab
            try:
                if handle.stream_id != opened.stream_id:
                    continue  # of a stream that did not open
                slab = announced[handle.slab]
                if (handle.kind, handle.version, handle.device_uuid) != ("memfd", 1, "cpu") or handle.bytes != slab.bytes:
                    raise ValueError(f"cannot map this slab: {handle}")
                # Sealed and as long as announced: reading it cannot raise SIGBUS.
                if os.fstat(fds[0]).st_size != slab.bytes or not fcntl.fcntl(fds[0], F_GET_SEALS) & F_SEAL_SHRINK:
                    raise ValueError(f"slab {slab.id} may shrink")
                slabs[slab.id] = mmap.mmap(fds[0], slab.bytes, mmap.MAP_SHARED, mmap.PROT_READ)
            finally:
                for fd in fds:
                    os.close(fd)
        return slabs

    def stream(self, spec, on_event=lambda event: None):
        """Yields the batches; `on_event` sees every message that is not a batch list."""
        requests = queue.SimpleQueue()
        requests.put(pb.OpenStreamRequest(spec=spec))
        call = self.stub.OpenStream(iter(requests.get, None), metadata=self.metadata)
        slabs = {}
        try:
            for event in call:
                kind = event.WhichOneof("event")
                if kind != "batches":
                    on_event(event)
                if kind == "opened":
                    found = event.opened.cursor.listing_fingerprint  # rank 0 hands it to the others as expect_fingerprint
                    if spec.HasField("expect_fingerprint") and found != spec.expect_fingerprint:  # of an older daemon
                        raise ValueError(f"the listing is {found:016x}, and {spec.expect_fingerprint:016x} is expected")
                    self.fingerprint = found
                    slabs = self._map(event.opened)
                elif kind == "stream_end":
                    requests.put(None)  # half-close: nothing more to release
                for info in event.batches.batches:
                    tensors = {}
                    for tensor in info.tensors:
                        array = numpy.frombuffer(slabs[tensor.slab], numpy.uint8, tensor.bytes, tensor.offset)
                        tensors[tensor.name] = array.view(DTYPES[tensor.dtype]).reshape(tuple(tensor.shape))
                    yield types.SimpleNamespace(info=info, tensors=tensors)
                    # 3. The slot is the daemon's again.
                    requests.put(pb.OpenStreamRequest(release=pb.Release(sequences=[info.sequence])))
        finally:
            requests.put(None)
            call.cancel()


if __name__ == "__main__":
    with Reader(sys.argv[1]) as main_reader:
        for one in main_reader.stream(pb.StreamSpec(bucket=sys.argv[2], batch_size=1)):
            print(one.info.sequence, {name: (array.dtype.name, array.shape) for name, array in one.tensors.items()})
