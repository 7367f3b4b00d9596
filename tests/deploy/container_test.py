# SPDX-License-Identifier: Apache-2.0
"""What deploy/kubernetes asks for, tried in real containers (pods.py): that the rights given are enough, that the seccomp profile lacks
nothing, and that a rolling update hands over without loss."""
import socket
import stat
import subprocess
import unittest

import kustomize
import pods
from kubernetes_test import MODULE, pod
from manifests import DEPLOY

import harness

NET_ADMIN = 1 << 12


def render(name):
    return kustomize.render(DEPLOY / name)


def kill_instead(profile):
    """Where a call that the profile does not name would be refused, the process is killed."""
    return {**profile, "defaultAction": "SCMP_ACT_KILL_PROCESS", "defaultErrnoRet": None} if profile["defaultAction"] == "SCMP_ACT_ERRNO" else profile


class ContainerTest(harness.TestCase):
    def setUp(self):
        super().setUp()
        pods.own_network()

    def trainer(self, node, url):
        """The example Job, reading from here."""
        objects = render("examples/trainer")

        def point(container):
            arguments = container["args"]
            arguments[arguments.index("http://store.example/train/")] = url
            arguments[arguments.index("4096")] = str(harness.SAMPLE)
            arguments[arguments.index("256")] = "4"
        return node.start(objects, "Job", point)

    def read(self, node):
        """A trainer reads a bucket to its end."""
        bucket = self.raw_bucket()
        run = self.trainer(node, self.nginx(bucket).url).process.wait()
        self.assertEqual(run.status, 0, run.text)
        self.assertEqual(run.summary["samples"], 256, run.summary)
        return run

    # --- rights ---

    def test_host_path(self):
        """Not root, no capability, the Localhost profile; and io_uring."""
        node = pods.Node(self)
        daemon = node.start(render("overlays/host-path"), "DaemonSet").ready()
        folder = node.path("/run/devmem-loader").stat()
        self.assertEqual((stat.S_IMODE(folder.st_mode), folder.st_uid, folder.st_gid), (0o750, 10001, 10001))
        status = daemon.status()
        self.assertEqual(status["Uid"], ["10001"] * 4)
        self.assertEqual({name: int(status[name][0], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")},
                         dict.fromkeys(("CapPrm", "CapEff", "CapBnd", "CapAmb"), 0))
        self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), (["1"], ["2"]))
        self.assertIn("receive loop io_uring: io_uring is available", daemon.log())
        self.assertIn(f"metrics and health on {daemon.address}:9464", daemon.log())
        self.read(node)
        self.assertEqual(daemon.end(), 0, daemon.log())

    def test_runtime_default(self):
        """Where io_uring is refused: epoll, and the reason is said."""
        node = pods.Node(self)
        daemon = node.start(render("overlays/runtime-default"), "DaemonSet").ready()
        self.assertIn("receive loop epoll: io_uring is refused here", daemon.log())
        self.read(node)
        self.assertEqual(daemon.end(), 0, daemon.log())

    def test_devmem(self):
        """Root with CAP_NET_ADMIN and nothing else; without a NIC for it, the copy path, saying why."""
        node = pods.Node(self)
        daemon = node.start(render("overlays/devmem"), "DaemonSet").ready()
        status = daemon.status()
        self.assertEqual(status["Uid"], ["0"] * 4)
        self.assertEqual({int(status[name][0], 16) for name in ("CapPrm", "CapEff", "CapBnd")}, {NET_ADMIN})
        self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), (["1"], ["2"]))
        self.assertIn("no device-memory receive path here", daemon.log())
        self.assertNotIn("CAP_NET_ADMIN", daemon.log())
        self.read(node)
        self.assertEqual(daemon.end(), 0, daemon.log())

    def test_pod_of_ipv6(self):
        """The same manifest where pods have IPv6 addresses."""
        node = pods.Node(self, addresses="fd00::")
        subprocess.run(["ip", "address", "add", f"fd00::{node.pods + 1}/128", "dev", "lo", "nodad"], check=True, timeout=10)
        daemon = node.start(render("overlays/host-path"), "DaemonSet").ready()
        self.assertIn(f"metrics and health on [{daemon.address}]:9464", daemon.log())
        self.assertEqual(daemon.probe("readinessProbe"), (0, "serving\n"))

    def test_metrics_are_on_the_pods_address_alone(self):
        node = pods.Node(self)
        daemon = node.start(render("overlays/host-path"), "DaemonSet").ready()
        self.assertEqual(daemon.probe("readinessProbe"), (0, "serving\n"))
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection((pods.NODE_IP, 9464), timeout=5)

    def test_binding_module_that_cannot_be_loaded(self):
        """The pod starts all the same, and says what is missing and what to do."""
        node = pods.Node(self)
        said = node.start(kustomize.render(MODULE), "DaemonSet").ready().said["load-devmem-binding"]
        self.assertIn("devmem_binding: NOT loaded", said)
        self.assertIn("bindings will be held by netlink sockets", said)

    def test_profile_lacks_nothing(self):
        """With a profile that kills instead of refusing, nothing is killed: whatever the daemon, the CLI and a hand-over call is named."""
        node = pods.Node(self, kill_instead)
        first = node.start(render("overlays/host-path"), "DaemonSet").ready()
        self.read(node)
        second = node.start(render("overlays/host-path"), "DaemonSet").ready()
        self.read(node)
        self.assertEqual(first.probe("livenessProbe")[0], 0)
        self.assertEqual((first.end(), second.end()), (0, 0), first.log() + second.log())

    def test_profile_that_lacks_a_call(self):
        """So that the one above can fail: without one call that is needed, the daemon does not get up."""
        def without_epoll(profile):
            for entry in profile["syscalls"]:
                entry["names"] = [name for name in entry["names"] if name != "epoll_create1"]
            return kill_instead(profile)
        node = pods.Node(self, without_epoll)
        daemon = node.start(render("overlays/host-path"), "DaemonSet")
        self.assertNotEqual(daemon.process.wait().status, 0)

    # --- who may reach the socket ---

    def test_trainer_without_the_group(self):
        node = pods.Node(self)
        node.start(render("overlays/host-path"), "DaemonSet").ready()

        objects = render("examples/trainer")
        pod(objects, "Job")["securityContext"]["supplementalGroups"] = []
        self.assert_failed(node.start(objects, "Job").process.wait(), "permission denied")

    def test_trainer_cannot_change_the_folder(self):
        node = pods.Node(self)
        node.start(render("overlays/host-path"), "DaemonSet").ready()

        def write(container):
            container.update(command=["/bin/sh", "-c", "touch /run/devmem-loader/mine || mv /run/devmem-loader/loader.sock /run/devmem-loader/x"],
                             args=[])
        run = node.start(render("examples/trainer"), "Job", write).process.wait()
        self.assertNotEqual(run.status, 0)
        self.assertEqual(run.text.count("Read-only file system"), 2, run.text)

    # --- rolling update ---

    def test_rolling_update(self):
        """A second pod starts beside the first, as maxSurge has it; only the one that serves is ready; a trainer loses nothing."""
        node = pods.Node(self)
        first = node.start(render("overlays/host-path"), "DaemonSet").ready()
        self.assertEqual(first.probe("readinessProbe")[0], 0)
        web = self.nginx(self.raw_bucket("large", samples=1024, shards=16), extra="limit_rate 1m;", log=True)
        digest = self.work / "digest"
        reader = self.start("--bucket", web.url, *harness.RAW, "--tail", "uneven", "--prefetch", "4M", "--shuffle", "none", digest=digest,
                            service=f"unix:{node.path('/run/devmem-loader/loader.sock')}")
        harness.wait_for(lambda: web.log.read_text().count(" 206") >= 2, 60 * harness.SLOW, "ranges are served")
        second = node.start(render("overlays/host-path"), "DaemonSet").ready()
        harness.wait_for(lambda: "taken over from version" in second.log(), 20 * harness.SLOW, "it says that it took over")
        harness.wait_for(lambda: "Connection refused" in first.probe("readinessProbe")[1], 20 * harness.SLOW, "the first holds nothing any more")
        self.assertEqual(first.probe("readinessProbe")[0], 1)
        self.assertEqual(first.probe("livenessProbe")[0], 0, "it would be started again")
        self.assertEqual(first.end(), 0, first.log())
        run = reader.wait(120 * harness.SLOW)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.work / "large", digest)
        self.assertEqual(second.probe("readinessProbe")[0], 0)

    def test_rolling_update_in_the_nodes_network(self):
        """Both pods have the node's address and port. The second is asked on the socket whether it serves; the port is its own then."""
        node = pods.Node(self)
        first = node.start(render("overlays/devmem"), "DaemonSet").ready()
        second = node.start(render("overlays/devmem"), "DaemonSet").ready()
        self.assertEqual(first.address, second.address)
        harness.wait_for(lambda: "taken over from version" in second.log(), 20 * harness.SLOW, "it says that it took over")
        code, said = first.probe("startupProbe")
        self.assertEqual(code, 1)
        self.assertIn("a process of another pid namespace serves, not 1", said)
        self.assertEqual(first.probe("livenessProbe")[0], 0, "it would be started again")
        self.assertEqual(first.end(), 0, first.log())
        self.assertEqual(second.probe("readinessProbe"), (0, "serving\n"))
        self.read(node)

    def test_not_ready_by_its_predecessor(self):
        """While a second daemon has not taken over, what the first answers, on the shared socket and in the node's network on the shared
        port, does not make its pod ready."""
        for overlay, why in (("host-path", "Connection refused"), ("devmem", "a process of another pid namespace serves, not 1")):
            node = pods.Node(self)
            first = node.start(render(f"overlays/{overlay}"), "DaemonSet").ready()

            def slow(container):
                container.update(command=["/usr/bin/sleep", "600"], args=[])
            second = node.start(render(f"overlays/{overlay}"), "DaemonSet", slow)
            harness.wait_for(lambda: '"running"' in node.runc("state", second.name).stdout, 20 * harness.SLOW, "the container runs")
            code, said = second.probe("startupProbe")
            self.assertEqual(code, 1)
            self.assertIn(why, said)
            self.assertEqual(first.probe("readinessProbe")[0], 0)

    def test_container_that_is_started_again(self):
        """After a crash the next start finds what the last one left, and serves."""
        node = pods.Node(self)
        first = node.start(render("overlays/host-path"), "DaemonSet").ready()
        node.runc("kill", first.name, "KILL")
        self.assertEqual(first.process.wait().status, 137)
        second = node.start(render("overlays/host-path"), "DaemonSet").ready()
        self.read(node)
        self.assertEqual(second.end(), 0)


if __name__ == "__main__":
    unittest.main()
