# SPDX-License-Identifier: Apache-2.0
"""The Debian package under a real systemd: a debootstrapped tree with systemd in it, booted by systemd-nspawn. Sockets that start the daemon,
what it is allowed, the watchdog, a crash, and an upgrade of the package under load.

Needs root and systemd-nspawn; the reason of a skip says what is missing."""
import os
import pathlib
import re
import shutil
import signal
import subprocess

import harness
from deb_test import SOCKET, Debian
from harness import RAW, wait_for

UNIT = "devmem-loader.service"
NET_ADMIN = 1 << 12


class Systemd(Debian):
    def setUp(self):
        super().setUp()
        if shutil.which("systemd-nspawn") is None:
            self.skipTest("systemd-nspawn is not installed: apt-get install systemd-container")
        self.apt("install", "systemd", "systemd-sysv", "dbus", self.give(self.debs["devmem-loader"]))
        (self.tree.root / "usr/sbin/policy-rc.d").unlink()
        folder = self.tree.root / "etc/systemd/system" / f"{UNIT}.d"
        folder.mkdir(parents=True)
        # No network is waited for (it is this machine's); the watchdog and the draining are such as a test can wait for.
        (folder / "test.conf").write_text("[Unit]\nWants=\n[Service]\nWatchdogSec=8\nEnvironment=DEVMEM_DRAIN_TIMEOUT=2s\n")
        self.boot()

    def boot(self):
        for name in ("proc", "dev"):  # it mounts its own
            subprocess.run(["umount", "-l", self.tree.root / name], check=True)
        with open(self.work / "console", "wb") as console:
            nspawn = subprocess.Popen(["systemd-nspawn", "--register=no", "--keep-unit", "--console=pipe", "--capability=CAP_NET_ADMIN", "-D", str(self.tree.root), "--boot"],
                                      stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
                                      preexec_fn=harness.die_with_us(signal.SIGKILL))
        self.init = None
        self.addCleanup(self.end, nspawn)

        def booted():
            if nspawn.poll() is not None:
                text = (self.work / "console").read_text(errors="replace")
                self.skipTest(f"systemd-nspawn does not run here: {text.strip().splitlines()[-1:]}")
            children = pathlib.Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()
            self.init = int(children[0]) if children else None
            return self.init and self.systemctl("is-active", "multi-user.target")[1].strip() == "active"
        wait_for(booted, 120, "systemd boots")

    def end(self, nspawn):
        nspawn.terminate()  # an orderly poweroff
        try:
            nspawn.wait(60)
        except subprocess.TimeoutExpired:
            if self.init:
                os.kill(self.init, signal.SIGKILL)
            nspawn.kill()
            nspawn.wait()

    # --- in there ---
    def inside(self, *words):
        """(status, what it said), in the container's namespaces."""
        done = subprocess.run(["nsenter", f"--target={self.init}", "-m", "-u", "-i", "-p", "-r", "-w", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                               "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", *map(str, words)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False)
        return done.returncode, done.stdout

    def systemctl(self, *words):
        return self.inside("systemctl", "--no-pager", *words)

    def signal(self, name):
        return self.systemctl("kill", "--kill-who=main", "-s", name, UNIT)[0]

    def shows(self, name):
        return self.systemctl("show", "--value", "-p", name, UNIT)[1].strip()

    def journal(self):
        return self.inside("journalctl", "--no-pager", "-o", "cat", "-u", UNIT)[1]

    def read(self, url, *flags, digest=None, **_):
        """A trainer. It stays in our pid namespace, so that it is our child to end."""
        command = ["nsenter", f"--target={self.init}", "-m", "-r", "/usr/bin/devmem-loader", "--output", "json", "--service", f"unix:{SOCKET}",
                   "--bucket", url, *RAW, *flags]
        if digest:
            command += ["--digest", f"/mnt/{digest}"]
        return self.keep(harness.Program(command, self.work, "loader"))

    def test_life(self):
        bucket = self.raw_bucket()
        web = self.nginx(bucket)
        self.assertEqual(self.systemctl("is-active", "devmem-loader.socket")[1].strip(), "active", "from the package's installation on")
        self.assertEqual(self.shows("ActiveState"), "inactive", "nobody has connected")
        run = self.read(web.url, digest="digest-1").wait()
        self.assertEqual(run.status, 0, run.text + self.journal())
        self.assert_delivered(bucket, self.shared / "digest-1")
        self.assertEqual(self.shows("ActiveState"), "active")
        self.assertRegex(self.shows("StatusText"), r"^serving; path copy \(")
        self.check_rights()
        self.check_reload()
        self.check_watchdog()
        self.check_kill()
        self.check_upgrade(bucket)
        self.check_restart(bucket)
        status, said = self.inside("apt-get", "-q", "-y", "purge", "devmem-loader")
        self.assertEqual(status, 0, said)
        self.assertEqual(self.systemctl("show", "--value", "-p", "LoadState", UNIT)[1].strip(), "not-found")
        self.assertNotEqual(self.inside("sh", "-c", "grep -lx devmem-loaderd /proc/[0-9]*/comm")[0], 0)
        self.assertNotEqual(self.inside("ls", "/run/devmem-loader")[0], 0)

    def check_rights(self):
        """What the process holds, as the kernel says."""
        held = dict(line.split(":\t", 1) for line in self.inside("cat", f"/proc/{self.shows('MainPID')}/status")[1].splitlines() if ":\t" in line)
        uid = self.inside("id", "-u", "devmem-loader")[1].strip()
        self.assertEqual(held["Uid"].split(), [uid] * 4)
        for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(int(held[name], 16), NET_ADMIN, name)
        self.assertEqual((held["NoNewPrivs"].strip(), held["Seccomp"].strip()), ("1", "2"))
        limits = self.inside("cat", f"/proc/{self.shows('MainPID')}/limits")[1]
        self.assertRegex(limits, r"(?m)^Max core file size +0 +0 ")
        self.assertEqual((self.shows("OOMPolicy"), self.shows("IPAddressDeny").split()), ("continue", ["169.254.0.0/16", "fe80::/64"]))
        total = int(re.search(r"MemTotal: +(\d+) kB", pathlib.Path("/proc/meminfo").read_text())[1]) << 10
        self.assertAlmostEqual(int(self.shows("MemoryMax")) / total, 0.75, delta=0.01)
        # What the filter must let through: as the same daemon finds it outside.
        self.assertIn("receive loop " + self.loop_outside(), self.shows("StatusText"))
        print("; ".join(f"{name} {' '.join(held[name].split())}" for name in ("Uid", "Groups", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")))

    def check_reload(self):
        """systemctl reload is SIGHUP to the daemon that runs: it reads its file, and is no other one afterwards."""
        pid = self.shows("MainPID")
        status, said = self.inside("sh", "-c", "cd /etc/devmem-loader && cp -a config.yaml /tmp/before && echo 'max_retries: 7' >> config.yaml")
        self.assertEqual(status, 0, said)
        status, said = self.systemctl("reload", UNIT)
        self.assertEqual(status, 0, said + self.journal())
        wait_for(lambda: "reload: max_retries: 12 -> 7" in self.journal(), 60, "the journal says what changed")
        self.assertEqual((self.shows("MainPID"), self.shows("ActiveState")), (pid, "active"))
        self.assertEqual(self.inside("mv", "/tmp/before", "/etc/devmem-loader/config.yaml")[0], 0, "the upgrade finds the conffile unchanged")

    def loop_outside(self):
        daemon = self.daemon()
        return wait_for(lambda: re.search(r"ready: .*receive loop (\w+)", daemon.stderr()), 30, "a daemon says its loop").group(1)

    def check_watchdog(self):
        """A daemon that stands still is ended, and another one started."""
        pid, restarts = self.shows("MainPID"), int(self.shows("NRestarts"))
        self.assertEqual(self.signal("STOP"), 0)
        wait_for(lambda: int(self.shows("NRestarts")) > restarts and self.shows("ActiveState") == "active", 120, "the watchdog ends it")
        self.assertIn("Watchdog timeout", self.journal())
        self.assertNotEqual(self.shows("MainPID"), pid)

    def check_kill(self):
        restarts = int(self.shows("NRestarts"))
        recovered = self.journal().count("nothing to put back")
        self.assertEqual(self.signal("KILL"), 0)
        wait_for(lambda: int(self.shows("NRestarts")) > restarts and self.shows("ActiveState") == "active", 120, "it is started again")
        self.assertGreater(self.journal().count("nothing to put back"), recovered, "--recover ran between")

    def check_upgrade(self, bucket):
        """A newer package while a stream runs: the same service, another main process, and not one sample lost."""
        loader = self.endless_stream(bucket, "digest-2")
        pid, restarts = self.shows("MainPID"), self.shows("NRestarts")
        status, said = self.inside("apt-get", "-q", "-y", "install", self.newer(self.debs["devmem-loader"], "9.0-1"))
        self.assertEqual(status, 0, said)
        wait_for(lambda: self.shows("MainPID") not in (pid, "0") and "taken over from" in self.journal(), 120, "the new one is the main process")
        wait_for(lambda: self.shows("ActiveState") == "active", 60, "it is active")
        wait_for(lambda: self.inside("test", "-d", f"/proc/{pid}")[0] != 0, 60, "the old one ends")
        self.assertEqual(self.shows("ActiveState"), "active", "the old one's end is not the service's")
        self.assertEqual(self.shows("NRestarts"), restarts)
        self.finish(bucket, loader, "digest-2")
        print("upgrade: " + re.findall(r"taken over from .*", self.journal())[-1])

    def check_restart(self, bucket):
        loader = self.endless_stream(bucket, "digest-3")
        self.assertEqual(self.signal("KILL"), 0)
        self.finish(bucket, loader, "digest-3")
        loader = self.endless_stream(bucket, "digest-4")
        self.assertEqual(self.systemctl("restart", UNIT)[0], 0)  # after --drain-timeout
        self.finish(bucket, loader, "digest-4")
