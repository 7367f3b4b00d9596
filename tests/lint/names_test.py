#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""names.py finds what it is for: mistakes planted in the documents, one at a time, each found and named; and nothing where there is none."""
import sys
import unittest

import check
import names

PLANTED = [  # document, what is written into it, what is said of it
    ("README.md", "`devmem_loader_batchs_total`", "names the metric devmem_loader_batchs_total"),
    ("deploy/prometheus/alerts.yaml", "# devmem_loader_range_seconds_max", "names the metric devmem_loader_range_seconds_max"),
    ("deploy/grafana/devmem-loader.json", "devmem_loader_nothing_total", "names the metric devmem_loader_nothing_total"),
    ("docs/devmem.md", "`DEVMEM_MEMROY_LIMIT`", "names the variable DEVMEM_MEMROY_LIMIT"),
    ("docs/configuration.md", "```yaml\nmemroy_limit: 64GiB\n```", "names the setting memroy_limit"),
    ("docs/operations.md", "`landing_pol: 64GiB`", "names the setting landing_pol"),
    ("deploy/systemd/config.yaml", "# interfaces: eth1", "has the setting interfaces"),
    ("docs/install.md", "`systemctl restart devmem-loaderd`", "names the unit devmem-loaderd"),
    ("docs/install.md", "`LimitNPROC=`", "names LimitNPROC="),
    ("docs/install.md", "`/usr/lib/devmem-loader/plugins`", "names /usr/lib/devmem-loader/plugins"),
    ("docs/install.md", "`/run/devmem-loader/loader.socket`", "names /run/devmem-loader/loader.socket"),
    ("docs/install.md", "`deploy/ansible`", "names deploy/ansible, which is no folder"),
    ("docs/faults.md", "`input_test.InputTest.test_nothing_at_all`", "names the test input_test.InputTest.test_nothing_at_all"),
    ("docs/metrics.md", "DevmemLoaderSleeps", "names the alert DevmemLoaderSleeps"),
    ("docs/doctor.md", "[there](operations.md#capacities)", "links to #capacities of docs/operations.md"),
    ("docs/operations.md", "| you see | it means |\n| --- | --- |\n| `the daemon is out of … lemonade` | |", "says that a program says 'lemonade'"),
]


class NamesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tree = {name: check.text(name) for name in check.tree() if not name.endswith((".png", ".svg"))}

    def test_each_planted_mistake_is_found(self):
        for name, planted, said in PLANTED:
            with self.subTest(planted=planted):
                kind = {"metric": names.metrics, "variable": names.environment, "setting": names.keys, "unit": names.units, "test": names.tests,
                        "alert": names.alerts, "links": names.anchors}
                checks = [kind[word] for word in said.split() if word in kind] or [names.units, names.paths, names.words]
                found = [f"{where}: {what}" for each in checks for where, what in each({**self.tree, name: f"{self.tree[name]}\n{planted}\n"})]
                self.assertEqual(len(found), 1, found)
                self.assertIn(f"{name}: {said}", found[0])


if __name__ == "__main__":
    sys.exit(unittest.main())
