# SPDX-License-Identifier: Apache-2.0
"""Faults of servers and of the network (docs/faults.md): the byte delivered is the byte stored, once, or the stream
fails with an error that names the object. `heals` says the first; `fails` the second."""
import json
import itertools
import os
import time

import fault_server
import harness
from fault_server import payload
from harness import QUICK, RAW, SAMPLE

FEW = ("--max-retries", "2")  # so that a fault that lasts is soon an error


class HttpFaultsTest(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.bucket = self.raw_bucket()
        self.digest_path = self.work / "digest"

    def run_against(self, server, *flags):
        return self.loader("--bucket", server.url, *RAW, "--tail", "uneven", *QUICK, *flags, digest=self.digest_path)

    def heals(self, *faults, flags=(), retries=True, **server_options):
        """Each fault is (path, act, options of .fault). All of the bucket must arrive."""
        server = self.server(self.bucket, **server_options)
        rules = [server.fault(path, act, **options) for path, act, options in faults]
        run = self.run_against(server, *flags)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, self.digest_path)
        for rule in rules:
            self.assertGreater(rule.hits, 0, "the fault was never met")
        if retries:
            self.assertGreater(run.summary["retries"], 0, run.summary)
        return run, server

    def fails(self, path, act, *words, code=None, flags=(), **options):
        server = self.server(self.bucket)
        rule = server.fault(path, act, **options)
        run = self.run_against(server, *FEW, *flags)
        self.assertGreater(rule.hits, 0, "the fault was never met")
        self.assert_failed(run, *words, code=code)
        self.delivered_so_far_is_right()
        return run

    def delivered_so_far_is_right(self):
        expected = harness.make_dataset.samples_of(self.bucket, SAMPLE)
        if self.digest_path.exists():
            for line in self.digest(self.digest_path):
                if (line["object"], line["offset"], line["bytes"]) in expected:
                    self.assertEqual(line["sha256"], expected[(line["object"], line["offset"], line["bytes"])], line)

    # --- a body that is not what was announced ---
    def test_truncated_body_once(self):
        self.heals(("/0001.bin", fault_server.Truncate(0.5), {"times": 1}))

    def test_truncated_body_always(self):
        # Every answer ends before its first byte of body: no progress, so the retries run out.
        self.fails("/0001.bin", fault_server.Truncate(0), "0001.bin", code=("UNAVAILABLE", "DATA_LOSS"))

    def test_too_long_body_trailing(self):
        # Bytes behind the message belong to nobody: the body is right, the connection is not to be used again.
        self.heals(("/000[12].bin", fault_server.TooLong(5000), {}), retries=False)

    def test_too_long_body_announced(self):
        self.fails("/0001.bin", fault_server.TooLong(5000, honest_length=True), "0001.bin")

    def test_reset_at_every_sixteenth(self):
        self.bucket = self.raw_bucket("sixteenths", shards=17, samples=17 * 16)
        run, server = self.heals(*[(f"/{k:04d}.bin", fault_server.Reset(at=k / 16), {"times": 1}) for k in range(17)], retries=False,
                                 flags=("--shuffle", "none"))
        self.assertGreaterEqual(run.summary["retries"], 16, run.summary)
        for k in range(17):
            if k < 16:
                self.goes_on_where_it_ended(server, f"/{k:04d}.bin", k / 16)

    def test_reset_resumes_at_the_byte_reached(self):
        _, server = self.heals(("/0001.bin", fault_server.Reset(at=0.5), {"times": 1}))
        self.goes_on_where_it_ended(server, "/0001.bin", 0.5)

    def goes_on_where_it_ended(self, server, path, reached):
        """The first request was cut off after this part of its body; one of the others asks for exactly the rest."""
        ranges = [request.range for request in server.requests(path) if payload(request)]
        first, last = ranges[0]
        self.assertIn((first + int(reached * (last + 1 - first)), last), ranges[1:])

    def test_chunked_body(self):
        # RFC 9112 allows it. Either it is read rightly or refused by name; never taken for payload.
        server = self.server(self.bucket)
        server.fault("/0001.bin", fault_server.Chunked())
        run = self.run_against(server, *FEW)
        if run.status == 0:
            self.assert_delivered(self.bucket, self.digest_path)
        else:
            self.assert_failed(run, "0001.bin", "content-length")

    # --- a head that is not what was asked for ---
    def test_garbage_before_status_line_once(self):
        self.heals(("/0001.bin", fault_server.Garbage(), {"times": 1}))

    def test_garbage_before_status_line_always(self):
        self.fails("/0001.bin", fault_server.Garbage(), "0001.bin")

    def test_head_of_1_mb(self):
        self.fails("/0001.bin", fault_server.BigHead(), "0001.bin", "head")

    def test_head_of_1_mb_in_the_listing(self):
        server = self.server(self.bucket)
        server.fault("/", fault_server.BigHead(), when=None)
        self.assertEqual(self.run_against(server, *FEW).status, 1)

    def test_endless_redirect(self):
        self.fails("/0001.bin", fault_server.Redirect(), "0001.bin", "redirect")

    def test_endless_redirect_of_the_listing(self):
        server = self.server(self.bucket)
        server.fault("/", fault_server.Redirect(), when=None)
        self.assert_failed(self.run_against(server, *FEW), "redirect")

    def test_one_redirect(self):
        other = self.server(self.bucket)
        self.heals(("/0001.bin", fault_server.Redirect(other.url + "0001.bin"), {}), retries=False)

    def test_redirect_to_a_link_local_address(self):
        # Where clouds serve credentials: not asked, and not taken for a fault of the object that could be skipped.
        for flags in ((), ("--on-error", "skip")):
            run = self.fails("/0001.bin", fault_server.Redirect("http://169.254.169.254/latest/meta-data/?X-Amz-Signature=secret"), "0001.bin",
                             "redirected to http://169.254.169.254/latest/meta-data/", code="PERMISSION_DENIED", flags=flags)
            self.assertNotIn("secret", run.text)
            self.assertLess(run.seconds, 20 * harness.SLOW)

    def test_redirect_of_the_listing_to_a_link_local_address(self):
        server = self.server(self.bucket)
        server.fault("/", fault_server.Redirect("http://169.254.169.254/?X-Amz-Signature=secret"), when=None)
        run = self.run_against(server, *FEW)
        self.assert_failed(run, "redirected to http://169.254.169.254/", code="PERMISSION_DENIED")
        self.assertNotIn("secret", run.text)

    def test_redirect_that_has_expired(self):
        # Each signed URL is good for one answer: the store is asked for a new one each time.
        other, numbers = self.server(self.bucket), itertools.count()
        server = self.server(self.bucket)

        def sign(connection, request, running):
            return fault_server.Redirect(f"{other.url}0001.bin?n={next(numbers)}")(connection, request, running)
        server.fault("/0001.bin", sign)
        stale = other.fault("/0001.bin", fault_server.Status(403), times=1)
        broken = other.fault("/0001.bin", fault_server.Truncate(0.5), times=1)
        run = self.run_against(server, *FEW)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, self.digest_path)
        self.assertEqual((stale.hits, broken.hits), (1, 1))
        targets = [request.target for request in other.requests()]
        self.assertEqual(len(targets), len(set(targets)), "no target is asked twice")

    def test_wrong_content_range(self):
        self.fails("/0001.bin", fault_server.WrongRange(), "0001.bin", "range")

    def test_wrong_content_length(self):
        self.fails("/0001.bin", fault_server.WrongLength(-100), "0001.bin")

    def test_range_ignored(self):
        # 200 with the whole object: right bytes at the price of reading more, or an error; never the wrong bytes.
        server = self.server(self.bucket)
        server.fault("/0001.bin", fault_server.IgnoreRange())
        run = self.run_against(server, *FEW)
        if run.status == 0:
            self.assert_delivered(self.bucket, self.digest_path)
        else:
            self.assert_failed(run, "0001.bin", "range")

    # --- statuses ---
    def test_status_401(self):
        self.fails("/0001.bin", fault_server.Status(401), "0001.bin", "401", code=("UNAUTHENTICATED", "PERMISSION_DENIED"))

    def test_status_403(self):
        self.fails("/0001.bin", fault_server.Status(403), "0001.bin", "403", code="PERMISSION_DENIED")

    def test_statistics_of_a_stream_that_fails(self):
        run = self.fails("/0003.bin", fault_server.Status(403), "0003.bin", code="PERMISSION_DENIED", flags=("--shuffle", "none", "--prefetch", "1M"))
        summary = json.loads(run.stdout.splitlines()[-1])
        self.assertGreater(summary["requests"], 0, summary)
        self.assertGreater(summary["bytes_received"], 0, summary)
        self.assertIsNotNone(summary["retries"])

    def test_object_vanishes_after_listing(self):
        self.fails("/0001.bin", fault_server.Status(404), "0001.bin", code="NOT_FOUND")

    def test_status_412(self):
        self.fails("/0001.bin", fault_server.Status(412), "0001.bin", code="ABORTED")

    def test_status_416(self):
        self.fails("/0001.bin", fault_server.Status(416), "0001.bin")

    def test_status_408_then_fine(self):
        self.heals(("/0001.bin", fault_server.Status(408), {"times": 2}))

    def test_status_429_then_fine(self):
        self.heals(("/0001.bin", fault_server.Status(429, headers=[("Retry-After", "1")]), {"times": 1}))

    def test_status_500_then_fine(self):
        self.heals(("/0001.bin", fault_server.Status(500), {"times": 2}))

    def test_status_520_then_fine(self):
        self.heals(("/0001.bin", fault_server.Status(520), {"times": 2}))

    def test_status_501(self):
        """What a server cannot do it will not do a second later either."""
        run = self.fails("/0001.bin", fault_server.Status(501), "0001.bin", "501", code="FAILED_PRECONDITION")
        self.assertEqual(run.error["fault"], "bad_answer")
        self.assertEqual(json.loads(run.stdout.splitlines()[-1])["retries"], 0)

    def test_status_503_always(self):
        self.fails("/0001.bin", fault_server.Status(503), "0001.bin", "503", code="UNAVAILABLE")

    def test_status_503_for_10_s_then_fine(self):
        self.down_for_10_s(payload)

    def test_status_503_for_10_s_at_opening(self):
        self.down_for_10_s(None)

    def down_for_10_s(self, when):
        server = self.server(self.bucket)
        first = []

        def down():
            first.append(time.monotonic())
            return time.monotonic() < first[0] + 10
        server.fault("*", fault_server.Status(503), until=down, when=when)
        run = self.loader("--bucket", server.url, *RAW, "--tail", "uneven", digest=self.digest_path)  # with the defaults
        self.assertEqual(run.status, 0, run.text)
        self.assertGreaterEqual(run.seconds, 10)
        self.assert_delivered(self.bucket, self.digest_path)

    def test_status_503_in_the_listing_then_fine(self):
        self.heals(("/", fault_server.Status(503), {"times": 2, "when": None}), retries=False)

    # --- silence ---
    def test_stall_once(self):
        self.heals(("/0001.bin", fault_server.Stall(0.5), {"times": 1}))

    def test_stall_beyond_the_deadline(self):
        run = self.fails("/0001.bin", fault_server.Stall(0), "0001.bin", code=("DEADLINE_EXCEEDED", "UNAVAILABLE"))
        self.assertLess(run.seconds, 20 * harness.SLOW)

    def test_no_first_byte_once(self):
        self.heals(("/0001.bin", fault_server.Silent(), {"times": 1}), flags=("--first-byte-timeout", "0.5"))

    def test_no_first_byte_always(self):
        run = self.fails("/0001.bin", fault_server.Silent(), "0001.bin", code=("DEADLINE_EXCEEDED", "UNAVAILABLE"),
                         flags=("--first-byte-timeout", "0.5"))
        self.assertLess(run.seconds, 20 * harness.SLOW)

    def test_read_timeout_caps_everything(self):
        # Progress by one byte each time, for ever: only the cap on all ends it.
        run = self.fails("/0001.bin", fault_server.Truncate(1), "0001.bin", flags=("--read-timeout", "2", "--max-retries", "1000"))
        self.assertLess(run.seconds, 20 * harness.SLOW)

    def test_thin_link(self):
        # 2 KiB every 200 ms: the range takes 6 s, far longer than the stall limit, and a piece far less than is worth a wake-up. A busy
        # nginx may be late by ten pieces.
        self.bucket = self.raw_bucket("thin", shards=1, samples=4)
        nginx = self.nginx(self.bucket, extra="limit_rate 10k; sendfile_max_chunk 2k;")
        run = self.run_against(nginx, *FEW, "--stall-timeout", "2")
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, self.digest_path)
        self.assertEqual(run.summary["retries"], 0, run.summary)

    def test_read_timeout_caps_a_body_that_dribbles(self):
        self.bucket = self.raw_bucket("dribble", shards=1, samples=64)
        nginx = self.nginx(self.bucket, extra="limit_rate 20k; sendfile_max_chunk 2k;")
        run = self.run_against(nginx, *FEW, "--read-timeout", "2", "--stall-timeout", "30")  # 50 s at this rate
        self.assert_failed(run, "0000.bin", "not done within 2 s", code="DEADLINE_EXCEEDED")
        self.assertLess(run.seconds, 20 * harness.SLOW)
        self.delivered_so_far_is_right()

    # --- objects that change ---
    def replace(self, name="0001.bin"):
        """Other bytes, as many, another date: what an upload in place does."""
        path = self.bucket / name
        path.write_bytes(bytes(b ^ 0x55 for b in path.read_bytes()))
        os.utime(path, (1.5e9, 1.5e9))

    def changes(self, act_before, **server_options):
        originals = harness.make_dataset.samples_of(self.bucket, SAMPLE)
        server = self.server(self.bucket, **server_options)
        act_before(server)
        run = self.run_against(server, *FEW)
        self.assert_failed(run, "0001.bin", "changed", code="ABORTED")
        for line in self.digest(self.digest_path):
            self.assertEqual(line["sha256"], originals[(line["object"], line["offset"], line["bytes"])], "a mixture of two versions")

    def test_object_changes_between_listing_and_reading(self):
        self.changes(lambda server: server.fault("/", fault_server.Edit(lambda answer: self.replace()), times=1, when=None))

    def test_object_changes_between_listing_and_reading_without_etag(self):
        self.changes(lambda server: server.fault("/", fault_server.Edit(lambda answer: self.replace()), times=1, when=None), etags=False)

    def test_object_changes_in_mid_read(self):
        def arrange(server):
            server.fault("/0001.bin", fault_server.Truncate(0.5), times=1)
            server.fault("/0001.bin", fault_server.Call(self.replace), times=1)
        self.changes(arrange)

    def test_object_changes_in_mid_read_without_etag(self):
        def arrange(server):
            server.fault("/0001.bin", fault_server.Truncate(0.5), times=1)
            server.fault("/0001.bin", fault_server.Call(self.replace), times=1)
        self.changes(arrange, etags=False)

    def replaced_between_ranges(self, **server_options):
        """In small ranges, two at a time; after four of the object it is another one of the same size, and so is what the server says of it."""
        originals = harness.make_dataset.samples_of(self.bucket, SAMPLE)
        server = self.server(self.bucket, **server_options)
        server.fault("/0001.bin", fault_server.Call(self.replace), skip=4, times=1)
        run = self.run_against(server, *FEW, "--shuffle", "none", "--prefetch", "128k", "--batch-size", "4")
        self.assert_failed(run, "0001.bin", "changed", code="ABORTED")
        for line in self.digest(self.digest_path):
            self.assertEqual(line["sha256"], originals[(line["object"], line["offset"], line["bytes"])], "a mixture of two versions")
        return [request for request in server.requests("/0001.bin") if payload(request)]

    def test_object_replaced_between_two_ranges_that_is_listed_without_a_version(self):
        # Only the ETags tell, and no listing knew them: the first answer's holds for the whole stream.
        asked = self.replaced_between_ranges(dates=False)
        self.assertEqual(asked[0].headers.get("if-match"), None)
        self.assertTrue(any(request.headers.get("if-match") for request in asked[1:]), "later ranges ask for the version of the first")

    def test_object_replaced_between_two_ranges_within_the_listed_date(self):
        def in_place(name="0001.bin"):
            path = self.bucket / name
            stat = path.stat()
            path.write_bytes(bytes(b ^ 0x55 for b in path.read_bytes()))
            os.utime(path, (stat.st_atime, stat.st_mtime))
        self.replace = in_place
        self.replaced_between_ranges()

    def test_object_grows_between_listing_and_reading(self):
        def grow():
            with open(self.bucket / "0001.bin", "ab") as file:
                file.write(bytes(SAMPLE))
        server = self.server(self.bucket)
        server.fault("/0001.bin", fault_server.Call(grow), times=1)
        self.assert_failed(self.run_against(server, *FEW), "0001.bin", "changed", code="ABORTED")

    # --- the server itself ---
    def test_nginx_restarted_in_mid_epoch(self):
        self.bucket = self.raw_bucket("large", samples=2048, shards=32)
        nginx = self.nginx(self.bucket, extra="limit_rate 512k;", log=True)
        loader = self.start("--bucket", nginx.url, *RAW, "--tail", "uneven", *QUICK, "--prefetch", "8M", "--shuffle", "none", "--first-byte-timeout",
                            "10",
                            digest=self.digest_path)
        harness.wait_for(lambda: " 206" in nginx.log.read_text(), 30 * harness.SLOW, "a first range is served")
        nginx.stop()
        os.kill(loader.pid, 0)  # not done yet
        nginx.start()
        run = loader.wait(120 * harness.SLOW)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, self.digest_path)
        self.assertGreater(run.summary["retries"], 0)

    def test_one_bad_object_skipped(self):
        server = self.server(self.bucket)
        server.fault("/0001.bin", fault_server.Status(404))
        run = self.run_against(server, *FEW, "--on-error", "skip", "--max-skipped", "100%")
        self.assertEqual(run.status, 0, run.text)
        self.assertIn("0001.bin", run.text, "the skipped is listed")
        self.assertGreater(run.summary["skipped_samples"], 0)
        self.assert_delivered(self.bucket, self.digest_path, without=["0001.bin"])

    def test_more_is_bad_than_may_be_skipped(self):
        server = self.server(self.bucket)
        server.fault("/0001.bin", fault_server.Status(404))
        run = self.run_against(server, *FEW, "--on-error", "skip")
        self.assert_failed(run, "0001.bin", "may be", "--max-skipped", code="FAILED_PRECONDITION")
        self.assertEqual(run.error["fault"], "too_many_skipped")
        self.delivered_so_far_is_right()

    def test_one_forbidden_object_is_skipped(self):
        server = self.server(self.bucket)
        server.fault("/0001.bin", fault_server.Status(403))
        run = self.run_against(server, *FEW, "--on-error", "skip", "--max-skipped", "100%")
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, self.digest_path, without=["0001.bin"])

    def skip_fails(self, path, act, fault, scope, *flags, **options):
        """on_error=skip, with leave to skip everything, and a fault that is not the objects'."""
        server = self.server(self.bucket)
        rule = server.fault(path, act, **options)
        run = self.run_against(server, *FEW, "--on-error", "skip", "--max-skipped", "100%", *flags)
        self.assertGreater(rule.hits, 0, "the fault was never met")
        self.assertNotEqual(run.status, 0, run.text)
        self.assertEqual((run.error["fault"], run.error["scope"]), (fault, scope), run.text)
        self.assertEqual(json.loads(run.stdout.splitlines()[-1])["skipped"], 0, run.text)
        self.delivered_so_far_is_right()
        return run

    def test_a_store_that_forbids_all_after_a_while_is_not_skipped(self):
        run = self.skip_fails("*", fault_server.Status(403, body=b"<Error><Code>ExpiredToken</Code></Error>"), "forbidden", "store", skip=3)
        self.assertIn("nor could another object be read since", run.error["message"])

    def test_a_store_that_ignores_ranges_is_not_skipped(self):
        self.skip_fails("*", fault_server.IgnoreRange(), "bad_answer", "store", "--prefetch", "256k", "--shuffle", "none")

    def test_a_store_that_cuts_every_body_short_is_not_skipped(self):
        self.skip_fails("*", fault_server.Truncate(0), "truncated", "store", skip=3)

    def test_skipping_never_shifts_the_order(self):
        order = []
        for bad in (False, True):
            server = self.server(self.bucket)
            if bad:
                server.fault("/0001.bin", fault_server.Status(404))
            run = self.run_against(server, *FEW, "--on-error", "skip", "--max-skipped", "100%", "--batch-size", "4")
            self.assertEqual(run.status, 0, run.text)
            order.append([(line["object"], line["offset"]) for line in self.digest(self.digest_path)])
        self.assertEqual([key for key in order[0] if key[0] != "0001.bin"], order[1])

    def test_identity_encoding_is_asked_for(self):
        server = self.server(self.bucket)
        run = self.run_against(server)
        self.assertEqual(run.status, 0, run.text)
        asked = [request.headers.get("accept-encoding") for request in server.log if payload(request)]
        self.assertEqual(set(asked), {"identity"})

