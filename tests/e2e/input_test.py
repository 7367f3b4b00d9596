# SPDX-License-Identifier: Apache-2.0
"""Bad input: what the user gets for it (docs/faults.md). Exit status 2 for what the command line alone shows to be
wrong, 1 for what the bucket or the daemon shows; always an error that names the culprit."""
import json
import os
import resource
import socket
import stat
import struct
import unittest

import numpy

import fault_server
import harness
import make_dataset
from harness import QUICK, RAW, SAMPLE


class InputTest(harness.TestCase):
    def fails(self, url, *flags, words=(), code=None, status=1, **options):
        run = self.loader("--bucket", url, *QUICK, *flags, **options)
        self.assert_failed(run, *words, code=code, status=status)
        return run

    # --- the bucket ---
    def test_wrong_scheme(self):
        run = self.loader("--bucket", "ftp://127.0.0.1/x/", *RAW)
        self.assertIn(run.status, (1, 2), run.text)
        self.assertIn("ftp", run.text)
        for scheme in ("http://", "s3://", "file://"):
            self.assertIn(scheme, run.text, "the schemes there are")

    def test_no_such_host(self):
        self.fails("http://no-such-host.invalid/x/", *RAW, "--read-timeout", "3", "--max-retries", "1", words=["no-such-host.invalid"])

    def test_refused(self):
        self.fails(f"http://127.0.0.1:{harness.free_port()}/", *RAW, "--max-retries", "1", "--read-timeout", "3",
                   words=["127.0.0.1", "refused"], code="UNAVAILABLE")

    def test_stopped_server_is_named(self):
        """The first thing asked for is the bucket's index; that nobody answers is not the index's fault."""
        port = harness.free_port()
        run = self.fails(f"http://localhost:{port}/train/", *RAW, "--max-retries", "0", words=["refused", f"127.0.0.1:{port}"], code="UNAVAILABLE")
        self.assertEqual(run.error["object"], f"http://localhost:{port}")
        self.assertNotIn("devmem-index", run.text)

    def test_bucket_that_is_an_object(self):
        folder = self.npy_bucket()
        nginx = self.nginx(folder)
        for url, above in ((f"file://{folder}/images/0001.npy", f"file://{folder}/images/"), (nginx.url + "images/0001.npy", nginx.url + "images/")):
            self.fails(url, words=["it is an object, not a folder", f"--bucket '{above}' --tensor 'name=0001.npy'"], code="INVALID_ARGUMENT")
        run = self.loader("--bucket", nginx.url + "images/", "--tensor", "x=0001.npy", "--tail", "uneven", *QUICK)  # as it says
        self.assertEqual(run.status, 0, run.text)

    def test_names_that_are_not_utf8(self):
        folder = self.folder()
        for name in (b"caf\xe9.npy", b"\xff\xfe.npy", "naïve.npy".encode()):
            with open(os.fsencode(folder) + b"/" + name, "wb") as file:
                numpy.save(file, numpy.zeros((4, 8), numpy.uint8))
        for url in (self.nginx(folder).url, f"file://{folder}"):
            run = self.loader("--bucket", url, "--tail", "uneven", *QUICK)
            self.assertEqual(run.status, 0, run.text)
            self.assertEqual(run.summary["samples"], 12, url)

    def test_names_that_cannot_be_asked_for(self):
        """One of them spoils nothing but itself, and is never left out in silence."""
        folder = self.raw_bucket()
        entries = [{"name": f"000{i}.bin", "type": "file", "size": (folder / f"000{i}.bin").stat().st_size} for i in range(4)]
        for name in ("nul\\u0000.bin", "x" * 5000):
            listing = json.dumps([*entries, {"name": name, "type": "file", "size": SAMPLE}]).replace("\\\\u", "\\u")
            page = self.work / "listing"
            page.write_text(listing)
            nginx = self.nginx(folder, extra=f"location = / {{ root {self.work}; try_files /listing =404; }}")
            good = self.loader("--bucket", nginx.url, *RAW, "--tensor", "x=000*", "--tail", "uneven", *QUICK)
            self.assertEqual(good.status, 0, good.text)
            self.assertEqual(good.summary["samples"], 256)
            self.fails(nginx.url, *RAW, words=["is refused", "longer than" if name[0] == "x" else "nul"], code="INVALID_ARGUMENT")
            skipped = self.loader("--bucket", nginx.url, *RAW, "--on-error", "skip", "--tail", "uneven", *QUICK)
            self.assertEqual(skipped.status, 0, skipped.text)
            self.assertEqual((skipped.summary["samples"], skipped.summary["skipped_objects"]), (256, 1))

    def test_empty_bucket(self):
        nginx = self.nginx(self.folder("empty"))
        self.fails(nginx.url, *RAW, words=["no data"], code="NOT_FOUND")

    def test_missing_bucket(self):
        nginx = self.nginx(self.folder("empty"))
        self.fails(nginx.url + "not/there/", *RAW, words=["not/there"], code="NOT_FOUND")

    def test_glob_matches_nothing(self):
        nginx = self.nginx(self.npy_bucket())
        self.fails(nginx.url, "--tensor", "x=nothing/*.npy", words=["nothing/*.npy"], code="NOT_FOUND")

    def test_bucket_without_listing(self):
        # A server that has no autoindex answers a folder with 403.
        server = self.server(self.raw_bucket())
        server.fault("*/", fault_server.Status(403), when=None)
        self.fails(server.url, *RAW, code=("PERMISSION_DENIED", "UNAUTHENTICATED"))

    # --- what the objects hold ---
    def test_mixed_shapes(self):
        folder = self.folder()
        numpy.save(folder / "a.npy", numpy.zeros((4, 8), numpy.uint8))
        numpy.save(folder / "b.npy", numpy.zeros((4, 9), numpy.uint8))
        self.fails(self.nginx(folder).url, words=["b.npy", "9", "8"], code="FAILED_PRECONDITION")

    def test_mixed_dtypes(self):
        folder = self.folder()
        numpy.save(folder / "a.npy", numpy.zeros((4, 8), numpy.uint8))
        numpy.save(folder / "b.npy", numpy.zeros((4, 8), numpy.int8))
        self.fails(self.nginx(folder).url, words=["b.npy", "int8", "uint8"], code="FAILED_PRECONDITION")

    def test_wrong_dtype(self):
        nginx = self.nginx(self.npy_bucket())
        self.fails(nginx.url, "--tensor", "x=images/*.npy", "--dtype", "x=float32", words=["float32", "uint8"], code="INVALID_ARGUMENT")

    def test_unpaired_shards(self):
        folder = self.npy_bucket()
        (folder / "labels" / "0003.npy").unlink()
        self.fails(self.nginx(folder).url, "--tensor", "x=images/*.npy", "--tensor", "y=labels/*.npy", words=["4", "3"])

    def test_pairs_of_different_counts(self):
        folder = self.npy_bucket()
        numpy.save(folder / "labels" / "0002.npy", numpy.zeros(3, numpy.int64))
        self.fails(self.nginx(folder).url, "--tensor", "x=images/*.npy", "--tensor", "y=labels/*.npy", words=["0002.npy"],
                   code="FAILED_PRECONDITION")

    def test_raw_not_a_whole_number_of_samples(self):
        folder = self.raw_bucket()
        with open(folder / "0002.bin", "ab") as file:
            file.write(b"x")
        self.fails(self.nginx(folder).url, *RAW, words=["0002.bin"], code="DATA_LOSS")

    def npy_fails(self, array, *words):
        folder = self.folder()
        numpy.save(folder / "good.npy", numpy.zeros((4, 8), numpy.uint8))
        numpy.save(folder / "strange.npy", array, allow_pickle=True)
        self.fails(self.nginx(folder).url, words=["strange.npy", *words])

    def test_fortran_order(self):
        self.npy_fails(numpy.asfortranarray(numpy.zeros((4, 8), numpy.uint8)), "fortran")

    def test_big_endian(self):
        self.npy_fails(numpy.zeros((4, 8), ">i4"), "endian")

    def test_object_dtype(self):
        self.npy_fails(numpy.array([["a", 1], [None, {}]], dtype=object), "object")

    def test_structured_dtype(self):
        self.npy_fails(numpy.zeros(4, dtype=[("a", "<i4"), ("b", "<f4")]), "structured")

    def test_zero_dimensional(self):
        self.npy_fails(numpy.array(3, numpy.uint8))

    def safetensors_fails(self, header, data=b"\0" * 64, length=None):
        folder = self.folder()
        make_dataset.write_safetensors(folder / "a-good.safetensors", {"x": numpy.zeros((4, 4), numpy.float32)})
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        (folder / "broken.safetensors").write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
        self.fails(self.nginx(folder).url, words=["broken.safetensors"])

    def test_safetensors_huge_header_length(self):
        self.safetensors_fails({}, length=2**63)

    def test_safetensors_header_longer_than_file(self):
        self.safetensors_fails({}, length=5000)

    def test_safetensors_overlap(self):
        entry = {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]}
        self.safetensors_fails({"x": entry, "y": entry})

    def test_safetensors_offsets_beyond_2_63(self):
        self.safetensors_fails({"x": {"dtype": "F32", "shape": [4, 4], "data_offsets": [2**63, 2**63 + 64]}})

    def test_safetensors_nan(self):
        self.safetensors_fails(b'{"x":{"dtype":"F32","shape":[4,4],"data_offsets":[0,NaN]}}')

    def test_safetensors_bad_utf8(self):
        self.safetensors_fails(b'{"\xff\xfe":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]}}')

    def test_safetensors_truncated_data(self):
        self.safetensors_fails({"x": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}, data=b"\0" * 60)

    def test_corrupt_shard_fail(self):
        folder = self.npy_bucket(shards=8)
        (folder / "images" / "0005.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff not a header")
        self.fails(self.nginx(folder).url, "--tensor", "x=images/*.npy", "--tensor", "y=labels/*.npy", words=["images/0005.npy"],
                   code=("DATA_LOSS", "INVALID_ARGUMENT", "FAILED_PRECONDITION"))

    def test_corrupt_shard_skip(self):
        folder = self.npy_bucket(shards=8)
        bad = folder / "images" / "0005.npy"
        bad.write_bytes(b"\x93NUMPY\x01\x00\xff\xff not a header")
        digest = self.work / "digest"
        run = self.loader("--bucket", self.nginx(folder).url, "--tensor", "x=images/*.npy", "--tensor", "y=labels/*.npy", "--tail", "uneven",
                          "--on-error", "skip", "--max-skipped", "20%", digest=digest)
        self.assertEqual(run.status, 0, run.text)
        self.assertIn("images/0005.npy", json.dumps(run.summary), "the skipped is listed")
        (folder / "labels" / "0005.npy").unlink()
        bad.unlink()
        self.assert_delivered(folder, digest)

    def test_a_forbidden_header_is_skipped(self):
        folder = self.npy_bucket(shards=8)
        web = self.nginx(folder, extra="location = /images/0005.npy { return 403; }")
        flags = ("--bucket", web.url, "--tensor", "x=images/*.npy", "--tensor", "y=labels/*.npy", "--tail", "uneven")
        self.assert_failed(self.loader(*flags), "images/0005.npy", code="PERMISSION_DENIED")
        digest = self.work / "digest"
        run = self.loader(*flags, "--on-error", "skip", "--max-skipped", "20%", digest=digest)
        self.assertEqual(run.status, 0, run.text)
        self.assertIn("images/0005.npy", json.dumps(run.summary), "the skipped is listed")
        for kind in ("images", "labels"):
            (folder / kind / "0005.npy").unlink()
        self.assert_delivered(folder, digest)

    def test_corrupt_shard_is_more_than_may_be_skipped(self):
        folder = self.npy_bucket(shards=8)
        (folder / "images" / "0005.npy").write_bytes((folder / "images" / "0005.npy").read_bytes().replace(b"NUMPY", b"NUMPX"))
        run = self.loader("--bucket", self.nginx(folder).url, "--tensor", "x=images/*.npy", "--tensor", "y=labels/*.npy", "--tail", "uneven",
                          "--on-error", "skip")
        self.assert_failed(run, "images/0005.npy", "--max-skipped", code="FAILED_PRECONDITION")
        self.assertEqual(run.error["fault"], "too_many_skipped")

    # --- the request ---
    def test_batch_larger_than_memory_cap(self):
        daemon = self.daemon("--memory-limit", str(8 << 20))
        run = self.loader("--bucket", self.nginx(self.raw_bucket(samples=1024)).url, *RAW, "--batch-size", "1000", service=daemon.socket)
        self.assert_failed(run, "memory", code="RESOURCE_EXHAUSTED")

    def test_rank_outside_world(self):
        run = self.loader("--bucket", self.nginx(self.raw_bucket()).url, *RAW, "--rank", "3", "--world-size", "2")
        self.assertIn(run.status, (1, 2), run.text)
        self.assertIn("rank", run.text)

    def test_devmem_where_no_nic_can(self):
        url = self.nginx(self.raw_bucket()).url
        run = self.loader("--bucket", url, *RAW, "--transport", "devmem", "--interface", "lo")
        self.assertEqual(run.status, 1, run.text)
        self.assertEqual((run.error["code"], run.error["object"]), ("FAILED_PRECONDITION", "lo"))
        self.assertIn("no physical device", run.error["message"])
        run = self.loader("--bucket", url, *RAW, "--transport", "auto", "--interface", "lo")
        self.assertEqual((run.status, run.summary["path"], run.summary["bytes_copied"]), (0, "copy", run.summary["bytes"]), run.text)
        self.assertIn("no physical device", run.summary["path_reason"])

    def test_zero_copy_required(self):
        run = self.loader("--bucket", self.nginx(self.raw_bucket()).url, *RAW, "--require-zero-copy")
        self.assertEqual(run.status, 3, run.text)
        self.assertIn("copy", run.text)

    def test_no_shape_for_raw(self):
        run = self.loader("--bucket", self.nginx(self.raw_bucket()).url, "--format", "raw")
        self.assertIn(run.status, (1, 2), run.text)
        self.assertIn("dtype", run.text)

    def test_broken_cursor(self):
        run = self.loader("--bucket", self.nginx(self.raw_bucket()).url, *RAW, "--resume", "AAAAnonsense")
        self.assertEqual(run.status, 2, run.text)
        self.assertIn("cursor", run.text)

    def test_empty_cursor(self):
        run = self.loader("--bucket", "http://127.0.0.1/", *RAW, "--resume", "")
        self.assertEqual(run.status, 2, run.text)
        self.assertIn("--resume", run.text)

    def test_timeouts_of_zero(self):
        for flag in ("--connect-timeout", "--first-byte-timeout", "--stall-timeout", "--read-timeout"):
            run = self.loader("--bucket", "http://127.0.0.1/", *RAW, flag, "0")
            self.assertEqual(run.status, 2, run.text)
            self.assertIn(flag, run.text)

    def test_digest_to_stdout(self):
        for name in ("/dev/stdout", "/proc/self/fd/1"):
            run = self.loader("--bucket", "http://127.0.0.1/", *RAW, digest=name)
            self.assertEqual(run.status, 2, run.text)
            self.assertIn("--digest", run.text)
            self.assertIn("stdout", run.text)

    def test_nothing_to_deliver(self):
        run = self.loader("--bucket", self.nginx(self.raw_bucket()).url, *RAW, "--batch-size", "1000")
        self.assertEqual(run.status, 0, run.text)
        self.assertEqual(run.summary["samples"], 0)
        self.assertTrue(any("no sample was delivered" in text and "--tail" in text for text in run.summary["warnings"]), run.text)

    def test_long_runtime_folder(self):
        folder = self.folder("x" * 90)
        run = self.loader("--bucket", self.nginx(self.raw_bucket()).url, *RAW, environment={"XDG_RUNTIME_DIR": str(folder)})
        self.assertEqual(run.status, 0, run.text)

    def test_few_descriptors_at_first(self):
        # The soft limit is for select(); what the hard one allows is taken.
        def few():
            resource.setrlimit(resource.RLIMIT_NOFILE, (16, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        run = self.loader("--bucket", self.nginx(self.raw_bucket()).url, *RAW, preexec_fn=few)
        self.assertEqual(run.status, 0, run.text)

    # --- the index ---
    def index(self, folder, *flags):
        run = self.verb("index", f"file://{folder}", "--format", "raw", "--dtype", "uint8", "--shape", str(harness.SAMPLE), *flags)
        self.assertEqual(run.status, 0, run.text)
        return run

    def test_index_of_a_folder_is_good_for_its_web_server(self):
        folder = self.raw_bucket()
        nginx = self.nginx(folder, log=True)
        self.index(folder)
        for number, url in enumerate((nginx.url, f"file://{folder}")):
            digest = self.work / f"digest-{number}"
            run = self.loader("--bucket", url, *RAW, "--tail", "uneven", digest=digest)
            self.assertEqual(run.status, 0, run.text)
            self.assert_delivered(folder, digest)
        self.assertNotIn("GET / ", nginx.log.read_text(), "it was opened by the index")

    def test_index_of_a_changed_file(self):
        folder = self.raw_bucket()
        nginx = self.nginx(folder)
        self.index(folder)
        os.utime(folder / "0002.bin", (1e9, 1e9))
        for url in (nginx.url, f"file://{folder}"):
            run = self.loader("--bucket", url, *RAW, "--tail", "uneven")
            self.assert_failed(run, "0002.bin", code=("ABORTED", "FAILED_PRECONDITION"))

    def test_index_into_a_pipe(self):
        folder, pipe = self.raw_bucket(), self.work / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.index(folder, "--output-file", str(pipe))
        self.assertTrue(stat.S_ISFIFO(os.lstat(pipe).st_mode))
        self.assertGreater(len(os.read(reader, 1 << 16)), 100)

    # --- resume ---
    def resume(self, change, *flags):
        folder = self.raw_bucket()
        nginx = self.nginx(folder)
        first = self.loader("--bucket", nginx.url, *RAW, "--limit-batches", "7")
        self.assertEqual(first.status, 0, first.text)
        change(folder)
        return self.loader("--bucket", nginx.url, *RAW, "--resume", first.summary["cursor"], *flags)

    def test_changed_listing_at_resume(self):
        run = self.resume(lambda folder: (folder / "0004.bin").write_bytes(bytes(harness.SAMPLE)))
        self.assert_failed(run, "listing", code=("FAILED_PRECONDITION", "ABORTED"))

    def test_replaced_object_at_resume(self):
        run = self.resume(lambda folder: os.utime(folder / "0001.bin", (1e9, 1e9)))
        self.assert_failed(run, "listing", code=("FAILED_PRECONDITION", "ABORTED"))

    def test_other_seed_at_resume(self):
        run = self.resume(lambda folder: None, "--seed", "12345")
        self.assert_failed(run, code=("FAILED_PRECONDITION", "INVALID_ARGUMENT", "ABORTED"))

    # --- the command line ---
    def test_unknown_flag_suggests(self):
        run = self.loader("--bucket", "http://127.0.0.1/", "--batchsize", "3")
        self.assertEqual(run.status, 2, run.text)
        self.assertIn("--batch-size", run.text)

    def test_help_with_a_value(self):
        """`--help=1` must not run what it is asked about."""
        for flags, expected in ((["--help=1"], "Usage: "), (["-h"], "Usage: "), (["--version=yes"], "devmem-loader ")):
            run = self.loader("--bucket", "http://127.0.0.1:1/", *flags)
            self.assertEqual((run.status, run.stdout[:len(expected)]), (0, expected), run.text)
        for flag in ("--help=perhaps", "--dry-run=", "--dry-run=maybe"):
            run = self.loader("--bucket", "http://127.0.0.1:1/", flag)
            self.assertEqual(run.status, 2, run.text)
            self.assertIn("expected 1 or 0", run.text)

    def test_unknown_variable(self):
        variables = {"DEVMEM_BATCHSIZE": "4", "DEVMEM_LOADER_SERVICE_HOST": "10.0.0.1", "DEVMEM_LOG_LEVEL": "info"}
        bucket = f"file://{self.raw_bucket()}"
        run = self.loader("--bucket", bucket, *RAW, environment=variables)
        self.assertEqual(run.status, 0, run.text)
        self.assertEqual(run.text.count("nothing reads"), 1, run.text)
        self.assertIn("nothing reads the environment variable DEVMEM_BATCHSIZE; did you mean DEVMEM_BATCH_SIZE?", run.text)
        daemon = self.daemon(environment={"DEVMEM_MEMORY_LIMTI": "1G"})
        self.assertIn("DEVMEM_MEMORY_LIMTI; did you mean DEVMEM_MEMORY_LIMIT?", daemon.stderr())
        status = self.verb("status", "--service", daemon.socket, environment=variables)
        self.assertEqual(status.status, 0, status.text)
        self.assertIn("DEVMEM_BATCHSIZE", status.text)
        index = self.verb("index", bucket, *RAW, "--output-file", self.work / "index", environment=variables)
        self.assertEqual(index.status, 0, index.text)
        self.assertIn("DEVMEM_BATCHSIZE", index.text)

    def test_no_bucket(self):
        run = self.loader()
        self.assertEqual(run.status, 2, run.text)
        self.assertIn("--bucket", run.text)

    def test_service_not_there(self):
        run = self.loader("--bucket", "http://127.0.0.1/", *RAW, service=f"unix:{self.work}/nobody.sock")
        self.assert_failed(run, "nobody.sock", code="UNAVAILABLE")

    def test_digest_cannot_be_written(self):
        run = self.loader("--bucket", self.nginx(self.raw_bucket()).url, *RAW, digest=self.work / "no" / "folder" / "file")
        self.assertNotEqual(run.status, 0)
        self.assertIn("no/folder/file", run.text)

    def test_digest_on_a_full_disk(self):
        run = self.loader("--bucket", self.nginx(self.raw_bucket()).url, *RAW, digest="/dev/full")
        self.assertEqual(run.status, 1, run.text)
        self.assertIn("/dev/full", run.text)

    @unittest.skipUnless(socket.has_ipv6 and os.path.exists("/proc/net/if_inet6"), "no IPv6 here")
    def test_refused_ipv6(self):
        self.fails(f"http://[::1]:{harness.free_port('::1')}/", *RAW, "--max-retries", "1", "--read-timeout", "3", words=["::1", "refused"])

