# SPDX-License-Identifier: Apache-2.0
"""The path through host memory, on the same kernels, wire and server as the other: what it does not show is not the other's fault."""
import guest
from guest import dataset, knobs, product

from stand import NPY, QUICK, TOKENS, UNHURRIED, Endless, Stand


class Copy(Stand):
    def setUp(self):
        super().setUp()
        self.daemon = product.daemon(self, "--transport", "copy", *QUICK)

    @guest.deadline(240)
    def test_npy_pairs_to_two_trainers(self):
        rows = dataset.npy(self.bucket, samples=400)
        summaries, digests = self.trainers(self.daemon, self.serve().url, *NPY)
        self.assert_delivered(rows, digests)
        self.assertEqual(dataset.size(rows), sum(summary["bytes"] for summary in summaries))
        self.assertGreater(sum(knobs.rx(self.here, queue)["bytes"] for queue in range(self.QUEUES)), dataset.size(rows), "it came over the wire")
        self.daemon.end()

    @guest.deadline(240)
    def test_safetensors_over_ipv6(self):
        rows = dataset.safetensors(self.bucket, samples=1000)
        _, digests = self.trainers(self.daemon, self.serve().url6, *TOKENS)
        self.assert_delivered(rows, digests)

    @guest.deadline(240)
    def test_an_endless_trainer_survives_a_restart_of_the_server(self):
        rows = dataset.raw(self.bucket, samples=256)
        server = self.serve(extra=UNHURRIED)
        trainer = Endless(self, self.daemon, server.url, rows)
        trainer.more()
        server.stop()
        server.start()
        trainer.more()
        self.assertEqual("copy", trainer.stop()["path"])
