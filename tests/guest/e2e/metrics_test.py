# SPDX-License-Identifier: Apache-2.0
"""The metrics that only a node with NICs has (docs/metrics.md), beside what the status, the NIC and the kernel say. The others are
read by a real Prometheus in tests/e2e/metrics_test.py."""
import http.client
import re

from guest import dataset, ethtool, knobs, shell

from stand import RAW, UNHURRIED, Endless, Stand, rules

ADDRESS = "127.0.0.1:9464"


def get(path):
    """(status, body)"""
    connection = http.client.HTTPConnection(ADDRESS, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Page:
    """A scrape."""

    def __init__(self, test):
        status, self.text = get("/metrics")
        test.assertEqual(200, status, self.text)
        self.series = re.findall(r'^([a-z_]+)(?:\{(.*)\})? (\S+)$', self.text, re.M)

    def value(self, name, **labels):
        """The sum of what has these labels; None if nothing has."""
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        found = [float(value) for at, has, value in self.series if at == f"devmem_loader_{name}" and wanted <= set(re.findall(r'[a-z_]+="[^"]*"', has))]
        return sum(found) if found else None


class Metrics(Stand):
    deadline = 240

    def serving(self):
        def up():
            try:
                return get("/healthz") == (200, "serving\n")
            except OSError:
                return False
        shell.until(up, "the daemon serves", 30)

    def test_of_a_nic(self):
        rows = dataset.raw(self.bucket, samples=512)
        server, daemon = self.serve(), self.daemon("--metrics-listen", ADDRESS)
        self.serving()
        summaries, digests = self.trainers(daemon, server.url, *RAW)
        self.assert_delivered(rows, digests)
        page, told = Page(self), self.devmem(daemon)
        (nic,), counters = told["nics"], told["counters"]
        received = sum(summary["bytes_received"] for summary in summaries)
        expected = {
            ("path_info", "path", "devmem"): 1, ("received_bytes_total", "path", "devmem"): received, ("received_bytes_total", "path", "copy"): 0,
            ("batches_total", "path", "devmem"): 64, ("batches_total", "path", "copy"): 0, ("nic_bound", "driver", "devmemsim"): 1,
            ("nic_queues", "interface", "dms0"): 1, ("nic_rebinds_total", "interface", "dms0"): 0,
            ("nic_allocation_failures_total", "interface", "dms0"): 0, ("nic_detached_pools", "interface", "dms0"): 0,
            ("nic_packets_total", "interface", "dms0"): nic["packets"], ("landing_pool_bytes", "interface", "dms0"): 48 << 20,
            ("landing_pool_posted_bytes", "interface", "dms0"): nic["posted"] * nic["page_size"],
            ("steering_rules", "interface", "dms0"): len(rules(self.here)),
            ("steering_rule_capacity", "interface", "dms0"): nic["rule_capacity"] or None, ("fall_backs_total",): None, ("tokens",): 0,
            ("tokens_refused_total",): 0, ("fragments_total",): counters["fragments"], ("linear_bytes_total",): 0,
            ("head_bytes_total",): counters["head_bytes"], ("receive_calls_total",): counters["receive_calls"],
            ("token_return_calls_total",): counters["return_calls"], ("connections_steered_total",): counters["connections_steered"],
            ("connections_fallen_back_total",): 0,
        }
        found = {key: page.value(key[0], **({key[1]: key[2]} if len(key) > 1 else {})) for key in expected}
        self.assertEqual(expected, found)
        used = page.value("landing_pool_used_bytes", interface="dms0")
        self.assertTrue(0 < used <= 48 << 20, used)
        gathers = page.value("gather_seconds_count")
        self.assertTrue(0 < gathers <= counters["receive_calls"], gathers)
        self.assertGreater(page.value("gather_seconds_sum"), 0)
        daemon.end()
        self.assert_as_found()

    def test_of_what_goes_wrong(self):
        """No rule to be had; then another tool that sets the NIC back until it is given up."""
        rows = dataset.raw(self.bucket, samples=192)
        server, knob = self.serve(extra=UNHURRIED), knobs.ROOT / knobs.HERE / "refuse_rules"
        knob.write_text("1000000")
        daemon = self.daemon("--metrics-listen", ADDRESS)
        self.serving()
        reader = Endless(self, daemon, server.url, rows)
        reader.more()
        page = Page(self)
        self.assertGreater(page.value("connections_fallen_back_total"), 0)
        self.assertGreater(page.value("fall_backs_total"), 0)
        self.assertGreater(page.value("received_bytes_total", path="copy", store="http"), 0)
        self.assertGreater(page.value("batches_total", path="copy"), 0)
        self.assertEqual(0, page.value("steering_rules", interface="dms0"))
        knob.write_text("0")

        def steered():
            reader.more(20)
            return Page(self).value("batches_total", path="devmem") > 0
        shell.until(steered, "connections are steered again", 60)
        ethtool.rss_default(self.here)
        shell.until(lambda: Page(self).value("nic_rebinds_total", interface="dms0") == 1, "it is bound again, and counted", 30)
        ethtool.rss_default(self.here)
        shell.until(lambda: "given up until the next start" in daemon.stderr(), "it is given up", 30)
        page = Page(self)
        self.assertEqual(0, page.value("nic_bound", interface="dms0"), page.text)
        self.assertEqual(1, page.value("nic_rebinds_total", interface="dms0"))
        self.assertEqual((200, "serving\n"), get("/healthz"), "it serves all the same")
        reader.stop()
        daemon.end()
