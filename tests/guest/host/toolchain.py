# SPDX-License-Identifier: Apache-2.0
"""A trixie chroot with the compiler the kernels' headers want, and how to run things in it.

Kernel packages are unpacked (not installed) in the chroot: their headers refer to each other by absolute path.
"""
import os
import re
import subprocess

from . import cache, fetch

SUITE = "trixie"
PACKAGES = ["gcc-14", "make", "bc", "binutils", "libc6-dev", "libelf1t64", "libelf-dev", "libssl3t64", "pahole", "kmod", "python3",
            "python3-yaml", "python3-jsonschema", "busybox-static", "xz-utils", "zstd"]
JOBS = int(os.environ.get("JOBS") or os.cpu_count() or 1)


def bootstrap(target, packages, log, suite=SUITE):
    """A Debian tree of a suite at `target`, by debootstrap."""
    tool = cache.need_program("debootstrap", "debootstrap")
    cache.need_root("make a Debian tree with debootstrap")
    if not fetch.KEYRING.exists():
        raise cache.Missing(f"{fetch.KEYRING} is missing: apt-get install debian-archive-keyring")
    store = cache.folder() / "debootstrap"  # debootstrap's packages, shared by the trees made with it
    store.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    try:
        cache.run([tool, "--variant=minbase", f"--keyring={fetch.KEYRING}", f"--cache-dir={store}", *([f"--include={','.join(packages)}"] if packages else []), suite,
                   target, fetch.mirror()], log, f"debootstrap of {suite}", 1800)
    except cache.Broken as e:
        text = log.read_text(errors="replace")
        if re.search(r"Failed getting release file|Couldn't download|Unable to (connect|resolve)", text):
            raise cache.Missing(f"{suite} could not be fetched from {fetch.mirror()} ({e})") from e
        raise


def chroot():
    """The toolchain's tree, made if need be."""
    tree = cache.folder() / f"toolchain-{cache.digest(SUITE, PACKAGES)}"
    if not tree.exists():
        cache.say(f"making the module toolchain, a {SUITE} tree (once)")
        with cache.building(tree) as made:
            bootstrap(made, PACKAGES, cache.folder() / "logs" / "toolchain.log")
    return cache.used(tree)


def unpack(tree, packages):
    """Adds packages' files (.deb, or .tar as host/debug_kernel.py makes one) to the tree, once each."""
    stamps = tree / ".unpacked"
    stamps.mkdir(exist_ok=True)
    for package in packages:
        stamp = stamps / package.name
        if stamp.exists():
            continue
        cache.need_root("unpack kernel packages")
        # /lib is a link in the tree: keep it one
        read = ["cat"] if package.suffix == ".tar" else ["dpkg-deb", "--fsys-tarfile"]
        with subprocess.Popen([*read, package], stdout=subprocess.PIPE) as source:
            subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", tree], stdin=source.stdout, check=True)
        if source.returncode != 0:
            raise cache.Broken(f"{package} could not be unpacked: remove it, so that it is fetched or made again")
        stamp.touch()


IN_CHROOT = 'mount -t proc proc "$1/proc" && mount --bind "$2" "$1/mnt" && cd / && tree=$1 && shift 2 && exec chroot "$tree" /usr/bin/env -i ' \
            'PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"'


def inside(tree, folder, command):
    """The command that runs `command` in the tree with `folder` at its /mnt; mounts vanish with the process."""
    cache.need_root("compile in a chroot")
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", IN_CHROOT, "sh", tree, folder, *command]
