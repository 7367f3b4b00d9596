# SPDX-License-Identifier: Apache-2.0
"""deploy/kubernetes: every overlay renders, is valid and agrees with the programs; and each of a list of mistakes, made in a copy in memory,
is found and named. What the manifests ask for is tried in containers by container_test.py."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import unittest

import yaml

import kustomize
import manifests
import pod_security
from manifests import DEPLOY, ROOT

OVERLAYS = ("host-path", "runtime-default", "devmem", "gpu")
OURS = pathlib.Path(__file__).parent / "kustomizations"  # what somebody might write
MODULE, MODULE_OF_RELEASE = OURS / "binding-module", OURS / "module-of-a-release"
DIGEST = "@sha256:" + 32 * "a7"
BIN = pathlib.Path(os.environ.get("DEVMEM_BIN") or ROOT / "build/release/bin")
VERSION = re.search(r"VERSION (\d+\.\d+\.\d+)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")).group(1)


def render(folder):
    return kustomize.render(DEPLOY / folder)


def filled(objects):
    """A release's manifests with a digest in them."""
    for thing in objects:
        for each in kustomize.containers(kustomize._pod_spec(thing) or {}):
            assert each["image"] == manifests.UNFILLED, each["image"]
            each["image"] = "registry.example:5000/team/devmem-loader" + DIGEST
    return objects


def find(objects, kind, name=None):
    return next(thing for thing in objects if thing["kind"] == kind and name in (None, thing["metadata"]["name"]))


def pod(objects, kind="DaemonSet"):
    return find(objects, kind)["spec"]["template"]["spec"]


def container(objects, name="devmem-loaderd", kind="DaemonSet"):
    spec = pod(objects, kind)
    return next(each for each in [*spec.get("initContainers", []), *spec["containers"]] if each["name"] == name)


def config(objects):
    """The ConfigMap with the configuration file."""
    return next(thing["data"] for thing in objects if thing["kind"] == "ConfigMap" and "config.yaml" in thing["data"])


class Case(unittest.TestCase):
    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        folder = manifests.schema_folder()
        if folder is None:
            raise unittest.SkipTest(f"no Kubernetes schemas: set {manifests.SCHEMAS} to a folder of them")
        cls.checker = manifests.Checker(manifests.Schemas(folder), manifests.Programs(BIN), VERSION)


class Rendered(Case):
    """What is in the repository is right."""

    def test_overlays_are_valid(self):
        for overlay in OVERLAYS:
            with self.subTest(overlay):
                self.assertEqual(self.checker.check(render(f"overlays/{overlay}")), [])

    def test_a_release_is_by_digest(self):
        """As it is in the tree, and filled in."""
        for folder in (*(DEPLOY / "release" / overlay for overlay in OVERLAYS), MODULE_OF_RELEASE):
            with self.subTest(folder.name):
                self.assertEqual(self.checker.check(render(folder), release=True), [])
                self.assertEqual(self.checker.check(filled(render(folder)), release=True), [])
        self.assertEqual(self.checker.check(render("release/trainer"), render("release/devmem"), release=True), [])

    def test_the_module_is_loaded_for_whoever_asks(self):
        self.assertEqual(self.checker.check(render(MODULE)), [])
        for overlay in OVERLAYS:
            self.assertNotIn("SYS_MODULE", json.dumps(render(f"overlays/{overlay}")), overlay)

    def test_a_gpu_is_asked_for_by_its_overlay_alone(self):
        for overlay in OVERLAYS:
            text = json.dumps([thing for thing in render(f"overlays/{overlay}") if thing["kind"] == "DaemonSet"])
            for word in ('"runtimeClassName"', "NVIDIA_VISIBLE_DEVICES", "cuda:0"):
                self.assertEqual(word in text, overlay == "gpu", f"{overlay}: {word}")

    def test_the_example_trainer_is_admitted_by_restricted(self):
        """By its namespace's level, which the check above holds it to as well."""
        objects = render("examples/trainer")
        self.assertEqual(find(objects, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted")
        self.assertEqual(list(pod_security.violations(pod(objects, "Job"))), [])

    def test_monitoring_is_valid_beside_each_overlay(self):
        for overlay in OVERLAYS:
            with self.subTest(overlay):
                self.assertEqual(self.checker.check(render("monitoring"), render(f"overlays/{overlay}")), [])

    def test_the_example_trainer_is_valid_beside_each_overlay(self):
        for overlay in OVERLAYS:
            with self.subTest(overlay):
                self.assertEqual(self.checker.check(render("examples/trainer"), render(f"overlays/{overlay}")), [])

    def test_what_sets_the_overlays_apart(self):
        host, default, devmem, _ = (render(f"overlays/{overlay}") for overlay in OVERLAYS)
        self.assertFalse(pod(host).get("hostNetwork", False))
        self.assertTrue(pod(devmem)["hostNetwork"])
        self.assertEqual(container(host)["securityContext"]["capabilities"], {"drop": ["ALL"]})
        self.assertEqual(container(devmem)["securityContext"]["capabilities"], {"drop": ["ALL"], "add": ["NET_ADMIN"]})
        self.assertEqual(container(host)["securityContext"]["seccompProfile"]["type"], "Localhost")
        self.assertEqual(container(default)["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertEqual([each["name"] for each in pod(default)["initContainers"]], ["prepare-socket-folder"])
        self.assertEqual(yaml.safe_load(config(host)["config.yaml"])["transport"], "copy")
        self.assertEqual(yaml.safe_load(config(devmem)["config.yaml"])["transport"], "auto")

    def test_no_overlay_gives_a_right_over_the_api(self):
        for overlay in OVERLAYS:
            kinds = {thing["kind"] for thing in render(f"overlays/{overlay}")}
            self.assertFalse(kinds & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Secret"}, overlay)

    def test_as_the_real_kustomize_renders(self):
        command = [shutil.which("kustomize"), "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
        if shutil.which(command[0]) is None:
            self.skipTest("neither kustomize nor kubectl is installed to compare with")
        for folder in (*(f"overlays/{overlay}" for overlay in OVERLAYS), *(f"release/{overlay}" for overlay in OVERLAYS), "release/trainer",
                       "monitoring", "examples/trainer", MODULE, MODULE_OF_RELEASE):
            with self.subTest(folder):
                done = subprocess.run([*command, DEPLOY / folder], capture_output=True, text=True, timeout=60, check=False)
                if "unknown field" in done.stderr or "unknown command" in done.stderr:
                    self.skipTest(f"the {command[0]} here is too old: {done.stderr.strip()[:100]}")
                self.assertEqual(done.returncode, 0, done.stderr)
                real = {kustomize.identity(thing): thing for thing in yaml.safe_load_all(done.stdout)}
                self.assertEqual({kustomize.identity(thing): thing for thing in render(folder)}, real)

    def test_the_seccomp_profile(self):
        for path in (DEPLOY / "seccomp").glob("*.json"):
            self.assertEqual(list(manifests.profile_problems(json.loads(path.read_text(encoding="utf-8")))), [], path)


class Planted(Case):
    """Each mistake is made in a fresh rendering, and is the only thing that is found, by its own message."""

    def plant(self, mistake, message, folder="overlays/devmem", beside=None, release=False):
        objects, others = render(folder), render(beside) if beside else []
        mistake(objects)
        found = self.checker.check(objects, others, release)
        self.assertTrue(any(message in line for line in found), f"wanted: {message}\nfound: {found}")
        self.assertEqual(len(found), 1, found)

    # --- what the schemas say ---

    def test_typo_in_a_field(self):
        def mistake(objects):
            pod(objects)["hostNetwrok"] = pod(objects).pop("hostNetwork")
        self.plant(mistake, "'hostNetwrok' was unexpected")

    def test_typo_deep_in_a_container(self):
        def mistake(objects):
            container(objects)["securityContext"]["readOnlyRootFileSystem"] = True
        self.plant(mistake, "'readOnlyRootFileSystem' was unexpected")

    def test_wrong_type(self):
        def mistake(objects):
            pod(objects)["terminationGracePeriodSeconds"] = "60"
        self.plant(mistake, "spec.template.spec.terminationGracePeriodSeconds: '60' is not of type 'integer'")

    def test_missing_field(self):
        def mistake(objects):
            del find(objects, "DaemonSet")["spec"]["selector"]
        self.plant(mistake, "spec: 'selector' is a required property")

    def test_wrong_api_version(self):
        def mistake(objects):
            find(objects, "PodDisruptionBudget")["apiVersion"] = "policy/v1beta1"
        self.plant(mistake, "no schema of policy/v1beta1 PodDisruptionBudget")

    # --- labels and names ---

    def test_selector_mismatch(self):
        def mistake(objects):
            find(objects, "DaemonSet")["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] = "deamon"
        self.plant(mistake, "the selector does not match the template's labels")

    def test_disruption_budget_of_nobody(self):
        def mistake(objects):
            find(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] = "loader"
        self.plant(mistake, "PodDisruptionBudget devmem-loader: selects no pod of ours")

    def test_disruption_budget_that_forbids_everything(self):
        def mistake(objects):
            spec = find(objects, "PodDisruptionBudget")["spec"]
            spec["maxUnavailable"] = spec.pop("minAvailable")
        self.plant(mistake, "only a whole number of minAvailable can be counted")

    def test_dangling_config_map(self):
        def mistake(objects):
            objects.remove(next(thing for thing in objects if "config.yaml" in thing.get("data", {})))
        self.plant(mistake, "is of the ConfigMap devmem-loader-")

    def test_dangling_service_account(self):
        def mistake(objects):
            pod(objects)["serviceAccountName"] = "default-loader"
        self.plant(mistake, "there is no ServiceAccount default-loader")

    def test_dangling_priority_class(self):
        def mistake(objects):
            pod(objects)["priorityClassName"] = "high"
        self.plant(mistake, "there is no PriorityClass high")

    # --- flags and configuration ---

    def test_unknown_flag(self):
        def mistake(objects):
            container(objects)["args"].append("--takeover")
        self.plant(mistake, "devmem-loaderd has no flag --takeover")

    def test_bad_value_of_a_flag(self):
        def mistake(objects):
            container(objects)["args"] += ["--receive-loop", "uring"]
        self.plant(mistake, "refused: devmem-loaderd: --receive-loop")

    def test_missing_config_key(self):
        def mistake(objects):
            config(objects)["config.yaml"] = config(objects)["config.yaml"].replace("memory_limit:", "memory_limits:")
        objects = render("overlays/devmem")
        mistake(objects)
        found = self.checker.check(objects)
        self.assertEqual(len(found), 2, found)
        self.assertIn("config.yaml: devmem-loaderd knows no memory_limits", found[0])
        self.assertIn("memory_limit is not set: nothing can be said of whether it fits into the container's", found[1])

    def test_bad_value_of_a_config_key(self):
        def mistake(objects):
            config(objects)["config.yaml"] += "queues: many\n"
        self.plant(mistake, "expected a whole number from 1 to 1024")

    def test_config_file_by_another_name(self):
        def mistake(objects):
            data = config(objects)
            data["config.yml"] = data.pop("config.yaml")
        self.plant(mistake, "the ConfigMap has no config.yaml, but config.yml")

    def test_slabs_larger_than_the_container(self):
        def mistake(objects):
            container(objects)["resources"]["limits"]["memory"] = "15Gi"
        self.plant(mistake, "memory_limit 15GiB and the daemon's own do not fit into the container's limit, 15Gi")

    def test_killed_while_it_drains(self):
        def mistake(objects):
            config(objects)["config.yaml"] = config(objects)["config.yaml"].replace("drain_timeout: 30s", "drain_timeout: 2m")
        self.plant(mistake, "terminationGracePeriodSeconds 60 ends a daemon that still drains")

    # --- mounts ---

    def test_mount_without_volume(self):
        def mistake(objects):
            pod(objects)["volumes"] = [each for each in pod(objects)["volumes"] if each["name"] != "modules"]
        self.plant(mistake, "/lib/modules is mounted from the volume modules, which there is not", MODULE)

    def test_volume_without_mount(self):
        def mistake(objects):
            container(objects, "load-devmem-binding")["volumeMounts"] = []
        self.plant(mistake, "the volume modules is mounted nowhere", MODULE)

    def test_socket_outside_of_the_shared_folder(self):
        def mistake(objects):
            arguments = container(objects)["args"]
            arguments[arguments.index("/run/devmem-loader/loader.sock")] = "/run/loader.sock"
            for name in ("startupProbe", "livenessProbe"):
                command = container(objects)[name]["exec"]["command"]
                command[command.index("unix:/run/devmem-loader/loader.sock")] = "unix:/run/loader.sock"
        self.plant(mistake, "the socket /run/loader.sock lies in no folder of the node")

    def test_folder_of_another_user(self):
        def mistake(objects):
            container(objects, "prepare-socket-folder")["env"][0]["value"] = "10001:10001"
        self.plant(mistake, "the socket's folder is given to 10001:10001, the daemon runs as 0:10001")

    # --- probes, ports and upgrades ---

    def test_probe_of_another_socket(self):
        def mistake(objects):
            command = container(objects)["startupProbe"]["exec"]["command"]
            command[command.index("unix:/run/devmem-loader/loader.sock")] = "unix:/run/devmem-loader/load.sock"
        self.plant(mistake, "startupProbe: asks /run/devmem-loader/load.sock, the daemon's socket is /run/devmem-loader/loader.sock")

    def test_probe_by_a_program_that_is_elsewhere(self):
        def mistake(objects):
            container(objects)["livenessProbe"]["exec"]["command"][0] = "/usr/local/bin/devmem-loader"
        objects = render("overlays/devmem")
        mistake(objects)
        self.assertIn("DaemonSet devmem-loader: livenessProbe: /usr/local/bin/devmem-loader status: the image has no "
                      "/usr/local/bin/devmem-loader", self.checker.check(objects))

    def test_probe_by_a_verb_that_is_not(self):
        def mistake(objects):
            container(objects)["livenessProbe"]["exec"]["command"][1] = "healthz"
        objects = render("overlays/devmem")
        mistake(objects)
        self.assertIn("devmem-loader has no verb healthz", self.checker.check(objects)[0])

    def test_ready_by_its_predecessor(self):
        def mistake(objects):
            command = container(objects)["startupProbe"]["exec"]["command"]
            del command[command.index("--pid"):command.index("--pid") + 2]
        self.plant(mistake, "startupProbe: the daemon to take over from would answer for it: --pid 1")

    def test_restarted_because_it_was_succeeded(self):
        def mistake(objects):
            container(objects)["livenessProbe"]["exec"]["command"] += ["--pid", "1"]
        self.plant(mistake, "livenessProbe: a daemon that was succeeded would be started again: no --pid")

    def test_liveness_by_a_port_that_is_given_up(self):
        def mistake(objects):
            container(objects)["livenessProbe"] = {"httpGet": {"port": 9464, "path": "/healthz"}}
        self.plant(mistake, "livenessProbe: a daemon that was succeeded listens on no port", "overlays/host-path")

    def test_start_by_a_port_that_two_share(self):
        def mistake(objects):
            container(objects)["startupProbe"] = {"httpGet": {"port": 9464, "path": "/healthz"}}
        self.plant(mistake, "startupProbe: in the node's network the daemon to take over from has the same port")

    def test_wrong_path_and_port_of_a_probe(self):
        def mistake(objects):
            container(objects)["readinessProbe"] = {"httpGet": {"port": 9090, "path": "/health"}}
        self.plant(mistake, "readinessProbe: nothing answers on port 9090 /health: metrics_listen's port is 9464")

    def test_probe_of_a_daemon_without_metrics(self):
        def mistake(objects):
            container(objects)["env"] = []
        objects = render("overlays/host-path")
        mistake(objects)
        self.assertIn("readinessProbe: nothing answers on port 9464 /healthz: metrics_listen's port is None", "\n".join(self.checker.check(objects)))

    def test_a_large_program_every_two_seconds(self):
        for name in ("startupProbe", "livenessProbe"):
            def mistake(objects, name=name):
                container(objects)[name]["periodSeconds"] = 2
            self.plant(mistake, f"{name}: starts a program of 20 MB every 2 s")

    def test_kubelet_gives_up_first(self):
        def mistake(objects):
            container(objects)["livenessProbe"]["timeoutSeconds"] = 1
        self.plant(mistake, "livenessProbe: the kubelet gives up before its --timeout has passed")

    def test_port_declared_under_host_network(self):
        def mistake(objects):
            container(objects)["ports"] = [{"name": "metrics", "containerPort": 9464}]
        self.plant(mistake, "declared ports under hostNetwork are the node's")

    def test_no_surge(self):
        def mistake(objects):
            find(objects, "DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"] = {"maxSurge": 0, "maxUnavailable": 1}
        self.plant(mistake, "maxSurge must be 1 and maxUnavailable 0")

    def test_second_daemon_that_does_not_take_over(self):
        def mistake(objects):
            container(objects)["args"].remove("--take-over")
        self.plant(mistake, "--take-over and --when-succeeded wait are needed")

    # --- rights ---

    def test_privileged(self):
        def mistake(objects):
            container(objects)["securityContext"]["privileged"] = True
        self.plant(mistake, "devmem-loaderd: privileged")

    def test_a_capability_too_many(self):
        def mistake(objects):
            container(objects)["securityContext"]["capabilities"]["add"].append("SYS_ADMIN")
        self.plant(mistake, "devmem-loaderd: capabilities that nothing needs: SYS_ADMIN")

    def test_a_capability_that_is_lost(self):
        def mistake(objects):
            container(objects)["securityContext"].update(runAsUser=10001)
            container(objects, "prepare-socket-folder")["env"][0]["value"] = "10001:10001"
        self.plant(mistake, "capabilities are added for a user who cannot hold them")

    def test_missing_seccomp_profile(self):
        def mistake(objects):
            container(objects)["securityContext"]["seccompProfile"]["localhostProfile"] = "devmem-loader/loader.json"
            args = container(objects, "install-seccomp-profile")["args"]
            args[0] = args[0].replace("devmem-loaderd.json", "loader.json")
        self.plant(mistake, "there is no seccomp profile loader.json in deploy/kubernetes/seccomp")

    def test_seccomp_profile_that_nobody_installs(self):
        def mistake(objects):
            container(objects)["securityContext"]["seccompProfile"]["localhostProfile"] = "devmem-loaderd.json"
        self.plant(mistake, "no init container puts the seccomp profile devmem-loaderd.json into /var/lib/kubelet/seccomp/.")

    def test_no_seccomp_profile(self):
        def mistake(objects):
            container(objects)["securityContext"]["seccompProfile"] = {"type": "Unconfined"}
        self.plant(mistake, "devmem-loaderd: seccompProfile is Unconfined")

    def test_unpinned_image(self):
        def mistake(objects):
            container(objects)["image"] = "localhost/devmem-loader:latest"
        self.plant(mistake, f"the image is localhost/devmem-loader:latest, not that of this tree, localhost/devmem-loader:{VERSION}")

    def test_a_release_by_a_tag(self):
        for image in (f"registry.example/devmem-loader:{VERSION}", "devmem-loader" + DIGEST, f"localhost/devmem-loader:{VERSION}"):
            def mistake(objects, image=image):
                container(filled(objects))["image"] = image
            self.plant(mistake, f"the image is {image}: a release names it by registry and digest", "release/host-path", release=True)

    def test_a_release_whose_init_container_has_a_tag(self):
        """What comes of the components in the wrong order."""
        def mistake(objects):
            container(filled(objects), "load-devmem-binding")["image"] = f"localhost/devmem-loader:{VERSION}"
        self.plant(mistake, "load-devmem-binding: the image is localhost/devmem-loader:", MODULE_OF_RELEASE, release=True)

    def test_a_release_filled_in_by_half(self):
        for image in ("registry.invalid/devmem-loader" + DIGEST, "registry.example/devmem-loader@sha256:" + 64 * "0"):
            def mistake(objects, image=image):
                container(filled(objects))["image"] = image
            self.plant(mistake, "release/image is filled in by half", "release/host-path", release=True)

    def test_gpu_taken_from_trainers(self):
        def mistake(objects):
            container(objects)["resources"]["limits"]["nvidia.com/gpu"] = 1
        self.plant(mistake, "a GPU is requested", "overlays/gpu")

    def test_gpu_that_nobody_gives(self):
        def mistake(objects):
            del pod(objects)["runtimeClassName"]
        self.plant(mistake, "a GPU is asked for without runtimeClassName nvidia", "overlays/gpu")

    def test_runtime_of_gpus_for_nothing(self):
        def mistake(objects):
            pod(objects)["runtimeClassName"] = "nvidia"
            container(objects)["env"].append({"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"})
        self.plant(mistake, "runtimeClassName nvidia, and the device is the CPU")

    def test_token_of_the_api(self):
        def mistake(objects):
            pod(objects)["automountServiceAccountToken"] = True
        self.plant(mistake, "automountServiceAccountToken must be false")

    def test_wildcard_in_a_role(self):
        def mistake(objects):
            find(objects, "Role")["rules"][0]["resources"] = ["*"]
        self.plant(mistake, "Role devmem-loader-metrics: a wildcard", "monitoring", "overlays/devmem")

    # --- variables ---

    def test_variable_that_is_set_too_late(self):
        """As an overlay's patch may put it: what a patch names comes first."""
        def mistake(objects):
            container(objects)["env"].reverse()
        objects = render("overlays/devmem")
        mistake(objects)
        self.assertIn("DEVMEM_METRICS_LISTEN refers to $(POD_IP), which is not set before it", self.checker.check(objects)[0])

    def test_address_that_is_no_ipv6(self):
        """Without brackets it is right for one family only."""
        def mistake(objects):
            container(objects)["env"][1]["value"] = "$(POD_IP):9464"
        self.plant(mistake, "with the pod's address fd00::1:2:3: refused")

    def test_metrics_on_every_address(self):
        for listen in ("0.0.0.0:9464", "[::]:9464", ":9464"):
            def mistake(objects, listen=listen):
                container(objects)["env"][1]["value"] = listen
            self.plant(mistake, "metrics_listen is every address")

    def test_metrics_on_every_address_by_the_file(self):
        def mistake(objects):
            container(objects)["env"] = []
            config(objects)["config.yaml"] += "metrics_listen: 0.0.0.0:9464\n"
        self.plant(mistake, "metrics_listen is every address")

    def test_metrics_address_given_twice(self):
        def mistake(objects):
            config(objects)["config.yaml"] += "metrics_listen: 127.0.0.1:9464\n"
        self.plant(mistake, "metrics_listen of the file is overruled by the variable DEVMEM_METRICS_LISTEN")

    # --- the network's side ---

    def test_policy_that_leads_to_metadata(self):
        def anywhere(rule):
            del rule["to"]

        def hole(rule, block, change):
            rule["to"][block]["ipBlock"]["except"] = change(rule["to"][block]["ipBlock"]["except"])
        for change, message in (
                (anywhere, "lets out to anywhere, link-local addresses included"),
                (lambda rule: hole(rule, 0, lambda holes: holes[1:]), "lets out to 169.254.0.0/16 by 0.0.0.0/0"),
                (lambda rule: hole(rule, 0, lambda holes: ["169.254.169.254/32", *holes[1:]]), "lets out to 169.254.0.0/16 by 0.0.0.0/0"),
                (lambda rule: hole(rule, 1, lambda holes: holes[1:]), "lets out to fe80::/10 by ::/0"),
                (lambda rule: hole(rule, 0, lambda holes: [*holes, "fd00::/8"]), "fd00::/8 is no part of 0.0.0.0/0"),
                (lambda rule: rule["to"].append({"ipBlock": {"cidr": "169.254.169.254/32"}}), None)):
            def mistake(objects, change=change):
                change(find(objects, "NetworkPolicy")["spec"]["egress"][1])
            with self.subTest(message):
                self.plant(mistake, message or "lets out to 169.254.0.0/16 by 169.254.169.254/32", "overlays/host-path")

    def test_policy_for_another_port(self):
        def mistake(objects):
            find(objects, "NetworkPolicy")["spec"]["ingress"][0]["ports"][0]["port"] = 9090
        self.plant(mistake, "lets in to ports [9090], the daemon listens on 9464", "overlays/host-path")

    def test_policy_that_holds_for_nobody(self):
        def mistake(objects):
            objects.append(find(render("overlays/host-path"), "NetworkPolicy"))
        self.plant(mistake, "selects pods of the host's network, for which no policy holds")

    def test_service_of_another_port(self):
        def mistake(objects):
            find(objects, "Service")["spec"]["ports"][0]["targetPort"] = 9465
        self.plant(mistake, "Service devmem-loader: leads to port 9465, the daemon listens on 9464", "monitoring", "overlays/devmem")

    def test_monitor_of_a_port_without_that_name(self):
        def mistake(objects):
            find(objects, "ServiceMonitor")["spec"]["endpoints"][0]["port"] = "http-metrics"
        self.plant(mistake, "the Service has no port named http-metrics", "monitoring", "overlays/devmem")

    # --- the trainer ---

    def test_trainer_without_the_group(self):
        def mistake(objects):
            pod(objects, "Job")["securityContext"]["supplementalGroups"] = [10002]
        self.plant(mistake, "supplementalGroups lacks 10001, the socket's group", "examples/trainer", "overlays/devmem")

    def test_trainer_with_another_folder(self):
        def mistake(objects):
            find(objects, "PersistentVolume")["spec"]["hostPath"]["path"] = "/var/run/loader"
        self.plant(mistake, "leads to /var/run/loader/loader.sock on the node, the daemon's socket is /run/devmem-loader/loader.sock",
                   "examples/trainer", "overlays/devmem")

    def test_trainer_that_could_replace_the_socket(self):
        def mistake(objects):
            del container(objects, "trainer", "Job")["volumeMounts"][0]["readOnly"]
        self.plant(mistake, "a trainer could put its own socket there", "examples/trainer", "overlays/devmem")

    def test_trainer_in_a_namespace_of_any_level(self):
        for labels in ({"pod-security.kubernetes.io/enforce": "privileged"}, {}):
            def mistake(objects, labels=labels):
                find(objects, "Namespace")["metadata"]["labels"] = labels
            self.plant(mistake, "of trainers is not held to Pod Security's level restricted", "examples/trainer", "overlays/devmem")

    def test_trainer_by_host_path(self):
        def mistake(objects):
            pod(objects, "Job")["volumes"][0] = {"name": "socket", "hostPath": {"path": "/run/devmem-loader", "type": "Directory"}}
            pod(objects, "Job")["nodeSelector"] = {"devmem-loader/enabled": "true"}
        self.plant(mistake, "is at Pod Security level restricted and would not admit it: the volume socket is a hostPath",
                   "examples/trainer", "overlays/devmem")

    # --- the volume of the socket's folder ---

    def test_volume(self):
        def change(field, value):
            def mistake(objects):
                find(objects, "PersistentVolume")["spec"][field] = value
            return mistake

        def local(objects):
            spec = find(objects, "PersistentVolume")["spec"]
            spec["local"] = {"path": spec.pop("hostPath")["path"]}
        for mistake, message in ((change("persistentVolumeReclaimPolicy", "Recycle"), "persistentVolumeReclaimPolicy must be Retain"),
                                 (change("storageClassName", "standard"), "storageClassName must be given and empty, or a provisioner"),
                                 (change("claimRef", {"namespace": "default", "name": "devmem-loader-socket"}), "claimRef default/devmem"),
                                 (change("nodeAffinity", {}), "nodeAffinity does not lead to nodes with a daemon"),
                                 (change("hostPath", {"path": "/run/devmem-loader"}), "must be the hostPath of a Directory")):
            with self.subTest(message):
                self.plant_in_volume(mistake, message)
        self.plant_in_volume(local, "local: the kubelet gives such a volume's files to the fsGroup of a pod")

    def plant_in_volume(self, mistake, message):
        """What the pod then lacks is said of the pod as well."""
        objects = render("examples/trainer")
        mistake(objects)
        found = [line for line in self.checker.check(objects, render("overlays/devmem")) if line.startswith("PersistentVolume ")]
        self.assertEqual(len(found), 1, found)
        self.assertIn(message, found[0])

    def test_claim(self):
        def change(**fields):
            def mistake(objects):
                find(objects, "PersistentVolumeClaim")["spec"].update(fields)
            return mistake
        for mistake, message in ((change(storageClassName="standard"), "storageClassName must be given and empty, or the default class"),
                                 (change(accessModes=["ReadWriteOnce"]), "accessModes ['ReadWriteOnce'] are not the volume's"),
                                 (change(resources={"requests": {"storage": "1Gi"}}), "asks for more than the volume has")):
            with self.subTest(message):
                self.plant(mistake, message, "examples/trainer", "overlays/devmem")

    def test_volume_that_may_be_written(self):
        def mistake(objects):
            find(objects, "PersistentVolume")["spec"]["accessModes"] = ["ReadOnlyMany", "ReadWriteMany"]
        self.plant(mistake, "accessModes must be ReadOnlyMany alone", "examples/trainer", "overlays/devmem")

    def test_claim_that_is_taken_to_write(self):
        def mistake(objects):
            del pod(objects, "Job")["volumes"][0]["persistentVolumeClaim"]["readOnly"]
        self.plant(mistake, "the claim devmem-loader-socket is taken without readOnly", "examples/trainer", "overlays/devmem")

    def test_dangling_claim(self):
        def mistake(objects):
            find(objects, "PersistentVolumeClaim")["metadata"]["name"] = "socket"
        objects = render("examples/trainer")
        mistake(objects)
        self.assertIn("there is no PersistentVolumeClaim devmem-loader-socket in devmem-loader-trainer",
                      "\n".join(self.checker.check(objects, render("overlays/devmem"))))


class Restricted(unittest.TestCase):
    """Each rule of Pod Security's level restricted, broken by the example trainer."""

    def violations(self, change=lambda pod, container: None, annotations=None):
        spec = pod(render("examples/trainer"), "Job")
        change(spec, spec["containers"][0])
        return list(pod_security.violations(spec, annotations))

    def test_every_rule(self):
        def of_pod(**fields):
            return lambda pod, container: pod.update(fields)

        def of_pods_context(**fields):
            return lambda pod, container: pod["securityContext"].update(fields)

        def of_container(**fields):
            return lambda pod, container: container.update(fields)

        def of_context(**fields):
            return lambda pod, container: container["securityContext"].update(fields)

        def without(field, of):
            return lambda pod, container: {"pod": pod, "container": container}[of]["securityContext"].pop(field)

        def volume(**source):
            return lambda pod, container: pod["volumes"].append({"name": "more", **source})
        table = [
            (of_pod(hostNetwork=True), "hostNetwork is set"),
            (of_pod(hostPID=True), "hostPID is set"),
            (of_pod(hostIPC=True), "hostIPC is set"),
            (of_pods_context(windowsOptions={"hostProcess": True}), "the pod: a HostProcess"),
            (of_context(windowsOptions={"hostProcess": True}), "trainer: a HostProcess"),
            (of_context(privileged=True), "trainer: privileged"),
            (of_context(capabilities={"drop": ["ALL"], "add": ["CHOWN"]}), "trainer: capabilities CHOWN"),
            (of_context(capabilities={"drop": ["NET_RAW"]}), "trainer: capabilities do not drop ALL"),
            (without("capabilities", "container"), "trainer: capabilities do not drop ALL"),
            (volume(hostPath={"path": "/etc"}), "the volume more is a hostPath"),
            (volume(nfs={"server": "a", "path": "/"}), "the volume more is a nfs"),
            (of_container(ports=[{"containerPort": 80, "hostPort": 80}]), "trainer: hostPort 80"),
            (of_container(startupProbe={"httpGet": {"port": 80, "host": "10.0.0.1"}}), "trainer: a probe or hook names the host 10.0.0.1"),
            (of_container(lifecycle={"preStop": {"tcpSocket": {"port": 80, "host": "::1"}}}), "trainer: a probe or hook names the host ::1"),
            (of_pods_context(appArmorProfile={"type": "Unconfined"}), "the pod: AppArmor is Unconfined"),
            (of_context(seLinuxOptions={"type": "spc_t"}), "trainer: SELinux options of its own"),
            (of_pods_context(seLinuxOptions={"role": "system_r"}), "the pod: SELinux options of its own"),
            (of_context(procMount="Unmasked"), "trainer: procMount is Unmasked"),
            (of_context(seccompProfile={"type": "Unconfined"}), "trainer: the seccomp profile is Unconfined"),
            (without("seccompProfile", "pod"), "trainer: no seccomp profile"),
            (of_pods_context(sysctls=[{"name": "net.core.somaxconn", "value": "1"}]), "the sysctl net.core.somaxconn is not a safe one"),
            (without("allowPrivilegeEscalation", "container"), "trainer: allowPrivilegeEscalation is not false"),
            (of_context(allowPrivilegeEscalation=True), "trainer: allowPrivilegeEscalation is not false"),
            (without("runAsNonRoot", "pod"), "trainer: runAsNonRoot is not true"),
            (of_context(runAsNonRoot=False), "trainer: runAsNonRoot is not true"),
            (of_context(runAsUser=0), "trainer: runAsUser is 0"),
            (of_pods_context(runAsUser=0), "the pod: runAsUser is 0"),
        ]
        for change, message in table:
            with self.subTest(message):
                self.assertEqual(self.violations(change), [message])
        self.assertEqual(self.violations(annotations={pod_security.APPARMOR + "trainer": "unconfined"}), ["AppArmor is unconfined"])

    def test_containers_of_every_kind(self):
        for kind in ("initContainers", "ephemeralContainers"):
            def change(pod, container, kind=kind):
                pod[kind] = [{**container, "name": "other", "securityContext": {**container["securityContext"], "privileged": True}}]
            self.assertEqual(self.violations(change), ["other: privileged"])


class Renderer(unittest.TestCase):
    """It refuses what it does not know, rather than leave it out."""

    def test_unknown_field(self):
        with self.assertRaisesRegex(kustomize.Unknown, "does not know commonLabels"):
            kustomize._only("k", {"resources", "commonLabels"}, kustomize.KINDS["Kustomization"])

    def test_component_in_the_place_of_a_resource(self):
        with self.assertRaisesRegex(kustomize.Unknown, "kind is Component, not Kustomization"):
            kustomize.render(DEPLOY / "components/gpu")

    def test_names_of_images(self):
        for image in ("a/b", "a/b:1", "a/b@sha256:00", "a/b:1@sha256:00"):
            self.assertEqual(kustomize.image_name(image), "a/b")
        self.assertEqual(kustomize.image_name("r:5000/a"), "r:5000/a")

    def test_patch_of_what_is_not_there(self):
        patch = {"kind": "DaemonSet", "metadata": {"name": "loader"}}
        with self.assertRaisesRegex(kustomize.Unknown, "there is no DaemonSet//loader to patch"):
            kustomize._patch(render("overlays/devmem"), patch, "p")

    def test_list_that_cannot_be_merged(self):
        with self.assertRaisesRegex(kustomize.Unknown, "tells the elements of tolerations apart"):
            kustomize.merge({}, {"tolerations": [{"key": "a"}]})

    def test_key_given_twice(self):
        path = pathlib.Path(os.environ.get("TMPDIR", "/tmp")) / f"twice-{os.getpid()}.yaml"
        path.write_text("a: 1\na: 2\n", encoding="utf-8")
        self.addCleanup(path.unlink)
        with self.assertRaisesRegex(kustomize.Unknown, "'a' is given twice"):
            kustomize.load(path)

    def test_order_of_a_merged_list(self):
        """As kustomize: what the patch names comes first. Init containers run in this order."""
        base, patch = [{"name": name} for name in "abc"], [{"name": "n"}, {"name": "c", "image": "x"}, {"name": "a", "$patch": "delete"}]
        merged = kustomize.merge({"initContainers": base}, {"initContainers": patch})["initContainers"]
        self.assertEqual(merged, [{"name": "n"}, {"name": "c", "image": "x"}, {"name": "b"}])


class Profile(unittest.TestCase):
    """Mistakes in the seccomp profile."""

    def problems(self, change):
        profile = json.loads((DEPLOY / "seccomp/devmem-loaderd.json").read_text(encoding="utf-8"))
        change(profile)
        return "; ".join(manifests.profile_problems(profile))

    def test_profile_that_allows_everything(self):
        self.assertIn("defaultAction is SCMP_ACT_ALLOW", self.problems(lambda profile: profile.update(defaultAction="SCMP_ACT_ALLOW")))

    def test_profile_that_allows_a_way_out(self):
        self.assertIn("allows what it must not: ptrace, unshare",
                      self.problems(lambda profile: profile["syscalls"][0]["names"].extend(["ptrace", "unshare"])))

    def test_profile_without_io_uring(self):
        self.assertIn("does not allow io_uring_enter, io_uring_register, io_uring_setup", self.problems(lambda profile: profile["syscalls"].pop(1)))

    def test_profile_in_another_runtimes_form(self):
        self.assertIn("not every runtime reads: archMap", self.problems(lambda profile: profile.update(archMap=[])))


if __name__ == "__main__":
    unittest.main()
