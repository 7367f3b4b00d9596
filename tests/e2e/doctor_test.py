# SPDX-License-Identifier: Apache-2.0
"""devmem-loader doctor on whatever machine this is; with NICs and every fault provoked: tests/guest/e2e/doctor_test.py."""
import pathlib
import re

import harness

ROOT = pathlib.Path(__file__).resolve().parents[2]


class DoctorTest(harness.TestCase):
    def rows(self, *flags, **more):
        run = self.verb("doctor", "--output", "json", *flags, **more)
        self.assertIn(run.status, (0, 1), run.text)
        self.assertEqual(["counts", "healthy", "rows"], sorted(run.summary))
        self.assertEqual(run.summary["healthy"], run.status == 0)
        for row in run.summary["rows"]:
            self.assertEqual(["check", "fix", "found", "object", "verdict", "wanted"], sorted(row))
            self.assertNotEqual("", row["found"], row)
            if row["verdict"] in ("WARN", "FAIL"):
                self.assertNotEqual("", row["fix"], row)
                self.assertNotEqual("", row["wanted"], row)
        for verdict, count in run.summary["counts"].items():
            self.assertEqual(count, sum(row["verdict"] == verdict for row in run.summary["rows"]), verdict)
        return {row["check"]: row for row in run.summary["rows"]}

    def test_every_row_has_a_section(self):
        said = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
        documented = set(re.findall(r"^\*\*([a-z0-9-]+)\*\*", said, re.M))
        self.assertEqual(documented, set(self.rows("--interface", "lo")))

    def test_a_bucket_that_is_there(self):
        bucket = self.raw_bucket()
        rows = self.rows("--interface", "lo", "--bucket", self.nginx(bucket).url, "--slow", "60s")
        self.assertEqual(("PASS", "PASS", "WARN"), tuple(rows[check]["verdict"] for check in ("store", "latency", "route")), rows)
        self.assertIn("this host itself", rows["route"]["found"])

    def test_a_canary_that_cannot_be_tried_is_a_fault(self):
        rows = self.rows("--interface", "lo", "--canary", "--bucket", f"file://{self.raw_bucket()}")
        self.assertEqual("FAIL", rows["canary"]["verdict"])
        self.assertEqual("SKIP", rows["put-back"]["verdict"])

    def test_as_a_table(self):
        run = self.verb("doctor", "--interface", "lo")
        self.assertEqual(1, run.status, run.text)
        self.assertRegex(run.stdout, r"(?m)^FAIL  interface +lo +there is no physical device under it")
        self.assertIn("this machine cannot receive into device memory as it is", run.stdout)

    def test_bad_command_lines(self):
        for words, said in ((["--canary"], "--canary needs --bucket"), (["--canry"], "did you mean --canary"),
                            (["--device", "gpu"], "expected cpu or cuda:N"), (["eth0"], "unexpected argument 'eth0'")):
            run = self.verb("doctor", *words)
            self.assertEqual(run.status, 2, run.text)
            self.assertIn(said, run.text)
