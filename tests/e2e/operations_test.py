# SPDX-License-Identifier: Apache-2.0
"""What docs/operations.md reckons for slabs is what a stream reserves. (Its table of landing pools is net/rx/landing_pool_test.cc's; its
names and errors are tests/lint/names.py's.)"""
import json
import pathlib
import re
import subprocess

import harness

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs/operations.md"
ROW = re.compile(r"^\| (\d+) \| (\d+) \+ (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", re.M)


class OperationsTest(harness.TestCase):
    def test_slabs_are_as_reckoned(self):
        rows = [tuple(map(int, row)) for row in ROW.findall(DOCS.read_text(encoding="utf-8"))]
        self.assertGreaterEqual(len(rows), 3, "the table of slabs")
        for number, (batch, first, second, prefetch, slots, slabs) in enumerate(rows):
            with self.subTest(batch=batch):
                bucket = self.work / f"bucket-{number}"
                bucket.mkdir()
                for name, size in (("first", first), ("second", second)):
                    with open(bucket / f"a.{name}", "wb") as file:
                        file.truncate(size * batch * (slots + 1))  # holes: nothing is read
                done = subprocess.run([harness.BIN / "devmem-loader", "--bucket", f"file://{bucket}", "--format", "raw",
                                       "--tensor", "first=*.first", "--tensor", "second=*.second", "--dtype", "uint8",
                                       "--shape", f"first={first}", "--shape", f"second={second}", "--batch-size", str(batch),
                                       "--prefetch", f"{prefetch}MiB", "--transport", "copy", "--dry-run", "--output", "json"],
                                      capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 0, done.stderr)
                opened = json.loads(done.stdout.splitlines()[-1])
                self.assertEqual((opened["slots"], opened["slab_bytes"]), (slots, slabs))
