# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests stand on: real servers and real processes, each with a deadline, nothing left behind.

    class T(harness.TestCase):
        def test_x(self):
            bucket = self.raw_bucket()                    # a small data set, by default
            nginx = self.nginx(bucket)
            daemon = self.daemon("--memory-limit", str(1 << 28))
            run = self.loader("--bucket", nginx.url, *RAW, service=daemon.socket)
            self.assertEqual(run.status, 0, run.text)

$DEVMEM_BIN is where devmem-loader and devmem-loaderd are (default: build/release/bin).
"""
import collections
import ctypes
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))
import make_dataset  # noqa: E402  pylint: disable=wrong-import-position
from fault_server import FaultServer  # noqa: E402,F401  pylint: disable=wrong-import-position

BIN = pathlib.Path(os.environ.get("DEVMEM_BIN") or ROOT / "build/release/bin")
os.environ.setdefault("DEVMEM_CONFIG", os.devnull)  # not what this machine's own daemon is configured with
SLOW = 6 if os.environ.get("DEVMEM_SANITIZE") else 1  # sanitized programs get more time, never less checking
TIMEOUT = 60 * SLOW
SANITIZER = re.compile(r"(WARNING|ERROR): (Address|Leak|Thread|Memory)Sanitizer|: runtime error: ")

SAMPLE = 16384  # bytes of a sample of the small raw set
RAW = ("--format", "raw", "--dtype", "uint8", "--shape", str(SAMPLE))
QUICK = ("--connect-timeout", "2", "--first-byte-timeout", "2", "--stall-timeout", "1", "--read-timeout", "20", "--max-retries", "5")


def wait_for(condition, seconds, what):
    """Asks again and again, with a deadline; for states of other processes that give no event."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)


_LIBC = ctypes.CDLL(None)


def die_with_us(how, then=None):
    """For preexec_fn: the child gets this signal should we die (a test over its time), so that nothing is left behind."""
    def run():
        if then is not None:
            then()
        _LIBC.prctl(1, how)  # PR_SET_PDEATHSIG; after `then`, because a change of user clears it
    return run


_PORTS = {}


def free_port(host="127.0.0.1"):
    """A port that nobody else gets until this process ends: no other test, because a name is bound for each that one has (an
    abstract socket's, which goes with its process), and no connection's own end, because it is below those that the kernel takes."""
    lowest = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    chance = random.SystemRandom()
    for _ in range(1000):
        port = chance.randrange(10240, lowest) if lowest > 11000 else chance.randrange(1024, 65536)
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0devmem-loader-test-port-{port}")
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError:
            claim.close()
            continue
        _PORTS[port] = claim
        return port
    raise AssertionError("no port is free")


def accepts(address, kind=socket.SOCK_STREAM):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, kind) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address)
            return True
        except OSError:
            return False


def peers_of(daemon):
    """Connections to a daemon's unix sockets that are not over yet for it, and the processes it watches for their end."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
        rows = [line.split() for line in table]
    connected = [row for row in rows if len(row) > 7 and row[7].startswith(daemon.path) and row[5] != "01"]  # 01: it listens
    watched = []
    for fd in os.listdir(f"/proc/{daemon.pid}/fd"):
        try:
            watched += [fd] if "pidfd" in os.readlink(f"/proc/{daemon.pid}/fd/{fd}") else []
        except FileNotFoundError:
            pass  # closed meanwhile
    return connected + watched


class Nginx:
    """nginx on an ephemeral loopback port, as the current user, with a configuration and a folder of its own."""

    CONFIG = """
daemon off; worker_processes 2; pid {work}/pid; error_log {work}/error.log; {user}
events {{ worker_connections 1024; }}
http {{
  log_format short '$request_method $uri $http_range $status'; access_log {access};
  client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3; uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
  sendfile on; tcp_nopush on; keepalive_requests 1000000; keepalive_timeout 75; types {{ }} default_type application/octet-stream;
  server {{
    listen {listen} backlog=1024; {extra}
    location / {{ root {folder}; autoindex on; autoindex_format json; }}
  }}
}}
"""

    def __init__(self, folder, work, host="127.0.0.1", extra="", log=False):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="nginx-", dir=work))
        self.host, self.folder, self.extra = host, pathlib.Path(folder).resolve(), extra
        self.binary = shutil.which("nginx") or "/usr/sbin/nginx"
        self.log = self.work / "access.log" if log else None
        self.process = None
        for attempt in range(5):
            self.port = free_port(host)
            try:
                self.start()
                break
            except AssertionError:
                if attempt == 4:
                    raise
        self.url = f"http://{'[' + host + ']' if ':' in host else host}:{self.port}/"

    def start(self):
        literal = f"[{self.host}]" if ":" in self.host else self.host
        (self.work / "conf").write_text(self.CONFIG.format(
            work=self.work, folder=self.folder, listen=f"{literal}:{self.port}", extra=self.extra,
            user="user root;" if os.geteuid() == 0 else "", access=f"{self.log} short" if self.log else "off"))
        self.process = subprocess.Popen([self.binary, "-p", self.work, "-c", self.work / "conf", "-e", self.work / "error.log"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                                        preexec_fn=die_with_us(signal.SIGTERM))

        def up():
            if self.process.poll() is not None:
                raise AssertionError("nginx ended: " + (self.work / "error.log").read_text()[-500:])
            return accepts((self.host, self.port))
        wait_for(up, 10, "nginx listens")

    def stop(self, how=signal.SIGTERM):
        """SIGTERM: at once, breaking connections off (nginx's "fast shutdown")."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(10)

    close = stop


Run = collections.namedtuple("Run", "status stdout text summary error seconds")


class Program:
    """A process of ours that goes on in the background; its output is kept in files."""

    def __init__(self, command, work, name, environment=None, preexec_fn=None, **options):
        self.out = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work))
        self.started = time.monotonic()
        with open(self.out / "stdout", "wb") as stdout, open(self.out / "stderr", "wb") as stderr:
            self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                                            env={**os.environ, **(environment or {})},
                                            preexec_fn=die_with_us(signal.SIGKILL, preexec_fn), **options)

    @property
    def pid(self):
        return self.process.pid

    def stderr(self):
        return (self.out / "stderr").read_text(errors="replace")

    def kill(self, how=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(how)

    def close(self):
        self.kill()
        self.process.wait(10)
        report = SANITIZER.search(self.stderr())
        if report and os.environ.get("DEVMEM_SANITIZE"):  # else a daemon that is only killed would keep it to itself
            raise AssertionError(f"{self.process.args[0]}:\n{self.stderr()[report.start():][:6000]}")

    def wait(self, timeout=TIMEOUT):
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill(signal.SIGABRT)
            self.process.wait(10)
            raise AssertionError(f"still running after {timeout} s: {self.process.args}\n{self.stderr()[-3000:]}") from None
        stdout = (self.out / "stdout").read_text(errors="replace")
        last = {}
        for line in reversed(stdout.splitlines()):
            if line.startswith("{"):
                last = json.loads(line)
                break
        return Run(status, stdout, stdout[-2000:] + self.stderr()[-4000:], last if "error" not in last else {}, last.get("error", {}),
                   time.monotonic() - self.started)


class Daemon(Program):
    def __init__(self, work, *flags, path=None, binary=None, **options):
        folder = tempfile.mkdtemp(prefix="d-", dir=work)
        os.chmod(folder, 0o755)
        self.path = path or os.path.join(folder, "l.sock")
        self.socket = "unix:" + self.path
        super().__init__([binary or BIN / "devmem-loaderd", "--socket", self.path, *flags], work, "daemon", **options)

    def ready(self):
        def up():
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.stderr()}")
            # Both sockets: a file is there from bind() on, and refuses until listen().
            return accepts(self.path) and accepts(self.path + ".fd", socket.SOCK_SEQPACKET)
        wait_for(up, 60 * SLOW, "the daemon listens")
        return self


class TestCase(unittest.TestCase):
    """Keeps a folder for the test, and ends in reverse order all that the test started."""

    maxDiff = 2000

    def setUp(self):
        if not (BIN / "devmem-loader").exists():
            self.fail(f"no devmem-loader in {BIN}: build it, or set DEVMEM_BIN")
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="devmem-"))
        os.chmod(self.work, 0o755)
        self.addCleanup(shutil.rmtree, self.work, ignore_errors=True)

    def keep(self, thing):
        self.addCleanup(thing.close)
        return thing

    # --- buckets ---
    def folder(self, name="bucket"):
        path = self.work / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def raw_bucket(self, name="raw", shards=4, samples=256, sample_bytes=SAMPLE, seed=1):
        make_dataset.ensure("raw", self.work / name, samples * sample_bytes, seed, sample_bytes=sample_bytes, shards=shards)
        return self.work / name

    def npy_bucket(self, name="npy", shards=4, total=2 << 20, shape=(16, 16, 3), seed=2):
        make_dataset.ensure("npy", self.work / name, total, seed, shape=list(shape), shards=shards)
        return self.work / name

    def safetensors_bucket(self, name="st", shards=3, total=1 << 20, width=256, seed=3):
        make_dataset.ensure("safetensors", self.work / name, total, seed, width=width, shards=shards)
        return self.work / name

    # --- servers ---
    def nginx(self, folder, **options):
        return self.keep(Nginx(folder, self.work, **options))

    def server(self, folder, **options):
        return self.keep(FaultServer(folder, **options))

    def daemon(self, *flags, ready=True, **options):
        daemon = self.keep(Daemon(self.work, *flags, **options))
        return daemon.ready() if ready else daemon

    # --- the CLI ---
    def start(self, *flags, service=None, digest=None, binary=None, **options):
        command = [binary or BIN / "devmem-loader", "--output", "json", *flags]
        if service:
            command += ["--service", service]
        if digest:
            command += ["--digest", digest]
        return self.keep(Program(command, self.work, "loader", **options))

    def loader(self, *flags, timeout=TIMEOUT, **options):
        return self.start(*flags, **options).wait(timeout)

    def verb(self, *arguments, timeout=TIMEOUT, **options):
        return self.keep(Program([BIN / "devmem-loader", *arguments], self.work, "verb", **options)).wait(timeout)

    # --- checks ---
    def digest(self, path):
        return list(make_dataset.digest_rows(path))

    def assert_delivered(self, folder, *digests, epochs=1, sample_bytes=SAMPLE, without=()):
        """Every sample's row of every tensor, once an epoch, with the hash the file has; nothing else."""
        expected = make_dataset.samples_of(folder, sample_bytes)
        for name in without:
            expected = {key: value for key, value in expected.items() if key[0] != name}
        for epoch in range(epochs):
            found = collections.Counter()
            wrong = []
            for path in digests:
                for line in self.digest(path):
                    if line["epoch"] != epoch:
                        continue
                    key = (line["object"], line["offset"], line["bytes"])
                    found[key] += 1
                    if expected.get(key) != line["sha256"]:
                        wrong.append(line)
            self.assertEqual(wrong[:3], [], "samples with the wrong bytes")
            self.assertEqual([key for key, n in found.items() if n != 1][:3], [], "samples delivered more than once")
            self.assertEqual(sorted(set(expected) - set(found))[:3], [], "samples never delivered")

    def assert_failed(self, run, *words, code=None, status=1):
        """Exit status 1 and an error that says what happened (words, any case), on what, and what to do next."""
        self.assertEqual(run.status, status, run.text)
        self.assertTrue(run.error, f"no JSON error on the last line:\n{run.text}")
        everything = json.dumps(run.error).lower()
        for word in words:
            self.assertIn(word.lower(), everything)
        if code:
            self.assertIn(run.error["code"], code if isinstance(code, tuple) else (code,), run.error)
        self.assertTrue(run.error.get("cause"), f"an error without a cause: {run.error}")
        self.assertTrue(run.error.get("action"), f"an error that says not what to do: {run.error}")
