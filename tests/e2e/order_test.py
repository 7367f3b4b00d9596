# SPDX-License-Identifier: Apache-2.0
"""The order is arithmetic: the same samples for every world size, and the same continuation at every cursor."""
import random

import harness
import trainer
from harness import RAW, SAMPLE
from trainer import pb

TINY = 64  # bytes of a sample where only the order counts


class OrderTest(harness.TestCase):
    def test_digest_is_the_same_set_for_every_world_size(self):
        bucket = self.raw_bucket(samples=301, shards=5)
        nginx = self.nginx(bucket)
        for shuffle in ("block", "global"):
            for world in (1, 2, 3, 7):
                paths = [self.work / f"{shuffle}-{world}-{rank}" for rank in range(world)]
                loaders = [self.start("--bucket", nginx.url, *RAW, "--tail", "uneven", "--shuffle", shuffle, "--seed", "5", "--batch-size", "8",
                                      "--rank", rank, "--world-size", world, "--epochs", "2", "--prefetch", "4M", digest=path)
                           for rank, path in enumerate(paths)]
                for loader in loaders:
                    run = loader.wait()
                    self.assertEqual(run.status, 0, run.text)
                self.assert_delivered(bucket, *paths, epochs=2)

    def epoch_order(self, daemon, world, cursor=None, **fields):
        """[(sample id)] of the rest of the epoch over all ranks, by step and rank; and each batch's cursor with the
        number of samples that had been delivered over all ranks after that step."""
        steps = []
        for rank in range(world):
            with trainer.Trainer(daemon.path) as one:
                spec = dict(self.fields, rank=rank, world_size=world, **fields)
                if cursor is not None:
                    spec["resume"] = cursor
                stream = one.open(**spec)
                for step, batch in enumerate(stream.batches()):
                    if step == len(steps):
                        steps.append([])
                    while len(steps[step]) < rank:
                        steps[step].append(([], None))
                    steps[step].append((list(batch.sample_ids), pb.Cursor.FromString(batch.cursor.SerializeToString())))
        order, cursors = [], []
        for step in steps:
            for ids, _ in step:
                order += ids
            cursors += [(step_cursor, len(order)) for _, step_cursor in step if step_cursor is not None]
        return order, cursors

    def order_at_random_cursors(self, count, **fields):
        bucket = self.raw_bucket("tiny", samples=613, shards=5, sample_bytes=TINY)
        daemon = self.daemon()
        self.fields = {"bucket": self.nginx(bucket).url, "format": pb.FORMAT_RAW, "batch_size": 4, "tail": pb.TAIL_UNEVEN, "seed": 9,
                       "tensors": [pb.TensorSpec(dtype=pb.DTYPE_UINT8, shape=[TINY])], "prefetch_bytes": 1 << 20, **fields}
        rng = random.Random(11)
        orders = {world: self.epoch_order(daemon, world) for world in (1, 2, 3, 7)}
        whole = orders[1][0]
        self.assertEqual(sorted(whole), list(range(613)))
        for world, (order, _) in orders.items():
            self.assertEqual(order, whole, f"the order with {world} ranks")
        for _ in range(count):
            world, other = rng.choice((1, 2, 3, 7)), rng.choice((1, 2, 3, 7))
            cursor, delivered = rng.choice(orders[world][1])
            rest, _ = self.epoch_order(daemon, other, cursor)
            self.assertEqual(rest, whole[delivered:], f"after {delivered} of {world} ranks, with {other}")

    def test_resume_at_50_random_cursors(self):
        self.order_at_random_cursors(50, shuffle=pb.Shuffle(mode=pb.Shuffle.BLOCK, block_samples=16, group_blocks=4))

    def test_resume_without_shuffle(self):
        self.order_at_random_cursors(8, shuffle=pb.Shuffle(mode=pb.Shuffle.NONE))

    def test_resume_with_window_shuffle(self):
        self.order_at_random_cursors(8, shuffle=pb.Shuffle(mode=pb.Shuffle.WINDOW, window=50))

    def test_resume_with_global_shuffle(self):
        self.order_at_random_cursors(8, shuffle=pb.Shuffle(mode=pb.Shuffle.GLOBAL))

    def test_epochs_differ_and_seeds_differ(self):
        bucket = self.raw_bucket("tiny", samples=300, shards=3, sample_bytes=TINY)
        daemon = self.daemon()
        orders = []
        for seed in (1, 2):
            with trainer.Trainer(daemon.path) as one:
                stream = one.open(bucket=self.nginx(bucket).url, format=pb.FORMAT_RAW, batch_size=10, epochs=2, seed=seed,
                                  tensors=[pb.TensorSpec(dtype=pb.DTYPE_UINT8, shape=[TINY])],
                                  shuffle=pb.Shuffle(mode=pb.Shuffle.GLOBAL))
                by_epoch = {0: [], 1: []}
                for batch in stream.batches():
                    by_epoch[batch.epoch] += batch.sample_ids
                orders += [by_epoch[0], by_epoch[1]]
                self.assertEqual([end.samples for end in stream.epoch_ends], [300, 300])
        for i, order in enumerate(orders):
            self.assertEqual(sorted(order), list(range(300)))
            for other in orders[:i]:
                self.assertNotEqual(order, other)

    def test_cli_resumes_where_it_stopped(self):
        bucket = self.raw_bucket(samples=101)
        nginx = self.nginx(bucket)
        digests, flags = [], ()
        for part, limit in enumerate((3, 5, 0)):
            digests.append(self.work / f"part{part}")
            run = self.loader("--bucket", nginx.url, *RAW, "--tail", "uneven", "--batch-size", "7", "--limit-batches", limit, *flags,
                              digest=digests[-1])
            self.assertEqual(run.status, 0, run.text)
            flags = ("--resume", run.summary["cursor"])
        self.assert_delivered(bucket, *digests, sample_bytes=SAMPLE)

    def test_pad_gives_every_rank_equal_steps(self):
        bucket = self.raw_bucket("tiny", samples=101, shards=2, sample_bytes=TINY)
        daemon, steps, real = self.daemon(), [], []
        url = self.nginx(bucket).url
        for rank in range(3):
            with trainer.Trainer(daemon.path) as one:
                stream = one.open(bucket=url, format=pb.FORMAT_RAW, batch_size=8, tail=pb.TAIL_PAD, rank=rank, world_size=3,
                                  tensors=[pb.TensorSpec(dtype=pb.DTYPE_UINT8, shape=[TINY])])
                batches = list(stream.batches())
                steps.append([len(batch.sample_ids) for batch in batches])
                for batch in batches:
                    padding = list(batch.padding) or [False] * len(batch.sample_ids)
                    real += [sample for sample, pad in zip(batch.sample_ids, padding) if not pad]
        self.assertEqual(steps, [[8] * 5] * 3)
        self.assertEqual(sorted(real), list(range(101)))
