# SPDX-License-Identifier: Apache-2.0
"""What ./dev demo shows in the guest (tests/demo/guest_demo.py prints it): the demo of the host, with the payload by device-memory TCP."""
import json
import os

from guest import dataset, ethtool, netdev, product

from stand import NPY, TOKENS, Stand, bound_queues, rules


class Demo(Stand):
    deadline = 300

    def test_two_trainers_then_one(self):
        npy = dataset.npy(self.bucket / "npy", samples=600)
        tokens = dataset.safetensors(self.bucket / "safetensors", samples=1500)
        server, daemon = self.serve(), self.daemon("--queues", "2")
        bound = bound_queues(self.here)
        pair, digests = self.trainers(daemon, server.url + "npy/", *NPY)
        alone, digest = self.trainers(daemon, server.url + "safetensors/", *TOKENS, world=1)
        planned = rules(self.here)
        told = self.devmem(daemon)
        wrong = dataset.faults(npy, digests) + dataset.faults(tokens, digest)
        daemon.end()
        self.assert_as_found()
        counters = told["counters"]
        print("DEMO " + json.dumps({
            "verified": not wrong, "rows_verified": len(npy) + len(tokens), "faults": len(wrong), "path": pair[0]["path"],
            "path_reason": pair[0]["path_reason"], "kernel": os.uname().release, "nics": told["nics"], "bound": bound,
            "rules": sorted(set(planned.values())), "rules_used": len(planned), "rules_left": len(ethtool.locations(self.here)),
            "dmabufs_left": len(netdev.bound_pools(self.here.ifindex)), "landing_pool_bytes": told["landing_pool_bytes"],
            "payload_bytes": counters["device_bytes"], "copied_bytes": sum(summary["bytes_copied"] for summary in pair + alone),
            "head_bytes": counters["head_bytes"], "tokens_outstanding": counters["tokens_outstanding"], "counters": counters,
            "samples": sum(summary["samples"] for summary in pair + alone), "bytes": sum(summary["bytes"] for summary in pair + alone)}), flush=True)
        self.assertEqual([], wrong[:5])
        self.assertEqual({"devmem"}, {summary["path"] for summary in pair + alone})
        self.assertEqual(0, counters["host_bytes"], counters)
