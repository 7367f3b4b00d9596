# SPDX-License-Identifier: Apache-2.0
"""A binding's life: made, passed on, its creator killed, its device lost, its last holder gone."""
import os
import socket
import time
import unittest

import guest
from guest import devmem, ethtool, handle, modules, netdev, nic, shell
from stand import BOUND, QUEUES, Case, Process, create, drop, keep, rss, unprivileged

PORT = 5201


class Life(Case):
    def test_tells_all_that_a_successor_needs(self):
        more = self.ready()
        buffer = self.buffer()
        made = self.create(buffer=buffer, **more)
        places = [made.add(BOUND, src=(self.there.v4, 80), dst=(self.here.v4, 40000)),
                  made.add(BOUND, src=(self.there.v6, 0), dst=(self.here.v6, 40001), family=6, protocol=socket.IPPROTO_UDP)]
        info = made.info()
        with socket.socket(socket.AF_UNIX) as probe:
            cookie = int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, 71, 8), "little")  # SO_NETNS_COOKIE
        self.assertEqual({"id": made.id, "ifindex": self.here.ifindex, "dmabuf": netdev.queue(self.here.ifindex, BOUND)["dmabuf"],
                          "rx-page-size": 4096, "state": handle.LIVE, "reset": more["reset"], "split-before": more["split_before"],
                          "threshold-before": 0, "netns-cookie": cookie, "queues": [BOUND], "queue-count": 1, "rule-count": 2,
                          "rules": [(places[0], BOUND, handle.flow((self.there.v4, 80), (self.here.v4, 40000))),
                                    (places[1], BOUND, handle.flow((self.there.v6, 0), (self.here.v6, 40001), 6, socket.IPPROTO_UDP))]},
                         info)
        self.assertEqual(sorted(places), ethtool.locations(self.here))
        self.assertEqual(([], [], 1, 2), tuple(made.info(0, 0)[name] for name in ("queues", "rules", "queue-count", "rule-count")))
        self.assertEqual(("live", "2", str(made.id)), tuple(made.fdinfo()[name] for name in ("state", "rules", "devmem-binding-id")))
        self.assertEqual([{"id": made.id, "ifindex": self.here.ifindex, "dmabuf-id": made.dmabuf, "rx-page-size": 4096, "queue": [BOUND],
                           "state": "live", "reset": {"rss", "split"}, "rules": 2, "creator-pid": os.getpid()}],
                         handle.held(self.here.ifindex))
        self.assertEqual(handle.held()[0], handle.get(made.id))
        self.assertEqual([], handle.held(1))
        made.delete(places[0])
        self.assertEqual([places[1]], ethtool.locations(self.here))
        made.close()
        self.nothing_left()

    def test_outlives_its_creator_and_ends_with_its_last_holder(self):
        more = self.ready()
        buffer = self.buffer()
        creator = Process(self)
        (number, dmabuf), fd = creator.do(create, self.here.ifindex, [BOUND], more, fds=[buffer.fd])
        held = handle.Handle(fd, number, dmabuf)
        self.addCleanup(held.close)
        held.add(BOUND, dst=(self.here.v4, PORT))
        self.transfer(buffer, PORT)
        self.assertEqual(creator.pid, handle.get(number)["creator-pid"])
        creator.kill()
        self.assertNotIn("creator-pid", handle.get(number))
        received = self.transfer(buffer, PORT, 8 << 20)
        self.assertEqual({dmabuf}, received.dmabufs)
        with self.events() as events:
            start = time.monotonic()
            held.close()
            self.note = f"the last close took {1000 * (time.monotonic() - start):.0f} ms"
            self.nothing_left()
            self.assertEqual(("released-ntf", {"id": number, "ifindex": self.here.ifindex, "dmabuf-id": dmabuf, "state": "live",
                                               "rules-left": 0, "rss-outcome": "done" if handle.RESETS_RSS else "unsupported",
                                               "split-outcome": "done"}), events.next())
        if handle.RESETS_RSS:  # no trace of a choice is left that would stand in the way
            ethtool.channels(self.here, 2)
        modules.unload("devmem_binding")
        nic.down()

    def test_an_unprivileged_holder_is_the_last_and_all_goes_back(self):
        made = self.create(**self.ready())
        made.add(BOUND, dst=(self.here.v4, PORT))
        heir = Process(self)
        heir.do(keep, fds=[made.fd])
        heir.do(unprivileged)
        made.close()
        self.assertEqual(1, len(handle.held()))
        heir.kill()
        self.nothing_left()

    def test_held_within_a_socket_that_nobody_reads(self):
        made = self.create(**self.ready())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        # a cycle that only the garbage collector of unix sockets ends
        for _ in range(2):
            socket.send_fds(ours, [b"x"], [made.fd, ours.fileno(), theirs.fileno()])
        made.close()
        self.assertEqual(1, len(handle.held()))
        ours.close()
        theirs.close()

        def collected():
            socket.socketpair(socket.AF_UNIX)[0].close()  # closing one starts it
            return not handle.held()
        shell.until(collected, "the handle is collected")
        self.nothing_left()

    def test_events(self):
        more = self.ready()
        with self.events() as events:
            made = self.create(**more)
            name, told = events.next()
            self.assertEqual(("created-ntf", made.id, [BOUND], {"rss", "split"}), (name, told["id"], told["queue"], told["reset"]))
            number = made.id
            made.close()
            name, told = events.next()
            self.assertEqual(("released-ntf", number), (name, told["id"]))

    def test_the_module_stays_while_a_handle_is_held(self):
        made = self.create(**self.ready())
        with self.assertRaisesRegex(guest.Bad, "unloading devmem_binding"):
            modules.unload("devmem_binding")
        made.close()
        modules.unload("devmem_binding")
        self.assertFalse(modules.loaded("devmem_binding"))

    def test_several_queues_and_large_pages(self):
        more = self.ready(2)
        large = {"rx_page_size": 64 << 10} if guest.kernel() >= (6, 20) else {}
        buffer = devmem.Udmabuf(32 << 20, huge=True)
        self.addCleanup(buffer.close)
        made = self.create((2, 3), buffer, **more, **large)
        self.assertEqual([None, None, made.dmabuf, made.dmabuf], settings_of(self.here))
        self.assertEqual(large.get("rx_page_size", 4096), made.info()["rx-page-size"])
        made.add(2, dst=(self.here.v4, PORT))
        self.transfer(buffer, PORT)
        made.close()
        self.nothing_left()


def settings_of(here):
    return [queue.get("dmabuf") for queue in netdev.queues(here.ifindex)]


class Ends(Case):
    """What the end of a binding leaves alone."""

    def end(self, made):
        """Closes it; (rules left, what became of RSS, of header split)."""
        with self.events() as events:
            made.close()
            name, told = events.next()
        self.assertEqual("released-ntf", name)
        return told["rules-left"], told["rss-outcome"], told["split-outcome"]

    def test_what_nobody_asked_to_reset(self):
        self.ready()
        after = {**settings_now(self.here), "rules": []}
        self.assertEqual((0, "not-asked", "not-asked"), self.end(self.create()))
        self.assertEqual(after, settings_now(self.here))

    def test_what_somebody_else_changed(self):
        made = self.create(**self.ready())
        place = made.add(BOUND, dst=(self.here.v4, PORT))
        ethtool.unsteer(self.here, place)
        ethtool.steer(self.here, 1, dst_port=PORT, location=place)  # at the same place, but another's
        ethtool.run("weight 3 1 0 0", self.here, "-X")
        table = rss(self.here)
        left, table_outcome, split = self.end(made)
        self.assertEqual((1, "changed" if handle.RESETS_RSS else "unsupported", "done"), (left, table_outcome, split))
        self.assertEqual([place], ethtool.locations(self.here))
        self.assertEqual(table, rss(self.here))

    def test_a_rule_that_somebody_else_deleted(self):
        made = self.create(**self.ready())
        place, other = (made.add(BOUND, dst=(self.here.v4, port)) for port in (PORT, PORT + 1))
        ethtool.unsteer(self.here, place)
        self.refused(2, made.delete, place, saying="somebody else deleted rule")
        self.assertEqual(1, made.info()["rule-count"])
        ethtool.unsteer(self.here, other)
        ethtool.steer(self.here, 0, dst_port=1, location=other)
        self.refused(116, made.delete, other, saying="somebody else has a rule")
        self.assertEqual([other], ethtool.locations(self.here))
        self.assertEqual(0, self.end(made)[0])
        self.assertEqual([other], ethtool.locations(self.here))

    def test_header_split_that_was_on_before(self):
        made = self.create(**self.ready(split_before=2))
        self.end(made)
        self.assertEqual("enabled", ethtool.rings(self.here)["tcp-data-split"])

    @unittest.skipUnless(guest.kernel() >= (6, 14), "thresholds came with 6.14")
    def test_a_threshold_comes_back(self):
        made = self.create(**self.ready(split_before=2, threshold_before=300))
        self.end(made)
        self.assertEqual(300, ethtool.rings(self.here)["hds-thresh"])

    @unittest.skipUnless(handle.RESETS_RSS, "the module can reset RSS since RSS_SET")
    def test_two_bindings_of_a_nic_and_the_last_resets(self):
        for first_to_end in (0, 1):
            with self.subTest(first_to_end):
                made = [self.create(**self.ready())]
                ethtool.rss_equal(self.here, 2)  # the second one wants one queue more
                made.append(self.create((2,), reset=handle.RSS | handle.SPLIT, split_before=2))
                self.assertEqual((0, "handed-over", "handed-over"), self.end(made.pop(first_to_end)))
                self.assertEqual("enabled", ethtool.rings(self.here)["tcp-data-split"])
                self.assertEqual([0, 1], list(rss(self.here)[0]))
                self.assertEqual((0, "done", "done"), self.end(made.pop()))
                self.nothing_left()

    @unittest.skipUnless(handle.RESETS_RSS, "the module can reset RSS since RSS_SET")
    def test_somebody_has_device_memory_without_a_handle(self):
        made = self.create(**self.ready(2))
        with netdev.Binding(self.here.ifindex, self.buffer().fd, [2]):
            self.assertEqual((0, "in-use", "refused"), self.end(made))
            self.assertEqual([0, 1], list(rss(self.here)[0]))


def settings_now(here):
    return {"split": ethtool.rings(here).get("tcp-data-split"), "rss": rss(here),
            "rules": ethtool.locations(here), "dmabufs": settings_of(here)}


class Device(Case):
    """The device goes first."""

    def test_unplugged_while_held_and_receiving(self):
        buffer = self.buffer()
        made = self.create(buffer=buffer, **self.ready())
        made.add(BOUND, dst=(self.here.v4, PORT))
        into, out = devmem.connection(self.here, self.there, port=PORT)
        with self.events() as events, into, out:
            sender = devmem.Sender(out, 1 << 30)
            self.assertEqual({"device"}, {piece.kind for piece in devmem.Receiver(into).receive()})
            modules.unload("devmemsim")  # would wait for ever if anybody kept a reference
            self.await_gone(made)
            name, told = events.next()
            self.assertEqual(("device-gone-ntf", made.id, "gone"), (name, told["id"], told["state"]))
            out.shutdown(socket.SHUT_RDWR)
        sender.thread.join(20)
        self.refused(19, made.add, BOUND, dst=(self.here.v4, PORT), saying="gone")
        self.assertEqual((handle.GONE, 0), (made.info()["state"], made.info()["rule-count"]))
        self.assertEqual("gone", handle.held()[0]["state"])
        made.close()
        self.assertEqual([], handle.held())

    def test_leaves_the_namespace(self):
        shell.run("ip netns add other")
        made = self.create(**self.ready())
        made.add(BOUND, dst=(self.here.v4, PORT))
        with self.events() as events:
            self.here.ip(f"link set {self.here.name} netns other")
            self.await_gone(made)
            self.assertEqual("device-gone-ntf", events.next()[0])  # after which it is unbound
        shell.run(f"ip -n other link set {self.here.name} up")  # queues are told of devices that are up
        with nic.namespace("other"):
            away = nic.Nic(self.here.name, self.here.v4, self.here.v6)
            netdev.renew()
            self.assertEqual([], ethtool.locations(away))
            self.assertEqual([None] * QUEUES, settings_of(away))
        netdev.renew()
        self.refused(19, made.add, BOUND, dst=(self.here.v4, PORT), saying="left this network namespace")
        with self.events() as events:
            made.close()
            told = events.next()[1]
        self.assertEqual((0, "device-gone", "device-gone"), (told["rules-left"], told["rss-outcome"], told["split-outcome"]))

    def test_the_link_goes_down_and_up(self):
        buffer = self.buffer()
        made = self.create(buffer=buffer, **self.ready())
        made.add(BOUND, dst=(self.here.v4, PORT))
        self.here.up(False)
        self.here.up()
        shell.until(self.here.carrier, "a carrier")
        self.transfer(buffer, PORT)
        self.here.up(False)
        made.close()
        self.here.up()
        self.nothing_left()

    def test_the_namespace_ends_with_its_last_holder(self):
        shell.run("ip netns add other")
        self.here.ip(f"link set {self.here.name} netns other")
        shell.run(f"ip -n other link set {self.here.name} up")
        with nic.namespace("other"):
            netdev.renew()
            away = nic.Nic(self.here.name, self.here.v4, self.here.v6)
            ethtool.header_split(away, True, 0 if guest.kernel() >= (6, 14) else None)
            ethtool.run("equal 3", away, "-X")
            holder = Process(self)
            os.close(holder.do(create, socket.if_nametoindex(away.name), [BOUND],
                               {"reset": handle.RSS | handle.SPLIT, "split_before": 1}, fds=[self.buffer().fd])[1])
        netdev.renew()
        self.assertEqual([], handle.held(), "what is held in a namespace is told only there")
        shell.run("ip netns delete other")
        holder.do(drop)
        holder.kill()
        shell.until(lambda: shell.run("ip link show dms0", ok=False).returncode == 0, "dms0 came back to the first namespace")
        self.here.up()
        after = settings_now(self.here)
        self.assertEqual(("disabled", [None] * QUEUES), (after["split"], after["dmabufs"]))


if __name__ == "__main__":
    unittest.main()
