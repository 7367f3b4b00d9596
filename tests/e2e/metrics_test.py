# SPDX-License-Identifier: Apache-2.0
"""Metrics, health and logs of the daemon (docs/metrics.md), read by a real Prometheus and checked with promtool. What only a node with
NICs has is read in tests/guest/e2e/metrics_test.py."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import harness
import prometheus
import trainer
from fault_server import Status
from harness import RAW, ROOT, SLOW, wait_for

ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
ALERTS_TEST = ROOT / "deploy/prometheus/alerts_test.yaml"
DASHBOARD = ROOT / "deploy/grafana/devmem-loader.json"
DOCS = ROOT / "docs/metrics.md"
SAMPLE_LINE = re.compile(r'([a-z_]+)(?:\{(.*)\})? (\S+)$')

# Queries of the dashboard that a node without NICs has no data for, and why. The guest's test reads the metrics they are made of.
NEEDS_NICS = {
    "devmem_loader_nic_": "a series a NIC",
    "devmem_loader_landing_pool_": "a series a NIC",
    "devmem_loader_steering_": "a series a NIC",
    "devmem_loader_fall_backs_total": "a series a reason, once a connection fell back",
    "devmem_loader_gather_seconds_bucket": "a quantile of no gather at all is no number",
    "devmem_loader_receive_calls_total": "a ratio to receives by device-memory TCP, of which there are none",
}


def get(address, path, method="GET"):
    """(status, body). `address` is "host:port", or the path of a unix socket."""
    if ":" in address:
        connection = http.client.HTTPConnection(address, timeout=30)
    else:
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30)
        connection.sock.connect(address)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def samples(page):
    """{name: {labels: value}}; labels as a frozenset of pairs."""
    found = {}
    for line in page.splitlines():
        if line and not line.startswith("#"):
            name, labels, value = SAMPLE_LINE.match(line).groups()
            pairs = frozenset(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', labels or ""))
            found.setdefault(name, {})[pairs] = float(value)
    return found


def value(page, name, **labels):
    """The sum of the samples that have these labels."""
    wanted = set(labels.items())
    return sum(number for pairs, number in samples(page).get(name, {}).items() if wanted <= pairs)


def families(page):
    """{name: type}"""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M))


class Table:
    """The metrics that docs/metrics.md has a row for: {name: (type, labels)}."""

    def __init__(self):
        self.rows = {}
        for name, kind, labels in re.findall(r"^\| `([a-z_]+)` \| (counter|gauge|histogram) \| ([a-z_, ]*)\|", DOCS.read_text(), re.M):
            assert name not in self.rows, f"{name} has two rows"
            self.rows[name] = (kind, {label.strip() for label in labels.split(",")} - {""})


class MetricsCase(harness.TestCase):
    def measured(self, *flags, **options):
        """A daemon with metrics on a port of its own, and where they are."""
        daemon = self.daemon("--metrics-listen", "127.0.0.1:0", *flags, **options)
        address = re.search(r"metrics and health on (\S+)", daemon.stderr()).group(1)
        self.serving(address)
        return daemon, address

    def serving(self, address):
        wait_for(lambda: get(address, "/healthz") == (200, "serving\n"), 30 * SLOW, "it serves")

    def scrape(self, address):
        status, page = get(address, "/metrics")
        self.assertEqual(status, 200, page)
        return page

    def spec(self, folder, **more):
        return {"bucket": f"file://{folder}", "format": trainer.pb.FORMAT_RAW, "batch_size": 4, "prefetch_bytes": 1 << 20,
                "tensors": [trainer.pb.TensorSpec(dtype=trainer.pb.DTYPE_UINT8, shape=[harness.SAMPLE])], **more}

    def promtool(self, *arguments, text=None):
        tool = shutil.which("promtool")
        if tool is None:
            self.skipTest("no promtool here: install Debian's prometheus (./dev test does)")
        return subprocess.run([tool, *map(str, arguments)], input=text, capture_output=True, text=True, timeout=60 * SLOW, check=False)


class PrometheusTest(MetricsCase):
    def test_every_query_has_data(self):
        """A Prometheus scrapes the daemon while a stream runs, and the dashboard has something to show in every panel."""
        daemon, address = self.measured()
        bucket = self.npy_bucket(total=24 << 20)
        web = self.nginx(bucket, extra="limit_rate 400k;")
        if prometheus.PROGRAM is None:
            self.skipTest("no prometheus here: install Debian's prometheus (./dev test does)")
        scraper = self.keep(prometheus.Prometheus(self.work, address, ALERTS))
        reader = self.start("--bucket", web.url, "--tensor", "image=images/*.npy", "--tensor", "label=labels/*.npy", "--batch-size", "4",
                            "--prefetch", "2M", "--epochs", "50", service=daemon.socket)
        exempt, waiting = [], []
        for panel, query in prometheus.queries(DASHBOARD):
            why = [reason for part, reason in NEEDS_NICS.items() if part in query]
            (exempt if why else waiting).append((panel, query))
        self.assertGreater(len(waiting), 35, "most of the dashboard is looked at")
        self.assertEqual({part for part in NEEDS_NICS if not any(part in query for _, query in exempt)}, set(), "exempted in vain")

        def all_answered():
            self.assertIsNone(reader.process.poll(), f"the stream is over:\n{reader.stderr()}")
            waiting[:] = [(panel, query) for panel, query in waiting if not scraper.numbers(query)]
            return not waiting
        try:
            wait_for(all_answered, 90 * SLOW, "every query has data")
        except AssertionError as error:
            self.fail(f"{error}: {len(waiting)} of them have none: {waiting[:5]}")
        for panel, query in exempt:  # Prometheus must understand them all the same
            self.assertIsNotNone(scraper.ask("query", query=query), panel)
        # What Prometheus stored is what the daemon counts.
        delivered = value(self.scrape(address), "devmem_loader_delivered_bytes_total", format="npy")
        self.assertGreater(delivered, 0)
        wait_for(lambda: sum(scraper.numbers('devmem_loader_delivered_bytes_total{format="npy"}')) >= delivered, 30 * SLOW,
                 "Prometheus has as much")
        rules = scraper.ask("rules")["groups"][0]["rules"]
        self.assertEqual([rule["lastError"] for rule in rules if rule.get("lastError")], [])
        firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
        self.assertEqual(firing, set(), "nothing is wrong")
        # The daemon goes: that is seen.
        wait_for(lambda: scraper.numbers('up{job="devmem-loader"}') == [1], 30 * SLOW, "Prometheus sees it up")
        daemon.kill()
        wait_for(lambda: scraper.numbers('up{job="devmem-loader"}') == [0], 30 * SLOW, "Prometheus sees it down")

    def test_promtool_finds_nothing_wrong(self):
        daemon, address = self.measured()
        bucket = self.raw_bucket()
        with trainer.Trainer(daemon.path) as reader:
            stream = reader.open(**self.spec(bucket))
            next(stream.batches(release=False))
            page = self.scrape(address)
        # It passes over families without a sample: they get one here, for the sake of their names and types.
        found = samples(page)
        page += "".join(f"{name} 1\n" for name, kind in families(page).items() if kind != "histogram" and name not in found)
        done = self.promtool("check", "metrics", text=page)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        # That it would have said so.
        bad = self.promtool("check", "metrics", text="# HELP bad_count x\n# TYPE bad_count counter\nbad_count 1\n")
        self.assertNotEqual(bad.returncode, 0)


class RulesTest(MetricsCase):
    def test_alerts(self):
        for arguments in (("check", "rules", ALERTS), ("test", "rules", ALERTS_TEST)):
            done = self.promtool(*arguments)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_a_rule_that_never_fires_is_found(self):
        """The test of the rules can fail: with any alert made silent, and with any made to fire always."""
        text = ALERTS.read_text()
        names = re.findall(r"- alert: (\w+)", text)
        self.assertGreater(len(names), 10)
        opening, *tests = re.split(r"^(?=  - name: )", ALERTS_TEST.read_text(), flags=re.M)
        for name in names:
            (self.work / "alerts_test.yaml").write_text(opening + next(test for test in tests if test.startswith(f"  - name: {name}\n")))
            head, _, tail = text.partition(f"- alert: {name}\n")
            for what, expression in (("silent", "up == 2"), ("loud", 'label_replace(vector(1), "instance", "good", "", "")')):
                changed = re.sub(r"expr: (\|\n( {10}.*\n)+|.*\n)", f"expr: {expression}\n", tail, count=1)
                (self.work / "alerts.yaml").write_text(f"{head}- alert: {name}\n{changed}")
                done = self.promtool("test", "rules", self.work / "alerts_test.yaml")
                self.assertNotEqual(done.returncode, 0, f"{name}, {what}")
                self.assertIn(name, done.stdout + done.stderr)

    def test_each_alert_is_tested_both_ways_and_has_a_page(self):
        names = re.findall(r"- alert: (\w+)", ALERTS.read_text())
        tests = re.split(r"^  - name: ", ALERTS_TEST.read_text(), flags=re.M)[1:]
        tested = {part.split("\n")[0]: part for part in tests}
        self.assertEqual(sorted(tested), sorted(names))
        docs = DOCS.read_text()
        for name in names:
            self.assertIn("exp_alerts: []", tested[name], name)
            self.assertRegex(tested[name], r"exp_alerts:\n +- exp_labels", name)
            self.assertIn(f"runbook: docs/metrics.md#{name.lower()}", ALERTS.read_text())
            page = docs.partition(f"### {name}\n")[2].split("\n### ")[0]
            for part in ("**Means**", "**Check**", "**Do**"):
                self.assertIn(part, page, f"{name} has no {part} in docs/metrics.md")

    def test_rules_and_panels_speak_of_metrics_that_exist(self):
        known = set(Table().rows)
        known |= {f"{name}_{part}" for name, (kind, _) in Table().rows.items() if kind == "histogram" for part in ("bucket", "sum", "count")}
        for file in (ALERTS, ALERTS_TEST, DASHBOARD):
            used = set(re.findall(r"\b((?:devmem_loader|process)_[a-z_]+)", file.read_text()))
            self.assertEqual(used - known, set(), file.name)
        shown = DASHBOARD.read_text()
        self.assertEqual({name for name in Table().rows if name not in shown}, set(), "not on the dashboard")


class PageTest(MetricsCase):
    def test_the_table_is_the_page(self):
        """docs/metrics.md and a scrape, both ways: names, types and labels."""
        daemon, address = self.measured()
        bucket = self.raw_bucket()
        with trainer.Trainer(daemon.path) as reader:
            stream = reader.open(**self.spec(bucket))
            next(stream.batches(release=False))
            page = self.scrape(address)
        table = Table().rows
        self.assertEqual({name: kind for name, (kind, _) in table.items()}, families(page))
        found = samples(page)
        for name, (kind, labels) in table.items():
            series = found.get(f"{name}_count" if kind == "histogram" else name, {})
            for pairs in series:
                self.assertEqual({label for label, _ in pairs}, labels, name)
        self.assertNotIn(str(bucket), page)
        self.assertNotIn("bucket=", page.replace("_bucket{", ""))

    def test_counts_are_true(self):
        daemon, address = self.measured()
        bucket = self.raw_bucket()
        web = self.nginx(bucket)
        run = self.loader("--bucket", web.url, *RAW, "--batch-size", "8", "--epochs", "2", service=daemon.socket)
        self.assertEqual(run.status, 0, run.text)

        def ended():
            page = self.scrape(address)
            return page if value(page, "devmem_loader_streams_ended_total", reason="completed") == 1 else None
        page = wait_for(ended, 30 * SLOW, "the stream's end is counted")
        expected = {"batches_total": 64, "samples_total": 512, "delivered_bytes_total": 512 * harness.SAMPLE}
        for name, number in expected.items():
            self.assertEqual(value(page, f"devmem_loader_{name}", path="copy", format="raw"), number, name)
            self.assertEqual(value(page, f"devmem_loader_{name}"), number, name)
        self.assertGreaterEqual(value(page, "devmem_loader_received_bytes_total", path="copy", store="http"), 512 * harness.SAMPLE)
        requests = value(page, "devmem_loader_requests_total", store="http")
        self.assertGreater(requests, 0)
        self.assertEqual(value(page, "devmem_loader_range_seconds_count", store="http"), requests)
        self.assertEqual(value(page, "devmem_loader_first_byte_seconds_count", store="http"), requests)
        self.assertEqual(value(page, "devmem_loader_batch_seconds_count"), 64)
        self.assertEqual(value(page, "devmem_loader_retries_total"), 0)
        self.assertEqual(value(page, "devmem_loader_streams_opened_total"), 1)
        self.assertEqual(value(page, "devmem_loader_credits_held"), 0, "what was delivered came back")
        wait_for(lambda: value(self.scrape(address), "devmem_loader_slab_bytes") == 0, 30 * SLOW, "its slab is back")

    def test_refusals_and_faults_are_counted(self):
        daemon, address = self.measured("--transport", "copy", "--memory-limit", "2M")
        bucket = self.raw_bucket(shards=1)
        server = self.server(bucket)
        shard = next(path.name for path in bucket.iterdir() if path.suffix in (".bin", ".raw"))
        server.fault(f"/{shard}", Status(503), times=2)
        run = self.loader("--bucket", server.url, *RAW, "--prefetch", "1M", service=daemon.socket)
        self.assertEqual(run.status, 0, run.text)
        server.fault(f"/{shard}", Status(403))
        run = self.loader("--bucket", server.url, *RAW, "--prefetch", "1M", service=daemon.socket)
        self.assertEqual(run.status, 1, run.text)
        run = self.loader("--bucket", server.url, *RAW, "--prefetch", "1M", "--require-zero-copy", service=daemon.socket)
        self.assertEqual(run.status, 3, run.text)
        run = self.loader("--bucket", server.url, *RAW, "--prefetch", "100M", "--batch-size", "200", service=daemon.socket)
        self.assertEqual(run.status, 1, run.text)
        page = self.scrape(address)
        self.assertEqual(value(page, "devmem_loader_retries_total", store="http", code="http_503"), 2)
        self.assertEqual(value(page, "devmem_loader_retries_total"), 2)
        self.assertGreaterEqual(value(page, "devmem_loader_range_errors_total", store="http", code="permission_denied"), 1)
        self.assertEqual(value(page, "devmem_loader_streams_ended_total", reason="permission_denied"), 1)
        self.assertEqual(value(page, "devmem_loader_streams_refused_total", reason="no_zero_copy"), 1)
        self.assertEqual(value(page, "devmem_loader_streams_refused_total", reason="resource_exhausted"), 1)

    def test_series_are_bounded(self):
        """However many streams: so many have series, the first ones, and they go with their streams."""
        daemon, address = self.measured("--metrics-streams", "3")
        bucket = self.raw_bucket()
        before = self.scrape(address)

        def named(page):
            return sorted(dict(pairs)["stream"] for pairs in samples(page).get("devmem_loader_stream_info", {}))
        trainers = [trainer.Trainer(daemon.path) for _ in range(8)]
        for each in trainers:
            self.addCleanup(each.close)
        streams = [each.open(**self.spec(bucket)) for each in trainers]
        ids = [stream.opened.stream_id for stream in streams]
        wait_for(lambda: named(self.scrape(address)) == sorted(ids[:3]), 30 * SLOW, "the first ones have series")
        page = self.scrape(address)
        self.assertEqual(value(page, "devmem_loader_streams"), 8)
        self.assertEqual(value(page, "devmem_loader_streams_without_series"), 5)
        labels = {dict(pairs)["stream"] for series in samples(page).values() for pairs in series if "stream" in dict(pairs)}
        self.assertEqual(labels, set(ids[:3]))
        trainers[0].close()
        wait_for(lambda: named(self.scrape(address)) == sorted(ids[1:4]), 30 * SLOW, "the next one has the place")
        for each in trainers[1:]:
            each.close()
        wait_for(lambda: named(self.scrape(address)) == [], 30 * SLOW, "they are gone")

        def series(text):
            return {(name, pairs) for name, found in samples(text).items() for pairs in found}
        after = self.scrape(address)
        self.assertEqual(series(after) - series(before), set(), "nothing stays of them")
        self.assertLess(len(series(after)), 420)


    def test_many_ask_at_once(self):
        """Each is answered, and who asks for the status by gRPC does not wait behind them."""
        daemon, address = self.measured()
        found, over = [], threading.Event()

        def ask():
            while not over.is_set():
                found.append(get(address, "/metrics"))
        askers = [threading.Thread(target=ask) for _ in range(16)]
        for each in askers:
            each.start()
        try:
            with trainer.Trainer(daemon.path) as observer:
                for _ in range(20):
                    self.assertEqual(observer.status(timeout=10 * SLOW).pid, daemon.pid)
            wait_for(lambda: len(found) > 200, 60 * SLOW, "200 answers")
        finally:
            over.set()
            for each in askers:
                each.join()
        self.assertEqual({status for status, _ in found}, {200})
        self.assertEqual(sum("process_start_time_seconds " not in page for _, page in found), 0, "whole pages")


class HealthTest(MetricsCase):
    def test_says_that_it_drains(self):
        daemon, address = self.measured("--drain-timeout", "60")
        bucket = self.raw_bucket()
        self.assertEqual(get(address, "/healthz"), (200, "serving\n"))
        self.assertEqual(value(self.scrape(address), "devmem_loader_serving"), 1)
        with trainer.Trainer(daemon.path) as held:
            stream = held.open(**self.spec(bucket))
            next(stream.batches(release=False))
            daemon.kill(signal.SIGTERM)
            wait_for(lambda: get(address, "/healthz") == (503, "draining\n"), 30 * SLOW, "it says so")
            page = self.scrape(address)
            self.assertEqual(value(page, "devmem_loader_serving"), 0)
            self.assertEqual(value(page, "devmem_loader_streams"), 1)
            self.assertGreaterEqual(value(page, "devmem_loader_credits_held"), 1)
            self.assertLessEqual(value(page, "devmem_loader_credits_held"), value(page, "devmem_loader_credits"))
        self.assertEqual(daemon.process.wait(30 * SLOW), 0)

    def test_everything_else_is_refused(self):
        _, address = self.measured()
        for path in ("/", "/metrics/", "/healthz/x", "/debug/pprof", "/../etc/passwd"):
            self.assertEqual(get(address, path)[0], 404, path)
        for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            self.assertEqual(get(address, "/metrics", method=method)[0], 405, method)

    def test_nothing_listens_unasked(self):
        daemon = self.daemon()
        self.assertEqual(self.listens(daemon), set())
        daemon, _ = self.measured()
        self.assertEqual(len(self.listens(daemon)), 1, "this test would see it")

    def listens(self, daemon):
        """Inodes of the TCP sockets that a daemon listens on."""
        listening = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            with open(table, encoding="ascii") as file:
                rows = [line.split() for line in file.readlines()[1:]]
            listening |= {row[9] for row in rows if row[3] == "0A"}
        held = set()
        for fd in os.listdir(f"/proc/{daemon.pid}/fd"):
            try:
                held.add(os.readlink(f"/proc/{daemon.pid}/fd/{fd}"))
            except FileNotFoundError:
                pass  # closed meanwhile
        return {inode for inode in listening if f"socket:[{inode}]" in held}

    def test_unix_socket(self):
        path = str(self.work / "metrics.sock")
        daemon = self.daemon("--metrics-listen", f"unix:{path}", "--socket-mode", "0600")
        self.serving(path)
        self.assertIn("devmem_loader_build_info", get(path, "/metrics")[1])
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        new = self.daemon("--take-over", "--metrics-listen", f"unix:{path}", path=daemon.path, ready=False)
        self.assertEqual(daemon.process.wait(30 * SLOW), 0, daemon.stderr())
        wait_for(lambda: "metrics and health on" in new.stderr(), 30 * SLOW, "the new one listens")
        self.assertEqual(get(path, "/healthz"), (200, "serving\n"))
        new.kill(signal.SIGTERM)
        self.assertEqual(new.process.wait(30 * SLOW), 0, new.stderr())
        self.assertFalse(os.path.exists(path), "the last one removes it")

    def test_an_address_that_is_taken(self):
        _, address = self.measured()
        run = self.daemon("--metrics-listen", address, ready=False).wait(30 * SLOW)
        self.assertEqual(run.status, 1, run.text)
        self.assertIn("another process listens there", run.text)
        self.assertIn(address, run.text)

    def test_a_bad_address(self):
        for bad in ("localhost:9464", "9464", "127.0.0.1:99999", "unix:"):
            run = self.daemon("--metrics-listen", bad, ready=False).wait(30 * SLOW)
            self.assertEqual(run.status, 2, run.text)
            self.assertIn("--metrics-listen", run.text)

    def test_goes_on_across_a_hand_over(self):
        """Who asks finds the old one or the new one, and never nobody."""
        address = f"127.0.0.1:{harness.free_port()}"
        old = self.daemon("--metrics-listen", address)
        self.serving(address)
        before = value(self.scrape(address), "process_start_time_seconds")
        answers, refused, over = [], [], threading.Event()

        def ask():
            while not over.is_set():
                try:
                    answers.append(get(address, "/healthz"))
                except ConnectionRefusedError:
                    refused.append(time.monotonic())
                except (ConnectionResetError, BrokenPipeError):
                    pass  # it was let in by the old one in its last moment; whoever asks again is answered
        asker = threading.Thread(target=ask)
        asker.start()
        try:
            new = self.daemon("--take-over", "--metrics-listen", address, path=old.path, ready=False)
            self.assertEqual(old.process.wait(30 * SLOW), 0, old.stderr())
            wait_for(lambda: "metrics and health on" in new.stderr(), 30 * SLOW, "the new one listens")
            seen = len(answers)
            wait_for(lambda: len(answers) > seen + 20, 30 * SLOW, "it answers")
        finally:
            over.set()
            asker.join()
        self.assertEqual(refused, [])
        self.assertEqual({status for status, _ in answers if status != 200} - {503}, set())
        self.assertEqual({text for status, text in answers if status == 503} - {"handing over to a successor\n"}, set())
        self.assertEqual(answers[-1], (200, "serving\n"))
        self.assertGreater(value(self.scrape(address), "process_start_time_seconds"), before)


class LogTest(MetricsCase):
    def test_json(self):
        """From a stream's id to what became of each of its ranges."""
        daemon = self.daemon("--log-format", "json", *harness.QUICK)
        bucket = self.raw_bucket(shards=1)
        server = self.server(bucket)
        shard = next(path.name for path in bucket.iterdir() if path.suffix in (".bin", ".raw"))
        server.fault(f"/{shard}", Status(503), times=1)
        run = self.loader("--bucket", server.url, *RAW, service=daemon.socket)
        self.assertEqual(run.status, 0, run.text)
        server.fault(f"/{shard}", Status(403))
        self.assertEqual(self.loader("--bucket", server.url, *RAW, service=daemon.socket).status, 1)
        self.assertEqual(self.loader("--bucket", server.url + "nothing/", *RAW, service=daemon.socket).status, 1)
        daemon.kill(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(30 * SLOW), 0)
        lines = [json.loads(line) for line in daemon.stderr().splitlines()]
        for line in lines:
            self.assertRegex(line["ts"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertIn(line["level"], ("debug", "info", "warning", "error"))
            self.assertTrue(line["message"])
        events = {}
        for line in lines:
            events.setdefault(line.get("event"), []).append(line)
        first, second = [line["stream"] for line in events["stream_opened"]]
        (retry,) = events["range_retry"]
        self.assertEqual((retry["stream"], retry["object"], retry["cause"], retry["retries"]), (first, shard, "HTTP 503", 1))
        self.assertIsInstance(retry["range"], int)
        self.assertGreater(retry["wait_seconds"], 0)
        failed = events["range_failed"][0]
        self.assertEqual((failed["stream"], failed["object"]), (second, shard))
        self.assertEqual([line["reason"] for line in events["stream_failed"]], ["permission_denied"])
        self.assertEqual([line["reason"] for line in events["stream_refused"]], ["not_found"])
        self.assertEqual({line["stream"] for line in events["stream_closed"]}, {first, second})
        self.assertEqual({name for name in events if name} - set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.M)), set(),
                         "events that docs/metrics.md does not name")

    def test_a_store_that_is_down_does_not_flood_the_log(self):
        daemon, address = self.measured("--connect-timeout", "2", "--first-byte-timeout", "2", "--read-timeout", "20", "--max-retries", "2")
        bucket = self.raw_bucket(samples=1024, shards=64)
        server = self.server(bucket)
        server.fault("*.bin", Status(503))
        run = self.loader("--bucket", server.url, *RAW, "--batch-size", "1", service=daemon.socket)
        self.assertEqual(run.status, 1, run.text)
        said = daemon.stderr().count("is asked for again in")
        counted = value(self.scrape(address), "devmem_loader_retries_total", code="http_503")
        self.assertGreater(counted, said)
        self.assertLessEqual(said, 20 * 4, "20 in 10 s")


if __name__ == "__main__":
    import unittest
    unittest.main()
