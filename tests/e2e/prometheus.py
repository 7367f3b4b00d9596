# SPDX-License-Identifier: Apache-2.0
"""Debian's Prometheus with a folder and a port of its own, that scrapes one daemon every second.

    scraper = Prometheus(folder, "127.0.0.1:9464")
    scraper.numbers("sum(devmem_loader_streams)")       # [2.0]
    scraper.close()
"""
import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request

import harness

PROGRAM = shutil.which("prometheus")  # None: it is not installed


class Prometheus:
    def __init__(self, work, target, rules=None):
        folder = work / "prometheus"
        folder.mkdir()
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\n" + (f"rule_files: ['{rules}']\n" if rules else "") +
            "scrape_configs:\n- job_name: devmem-loader\n  static_configs: [{targets: ['" + target + "']}]\n")
        self.port = harness.free_port()
        self.program = harness.Program(
            [PROGRAM, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"], work, "prometheus")

    def close(self):
        self.program.close()

    def ask(self, path, **query):
        """The data of its answer; None while it does not answer yet. An AssertionError if it does not understand."""
        assert self.program.process.poll() is None, self.program.stderr()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it is starting
                return None
            raise AssertionError(f"{query}: {error.read().decode()}") from error
        except (urllib.error.URLError, ConnectionError):
            return None

    def numbers(self, query):
        """What a query gives now, without what is no number."""
        data = self.ask("query", query=query)
        found = [float(each["value"][1]) for each in data["result"]] if data else []
        return [number for number in found if number == number]


def queries(dashboard, instance=".*", interval="20s"):
    """(panel, query) of a Grafana dashboard, its variables put in."""
    found = []
    for panel in json.loads(dashboard.read_text())["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$instance", instance).replace("$__rate_interval", interval)
            assert not re.search(r"\$[a-z_]", query), f"a variable that nobody knows: {query}"
            found.append((panel["title"], query))
    return found
