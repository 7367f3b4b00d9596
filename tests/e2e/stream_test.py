# SPDX-License-Identifier: Apache-2.0
"""Buckets, formats and paths as users have them, through real servers; every sample compared with its file."""
import json
import os
import socket
import subprocess
import unittest
import urllib.request

import numpy

import harness
import trainer
from harness import RAW, SAMPLE, SLOW
from trainer import pb

PAIRS = ("--tensor", "image=images/*.npy", "--tensor", "label=labels/*.npy")
SUMMARY = ("path", "path_reason", "samples", "bytes", "seconds", "gb_per_s", "cpu_s_per_gb", "first_batch_ms", "peak_rss_mib",
           "requests", "amplification", "retries", "stalls")


class StreamTest(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.digest_path = self.work / "digest"

    def delivers(self, url, folder, *flags, **options):
        run = self.loader("--bucket", url, "--tail", "uneven", *flags, digest=self.digest_path, **options)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(folder, self.digest_path)
        return run

    def test_raw(self):
        bucket = self.raw_bucket()
        run = self.delivers(self.nginx(bucket).url, bucket, *RAW, "--batch-size", "10", "--shuffle", "none")
        for key in SUMMARY:
            self.assertIn(key, run.summary)
        self.assertEqual(run.summary["path"], "copy")
        self.assertEqual(run.summary["samples"], 256)
        self.assertEqual(run.summary["bytes"], 256 * SAMPLE)
        self.assertLess(run.summary["amplification"], 1.01)
        self.assertEqual(len(run.stdout.strip().splitlines()), 1, "--output json prints one line on stdout")

    def test_npy_pairs(self):
        bucket = self.npy_bucket()
        self.delivers(self.nginx(bucket).url, bucket, *PAIRS, "--batch-size", "16")

    def test_npy_pairs_through_a_daemon(self):
        bucket, daemon = self.npy_bucket(), self.daemon()
        self.delivers(self.nginx(bucket).url, bucket, *PAIRS, "--batch-size", "16", service=daemon.socket)

    def test_safetensors(self):
        bucket = self.safetensors_bucket()
        self.delivers(self.nginx(bucket).url, bucket, "--batch-size", "16")

    def test_every_shuffle(self):
        bucket = self.raw_bucket(samples=301)
        nginx = self.nginx(bucket)
        for shuffle in ("none", "block", "window:37", "global"):
            with self.subTest(shuffle):
                self.delivers(nginx.url, bucket, *RAW, "--shuffle", shuffle, "--batch-size", "3")

    def test_unaligned_samples(self):
        bucket = self.raw_bucket(samples=3000, sample_bytes=1001)
        run = self.loader("--bucket", self.nginx(bucket).url, "--format", "raw", "--dtype", "uint8", "--shape", "7x11x13", "--tail", "uneven",
                          "--batch-size", "9", digest=self.digest_path)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(bucket, self.digest_path, sample_bytes=1001)

    def test_sample_larger_than_a_range(self):
        bucket = self.raw_bucket(samples=4, shards=2, sample_bytes=20_000_001)
        run = self.loader("--bucket", self.nginx(bucket).url, "--format", "raw", "--dtype", "uint8", "--shape", "20000001", "--tail", "uneven",
                          "--prefetch", "64M", digest=self.digest_path)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(bucket, self.digest_path, sample_bytes=20_000_001)

    def test_files(self):
        bucket = self.npy_bucket()
        self.delivers(f"file://{bucket}", bucket, *PAIRS)

    def test_epoll(self):
        bucket = self.raw_bucket()
        run = self.delivers(self.nginx(bucket).url, bucket, *RAW, "--receive-loop", "epoll")
        self.assertIn("epoll", run.summary["path_reason"])

    @unittest.skipUnless(socket.has_ipv6 and os.path.exists("/proc/net/if_inet6"), "no IPv6 here")
    def test_ipv6(self):
        bucket = self.raw_bucket()
        self.delivers(self.nginx(bucket, host="::1").url, bucket, *RAW)

    def test_names_that_need_escaping(self):
        bucket = self.raw_bucket()
        os.rename(bucket / "0001.bin", bucket / "a b%20+&=?#;ü.bin")
        self.delivers(self.nginx(bucket).url, bucket, *RAW)

    def test_tail_drop_and_pad(self):
        nginx = self.nginx(self.raw_bucket(samples=103))
        for tail, samples in (("drop", 100), ("pad", 105)):
            run = self.loader("--bucket", nginx.url, *RAW, "--tail", tail, "--batch-size", "5")
            self.assertEqual(run.status, 0, run.text)
            self.assertIn(run.summary["samples"], (samples, 103 if tail == "pad" else samples))

    def test_index(self):
        bucket = self.npy_bucket()
        nginx = self.nginx(bucket, log=True)
        index = self.work / "index"
        run = self.verb("index", nginx.url, *PAIRS, "--output-file", index)
        self.assertEqual(run.status, 0, run.text)
        index.rename(bucket / ".devmem-index")
        nginx.log.write_text("")
        run = self.loader("--bucket", nginx.url, *PAIRS, "--tail", "uneven", digest=self.digest_path)
        self.assertEqual(run.status, 0, run.text)
        asked = nginx.log.read_text()
        self.assertNotIn("GET / ", asked, "with an index, nothing is listed")
        self.assert_delivered(bucket, self.digest_path, sample_bytes=None)

    def test_many_streams_at_once(self):
        bucket, daemon = self.raw_bucket(samples=128), self.daemon()
        nginx = self.nginx(bucket)
        loaders = [self.start("--bucket", nginx.url, *RAW, "--tail", "uneven", "--prefetch", "1M", "--seed", seed, service=daemon.socket,
                              digest=self.work / f"digest{seed}") for seed in range(16)]
        for seed, loader in enumerate(loaders):
            run = loader.wait()
            self.assertEqual(run.status, 0, run.text)
            self.assert_delivered(bucket, self.work / f"digest{seed}")

    def test_views_of_a_python_trainer(self):
        """The handle ABI, seen from another language: what is mapped is what the files hold, and is aligned."""
        bucket, daemon = self.npy_bucket(), self.daemon()
        images = numpy.concatenate([numpy.load(path) for path in sorted((bucket / "images").iterdir())])
        labels = numpy.concatenate([numpy.load(path) for path in sorted((bucket / "labels").iterdir())])
        with trainer.Trainer(daemon.path) as one:
            stream = one.open(bucket=self.nginx(bucket).url, batch_size=16, tail=pb.TAIL_UNEVEN,
                              tensors=[pb.TensorSpec(name="image", glob="images/*.npy"), pb.TensorSpec(name="label", glob="labels/*.npy")])
            self.assertEqual([schema.name for schema in stream.opened.schema], ["image", "label"])
            seen = 0
            for batch in stream.batches():
                ids = list(batch.sample_ids)
                for tensor in batch.tensors:
                    self.assertEqual(tensor.offset % 256, 0)
                numpy.testing.assert_array_equal(stream.view(batch, 0), images[ids])
                numpy.testing.assert_array_equal(stream.view(batch, 1), labels[ids])
                seen += len(ids)
            self.assertEqual(seen, len(labels))
            self.assertEqual(stream.end.statistics.samples, seen)

    def test_cast(self):
        bucket, daemon = self.npy_bucket(), self.daemon()
        images = numpy.concatenate([numpy.load(path) for path in sorted((bucket / "images").iterdir())])
        with trainer.Trainer(daemon.path) as one:
            stream = one.open(bucket=self.nginx(bucket).url, batch_size=16, tail=pb.TAIL_UNEVEN,
                              tensors=[pb.TensorSpec(name="image", glob="images/*.npy", cast=pb.DTYPE_FLOAT32, scale=1 / 255)])
            for batch in stream.batches():
                numpy.testing.assert_allclose(stream.view(batch, 0), images[list(batch.sample_ids)] / 255, rtol=1e-6)

    def test_status_and_streams(self):
        bucket, daemon = self.raw_bucket(), self.daemon()
        nginx = self.nginx(bucket)
        with trainer.Trainer(daemon.path) as one:
            stream = one.open(bucket=nginx.url, format=pb.FORMAT_RAW, batch_size=4, prefetch_bytes=1 << 20,
                              tensors=[pb.TensorSpec(dtype=pb.DTYPE_UINT8, shape=[SAMPLE])])
            next(stream.batches(release=False))
            for verb in ("status", "streams"):
                run = self.verb(verb, "--service", daemon.socket, "--output", "json")
                self.assertEqual(run.status, 0, run.text)
                self.assertIn("copy", run.stdout)
                text = self.verb(verb, "--service", daemon.socket)
                self.assertEqual(text.status, 0, text.text)
            self.assertIn(nginx.url, self.verb("streams", "--service", daemon.socket).stdout)

    def test_s3_anonymous(self):
        server = harness.ROOT / "build/venv/bin/moto_server"
        if not server.exists():
            self.skipTest("no S3 server: build/venv has no moto (./dev test installs it from PyPI)")
        bucket, port = self.npy_bucket(), harness.free_port()
        self.keep(harness.Program([server, "-H", "127.0.0.1", "-p", port], self.work, "moto"))
        harness.wait_for(lambda: harness.accepts(("127.0.0.1", port)), 30 * SLOW, "the S3 server listens")
        endpoint = f"http://127.0.0.1:{port}"
        put = urllib.request.Request(f"{endpoint}/training", data=b"", method="PUT", headers={"x-amz-acl": "public-read-write", "Content-Type": "application/octet-stream"})
        urllib.request.urlopen(put, timeout=20).close()
        for path in sorted(path for path in bucket.rglob("*") if path.is_file()):
            put = urllib.request.Request(f"{endpoint}/training/set/{path.relative_to(bucket)}", data=path.read_bytes(), method="PUT",
                                         headers={"x-amz-acl": "public-read", "Content-Type": "application/octet-stream"})
            urllib.request.urlopen(put, timeout=20).close()
        self.delivers("s3://training/set", bucket, *PAIRS, "--endpoint-url", endpoint)

    def test_help_and_version(self):
        for verb in ((), ("index",), ("streams",), ("status",), ("bindings",), ("doctor",)):
            done = subprocess.run([harness.BIN / "devmem-loader", *verb, "--help"], capture_output=True, text=True, timeout=20, check=False)
            self.assertEqual(done.returncode, 0)
            self.assertIn("--output", done.stdout)
        done = subprocess.run([harness.BIN / "devmem-loaderd", "--help"], capture_output=True, text=True, timeout=20, check=False)
        self.assertIn("--socket-mode", done.stdout)

    def test_environment_and_precedence(self):
        bucket = self.raw_bucket()
        nginx = self.nginx(bucket)
        run = self.loader("--bucket", nginx.url, *RAW, "--dry-run", environment={"DEVMEM_BATCH_SIZE": "32"})
        self.assertEqual(run.status, 0, run.text)
        self.assertIn("32", json.dumps(run.summary))
        run = self.loader("--bucket", nginx.url, *RAW, "--batch-size", "16", environment={"DEVMEM_BATCH_SIZE": "32"})
        self.assertEqual(run.summary.get("batches", 16), 16, run.summary)
