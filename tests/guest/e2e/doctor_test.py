# SPDX-License-Identifier: Apache-2.0
"""devmem-loader doctor: a machine that lacks nothing, then one fault after another, each named by its row; and the canary, which
says what became of the bytes."""
import contextlib
import ctypes
import http.server
import json
import os
import pathlib
import random
import struct
import threading
import time

import guest
from guest import devmem, ethtool, handle, knobs, nic, product, shell

from stand import QUEUE, Stand, state

UNPRIVILEGED = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
NO_GPU = {"gpu", "cuda-driver", "bar1"}
NO_PCI = {"iommu", "pcie-distance", "acs", "numa"}  # devmemsim's parent is a platform device
NO_CANARY = {"page-size", "binding", "canary", "put-back"}
HUGE_PAGES = "/proc/sys/vm/nr_hugepages"
UDMABUF_LIMIT = "/sys/module/udmabuf/parameters/size_limit_mb"
SYS_BPF = 321  # of x86-64
BPF_PROG_LOAD, BPF_LINK_CREATE, PROG_TYPE_XDP, ATTACH_XDP, XDP_SKB_MODE = 5, 28, 6, 37, 2
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def setting(path, value):
    """A file of /proc or /sys that holds another value meanwhile."""
    file = pathlib.Path(path)
    before = file.read_text(encoding="ascii").strip()
    file.write_text(str(value), encoding="ascii")
    try:
        yield
    finally:
        file.write_text(before, encoding="ascii")


def keep_clock(kept=True):
    """Tells the kernel that something keeps its clock in step, or that nothing does (adjtimex)."""
    timex = ctypes.create_string_buffer(512)
    struct.pack_into("=I4xqqqqi", timex, 0, 0x10 | 0x04, 0, 0, 0, 0, 0x01 if kept else 0x40)  # ADJ_STATUS, ADJ_MAXERROR; STA_PLL, STA_UNSYNC
    if _libc.adjtimex(timex) < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")


@contextlib.contextmanager
def clock_adrift():
    keep_clock(False)
    try:
        yield
    finally:
        keep_clock()


@contextlib.contextmanager
def xdp_attached(here):
    """A program that passes everything, as long as its link is open."""
    program = struct.pack("=BBhi", 0xB7, 0, 0, 2) + struct.pack("=BBhi", 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit
    code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"GPL")

    def bpf(command, attributes):
        buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"))
        fd = _libc.syscall(SYS_BPF, command, buffer, len(buffer.raw))
        if fd < 0:
            raise OSError(ctypes.get_errno(), f"bpf command {command}")
        return fd

    loaded = bpf(BPF_PROG_LOAD, struct.pack("=IIQQ", PROG_TYPE_XDP, 2, ctypes.addressof(code), ctypes.addressof(licence)))
    link = bpf(BPF_LINK_CREATE, struct.pack("=IIII", loaded, here.ifindex, ATTACH_XDP, XDP_SKB_MODE))
    try:
        yield
    finally:
        os.close(link)
        os.close(loaded)


@contextlib.contextmanager
def away(path):
    os.rename(path, path + ".away")
    try:
        yield
    finally:
        os.rename(path + ".away", path)


@contextlib.contextmanager
def slow_store(there, seconds):
    """A web server at the far end that thinks before each answer; its URL."""
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):  # pylint: disable=invalid-name
            time.sleep(seconds)
            entries = [{"name": "x", "type": "file", "mtime": "Tue, 20 May 2025 10:00:00 GMT", "size": 1}]
            body = json.dumps(entries).encode() if self.path == "/" else b"x"
            self.send_response(200 if self.path == "/" else 206)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Range", "bytes 0-0/1")
            self.send_header("Last-Modified", "Tue, 20 May 2025 10:00:00 GMT")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):  # pylint: disable=arguments-differ
            pass

    with shell.namespace(there.netns):
        server = http.server.ThreadingHTTPServer((there.v4, 8090), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{there.v4}:8090/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Doctor(Stand):
    """A machine on which every row passes."""
    deadline = 300
    PERSONALITY = {"mtu": 9000}

    def setUp(self):
        super().setUp()
        handle.load(self)
        for path, value in ((HUGE_PAGES, 80), (UDMABUF_LIMIT, 256)):
            stack = contextlib.ExitStack()
            stack.enter_context(setting(path, value))
            self.addCleanup(stack.close)
        keep_clock()
        self.bucket.mkdir()
        (self.bucket / "canary").write_bytes(random.Random(7).randbytes(5 << 20))
        self.server = self.serve()

    def examine(self, *flags, prefix=(), bucket=True, slow="60s"):
        """(exit code, {check: row}) of a doctor; a check of two NICs would be an error."""
        words = ["--interface", self.here.name, "--queues", "1", "--connections", "4", "--slow", slow, *flags]
        words += ["--bucket", self.server.url] if bucket else []
        made = product.Program("devmem-loader", "doctor", "--output", "json", *words, prefix=prefix)
        self.addCleanup(made.kill)
        run = made.wait(120)
        rows = {row["check"]: row for row in run.summary["rows"]}
        self.assertEqual(len(rows), len(run.summary["rows"]), "each check once")
        self.assertEqual(run.summary["healthy"], run.status == 0)
        self.assertEqual(run.status != 0, any(row["verdict"] == "FAIL" for row in rows.values()))
        return run.status, rows

    def canary(self, *flags, **more):
        return self.examine("--canary", *flags, **more)

    def only(self, rows, skipped):
        """That all passed but what was skipped."""
        self.assertEqual({}, {check: row for check, row in rows.items() if row["verdict"] not in ("PASS", "SKIP")})
        self.assertEqual(skipped, {check for check, row in rows.items() if row["verdict"] == "SKIP"})

    def names(self, rows, check, verdict, pattern):
        """That this row says so, and what to do."""
        self.assertEqual(verdict, rows[check]["verdict"], rows[check])
        self.assertRegex(rows[check]["found"], pattern)
        self.assertNotEqual("", rows[check]["fix"], rows[check])


class Whole(Doctor):
    def test_everything_passes_and_the_nic_is_as_it_was(self):
        status, rows = self.canary()
        self.assertEqual(0, status, rows)
        pages = rows.pop("page-size")
        large = guest.kernel() >= (7, 0)  # before, buffers are pages
        self.assertEqual(("PASS", "64 KiB") if large else ("WARN", "4 KiB"), (pages["verdict"], pages["found"]))
        self.only(rows, NO_GPU | NO_PCI | {"credentials"})
        self.assertRegex(rows["canary"]["found"], r"^4 MiB in \d+ fragments: every byte is right$")
        self.assert_as_found()

        made = product.Program("devmem-loader", "doctor", "--interface", self.here.name)
        self.addCleanup(made.kill)
        self.assertEqual(0, made.wait(60).status)
        self.assertRegex(made.stdout(), r"PASS +driver +dms0 +devmemsim, ")
        self.assertRegex(made.stdout(), r"(?m)^SKIP  gpu, cuda-driver, bar1: the device is the CPU$")
        self.assertIn("nothing found that keeps this machine from receiving into device memory", made.stdout())


class Faults(Doctor):
    """Those that need no binding: (what is provoked, how it is done and undone, how the doctor is called, what its rows say)."""
    QUICK = {"no permission", "no udmabuf", "link down", "ntuple off", "XDP", "one queue", "rule table full", "store dead"}

    def named(self, chosen):
        """Provokes each fault that is chosen by name. Afterwards all passes again."""
        faults = self.machine_faults() + self.nic_faults(self.here, self.there) + self.store_faults(self.there)
        for name, fault, call, expected in [each for each in faults if chosen(each[0])]:
            with self.subTest(name), fault as given:
                call = {"bucket": False, **call, **(given or {})}
                _, rows = self.examine(*call.pop("flags", ()), **call)
                for check, verdict, pattern in expected:
                    self.names(rows, check, verdict, pattern)
        with self.subTest("none, again"):
            self.only(self.examine()[1], NO_GPU | NO_PCI | NO_CANARY | {"credentials"})

    def test_some(self):
        self.named(lambda name: name in self.QUICK)

    @staticmethod
    def machine_faults():
        nothing = contextlib.nullcontext
        dropped = ("setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock")
        return [
            ("no permission", nothing(), {"prefix": UNPRIVILEGED}, [("permission", "FAIL", "no CAP_NET_ADMIN")]),
            ("low rmem", setting("/proc/sys/net/core/rmem_max", 212992), {"prefix": UNPRIVILEGED}, [("rmem", "WARN", "^416 KiB")]),
            ("low tcp_rmem", setting("/proc/sys/net/ipv4/tcp_rmem", "4096 65536 1048576"), {}, [("tcp-rmem", "WARN", "^1 MiB")]),
            ("no udmabuf", away("/dev/udmabuf"), {}, [("dma-buf", "FAIL", "/dev/udmabuf: No such file")]),
            ("udmabuf far too small", setting(UDMABUF_LIMIT, 1), {}, [("dma-buf", "FAIL", "up to 1 MiB, and the smallest landing pool is")]),
            ("udmabuf too small", setting(UDMABUF_LIMIT, 48), {}, [("dma-buf", "WARN", "up to 48 MiB: .*smaller")]),
            ("no huge pages", setting(HUGE_PAGES, 0), {}, [("huge-pages", "WARN", "^0 free")]),
            ("few descriptors", nothing(), {"prefix": ("prlimit", "--nofile=256:256")}, [("descriptors", "FAIL", "^256")]),
            ("no memlock", nothing(), {"prefix": ("prlimit", "--memlock=65536:65536", *dropped)}, [("memlock", "WARN", "^64 KiB$")]),
            ("clock adrift", clock_adrift(), {}, [("clock", "WARN", "nothing keeps it")]),
            ("a GPU that is none", nothing(), {"flags": ("--device", "cuda:0")}, [("gpu", "FAIL", "^0 NVIDIA GPUs")]),
        ]

    def nic_faults(self, here, there):
        nothing = contextlib.nullcontext

        @contextlib.contextmanager
        def done(do, undo):
            do()
            try:
                yield
            finally:
                undo()

        @contextlib.contextmanager
        def rules(count, queue):
            places = [ethtool.insert_rule(here, ethtool.LOC_ANY, queue, src=(None, 1000 + i)) for i in range(count)]
            try:
                yield
            finally:
                for place in places:
                    ethtool.delete_rule(here, place)

        @contextlib.contextmanager
        def veth():
            shell.ip(["link add veth0 type veth peer name veth1"])
            try:
                yield
            finally:
                shell.ip(["link delete veth0"])

        @contextlib.contextmanager
        def bound():
            with devmem.bound(here, [1, 2, 3]):
                yield

        def on(name):
            return {"flags": ("--interface", name)}

        return [
            ("interface missing", nothing(), on("none0"), [("interface", "FAIL", "no such interface")]),
            ("loopback", nothing(), on("lo"), [("interface", "FAIL", "no physical device")]),
            ("veth", veth(), on("veth0"), [("interface", "FAIL", "it is a veth")]),
            ("link down", done(lambda: here.up(False), lambda: self.whole_again(here, there)), {}, [("link", "FAIL", "^down$")]),
            ("no carrier", done(lambda: there.up(False), lambda: self.whole_again(there, here)), {}, [("link", "FAIL", "without a carrier")]),
            ("small MTU", done(lambda: here.mtu(1500), lambda: here.mtu(9000)), {}, [("mtu", "WARN", "^1500$")]),
            ("tiny MTU", done(lambda: here.mtu(1200), lambda: self.whole_again(here, there)), {}, [("mtu", "FAIL", "^1200$")]),
            ("ntuple off", done(lambda: ethtool.feature(here, "ntuple", False), lambda: ethtool.feature(here, "ntuple", True)), {},
             [("ntuple", "WARN", "^off")]),
            ("XDP", xdp_attached(here), {}, [("xdp", "FAIL", "XDP program is attached")]),
            ("one queue", done(lambda: ethtool.channels(here, 1), lambda: ethtool.channels(here, 4)), {}, [("queues", "FAIL", "^0 free of 1")]),
            ("too few queues", nothing(), {"flags": ("--queues", "8")}, [("queues", "WARN", "^3 free of 4")]),
            ("all queues in an RSS context", done(lambda: ethtool.run("context new equal 4", here, "-X"),
                                                  lambda: ethtool.run("context 1 delete", here, "-X")), {},
             [("queues", "FAIL", "queue 1: RSS context 1 leads to it")]),
            ("all queues bound", bound(), {}, [("queues", "FAIL", r"queue 1: dma-buf \d+ is bound to it by someone else")]),
            ("rule table full", rules(1024, 0), {}, [("rules", "FAIL", "^0 free of 1024: the rule table is full")]),
            ("rule table nearly full", rules(1022, 0), {}, [("rules", "WARN", "^2 free of 1024")]),
        ]

    @staticmethod
    def whole_again(end, other):
        """Up, with its MTU, and the IPv6 address that it lost with either."""
        end.ip(f"link set {end.name} mtu 9000 up")
        end.ip(f"addr replace {end.v6}/64 dev {end.name} nodad")
        shell.until(lambda: end.carrier() and other.carrier(), "a carrier")

    def store_faults(self, there):
        nothing = contextlib.nullcontext
        secret = "s3cr3t-that-nobody-may-see"

        @contextlib.contextmanager
        def slow():
            with slow_store(there, 0.3) as url:
                yield {"flags": ("--bucket", url)}

        @contextlib.contextmanager
        def dead():
            self.server.stop()
            try:
                yield
            finally:
                self.server.start()

        return [
            ("store dead", dead(), {"bucket": True}, [("store", "FAIL", "(?i)refused")]),
            ("store slow", slow(), {"slow": "250ms"}, [("latency", "WARN", r"^\d+\.\d ms, the shortest of 5$")]),
            ("bucket missing", nothing(), {"flags": ("--bucket", self.server.url + "none/")}, [("store", "FAIL", "404")]),
            ("no route by the NIC", nothing(), {"flags": ("--bucket", "http://127.0.0.1:9/")},
             [("route", "WARN", "^by lo, for the store is this host itself")]),
            ("half of the credentials", nothing(),
             {"flags": ("--bucket", "s3://x/", "--endpoint-url", f"http://{there.v4}:8080"), "prefix": ("env", f"AWS_SECRET_ACCESS_KEY={secret}")},
             [("credentials", "WARN", r"^AWS_SECRET_ACCESS_KEY \(not shown\): half of a pair$")]),
        ]


class FaultsLong(Faults):
    LONG = True

    def test_some(self):
        self.named(lambda name: name not in self.QUICK)


class Unprivileged(Doctor):
    LONG = True

    def test_without_root_the_rest_is_told(self):
        status, rows = self.examine(prefix=UNPRIVILEGED)
        self.assertEqual(1, status)
        bad = {check: row["found"] for check, row in rows.items() if row["verdict"] == "FAIL"}
        self.assertLessEqual(set(bad), {"permission", "dma-buf"}, bad)  # of /dev/udmabuf only its owner has the use
        self.assertEqual(("SKIP", "run as root"), (rows["bind"]["verdict"], rows["bind"]["fix"]))
        for check in ("kernel", "link", "driver", "header-split", "ntuple", "rules", "rss", "queues", "store", "latency", "route"):
            self.assertEqual("PASS", rows[check]["verdict"], rows[check])


class Struck(Doctor):
    """What the NIC does wrong is called by its name, and afterwards the NIC is as it was."""

    def setUp(self):
        super().setUp()
        ethtool.rss_equal(self.here, QUEUE)  # so that no other connection is struck in the canary's stead
        self.found = state(self.here)

    def verdict(self, knob, count, pattern, verdict="FAIL", **settings):
        with self.subTest(knob):
            knobs.strike(QUEUE, knob, count, **settings)
            try:
                status, rows = self.canary()
            finally:
                knobs.strike(QUEUE, knob, 0)
            self.assertEqual(1 if verdict == "FAIL" else 0, status, rows["canary"])
            self.assertEqual(verdict, rows["canary"]["verdict"], rows["canary"])
            self.assertRegex(rows["canary"]["found"], pattern)
            self.assertEqual("PASS", rows["put-back"]["verdict"], rows["put-back"])
            self.assert_as_found(knob)


class Canary(Struck):
    def test_writes_that_are_lost_or_go_astray(self):
        self.verdict("dma_lose", 1, "^LOST DMA WRITE: ")
        self.verdict("dma_misplace", 1, r"^MISPLACED DMA WRITE: .* of the pool, and lie at \d+$")
        self.verdict("misroute", 1, "^WRONG QUEUE: .* came into host memory by queue 0, not by queue 3$", misroute_to=0)


class CanaryLong(Struck):
    LONG = True

    def test_one_of_many_frames(self):
        """In the midst of the bulk, where later frames write over what went astray."""
        self.verdict("dma_lose", 1, "^LOST DMA WRITE: ", skip=80)
        self.verdict("dma_misplace", 1000000, "^MISPLACED DMA WRITE: ", skip=80)
        self.verdict("misroute", 1, "^WRONG QUEUE", skip=80, misroute_to=1)  # or a lack of header split: the two cannot be told apart then

    def test_what_else_the_nic_may_do(self):
        self.verdict("linear", 1, "^NO HEADER SPLIT: ")
        self.verdict("split_late", 4, "every byte is right; the NIC left 256 bytes of payload with the headers$", verdict="WARN")
        self.verdict("drop", 3, "every byte is right$", verdict="PASS")
        self.verdict("corrupt", 3, "every byte is right$", verdict="PASS")

    def test_no_rule(self):
        knob = knobs.ROOT / knobs.HERE / "refuse_rules"
        knob.write_text("1000")
        _, rows = self.canary()
        self.names(rows, "canary", "FAIL", "no rule for tcp .* to queue 3: ")
        self.assertEqual("PASS", rows["put-back"]["verdict"])
        knob.write_text("0")
        self.assert_as_found()

    def test_no_binding(self):
        """An XDP program keeps the kernel from it; the words are the kernel's."""
        with xdp_attached(self.here):
            _, rows = self.canary()
            self.names(rows, "binding", "FAIL", "XDP")
            self.assertEqual("SKIP", rows["canary"]["verdict"])
        self.assert_as_found()

    def test_what_cannot_be_tried(self):
        with self.subTest("this host's files"):
            _, rows = self.examine("--canary", "--bucket", f"file://{self.bucket}", bucket=False)
            self.names(rows, "canary", "FAIL", "come over no wire")
        with self.subTest("a store by another way"):
            _, rows = self.examine("--canary", "--bucket", "http://127.0.0.1:9/", bucket=False)
            self.names(rows, "canary", "FAIL", "there is no object to read")
        with self.subTest("nobody"):
            _, rows = self.canary(prefix=UNPRIVILEGED)
            self.assertEqual("FAIL", rows["permission"]["verdict"])
            self.assertEqual("FAIL", rows["binding"]["verdict"], rows["binding"])
        self.assert_as_found()

    @guest.deadline(300)
    def test_beside_a_daemon(self):
        """A free queue beside the daemon's; its journal and the canary's share a folder, and the daemon goes on."""
        daemon = self.daemon()
        status, rows = self.canary()
        self.assertEqual(0, status, rows["canary"])
        self.assertEqual("PASS", rows["canary"]["verdict"])
        (bound,) = self.devmem(daemon)["nics"]
        self.assertEqual((True, [QUEUE]), (bound["intact"], bound["queues"]), bound)
        daemon.end()
        self.assert_as_found()


class CanaryPersonalities(Doctor):
    """On NICs with the quirks of real drivers."""

    def passes(self, page):
        status, rows = self.canary()
        self.assertEqual(0, status, {check: row for check, row in rows.items() if row["verdict"] in ("FAIL", "WARN")})
        self.assertEqual(("PASS", "PASS"), (rows["canary"]["verdict"], rows["put-back"]["verdict"]), rows)
        self.assertEqual(page if guest.kernel() >= (7, 0) else "4 KiB", rows["page-size"]["found"])
        self.assert_as_found()


class CanaryMlx5(CanaryPersonalities):
    LONG = True
    PERSONALITY = {"mtu": 9000, "personality": "mlx5"}

    def test_passes(self):
        self.passes("64 KiB")


class CanaryBnxt(CanaryPersonalities):
    LONG = True
    PERSONALITY = {"mtu": 9000, "personality": "bnxt"}

    def test_passes(self):
        self.passes("32 KiB")


class CanaryGve(CanaryPersonalities):
    LONG = True
    PERSONALITY = {"mtu": 9000, "personality": "gve"}

    def test_passes(self):
        self.passes("4 KiB")


class CanaryFbnic(CanaryPersonalities):
    LONG = True
    PERSONALITY = {"mtu": 9000, "personality": "fbnic"}

    def test_passes(self):
        self.passes("4 KiB")
