# SPDX-License-Identifier: Apache-2.0
"""A bucket of a million objects and a billion samples, as its index describes it; nothing of it needs to exist to be planned."""
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import unittest

import harness
import trainer  # noqa: F401  puts the generated modules on the path

sys.path.insert(0, str(harness.BIN.parent / "proto"))
from devmem_loader.v1 import index_pb2  # noqa: E402  pylint: disable=wrong-import-position

OBJECTS, ROWS, ROW_BYTES = 10**6, 1000, 4096
HEADER = 128


def write_index(folder):
    index = index_pb2.DatasetIndex(version=1, format=trainer.pb.FORMAT_NPY)
    names = [b"train/%07d.npy" % k for k in range(OBJECTS)]
    index.names = b"".join(names)
    index.name_lengths.extend(map(len, names))
    index.sizes.extend([HEADER + ROWS * ROW_BYTES] * OBJECTS)
    validators = [b'"%07x-%x"' % (k, HEADER + ROWS * ROW_BYTES) for k in range(OBJECTS)]
    index.validators = b"".join(validators)
    index.validator_lengths.extend(map(len, validators))
    index.columns.add(name="data", dtype=trainer.pb.DTYPE_UINT8, shape=[ROW_BYTES], glob="*.npy", objects=range(OBJECTS),
                      data_offsets=[HEADER] * OBJECTS, counts=[ROWS] * OBJECTS)
    content = index.SerializeToString()
    # The checksum is the last field: number 9, fixed64.
    (folder / ".devmem-index").write_bytes(content + b"\x49" + hashlib.sha256(content).digest()[:8])


class ScaleTest(harness.TestCase):
    def test_a_million_objects_open_from_their_index(self):
        # In a process of its own: what a child's parent holds when it forks counts in the child's peak.
        writer = multiprocessing.get_context("fork").Process(target=write_index, args=(self.folder(),))
        writer.start()
        writer.join(300)
        self.assertEqual(writer.exitcode, 0)
        slabs = 16 << 20
        with open(self.work / "out", "w+b") as out:
            loader = subprocess.Popen([harness.BIN / "devmem-loader", "--bucket", f"file://{self.folder()}", "--format", "npy", "--batch-size", "32",
                                       "--prefetch", str(slabs), "--dry-run", "--output", "json"], stdout=out, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(loader.pid, 0)
            loader.returncode = os.waitstatus_to_exitcode(status)
            self.assertEqual(loader.returncode, 0)
            out.seek(0)
            answer = out.read().decode()
        plan = json.loads(answer.splitlines()[-1])
        self.assertEqual((plan["samples"], plan["steps_per_epoch"]), (OBJECTS * ROWS, OBJECTS * ROWS // 32))
        peak = usage.ru_maxrss * 1024 - slabs
        print(f"peak memory beside the slabs: {peak / 1e6:.0f} MB", file=sys.stderr)
        if not os.environ.get("DEVMEM_SANITIZE"):
            self.assertLess(peak, 200e6)


if __name__ == "__main__":
    unittest.main()
