#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes deterministic data sets for the demo, the tests and the benchmarks, and says where each sample lies.

    make_dataset.py npy|safetensors|raw FOLDER [--bytes 600M] [--seed 1]

  npy          images/NNNN.npy (uint8 [n,H,W,C]) and labels/NNNN.npy (int64 [n]): pairs of shards of differing lengths
  safetensors  tokens-NNNN.safetensors: "tokens" (int32 [n,4096]) and "weight" (float32 [n])
  raw          NNNN.bin: fixed-size samples back to back

A manifest.json beside the set (FOLDER.manifest.json, so that it is not part of the bucket) holds the recipe: a set
whose manifest matches is left as it is. `samples_of` reads the files themselves, by code that shares nothing with
the loader: it is what the loader is checked against.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shutil
import struct

import numpy

RECIPE = 1  # counts up when the bytes change


def _bytes(seed, *shape):
    count = int(numpy.prod(shape))
    words = numpy.random.Generator(numpy.random.SFC64(seed)).integers(0, 2**64, size=(count + 7) // 8, dtype=numpy.uint64)
    return words.view(numpy.uint8)[:count].reshape(shape)


def _lengths(total, shards, seed):
    """`shards` numbers near total/shards, all different sizes where there is room, that add up to total."""
    rng = numpy.random.Generator(numpy.random.SFC64(seed))
    weights = rng.uniform(0.5, 1.5, size=shards)
    lengths = numpy.maximum(1, (weights / weights.sum() * total).astype(int))
    lengths[-1] = max(1, lengths[-1] + total - lengths.sum())
    return [int(n) for n in lengths]


def make_npy(folder, total, seed, shape=(224, 224, 3), shards=16):
    folder = pathlib.Path(folder)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    lengths = _lengths(max(shards, total // int(numpy.prod(shape))), shards, seed)
    for k, n in enumerate(lengths):
        numpy.save(folder / "images" / f"{k:04d}.npy", _bytes(seed * 1000 + k, n, *shape))
        numpy.save(folder / "labels" / f"{k:04d}.npy", (numpy.arange(n, dtype=numpy.int64) * 7919 + k) % 1000)
    return sum(lengths)


def write_safetensors(path, tensors):
    """tensors: {name: array}. The format by hand: 8 bytes of length, JSON, data."""
    names = {"int32": "I32", "float32": "F32", "uint8": "U8", "int64": "I64", "float16": "F16", "float64": "F64", "bool": "BOOL"}
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": names[str(array.dtype)], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(numpy.ascontiguousarray(array).data)


def make_safetensors(folder, total, seed, width=4096, shards=8):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    lengths = _lengths(max(shards, total // (4 * width + 4)), shards, seed)
    for k, n in enumerate(lengths):
        tokens = _bytes(seed * 1000 + k, n, 4 * width).view(numpy.int32)
        weight = numpy.linspace(0, 1, n, dtype=numpy.float32) + k
        write_safetensors(folder / f"tokens-{k:04d}.safetensors", {"tokens": tokens, "weight": weight})
    return sum(lengths)


def make_raw(folder, total, seed, sample_bytes=65536, shards=4, even=False):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    samples = max(shards, total // sample_bytes)
    lengths = [samples // shards] * shards if even else _lengths(samples, shards, seed)
    for k, n in enumerate(lengths):
        with open(folder / f"{k:04d}.bin", "wb") as file:
            left, part = n * sample_bytes, 0
            while left:
                piece = min(left, 64 << 20)
                file.write(_bytes((seed * 1000 + k) * 1000 + part, piece).data)
                left, part = left - piece, part + 1
    return sum(lengths)


def _npy_rows(path):
    with open(path, "rb") as file:
        version = numpy.lib.format.read_magic(file)
        read = {(1, 0): numpy.lib.format.read_array_header_1_0, (2, 0): numpy.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(file)
        row = dtype.itemsize * int(numpy.prod(shape[1:], dtype=numpy.int64))
        return [(file.tell() + i * row, row) for i in range(shape[0])]


def _safetensors_rows(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    rows = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        n = entry["shape"][0]
        rows[name] = [(8 + length + begin + i * ((end - begin) // n), (end - begin) // n) for i in range(n)]
    return rows


def _hash_rows(path, name, rows):
    found = {}
    with open(path, "rb") as file:
        for offset, size in rows:
            file.seek(offset)
            found[(name, offset, size)] = hashlib.sha256(file.read(size)).hexdigest()
    return found


def samples_of(folder, sample_bytes=None):
    """{(object, offset, bytes): sha256} of every sample's row of every tensor, from the files, on all cores."""
    folder = pathlib.Path(folder)
    work = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name = str(path.relative_to(folder))
        if name.endswith(".npy"):
            work.append((path, name, _npy_rows(path)))
        elif name.endswith(".safetensors"):
            work.append((path, name, [row for rows in _safetensors_rows(path).values() for row in rows]))
        elif sample_bytes:
            work.append((path, name, [(i * sample_bytes, sample_bytes) for i in range(path.stat().st_size // sample_bytes)]))
    found = {}
    if sum(path.stat().st_size for path, _, _ in work) < 32 << 20:
        for item in work:
            found.update(_hash_rows(*item))
        return found
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        for part in pool.map(_hash_rows, *zip(*work)):
            found.update(part)
    return found


def digest_rows(path):
    """What --digest wrote, a row of one tensor at a time: {epoch, sample, object, offset, bytes, sha256}."""
    with open(path, encoding="utf-8") as file:
        for line in map(json.loads, file):
            for tensor in line.get("tensors", [{}]):
                yield {**line, **tensor}


MAKERS = {"npy": make_npy, "safetensors": make_safetensors, "raw": make_raw}


def ensure(kind, folder, total, seed=1, **options):
    """Makes the set unless it is there already. Returns its manifest: recipe, samples, bytes, files."""
    folder = pathlib.Path(folder)
    manifest_path = folder.with_name(folder.name + ".manifest.json")
    recipe = {"recipe": RECIPE, "kind": kind, "total": total, "seed": seed, **options}
    recipe = json.loads(json.dumps(recipe))
    if manifest_path.exists():
        manifest = json.loads(manifest_path.read_text())
        sizes = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
        if manifest.get("made_by") == recipe and manifest["files"] == sizes:
            return manifest
    shutil.rmtree(folder, ignore_errors=True)
    manifest_path.unlink(missing_ok=True)
    samples = MAKERS[kind](folder, total, seed, **options)
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    manifest = {"made_by": recipe, "samples": samples, "bytes": sum(sizes.values()), "files": sizes}
    manifest_path.write_text(json.dumps(manifest, indent=1))
    return manifest


def size(text):
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1].upper()] if text[-1].upper() in units else int(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(MAKERS))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--bytes", type=size, default=size("600M"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    made = ensure(args.kind, args.folder, args.bytes, args.seed)
    print(json.dumps({key: made[key] for key in ("samples", "bytes")}))
