# SPDX-License-Identifier: Apache-2.0
"""One trainer's mistakes, or its store's, are its own: nobody else of the node waits, loses memory or gets to see more."""
import os
import pathlib
import socket
import unittest

import grpc

import harness
import trainer

RAW = {"format": trainer.pb.FORMAT_RAW, "batch_size": 4}


def raw_tensor():
    return [trainer.pb.TensorSpec(dtype=trainer.pb.DTYPE_UINT8, shape=[harness.SAMPLE])]


class FairnessTest(harness.TestCase):
    def test_stores_that_never_answer_hold_up_nobody_else(self):
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        bucket = self.raw_bucket()
        daemon = self.daemon()
        # A bucket each: of one bucket a single stream would ask, and the others wait for its listing.
        stuck = [self.start("--bucket", f"http://127.0.0.1:{silent.getsockname()[1]}/{k}/", "--format", "raw", "--dtype", "uint8", "--shape",
                            str(harness.SAMPLE), service=daemon.socket) for k in range(12)]
        for _ in stuck:  # every open has reached its store
            silent.settimeout(20 * harness.SLOW)
            self.addCleanup(silent.accept()[0].close)
        with trainer.Trainer(daemon.path) as other:
            stream = other.open(bucket=f"file://{bucket}", tensors=raw_tensor(), tail=trainer.pb.TAIL_UNEVEN, **RAW)
            self.assertEqual(sum(len(batch.sample_ids) for batch in stream.batches()), 256)
            self.assertEqual(other.status().pools[0].bytes_limit > 0, True)

    def test_what_opens_streams_gives_way(self):
        """In ps: openers and status are nicer than the receive loop and what puts slabs back, which are as nice as the daemon."""
        daemon = self.daemon()
        self.assertEqual(self.loader("--bucket", f"file://{self.raw_bucket()}", *harness.RAW, service=daemon.socket).status, 0)

        def nice(path):
            text = (path / "stat").read_text()
            return text[text.index("(") + 1:text.rindex(")")].split("-")[0], int(text.rsplit(")", 1)[1].split()[16])
        own = os.getpriority(os.PRIO_PROCESS, daemon.pid)
        found = {}
        for name, value in map(nice, pathlib.Path(f"/proc/{daemon.pid}/task").iterdir()):
            found.setdefault(name, set()).add(value)
        self.assertEqual({name: found[name] for name in ("opener", "status", "upkeep", "rx")},
                         {"opener": {min(19, own + 15)}, "status": {min(19, own + 10)}, "upkeep": {own}, "rx": {own}})

    def test_endless_epochs_without_a_batch_are_refused(self):
        bucket = self.raw_bucket(samples=5, shards=1)
        daemon = self.daemon()
        with trainer.Trainer(daemon.path) as other:
            with self.assertRaises(grpc.RpcError) as refused:
                other.open(bucket=f"file://{bucket}", tensors=raw_tensor(), format=RAW["format"], batch_size=100, epochs=2**32 - 1)
            self.assertEqual(refused.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn("no batch", refused.exception.details())

    def test_a_call_without_a_specification_ends(self):
        daemon = self.daemon()
        with trainer.Trainer(daemon.path) as other:
            call = other.stub.OpenStream(iter(()), metadata=other.metadata, timeout=20)
            with self.assertRaises(grpc.RpcError) as refused:
                next(call)
            self.assertEqual(refused.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)

    def test_specifications_too_large_to_plan_are_refused(self):
        bucket = self.raw_bucket()
        daemon = self.daemon()
        wide = [trainer.pb.TensorSpec(dtype=trainer.pb.DTYPE_UINT8, shape=[1] * 1000)]
        with trainer.Trainer(daemon.path) as other:
            for spec, says in (({"tensors": wide, **RAW}, "dimensions"),
                               ({"tensors": raw_tensor(), "format": RAW["format"], "batch_size": 2**31, "tail": trainer.pb.TAIL_PAD}, "pieces")):
                with self.assertRaises(grpc.RpcError) as refused:
                    other.open(bucket=f"file://{bucket}", **spec)
                self.assertIn(says, refused.exception.details())
            self.assertEqual(other.status().pools[0].bytes_used, 0)

    @unittest.skipUnless(os.geteuid() == 0, "needs root to become another user")
    def test_files_are_served_to_the_daemons_own_user_only(self):
        bucket = self.raw_bucket()
        daemon = self.daemon("--socket-mode", "0666")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # somebody else on this node
            os.setgroups([])
            os.setuid(65534)
            answer = b"served"
            try:
                trainer.Trainer(daemon.path).open(bucket=f"file://{bucket}", tensors=raw_tensor(), **RAW)
            except grpc.RpcError as error:
                answer = f"{error.code().name} {error.details()}".encode()
            finally:
                os.write(writer, answer)
                os._exit(0)
        os.close(writer)
        answer = os.read(reader, 4096).decode()
        os.waitpid(child, 0)
        os.close(reader)
        self.assertIn("PERMISSION_DENIED", answer)
        self.assertIn("own user", answer)


if __name__ == "__main__":
    unittest.main()
