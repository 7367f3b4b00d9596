# SPDX-License-Identifier: Apache-2.0
"""What a guest boots from, as read-only images so that no loop mount is needed to make them:

  root      a trixie tree with Python, ethtool, ip ... and upstream's tree at /opt/linux (cached; one for all kernels)
  modules   one kernel's modules (cached)
  initrd    loads the block, squashfs and overlay modules, lays a tmpfs over the root, mounts the others in it (cached)
  payload   what changes: our modules with their netlink specifications, tests/guest, seccomp profiles, our programs, and what to run (made for each boot)
"""
import json
import lzma
import os
import pathlib
import re
import shutil
import stat
import subprocess

from . import cache, kernels, toolchain, upstream

PACKAGES = ["python3", "python3-yaml", "ethtool", "iproute2", "iputils-ping", "socat", "iperf3", "kmod", "busybox-static", "procps",
            "libmnl0", "netcat-openbsd", "bpftool", "util-linux", "nginx"]
EARLY_MODULES = ["virtio_blk", "squashfs", "overlay"]
# Big blocks and no compression: the guest's CPU is emulated, the host's page cache is not.
SQUASHFS = ["-noappend", "-quiet", "-no-progress", "-no-xattrs", "-noI", "-noD", "-noF", "-noX", "-all-root", "-b", "131072"]

# yaml.load of x.yaml takes x.json when there is one: upstream's ynl parses specifications that take seconds under emulation.
YAML_SHORTCUT = '''

_slow_load = load


def load(stream, Loader):
    name = getattr(stream, "name", None)
    if isinstance(name, str) and name.endswith(".yaml"):
        import json
        try:
            with open(name[:-5] + ".json", encoding="utf-8") as ready:
                return json.load(ready)
        except FileNotFoundError:
            pass
    return _slow_load(stream, Loader)
'''

INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for m in %s; do $b insmod /modules/$m.ko; done
$b mount -t squashfs -o ro /dev/vda /lower
$b mount -t tmpfs -o size=50%% tmpfs /upper
$b mkdir /upper/upper /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work overlay /root
$b mount -t squashfs -o ro /dev/vdb /root/usr/lib/modules
$b mount -t squashfs -o ro /dev/vdc /root/payload
for d in dev proc sys; do $b mount --move /$d /root/$d; done
exec $b switch_root /root /payload/lib/guest/init
"""


def squash(folder, target, log):
    tool = cache.need_program("mksquashfs", "squashfs-tools")
    cache.run([tool, folder, target, *SQUASHFS], log, f"making {target.name}", 600)


def root():
    """The root image."""
    linux = upstream.tree()
    path = cache.folder() / f"root-{cache.digest(toolchain.SUITE, PACKAGES, linux.name, YAML_SHORTCUT, SQUASHFS)}.squashfs"
    if path.exists():
        return cache.used(path)
    cache.need_root("make the guest's root image")
    cache.say("making the guest's root image (once)")
    log = cache.folder() / "logs" / "root.log"
    with cache.building(path) as made:
        tree = made.parent / "tree"
        toolchain.bootstrap(tree, PACKAGES, log)
        shutil.copytree(linux, tree / "opt/linux", symlinks=True)
        shutil.move(tree / "opt/linux/liburing.so.2", tree / "usr/lib/x86_64-linux-gnu/liburing.so.2")
        yaml = tree / "usr/lib/python3/dist-packages/yaml/__init__.py"
        yaml.write_text(yaml.read_text(encoding="utf-8") + YAML_SHORTCUT, encoding="utf-8")
        cache.run(["chroot", tree, "/usr/bin/python3", "-m", "compileall", "-q", "/usr/lib/python3/dist-packages/yaml"], log, "compiling yaml", 60)
        for name in ("payload", "usr/lib/modules", "run/netns"):
            (tree / name).mkdir(parents=True, exist_ok=True)
        for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
            shutil.rmtree(tree / waste, ignore_errors=True)
        squash(tree, made, log)
    return path


def kernel(line):
    """One kernel: {"line", "release", "vmlinuz", "modules", "initrd"}, the last three as files in the cache."""
    packages = kernels.packages(line)
    release = packages["release"]
    folder = cache.folder() / f"kernel-{line}-{cache.digest([deb.name for deb in packages['debs']], EARLY_MODULES, INIT, SQUASHFS)}"
    if not folder.exists():
        tree, _ = kernels.prepare(line)
        cache.say(f"making the images of kernel {release} (once)")
        log = cache.folder() / "logs" / f"kernel-{line}.log"
        with cache.building(folder) as made:
            made.mkdir()
            places = [tree / f"boot/vmlinuz-{release}", tree / f"usr/lib/modules/{release}/vmlinuz"]
            found = [path for path in places if path.exists()]
            if not found:
                raise cache.Broken(f"the packages of kernel {release} hold no vmlinuz")
            shutil.copy(found[0], made / "vmlinuz")
            inflated = made.parent / "modules"
            inflate_modules(tree / "usr/lib/modules" / release, inflated / "lib/modules" / release)
            cache.run(toolchain.inside(tree, inflated, ["depmod", "-b", "/mnt", release]), log, f"depmod for {release}", 120)
            squash(inflated / "lib/modules", made / "modules.squashfs", log)
            with open(made / "initrd", "wb") as out:
                out.write(initrd(tree / "usr/bin/busybox", inflated / "lib/modules" / release))
    cache.used(folder)
    return {"line": line, "release": release, "vmlinuz": folder / "vmlinuz", "modules": folder / "modules.squashfs",
            "initrd": folder / "initrd"}


def inflate_modules(source, target):
    """Copies a kernel's modules, decompressed: the emulated CPU would take its time over each."""
    for path in source.rglob("*"):
        if not path.is_file() or path.is_symlink() or path.name == "vmlinuz":
            continue
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(".ko.xz"):
            copy.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        else:
            shutil.copy2(path, copy)


def with_dependencies(modules, names):
    """Files of the named modules and all they need, in the order to load them."""
    needs = {}
    for line in (modules / "modules.dep").read_text(encoding="ascii").splitlines():
        path, _, rest = line.partition(":")
        needs[pathlib.Path(path).name.removesuffix(".ko").replace("-", "_")] = [modules / path, *[modules / word for word in rest.split()]]
    builtin = (modules / "modules.builtin").read_text(encoding="ascii")
    order = []
    for name in names:
        if re.search(rf"/{name}\.ko$", builtin, re.M):
            continue
        if name not in needs:
            raise cache.Broken(f"kernel {modules.name} has no module {name}, which the guest needs to start")
        order += [path for path in reversed(needs[name]) if path not in order]
    return order


def initrd(busybox, modules):
    """The initial root as a cpio archive."""
    order = with_dependencies(modules, EARLY_MODULES)
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "proc", "sys", "lower", "upper", "root", "modules")]
    entries += [("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()),
                ("init", stat.S_IFREG | 0o755, (INIT % " ".join(path.stem for path in order)).encode())]
    entries += [(f"modules/{path.name}", stat.S_IFREG | 0o644, path.read_bytes()) for path in order]
    return cpio(entries)


def cpio(entries):
    """A newc archive of (name, mode, content)."""
    out = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + content
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def payload(target, tests, modules, specs, programs, job):
    """What changes between boots: `tests` (tests/guest), module files, specifications, our programs, and the job (JSON-able)."""
    with cache.building(target) as made:
        tree = made.parent / "tree"
        for name in ("lib", *{test["suite"] for test in job["tests"]}):
            shutil.copytree(tests / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(tests.parents[1] / "deploy/kubernetes/seccomp", tree / "seccomp")
        for name, files in (("modules", modules), ("specs", specs)):
            (tree / name).mkdir()
            for path in files:
                shutil.copy2(path, tree / name / path.name)
        if programs:
            host_programs(programs, tree / "host")
        (tree / "job.json").write_text(json.dumps(job), encoding="utf-8")
        os.chmod(tree / "lib/guest/init", 0o755)
        squash(tree, made, target.with_suffix(".log"))


def host_programs(programs, target):
    """Our programs with the libraries they were linked against: the guest's are another release's (guest.program runs them)."""
    (target / "bin").mkdir(parents=True)
    (target / "lib").mkdir()
    for program in programs:
        shutil.copy2(program, target / "bin" / program.name)
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for path in re.findall(r"(/\S+) \(0x", listed):
            if not (target / "lib" / pathlib.Path(path).name).exists():
                shutil.copy2(path, target / "lib" / pathlib.Path(path).name)
