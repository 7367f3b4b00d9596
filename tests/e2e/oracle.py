# SPDX-License-Identifier: Apache-2.0
"""An independent model of what devmem-loader promises: made from docs/ and the comments of loader.proto, with no line of the
product. It makes a data set and a specification out of two numbers, and says for each message of each stream what must be in it.

    case = oracle.Case(seed=7, number=12)         # always the same data set and the same streams
    case.write(folder)                            # the bucket
    orders, faults = oracle.learn(case, received)          # of a stream of one rank; held to the shuffle's rules
    faults = oracle.check(case, stream, rank, received, orders)    # [] or what is wrong, in words

What is not promised is not modelled: which permutation a seed gives. So the first stream of a case (one rank, no tail lost) tells
the order; that must be a permutation with the shuffle's structure, and every other stream must follow it to the letter.
"""
import dataclasses
import json
import random
import struct

import numpy

ITEM = {"bool": 1, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
        "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
FLOATS = ("float16", "bfloat16", "float32", "float64")
NPY = {"bool": "|b1", "uint8": "|u1", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8", "int8": "|i1", "int16": "<i2", "int32": "<i4",
       "int64": "<i8", "float16": "<f2", "bfloat16": "<V2", "float32": "<f4", "float64": "<f8"}
SAFETENSORS = {"bool": "BOOL", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "int8": "I8", "int16": "I16", "int32": "I32",
               "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
NAMES = ["a", "b0", "Z", "_under", "0", "10", "9", "ä", "é", "e\u0301", "日本", "🙂", "with space", "plus+plus", "per%20cent", "%", "hash#1", "what?",
         "semi;colon", "quo\"te", "back\\slash", "a'b", "amp&er", "eq=", "com,ma", "~tilde", "star*", "[bracket]", "x" * 200, "tab\there", "ß", "\u202d"]


# --- numbers ------------------------------------------------------------------------------------------------------
def to_double(stored, dtype):
    """uint8 [..., bytes] as doubles; exact, but for 64-bit integers beyond 2^53, which round to nearest even."""
    if dtype == "bfloat16":
        return (stored.view(numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32).astype(numpy.float64)
    return stored.view("?" if dtype == "bool" else dtype).astype(numpy.float64)


def round_to(values, dtype):
    """Doubles rounded once, to nearest, ties to even; as uint8. By scaling each so that a unit in the last place is 1."""
    if dtype == "float64":
        return values.copy().view(numpy.uint8)
    mantissa, smallest, largest = {"float16": (10, -14, 15), "bfloat16": (7, -126, 127), "float32": (23, -126, 127)}[dtype]
    with numpy.errstate(all="ignore"):
        _, exponent = numpy.frexp(numpy.where(numpy.isfinite(values), values, 0.0))  # value = m * 2^e, 0.5 <= m < 1
        unit = numpy.maximum(exponent - 1, smallest) - mantissa
        rounded = numpy.ldexp(numpy.rint(numpy.ldexp(values, -unit)), unit)
        limit = numpy.ldexp(2.0 - 2.0 ** -mantissa, largest)
        rounded = numpy.where(numpy.abs(rounded) > limit, numpy.copysign(numpy.inf, rounded), rounded)
        rounded = numpy.where(numpy.isfinite(values), rounded, values)
        if dtype == "float16":
            return rounded.astype(numpy.float16).view(numpy.uint8)
        single = rounded.astype(numpy.float32)
    if dtype == "float32":
        return single.view(numpy.uint8)
    bits = single.view(numpy.uint32)
    bits = numpy.where(numpy.isnan(single), bits | 0x00400000, bits)  # what is left of a NaN must still be one
    return numpy.ascontiguousarray((bits >> 16).astype(numpy.uint16)).view(numpy.uint8)


def delivered_rows(tensor, stored):
    """What the rows of a tensor, uint8 [n, bytes], must be delivered as."""
    if not is_cast(tensor):
        return stored
    with numpy.errstate(all="ignore"):
        values = to_double(numpy.ascontiguousarray(stored).reshape(-1), tensor.dtype) * (tensor.scale or 1.0)
    return round_to(values, tensor.cast).reshape(len(stored), -1)


def is_cast(tensor):
    return tensor.cast is not None and not (tensor.cast == tensor.dtype and tensor.scale in (0, 1))


def same_bytes(wanted, got, dtype, cast):
    """Equal to the bit; of a NaN that was cast only that it is one, and its sign. Returns the first row that differs, or None."""
    if wanted.shape != got.shape:
        return 0
    if numpy.array_equal(wanted, got):
        return None
    differs = wanted != got
    if cast and dtype in FLOATS:
        item = ITEM[dtype]
        word = {2: numpy.uint16, 4: numpy.uint32, 8: numpy.uint64}[item]
        infinity = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0000000000000}[dtype]
        a, b = (numpy.ascontiguousarray(rows).view(word) for rows in (wanted, got))
        sign = word(1 << (8 * item - 1))
        both = ((a & ~sign) > word(infinity)) & ((b & ~sign) > word(infinity)) & ((a & sign) == (b & sign))
        differs = (a != b) & ~both
    rows = numpy.flatnonzero(differs.any(axis=1))
    return int(rows[0]) if len(rows) else None


# --- data ---------------------------------------------------------------------------------------------------------
@dataclasses.dataclass
class Tensor:
    name: str           # as delivered
    source: str         # raw, npy: folder or suffix; safetensors: its name in the file
    dtype: str
    shape: tuple        # of one sample
    cast: str = None
    scale: float = 0.0

    @property
    def row_bytes(self):
        return ITEM[self.dtype] * int(numpy.prod(self.shape, dtype=numpy.int64))

    @property
    def delivered(self):
        return self.cast or self.dtype


@dataclasses.dataclass
class Place:
    """Where one tensor of one shard lies."""
    object: str
    offset: int
    rows: numpy.ndarray  # uint8 [count, row bytes]


@dataclasses.dataclass
class StreamPlan:
    """One reading of the data set: by `world` ranks, each with the same specification but its rank."""
    server: str
    consumer: str = "trainer"
    batch_size: int = 1
    tail: str = "uneven"
    world: int = 1
    epochs: int = 1
    prefetch: int = 0
    start: tuple = (0, 0)       # epoch and position of the cursor
    hold: int = 0               # batches the trainer keeps before it gives one back
    with_sources: bool = True
    signals_waiting: bool = False
    from_stream: int = None     # resumes at a cursor of that stream of the case
    cursor: object = None       # that cursor
    limit: int = None           # samples that may be left out of a rank's epoch; None: all


def npy_header(dtype, shape, rng):
    text = "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }" % (NPY[dtype], "".join(f"{n}, " for n in shape).rstrip() if len(shape) == 1
                                                                            else ", ".join(map(str, shape)))
    return npy_wrap(text, rng)


def npy_wrap(text, rng):
    major = rng.choice((1, 1, 1, 2, 3))
    prelude = 10 if major == 1 else 12
    align = rng.choice((16, 64, 64, 64))
    extra = rng.choice((0, 0, 0, 0, 5000))  # more than is read at first
    length = -(-(prelude + len(text) + 1 + extra) // align) * align - prelude
    body = text.encode() + b" " * (length - len(text) - 1) + b"\n"
    return b"\x93NUMPY" + bytes((major, 0)) + struct.pack("<H" if major == 1 else "<I", length) + body


def elements(generator, rng, dtype, count):
    """`count` elements as bytes; of floats every kind: NaNs, infinities, denormals, what lies in the middle of two."""
    size = ITEM[dtype]
    data = generator.integers(0, 256, size=count * size, dtype=numpy.uint8)
    if dtype == "bool":
        return data & 1
    if dtype in FLOATS and count:
        kind = rng.randrange(4)
        if kind == 0:
            return data  # any bits
        values = generator.normal(size=count) * 10.0 ** rng.randint(-6, 6)
        if kind == 1:  # the middle between two bfloat16s or float16s, or a bit beside it
            values = (numpy.floor(generator.uniform(128, 256, size=count)) + 0.5) * 2.0 ** generator.integers(-30, 30, size=count)
            values += numpy.where(generator.random(count) < 0.3, values * 2.0 ** -rng.choice((20, 32)), 0)
        return round_to(values, dtype)
    return data


class Case:
    """Data set, specification and streams of one seed and number."""

    def __init__(self, seed, number, servers=("nginx", "file", "odd", "s3")):
        self.seed, self.number = seed, number
        self.rng = rng = random.Random(f"devmem-loader oracle {seed} {number}")
        self.generator = numpy.random.Generator(numpy.random.SFC64([seed, number]))
        self.format = rng.choice(("raw", "npy", "npy", "safetensors", "safetensors"))
        self.says_format = self.format == "raw" or rng.random() < 0.7
        self.files = {}           # object: bytes
        self.shards = []          # per shard: {tensor name: Place}
        self.left_out = {}        # objects that are skipped as a whole: left out of the data set
        self.gone = set()         # objects whose payload the server has no more
        self.refusal = None       # (gRPC codes, words): no stream of this can be opened
        self.skip = False
        self._schema()
        self._fill()
        self._shuffle()
        self._streams(servers)
        if rng.random() < 0.12:
            self._refuse()

    # --- what is in the bucket ---
    def _schema(self):
        rng = self.rng
        count = rng.choice((1, 1, 1, 2, 2, 3))
        names = rng.sample(["image", "label", "x", "tokens", "mask", "ünï cödé", "a.b/c"], count)
        big = rng.random() < 0.05
        self.tensors = []
        for index, name in enumerate(names):
            dtype = rng.choice(list(ITEM))
            if big:
                shape = (rng.randint(20000, 60000),)
            else:
                shape = tuple(rng.choice((1, 1, 2, 3, 5, 7, 16)) for _ in range(rng.randrange(5)))
                if rng.random() < 0.3:
                    shape = (rng.randint(1, 1500),)
            source = name if self.format == "safetensors" else rng.choice((f"f{index}/", f".e{index}"))
            cast, scale = None, 0.0
            if rng.random() < 0.4:
                cast = rng.choice(FLOATS + (dtype,))
                if cast in FLOATS and rng.random() < 0.6:
                    scale = rng.choice((1 / 255, 0.5, -1.0, 3.0, 1e-30, 1e30, 1.0, 2.0 ** -149, 0.1))
            self.tensors.append(Tensor(name, source, dtype, shape, cast, scale))
        self.names_all = True  # whether the specification names tensors at all
        if count == 1 and self.format != "raw" and rng.random() < 0.5 and self.tensors[0].dtype != "bfloat16":
            self.names_all = False
            if self.format == "npy":
                self.tensors[0].name = "data"
        elif self.format == "safetensors" and not any(tensor.cast for tensor in self.tensors) and rng.random() < 0.4:
            self.names_all = False
        self.renames = {}
        if self.format == "safetensors" and self.names_all and rng.random() < 0.3:
            for tensor in self.tensors:
                self.renames[tensor.source] = tensor.name = "as-" + tensor.source

    def _object(self, base, tensor):
        if self.format == "safetensors":
            return base + ".safetensors"
        ending = ".npy" if self.format == "npy" else ""
        if not self.names_all:
            return base + ending
        return tensor.source + base + ending if tensor.source.endswith("/") else base + tensor.source + ending

    def glob(self, tensor):
        """What the specification says of where a tensor is."""
        if self.format == "safetensors":
            return tensor.source
        return tensor.source + "*" if tensor.source.endswith("/") else "*" + tensor.source + (".npy" if self.format == "npy" else "")

    def _fill(self):
        rng = self.rng
        row = sum(tensor.row_bytes for tensor in self.tensors)
        most = max(3, min(700, (6 << 20) // row)) if row < 20000 else 40
        total = rng.choice((rng.randint(0, 3), rng.randint(1, 40), rng.randint(1, most), rng.randint(1, most)))
        shards = rng.randint(1, 9)
        cuts = sorted(rng.randint(0, total) for _ in range(shards - 1))
        counts = [b - a for a, b in zip([0, *cuts], [*cuts, total])]  # some are 0: shards of nothing
        folders = rng.choice(([""], [""], ["", "sub/", "sub/deeper/"], ["A/", "a/", "z ü/"]))
        bases = set()
        while len(bases) < shards:
            bases.add(rng.choice(folders) + (rng.choice(NAMES) + (f"-{rng.randrange(100)}" if rng.random() < 0.5 else "")
                                             if rng.random() < 0.5 else f"{rng.randrange(10000):0{rng.choice((1, 4))}d}"))
        # Shard k is the k-th object by name; of several tensors, the k-th of each. So what is paired must sort alike.
        order = sorted(bases, key=lambda base: self._object(base, self.tensors[0]).encode())
        for tensor in self.tensors[1:]:
            if sorted(bases, key=lambda base, tensor=tensor: self._object(base, tensor).encode()) != order:
                order = [f"{k:04d}" for k in range(shards)]
                break
        self.skip = rng.random() < 0.3
        bad = set(rng.sample(range(shards), rng.randint(0, min(2, shards - 1)))) if self.skip and rng.random() < 0.8 else set()
        for k, (base, count) in enumerate(zip(order, counts)):
            self._shard(base, count, k in bad)
        self.samples = sum(len(next(iter(shard.values())).rows) for shard in self.shards)
        for decoy in rng.sample((".hidden.npy", "_SUCCESS", "sub/.cache/x.npy"), rng.randrange(3)) if self.format != "raw" or self.names_all else ():
            self.files[decoy] = b"not data"
        if self.skip and self.samples and rng.random() < 0.6:
            self.gone = set(rng.sample(sorted({place.object for shard in self.shards for place in shard.values()}), 1))

    def _shard(self, base, count, bad):
        rng = self.rng
        rows = {tensor.name: elements(self.generator, rng, tensor.dtype, count * tensor.row_bytes // ITEM[tensor.dtype])
                .reshape(count, tensor.row_bytes) for tensor in self.tensors}
        spoilt = rng.choice(self.tensors) if bad else None
        places = {}
        if self.format == "safetensors":
            name = self._object(base, None)
            content, offsets = self._safetensors(rows, count)
            self.files[name] = content[:-1] if bad and count else b"\xff" * 9 if bad else content
            places = {tensor.name: Place(name, offsets[tensor.source], rows[tensor.name]) for tensor in self.tensors}
        else:
            for tensor in self.tensors:
                name, head = self._object(base, tensor), b""
                if self.format == "npy":
                    head = npy_header(tensor.dtype, (count, *tensor.shape), rng)
                content = head + rows[tensor.name].tobytes()
                if tensor is spoilt:
                    content = content + b"x" if self.format == "raw" and tensor.row_bytes > 1 else b"\x93NUMPX" + content[6:]
                    if self.format == "raw" and tensor.row_bytes == 1:
                        content, spoilt = head + rows[tensor.name].tobytes(), None  # every length is right
                self.files[name] = content
                places[tensor.name] = Place(name, len(head), rows[tensor.name])
        if bad and (spoilt is not None or self.format == "safetensors"):
            self.left_out.update({place.object: base for place in places.values()})
        else:
            self.shards.append(places)

    def _safetensors(self, rows, count):
        rng = self.rng
        entries = [(tensor.source, SAFETENSORS[tensor.dtype], (count, *tensor.shape), rows[tensor.name].tobytes()) for tensor in self.tensors]
        if self.names_all and rng.random() < 0.5:
            entries.append(("other", "F8_E4M3", (3,), b"\1\2\3"))  # not asked for: may be of any type and length
        rng.shuffle(entries)
        header, at, offsets = {}, 0, {}
        for name, dtype, shape, data in entries:
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
            offsets[name] = at
            at += len(data)
        items = list(header.items())
        rng.shuffle(items)
        if rng.random() < 0.3:
            items.insert(rng.randrange(len(items) + 1), ("__metadata__", {"format": "pt", "ü": "\"{}"}))
        text = json.dumps(dict(items), ensure_ascii=rng.random() < 0.5, separators=rng.choice(((",", ":"), (", ", ": ")))).encode()
        text += b" " * rng.choice((0, -len(text) % 8, 5000))
        return (struct.pack("<Q", len(text)) + text + b"".join(data for _, _, _, data in entries),
                {name: 8 + len(text) + offset for name, offset in offsets.items()})

    def write(self, folder):
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    # --- how it is read ---
    def _shuffle(self):
        rng = self.rng
        self.order_seed = rng.choice((0, 1, rng.getrandbits(64), 2**64 - 1))
        self.shuffle = rng.choice(("none", "block", "block", "window", "global", None))
        self.window = rng.choice((1, 2, rng.randint(1, 50), rng.randint(1, 2000)))
        self.block_samples = rng.choice((0, 1, 2, 8, rng.randint(1, 100)))
        self.group_blocks = rng.choice((0, 1, 2, 3, rng.randint(1, 20)))

    def _streams(self, servers):
        rng = self.rng
        sizes = (1, rng.randint(1, 8), rng.randint(1, 64), max(1, self.samples), self.samples * rng.randint(1, 3) + 1)
        # A batch of a slab with padding is all there, however few samples: no more memory than a stream may have.
        most = max(1, (24 << 20) // sum(max(t.row_bytes, ITEM[t.delivered] * max(1, t.row_bytes // ITEM[t.dtype])) for t in self.tensors))

        def some(**fields):
            row = sum(tensor.row_bytes for tensor in self.tensors)
            return StreamPlan(**{"server": rng.choice(servers), "batch_size": min(most, rng.choice(sizes)), "tail": rng.choice(("drop", "pad", "uneven")),
                                 "world": rng.choice((1, 2, 3, 5)), "prefetch": rng.choice((0, 1, row * rng.randint(1, 200), 4 << 20)),
                                 "hold": rng.choice((0, 0, 1, 7)), "with_sources": rng.random() < 0.7, "signals_waiting": rng.random() < 0.5, **fields})
        self.epochs = rng.choice((1, 1, 2, 3))
        # The first tells the order, so it must not lose a sample; only our own server can lose an object and list it still.
        first = some(world=1, tail="uneven", epochs=self.epochs, server=rng.choice([s for s in servers if s != "odd"] if self.gone else servers))
        if self.gone:
            servers = ("odd",)
        second = some(epochs=self.epochs)
        if rng.random() < 0.3:
            second.consumer = rng.choice(("reader", "cli", "cli"))
            second.with_sources = second.with_sources or second.consumer == "cli"
        self.streams = [first, second]
        for _ in range(rng.choice((0, 1, 1, 2))):
            origin = rng.randrange(len(self.streams))
            self.streams.append(some(epochs=self.epochs, from_stream=origin, server=self.streams[origin].server))
        for stream in self.streams:
            if stream.server == "s3":
                stream.prefetch = 0  # the S3 server of the tests takes 10 ms a request: few and large ones
        self.limit = rng.choice(("all", "enough", "one less"))
        self.stop_after = [rng.random() for _ in self.streams]  # which cursor is taken, as a share of all

    def _refuse(self):
        """Changes the case to one that must be refused, in words that name the culprit."""
        rng = self.rng
        if self.left_out or self.gone:
            return
        kinds = ["window", "rank", "cast"]
        if self.format == "npy":
            kinds += ["big-endian", "fortran", "structured", "0-d", "rows of nothing", "dtype", "longer"] * 2
        if self.format == "safetensors":
            kinds += ["overlap", "dtype", "hole"] * 2
        if self.format == "raw":
            kinds += ["odd size"] * 2
        kind = rng.choice(kinds)
        tensor = self.tensors[0]
        # An object of its own would be a shard more; so the spoilt one is one of those there are.
        places = sorted({shard[tensor.name].object for shard in self.shards}) or [None]
        name = rng.choice(places)
        spoil = {"big-endian": lambda: npy_wrap("{'descr': '>i4', 'fortran_order': False, 'shape': (2, 3), }", rng) + bytes(24),
                 "fortran": lambda: npy_wrap("{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3), }", rng) + bytes(24),
                 "structured": lambda: npy_wrap("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (2,), }", rng) + bytes(8),
                 "0-d": lambda: npy_wrap("{'descr': '<i4', 'fortran_order': False, 'shape': (), }", rng) + bytes(4),
                 "rows of nothing": lambda: npy_wrap("{'descr': '<i4', 'fortran_order': False, 'shape': (2, 0), }", rng),
                 "longer": lambda: self.files[name] + b"\0",
                 "odd size": lambda: self.files[name] + b"\0",
                 "overlap": lambda: self._broken_safetensors([0, 8], [4, 12], 12),
                 "hole": lambda: self._broken_safetensors([0, 8], [12, 20], 20)}
        self.asks = {}
        if kind in spoil:
            if name is None or (kind == "odd size" and tensor.row_bytes == 1):
                return
            self.files[name] = spoil[kind]()
            self.refusal = (("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT"), [name.rpartition("/")[2]])
        elif kind == "window":
            self.shuffle, self.window = "window", 0
            self.refusal = (("INVALID_ARGUMENT",), ["window"])
        elif kind == "rank":
            self.streams[0].world = 0  # the driver asks for rank 3 of 3
            self.refusal = (("INVALID_ARGUMENT",), ["rank"])
        elif kind == "cast":
            if not self.shards or not self.names_all:
                return
            tensor.cast, tensor.scale = rng.choice([d for d in ITEM if d not in FLOATS and d != tensor.dtype]), 0.0
            self.refusal = (("INVALID_ARGUMENT",), ["cast"])
        elif kind == "dtype":
            if not self.shards or not self.names_all or tensor.dtype == "bfloat16":
                return
            self.asks[tensor.name] = rng.choice([d for d in ITEM if d not in (tensor.dtype, "bfloat16")])
            self.refusal = (("INVALID_ARGUMENT",), [self.asks[tensor.name], tensor.dtype])
        self.refused_for = kind
        self.skip = False
        self.streams = self.streams[:1]

    @staticmethod
    def _broken_safetensors(first, second, size):
        text = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": first},
                           "y": {"dtype": "F32", "shape": [2], "data_offsets": second}}).encode()
        return struct.pack("<Q", len(text)) + text + bytes(size)

    # --- what a sample is ---
    def locate(self, sample):
        for shard in self.shards:
            count = len(next(iter(shard.values())).rows)
            if sample < count:
                return shard, sample
            sample -= count
        raise IndexError(sample)

    def rows_of(self, tensor, samples):
        """What must be delivered for these samples: uint8 [n, bytes]."""
        if not hasattr(self, "_delivered"):
            self._delivered = {t.name: delivered_rows(t, numpy.concatenate([shard[t.name].rows for shard in self.shards])) for t in self.tensors}
        return self._delivered[tensor.name][samples]

    def sources_of(self, sample, names):
        shard, row = self.locate(sample)
        return [(index, shard[name].object, shard[name].offset + row * shard[name].rows.shape[1], shard[name].rows.shape[1])
                for index, name in enumerate(names)]

    def lost(self, stream):
        """Samples that cannot be read."""
        if not self.gone or stream.server != "odd":
            return frozenset()
        found, first = set(), 0
        for shard in self.shards:
            count = len(next(iter(shard.values())).rows)
            if any(place.object in self.gone for place in shard.values()):
                found |= set(range(first, first + count))
            first += count
        return frozenset(found)

    def set_limit(self, stream, orders):
        """How much the stream may leave out, where that can be told to the sample: not of shards whose length nobody knows, of samples
        that are there to fill up, or of a part of an epoch. Returns whether it must fail."""
        lost = self.lost(stream)
        if self.limit == "all" or not lost or self.left_out or stream.tail == "pad" or stream.from_stream is not None:
            return False
        counts = {}
        for rank in range(stream.world):
            for epoch, rows, _ in wanted_batches(self, stream, rank, orders)[0]:
                counts[rank, epoch] = counts.get((rank, epoch), 0) + sum(sample in lost for sample, _ in rows)
        most = max(counts.values(), default=0)
        if most == 0:
            return False
        stream.limit = most if self.limit == "enough" else most - 1
        return self.limit == "one less"

    def describe(self):
        tensors = [f"{t.name}: {t.dtype}{list(t.shape)} from {t.source}" + (f" as {t.cast} * {t.scale}" if t.cast else "") for t in self.tensors]
        return json.dumps({"format": self.format, "says_format": self.says_format, "tensors": tensors, "names_all": self.names_all, "samples": self.samples,
                           "objects": {name: len(content) for name, content in self.files.items()}, "left_out": sorted(self.left_out),
                           "gone": sorted(self.gone), "skip": self.skip, "limit": self.limit, "refused": getattr(self, "refused_for", None) if self.refusal else None,
                           "shuffle": [self.shuffle, self.window, self.block_samples, self.group_blocks], "seed": self.order_seed,
                           "streams": [{key: value for key, value in vars(stream).items() if key != "cursor"} for stream in self.streams]},
                          ensure_ascii=False, default=str)


# --- the order ----------------------------------------------------------------------------------------------------
def order_faults(case, order, epoch):
    """What is wrong with an epoch's order: [sample] of every position."""
    n = case.samples
    where = f"epoch {epoch}: "
    if sorted(order) != list(range(n)):
        return [where + f"not each of {n} samples once: {len(order)} delivered, {len(set(order))} different, missing {sorted(set(range(n)) - set(order))[:5]}"]
    mode = case.shuffle or "block"
    if mode == "none":
        return [] if order == list(range(n)) else [where + "no shuffle was asked for, and this is not the stored order"]
    if mode == "window":
        for first in range(0, n, case.window):
            if sorted(order[first:first + case.window]) != list(range(first, min(n, first + case.window))):
                return [where + f"the window at {first} does not hold its own {case.window} samples"]
    if mode == "block":
        block, group = case.block_samples, case.group_blocks or 8
        if block == 0:
            if any(tensor.cast for tensor in case.tensors):
                return []  # of which bytes 4 MiB hold how many is not said
            row = sum(tensor.row_bytes for tensor in case.tensors)
            block = 1
            while block < 1 << 14 and 2 * block * row <= 4 << 20:
                block *= 2
        if group <= n // block and not any(_grouped(order, n, block, group, turn) for turn in range(0, n, block)):
            return [where + f"groups of {group} blocks of {block} samples are not whole blocks"]
    return []


def _grouped(order, n, block, group, turn):
    """Whether each whole group's positions hold whole blocks, where block 0 begins with sample `turn`."""
    whole = n // block
    for first in range(0, n - group * block + 1, group * block):
        counts = {}
        for sample in order[first:first + group * block]:
            number = (sample - turn) % n // block
            counts[number] = counts.get(number, 0) + 1
        if any(number >= whole or count != block for number, count in counts.items()):
            return False
    return True


def shuffled_faults(case, orders):
    """Epochs must differ where there is something to shuffle; by chance they are the same once in 12!."""
    enough = {"none": 0, "window": min(case.window, case.samples)}.get(case.shuffle, case.samples) >= 12
    if not enough or (case.shuffle or "block") == "block" and case.samples < 12:
        return []
    seen = list(map(tuple, orders))
    stored = tuple(range(case.samples))
    single = (case.shuffle or "block") == "block" and case.block_samples == 1 and case.group_blocks == 1  # blocks are permuted, still
    if stored in seen and not single:
        return ["the order is the stored one, although a shuffle was asked for"]
    return ["two epochs have one order"] if len(set(seen)) != len(seen) else []


# --- the streams --------------------------------------------------------------------------------------------------
@dataclasses.dataclass
class Delivery:
    """A batch as it reached the trainer; `rows`: {tensor: uint8 [n, bytes]} copied before it was given back."""
    sequence: int
    epoch: int
    samples: list
    padding: list
    rows: dict
    shapes: dict
    dtypes: dict
    offsets: list
    cursor: tuple     # (epoch, position)
    cursor_id: tuple  # (plan version, hash, fingerprint)
    sources: list     # [(tensor, object, offset, bytes)] or None
    skipped: dict     # {sample: object}


@dataclasses.dataclass
class Received:
    """All that one rank got of one stream."""
    opened_samples: int
    steps_per_epoch: int
    schema: dict          # name: (dtype, shape, stored dtype)
    names: list
    skipped_objects: list
    start: tuple
    deliveries: list = dataclasses.field(default_factory=list)
    epoch_ends: list = dataclasses.field(default_factory=list)  # (epoch, batches, samples, cursor)
    end: dict = None      # batches, samples, bytes, skipped_samples


def steps(n, start, world, rank, size, tail):
    """Batches of a rank from position `start` of an epoch on: rank r takes at step s the positions start + [(s*W + r)*B, +B)."""
    left = n - start
    if left <= 0:
        return 0
    if tail == "drop":
        return left // (world * size)
    if tail == "pad":
        return -(-left // (world * size))
    mine = left - rank * size
    return -(-mine // (world * size)) if mine > 0 else 0


def wanted_batches(case, stream, rank, orders):
    """[(epoch, [(sample, padding)], cursor after it)] of a rank, and what each epoch's end says."""
    n, batches, ends = case.samples, [], []
    first_epoch, first_position = stream.start
    for epoch in range(first_epoch, stream.epochs):
        start = first_position if epoch == first_epoch else 0
        count = steps(n, start, stream.world, rank, stream.batch_size, stream.tail)
        for step in range(count):
            begin = start + (step * stream.world + rank) * stream.batch_size
            end = begin + stream.batch_size
            positions = range(begin, end if stream.tail == "pad" else min(end, n))
            rows = [(orders[epoch][position % n], position >= n) for position in positions]
            batches.append((epoch, rows, (epoch, min(n, start + (step + 1) * stream.world * stream.batch_size))))
        ends.append((epoch, count))
    return batches, ends


def check(case, stream, rank, received, orders):
    """What is wrong with what a rank got, in words; [] if nothing is."""
    faults = []

    def expect(what, wanted, got):
        if wanted != got:
            faults.append(f"{what}: {str(wanted)[:300]} expected, {str(got)[:300]} delivered")
    lost = case.lost(stream)
    expect("samples of an epoch", case.samples, received.opened_samples)
    expect("steps of a full epoch", steps(case.samples, 0, stream.world, rank, stream.batch_size, stream.tail), received.steps_per_epoch)
    expect("schema", {t.name: (t.delivered, t.shape, t.dtype) for t in case.tensors}, received.schema)
    expect("objects left out", sorted(case.left_out), sorted(received.skipped_objects))
    expect("where the stream starts", stream.start, received.start)
    batches, ends = wanted_batches(case, stream, rank, orders)
    expect("number of batches", len(batches), len(received.deliveries))
    by_epoch, names = {}, received.names
    for number, ((epoch, rows, after), got) in enumerate(zip(batches, received.deliveries)):
        what = f"batch {number} of epoch {epoch}: "
        kept = [(sample, padding) for sample, padding in rows if sample not in lost]
        samples = [sample for sample, _ in kept]
        expect(what + "sequence", number, got.sequence)
        expect(what + "epoch", epoch, got.epoch)
        expect(what + "samples", samples, got.samples)
        expect(what + "padding", [padding for _, padding in kept], got.padding)
        expect(what + "cursor", after, got.cursor)
        if number:
            expect(what + "cursor's plan, specification and listing", received.deliveries[0].cursor_id, got.cursor_id)
        expect(what + "samples skipped", {sample for sample, _ in rows if sample in lost}, set(got.skipped))
        for sample, name in got.skipped.items():
            if name not in case.gone:
                faults.append(what + f"sample {sample} was skipped because of {name!r}, which is there")
        expect(what + "offsets that are multiples of 256", [], [offset for offset in got.offsets if offset % 256])
        if got.sources is not None:
            expect(what + "sources", [source for sample in samples for source in case.sources_of(sample, names)], got.sources)
        if samples == got.samples:
            for tensor in case.tensors:
                expect(what + f"shape of {tensor.name}", (len(samples), *tensor.shape), got.shapes.get(tensor.name))
                expect(what + f"type of {tensor.name}", tensor.delivered, got.dtypes.get(tensor.name))
                if not samples or tensor.name not in got.rows:
                    continue
                wrong = same_bytes(case.rows_of(tensor, samples), got.rows[tensor.name], tensor.delivered, is_cast(tensor))
                if wrong is not None:
                    faults.append(what + f"row {wrong} of {tensor.name}, sample {samples[wrong]}: other bytes than are stored")
        tally = by_epoch.setdefault(epoch, [0, 0, 0])
        tally[0] += 1
        tally[1] += len(samples)
        tally[2] += len(rows) - len(samples)
    wanted_ends = [(epoch, by_epoch.get(epoch, [0, 0])[0], by_epoch.get(epoch, [0, 0])[1], (epoch + 1, 0)) for epoch, _ in ends]
    expect("ends of epochs", wanted_ends, received.epoch_ends)
    row = sum(ITEM[t.delivered] * (t.row_bytes // ITEM[t.dtype]) for t in case.tensors)
    total = [sum(tally[k] for tally in by_epoch.values()) for k in range(3)]
    expect("statistics at the end", {"batches": total[0], "samples": total[1], "bytes": total[1] * row, "skipped_samples": total[2]}, received.end)
    return faults


def learn(case, received):
    """The order of each epoch, out of a stream of one rank that loses nothing; and what is wrong with it."""
    orders, faults = [], []
    for epoch in range(case.epochs):
        order = []
        for got in received.deliveries:
            if got.epoch == epoch:
                order += got.samples
        orders.append(order)
    for epoch, order in enumerate(orders):
        faults += order_faults(case, order, epoch)
    return orders, faults or shuffled_faults(case, orders)
