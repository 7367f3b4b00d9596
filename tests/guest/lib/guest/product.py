# SPDX-License-Identifier: Apache-2.0
"""Our daemon and CLI as processes of the guest.

    daemon = product.daemon(self, "--transport", "devmem", "--interface", "dms0")
    run = product.loader(self, "--bucket", url, "--service", daemon.service).wait()
    run.status, run.summary, run.error, run.text
"""
import collections
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile

from . import patience, program, shell

Run = collections.namedtuple("Run", "status summary error text")



class Program:
    """A process of ours that goes on in the background; its output is kept in files."""

    def __init__(self, name, *flags, prefix=()):
        self.name, self.out = name, pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-"))
        with open(self.out / "stdout", "wb") as stdout, open(self.out / "stderr", "wb") as stderr:
            self.process = subprocess.Popen([*map(str, prefix), *program.command(name), *map(str, flags)], stdin=subprocess.DEVNULL,
                                            stdout=stdout, stderr=stderr)

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process.poll() is None

    def stdout(self):
        return (self.out / "stdout").read_text(errors="replace")

    def stderr(self):
        return (self.out / "stderr").read_text(errors="replace")

    def kill(self, how=signal.SIGKILL):
        """Sends a signal; after SIGKILL the process is gone."""
        if self.running():
            self.process.send_signal(how)
        if how == signal.SIGKILL:
            self.process.wait(20 * patience())

    def wait(self, seconds=60.0):
        """Its end: status, what stood on the last line of stdout as JSON (a summary or an error), and all it said."""
        try:
            status = self.process.wait(seconds * patience())
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(20)
            raise AssertionError(f"{self.name} had not ended after {seconds:g} s; it said:\n{self.stderr()[-4000:]}") from None
        lines = [line for line in self.stdout().splitlines() if line.startswith("{")]
        last = json.loads(lines[-1]) if lines else {}
        return Run(status, {} if "error" in last else last, last.get("error", {}), self.stdout()[-3000:] + self.stderr()[-6000:])


class Daemon(Program):
    """devmem-loaderd; .service is what trainers are told."""

    def __init__(self, *flags, prefix=(), path=None):
        self.path = path or os.path.join(tempfile.mkdtemp(prefix="daemon-"), "loader.sock")
        self.service = f"unix:{self.path}"
        super().__init__("devmem-loaderd", "--socket", self.path, *flags, prefix=prefix)

    def listens(self):
        """Whether it serves."""
        return accepts(self.path, socket.SOCK_STREAM) and accepts(self.path + ".fd", socket.SOCK_SEQPACKET)

    def ready(self, seconds=30.0):
        def up():
            if not self.running():
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.stderr()[-4000:]}")
            return self.listens()
        shell.until(up, "the daemon listens", seconds)
        return self

    def end(self, seconds=40.0):
        """Asks it to end (SIGTERM), and fails if it does not do so well."""
        self.kill(signal.SIGTERM)
        run = self.wait(seconds)
        if run.status != 0:
            raise AssertionError(f"the daemon ended with {run.status} on SIGTERM:\n{run.text}")
        return run


def accepts(path, kind):
    """Whether somebody listens on this unix socket. A file is there from bind() on, and refuses until listen()."""
    with socket.socket(socket.AF_UNIX, kind) as probe:
        return probe.connect_ex(path) == 0


def daemon(test, *flags, ready=True, **more):
    """A Daemon that is killed when the test ends."""
    made = Daemon(*flags, **more)
    test.addCleanup(made.kill)
    return made.ready() if ready else made


def loader(test, *flags, digest=None, **more):
    """devmem-loader in the background, killed when the test ends."""
    words = ["--output", "json", *flags, *(["--digest", digest] if digest else [])]
    made = Program("devmem-loader", *words, **more)
    test.addCleanup(made.kill)
    return made


def status(test, served):
    """What a daemon says of itself: devmem-loader status."""
    made = Program("devmem-loader", "status", "--service", served.service, "--output", "json")
    test.addCleanup(made.kill)
    run = made.wait(30)
    test.assertEqual(0, run.status, run.text)
    return run.summary
