# SPDX-License-Identifier: Apache-2.0
"""A trixie chroot with the compiler the kernels' headers want, and the building of kernel/*/ with it.

Kernel packages are unpacked (not installed) in the chroot: their headers refer to each other by absolute path.
"""
import os
import pathlib
import re
import shutil
import subprocess

from . import cache, fetch

SUITE = "trixie"
PACKAGES = ["gcc-14", "make", "bc", "binutils", "libc6-dev", "libelf1t64", "libelf-dev", "libssl3t64", "pahole", "kmod", "python3",
            "python3-yaml", "python3-jsonschema", "busybox-static", "xz-utils", "zstd"]
JOBS = int(os.environ.get("JOBS") or os.cpu_count() or 1)


def bootstrap(target, packages, log):
    """A Debian tree of SUITE at `target`, by debootstrap."""
    tool = cache.need_program("debootstrap", "debootstrap")
    cache.need_root("make a Debian tree with debootstrap")
    if not fetch.KEYRING.exists():
        raise cache.Missing(f"{fetch.KEYRING} is missing: apt-get install debian-archive-keyring")
    store = cache.folder() / "debootstrap"  # debootstrap's packages, shared by the trees made with it
    store.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    try:
        cache.run([tool, "--variant=minbase", f"--keyring={fetch.KEYRING}", f"--cache-dir={store}", f"--include={','.join(packages)}", SUITE,
                   target, fetch.mirror()], log, f"debootstrap of {SUITE}", 1800)
    except cache.Broken as e:
        text = log.read_text(errors="replace")
        if re.search(r"Failed getting release file|Couldn't download|Unable to (connect|resolve)", text):
            raise cache.Missing(f"{SUITE} could not be fetched from {fetch.mirror()} ({e})") from e
        raise


def chroot():
    """The toolchain's tree, made if need be."""
    tree = cache.folder() / f"toolchain-{cache.digest(SUITE, PACKAGES)}"
    if not tree.exists():
        cache.say(f"making the module toolchain, a {SUITE} tree (once)")
        with cache.building(tree) as made:
            bootstrap(made, PACKAGES, cache.folder() / "logs" / "toolchain.log")
    return cache.used(tree)


def unpack(tree, debs):
    """Adds packages' files to the tree, once each."""
    stamps = tree / ".unpacked"
    stamps.mkdir(exist_ok=True)
    for deb in debs:
        stamp = stamps / deb.name
        if stamp.exists():
            continue
        cache.need_root("unpack kernel packages")
        # /lib is a link in the tree: keep it one
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as source:
            subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", tree], stdin=source.stdout, check=True)
        if source.returncode != 0:
            raise cache.Broken(f"{deb} could not be unpacked: remove it, so that it is fetched again")
        stamp.touch()


def prepare(line):
    """The tree with one kernel's headers unpacked, and that kernel's release."""
    packages = fetch.kernel(line)
    tree = chroot()
    unpack(tree, packages["debs"])
    return tree, packages["release"]


IN_CHROOT = 'mount -t proc proc "$1/proc" && mount --bind "$2" "$1/mnt" && cd / && tree=$1 && shift 2 && exec chroot "$tree" /usr/bin/env -i ' \
            'PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"'


def inside(tree, folder, command):
    """The command that runs `command` in the tree with `folder` at its /mnt; mounts vanish with the process."""
    cache.need_root("compile in a chroot")
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", IN_CHROOT, "sh", tree, folder, *command]


def sources(kernel_folder):
    """Folders of kernel/ that hold a module."""
    return sorted(path.parent for path in kernel_folder.glob("*/Kbuild"))


def mirror_sources(source, work):
    """Copies what changed, so that make rebuilds just that; removes what is gone."""
    kept = set()
    for path in sorted(source.rglob("*")):
        inner = path.relative_to(source)
        if path.is_dir() or path.name.endswith((".o", ".ko", ".mod", ".mod.c", ".cmd")):
            continue
        kept.add(inner)
        copy = work / inner
        if not copy.exists() or copy.stat().st_mtime_ns != path.stat().st_mtime_ns or copy.stat().st_size != path.stat().st_size:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    for copy in work.rglob("*.[chS]"):
        if copy.relative_to(work) not in kept and not copy.name.endswith(".mod.c"):
            copy.unlink()


def build_modules(line, kernel_folder, build_folder, check=False, show=False):
    """Builds every module of kernel/ for one kernel; returns the .ko files. With `check`, sparse over every file of them."""
    tree, release = prepare(line)
    if check:
        unpack(tree, fetch.package("sid", "sparse"))  # trixie's is too old for 7.3's headers
        # newer makefiles ask this script, which Debian's packages lack
        valid = tree / f"usr/lib/linux-kbuild-{release.split('-')[0]}/scripts/checker-valid.sh"
        if not valid.exists():
            valid.write_text("#!/bin/sh\necho 1\n", encoding="ascii")
            valid.chmod(0o755)
    made = []
    for source in sources(kernel_folder):
        work = build_folder / release / source.name
        work.mkdir(parents=True, exist_ok=True)
        with cache.lock(build_folder / f".{release}-{source.name}.lock"):
            mirror_sources(source, work)
            command = ["make", "-C", f"/usr/src/linux-headers-{release}", "M=/mnt", "CC=gcc-14", f"-j{JOBS}"]
            command += ["C=2", "CHECK=sparse", "CF=-D__CHECK_ENDIAN__"] if check else []
            done = subprocess.run(list(map(str, inside(tree, work, [*command, "modules"]))), stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, errors="replace", timeout=900, check=False)
            (work / "make.log").write_text(done.stdout + done.stderr, encoding="utf-8")
            output = (done.stdout + done.stderr).replace("/mnt/", f"{os.path.relpath(source)}/")
            warned = re.search(r"(warning|error):", output)
            if show or done.returncode != 0 or warned:
                print(output.rstrip(), flush=True)
            if done.returncode != 0:
                raise cache.Broken(f"kernel/{source.name} does not build for {release} (above)")
            if check and warned:
                raise cache.Broken(f"sparse complains about kernel/{source.name} on {release} (above)")
            made += [pathlib.Path(path) for path in work.glob("*.ko")]
    return made
