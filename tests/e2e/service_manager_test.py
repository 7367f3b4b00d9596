# SPDX-License-Identifier: Apache-2.0
"""The daemon as systemd runs it (deploy/systemd/): what it says on the notification socket, sockets that systemd lends it, and its
successor by SIGUSR2. systemd's side is played by this test."""
import contextlib
import os
import pathlib
import re
import signal
import socket

import harness
import trainer
from harness import BIN, RAW, SLOW, wait_for


class Manager:
    """A service manager's sockets: that for notifications, and those it lends."""

    def __init__(self, test):
        self.folder = test.folder("manager")
        self.path = str(self.folder / "l.sock")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.folder / "notify"))
        self.notify.settimeout(30 * SLOW)
        self.lent = []
        test.addCleanup(self.close)

    def close(self):
        for each in [self.notify, *self.lent]:
            each.close()
        for process in pathlib.Path("/proc").glob("[0-9]*"):  # successors are nobody's children
            with contextlib.suppress(OSError):
                if f"--socket\0{self.path}\0".encode() in (process / "cmdline").read_bytes():
                    kill(int(process.name))

    def lend(self):
        for suffix, kind in (("", socket.SOCK_STREAM), (".fd", socket.SOCK_SEQPACKET)):
            listener = socket.socket(socket.AF_UNIX, kind)
            listener.bind(self.path + suffix)
            listener.listen(64)
            self.lent.append(listener)

    def environment(self, **more):
        return {"NOTIFY_SOCKET": str(self.folder / "notify"), **more}

    def start(self, test, *flags, binary=None, **environment):
        """The daemon, with what is lent at descriptors 3 and on; started by a shell, because LISTEN_PID is its own pid."""
        program = str(binary or BIN / "devmem-loaderd")
        moves = "".join(f"exec {3 + i}<&{each.fileno()}; " for i, each in enumerate(self.lent))
        if self.lent:
            environment["LISTEN_FDS"] = str(len(self.lent))
            moves += "export LISTEN_PID=$$; "
        command = ["sh", "-c", moves + 'exec "$@"', "sh", program, "--socket", self.path, *flags]
        return test.keep(harness.Program(command, test.work, "daemon", environment=self.environment(**environment),
                                         pass_fds=[each.fileno() for each in self.lent]))

    def said(self, *wanted):
        """Waits until every one of these patterns was said since the last call, in any order; what was said."""
        seen = ""
        while not all(re.search(f"^{pattern}$", seen, re.M) for pattern in wanted):
            seen += self.notify.recv(4096).decode() + "\n"
        return seen


class ServiceManager(harness.TestCase):
    def test_ready_and_stopping(self):
        manager = Manager(self)
        daemon = manager.start(self)
        said = manager.said("READY=1")
        self.assertRegex(said, r"STATUS=serving; path copy \(")
        self.assertTrue(harness.accepts(manager.path), "ready means that it serves")
        daemon.kill(signal.SIGTERM)
        self.assertIn("STATUS=draining", manager.said("STOPPING=1"))
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())

    def test_watchdog_is_told_while_it_answers(self):
        manager = Manager(self)
        daemon = manager.start(self, WATCHDOG_USEC=str(2000000 * SLOW))
        manager.said("READY=1")
        for _ in range(3):
            manager.said("WATCHDOG=1")
        self.assertNotIn("watchdog", daemon.stderr())

    def test_watchdog_hears_nothing_of_a_daemon_that_does_not_answer(self):
        """Its sockets' files are taken away: it lives, and no trainer can reach it."""
        manager = Manager(self)
        daemon = manager.start(self, WATCHDOG_USEC=str(1000000 * SLOW))
        manager.said("WATCHDOG=1")
        os.rename(manager.path + ".fd", manager.path + ".gone")
        wait_for(lambda: daemon.stderr().count("systemd's watchdog is told nothing") >= 3, 60 * SLOW, "it says that it does not answer")
        manager.notify.setblocking(False)
        waiting = 0
        while True:
            try:
                self.assertEqual(manager.notify.recv(4096), b"WATCHDOG=1")
                waiting += 1
            except BlockingIOError:
                break
        wait_for(lambda: daemon.stderr().count("systemd's watchdog is told nothing") >= 6, 60 * SLOW, "it says so again")
        with self.assertRaises(BlockingIOError, msg="told all the same"):
            manager.notify.recv(4096)
        os.rename(manager.path + ".gone", manager.path + ".fd")
        manager.notify.settimeout(30 * SLOW)
        manager.said("WATCHDOG=1")

    def test_lent_sockets(self):
        """A trainer that comes before the daemon waits; the daemon's end leaves the files, and the next daemon serves who waits then."""
        manager = Manager(self)
        manager.lend()
        bucket = self.raw_bucket()
        web = self.nginx(bucket)
        inodes = [os.stat(manager.path + suffix).st_ino for suffix in ("", ".fd")]
        for round_ in range(2):
            digest = self.work / f"digest-{round_}"
            loader = self.start("--bucket", web.url, *RAW, service="unix:" + manager.path, digest=digest)
            wait_for(lambda before=loader: before.process.poll() is None and waits_at(manager.path + ".fd"), 20 * SLOW, "a trainer waits")
            daemon = manager.start(self)
            manager.said("READY=1")
            run = loader.wait()
            self.assertEqual(run.status, 0, run.text)
            self.assert_delivered(bucket, digest)
            daemon.kill(signal.SIGTERM)
            self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
            self.assertEqual([os.stat(manager.path + suffix).st_ino for suffix in ("", ".fd")], inodes)
            self.assertEqual(sorted(os.listdir(manager.folder)), ["l.sock", "l.sock.fd", "notify"], "nothing of its own stays")

    def test_lent_sockets_of_other_paths(self):
        manager = Manager(self)
        manager.lend()
        manager.path += "x"
        daemon = manager.start(self)
        self.assertEqual(daemon.process.wait(20 * SLOW), 1, daemon.stderr())
        self.assertIn("have the socket unit name both", daemon.stderr())

    def upgrade(self, manager, daemon):
        """By SIGUSR2: the pid of who serves then."""
        daemon.kill(signal.SIGUSR2)
        # In either order: the new one serves before the old one knows it for sure.
        pid = int(re.search(r"MAINPID=(\d+)", manager.said("RELOADING=1", "READY=1", r"MAINPID=\d+")).group(1))
        self.addCleanup(kill, pid)
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
        self.assertIn(f"started a successor (pid {pid})", daemon.stderr())
        with trainer.Trainer(manager.path) as observer:
            self.assertEqual(observer.status().pid, pid)
        return pid

    def check_upgrade(self, lend):
        manager = Manager(self)
        if lend:
            manager.lend()
        bucket = self.raw_bucket("large", samples=1024, shards=16)
        web = self.nginx(bucket, extra="limit_rate 300k;", log=True)  # a range of 1 MiB takes seconds
        daemon = manager.start(self, WATCHDOG_USEC=str(4000000 * SLOW), WATCHDOG_PID="1")
        manager.said("READY=1")
        digest = self.work / "digest"
        loader = self.start("--bucket", web.url, *RAW, "--prefetch", "4M", "--shuffle", "none", service="unix:" + manager.path, digest=digest)
        wait_for(lambda: web.log.read_text().count(" 206") >= 3, 60 * SLOW, "ranges are served")
        pid = self.upgrade(manager, daemon)
        manager.said("WATCHDOG=1")  # the new one's, who is not the process that systemd watched first
        run = loader.wait(120 * SLOW)
        self.assertEqual(run.status, 0, run.text)
        self.assertGreaterEqual(run.summary["reconnects"], 1)
        self.assert_delivered(bucket, digest)
        if lend:  # ended at once, by a second signal amid a stream: the files are the manager's all the same
            self.start("--bucket", web.url, *RAW, "--prefetch", "4M", "--shuffle", "none", service="unix:" + manager.path)
            before = web.log.read_text().count(" 206")
            wait_for(lambda: web.log.read_text().count(" 206") > before, 60 * SLOW, "ranges are served")
        os.kill(pid, signal.SIGTERM)
        manager.said("STOPPING=1")
        send(pid, signal.SIGUSR2)  # too late to succeed it

        def ended():
            if lend:  # at once after the first this is its echo, and half a second later the second
                send(pid, signal.SIGTERM)
            return not alive(pid)
        wait_for(ended, 20 * SLOW, "the successor ends")
        files = sorted(name for name in os.listdir(manager.folder) if not name.endswith(".lock"))  # who ends at once leaves those
        self.assertEqual(files, ["l.sock", "l.sock.fd", "notify"] if lend else ["notify"])

    def test_successor_by_signal(self):
        self.check_upgrade(lend=False)

    def test_successor_by_signal_with_lent_sockets(self):
        self.check_upgrade(lend=True)

    def test_successor_that_fails(self):
        """What lies at the daemon's path by now does not work: the old one serves on, and says so."""
        program = self.work / "devmem-loaderd"
        program.symlink_to(BIN / "devmem-loaderd")
        manager = Manager(self)
        daemon = manager.start(self, binary=program)
        manager.said("READY=1")
        for script, why in (("#!/bin/sh\nexit 7\n", "exit status 7"), (None, "no program")):
            program.unlink()
            if script:
                program.write_text(script)
                program.chmod(0o755)
            daemon.kill(signal.SIGUSR2)
            wait_for(lambda text=why: text in daemon.stderr(), 20 * SLOW, f"it says: {why}")
            with trainer.Trainer(manager.path) as observer:
                self.assertEqual(observer.status().pid, daemon.pid)
        manager.said("RELOADING=1", "READY=1", "STATUS=serving.*")
        program.symlink_to(BIN / "devmem-loaderd")
        self.upgrade(manager, daemon)


def waits_at(path):
    """Whether somebody connected to this socket: /proc/net/unix has the accepted end's path too, from connect() on."""
    return sum(line.split()[-1] == path for line in pathlib.Path("/proc/net/unix").read_text().splitlines()) > 1


def alive(pid):
    try:
        return "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]
    except OSError:
        return False


def send(pid, how):
    """It may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


def kill(pid):
    if alive(pid):
        send(pid, signal.SIGKILL)
