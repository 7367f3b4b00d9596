# SPDX-License-Identifier: Apache-2.0
"""Random data sets, specifications and servers, each compared with an independent model of what is promised (oracle.py); and that the
model finds what it is there to find. The same 50 each time; oracle_soak.py has new ones every night. One of them again:

    tests/e2e/oracle_run.py --seed 1 --case 12
"""
import copy
import functools
import random
import tempfile
import unittest

import numpy

import oracle
import oracle_run

SEED = 1


class OracleTest(unittest.TestCase):
    maxDiff = None

    def runs(self, numbers):
        failed, count = oracle_run.run(SEED, numbers)
        self.assertEqual(failed, {})
        self.assertEqual(count, len(numbers))

    def test_25_specifications(self):
        self.runs(range(25))

    def test_25_more_specifications(self):
        self.runs(range(25, 50))


# --- that it can fail -----------------------------------------------------------------------------------------------
def _batches(received, rows=1):
    return [batch for batch in received.deliveries if len(batch.samples) >= rows]


def _exact(case):
    """Tensors of which every bit counts."""
    return [tensor for tensor in case.tensors if not oracle.is_cast(tensor)]


def flip_a_bit(case, received, rng):
    if not _batches(received) or not _exact(case):
        return False
    rows = rng.choice(_batches(received)).rows[rng.choice(_exact(case)).name]
    rows[rng.randrange(rows.shape[0]), rng.randrange(rows.shape[1])] ^= 1 << rng.randrange(8)
    return True


def swap_the_bytes_of_two_samples(case, received, rng):
    for batch in _batches(received, 2):
        a, b = rng.sample(range(len(batch.samples)), 2)
        for tensor in _exact(case):
            rows = batch.rows[tensor.name]
            if not numpy.array_equal(rows[a], rows[b]):
                rows[[a, b]] = rows[[b, a]]
                return True
    return False


def _take_rows(batch, rows):
    batch.samples = [batch.samples[row] for row in rows]
    batch.padding = [batch.padding[row] for row in rows]
    batch.rows = {name: data[rows] for name, data in batch.rows.items()}
    batch.shapes = {name: (len(rows), *shape[1:]) for name, shape in batch.shapes.items()}


def swap_two_samples(case, received, rng):
    if case.samples < 2 or not _batches(received, 2):
        return False
    batch = _batches(received, 2)[0]
    rows = list(range(len(batch.samples)))
    a = next((k for k in rows if batch.samples[k] != batch.samples[0]), None)
    if a is None:
        return False
    rows[0], rows[a] = a, 0
    _take_rows(batch, rows)
    return True


def drop_a_sample(case, received, rng):
    if not _batches(received, 2):
        return False
    batch = rng.choice(_batches(received, 2))
    rows = list(range(len(batch.samples)))
    rows.pop(rng.randrange(len(rows)))
    _take_rows(batch, rows)
    return True


def repeat_a_sample(case, received, rng):
    if not _batches(received):
        return False
    batch = rng.choice(_batches(received))
    row = rng.randrange(len(batch.samples))
    _take_rows(batch, [*range(row + 1), *range(row, len(batch.samples))])
    return True


def another_sample_in_its_place(case, received, rng):
    """With the bytes that belong to it: wrong all the same."""
    if case.samples < 2 or not _batches(received):
        return False
    batch = rng.choice(_batches(received))
    row = rng.randrange(len(batch.samples))
    batch.samples[row] = (batch.samples[row] + 1) % case.samples
    for tensor in case.tensors:
        batch.rows[tensor.name][row] = case.rows_of(tensor, [batch.samples[row]])[0]
    return True


def drop_a_batch(case, received, rng):
    if not received.deliveries:
        return False
    received.deliveries.pop(rng.randrange(len(received.deliveries)))
    return True


def repeat_a_batch(case, received, rng):
    if not received.deliveries:
        return False
    at = rng.randrange(len(received.deliveries))
    received.deliveries.insert(at, copy.deepcopy(received.deliveries[at]))
    return True


def _recast(case, received, cast):
    """Whether delivering what cast(doubles, to) makes of them differs from what is right."""
    for tensor in case.tensors:
        if not oracle.is_cast(tensor) or tensor.cast not in ("bfloat16", "float16"):
            continue
        for batch in _batches(received):
            stored = numpy.concatenate([shard[tensor.name].rows for shard in case.shards])[batch.samples]
            with numpy.errstate(all="ignore"):
                values = oracle.to_double(numpy.ascontiguousarray(stored).reshape(-1), tensor.dtype) * (tensor.scale or 1.0)
                rows = cast(values, tensor.cast).reshape(len(stored), -1)
            if oracle.same_bytes(batch.rows[tensor.name], rows, tensor.cast, True) is not None:
                batch.rows[tensor.name] = rows
                return True
    return False


def cast_by_cutting_off(case, received, rng):
    def cut(values, to):
        if to == "bfloat16":
            return numpy.ascontiguousarray((values.astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)).view(numpy.uint8)
        near = values.astype(numpy.float16)
        return numpy.where(numpy.abs(near.astype(numpy.float64)) > numpy.abs(values), numpy.nextafter(near, numpy.float16(0)), near).view(numpy.uint8)
    return _recast(case, received, cut)


def cast_by_rounding_twice(case, received, rng):
    return _recast(case, received, lambda values, to: oracle.round_to(values.astype(numpy.float32).astype(numpy.float64), to))


def scale_in_float32(case, received, rng):
    for tensor in case.tensors:
        if oracle.is_cast(tensor) and tensor.cast == "float64" and tensor.scale and _batches(received):
            rows = _batches(received)[0].rows[tensor.name]
            with numpy.errstate(all="ignore"):
                wrong = numpy.ascontiguousarray(rows).view(numpy.float64).astype(numpy.float32).astype(numpy.float64).view(numpy.uint8).reshape(rows.shape)
            if oracle.same_bytes(rows, wrong, "float64", True) is not None:
                _batches(received)[0].rows[tensor.name] = wrong
                return True
    return False


def _of_a_batch(change):
    @functools.wraps(change)
    def spoil(case, received, rng):
        return bool(received.deliveries) and change(rng.choice(received.deliveries), rng) is not False
    return spoil


def cursor_of_a_sample_later(batch, rng):
    batch.cursor = (batch.cursor[0], batch.cursor[1] + 1)


def cursor_of_another_epoch(batch, rng):
    batch.cursor = (batch.cursor[0] + 1, batch.cursor[1])


def sequence_skips_one(batch, rng):
    batch.sequence += 1


def another_epoch(batch, rng):
    batch.epoch += 1


def padding_unsaid(batch, rng):
    if not any(batch.padding):
        return False
    batch.padding = [False] * len(batch.padding)
    return True


def source_a_byte_off(batch, rng):
    if not batch.sources:
        return False
    tensor, name, offset, size = batch.sources[-1]
    batch.sources[-1] = (tensor, name, offset + 1, size)
    return True


def source_of_another_object(batch, rng):
    if not batch.sources:
        return False
    tensor, _, offset, size = batch.sources[0]
    batch.sources[0] = (tensor, "elsewhere", offset, size)
    return True


def skipped_unsaid(batch, rng):
    if not batch.skipped:
        return False
    batch.skipped = {}
    return True


def skipped_for_another_object(batch, rng):
    if not batch.skipped:
        return False
    batch.skipped = dict.fromkeys(batch.skipped, "some other")
    return True


def another_shape(batch, rng):
    name = next(iter(batch.shapes))
    batch.shapes[name] = (*batch.shapes[name], 2)


def another_type(batch, rng):
    name = next(iter(batch.dtypes))
    batch.dtypes[name] = "uint8" if batch.dtypes[name] != "uint8" else "int8"


def unaligned(batch, rng):
    batch.offsets[0] += 64


def left_out_unsaid(case, received, rng):
    if not received.skipped_objects:
        return False
    received.skipped_objects.pop()
    return True


def wrong_end_of_an_epoch(case, received, rng):
    if not received.epoch_ends:
        return False
    epoch, batches, samples, cursor = received.epoch_ends.pop()
    received.epoch_ends.append((epoch, batches, samples + 1, cursor))
    return True


def wrong_statistics(case, received, rng):
    received.end = {**received.end, "bytes": received.end["bytes"] + 1}
    return True


SPOIL = [flip_a_bit, swap_the_bytes_of_two_samples, swap_two_samples, drop_a_sample, repeat_a_sample, another_sample_in_its_place, drop_a_batch,
         repeat_a_batch, cast_by_cutting_off, cast_by_rounding_twice, scale_in_float32, left_out_unsaid, wrong_end_of_an_epoch, wrong_statistics,
         *map(_of_a_batch, (cursor_of_a_sample_later, cursor_of_another_epoch, sequence_skips_one, another_epoch, padding_unsaid, source_a_byte_off,
                            source_of_another_object, skipped_unsaid, skipped_for_another_object, another_shape, another_type, unaligned))]


class OracleCanFailTest(unittest.TestCase):
    def test_every_way_to_spoil_a_delivery_is_found(self):
        """What the daemon delivered, spoilt in each of these ways by itself: each is found in every stream it can be done to."""
        done, rng = dict.fromkeys(SPOIL, 0), random.Random(3)
        number = 0
        with tempfile.TemporaryDirectory(prefix="devmem-oracle-") as work:
            oracle_run.pathlib.Path(work).chmod(0o755)
            rig = oracle_run.Rig(work)
            try:
                while not all(done.values()) and number < 200:
                    case = oracle.Case(SEED, 100 + number)
                    number += 1
                    if not self.worth(case, done):
                        continue
                    seen = []
                    oracle_run.run_case(rig, case, lambda *got, seen=seen: seen.append(got))
                    for stream, rank, received, orders in seen:
                        for spoil in SPOIL:
                            spoilt = copy.deepcopy(received)
                            if done[spoil] < 5 and spoil(case, spoilt, rng):
                                done[spoil] += 1
                                self.assertTrue(oracle.check(case, stream, rank, spoilt, orders), f"{spoil.__name__} was not found in case {case.number}")
            finally:
                rig.close()
        self.assertEqual([spoil.__name__ for spoil in SPOIL if not done[spoil]], [], "ways that no case was fit for")

    @staticmethod
    def worth(case, done):
        """Whether a case could be spoilt in a way that none was yet."""
        casts = {tensor.cast for tensor in case.tensors if oracle.is_cast(tensor)}
        needs = {"left_out_unsaid": case.left_out, "skipped_unsaid": case.gone, "skipped_for_another_object": case.gone,
                 "scale_in_float32": "float64" in casts, "cast_by_cutting_off": casts & {"bfloat16", "float16"},
                 "cast_by_rounding_twice": casts & {"bfloat16", "float16"} and any(t.dtype in ("float64", "int64", "uint64") for t in case.tensors)}
        return not case.refusal and case.samples and any(needs.get(spoil.__name__, True) for spoil, times in done.items() if not times)

    def test_another_ranks_part_is_found(self):
        case = oracle.Case(SEED, 0)
        case.samples, case.epochs = 40, 1
        orders = [list(range(40))]
        stream = oracle.StreamPlan("file", world=2, batch_size=5, tail="drop")
        mine, theirs = (oracle.wanted_batches(case, stream, rank, orders)[0] for rank in (0, 1))
        self.assertNotEqual(mine, theirs)
        self.assertEqual(sorted(sample for batches in (mine, theirs) for _, rows, _ in batches for sample, _ in rows), list(range(40)))

    def order_faults(self, mode, order, **fields):
        case = oracle.Case(SEED, 0)
        case.samples, case.shuffle, case.tensors = len(order), mode, case.tensors[:0]
        for name, value in fields.items():
            setattr(case, name, value)
        return oracle.order_faults(case, order, 0)

    def test_an_order_that_breaks_the_shuffles_rules_is_found(self):
        good = list(range(20))
        for mode, fields in (("none", {}), ("window", {"window": 4}), ("block", {"block_samples": 2, "group_blocks": 2})):
            self.assertEqual(self.order_faults(mode, good, **fields), [], mode)
            for wrong in ([*good[:-1], 0], [good[-1], *good[1:-1], good[0]]):
                self.assertTrue(self.order_faults(mode, wrong, **fields), (mode, wrong))
        # Blocks of 2, turned by one block and permuted; then a sample of one group in another's place.
        turned = [2, 3, 10, 11, 18, 19, 0, 1, 4, 5, 8, 9, 6, 7, 12, 13, 14, 15, 16, 17]
        self.assertEqual(self.order_faults("block", turned, block_samples=2, group_blocks=2), [])
        turned[3], turned[4] = turned[4], turned[3]
        self.assertTrue(self.order_faults("block", turned, block_samples=2, group_blocks=2))

    def test_orders_that_are_no_shuffle_are_found(self):
        case = oracle.Case(SEED, 0)
        case.samples, case.shuffle = 30, "global"
        mixed = random.Random(1).sample(range(30), 30)
        self.assertEqual(oracle.shuffled_faults(case, [mixed, mixed[::-1]]), [])
        self.assertTrue(oracle.shuffled_faults(case, [list(range(30))]))
        self.assertTrue(oracle.shuffled_faults(case, [mixed, mixed]))

    def test_rounding_is_that_of_tables_of_published_values(self):
        """Each by hand: bfloat16 has 7 bits of mantissa, float16 has 10; ties go to even; one rounding."""
        for to, value, bits in (("bfloat16", 1.0, 0x3F80), ("bfloat16", 1 + 2 ** -8, 0x3F80), ("bfloat16", 1 + 3 * 2 ** -8, 0x3F82),
                                ("bfloat16", 1 + 2 ** -8 + 2 ** -40, 0x3F81), ("bfloat16", 3.4e38, 0x7F80), ("bfloat16", -0.0, 0x8000),
                                ("bfloat16", 2.0 ** -133, 0x0001), ("bfloat16", 2.0 ** -134, 0x0000), ("bfloat16", 1.5 * 2.0 ** -133, 0x0002),
                                ("float16", 65504.0, 0x7BFF), ("float16", 65519.99, 0x7BFF), ("float16", 65520.0, 0x7C00),
                                ("float16", 2.0 ** -24, 0x0001), ("float16", 2.0 ** -25, 0x0000), ("float16", 1 + 2 ** -11 + 2 ** -40, 0x3C01),
                                ("float32", 1 + 2 ** -24, 0x3F800000), ("float32", 1 + 2 ** -24 + 2 ** -50, 0x3F800001), ("float32", -numpy.inf, 0xFF800000)):
            got = oracle.round_to(numpy.array([value]), to)
            self.assertEqual(int.from_bytes(got.tobytes(), "little"), bits, f"{value!r} as {to}")
        self.assertTrue(numpy.isnan(oracle.to_double(oracle.round_to(numpy.array([numpy.nan]), "bfloat16"), "bfloat16"))[0])
