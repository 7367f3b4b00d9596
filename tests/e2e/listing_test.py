# SPDX-License-Identifier: Apache-2.0
"""Whose listing it is that ranks read by: the same for all of them, or an error; and how old an index may be without a word."""
import os
import sys

import harness
import trainer
from harness import RAW, SAMPLE
from trainer import pb

sys.path[:0] = [str(harness.ROOT / "client/python")]
import devmem_loader_reader  # noqa: E402  pylint: disable=wrong-import-position

RAW_SPEC = {"format": pb.FORMAT_RAW, "tensors": [pb.TensorSpec(dtype=pb.DTYPE_UINT8, shape=[SAMPLE])], "batch_size": 4}


class ListingTest(harness.TestCase):
    def grow(self, folder):
        (folder / "zz.bin").write_bytes(os.urandom(8 * SAMPLE))

    def rank(self, url, rank, *flags, **options):
        return self.loader("--bucket", url, *RAW, "--tail", "uneven", "--rank", rank, "--world-size", 2, *flags, **options)

    def test_ranks_of_one_daemon_read_one_listing(self):
        folder = self.raw_bucket()
        server = self.server(folder)
        daemon = self.daemon()
        runs = []
        for rank in range(2):
            runs.append(self.rank(server.url, rank, service=daemon.socket, digest=self.work / f"digest-{rank}"))
            self.assertEqual(runs[-1].status, 0, runs[-1].text)
            self.grow(folder)
        self.assertEqual(runs[0].summary["fingerprint"], runs[1].summary["fingerprint"])
        self.assertEqual(len(server.requests("/")), 1, "one listing for both")
        with trainer.Trainer(daemon.path) as observer:
            harness.wait_for(lambda: trainer.at_rest(observer.status()), 20 * harness.SLOW, "the streams are gone")
            status = observer.status()
            kept = next(pool for pool in status.pools if pool.name == "kept listings")
            self.assertGreater(kept.bytes_used, 0)
            self.assertEqual(kept.bytes_limit, status.pools[0].bytes_limit // 4)
        (folder / "zz.bin").unlink()
        self.assert_delivered(folder, self.work / "digest-0", self.work / "digest-1")

    def test_eight_ranks_at_once_list_once(self):
        server = self.server(self.raw_bucket())
        daemon = self.daemon()
        loaders = [self.start("--bucket", server.url, *RAW, "--rank", rank, "--world-size", 8, "--prefetch", "1M", service=daemon.socket)
                   for rank in range(8)]
        for loader in loaders:
            run = loader.wait()
            self.assertEqual(run.status, 0, run.text)
        self.assertEqual(len(server.requests("/")), 1)

    def test_ranks_of_two_daemons_are_told_of_another_listing(self):
        folder = self.raw_bucket()
        url = self.nginx(folder).url
        first, second = self.daemon(), self.daemon()
        fingerprint = self.rank(url, 0, "--dry-run", service=first.socket)
        self.assertEqual(fingerprint.status, 0, fingerprint.text)
        fingerprint = fingerprint.summary["fingerprint"]
        self.grow(folder)
        run = self.rank(url, 1, "--expect-fingerprint", fingerprint, service=second.socket)
        self.assert_failed(run, fingerprint, "rank 0", code="FAILED_PRECONDITION")
        self.assertEqual((run.error["fault"], run.error["scope"]), ("listing_changed", "policy"))
        # Where it is as it was, or where the first daemon still has it, the rank opens.
        run = self.rank(url, 1, "--expect-fingerprint", fingerprint, service=first.socket)
        self.assertEqual(run.status, 0, run.text)
        self.assertEqual(run.summary["fingerprint"], fingerprint)

    def test_a_kept_listing_refuses_nobody(self):
        folder = self.raw_bucket()
        url = self.nginx(folder).url
        old, new = self.daemon(), self.daemon()
        self.assertEqual(self.rank(url, 0, service=old.socket).status, 0)
        self.grow(folder)
        fingerprint = self.rank(url, 0, service=new.socket).summary["fingerprint"]
        run = self.rank(url, 1, "--expect-fingerprint", fingerprint, service=old.socket)
        self.assertEqual(run.status, 0, run.text)

    def test_a_listing_that_turned_out_stale_is_not_given_again(self):
        folder = self.raw_bucket()
        url = self.nginx(folder).url
        daemon = self.daemon()
        self.assertEqual(self.rank(url, 0, service=daemon.socket).status, 0)
        (folder / "0002.bin").write_bytes(os.urandom((folder / "0002.bin").stat().st_size))
        os.utime(folder / "0002.bin", (1e9, 1e9))
        self.assert_failed(self.rank(url, 0, service=daemon.socket), "0002.bin", "changed")
        run = self.rank(url, 0, service=daemon.socket)
        self.assertEqual(run.status, 0, run.text)

    def test_reader_in_python(self):
        folder = self.raw_bucket()
        url = self.nginx(folder).url
        with devmem_loader_reader.Reader(self.daemon().socket) as reader:
            next(reader.stream(pb.StreamSpec(bucket=url, **RAW_SPEC)))
            fingerprint = reader.fingerprint
        self.grow(folder)
        with devmem_loader_reader.Reader(self.daemon().socket) as reader:
            with self.assertRaisesRegex(Exception, f"{fingerprint:016x} is expected"):
                next(reader.stream(pb.StreamSpec(bucket=url, expect_fingerprint=fingerprint, **RAW_SPEC)))

    def test_an_index_says_how_old_it_is(self):
        folder = self.raw_bucket()
        url = self.nginx(folder).url
        done = self.verb("index", f"file://{folder}", *RAW)
        self.assertEqual(done.status, 0, done.text)
        self.grow(folder)
        for where in (url, f"file://{folder}"):
            run = self.loader("--bucket", where, *RAW)
            self.assertEqual(run.status, 0, run.text)
            self.assertRegex(run.summary["warnings"][0], r"from the bucket's index of 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC")
        self.assertIn("1 new (zz.bin)", run.summary["warnings"][1], "a folder is compared")

    def listing_with(self, server, change):
        """Has the server list what change(entries) makes of the folder's entries."""
        listed = server.listing
        server.listing = lambda folder: change(listed(folder))

    def test_an_object_listed_twice(self):
        folder = self.raw_bucket()
        server = self.server(folder)
        self.listing_with(server, lambda entries: entries + [dict(entries[1])])
        digest = self.work / "digest"
        run = self.loader("--bucket", server.url, *RAW, "--tail", "uneven", digest=digest)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(folder, digest)

    def test_one_name_for_two_objects(self):
        server = self.server(self.raw_bucket())
        self.listing_with(server, lambda entries: entries + [dict(entries[1], size=SAMPLE)])
        self.assert_failed(self.loader("--bucket", server.url, *RAW), "twice", code="FAILED_PRECONDITION")

    def test_a_cursor_of_format_auto_is_one_of_the_format_found(self):
        bucket = f"file://{self.safetensors_bucket()}"
        run = self.loader("--bucket", bucket, "--limit-batches", 3)
        self.assertEqual(run.status, 0, run.text)
        for flags in ((), ("--format", "safetensors")):
            rest = self.loader("--bucket", bucket, "--resume", run.summary["cursor"], *flags)
            self.assertEqual(rest.status, 0, rest.text)
