# SPDX-License-Identifier: Apache-2.0
"""Data sets for the guest, made without numpy: npy pairs, safetensors and raw shards, and what each of their rows hashes to.

    rows = dataset.npy(folder, samples=64)          # {(object, offset, bytes): sha256}
    faults = dataset.faults(rows, [digest files of devmem-loader --digest])     # [] when each row came once, byte for byte

The rows are told while the files are written: nothing here reads a format, so a loader's reading is checked against something else.
"""
import collections
import hashlib
import json
import pathlib
import random
import struct


def _blob(seed, size):
    return random.Random(seed).randbytes(size)


def _lengths(samples, shards):
    """How many samples each shard holds: all different where there is room, so that no arithmetic works by luck."""
    lengths = [samples // shards] * shards
    for k in range(shards // 2):
        step = min(k + 1, lengths[k] - 1)
        lengths[k] -= step
        lengths[shards - 1 - k] += step
    lengths[-1] += samples - sum(lengths)
    return lengths


def _rows(name, start, data, row):
    return {(name, start + at, row): hashlib.sha256(data[at:at + row]).hexdigest() for at in range(0, len(data), row)}


def _npy_file(folder, name, dtype, shape, data):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"  # the data begins at a multiple of 64
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    path = pathlib.Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + data)
    return _rows(name, len(head), data, len(data) // shape[0])


def npy(folder, samples, shape=(64, 64, 3), shards=4, seed=1):
    """images/NNNN.npy (uint8) and labels/NNNN.npy (int64)."""
    rows, size = {}, 1
    for extent in shape:
        size *= extent
    for k, count in enumerate(_lengths(samples, shards)):
        rows |= _npy_file(folder, f"images/{k:04d}.npy", "|u1", (count, *shape), _blob(f"{seed}/{k}", count * size))
        rows |= _npy_file(folder, f"labels/{k:04d}.npy", "<i8", (count,), b"".join(struct.pack("<q", (i * 7919 + k) % 1000) for i in range(count)))
    return rows


def safetensors(folder, samples, width=1024, shards=3, seed=2):
    """tokens-NNNN.safetensors: "tokens" (int32 [n, width]) and "weight" (float32 [n])."""
    rows = {}
    for k, count in enumerate(_lengths(samples, shards)):
        tokens = _blob(f"{seed}/{k}", count * width * 4)
        weight = b"".join(struct.pack("<f", k + i / count) for i in range(count))
        header = json.dumps({"tokens": {"dtype": "I32", "shape": [count, width], "data_offsets": [0, len(tokens)]},
                             "weight": {"dtype": "F32", "shape": [count], "data_offsets": [len(tokens), len(tokens) + len(weight)]}}).encode()
        header += b" " * (-len(header) % 8)
        name = f"tokens-{k:04d}.safetensors"
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        (pathlib.Path(folder) / name).write_bytes(struct.pack("<Q", len(header)) + header + tokens + weight)
        start = 8 + len(header)
        rows |= _rows(name, start, tokens, width * 4) | _rows(name, start + len(tokens), weight, 4)
    return rows


def raw(folder, samples, sample_bytes=16384, shards=4, seed=3):
    """NNNN.bin: samples back to back."""
    rows = {}
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for k, count in enumerate(_lengths(samples, shards)):
        data = _blob(f"{seed}/{k}", count * sample_bytes)
        (pathlib.Path(folder) / f"{k:04d}.bin").write_bytes(data)
        rows |= _rows(f"{k:04d}.bin", 0, data, sample_bytes)
    return rows


def size(rows):
    """Bytes of all rows."""
    return sum(length for _, _, length in rows)


def delivered(digests):
    """What --digest wrote to these files, a row of one tensor at a time."""
    for path in digests:
        for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
            line = json.loads(line)
            for tensor in line.get("tensors", [{}]):
                yield {**line, **tensor}


def faults(rows, digests, epochs=1):
    """What is wrong with what was delivered, in words; every row must have come once an epoch."""
    seen, wrong = collections.Counter(), []
    for line in delivered(digests):
        key = (line["object"], line["offset"], line["bytes"])
        seen[(line["epoch"], *key)] += 1
        if rows.get(key) != line["sha256"]:
            wrong.append(f"{key}: not the bytes of the file")
    for epoch in range(epochs):
        wrong += [f"epoch {epoch}: {key} never came" for key in rows if (epoch, *key) not in seen]
    return wrong + [f"{key} came {count} times" for key, count in seen.items() if count != 1]
