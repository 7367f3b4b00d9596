# SPDX-License-Identifier: Apache-2.0
"""devmem-loader bindings: what is held, as it tells it, beside what the kernel says and who does hold it."""
import os
from unittest import mock

from guest import dataset, devmem, ethtool, handle, netdev, nic, product, shell

from stand import QUEUE, RAW, Stand, bound_queues, inflight

JOURNALS = "/run/devmem-loader"
PORT = 5201
THERE = "/tmp/none"  # no daemon has journals there
UNPRIVILEGED = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")


class Bindings(Stand):
    deadline = 240

    def told(self, *flags, prefix=()):
        """All that it says, to whom it says it as JSON."""
        made = product.Program("devmem-loader", "bindings", "--json", *flags, prefix=prefix)
        self.addCleanup(made.kill)
        run = made.wait(30)
        self.assertEqual(0, run.status, run.text)
        return run.summary

    def text(self):
        made = product.Program("devmem-loader", "bindings")
        self.addCleanup(made.kill)
        run = made.wait(30)
        self.assertEqual(0, run.status, run.text)
        return made.stdout()

    def only(self, **more):
        """The one binding there is."""
        told = self.told(**more)
        self.assertEqual(([], []), (told["unread"], told["notes"]))
        self.assertEqual(1, len(told["bindings"]), told)
        return told["bindings"][0]

    def nothing(self):
        self.assertEqual([], self.told()["bindings"])

    def as_told(self, **more):
        """What is told of queue 3 of dms0 at any time, as the kernel has it."""
        return {"interface": self.here.name, "ifindex": self.here.ifindex, "queues": [QUEUE], "memory": "dma-buf",
                "dmabuf_id": bound_queues(self.here).get(QUEUE), "page_size": 4096, "inflight": inflight(self.here), "state": "live",
                "handle": None, "process": None, "journal": None, **more}

    def test_of_a_daemon_and_after_it_was_killed(self):
        self.assertEqual({"bindings": [], "module_loaded": False, "notes": [], "unread": []}, self.told())
        self.assertEqual("Nothing is bound to NIC queues in this network namespace.\n"
                         "The kernel module devmem_binding is not loaded: no binding is held by handle.\n", self.text())
        rows = dataset.raw(self.bucket, samples=128)
        server, daemon = self.serve(), self.daemon()
        _, digests = self.trainers(daemon, server.url, *RAW, world=1)
        self.assert_delivered(rows, digests)

        rules = len(ethtool.locations(self.here))
        self.assertGreater(rules, 0, "of connections that it keeps")
        (journal,) = [os.path.join(JOURNALS, name) for name in os.listdir(JOURNALS) if name.startswith("rx-")]
        (bound,) = self.devmem(daemon)["nics"]
        shell.until(lambda: self.only()["inflight"] == inflight(self.here), "the same count twice")
        expected = self.as_told(rules=rules, page_size=bound["page_size"], inflight=mock.ANY)
        by = {"process": {"pid": daemon.pid, "lives": True, "pid_namespace": "this"}, "journal": journal}
        self.assertEqual({**expected, **by}, self.only())
        self.assertRegex(self.text(), rf"dms0 +{QUEUE} +dma-buf {expected['dmabuf_id']} +\S+ KiB +\d+ +{rules} +process {daemon.pid} +live\n")

        # who may not read journals is told so, and the rest; who looks elsewhere sees nothing
        told = self.told(prefix=UNPRIVILEGED)
        self.assertEqual([expected], told["bindings"])
        self.assertEqual(1, len(told["unread"]), told)
        self.assertIn(journal, told["unread"][0])
        self.assertIn("Permission denied", told["unread"][0])
        self.assertEqual({"bindings": [], "module_loaded": False, "notes": [], "unread": []},
                         self.told(prefix=("ip", "netns", "exec", self.there.netns)))

        daemon.kill()
        shell.until(lambda: [each["state"] for each in self.told()["bindings"]] == ["left"], "the kernel unbinds")
        by["process"]["lives"] = False
        self.assertEqual({**expected, **by, "memory": None, "dmabuf_id": None, "page_size": None, "inflight": None, "state": "left"}, self.only())
        self.assertIn("left: by a daemon that was killed; the next start of one puts the NIC back\n", self.text())
        self.daemon().end()
        self.nothing()
        self.assert_as_found()

    def test_of_someone_else(self):
        os.makedirs(THERE, exist_ok=True)
        with devmem.bound(self.here, [2, QUEUE]):
            held = self.only()
            self.assertEqual(self.as_told(queues=[2, QUEUE], rules=0), held)
            daemon = self.daemon("--queues", "1")
            told = self.told()["bindings"]
            self.assertEqual([([1], daemon.pid), ([2, QUEUE], None)],
                             [(each["queues"], (each["process"] or {}).get("pid")) for each in told])
            self.assertEqual([None, None], [each["process"] for each in self.told("--journal-folder", THERE)["bindings"]])
            daemon.end()
            self.here.up(False)  # the kernel lists no queues then
            self.nothing()
            self.here.up()
        self.nothing()

    def test_of_buffers_that_are_out(self):
        with devmem.bound(self.here, [QUEUE]) as memory:
            location = ethtool.steer_port(self.here, QUEUE, PORT)
            into, out = devmem.connection(self.here, self.there, port=PORT)
            self.addCleanup(into.close)
            self.addCleanup(out.close)
            devmem.Sender(out, 64 << 10, close=False).join()
            self.assertEqual({"device"}, {piece.kind for piece in devmem.Receiver(into).receive()})
            self.assertEqual(1, self.only()["rules"])
            ethtool.delete_rule(self.here, location)
        held = self.only()  # by the socket, which has not given its tokens back
        self.assertGreater(held["inflight"], 0)
        self.assertEqual(self.as_told(queues=[], dmabuf_id=memory.id, inflight=held["inflight"], rules=0, state="draining"), held)
        self.assertIn("draining: it is bound no more", self.text())
        into.close()

        def gone():
            netdev.flush_deferred()
            return not self.told()["bindings"]
        shell.until(gone, "the pool is given back with its last buffer")

    def test_of_a_handle(self):
        handle.load(self)
        self.assertEqual({"bindings": [], "module_loaded": True, "notes": [], "unread": []}, self.told())
        self.assertEqual("Nothing is bound to NIC queues in this network namespace.\n", self.text())
        ethtool.header_split(self.here, True, 0 if "hds-thresh" in ethtool.rings(self.here) else None)
        ethtool.rss_equal(self.here, QUEUE)
        memory = devmem.Udmabuf(4 << 20)
        self.addCleanup(memory.close)
        held = handle.Handle.create(self.here.ifindex, memory.fd, [QUEUE], reset=handle.RSS | handle.SPLIT, split_before=1)
        self.addCleanup(held.close)
        held.add(QUEUE, dst=(self.here.v4, PORT))
        me = {"pid": os.getpid(), "lives": True, "pid_namespace": "this"}
        told = self.as_told(rules=1, process=me, handle={"id": held.id, "resets": ["rss", "split"]})
        self.assertEqual(told, self.only())
        self.assertEqual(told, self.only(prefix=UNPRIVILEGED), "anybody may know")
        self.assertIn(f"handle {held.id} of process {os.getpid()}", self.text())

        self.here.up(False)
        down = self.only()
        self.assertEqual((self.here.name, [QUEUE], "live", told["handle"]), (down["interface"], down["queues"], down["state"], down["handle"]))
        self.here.up()
        nic.down()
        gone = self.only()
        self.assertEqual({**told, "interface": None, "state": "gone", "rules": gone["rules"], "inflight": gone["inflight"]}, gone)
        self.assertIn("gone: the NIC is no more", self.text())
        held.close()
        self.nothing()
