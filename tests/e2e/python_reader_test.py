# SPDX-License-Identifier: Apache-2.0
"""The Python reader against the real daemon: every row it sees through the mapped slabs is the one numpy sees in the file."""
import sys

import harness
import numpy
import trainer  # makes the protocol's modules importable

sys.path.insert(0, str(harness.ROOT / "client/python"))
import devmem_loader_reader  # noqa: E402  pylint: disable=wrong-import-position

pb = trainer.pb


class PythonReader(harness.TestCase):
    def rows(self, folder):
        return numpy.concatenate([numpy.load(path) for path in sorted(folder.glob("*.npy"))])

    def bucket(self, counts, shape=(5, 7), dtype=numpy.float32):
        folder = self.folder("arrays")
        random = numpy.random.default_rng(4)
        for k, count in enumerate(counts):
            numpy.save(folder / f"{k:04}.npy", random.integers(0, 100, (count, *shape)).astype(dtype))
        return folder

    def read(self, daemon, folder, **spec):
        seen, events = {}, []
        with devmem_loader_reader.Reader(daemon.socket) as reader:
            for batch in reader.stream(pb.StreamSpec(bucket=folder.as_uri(), **spec), lambda event: events.append(event.WhichOneof("event"))):
                (name, array), = batch.tensors.items()
                self.assertEqual(array.shape[0], len(batch.info.sample_ids), name)
                for sample, row in zip(batch.info.sample_ids, array):
                    seen.setdefault(sample, []).append(row.copy())
        self.assertEqual(events[-1], "stream_end")
        return seen

    def test_every_row(self):
        folder = self.bucket([10, 33, 1, 20])
        rows = self.rows(folder)
        seen = self.read(self.daemon(), folder, format=pb.FORMAT_NPY, batch_size=8, tail=pb.TAIL_UNEVEN, epochs=2, seed=3)
        self.assertEqual(sorted(seen), list(range(len(rows))))
        for sample, copies in seen.items():
            self.assertEqual(len(copies), 2)
            for copy in copies:
                self.assertEqual(copy.dtype, rows.dtype)
                numpy.testing.assert_array_equal(copy, rows[sample])

    def test_dtypes(self):
        daemon = self.daemon()
        for dtype in ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"):
            with self.subTest(dtype):
                folder = self.bucket([6], shape=(3,), dtype=numpy.dtype(dtype))
                seen = self.read(daemon, folder, batch_size=4, tail=pb.TAIL_UNEVEN)
                numpy.testing.assert_array_equal(numpy.stack([seen[k][0] for k in range(6)]), self.rows(folder))
                self.assertEqual(seen[0][0].dtype, numpy.dtype(dtype))

    def test_two_streams_of_one_reader(self):
        folder = self.bucket([40])
        rows = self.rows(folder)
        with devmem_loader_reader.Reader(self.daemon().socket) as reader:
            for _ in range(2):
                count = 0
                for batch in reader.stream(pb.StreamSpec(bucket=folder.as_uri(), batch_size=5, prefetch_bytes=1 << 16)):
                    numpy.testing.assert_array_equal(batch.tensors["data"], rows[list(batch.info.sample_ids)])
                    count += 1
                self.assertEqual(count, 8)
