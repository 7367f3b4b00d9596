# SPDX-License-Identifier: Apache-2.0
"""The Debian packages that ./dev package made, in a tree as debootstrap leaves it: installed with what they depend on, run, upgraded under
load, removed without a trace but the user. No systemd runs there: systemd_test.py boots one.

Needs root and, the first time, the network; the reason of a skip says which."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess

import base
import hardening
import harness
from base import cache, fetch
from harness import BIN, RAW, wait_for
from install_test import npy

SOCKET = "/run/devmem-loader/loader.sock"
APT = ("apt-get", "-q", "-y", "--no-install-recommends")


def control(deb, field):
    return subprocess.run(["dpkg-deb", "-f", deb, field], capture_output=True, text=True, check=True).stdout.strip()


class Debian(harness.TestCase):
    """The packages, and a tree to install them in."""

    def setUp(self):
        super().setUp()
        if os.environ.get("DEVMEM_SANITIZE"):
            self.skipTest("what is packaged is the release build")
        self.debs = {control(deb, "Package"): deb for deb in (BIN.parent / "packages").glob("*.deb")}
        self.assertEqual(sorted(self.debs), ["devmem-loader", "devmem-loader-dkms", "libdevmem-loader-client-dev"], "run ./dev package first")
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        try:
            self.tree = stack.enter_context(base.tree(self.work))
        except cache.Missing as missing:
            self.skipTest(str(missing))
        self.shared = self.work / "shared"  # /mnt there

    def apt(self, *words):
        """apt-get in the tree; what it said. Without the network it is a skip, told from a package's failure by apt's own words."""
        with cache.lock(cache.folder() / "archives.lock"):  # all trees have one folder of packages
            status, said = self.tree.run(*APT, *words, timeout=900)
        if status != 0 and re.search(r"Failed to fetch|Could not resolve|Temporary failure", said):
            self.skipTest(f"apt could not fetch what the packages depend on: {said.strip().splitlines()[-1]}")
        self.assertEqual(status, 0, said[-3000:])
        return said

    def give(self, deb):
        """The tree's path of a package."""
        shutil.copy(deb, self.shared)
        return f"/mnt/{pathlib.Path(deb).name}"

    def newer(self, deb, version):
        """The same package as a later version: what is new is every file of it."""
        folder = self.work / "repacked"
        subprocess.run(["dpkg-deb", "-R", deb, folder], check=True)
        text = (folder / "DEBIAN/control").read_text()
        (folder / "DEBIAN/control").write_text(re.sub(r"^Version: .*$", f"Version: {version}", text, flags=re.M))
        made = self.shared / f"devmem-loader_{version}.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", folder, made], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder)
        return f"/mnt/{made.name}"

    def dependencies(self, package):
        """Installs what a package depends on, and nothing of ours."""
        self.apt("satisfy", control(self.debs[package], "Depends"))

    # --- a stream that goes on ---
    def endless_stream(self, bucket, name):
        """A trainer that reads the bucket again and again, an epoch in some seconds, until finish()."""
        web = self.nginx(bucket, extra="limit_rate 500k;", log=True)
        loader = self.read(web.url, "--prefetch", "4M", "--epochs", "1000000", digest=name)
        loader.log = web.log
        self.more(loader, 3)
        return loader

    def more(self, loader, ranges):
        """Waits until so many more ranges were served."""
        wanted = loader.log.read_text().count(" 206") + ranges
        wait_for(lambda: loader.log.read_text().count(" 206") >= wanted or loader.process.poll() is not None, 120, "ranges are served")
        self.assertIsNone(loader.process.poll(), loader.stderr())

    def finish(self, bucket, loader, name):
        """Ends it after a whole epoch and more from the new daemon: it resumed, and every epoch but the last came whole and once."""
        def epoch():
            return max((line["epoch"] for line in self.digest(self.shared / name)), default=-1)
        enough = epoch() + 3
        wait_for(lambda: epoch() >= enough or loader.process.poll() is not None, 180, "the stream goes on")
        loader.kill(signal.SIGINT)
        run = loader.wait(120)
        self.assertEqual(run.status, 130, run.text)
        self.assertGreaterEqual(run.summary["reconnects"], 1, run.text)
        last = epoch()
        self.assert_delivered(bucket, self.shared / name, epochs=last)
        print(f"{name}: {last} epochs of {len(list(bucket.iterdir()))} objects, every byte right, {run.summary['reconnects']} reconnects")


class Packages(Debian):
    # --- what runs in the tree ---
    def start_daemon(self, *flags):
        program = self.keep(harness.Program(self.tree.command("/usr/bin/devmem-loaderd", *flags, user="devmem-loader"), self.work, "daemon"))
        wait_for(lambda: "ready:" in program.stderr() or program.process.poll() is not None, 30, "the daemon is ready")
        self.assertIsNone(program.process.poll(), program.stderr())
        return program

    def read(self, url, *flags, user=None, digest=None):
        """The command line in the tree."""
        command = ["/usr/bin/devmem-loader", "--output", "json", "--service", f"unix:{SOCKET}", "--bucket", url, *RAW, *flags]
        if digest:
            command += ["--digest", f"/mnt/{digest}"]
        return self.keep(harness.Program(self.tree.command(*command, user=user), self.work, "loader"))

    def check_stream(self, url, folder, name):
        run = self.read(url, digest=name).wait()
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(folder, self.shared / name)

    # --- tests ---
    def test_install_run_upgrade_purge(self):
        tree = self.tree
        self.dependencies("devmem-loader")
        before, users = tree.files(), self.users()

        self.apt("install", self.give(self.debs["devmem-loader"]))
        self.assertEqual(hardening.problems_of(tree.root / "usr/bin" / name for name in ("devmem-loaderd", "devmem-loader")), [])
        user = tree.run("id", "devmem-loader")[1]
        made = self.users()
        self.assertRegex(user, r"uid=\d+\(devmem-loader\) gid=\d+\(devmem-loader\) ")
        folder = os.stat(tree.root / "run/devmem-loader")
        self.assertEqual((folder.st_mode & 0o7777, f"uid={folder.st_uid}(" in user), (0o755, True))

        bucket = self.raw_bucket()
        fast = self.nginx(bucket)
        daemon = self.start_daemon()
        self.check_stream(fast.url, bucket, "digest-1")
        self.assertEqual(tree.run("/usr/bin/devmem-loader", "status", "--service", f"unix:{SOCKET}")[0], 0)
        self.assertEqual(tree.run("/usr/bin/devmem-loader", "--no-such-flag")[0], 2)
        run = self.read(fast.url + "nothing/").wait()
        self.assert_failed(run)
        # Who is not in the group has no way in; who is, reads.
        self.assertEqual(tree.run("useradd", "--system", "trainer")[0], 0)
        run = self.read(fast.url, user="trainer").wait()
        self.assert_failed(run, "permission", code="PERMISSION_DENIED")
        self.assertEqual(tree.run("usermod", "-aG", "devmem-loader", "trainer")[0], 0)
        run = self.read(fast.url, user="trainer").wait()
        self.assertEqual(run.status, 0, run.text)
        self.assertEqual(tree.run("userdel", "trainer")[0], 0)

        self.check_restart(bucket, daemon, self.check_upgrade(bucket, daemon))

        self.apt("purge", "devmem-loader")
        after = tree.files()
        self.assertEqual(sorted(set(after) - set(before)), [], "left behind")
        self.assertEqual(sorted(set(before) - set(after)), [], "taken away")
        self.assertEqual({path: (before[path], after[path]) for path in before if before[path] != after[path]}, {}, "changed")
        self.assertEqual(self.users(), made)
        self.assertEqual(tree.run("id", "devmem-loader")[1], user, "its number is nobody else's")
        self.assertRegex(next(line for line in made[0] if line.startswith("devmem-loader:")), r":/usr/sbin/nologin$")
        self.assertEqual([len(new) - len(old) for new, old in zip(made, users)], [1, 1, 1, 1], "one user and one group were made")
        print(f"purged: {len(after)} files and folders, the same as before; user and group stay")

    def users(self):
        return [sorted((self.tree.root / "etc" / name).read_text().splitlines()) for name in ("passwd", "group", "shadow", "gshadow")]

    def check_upgrade(self, bucket, daemon):
        """The package is upgraded while a stream runs, which notices nothing; then the new program takes over. Its pid."""
        loader = self.endless_stream(bucket, "digest-2")
        old = os.stat(f"/proc/{daemon.pid}/exe").st_ino
        self.apt("install", self.newer(self.debs["devmem-loader"], "9.0-1"))
        self.assertEqual(self.tree.run("dpkg-query", "-W", "-f=${Version}", "devmem-loader")[1], "9.0-1")
        self.assertIsNone(daemon.process.poll(), "the old one serves on")
        self.more(loader, 1)
        daemon.kill(signal.SIGUSR2)  # what postinst has systemd do
        self.assertEqual(daemon.process.wait(60), 0, daemon.stderr())
        pid = int(re.search(r"handed over to version \S+ \(pid (\d+)\)", daemon.stderr()).group(1))
        self.assertNotEqual(os.stat(f"/proc/{pid}/exe").st_ino, old, "the new file runs")
        self.assertEqual(os.readlink(f"/proc/{pid}/exe"), f"{self.tree.root}/usr/bin/devmem-loaderd")
        self.finish(bucket, loader, "digest-2")
        print("upgrade: " + re.search(r"taken over from .*", daemon.stderr()).group(0))
        return pid

    def check_restart(self, bucket, first, pid):
        """The daemon is ended amid a stream, and another one started: what `systemctl restart` does. Its log is the first one's."""
        loader = self.endless_stream(bucket, "digest-3")
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: ": draining for" in first.stderr(), 30, "the daemon drains")
        os.kill(pid, signal.SIGTERM)  # at once
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 30, "the old daemon ends")
        daemon = self.start_daemon()
        self.finish(bucket, loader, "digest-3")
        daemon.kill(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(30), 0, daemon.stderr())

    def test_client_library(self):
        """All that a trainer's build needs comes with the package."""
        self.apt("install", self.give(self.debs["libdevmem-loader-client-dev"]), self.give(self.debs["devmem-loader"]), "g++", "pkg-config")
        folder = self.folder()
        (folder / "a.npy").write_bytes(npy([bytes([i]) * 100 for i in range(8)]))
        web = self.nginx(folder)
        self.start_daemon()
        status, said = self.tree.run("sh", "-ec", "cd /tmp; g++ -std=c++20 /usr/share/doc/libdevmem-loader-client-dev/examples/example_trainer.cc"
                                     " -o trainer $(pkg-config --cflags --libs devmem-loader-client); ./trainer unix:" f"{SOCKET} {web.url} 1")
        self.assertEqual(status, 0, said)
        self.assertEqual(sorted(int(found) for found in re.findall(r"\] sum (\d+)", said)), [i * 100 for i in range(8)], said)

    def test_dkms(self):
        """The module is built for a kernel whose headers are there, and goes with the package."""
        try:
            kernel = fetch.kernel("6.12")
        except cache.Missing as missing:
            self.skipTest(str(missing))
        self.dependencies("devmem-loader-dkms")
        version = control(self.debs["devmem-loader-dkms"], "Version").split("-")[0]
        # Only unpacked: headers want their kernel installed, which nobody boots here. libelf1 and pahole are what their tools need.
        self.apt("install", "libelf1", "pahole")
        headers = [self.give(deb) for deb in kernel["debs"] if re.match(r"linux-(headers|kbuild)", deb.name)]
        status, said = self.tree.run("dpkg", "--unpack", "--force-depends", *headers)
        self.assertEqual(status, 0, said)
        before = self.tree.files()
        status, said = self.tree.run("dpkg", "-i", self.give(self.debs["devmem-loader-dkms"]))
        log = self.tree.root / f"var/lib/dkms/devmem_binding/{version}/build/make.log"
        self.assertEqual(status, 0, said + (log.read_text()[-5000:] if log.exists() else ""))
        self.assertIn(f"devmem_binding/{version}, {kernel['release']}, x86_64: installed", self.tree.run("dkms", "status")[1])
        (module,) = (self.tree.root / "usr/lib/modules" / kernel["release"]).rglob("devmem_binding.ko*")
        self.assertIn("devmem_binding", self.tree.run("modinfo", "-F", "name", "/" + str(module.relative_to(self.tree.root)))[1])
        status, said = self.tree.run("dpkg", "--purge", "devmem-loader-dkms")
        self.assertEqual(status, 0, said)
        left = sorted(path for path in set(self.tree.files()) - set(before) if not re.search(r"/modules\.[a-z.]+$", path))  # depmod's
        self.assertEqual(left, [], "left behind")
