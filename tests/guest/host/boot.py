# SPDX-License-Identifier: Apache-2.0
"""One boot of a guest under QEMU's emulation: its events as they come, deadlines, and the console for when it dies.

The guest reports over a virtio port; its console goes to a file. KVM is not used: where tests run, it mostly is not there, and the
same emulation everywhere is worth more than speed here and there.
"""
import json
import pathlib
import re
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time

from . import cache

BOOT_SECONDS = 400  # to the first word of the agent; 10 on an idle machine
SILENT_SECONDS = 150  # beyond a test's own deadline, before the guest is taken for dead
# The one thing worth a second try: QEMU 7.2's emulation at times trips over the kernel patching itself, as it does while it starts and
# when something is used for the first time (a static key): a CPU executes the breakpoint after it was taken out again.
PATCHING_OOPS = re.compile(r"Oops: int3")

# No cx16: QEMU 7.2 loses the flags after cmpxchg16b (a guest whose allocator uses it, as that of 6.12 does, soon dies of it).
# No erms: it has the kernel copy and clear by `rep movsb`, which is emulated byte by byte.
# No la57: page tables are walked in software, and a kernel with KASAN and five levels of them takes an interrupt that comes while it
# looks at its CPU's features for a wild access.
CPU = "max,-cx16,-erms,-la57"
CMDLINE = ["console=ttyS0", "loglevel=5", "panic=-1", "oops=panic", "mitigations=off", "lpj=10000000",
           "cryptomgr.notests",  # lpj: what calibration would find; together they save seconds
           "net.ifnames=0", "random.trust_cpu=on",
           # an emulated CPU on a busy machine may stand still for a while
           "watchdog_thresh=60", "rcupdate.rcu_cpu_stall_timeout=180", "hung_task_timeout_secs=120"]

# How fast its cycle counter runs the kernel finds out by a PIT whose interrupts come late on a busy host, and a guest's clock has then
# run ten times too fast. The HPET tells the host's time. A suite may say otherwise ("tsc=reliable" in its cmdline).
CLOCK = "tsc=unstable"

stopping = threading.Event()
_running = set()


def stop():
    """Ends every guest of this process: whoever waits for one gets Died."""
    stopping.set()
    for process in list(_running):
        process.kill()


class Died(Exception):
    """The guest ended without a farewell, or was ended by us: why, and the end of its console."""


def command(kernel, root, payload, console, port, memory, cpus, extra=(), icount=None, plugin=None):
    """QEMU's. With `icount`, the guest's clock counts 2 to the power of it nanoseconds an instruction (host time while all its CPUs
    are idle): deadlines inside of the guest hold however busy this machine is. One host thread runs all CPUs. Not sleep=off: an idle
    guest's clock would leap, past its deadlines too, while it waits for a disk."""
    qemu = cache.need_program("qemu-system-x86_64", "qemu-system-x86")
    accelerator = ["-accel", "tcg,thread=multi"] if icount is None else ["-accel", "tcg,thread=single", "-icount", f"shift={icount}"]
    drives = []
    for file in (root, kernel["modules"], payload):
        drives += ["-drive", f"file={file},format=raw,if=virtio,readonly=on,cache=unsafe"]
    # setpriv: QEMU goes when we go, however we go
    return ["setpriv", "--pdeathsig", "KILL",
            qemu, "-nodefaults", "-no-user-config", "-M", "q35", *accelerator, "-cpu", CPU, "-smp", str(cpus), "-m", memory,
            *(["-plugin", plugin] if plugin else []), "-display", "none", "-no-reboot", "-nic", "none", "-serial", console, "-device", "virtio-rng-pci",
            *(["-device", "virtio-serial-pci", "-chardev", f"socket,id=report,path={port}", "-device",
               "virtserialport,chardev=report,name=report"] if port else []),
            "-kernel", kernel["vmlinuz"], "-initrd", kernel["initrd"], *drives, "-append", " ".join([*CMDLINE, *([] if any(word.startswith("tsc=") for word in extra) else [CLOCK]), *extra])]


def shell(kernel, root, payload, memory, cpus):
    """An interactive shell on the guest's console."""
    words = command(kernel, root, payload, "mon:stdio", None, memory, cpus, ["guest.shell"])
    return subprocess.run(list(map(str, words)), check=False).returncode


def events(kernel, root, payload, console, needs, deadline=lambda event: SILENT_SECONDS, patience=1):
    """Boots, and yields the guest's events until its farewell. Raises Died. `needs`: what its suite.json says (choose.py); the plugin
    is a whole path there. `patience` multiplies every deadline, the guest's too."""
    console.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="guest-"))  # a socket's path must be short
    listener = socket.socket(socket.AF_UNIX)
    process = None
    try:
        listener.bind(str(scratch / "port"))
        listener.listen(1)
        console.write_bytes(b"")
        plugin = f"{needs['plugin']},out={console.with_suffix('.plugin')}" if needs["plugin"] else None
        words = command(kernel, root, payload, f"file:{console}", scratch / "port", needs["memory"], needs["cpus"],
                        [f"guest.patience={patience}", *needs["cmdline"]], needs["icount"], plugin)
        process = subprocess.Popen(list(map(str, words)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=open(scratch / "err", "wb"))
        _running.add(process)
        if stopping.is_set():
            raise Died("told to stop")
        if not select.select([listener], [], [], 20)[0]:
            raise Died(f"qemu did not start: {(scratch / 'err').read_text(errors='replace').strip()}")
        port = listener.accept()[0]
        yield from conversation(port, process, console, deadline, patience)
        with_deadline(process, 20)
    finally:
        _running.discard(process)
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        listener.close()
        shutil.rmtree(scratch, ignore_errors=True)


def with_deadline(process, seconds):
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass  # it said farewell: that it does not switch itself off costs a kill, no more


def conversation(port, process, console, deadline, patience):
    allowed = BOOT_SECONDS * patience
    buffer, limit = b"", time.monotonic() + allowed
    while True:
        if not select.select([port], [], [], max(0, limit - time.monotonic()))[0]:
            raise Died(last_words(f"no word from the guest for {allowed:g} s", console))
        data = port.recv(1 << 16)
        if not data:
            with_deadline(process, 5)
            raise Died(last_words("the guest died", console))
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            event = json.loads(line)
            yield event
            if event["event"] == "bye":
                return
            allowed = deadline(event)
            limit = time.monotonic() + allowed


FATAL = re.compile(r"Kernel panic|BUG:|kernel BUG|Oops")
TROUBLE = re.compile(FATAL.pattern + r"|WARNING:")
OURS = re.compile(r"RIP: .*\[devmem")


def last_words(what, console, lines=60):
    """The console from the first sign of trouble (or its end), and one closing line that says what happened. A warning, which some tests
    provoke, is only taken for the trouble where nothing worse followed."""
    text = console.read_text(errors="replace").replace("\r", "").splitlines()
    sign = FATAL if any(FATAL.search(line) for line in text) else TROUBLE
    bad = [number for number, line in enumerate(text) if sign.search(line)]
    shown = text[bad[0]:bad[0] + lines] if bad else text[-lines:]
    said = [line for line in text if sign.search(line)]
    return "\n".join(["its console:", *shown, f"{what}: {said[0] if said else 'its console does not say why'}"])


def retry_worthwhile(console):
    """Whether a guest died of the emulator's fault, and in no module of ours."""
    text = console.read_text(errors="replace")
    first = FATAL.search(text)
    return first is not None and PATCHING_OOPS.match(text, first.start()) is not None and not OURS.search(text, first.start())
