# SPDX-License-Identifier: Apache-2.0
"""Runs the containers of a rendered pod by runc, as the kubelet and containerd would: user, capabilities, seccomp profile, read-only
root, mounts (a claim is what its volume is), init containers one after another, probes by exec and by HTTP. What an API server adds
(scheduling, the pods' network) is not here: containers are in the network namespace of the test, where each pod has an address of its own
on the loopback, and those of the node's network have the node's.

    node = pods.Node(self)                                  # a folder that stands for a node's root
    pod = node.start(objects, "DaemonSet")                  # init containers, then the container, running
    pod.probe("readinessProbe")                             # (exit status, what it said)
"""
import ctypes
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request

import yaml

import manifests

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import harness  # noqa: E402  pylint: disable=wrong-import-position

CLONE_NEWNET = 0x40000000
NODE_IP = "127.0.0.1"
TOOLS = ("sh", "chmod", "chown", "cp", "mv", "uname", "sleep", "touch")  # of an image: dash and coreutils
NAMESPACES = ("pid", "ipc", "uts", "mount")
# What containerd's default profile does to io_uring since 2.0: the rest of it lets the daemon be.
REFUSE_IO_URING = {"names": ["io_uring_enter", "io_uring_register", "io_uring_setup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}


def own_network():
    """A network namespace for this process with nothing but a loopback that is up: ports are nobody else's."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise unittest.SkipTest(f"no network namespace can be made: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)


class Pod:
    """A pod with one container, after its init containers."""

    def __init__(self, node, name, spec, said, process, address):
        self.node, self.name, self.spec, self.said, self.process, self.address = node, name, spec, said, process, address

    def run(self, *command):
        """Exit status and output of a command within the container, with the container's rights."""
        done = self.node.runc("exec", self.name, *command)
        return done.returncode, done.stdout + done.stderr

    def probe(self, which):
        """(0 if it succeeded, what it said)."""
        probe = self.spec[which]
        return self.run(*probe["exec"]["command"]) if "exec" in probe else self.get(**probe["httpGet"])

    def get(self, port, path):
        """As the kubelet asks by HTTP: the pod's address."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        try:
            with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5 * harness.SLOW) as answer:
                return 0, answer.read().decode()
        except urllib.error.HTTPError as error:
            return 1, error.read().decode()
        except OSError as error:
            return 1, str(error)

    def ready(self, seconds=30):
        """Waits as the kubelet does, by its startup probe."""
        def asked():
            if self.process.process.poll() is not None:
                raise AssertionError(f"{self.name} ended: {self.log()}")
            return self.probe("startupProbe")[0] == 0
        harness.wait_for(asked, seconds * harness.SLOW, f"{self.name} is ready")
        return self

    def log(self):
        return self.process.stderr() + (self.process.out / "stdout").read_text(errors="replace")

    def status(self):
        """/proc/PID/status of its process, as the host sees it."""
        state = json.loads(self.node.runc("state", self.name).stdout)
        lines = pathlib.Path(f"/proc/{state['pid']}/status").read_text(encoding="utf-8").splitlines()
        return {key: value.split() for key, value in (line.split(":", 1) for line in lines)}

    def end(self):
        """SIGTERM, as the kubelet sends it; the exit status."""
        self.node.runc("kill", self.name, "TERM")
        return self.process.wait(60 * harness.SLOW).status


class Node:
    def __init__(self, test, profile=lambda profile: profile, addresses="127.0.1."):
        """`profile` may change a seccomp profile before it is used. Pods of their own network have an address that begins so."""
        if os.geteuid() != 0:
            raise unittest.SkipTest("only root can start containers")
        if shutil.which("runc") is None:
            raise unittest.SkipTest("runc is not installed")
        self.test, self.profile, self.addresses = test, profile, addresses
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="node-", dir=test.work))
        self.folder.chmod(0o755)
        self.pods = 0
        self.image = self._image()
        nothing = {"name": "p", "command": ["/bin/sh", "-c", "exit 0"], "securityContext": {}}
        done = self._start("probe", self._config(nothing, {}, [], NODE_IP)).wait()
        if done.status != 0:
            raise unittest.SkipTest(f"no container can be started here: {done.text.strip()[-200:]}")

    def _image(self):
        """A root file system with what the image has of ours, and this machine's libraries."""
        root = self.folder / "image"
        for name in ("usr/bin", "usr/lib", "usr/lib64", "proc", "dev", "sys", "tmp", "etc/devmem-loader", "run/devmem-loader", "profile", "node",
                     "lib-modules"):
            (root / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        for tool in TOOLS:
            shutil.copy(shutil.which(tool, path="/usr/bin:/bin"), root / "usr/bin" / tool)
        for program in ("devmem-loader", "devmem-loaderd"):
            shutil.copy(harness.BIN / program, root / "usr/bin" / program)
        return root

    def runc(self, *arguments):
        return subprocess.run(["runc", "--root", self.folder / "runc", *arguments], capture_output=True, text=True, timeout=60, check=False)

    def path(self, path):
        """Where a path of the node is on this machine."""
        return self.folder / "root" / path.lstrip("/")

    def _start(self, name, config):
        self.pods += 1
        bundle = self.folder / f"{name}-{self.pods}"
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(config), encoding="utf-8")
        full = f"{self.folder.name}-{bundle.name}"  # in the cgroups' names, which all tests share
        program = self.test.keep(harness.Program(["runc", "--root", self.folder / "runc", "run", "--bundle", bundle, full], self.test.work, name))
        self.test.addCleanup(self.runc, "delete", "--force", full)
        program.container = full
        return program

    def _volume(self, volume, objects, namespace):
        """The source of a bind mount."""
        if "persistentVolumeClaim" in volume:
            def find(kind, name):
                return next(thing for thing in objects if thing["kind"] == kind and thing["metadata"]["name"] == name and
                            thing["metadata"].get("namespace") in (None, namespace))
            claim = find("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
            volume = {"hostPath": find("PersistentVolume", claim["spec"]["volumeName"])["spec"]["hostPath"]}
        if "hostPath" in volume:
            if volume["hostPath"]["path"] == "/lib/modules":
                return pathlib.Path(tempfile.mkdtemp(prefix="modules-", dir=self.folder))  # an empty one: nothing is to be loaded here
            source = self.path(volume["hostPath"]["path"])
            if volume["hostPath"]["type"] == "DirectoryOrCreate" and not source.exists():
                source.mkdir(parents=True)
                source.chmod(0o755)
            if not source.is_dir():
                raise AssertionError(f"FailedMount: {source} is no folder")
            return source
        source = pathlib.Path(tempfile.mkdtemp(prefix="config-", dir=self.folder))
        source.chmod(0o755)
        data = next(thing["data"] for thing in objects if thing["kind"] == "ConfigMap" and thing["metadata"]["name"] == volume["configMap"]["name"])
        for name, text in data.items():
            (source / name).write_text(text, encoding="utf-8")
        return source

    def _seccomp(self, wanted):
        """The profile as runc takes it: it knows the fields alone that the OCI runtime specification names."""
        if wanted is None:
            return None
        if wanted["type"] == "Localhost":
            path = self.path("/var/lib/kubelet/seccomp") / wanted["localhostProfile"]
            profile = json.loads(path.read_text(encoding="utf-8"))  # FileNotFoundError: nobody put it there
        else:
            profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
                       "syscalls": [REFUSE_IO_URING]}
        return self.profile(profile)

    def _config(self, container, pod, mounts, address):
        security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
        user = security.get("runAsUser", 0)
        added = [f"CAP_{name}" for name in security.get("capabilities", {}).get("add", [])]
        held = added if user == 0 else []  # of another user, only what may be had by a file's capabilities
        env = manifests.environment(container, pod_ip=address)
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user, "gid": security.get("runAsGroup", 0), "additionalGids": security.get("supplementalGroups", [])},
                "args": [*container["command"], *container.get("args", [])], "cwd": "/",
                "env": ["PATH=/usr/bin", *(f"{key}={value}" for key, value in env.items())],
                "capabilities": {"bounding": added, "permitted": held, "effective": held},
                "noNewPrivileges": security.get("allowPrivilegeEscalation") is False,
            },
            "root": {"path": str(self.image), "readonly": security.get("readOnlyRootFilesystem", False)},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]},
                {"destination": "/usr/lib", "type": "bind", "source": "/usr/lib", "options": ["rbind", "ro"]},
                {"destination": "/usr/lib64", "type": "bind", "source": "/usr/lib64", "options": ["rbind", "ro"]},
                *mounts,
            ],
            "linux": {
                "namespaces": [{"type": name} for name in NAMESPACES],
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
                "seccomp": self._seccomp(security.get("seccompProfile")),
            },
        }

    def _container(self, container, pod, volumes, address):
        mounts = []
        for mount in container.get("volumeMounts", []):
            # /lib/modules lies within what this machine lends, and a mount there would be made in its file system
            target = "/lib-modules" if mount["mountPath"] == "/lib/modules" else mount["mountPath"]
            mounts.append({"destination": target, "type": "bind", "source": str(volumes[mount["name"]]),
                           "options": ["rbind", "ro" if mount.get("readOnly") else "rw"]})
        return self._start(container["name"], self._config(container, pod, mounts, address))

    def start(self, objects, kind, change=lambda container: None):
        """`change` may change the container's manifest first."""
        thing = next(thing for thing in objects if thing["kind"] == kind)
        pod = thing["spec"]["template"]["spec"]
        volumes = {volume["name"]: self._volume(volume, objects, thing["metadata"]["namespace"]) for volume in pod["volumes"]}
        address = NODE_IP if pod.get("hostNetwork") else f"{self.addresses}{self.pods + 1}"
        said = {}
        for container in pod.get("initContainers", []):
            run = self._container(container, pod, volumes, address).wait()
            said[container["name"]] = run.text
            if run.status != 0:
                raise AssertionError(f"Init:Error: {container['name']}: {run.text}")
        (container,) = pod["containers"]
        change(container)
        program = self._container(container, pod, volumes, address)
        return Pod(self, program.container, container, said, program, address)
