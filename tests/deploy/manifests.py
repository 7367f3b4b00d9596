# SPDX-License-Identifier: Apache-2.0
"""What is wrong with rendered manifests: what Kubernetes' schemas say, and what they cannot say.

    problems = Checker(schemas, programs).check(overlay_objects)      # lines; none: nothing is wrong

The manifests are held against the programs themselves: flags by their --help, values by their --print-config.
"""
import ipaddress
import json
import os
import pathlib
import re
import subprocess
import tempfile

import jsonschema
import yaml

import kustomize
import pod_security

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy/kubernetes"
IMAGE = "localhost/devmem-loader"  # as ./dev image calls it; a release says another name, and a digest
UNFILLED = "registry.invalid/devmem-loader@sha256:" + 64 * "0"  # deploy/kubernetes/release/image before a release: no pod starts
SCHEMAS = "DEVMEM_KUBERNETES_SCHEMAS"  # a folder of them; else the one that CI has beside the checkout

GIB = 1 << 30
OVERHEAD = GIB  # of the daemon besides slabs: threads, gRPC, receive buffers; measured 43 MiB at 16 MiB of slabs
END = 5  # seconds in which streams are ended after drain_timeout (service/daemon.cc)

# What each container may hold, and what for: deploy/kubernetes/README.md.
CAPABILITIES = {
    "devmem-loaderd": {"NET_ADMIN"},
    "prepare-socket-folder": {"CHOWN", "FOWNER"},
    "install-seccomp-profile": set(),
    "load-devmem-binding": {"SYS_MODULE"},
    "trainer": set(),
}
# Where no egress rule may lead: a trainer names what the daemon asks for, and there the node's own credentials are given out.
METADATA = [ipaddress.ip_network(network) for network in ("169.254.0.0/16", "fe80::/10", "168.63.129.16/32", "fd00:ec2::254/128",
                                                          "fd20:ce::254/128")]
POD_IPS = ("10.1.2.3", "fd00::1:2:3")  # what status.podIP may be
EVERY = {"startupProbe": 5, "readinessProbe": 30, "livenessProbe": 30}  # seconds at least between two runs of the CLI, which is large
# No profile of ours may have these: each is a way out of a container, or a large piece of kernel that the daemon does not use.
NEVER = {"add_key", "bpf", "delete_module", "finit_module", "fsopen", "init_module", "kexec_load", "keyctl", "mount", "move_mount",
         "name_to_handle_at", "open_by_handle_at", "open_tree", "perf_event_open", "pivot_root", "process_vm_readv", "process_vm_writev",
         "ptrace", "reboot", "request_key", "setns", "swapon", "umount2", "unshare", "userfaultfd"}


def schema_folder():
    """Where the schemas are, or None: they are not part of the repository."""
    for folder in (os.environ.get(SCHEMAS), ROOT.parent / "shared/data/kubernetes"):
        if folder and (pathlib.Path(folder) / "apis_apps_v1.json").is_file():
            return pathlib.Path(folder)
    return None


class Schemas:
    """Of every kind, strict: a field that is not in them is an error."""

    def __init__(self, folder):
        self.by_kind = {}
        for path in sorted(folder.glob("*.json")):
            document = json.loads(path.read_text(encoding="utf-8"))
            schemas = document["components"]["schemas"]
            for schema in schemas.values():
                if "properties" in schema:
                    schema["additionalProperties"] = False
            for name, schema in schemas.items():
                for kind in schema.get("x-kubernetes-group-version-kind", []):
                    version = "/".join(filter(None, (kind["group"], kind["version"])))
                    self.by_kind[version, kind["kind"]] = (document, name)

    def check(self, thing):
        key = thing.get("apiVersion"), thing.get("kind")
        if key == ("monitoring.coreos.com/v1", "ServiceMonitor"):
            return  # a custom resource: Checker looks at the few fields used
        if key not in self.by_kind:
            yield f"no schema of {key[0]} {key[1]}"
            return
        document, name = self.by_kind[key]
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        for error in jsonschema.Draft7Validator(schema).iter_errors(thing):
            path = ".".join(str(part) for part in error.absolute_path) or "(top)"
            yield f"{path}: {error.message[:300]}"


class Programs:
    """What the programs of this tree know. `folder` holds devmem-loader and devmem-loaderd."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self._help = {}

    def flags(self, program, verb=None):
        """Flag -> whether it takes a value."""
        key = program, verb
        if key not in self._help:
            text = subprocess.run([self.folder / program, *filter(None, [verb]), "--help"], capture_output=True, text=True, check=True,
                                  timeout=30).stdout
            self._help[key] = {flag: bool(value) for flag, value in re.findall(r"^  (--[a-z0-9-]+)( \S+)?", text, re.M)}
        return self._help[key]

    def verbs(self):
        text = subprocess.run([self.folder / "devmem-loader", "--help"], capture_output=True, text=True, check=True, timeout=30).stdout
        return {verb for line in re.findall(r"devmem-loader ([a-z|]+)", text) for verb in line.split("|")}

    def refuse(self, program, arguments, environment):
        """Why the program would not start with these, or None."""
        done = subprocess.run([self.folder / program, *arguments, "--print-config"], capture_output=True, text=True, check=False,
                              timeout=30, env={"PATH": os.environ["PATH"], **environment})
        return None if done.returncode == 0 else done.stderr.strip()


def size(text):
    """Bytes of a size as flags have it ("16GiB") or as Kubernetes has it ("18Gi")."""
    number, unit = re.fullmatch(r"(\d+)\s*([KMGT]i)?B?", str(text)).groups()
    return int(number) << {None: 0, "Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}[unit]


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


def matches(selector, labels):
    wanted = (selector or {}).get("matchLabels", {})
    return bool(wanted) and wanted.items() <= (labels or {}).items()


def parse(arguments):
    """[(flag, value or None)] of a command line, and what stands outside of any flag."""
    flags, rest, index = [], [], 0
    while index < len(arguments):
        if not arguments[index].startswith("--"):
            rest.append(arguments[index])
        elif "=" in arguments[index]:
            flags.append(tuple(arguments[index].split("=", 1)))
        elif index + 1 < len(arguments) and not arguments[index + 1].startswith("--"):
            flags.append((arguments[index], arguments[index + 1]))
            index += 1
        else:
            flags.append((arguments[index], None))
        index += 1
    return flags, rest


def environment(container, bad=lambda text: None, pod_ip=POD_IPS[0]):
    """Its variables, as the kubelet hands them over."""
    env = {}
    for each in container.get("env", []):
        if "value" not in each:
            path = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            if path != "status.podIP":
                bad(f"the variable {each['name']} comes from {path}, which is not known here")
            env[each["name"]] = pod_ip
            continue
        env[each["name"]] = each["value"]
        for name in re.findall(r"\$\(([^)]+)\)", each["value"]):
            if name not in env or name == each["name"]:
                bad(f"{each['name']} refers to $({name}), which is not set before it: the kubelet would leave it as it stands")
            env[each["name"]] = env[each["name"]].replace(f"$({name})", env.get(name, ""))
    return env


class Checker:
    def __init__(self, schemas, programs, version):
        self.schemas, self.programs, self.version = schemas, programs, version

    def check(self, objects, beside=(), release=False):
        """`beside`: objects that are applied too, and may be referred to. Of a release, images are named by digest; otherwise they are
        those that ./dev image made here."""
        self.objects, self.all, self.found, self.release = objects, [*objects, *beside], [], release
        for thing in objects:
            name = f"{thing.get('kind')} {thing.get('metadata', {}).get('name')}"
            wrong = [f"{name}: {problem}" for problem in self.schemas.check(thing)]
            self.found += wrong
            if wrong:
                continue  # what follows relies on the shape
            check = getattr(self, f"_{thing['kind'].lower()}", None)
            if check is not None:
                self.where = name
                check(thing)
        return self.found

    def _bad(self, text):
        self.found.append(f"{self.where}: {text}")

    def _find(self, kind, name, namespace=None):
        return next((thing for thing in self.all if thing["kind"] == kind and thing["metadata"]["name"] == name and
                     thing["metadata"].get("namespace") == namespace), None)

    def _daemon_sets(self):
        return [thing for thing in self.all if thing["kind"] == "DaemonSet"]

    # --- what has pods ---

    def _daemonset(self, thing):
        spec = thing["spec"]
        template = spec["template"]
        if not matches(spec["selector"], template["metadata"].get("labels")):
            self._bad("the selector does not match the template's labels")
        pod = template["spec"]
        self._pod(pod, thing["metadata"]["namespace"])
        container = next((each for each in pod["containers"] if each["name"] == "devmem-loaderd"), None)
        if container is None:
            self._bad("no container is named devmem-loaderd")
            return
        self._daemon(pod, container, thing["metadata"]["namespace"])
        rolling = spec.get("updateStrategy", {}).get("rollingUpdate", {})
        if (rolling.get("maxSurge"), rolling.get("maxUnavailable")) != (1, 0):
            self._bad("a new daemon takes over from a living one: maxSurge must be 1 and maxUnavailable 0")
        if pod.get("hostNetwork"):
            if pod.get("dnsPolicy") != "ClusterFirstWithHostNet":
                self._bad("hostNetwork without dnsPolicy ClusterFirstWithHostNet: the cluster's names do not resolve")
            for each in self._containers(pod):
                if each.get("ports"):
                    self._bad(f"{each['name']}: declared ports under hostNetwork are the node's: the second pod of an upgrade fits nowhere")
        env = environment(container)
        device = env.get("DEVMEM_DEVICE") or (self._file(pod, container, thing["metadata"]["namespace"]) or {}).get("device", "cpu")
        if pod.get("runtimeClassName") == "nvidia":
            if env.get("NVIDIA_VISIBLE_DEVICES") != "all":
                self._bad("runtimeClassName nvidia without NVIDIA_VISIBLE_DEVICES=all: no GPU is visible")
            if device == "cpu":
                self._bad("runtimeClassName nvidia, and the device is the CPU: a node without that class could not run it, for nothing")
            resources = container["resources"]
            if any("nvidia.com/" in name for kind in ("requests", "limits") for name in resources.get(kind, {})):
                self._bad("a GPU is requested: it would be taken from trainers")
        elif device != "cpu" or any(name.startswith("NVIDIA_") for name in env):
            self._bad("a GPU is asked for without runtimeClassName nvidia, which gives it")

    def _job(self, thing):
        self.namespace = thing["metadata"]["namespace"]
        pod = thing["spec"]["template"]["spec"]
        self._pod(pod, thing["metadata"]["namespace"])
        for container in pod["containers"]:
            service = self._command(container, container["command"] + container.get("args", []))
            for daemon_set in self._daemon_sets():
                self._trainer(pod, container, service, daemon_set)

    def _trainer(self, pod, container, service, daemon_set):
        daemon_pod = daemon_set["spec"]["template"]["spec"]
        daemon = next(each for each in daemon_pod["containers"] if each["name"] == "devmem-loaderd")
        theirs = self._folder(daemon_pod, daemon, self._socket(daemon), daemon_set["metadata"]["namespace"])
        ours = self._folder(pod, container, service, self.namespace)
        if theirs != ours or ours is None:
            self._bad(f"--service {service} leads to {ours} on the node, the daemon's socket is {theirs}")
        for mount in container.get("volumeMounts", []):
            volume = next(volume for volume in pod["volumes"] if volume["name"] == mount["name"])
            if self._node_path(volume, self.namespace) is not None and not mount.get("readOnly"):
                self._bad(f"the node's folder {mount['mountPath']} is mounted writable: a trainer could put its own socket there")
        group = daemon_pod["securityContext"]["runAsGroup"]
        if group not in pod["securityContext"].get("supplementalGroups", []):
            self._bad(f"supplementalGroups lacks {group}, the socket's group")
        labels = self._labels(daemon_pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"])
        by_volume = [self._labels((self._volume_of(volume, self.namespace) or {}).get("spec", {}).get("nodeAffinity", {}).get("required", {}))
                     for volume in pod["volumes"]]
        if labels not in by_volume and not any(pod.get("nodeSelector", {}).get(key) in values for key, values in labels.items()):
            self._bad(f"neither nodeSelector nor the volume's nodeAffinity asks for a node with a daemon: {labels}")
        namespace = self._find("Namespace", self.namespace)
        if namespace is None or namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            self._bad(f"the namespace {self.namespace} of trainers is not held to Pod Security's level restricted")

    @staticmethod
    def _labels(selector):
        """What labels of a node a selector asks for."""
        return {rule["key"]: rule["values"] for term in selector.get("nodeSelectorTerms", []) for rule in term["matchExpressions"]
                if rule["operator"] == "In"}

    _containers = staticmethod(kustomize.containers)

    def _pod(self, pod, namespace):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        used = set()
        for container in self._containers(pod):
            self._container(pod, container)
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            for mount in container.get("volumeMounts", []):
                used.add(mount["name"])
                if mount["name"] not in volumes:
                    self._bad(f"{container['name']}: {mount['mountPath']} is mounted from the volume {mount['name']}, which there is not")
            if len(set(paths)) != len(paths):
                self._bad(f"{container['name']}: a path is mounted twice")
        for name in sorted(set(volumes) - used):
            self._bad(f"the volume {name} is mounted nowhere")
        for volume in volumes.values():
            if "configMap" in volume and self._find("ConfigMap", volume["configMap"]["name"], namespace) is None:
                self._bad(f"the volume {volume['name']} is of the ConfigMap {volume['configMap']['name']}, which there is not")
            if "hostPath" in volume and not volume["hostPath"].get("type"):
                self._bad(f"the hostPath {volume['hostPath']['path']} has no type: nobody looks whether it is there")
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]
                if self._find("PersistentVolumeClaim", claim["claimName"], namespace) is None:
                    self._bad(f"there is no PersistentVolumeClaim {claim['claimName']} in {namespace}")
                if not claim.get("readOnly"):
                    self._bad(f"the claim {claim['claimName']} is taken without readOnly")
        level = (self._find("Namespace", namespace) or {"metadata": {}})["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
        if level == "restricted":
            for violation in pod_security.violations(pod):
                self._bad(f"{namespace} is at Pod Security level restricted and would not admit it: {violation}")
        account = pod.get("serviceAccountName")
        if account is not None and self._find("ServiceAccount", account, namespace) is None:
            self._bad(f"there is no ServiceAccount {account}")
        if pod.get("automountServiceAccountToken") is not False:
            self._bad("automountServiceAccountToken must be false: nothing here asks the API server")
        priority = pod.get("priorityClassName")
        if priority is not None and self._find("PriorityClass", priority) is None:
            self._bad(f"there is no PriorityClass {priority}")
        for field in ("hostPID", "hostIPC", "shareProcessNamespace"):
            if pod.get(field):
                self._bad(f"{field} is set: the daemon is process 1 of its container, and needs to see no other")

    def _container(self, pod, container):
        name = container["name"]

        def bad(text):
            self._bad(f"{name}: {text}")
        if self.release:
            digest = re.fullmatch(r"[a-z0-9.-]+(?::\d+)?(?:/[a-z0-9._-]+)+@sha256:([0-9a-f]{64})", container["image"])
            if digest is None:
                bad(f"the image is {container['image']}: a release names it by registry and digest; a tag may be another image tomorrow")
            elif (digest[1] == 64 * "0" or "registry.invalid" in container["image"]) and container["image"] != UNFILLED:
                bad(f"the image is {container['image']}: release/image is filled in by half")
        elif container["image"] != f"{IMAGE}:{self.version}":
            bad(f"the image is {container['image']}, not that of this tree, {IMAGE}:{self.version}")
        environment(container, bad)
        security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
        if security.get("privileged"):
            bad("privileged")
        if security.get("allowPrivilegeEscalation") is not False:
            bad("allowPrivilegeEscalation must be false")
        if security.get("readOnlyRootFilesystem") is not True:
            bad("readOnlyRootFilesystem must be true")
        capabilities = security.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"]:
            bad("capabilities must drop ALL")
        added = set(capabilities.get("add", []))
        if extra := added - CAPABILITIES.get(name, set()):
            bad(f"capabilities that nothing needs: {', '.join(sorted(extra))}")
        if added and security.get("runAsUser") != 0:
            bad("capabilities are added for a user who cannot hold them under no_new_privs: runAsUser must be 0")
        if security.get("runAsUser") == 0 and not added and name != "install-seccomp-profile":
            bad("runs as root and needs no right of root's")
        if security.get("runAsUser") == 0 and security.get("runAsNonRoot"):
            bad("runAsUser 0 with runAsNonRoot: the kubelet refuses to start it")
        profile = security.get("seccompProfile", {})
        if profile.get("type") == "Localhost":
            self._localhost(pod, container, profile.get("localhostProfile", ""))
        elif profile.get("type") != "RuntimeDefault":
            bad(f"seccompProfile is {profile.get('type')}")
        elif "localhostProfile" in profile:
            bad("localhostProfile goes with type Localhost only")
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
            bad("requests of cpu and memory and a limit of memory are needed")

    def _localhost(self, pod, container, profile):
        """The profile is in the repository, and an init container puts it where the kubelet looks."""
        name = pathlib.PurePosixPath(profile).name
        if not (DEPLOY / "seccomp" / name).is_file():
            self._bad(f"{container['name']}: there is no seccomp profile {name} in deploy/kubernetes/seccomp")
        folder = f"/var/lib/kubelet/seccomp/{pathlib.PurePosixPath(profile).parent}"
        ours = next((volume["name"] for volume in pod.get("volumes", []) if volume.get("hostPath", {}).get("path") == folder), None)
        if not any(ours == mount["name"] and name in " ".join(each.get("args", [])) for each in pod.get("initContainers", [])
                   for mount in each.get("volumeMounts", [])):
            self._bad(f"{container['name']}: no init container puts the seccomp profile {profile} into {folder}")

    # --- the daemon ---

    def _command(self, container, command):
        """Checks a command line of one of our programs; the path of its --service, if any."""
        program = pathlib.PurePosixPath(command[0])
        label = f"{container['name']}: {' '.join(command[:2])}"
        if str(program.parent) != "/usr/bin" or program.name not in ("devmem-loader", "devmem-loaderd"):
            self._bad(f"{label}: the image has no {command[0]}")
            return None
        verb = command[1] if program.name == "devmem-loader" and len(command) > 1 and not command[1].startswith("-") else None
        if verb is not None and verb not in self.programs.verbs():
            self._bad(f"{label}: devmem-loader has no verb {verb}")
            return None
        known = self.programs.flags(program.name, verb)
        flags, rest = parse(command[2 if verb else 1:])
        for flag, value in flags:
            if flag not in known:
                self._bad(f"{label}: {program.name} has no flag {flag}")
            elif known[flag] != (value is not None):
                self._bad(f"{label}: {flag} {'needs a value' if known[flag] else 'takes no value'}")
        for word in rest:
            self._bad(f"{label}: '{word}' belongs to no flag")
        if not any(line.startswith(f"{self.where}: {label}") for line in self.found):
            words = [word for flag, value in flags if flag in known and flag != "--config"  # its file is looked at by itself
                     for word in ([flag] if value is None else [flag, value])]
            if why := self.programs.refuse(program.name, [*filter(None, [verb]), *words], {}):
                self._bad(f"{label}: refused: {why}")
        service = dict(flags).get("--service")
        return None if service is None else service.removeprefix("unix:")

    def _socket(self, daemon):
        return dict(parse(daemon.get("args", []))[0]).get("--socket", "/run/devmem-loader/loader.sock")

    def _volume_of(self, volume, namespace):
        """The PersistentVolume behind a pod's volume, or None."""
        claim = self._find("PersistentVolumeClaim", volume.get("persistentVolumeClaim", {}).get("claimName"), namespace)
        return claim and self._find("PersistentVolume", claim["spec"].get("volumeName"))

    def _node_path(self, volume, namespace):
        """The node's path that a pod's volume is, by hostPath or by a claim; None if it is none."""
        if "hostPath" in volume:
            return volume["hostPath"]["path"]
        persistent = self._volume_of(volume, namespace)
        return persistent and persistent["spec"].get("hostPath", {}).get("path")

    def _folder(self, pod, container, path, namespace):
        """Where a path of the container is on the node; None if it is not."""
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            host = self._node_path(volumes.get(mount["name"], {}), namespace)
            if host and path and pathlib.PurePosixPath(path).is_relative_to(mount["mountPath"]):
                return str(pathlib.PurePosixPath(host) / pathlib.PurePosixPath(path).relative_to(mount["mountPath"]))
        return None

    def _daemon(self, pod, container, namespace):
        self._command(container, container["command"] + container.get("args", []))
        flags = dict(parse(container.get("args", []))[0])
        socket = self._socket(container)
        on_node = self._folder(pod, container, socket, namespace)
        if on_node is None:
            self._bad(f"the socket {socket} lies in no folder of the node: no trainer can reach it")
        mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", [])}
        if any(mount.get("readOnly") and pathlib.PurePosixPath(socket).is_relative_to(path) for path, mount in mounts.items()):
            self._bad(f"the folder of the socket {socket} is mounted read-only")
        if "--take-over" not in flags or flags.get("--when-succeeded") != "wait":
            self._bad("maxSurge starts a second daemon on the socket: --take-over and --when-succeeded wait are needed")
        if on_node is not None and not any(self._folder(pod, each, str(pathlib.PurePosixPath(socket).parent), namespace) ==
                                           str(pathlib.PurePosixPath(on_node).parent) for each in pod.get("initContainers", [])):
            self._bad("no init container sets the modes of the socket's folder")
        owner = next((env["value"] for each in pod.get("initContainers", []) for env in each.get("env", []) if env["name"] == "OWNER"), None)
        security = {**pod["securityContext"], **container["securityContext"]}
        if owner != f"{security['runAsUser']}:{security['runAsGroup']}":
            self._bad(f"the socket's folder is given to {owner}, the daemon runs as {security['runAsUser']}:{security['runAsGroup']}")
        config = self._config(pod, container, namespace, flags.get("--config"))
        listen = self._metrics(container, config)
        for name in EVERY:
            self._probe(pod, container, name, socket, listen)
        if config is None:
            return
        limit = size(container["resources"]["limits"]["memory"])
        if "memory_limit" not in config:
            self._bad("memory_limit is not set: nothing can be said of whether it fits into the container's")
        elif limit < size(config["memory_limit"]) + OVERHEAD:
            self._bad(f"memory_limit {config['memory_limit']} and the daemon's own do not fit into the container's limit, "
                      f"{container['resources']['limits']['memory']}")
        end = pod.get("terminationGracePeriodSeconds", 30)
        if end <= seconds(config.get("drain_timeout", "30s")) + END:
            self._bad(f"terminationGracePeriodSeconds {end} ends a daemon that still drains")

    def _file(self, pod, container, namespace):
        """The configuration file as a map, without a word on what is wrong with it; None if there is none."""
        found, self.found = self.found, []
        try:
            return self._config(pod, container, namespace, dict(parse(container.get("args", []))[0]).get("--config"), quick=True)
        finally:
            self.found = found

    def _metrics(self, container, config):
        """(host, port) of metrics_listen; the port is None where nothing listens."""
        listen = None
        for pod_ip in POD_IPS:
            env = {name: value for name, value in environment(container, pod_ip=pod_ip).items() if name.startswith("DEVMEM_")}
            if why := self.programs.refuse("devmem-loaderd", [], env):
                self._bad(f"with the pod's address {pod_ip}: refused: {why}")
            listen = env.get("DEVMEM_METRICS_LISTEN")
        if listen is not None and "metrics_listen" in (config or {}):
            self._bad("metrics_listen of the file is overruled by the variable DEVMEM_METRICS_LISTEN")
        host, _, port = (listen if listen is not None else str((config or {}).get("metrics_listen", ""))).rpartition(":")
        if port and host.strip("[]") in ("", "0.0.0.0", "::"):
            self._bad("metrics_listen is every address of the pod's network, in the node's network also those it is reached at from outside: "
                      "give it $(POD_IP)")
        return host, int(port) if port.isdigit() else None

    def _config(self, pod, container, namespace, path, quick=False):
        """The configuration file as a map; None if there is none."""
        if path is None:
            self._bad("no --config")
            return None
        folder, name = str(pathlib.PurePosixPath(path).parent), pathlib.PurePosixPath(path).name
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mount = next((mount for mount in container.get("volumeMounts", []) if mount["mountPath"] == folder), None)
        source = volumes.get(mount["name"], {}).get("configMap") if mount else None
        if source is None:
            self._bad(f"--config {path}: no ConfigMap is mounted at {folder}")
            return None
        config_map = self._find("ConfigMap", source["name"], namespace)
        if config_map is None:
            return None  # said already
        if name not in config_map["data"]:
            self._bad(f"--config {path}: the ConfigMap has no {name}, but {', '.join(config_map['data'])}")
            return None
        config = yaml.safe_load(config_map["data"][name]) or {}
        if quick:
            return config
        known = self.programs.flags("devmem-loaderd")
        unknown = [key for key in config if "--" + key.replace("_", "-") not in known]
        for key in unknown:
            self._bad(f"{name}: devmem-loaderd knows no {key}")
        why = None
        if not unknown:  # the daemon would only say it again
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(config_map["data"][name])
                file.flush()
                why = self.programs.refuse("devmem-loaderd", ["--config", file.name], {})
        if why:
            self._bad(f"{name}: refused: {why}")
        return config

    def _probe(self, pod, container, name, socket, listen):
        probe = container.get(name)
        if probe is None:
            self._bad(f"no {name}")
            return
        if "httpGet" in probe:
            get = probe["httpGet"]
            if get["port"] != listen[1] or get.get("path") != "/healthz":
                self._bad(f"{name}: nothing answers on port {get['port']} {get.get('path')}: metrics_listen's port is {listen[1]}, its page "
                          "is /healthz")
            if name == "livenessProbe":
                self._bad(f"{name}: a daemon that was succeeded listens on no port, and would be started again: ask on the socket")
            if name == "startupProbe" and pod.get("hostNetwork"):
                self._bad(f"{name}: in the node's network the daemon to take over from has the same port, and would answer for it: ask by exec")
            return
        command = probe.get("exec", {}).get("command")
        if not command:
            self._bad(f"{name}: neither exec nor httpGet")
            return
        service = self._command({"name": name}, command)
        flags = dict(parse(command[2:])[0])
        if service != socket:
            self._bad(f"{name}: asks {service}, the daemon's socket is {socket}")
        if probe.get("periodSeconds", 10) < EVERY[name]:
            self._bad(f"{name}: starts a program of 20 MB every {probe.get('periodSeconds', 10)} s: every {EVERY[name]} s, or ask /healthz")
        if seconds(flags.get("--timeout", "5s")) >= probe.get("timeoutSeconds", 1):
            self._bad(f"{name}: the kubelet gives up before its --timeout has passed, and the reason is lost")
        asks_pid = flags.get("--pid") == "1"
        if asks_pid == (name == "livenessProbe"):
            self._bad(f"{name}: " + ("a daemon that was succeeded would be started again: no --pid" if asks_pid else
                                     "the daemon to take over from would answer for it: --pid 1"))

    # --- the rest ---

    def _serviceaccount(self, thing):
        if thing.get("automountServiceAccountToken") is not False:
            self._bad("automountServiceAccountToken must be false")

    def _role(self, thing):
        for rule in thing.get("rules", []):
            if any("*" in value for field in ("apiGroups", "resources", "verbs") for value in rule.get(field, [])):
                self._bad("a wildcard")
            if extra := set(rule["verbs"]) - {"get", "list", "watch"}:
                self._bad(f"more than reading: {', '.join(sorted(extra))}")
            if "secrets" in rule.get("resources", []):
                self._bad("secrets")

    def _clusterrole(self, _):
        self._bad("nothing here needs a right over the whole cluster")

    _clusterrolebinding = _clusterrole

    def _rolebinding(self, thing):
        if self._find("Role", thing["roleRef"]["name"], thing["metadata"]["namespace"]) is None:
            self._bad(f"there is no Role {thing['roleRef']['name']}")

    def _selects(self, selector, namespace):
        return [each for each in self._daemon_sets() if each["metadata"]["namespace"] == namespace and
                matches(selector, each["spec"]["template"]["metadata"].get("labels"))]

    def _metrics_port(self, daemon_set):
        pod, namespace = daemon_set["spec"]["template"]["spec"], daemon_set["metadata"]["namespace"]
        container = next(each for each in pod["containers"] if each["name"] == "devmem-loaderd")
        found, self.found = self.found, []
        try:  # what is wrong with it is said of the DaemonSet
            return self._metrics(container, self._file(pod, container, namespace))[1]
        finally:
            self.found = found

    def _networkpolicy(self, thing):
        selected = self._selects(thing["spec"].get("podSelector"), thing["metadata"]["namespace"])
        if not selected:
            self._bad("selects no pod of ours")
        for each in selected:
            if each["spec"]["template"]["spec"].get("hostNetwork"):
                self._bad("selects pods of the host's network, for which no policy holds")
            ports = [port.get("port") for rule in thing["spec"].get("ingress", []) for port in rule.get("ports", [])]
            if ports != [self._metrics_port(each)]:
                self._bad(f"lets in to ports {ports}, the daemon listens on {self._metrics_port(each)}")
        if set(thing["spec"].get("policyTypes", [])) != {"Ingress", "Egress"}:
            self._bad("policyTypes must be Ingress and Egress")
        for rule in thing["spec"].get("egress", []):
            if not rule.get("to"):
                self._bad("lets out to anywhere, link-local addresses included, where clouds give out the node's credentials")
            for to in rule.get("to", []):
                if "ipBlock" in to:
                    self._block(to["ipBlock"])

    def _block(self, block):
        network = ipaddress.ip_network(block["cidr"])
        excepted = [ipaddress.ip_network(each) for each in block.get("except", [])]
        for each in excepted:
            if each.version != network.version or not each.subnet_of(network) or each == network:
                self._bad(f"{each} is no part of {network}: the API server refuses it")
                return
        for each in METADATA:
            if each.version == network.version and each.overlaps(network) and not any(each.subnet_of(hole) for hole in excepted):
                self._bad(f"lets out to {each} by {network}: there clouds give out the node's credentials")

    def _persistentvolume(self, thing):
        spec = thing["spec"]
        if "local" in spec:
            self._bad("local: the kubelet gives such a volume's files to the fsGroup of a pod that takes it; hostPath it leaves alone")
            return
        if spec.get("hostPath", {}).get("type") != "Directory":
            self._bad("must be the hostPath of a Directory that is there")
        if spec.get("persistentVolumeReclaimPolicy") != "Retain":
            self._bad("persistentVolumeReclaimPolicy must be Retain: the folder is the daemon's, and is not to be emptied")
        if spec.get("accessModes") != ["ReadOnlyMany"]:
            self._bad("accessModes must be ReadOnlyMany alone: connecting does not write")
        if spec.get("storageClassName") != "":
            self._bad("storageClassName must be given and empty, or a provisioner takes it for its own")
        reference = spec.get("claimRef", {})
        claim = self._find("PersistentVolumeClaim", reference.get("name"), reference.get("namespace"))
        if claim is None or claim["spec"].get("volumeName") != thing["metadata"]["name"]:
            self._bad(f"claimRef {reference.get('namespace')}/{reference.get('name')}: no claim there names this volume; without one, anybody's "
                      "claim may get it")
        for daemon_set in self._daemon_sets():
            affinity = daemon_set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
            wanted = self._labels(affinity["requiredDuringSchedulingIgnoredDuringExecution"])
            if self._labels(spec.get("nodeAffinity", {}).get("required", {})) != wanted:
                self._bad(f"nodeAffinity does not lead to nodes with a daemon: {wanted}")

    def _persistentvolumeclaim(self, thing):
        spec = thing["spec"]
        volume = self._find("PersistentVolume", spec.get("volumeName"))
        if volume is None:
            self._bad(f"there is no PersistentVolume {spec.get('volumeName')}")
            return
        if spec.get("storageClassName") != "":
            self._bad("storageClassName must be given and empty, or the default class makes a disk")
        if not set(spec["accessModes"]) <= set(volume["spec"]["accessModes"]):
            self._bad(f"accessModes {spec['accessModes']} are not the volume's, {volume['spec']['accessModes']}")
        if size(spec["resources"]["requests"]["storage"]) > size(volume["spec"]["capacity"]["storage"]):
            self._bad("asks for more than the volume has, and is never bound")

    def _poddisruptionbudget(self, thing):
        if not self._selects(thing["spec"].get("selector"), thing["metadata"]["namespace"]):
            self._bad("selects no pod of ours")
        if not isinstance(thing["spec"].get("minAvailable"), int):
            self._bad("of a DaemonSet only a whole number of minAvailable can be counted; anything else forbids every eviction")

    def _service(self, thing):
        selected = self._selects({"matchLabels": thing["spec"].get("selector")}, thing["metadata"]["namespace"])
        if not selected:
            self._bad("selects no pod of ours")
        for each in selected:
            for port in thing["spec"]["ports"]:
                if port.get("targetPort", port["port"]) != self._metrics_port(each):
                    self._bad(f"leads to port {port.get('targetPort', port['port'])}, the daemon listens on {self._metrics_port(each)}")

    def _servicemonitor(self, thing):
        spec = thing["spec"]
        if extra := set(spec) - {"selector", "namespaceSelector", "endpoints"}:
            self._bad(f"fields that are not known: {', '.join(sorted(extra))}")
        services = [each for each in self.all if each["kind"] == "Service" and matches(spec["selector"], each["metadata"].get("labels")) and
                    each["metadata"]["namespace"] in spec["namespaceSelector"]["matchNames"]]
        if not services:
            self._bad("selects no Service of ours")
        for service in services:
            for endpoint in spec["endpoints"]:
                if endpoint["port"] not in [port.get("name") for port in service["spec"]["ports"]]:
                    self._bad(f"the Service has no port named {endpoint['port']}")
                if endpoint.get("path", "/metrics") != "/metrics":
                    self._bad(f"nothing answers {endpoint['path']}")


def profile_problems(profile):
    """What is wrong with a seccomp profile in the form that containerd and CRI-O read (the OCI runtime specification's)."""
    if profile.get("defaultAction") != "SCMP_ACT_ERRNO":
        yield f"defaultAction is {profile.get('defaultAction')}"
    if extra := set(profile) - {"defaultAction", "defaultErrnoRet", "architectures", "syscalls"}:
        yield f"fields that not every runtime reads: {', '.join(sorted(extra))}"
    allowed = set()
    for entry in profile["syscalls"]:
        if extra := set(entry) - {"names", "action", "errnoRet", "args", "comment"}:
            yield f"fields that not every runtime reads: {', '.join(sorted(extra))}"
        if entry["action"] == "SCMP_ACT_ALLOW":
            names = set(entry["names"])
            if "args" not in entry and (twice := allowed & names):
                yield f"given twice: {', '.join(sorted(twice))}"
            allowed |= names
    if never := allowed & NEVER:
        yield f"allows what it must not: {', '.join(sorted(never))}"
    if missing := {"io_uring_setup", "io_uring_enter", "io_uring_register"} - allowed:
        yield f"does not allow {', '.join(sorted(missing))}"
