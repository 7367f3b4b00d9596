# SPDX-License-Identifier: Apache-2.0
"""What tools expect of a gRPC server: health, reflection, and a status that is true."""
import unittest

import grpc

import harness
import trainer


def ask(channel, method, request=b""):
    """A unary call whose messages are read by hand: Debian packages neither the health stubs nor the reflection ones."""
    return channel.unary_unary(method)(request, timeout=10)


class HealthTest(harness.TestCase):
    def test_health_is_serving_until_it_drains(self):
        daemon = self.daemon("--drain-timeout", "20")
        bucket = self.raw_bucket()
        with grpc.insecure_channel(daemon.socket) as channel:
            # grpc.health.v1.HealthCheckResponse {status = 1: SERVING (1) or NOT_SERVING (2)}
            self.assertEqual(ask(channel, "/grpc.health.v1.Health/Check"), b"\x08\x01")
            with trainer.Trainer(daemon.path) as held:
                spec = {"bucket": f"file://{bucket}", "format": trainer.pb.FORMAT_RAW, "batch_size": 1}
                stream = held.open(tensors=[trainer.pb.TensorSpec(dtype=trainer.pb.DTYPE_UINT8, shape=[harness.SAMPLE])], **spec)
                next(stream.batches(release=False))
                daemon.process.terminate()
                harness.wait_for(lambda: ask(channel, "/grpc.health.v1.Health/Check") == b"\x08\x02", 10, "health says NOT_SERVING")

    def test_status_of_one_process(self):
        """What a pod's readiness asks: whether this very daemon serves, not the one on the same socket that it is to take over from."""
        first = self.daemon("--take-over", "--when-succeeded", "wait")

        def served_by(pid):
            return self.verb("status", "--service", first.socket, "--pid", str(pid), "--output", "json")
        self.assertEqual(served_by(first.pid).status, 0)
        self.assert_failed(served_by(1), f"process {first.pid} serves, not 1", code="FAILED_PRECONDITION")
        second = self.keep(harness.Program([harness.BIN / "devmem-loaderd", "--socket", first.path, "--take-over"], self.work, "second"))
        harness.wait_for(lambda: served_by(second.pid).status == 0, 20 * harness.SLOW, "the successor serves")
        self.assert_failed(served_by(first.pid), f"process {second.pid} serves, not {first.pid}")
        self.assertIsNone(first.process.poll())

    def test_reflection_names_the_service(self):
        daemon = self.daemon()
        with grpc.insecure_channel(daemon.socket) as channel:
            # ServerReflectionRequest {list_services = 7: ""}
            call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(iter([b"\x3a\x00"]), timeout=10)
            self.assertIn(b"devmem_loader.v1.Loader", next(iter(call)))


if __name__ == "__main__":
    unittest.main()
