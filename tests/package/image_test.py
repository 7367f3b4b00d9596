# SPDX-License-Identifier: Apache-2.0
"""The image that ./dev image built, run as its configuration says: its user, its entry point, its health check, in its root file system,
which is read-only but for the folder of the sockets. What a runtime would give it (a capability, or none) is given by setpriv.

Needs root; the reason of a skip says what is missing."""
import contextlib
import os
import re
import signal
import subprocess

import base
import harness
import image
from base import cache
from harness import BIN, RAW, ROOT, wait_for

SOCKET = "/run/devmem-loader/loader.sock"
LIMIT = 250e6  # bytes of everything in it
NET_ADMIN = 1 << 12
COMPILERS = ("gcc", "g++", "cc", "c++", "clang", "ld", "as", "cmake", "ninja", "make", "perl5.36-x86_64-linux-gnu")


class Image(harness.TestCase):
    def setUp(self):
        super().setUp()
        if os.environ.get("DEVMEM_SANITIZE"):
            self.skipTest("the image has the release build")
        work = BIN.parents[1] / "image" if BIN.parents[1].name == "build" else ROOT / "build/image"
        try:
            self.buildah = image.Buildah(work)
        except cache.Missing as missing:
            self.skipTest(str(missing))
        self.assertTrue(self.buildah.exists(image.NAME), "run ./dev image first")
        self.config = self.buildah.config()
        container = self.buildah.run("from", "--pull-never", image.NAME)
        self.addCleanup(self.buildah.run, "rm", container)
        self.root = self.work / "root"
        mounted = self.buildah.run("mount", container)
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.root.mkdir()

        def mount(*words):
            subprocess.run(["mount", *map(str, words)], check=True)
            stack.callback(subprocess.run, ["umount", "-l", str(words[-1])], check=False)
        stack.callback(base.end_all_in, self.root)
        mount("--bind", mounted, self.root)
        subprocess.run(["mount", "-o", "remount,bind,ro", self.root], check=True)
        mount("-t", "proc", "proc", self.root / "proc")
        mount("--bind", "/dev", self.root / "dev")
        self.uid = int(self.config["User"].split(":")[0])
        mount("-t", "tmpfs", "-o", f"mode=755,uid={self.uid},gid={self.uid}", "tmpfs", self.root / "run/devmem-loader")
        mount("-t", "tmpfs", "tmpfs", self.root / "mnt")  # digests

    def command(self, *words, capabilities=("net_admin",), nobody=False, no_new_privileges=False):
        """In the image as its user, with no more in the bounding set than a runtime gives."""
        bounding = "-all" + "".join(f",+{name}" for name in capabilities)
        uid = 12345 if nobody else self.uid
        return ["chroot", str(self.root), "setpriv", f"--bounding-set={bounding}", "--inh-caps=-all", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
                *(["--no-new-privs"] if no_new_privileges else []), "env", "-i", *self.config["Env"], *words]

    def start_daemon(self, *flags, **options):
        daemon = self.keep(harness.Program(self.command(*self.config["Entrypoint"], *flags, **options), self.work, "daemon"))
        wait_for(lambda: "ready:" in daemon.stderr() or daemon.process.poll() is not None, 30, "the daemon is ready")
        self.assertIsNone(daemon.process.poll(), daemon.stderr())
        return daemon

    def run_here(self, *words, **options):
        return self.keep(harness.Program(self.command(*words, **options), self.work, "program")).wait()

    def status_of(self, pid):
        """What a process holds, as the kernel says."""
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)

    def test_what_it_is(self):
        self.assertNotIn(self.config["User"].split(":")[0], ("", "0", "root"))
        self.assertTrue(self.config["User"].split(":")[0].isdigit(), "Kubernetes cannot see that a name is not root")
        labels = self.config["Labels"]
        for name in ("title", "description", "licenses", "version", "revision", "created"):
            self.assertTrue(labels.get(f"org.opencontainers.image.{name}"), name)
        self.assertRegex(labels["org.opencontainers.image.revision"], r"^[0-9a-f]{40}$")
        self.assertEqual(self.run_here(*self.config["Entrypoint"], "--version").stdout.split()[-1], labels["org.opencontainers.image.version"])
        total = 0
        for folder, folders, names in os.walk(self.root):
            if folder == str(self.root):
                folders[:] = [name for name in folders if name not in ("proc", "dev", "mnt")]  # what the test mounted
            total += sum(os.lstat(os.path.join(folder, name)).st_size for name in names)
        print(f"size: {total / 1e6:.0f} MB of files")
        self.assertLess(total, LIMIT)
        found = [name for name in COMPILERS for folder in ("usr/bin", "usr/local/bin") if (self.root / folder / name).exists()]
        self.assertEqual(found, [], "no compiler")
        self.assertEqual(list(self.root.glob("usr/include/*")), [])
        recorded = dict(line.split(" ") for line in (self.root / "usr/share/devmem-loader/packages.txt").read_text().splitlines())
        self.assertIn("devmem-loader", recorded)
        said = subprocess.run(["chroot", self.root, "dpkg-query", "-W", "-f=${Package} ${Version}\n"], capture_output=True, text=True, check=True).stdout
        self.assertEqual(recorded, dict(line.split(" ") for line in said.splitlines()), "versions are those installed")

    def test_runs(self):
        bucket = self.raw_bucket()
        web = self.nginx(bucket)
        daemon = self.start_daemon()
        held = self.status_of(daemon.pid)
        self.assertEqual(held["Uid"].split(), [str(self.uid)] * 4)
        self.assertEqual(held["Groups"].split(), [])
        for name in ("CapPrm", "CapEff", "CapBnd"):
            self.assertEqual(int(held[name], 16), NET_ADMIN, name)
        for name in ("CapInh", "CapAmb"):
            self.assertEqual(int(held[name], 16), 0, name)
        print("; ".join(f"{name} {' '.join(held[name].split())}" for name in ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")))

        health = self.config["Healthcheck"]["Test"]
        self.assertEqual(health[0], "CMD")
        self.assertEqual(self.run_here(*health[1:]).status, 0)
        read = ["/usr/bin/devmem-loader", "--output", "json", "--service", f"unix:{SOCKET}", *RAW]
        run = self.run_here(*read, "--bucket", web.url)
        self.assertEqual(run.status, 0, run.text)
        self.assertEqual(self.run_here(*read, "--bucket", web.url + "nothing/").status, 1)
        self.assertEqual(self.run_here(*read).status, 2)
        self.assert_failed(self.run_here(*read, "--bucket", web.url, nobody=True), code="PERMISSION_DENIED")
        daemon.kill(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(30), 0, daemon.stderr())
        self.assertEqual(self.run_here(*health[1:]).status, 1, "no daemon, no health")
        self.assertEqual(os.listdir(self.root / "run/devmem-loader"), [])

    def test_every_byte(self):
        bucket = self.raw_bucket()
        web = self.nginx(bucket)
        self.start_daemon()
        os.chmod(self.root / "mnt", 0o777)
        run = self.run_here("/usr/bin/devmem-loader", "--service", f"unix:{SOCKET}", "--bucket", web.url, *RAW, "--digest", "/mnt/digest")
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(bucket, self.root / "mnt/digest")

    def test_without_the_capability(self):
        """A container that may not have it, and one that forbids programs to gain any: both copy, and say why."""
        for options in ({"capabilities": ()}, {"no_new_privileges": True}):
            daemon = self.start_daemon(**options)
            held = self.status_of(daemon.pid)
            self.assertEqual(int(held["CapEff"], 16), 0)
            self.assertRegex(daemon.stderr(), r"ready: .* path copy \(")
            self.assertEqual(self.run_here("/usr/bin/devmem-loader", "status").status, 0)
            daemon.kill(signal.SIGTERM)
            self.assertEqual(daemon.process.wait(30), 0, daemon.stderr())
            print(re.search(r"path copy \(.*", daemon.stderr()).group(0)[:200])
